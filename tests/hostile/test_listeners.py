"""Clients that mean no good: the listener outlives them, and serves the others meanwhile."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from tests.authority import LOCALHOST, TRUST
from tests.peers import Peer

from tieline import TLS, UDP, HostPort, NetworkConnection, NetworkListener, Parameters
from tieline._engine import tls as engine

SERVER = TLS(identity=LOCALHOST, handshake_timeout=0.5)
CLIENT = TLS(server_name="localhost", trust=TRUST)


async def echo(connection: NetworkConnection[TLS]) -> None:
    async for content, _ in connection:
        await connection.send(content)


@asynccontextmanager
async def echoing(**options: int) -> AsyncIterator[NetworkListener[TLS]]:
    async with NetworkListener(Parameters(SERVER, **options), on="127.0.0.1:0").serving(echo) as listener:  # type: ignore[arg-type]
        yield listener


async def is_served(endpoint: HostPort) -> None:
    async with NetworkConnection(endpoint, CLIENT) as connection:
        await connection.send(b"still there?", end_of_stream=True)
        assert (await connection.receive(exactly=12)).content == b"still there?"


async def say(endpoint: HostPort, data: bytes) -> None:
    with await Peer.connect(endpoint) as peer:
        await peer.send(data)
        assert await peer.gone() in ("end", "reset")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + bytes(70_000),  # a record larger than any may be
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",  # a message of 16 MiB, announced
        b"\x15\x03\x03\x00\x02\x02\x28",  # an alert for a start
        b"\x17\x03\x03\x00\x10" + bytes(16),  # application data before a handshake
        b"\x80\x2e\x01\x00\x02",  # SSL 2
        bytes(100_000),
    ],
    ids=["http", "oversized", "announced", "alert", "data", "ssl2", "flood"],
)
async def test_no_handshake(data: bytes) -> None:
    async with echoing() as listener:
        assert isinstance(listener.endpoint, HostPort)
        await say(listener.endpoint, data)
        await is_served(listener.endpoint)
        assert listener.failed_handshake_count == 1


async def test_random_bytes() -> None:
    chance = random.Random(5246)
    async with echoing() as listener:
        assert isinstance(listener.endpoint, HostPort)
        for _ in range(100):
            data = chance.randbytes(chance.randrange(1, 500))
            await say(listener.endpoint, b"\x16\x03\x01" + len(data).to_bytes(2, "big") + data)
        await is_served(listener.endpoint)


async def test_silent_clients_are_given_up() -> None:
    """As many as may shake hands at once, and one good client behind them: it is served when their time is over."""
    async with echoing(maximum_pending_handshakes=8) as listener:
        assert isinstance(listener.endpoint, HostPort)
        peers = [await Peer.connect(listener.endpoint) for _ in range(8)]
        try:
            await is_served(listener.endpoint)
            assert listener.failed_handshake_count == 8
            assert {await peer.gone() for peer in peers} == {"end"}
        finally:
            for peer in peers:
                peer.socket.close()


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_handshake_cut_at_every_step(how: str) -> None:
    config = engine.TlsConfig.client(alpn=[], trust="none")
    async with echoing() as listener:
        assert isinstance(listener.endpoint, HostPort)
        whole = len(engine.TlsEngine(config, "localhost").output())
        cuts = [0, 1, 4, 5, 6, whole // 2, whole - 1, whole]
        for cut in cuts:
            with await Peer.connect(listener.endpoint) as peer:
                client = engine.TlsEngine(config, "localhost")
                await peer.send(client.output()[:cut])
                if cut == whole:
                    await peer.receive()  # the server's flight: our Finished never comes
                if how == "reset":
                    peer.reset()
                else:
                    peer.end()
                    assert await peer.gone() in ("end", "reset")
        await is_served(listener.endpoint)
        assert listener.failed_handshake_count == len(cuts)


async def test_reset_right_after_the_handshake() -> None:
    config = engine.TlsConfig.client(alpn=[], trust="none")
    async with echoing() as listener:
        assert isinstance(listener.endpoint, HostPort)
        for _ in range(20):
            peer = await Peer.connect(listener.endpoint)
            client = engine.TlsEngine(config, "localhost")
            await peer.send(client.output())
            while client.handshaking:
                client.receive(await peer.receive())
            await peer.send(client.output())
            peer.reset()
        await is_served(listener.endpoint)


async def vanish(endpoint: HostPort) -> None:
    (await Peer.connect(endpoint)).reset()


async def babble(endpoint: HostPort) -> None:
    await say(endpoint, b"GET / HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("client", [vanish, babble])
async def test_a_thousand_leave_nothing_behind(client: Callable[[HostPort], Awaitable[None]]) -> None:
    async with echoing() as listener:
        endpoint = listener.endpoint
        assert isinstance(endpoint, HostPort)

        async def clients(count: int) -> int:
            for _ in range(count // 50):
                await asyncio.gather(*(client(endpoint) for _ in range(50)))
            await is_served(endpoint)  # behind all of them in the queue
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        await clients(100)
        tracemalloc.start()
        try:
            before = await clients(50)
            after = await clients(1000)
        finally:
            tracemalloc.stop()
        assert after - before < 200_000, "bytes kept of 1,000 clients"


async def test_datagrams_of_any_size_and_kind() -> None:
    seen: list[int] = []
    last = asyncio.Event()

    async def note(connection: NetworkConnection[UDP]) -> None:
        async for datagram, _ in connection.messages:
            seen.append(len(datagram))
            if datagram == b"last":
                last.set()

    chance = random.Random(768)
    sizes = [0, 1, 65507, 1472, *(chance.randrange(0, 3000) for _ in range(20))]
    async with NetworkListener(UDP(), on="127.0.0.1:0").serving(note) as listener:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", listener.port))
            for size in sizes:
                sock.send(chance.randbytes(size))
            sock.send(b"last")
            await asyncio.wait_for(last.wait(), 5)
    assert seen == [*sizes, 4]
