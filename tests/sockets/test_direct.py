"""Connecting to this machine without a handshake, where the attempt is all there is to establishing."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tieline import (
    TCP,
    TLS,
    TLV,
    ConnectError,
    Endpoint,
    HostPort,
    NetworkConnection,
    NetworkError,
    NetworkListener,
    Parameters,
    State,
    UnixEndpoint,
)
from tieline.drivers.asyncio import AsyncioDriver
from tieline.establishment.direct import Direct, establishment_of

from ..peers import until


class Owner:
    """Of an establishment, for which nothing comes of it."""

    accepted_early = b""

    def established(self, won: Any) -> None: ...
    def not_established(self, error: NetworkError) -> None: ...


@pytest.mark.parametrize(
    ("to", "using", "direct"),
    [
        ("127.0.0.1:9", Parameters(TCP()), True),
        ("[::1]:9", Parameters(TCP()), True),
        ("127.0.0.1:9", Parameters(TLV(TCP())), True),
        ("unix:/tmp/9", Parameters(TCP()), True),
        ("localhost:9", Parameters(TCP()), False),
        ("192.0.2.9:9", Parameters(TCP()), False),
        ("127.0.0.1:9", Parameters(TLS()), False),
        ("127.0.0.1:9", Parameters(TLV(TLV(TCP()))), False),
        ("127.0.0.1:9", Parameters(TCP(), fast_open_allowed=True), False),
        ("127.0.0.1:9", Parameters(TCP(), required_interface="lo"), False),
    ],
    ids=lambda value: value.stack.name if isinstance(value, Parameters) else str(value),
)
async def test_where_there_is_nothing_to_decide(to: str, using: Parameters[Any], direct: bool) -> None:
    owner = Owner()
    made = establishment_of(AsyncioDriver.current(), Endpoint.parse(to), using, owner)
    assert isinstance(made, Direct) is direct


@pytest.fixture
def full() -> Iterator[HostPort]:
    """A listener that answers nobody any more: the kernel drops who comes when the queue is full."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = []
        try:
            for _ in range(4):
                one = socket.socket()
                one.setblocking(False)
                one.connect_ex(listening.getsockname())
                waiting.append(one)
            yield HostPort(*listening.getsockname())
        finally:
            for one in waiting:
                one.close()


async def test_one_that_does_not_answer(full: HostPort) -> None:
    connection = NetworkConnection(full, TCP(connection_timeout=0.2))
    async with connection:
        assert connection.state is State.PREPARING
        with pytest.raises(ConnectError) as caught:
            await connection.send(b"x")
        assert caught.value.errno == errno.ETIMEDOUT and "connection_timeout=0.2" in str(caught.value)
        (attempt,) = caught.value.attempts
        assert attempt.endpoint == full and 0.1 < attempt.elapsed < 2
        assert connection.state is State.WAITING
        connection.abort()


@pytest.mark.parametrize("graceful", [True, False])
async def test_given_up_while_it_connects(full: HostPort, graceful: bool) -> None:
    connection = NetworkConnection(full, TCP()).start()
    sending = asyncio.create_task(connection.send(b"x"))
    await asyncio.sleep(0.05)
    if graceful:
        await connection.aclose()
    else:
        connection.abort()
    assert connection.state is State.CANCELLED
    with pytest.raises(NetworkError, match="closed by this side"):
        await sending


async def test_dropped_while_it_connects(full: HostPort) -> None:
    connection = NetworkConnection(full, TCP()).start()
    await asyncio.sleep(0.05)
    with pytest.warns(ResourceWarning, match="unclosed <NetworkConnection .*preparing>"):  # noqa: PT031
        del connection
        gc.collect()


async def test_nothing_listens(tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        for to, code in (
            (HostPort(*bound.getsockname()), errno.ECONNREFUSED),
            (UnixEndpoint(str(tmp_path / "no")), errno.ENOENT),
        ):
            connection = NetworkConnection(to, TCP())
            with pytest.raises(ConnectError) as caught:
                await connection.ready()
            assert caught.value.errno == code and [one.endpoint for one in caught.value.attempts] == [to]
            assert connection.state is State.WAITING
            await connection.aclose()


async def test_it_tries_again() -> None:
    async def serve(connection: NetworkConnection[TCP]) -> None:
        await connection.send(b"hello")

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        connection = NetworkConnection(("127.0.0.1", port), TCP())
        with pytest.raises(ConnectError):
            await connection.ready()
    async with connection, NetworkListener(TCP(), on=f"127.0.0.1:{port}").serving(serve):
        assert (await connection.receive(exactly=5)).content == b"hello"
        report = await connection.establishment_report()
        assert report.previous_attempt_count == 1 and [one.protocol for one in report.handshakes] == ["TCP"]


async def test_a_handshake_begins_with_the_connect() -> None:
    async with NetworkListener(TCP(), on="127.0.0.1:0").serving(lambda connection: connection.receive()) as listener:
        assert listener.endpoint
        async with NetworkConnection(listener.endpoint, TCP()) as connection:
            time.sleep(0.1)  # noqa: ASYNC251  # the program keeps the loop from its turn
            report = await connection.establishment_report()
            assert report.duration >= 0.1 > report.handshakes[0].duration


async def test_there_is_no_next_endpoint() -> None:
    async def serve(connection: NetworkConnection[TCP]) -> None:
        await connection.receive()

    states: list[State] = []
    async with NetworkListener(TCP(), on="127.0.0.1:0").serving(serve) as listener:
        assert listener.endpoint
        async with NetworkConnection(listener.endpoint, TCP()) as connection:
            await connection.ready()
            connection.on_state_update(lambda _, state: states.append(state))
            connection.try_next_endpoint()
            with pytest.raises(ConnectError, match="no other address is left to try"):
                await connection.receive()
            assert states == [State.PREPARING, State.WAITING]
            await connection.ready()  # which tries that one again
            assert states == [State.PREPARING, State.WAITING, State.PREPARING, State.READY]
            await connection.send(b"bye")
            await until(lambda: connection.state is State.READY)


async def test_a_mistake_of_ours_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(AsyncioDriver.current(), "connect", broken)
    connection = NetworkConnection("127.0.0.1:9", TCP())
    with pytest.raises(NetworkError, match="ZeroDivisionError"):
        await connection.ready()
    assert connection.state is State.FAILED
