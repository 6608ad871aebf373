"""Two connected ends, over every transport that moves bytes."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple

import pytest

from tieline import TCP, TLS, UDP, Identity, NetworkConnection, NetworkListener, Parameters, Trust

from .. import quic

IDENTITY = Identity.self_signed("localhost")
numbers = itertools.count()


class Ends(NamedTuple):
    """The side that connected, and the one that a listener handed out."""

    client: NetworkConnection[Any]
    server: NetworkConnection[Any]


Pair = Callable[..., AbstractAsyncContextManager[Ends]]


def stack(transport: str, *, server: bool) -> Any:
    if transport == "udp":
        return UDP()
    if transport != "tls":
        return TCP()
    if server:
        return TLS(identity=IDENTITY)
    return TLS(trust=Trust.certificates(IDENTITY.certificate), server_name="localhost")


@asynccontextmanager
async def connected(transport: str, server: dict[str, Any] | None = None, **client: Any) -> AsyncIterator[Ends]:
    """Both ends ready; `client` and `server` are options of their Parameters. What the test leaves open is aborted."""
    if transport == "quic":
        async with streams(**client) as ends:
            yield ends
        return
    arrived: asyncio.Queue[NetworkConnection[Any]] = asyncio.Queue()
    over = asyncio.Event()

    async def handler(connection: NetworkConnection[Any]) -> None:
        arrived.put_nowait(connection)
        await over.wait()
        connection.abort()

    where = f"unix:@tieline-{os.getpid()}-{next(numbers)}" if transport == "unix" else "127.0.0.1:0"
    listener = NetworkListener(Parameters(stack(transport, server=True), **(server or {})), on=where)
    async with listener.serving(handler):
        connection = NetworkConnection(listener.endpoint, Parameters(stack(transport, server=False), **client))
        try:
            await connection.ready()
            if transport == "udp":
                await connection.send(b"hello")  # a flow begins with its first datagram
            accepted = await arrived.get()
            if transport == "udp":
                await accepted.receive()
            yield Ends(connection, accepted)
        finally:
            connection.abort()
            over.set()


@asynccontextmanager
async def streams(**parameters: Any) -> AsyncIterator[Any]:
    """Both ends of one stream of a QUIC connection."""
    async with quic.connected(parameters=parameters) as (client, server, _):
        stream = await client.open_stream()
        await stream.send(b"!")
        other, over = await quic.take(server)
        await other.receive(exactly=1)
        yield Ends(stream, other)
        over.set()


@pytest.fixture(params=["tcp", "tls", "unix"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(transport: str) -> Pair:
    """``async with pair(client options, server={...}) as (client, server)`` over each stream transport."""
    return lambda **options: connected(transport, **options)


@pytest.fixture
def pair_over() -> Callable[..., AbstractAsyncContextManager[Ends]]:
    """The same over one transport, for what only that has."""
    return connected
