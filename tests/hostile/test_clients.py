"""Servers that mean no good, or mean nothing at all: each ends in the right error, within its timer, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import random
import time
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest
from tests.authority import LOCALHOST, TRUST
from tests.peers import Peer, conversing

from tieline import (
    TCP,
    TLS,
    ConnectError,
    HandshakeTimeoutError,
    HostPort,
    NetworkConnection,
    NetworkError,
    PeerResetError,
    State,
    TLSError,
)
from tieline._engine import tls as engine

TIMEOUT = 0.3  # seconds for a handshake
PATIENT = 5.0  # where another reason must come before the timer

CLIENT_HELLO = b"\x16\x03\x01"
OVERSIZED = b"\x16\x03\x03\x48\x01" + bytes(0x4801)  # RFC 8446 section 5.2: at most 2^14 + 256 bytes
PLAIN_HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


def client(timeout: float = PATIENT) -> TLS:
    return TLS(TCP(connection_timeout=timeout), server_name="localhost", trust=TRUST, handshake_timeout=timeout)


async def fails(server: Callable[[Peer], Awaitable[object]], timeout: float = PATIENT) -> tuple[NetworkError, State]:
    """What the client raises, and the state it then is in."""
    async with conversing(server) as endpoint:
        connection = NetworkConnection(endpoint, client(timeout))
        begun = time.monotonic()
        with pytest.raises(NetworkError) as raised:
            async with connection:
                try:
                    await connection.receive()
                finally:
                    state = connection.state
        assert time.monotonic() - begun < timeout + 2
        assert str(endpoint) in str(raised.value)
        return raised.value, state


def says(data: bytes) -> Callable[[Peer], Awaitable[object]]:
    async def converse(peer: Peer) -> None:
        await peer.receive()
        await peer.send(data)
        await peer.gone()

    return converse


@pytest.mark.parametrize(
    "data", [PLAIN_HTTP, b"SSH-2.0-OpenSSH_9.2p1\r\n", b"\x00" * 64, b"\xff" * 64], ids=["http", "ssh", "zeros", "ones"]
)
async def test_a_server_of_another_protocol(data: bytes) -> None:
    error, state = await fails(says(data))
    assert isinstance(error, TLSError)
    assert error.reason == "not_tls"
    assert error.attempts
    assert state is State.FAILED


async def test_oversized_record() -> None:
    error, _ = await fails(says(OVERSIZED))
    assert isinstance(error, TLSError)
    assert error.reason in ("record_too_large", "protocol_violation", "decrypt_error")


async def test_a_mirror() -> None:
    async def mirror(peer: Peer) -> None:
        while data := await peer.receive():
            await peer.send(data)

    error, _ = await fails(mirror)
    assert isinstance(error, TLSError)
    assert error.reason == "protocol_violation"


async def test_a_server_that_never_speaks() -> None:
    async def silent(peer: Peer) -> None:
        await peer.gone()

    error, state = await fails(silent, TIMEOUT)
    assert isinstance(error, ConnectError)
    assert isinstance(error, TimeoutError)
    assert isinstance(error.attempts[0].error, HandshakeTimeoutError)
    assert f"{TIMEOUT:g} s" in str(error)
    assert state is State.WAITING


async def test_a_server_that_dribbles() -> None:
    """The timer is for the whole handshake: a byte now and then does not extend it."""

    async def dribble(peer: Peer) -> None:
        flight = server_flight(await peer.receive())
        for byte in flight:
            await peer.send(bytes([byte]))
            await asyncio.sleep(0.02)

    error, _ = await fails(dribble, TIMEOUT)
    assert isinstance(error, TimeoutError)


def server_flight(hello: bytes) -> bytes:
    """What an honest server answers to a ClientHello."""
    config = engine.TlsConfig.server(
        alpn=[], certificate_chain=list(LOCALHOST.certificate_chain), private_key=LOCALHOST.private_key
    )
    server = engine.TlsEngine(config)
    server.receive(hello)
    return server.output()


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_handshake_cut_at_every_step(how: str) -> None:
    """After each record of the server's flight, in the middle of each, and before the first byte."""
    cuts: list[int] = []

    async def cut(peer: Peer) -> None:
        flight = server_flight(await peer.receive())
        if not cuts:
            cuts.extend(steps(flight))
        await peer.send(flight[: cuts.pop()])
        if how == "end":
            peer.end()
            await peer.gone()
        else:
            peer.reset()

    async with conversing(cut) as endpoint:
        while True:
            connection = NetworkConnection(endpoint, client())
            with pytest.raises(NetworkError) as raised:
                async with connection:
                    await connection.ready()
            assert isinstance(raised.value, (ConnectError, PeerResetError))
            assert isinstance(raised.value, ConnectionResetError)
            if not cuts:
                break


def steps(flight: bytes) -> list[int]:
    """Every boundary between records of a flight but the last, and the middle of every record."""
    found = [0]
    position = 0
    while position < len(flight):
        length = 5 + int.from_bytes(flight[position + 3 : position + 5], "big")
        found += [position + 3, position + length // 2]
        position += length
        if position < len(flight):
            found.append(position)
    return found


async def test_random_bytes_instead_of_a_handshake() -> None:
    chance = random.Random(8446)

    async def babble(peer: Peer) -> None:
        await peer.receive()
        data = chance.randbytes(chance.randrange(1, 400))
        await peer.send(data if chance.random() < 0.5 else b"\x16\x03\x03" + len(data).to_bytes(2, "big") + data)
        peer.end()
        await peer.gone()

    async with conversing(babble) as endpoint:
        for _ in range(100):
            with pytest.raises((TLSError, ConnectError)):
                async with NetworkConnection(endpoint, client(TIMEOUT)) as connection:
                    await connection.ready()


async def test_a_record_that_was_tampered_with() -> None:
    """What came before the bad record is delivered, then the error."""
    config = engine.TlsConfig.server(
        alpn=[], certificate_chain=list(LOCALHOST.certificate_chain), private_key=LOCALHOST.private_key
    )

    async def tamper(peer: Peer) -> None:
        server = engine.TlsEngine(config)
        while server.handshaking:
            server.receive(await peer.receive())
            await peer.send(server.output())
        good, bad = server.send(b"good"), bytearray(server.send(b"bad"))
        bad[-1] ^= 1
        await peer.send(good + bad)
        await peer.gone()

    async with conversing(tamper) as endpoint, NetworkConnection(endpoint, client()) as connection:
        assert (await connection.receive(exactly=4)).content == b"good"
        with pytest.raises(TLSError) as raised:
            await connection.receive()
        assert raised.value.reason == "decrypt_error"
        assert connection.state is State.FAILED


async def reset_at_once(peer: Peer) -> None:
    peer.reset()


async def end_at_once(peer: Peer) -> None:
    peer.end()
    await peer.gone()


@pytest.mark.parametrize("server", [says(PLAIN_HTTP), reset_at_once, end_at_once], ids=["http", "reset", "end"])
async def test_a_thousand_leave_nothing_behind(server: Callable[[Peer], Awaitable[object]]) -> None:
    async def attempt(endpoint: HostPort) -> None:
        with pytest.raises(NetworkError):
            async with NetworkConnection(endpoint, client()) as connection:
                await connection.receive()

    async def attempts(endpoint: HostPort, count: int) -> int:
        for _ in range(count // 50):
            await asyncio.gather(*(attempt(endpoint) for _ in range(50)))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    async with conversing(server) as endpoint:
        await attempts(endpoint, 100)
        tracemalloc.start()
        try:
            before = await attempts(endpoint, 50)
            after = await attempts(endpoint, 1000)
        finally:
            tracemalloc.stop()
        assert after - before < 200_000, "bytes kept of 1,000 connections"
        assert len(asyncio.all_tasks()) < 60
