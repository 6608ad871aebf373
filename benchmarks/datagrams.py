"""Datagrams: one way as fast as they go, and back and forth.

One way nothing pushes back, so some are lost. A figure counts those that the receiving program got while the sender sent: it is
asked for them afterwards, until it answers.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

from benchmarks.workloads import Ready
from tieline import UDP, NetworkConnection, NetworkListener

BATCH = 64  # datagrams that a program has at hand at once
QUESTION = b"?"  # how many came?


# Tieline


async def tieline_datagram_echo(tls: bool, ready: Ready) -> None:
    async def echo(connection: NetworkConnection[UDP]) -> None:
        async for content, _ in connection:
            await connection.send(content)

    async with NetworkListener(UDP(), on="127.0.0.1:0").serving(echo) as listener:
        ready(listener.port)
        await asyncio.Event().wait()


async def tieline_datagram_sink(tls: bool, ready: Ready) -> None:
    async def swallow(connection: NetworkConnection[UDP]) -> None:
        count = 0
        while True:
            messages = await connection.receive_many(at_most=1024)
            count += len(messages)
            if messages[-1].content == QUESTION:
                count -= sum(content == QUESTION for content, _ in messages)
                await connection.send(count.to_bytes(8, "big"))

    async with NetworkListener(UDP(), on="127.0.0.1:0").serving(swallow) as listener:
        ready(listener.port)
        await asyncio.Event().wait()


async def tieline_datagram_ping(tls: bool, port: int, size: int, count: int) -> float:
    message = bytes(size)
    async with NetworkConnection(("127.0.0.1", port), UDP()) as connection:
        await connection.ready()
        begun = time.perf_counter()
        for _ in range(count):
            await connection.send(message)
            await connection.receive()
        return count / (time.perf_counter() - begun)


async def tieline_datagram_pour(tls: bool, port: int, size: int, count: int) -> float:
    batch = [bytes(size)] * BATCH
    async with NetworkConnection(("127.0.0.1", port), UDP()) as connection:
        await connection.ready()
        begun = time.perf_counter()
        for _ in range(count // BATCH):
            await connection.send_many(batch)
        taken = time.perf_counter() - begun

        async def ask() -> bytes:
            await connection.send(QUESTION)
            return (await connection.receive()).content

        return int.from_bytes(await answer(ask), "big") / taken


async def answer(ask: Any) -> bytes:
    """What the receiving program says when it is asked; a question may be lost like everything else."""
    for _ in range(50):
        await asyncio.sleep(0.1)  # what is still on its way comes first
        try:
            async with asyncio.timeout(1):
                return await ask()
        except TimeoutError:
            continue
    raise RuntimeError("the receiving program does not answer")


# asyncio


class DatagramEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self._transport.sendto(data, address)


class DatagramSink(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._count = 0

    def datagram_received(self, data: bytes, address: Any) -> None:
        if data == QUESTION:
            self._transport.sendto(self._count.to_bytes(8, "big"), address)
        else:
            self._count += 1


class DatagramClient(asyncio.DatagramProtocol):
    """Completes a future for what comes, which is how a program awaits a datagram."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, address: Any) -> None:
        if not self.arrived.done():
            self.arrived.set_result(data)

    async def ask(self, data: bytes) -> bytes:
        self.arrived = asyncio.get_running_loop().create_future()
        self.transport.sendto(data)
        return await self.arrived


async def datagrams_serve(protocol: type[asyncio.DatagramProtocol], ready: Ready) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(protocol, local_addr=("127.0.0.1", 0))
    try:
        ready(transport.get_extra_info("sockname")[1])
        await asyncio.Event().wait()
    finally:
        transport.close()


async def datagrams_echo(tls: bool, ready: Ready) -> None:
    await datagrams_serve(DatagramEcho, ready)


async def datagrams_sink(tls: bool, ready: Ready) -> None:
    await datagrams_serve(DatagramSink, ready)


async def datagrams_client(port: int) -> DatagramClient:
    loop = asyncio.get_running_loop()
    _, client = await loop.create_datagram_endpoint(DatagramClient, remote_addr=("127.0.0.1", port))
    return client


async def datagrams_ping(tls: bool, port: int, size: int, count: int) -> float:
    message = bytes(size)
    client = await datagrams_client(port)
    begun = time.perf_counter()
    for _ in range(count):
        await client.ask(message)
    speed = count / (time.perf_counter() - begun)
    client.transport.close()
    return speed


async def datagrams_pour(tls: bool, port: int, size: int, count: int) -> float:
    message = bytes(size)
    client = await datagrams_client(port)
    begun = time.perf_counter()
    for _ in range(count // BATCH):
        for _ in range(BATCH):
            client.transport.sendto(message)
        await asyncio.sleep(0)
    taken = time.perf_counter() - begun
    arrived = int.from_bytes(await answer(lambda: client.ask(QUESTION)), "big")
    client.transport.close()
    return arrived / taken


# Blocking sockets


async def blocking_datagram_echo(tls: bool, ready: Ready) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        here.bind(("127.0.0.1", 0))
        ready(here.getsockname()[1])
        while True:
            here.sendto(*here.recvfrom(65535))


async def blocking_datagram_ping(tls: bool, port: int, size: int, count: int) -> float:
    message = bytes(size)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        here.connect(("127.0.0.1", port))
        begun = time.perf_counter()
        for _ in range(count):
            here.send(message)
            here.recv(65535)
        return count / (time.perf_counter() - begun)


async def blocking_datagram_sink(tls: bool, ready: Ready) -> None:
    """With GRO: the kernel hands over what it has of one sender at once."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        here.setsockopt(SOL_UDP, UDP_GRO, 1)
        here.bind(("127.0.0.1", 0))
        ready(here.getsockname()[1])
        count = 0
        buffer = bytearray(65535)
        view = memoryview(buffer)
        while True:
            size, ancillary, _, remote = here.recvmsg_into([buffer], 64)
            if view[:size] == QUESTION:
                here.sendto(count.to_bytes(8, "big"), remote)
                continue
            segment = int.from_bytes(ancillary[0][2][:4], "little") if ancillary else size
            count += len([bytes(view[start : start + segment]) for start in range(0, size, segment)])


async def blocking_datagram_pour(tls: bool, port: int, size: int, count: int) -> float:
    """With GSO: the kernel takes many at once."""
    segments = min(BATCH, 65507 // size)
    data = bytes(size * segments)
    ancillary = [(SOL_UDP, UDP_SEGMENT, size.to_bytes(2, "little"))]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        here.connect(("127.0.0.1", port))
        begun = time.perf_counter()
        for _ in range(count // segments):
            here.sendmsg([data], ancillary)
        taken = time.perf_counter() - begun
        here.settimeout(1)

        async def ask() -> bytes:
            here.send(QUESTION)
            return here.recv(64)

        return int.from_bytes(await answer(ask), "big") / taken


SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104  # linux/udp.h
