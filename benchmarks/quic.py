"""The work over QUIC, for Tieline and for aioquic and qh3, which have one interface. Written as their documentation advises.

Beside bulk runs what Tieline's engine does without Python (`rust/engine/examples/quic_bulk.rs`).
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.workloads import Client, Ready, Server
from tieline import QUIC, NetworkConnection, NetworkListener, Parameters, UInt64
from tieline.testing import CertificateAuthority, certificates

ALPN = "benchmark"
STREAMS = 50  # that requests are spread over
IN_FLIGHT = 32  # datagrams
LARGEST_DATAGRAM = 65_535
IDLE = 600.0  # seconds: nothing of this is about idling
LIBRARIES = ("aioquic", "qh3")


@cache
def authority() -> CertificateAuthority:
    """Made before the processes part."""
    made = certificates(key="ecdsa")
    made.identity("localhost")
    return made


@cache
def identity() -> Any:
    return authority().identity("localhost")


# Tieline


@cache
def options(*, server: bool) -> Parameters[QUIC]:
    """Made once and used for every connection, as the others' configuration is."""
    shared: dict[str, Any] = {"alpn": [ALPN], "max_datagram_frame_size": LARGEST_DATAGRAM, "idle_timeout": IDLE, "tickets": False}
    if server:
        return Parameters(QUIC(identity=identity(), **shared))
    return Parameters(QUIC(trust=authority().trust, server_name="localhost", **shared))


async def serve(handle: Callable[[NetworkConnection[QUIC]], Awaitable[object]], ready: Ready) -> None:
    async with NetworkListener(options(server=True), on="127.0.0.1:0").serving(handle) as listener:
        ready(listener.port)
        await asyncio.Event().wait()


async def answer_stream(stream: Any) -> None:
    content = bytearray()
    async for piece, _ in stream:
        content += piece
    await stream.send(content, end_of_stream=True)


async def echo_stream(stream: Any) -> None:
    async for content, _ in stream:
        await stream.send(content)


async def swallow_stream(stream: Any) -> None:
    count = 0
    async for content, _ in stream:
        count += len(content)
    await stream.send(UInt64(count))


async def tieline_serve(kind: str, ready: Ready) -> None:
    async def handle(connection: NetworkConnection[QUIC]) -> None:
        if kind == "datagrams":
            channel = await connection.datagrams()
            while True:
                await channel.send_many([content for content, _ in await channel.receive_many()])
        else:
            handlers = {"bulk": swallow_stream, "streams": answer_stream}
            await connection.inbound_streams(handlers.get(kind, echo_stream))

    await serve(handle, ready)


def connect(port: int) -> NetworkConnection[QUIC]:
    return NetworkConnection(("127.0.0.1", port), options(server=False))


async def tieline_bulk(port: int, size: int, count: int) -> float:
    piece = bytes(size)
    async with connect(port) as connection:
        stream = await connection.open_stream()
        begun = time.perf_counter()
        for _ in range(count):
            await stream.send(piece)
        await stream.send(b"", end_of_stream=True)
        arrived = (await stream.receive(as_=UInt64)).content
        assert arrived == size * count
        return arrived / 1e6 / (time.perf_counter() - begun)


async def tieline_requests(port: int, size: int, count: int) -> float:
    message = bytes(size)

    async def ask(stream: Any) -> None:
        for _ in range(count // STREAMS):
            await stream.send(message)
            await stream.receive(exactly=size)

    async with connect(port) as connection:
        streams = [await connection.open_stream() for _ in range(STREAMS)]
        begun = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for stream in streams:
                tasks.create_task(ask(stream))
        return count / (time.perf_counter() - begun)


async def tieline_streams(port: int, size: int, count: int) -> float:
    message = bytes(size)

    async def ask(connection: NetworkConnection[QUIC]) -> None:
        for _ in range(count // STREAMS):
            stream = await connection.open_stream()
            await stream.send(message, end_of_stream=True)
            answer = 0
            async for content, _ in stream:
                answer += len(content)
            assert answer == size

    async with connect(port) as connection:
        await connection.ready()
        begun = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(STREAMS):
                tasks.create_task(ask(connection))
        return count / (time.perf_counter() - begun)


async def tieline_handshakes(port: int, size: int, count: int) -> float:
    taken = 0.0
    for _ in range(count):
        begun = time.perf_counter()
        async with connect(port) as connection:
            await connection.ready()
            taken += time.perf_counter() - begun  # the close is another matter: the others wait for it to be forgotten
    return count / taken


async def tieline_datagrams(port: int, size: int, count: int) -> float:
    message = bytes(size)
    async with connect(port) as connection:
        channel = await connection.datagrams()
        begun = time.perf_counter()
        await channel.send_many([message] * IN_FLIGHT)
        arrived = 0
        while arrived < count:
            answers = await channel.receive_many()
            arrived += len(answers)
            await channel.send_many([message] * len(answers))
        return arrived / (time.perf_counter() - begun)


# Tieline's engine alone


async def engine_program(*arguments: object) -> asyncio.subprocess.Process:
    """It ends when its standard input does, so with this process."""
    root = Path(__file__).parents[1]
    build = ("cargo", "build", "--release", "--locked", "--quiet", "--example", "quic_bulk")
    assert await (await asyncio.create_subprocess_exec(*build, cwd=root)).wait() == 0
    program = root / "target/release/examples/quic_bulk"
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(program, *map(str, arguments), stdin=pipe, stdout=pipe)


async def engine_serve(ready: Ready) -> None:
    process = await engine_program("serve")
    assert process.stdout is not None
    ready(int(await process.stdout.readline()))
    await process.wait()


async def engine_bulk(port: int, size: int, count: int) -> float:
    process = await engine_program("send", port, size, count)
    assert process.stdout is not None
    figure = float(await process.stdout.readline())
    await process.wait()
    return figure


# aioquic and qh3


def configuration(library: str, *, is_client: bool) -> Any:
    made = importlib.import_module(f"{library}.quic.configuration").QuicConfiguration(
        is_client=is_client, alpn_protocols=[ALPN], max_datagram_frame_size=LARGEST_DATAGRAM, idle_timeout=IDLE
    )
    certificate, key = identity().pem()
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("chain", certificate), ("key", key), ("root", authority().pem)):
            Path(folder, name).write_text(text)
        if is_client:
            made.server_name = "localhost"
            made.verify_mode = ssl.CERT_REQUIRED
            made.load_verify_locations(cadata=authority().pem.encode())
        else:
            made.load_cert_chain(Path(folder, "chain"), Path(folder, "key"))
    return made


def protocol(library: str) -> Any:
    """Answers each datagram on the server's side, and hands it to whoever waits on the client's."""
    events = importlib.import_module(f"{library}.quic.events")
    base: Any = importlib.import_module(f"{library}.asyncio").QuicConnectionProtocol

    class Protocol(base):  # type: ignore[misc]
        wanted = -1  # answers, on the client's side
        enough: asyncio.Future[None]

        def quic_event_received(self, event: Any) -> None:
            super().quic_event_received(event)
            if isinstance(event, events.DatagramFrameReceived):
                self.wanted -= 1
                if self.wanted == 0:
                    self.enough.set_result(None)
                self._quic.send_datagram_frame(event.data)
                self._transmit_soon()

        async def exchange(self, data: bytes, count: int) -> None:
            self.wanted, self.enough = count, asyncio.get_running_loop().create_future()
            for _ in range(IN_FLIGHT):
                self._quic.send_datagram_frame(data)
            self.transmit()
            await self.enough

    return Protocol


async def library_serve(library: str, kind: str, ready: Ready) -> None:
    tasks: set[asyncio.Task[None]] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while content := await reader.read(65536):
            writer.write(content)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        writer.write_eof()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count = 0
        while content := await reader.read(262144):
            count += len(content)
        writer.write(count.to_bytes(8, "big"))

    def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task({"bulk": swallow, "streams": answer}.get(kind, echo)(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await importlib.import_module(f"{library}.asyncio").serve(
        "127.0.0.1",
        0,
        configuration=configuration(library, is_client=False),
        create_protocol=protocol(library),
        stream_handler=handle,
    )
    ready(server._transport.get_extra_info("sockname")[1])
    await asyncio.Event().wait()


def library_connect(library: str, port: int, settings: Any = None) -> Any:
    settings = settings or configuration(library, is_client=True)
    return importlib.import_module(f"{library}.asyncio").connect(
        "127.0.0.1", port, configuration=settings, create_protocol=protocol(library)
    )


async def library_bulk(library: str, port: int, size: int, count: int) -> float:
    piece = bytes(size)
    async with library_connect(library, port) as client:
        reader, writer = await client.create_stream()
        begun = time.perf_counter()
        for _ in range(count):
            writer.write(piece)  # there is no drain: these writers keep everything
        writer.write_eof()
        arrived = int.from_bytes(await reader.readexactly(8), "big")
        assert arrived == size * count
        return arrived / 1e6 / (time.perf_counter() - begun)


async def library_requests(library: str, port: int, size: int, count: int) -> float:
    message = bytes(size)

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(count // STREAMS):
            if number:  # the first has been sent
                writer.write(message)
            await reader.readexactly(size)

    async with library_connect(library, port) as client:
        begun = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(STREAMS):
                reader, writer = await client.create_stream()
                writer.write(message)  # only that gives the stream its number
                tasks.create_task(ask(reader, writer))
        return count / (time.perf_counter() - begun)


async def library_streams(library: str, port: int, size: int, count: int) -> float:
    message = bytes(size)

    async def ask(client: Any) -> None:
        for _ in range(count // STREAMS):
            reader, writer = await client.create_stream()
            writer.write(message)
            writer.write_eof()
            assert len(await reader.read()) == size

    async with library_connect(library, port) as client:
        begun = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(STREAMS):
                tasks.create_task(ask(client))
        return count / (time.perf_counter() - begun)


async def library_handshakes(library: str, port: int, size: int, count: int) -> float:
    taken = 0.0
    settings = configuration(library, is_client=True)
    for _ in range(count):
        begun = time.perf_counter()
        async with library_connect(library, port, settings) as client:
            await client.wait_connected()
            taken += time.perf_counter() - begun
    return count / taken


async def library_datagrams(library: str, port: int, size: int, count: int) -> float:
    message = bytes(size)
    async with library_connect(library, port) as client:
        begun = time.perf_counter()
        await client.exchange(message, count)
        return count / (time.perf_counter() - begun)


# Memory


def resident() -> int:
    """Bytes that this process has in memory (proc(5))."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def memory(library: str, port: int, size: int, count: int) -> float:
    """What an idle connection costs, both of its ends: they are in this process, and the server that was started is not used."""
    listening = asyncio.get_running_loop().create_future()
    serve_here = tieline_serve if library == "tieline" else partial(library_serve, library)
    server = asyncio.create_task(serve_here("memory", listening.set_result))
    port = await listening
    settings = None if library == "tieline" else configuration(library, is_client=True)

    async def hold(connections: AsyncExitStack) -> None:
        if library == "tieline":
            await (await connections.enter_async_context(connect(port))).ready()
        else:
            client = await connections.enter_async_context(library_connect(library, port, settings))
            await client.wait_connected()

    async with AsyncExitStack() as connections:
        await hold(connections)  # what all share
        before = resident()
        for _ in range(count):
            await hold(connections)
        figure = (resident() - before) / 1e3 / count
    server.cancel()
    return figure


Programs = dict[str, tuple[Server, Client]]


def programs(kind: str) -> Programs:
    """The two programs of each library for one kind of work."""
    ours: Any = {
        "bulk": tieline_bulk,
        "requests": tieline_requests,
        "streams": tieline_streams,
        "handshakes": tieline_handshakes,
        "datagrams": tieline_datagrams,
        "memory": partial(memory, "tieline"),
    }[kind]
    theirs: Any = {
        "bulk": library_bulk,
        "requests": library_requests,
        "streams": library_streams,
        "handshakes": library_handshakes,
        "datagrams": library_datagrams,
        "memory": memory,
    }[kind]
    found: Programs = {"tieline": (partial(untold, partial(tieline_serve, kind)), partial(untold, ours))}
    if kind == "bulk":
        found["engine"] = (partial(untold, engine_serve), partial(untold, engine_bulk))
    for library in LIBRARIES:
        found[library] = (partial(untold, partial(library_serve, library, kind)), partial(untold, partial(theirs, library)))
    return found


def untold(program: Any, tls: bool, *arguments: Any) -> Any:
    """QUIC has TLS always."""
    return program(*arguments)
