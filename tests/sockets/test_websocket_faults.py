"""A WebSocket whose peer is no library: what breaks a rule, when it comes, and what is answered before the connection fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tieline import (
    CloseCode,
    ConnectionAbortedByPeerError,
    HostPort,
    NetworkConnection,
    NetworkError,
    NetworkListener,
    Parameters,
    ProtocolViolationError,
    State,
    WebSocket,
)

from ..peers import Peer, until

HANDSHAKE = (
    b"GET /chat HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

Connection = NetworkConnection[WebSocket]
Program = Callable[[Connection], Awaitable[None]]


async def echo(connection: Connection) -> None:
    async for content, _ in connection:
        await connection.send(content)


@asynccontextmanager
async def raw(
    program: Program = echo, *, connections: list[Connection] | None = None, close_timeout: float = 5, **options: Any
) -> AsyncIterator[tuple[Peer, asyncio.Future[Any]]]:
    """A client without a library, the handshake behind it, whose server echoes or runs another program; and how that ended."""
    ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def handler(connection: Connection) -> None:
        if connections is not None:
            connections.append(connection)
        try:
            await program(connection)
            ended.set_result(None)
        except NetworkError as error:
            ended.set_result(error)

    parameters = Parameters(WebSocket(**options), close_timeout=close_timeout)
    async with NetworkListener(parameters, on="127.0.0.1:0").serving(handler) as listener:
        with await Peer.connect(HostPort("127.0.0.1", listener.port)) as peer:
            await peer.send(HANDSHAKE)
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += await peer.receive()
            assert answer.startswith(b"HTTP/1.1 101 ")
            yield peer, ended


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (b"\x83\x80\0\0\0\0", 1002),
        (b"\x81\x01a", 1002),
        (b"\x81\x81\0\0\0\0\xff", 1007),
        (b"\x82\xff\0\0\0\1\0\0\0\0\0\0\0\0", 1009),
    ],
)
async def test_faults_are_answered_with_their_code(wire: bytes, code: int) -> None:
    async with raw() as (peer, ended):
        await peer.send(b"\x81\x82\0\0\0\0ok" + wire)
        expected = b"\x81\x02ok\x88"
        got = b""
        while piece := await peer.receive():
            got += piece
        assert got.startswith(expected) and got[6:8] == code.to_bytes(2, "big")
        error = await ended
        assert isinstance(error, ProtocolViolationError) and error.code == code


BROKEN = b"\xf1\x80\0\0\0\0"  # reserved bits


async def test_what_came_before_a_fault_is_answered_when_the_program_gets_to_it() -> None:
    connections: list[Connection] = []
    takes, answers = asyncio.Event(), asyncio.Event()

    async def program(connection: Connection) -> None:
        await takes.wait()
        first = await connection.receive()
        await answers.wait()
        await connection.send(first.content * 200_000)  # more than the kernel takes at once
        await echo(connection)

    async with raw(program, connections=connections) as (peer, ended):
        await peer.send(b"\x81\x82\0\0\0\0ok" + b"\x81\x83\0\0\0\0yes" + BROKEN)
        flow: Any = connections[0]._flow
        await until(lambda: len(flow.receiving.inbox) == 2)
        takes.set()
        await until(lambda: len(flow.receiving.inbox) == 1)
        assert connections[0].state is State.READY
        answers.set()
        got = await peer.receive_all()
        assert got[:14] == b"\x81\x7f" + (400_000).to_bytes(8, "big") + b"okok"
        assert got[400_010:400_015] == b"\x81\x03yes" and got[400_015] == 0x88 and got[400_017:400_019] == b"\x03\xea"
        error = await ended
        assert isinstance(error, ProtocolViolationError) and error.code == 1002


@pytest.mark.parametrize("closes", [False, True])
async def test_a_program_that_does_not_get_to_it_keeps_a_fault_waiting_for_a_while_only(closes: bool) -> None:
    over = asyncio.Event()

    async def program(connection: Connection) -> None:
        if closes:
            flow: Any = connection._flow
            await until(lambda: len(flow.receiving.inbox) == 1)
            await connection.close(CloseCode.GOING_AWAY)
        await over.wait()
        assert connection.state is State.FAILED
        assert (await connection.receive()).content == "ok"
        with pytest.raises(ProtocolViolationError):
            await connection.send("too late")
        await connection.receive()

    async with raw(program, close_timeout=60 if closes else 0.1) as (peer, ended):
        await peer.send(b"\x81\x82\0\0\0\0ok" + BROKEN)
        assert (await peer.receive_all())[2:4] == b"\x03\xea"
        over.set()
        assert isinstance(await ended, ProtocolViolationError)


async def test_pings_of_a_peer_that_takes_nothing_are_answered_within_bounds() -> None:
    connections: list[Connection] = []
    async with raw(connections=connections) as (peer, ended):
        pings = (b"\x89\xfd\0\0\0\0" + bytes(125)) * 1000
        for _ in range(200):
            await peer.send(pings)
        flow: Any = connections[0]._flow
        assert flow.sending.remaining < 500_000 and sum(map(len, flow.layer._said)) < 20_000
        peer.socket.close()
        assert isinstance(await ended, NetworkError)


async def test_an_end_without_a_close_is_1006() -> None:
    async with raw() as (peer, ended):
        peer.socket.shutdown(1)
        error = await ended
        assert isinstance(error, ConnectionAbortedByPeerError) and error.code == CloseCode.ABNORMAL_CLOSURE


async def test_a_handshake_that_does_not_come() -> None:
    async with NetworkListener(WebSocket(handshake_timeout=0.1), on="127.0.0.1:0").serving(echo) as listener:
        with await Peer.connect(HostPort("127.0.0.1", listener.port)) as peer:
            await peer.send(HANDSHAKE[:50])
            async with asyncio.timeout(5):
                assert await peer.receive() == b""
