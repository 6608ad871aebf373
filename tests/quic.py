"""Two ends of a QUIC connection, and what tests of it do over and over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from tieline import QUIC, Identity, NetworkConnection, NetworkListener, Parameters, Trust

__all__ = [
    "IDENTITY", "Ends", "client_of", "collect", "connected", "echo_streams", "gather", "receive_for_ever", "send_for_ever",
    "server_of", "take",
]  # fmt: skip

IDENTITY = Identity.self_signed("localhost")
TRUST = Trust.certificates(IDENTITY.certificate)

Connection = NetworkConnection[QUIC]
Stream = QUIC.Stream[Any]


class Ends(NamedTuple):
    """The side that connected, and the one that a listener handed out."""

    client: Connection
    server: Connection
    listener: NetworkListener[QUIC]


def server_of(**options: Any) -> QUIC:
    return QUIC(**{"alpn": ["test"], "identity": IDENTITY, **options})


def client_of(**options: Any) -> QUIC:
    return QUIC(**{"alpn": ["test"], "trust": TRUST, "server_name": "localhost", **options})


@asynccontextmanager
async def connected(
    server: dict[str, Any] | None = None,
    client: dict[str, Any] | None = None,
    *,
    parameters: dict[str, Any] | None = None,
    on: Any = "127.0.0.1:0",
    **both: Any,
) -> AsyncIterator[Ends]:
    """Both ends ready. `server`, `client` and `both` are options of QUIC, `parameters` of both. What is left open is aborted."""
    arrived: asyncio.Queue[Connection] = asyncio.Queue()
    over = asyncio.Event()

    async def handler(connection: Connection) -> None:
        arrived.put_nowait(connection)
        await over.wait()
        connection.abort()

    listener = NetworkListener(Parameters(server_of(**both, **(server or {})), **(parameters or {})), on=on)
    async with listener.serving(handler):
        connection = NetworkConnection(listener.endpoint, Parameters(client_of(**both, **(client or {})), **(parameters or {})))
        try:
            await connection.ready()
            yield Ends(connection, await arrived.get(), listener)
        finally:
            connection.abort()
            over.set()


@asynccontextmanager
async def gather(connection: Connection, handler: Callable[[Any], Awaitable[object]], **options: Any) -> AsyncIterator[Any]:
    """The streams that the peer opens have this handler, in the background."""
    task = asyncio.create_task(connection.inbound_streams(handler, **options))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def take(connection: Connection, **options: Any) -> tuple[Any, asyncio.Event]:
    """The first stream that the peer opens, and an event that ends its handler. Works once for each connection."""
    taken: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def handler(stream: Any) -> None:
        taken.set_result(stream)
        await over.wait()

    KEPT.append(asyncio.create_task(connection.inbound_streams(handler, **options)))
    KEPT[-1].add_done_callback(lambda task: (KEPT.remove(task), task.cancelled() or task.exception()))
    return await taken, over


KEPT: list[asyncio.Task[None]] = []


async def collect(stream: Any) -> bytes:
    """Everything up to the end."""
    return b"".join([content async for content, _ in stream])


async def receive_for_ever(stream: Any) -> None:
    """Until it raises."""
    while True:
        await stream.receive(exactly=1)


async def send_for_ever(stream: Any) -> None:
    """Until it raises."""
    while True:
        await stream.send(bytes(10_000))


async def echo_streams(connection: Connection) -> None:
    """Give back what comes on each stream, until the peer closes."""

    async def echo(stream: Any) -> None:
        async for content, _ in stream:
            await stream.send(content)

    await connection.inbound_streams(echo)
