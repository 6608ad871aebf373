"""A stream of a QUIC connection where the commands want a channel for bytes.

A close ends all streams of a connection at once (RFC 9000 section 10.2), and the peer may drop what its program has not read
yet. So the side that listens leaves the close to the other one, if that does it soon.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any

from tieline.channel import NetworkChannel
from tieline.cli import bridge
from tieline.connection import NetworkConnection
from tieline.protocols.quic import ApplicationError, QUICStream
from tieline.protocols.roles import StreamProtocol
from tieline.quic import QUIC, QUICStreamChannel

__all__ = ["every_stream", "explaining", "first_stream"]

StreamHandler = Callable[[NetworkChannel[StreamProtocol]], Awaitable[None]]

CLOSE_PATIENCE = 2.0  # seconds for the peer's close, after all has been said
BROKEN_OFF = 1  # the code of a close that is not the end of the transfer; 0 is the good one


@contextmanager
def explaining(connection: NetworkConnection[Any]) -> Generator[None]:
    """A block that raises ends the connection, and the peer can tell that from the good end."""
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, (asyncio.CancelledError, KeyboardInterrupt))
        connection.application_error = ApplicationError(BROKEN_OFF, "interrupted" if interrupted else "broken off")
        connection.abort()
        raise


async def every_stream(connection: NetworkConnection[QUIC], handler: StreamHandler) -> None:
    """Serve the streams that the peer opens, side by side, until it closes the connection."""
    await connection.inbound_streams(handler)
    if connection.error is not None:
        raise connection.error


async def first_stream(connection: NetworkConnection[QUIC], handler: StreamHandler) -> None:
    """Serve the first stream that the peer opens; how that ends is how it ends."""
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    begun = False

    async def once(stream: QUICStreamChannel[QUICStream]) -> None:
        nonlocal begun
        if begun:
            return  # there is one standard input
        begun = True
        try:
            async with stream:
                with explaining(connection):
                    await handler(stream)
        except Exception as error:
            ended.set_exception(error)
        else:
            ended.set_result(None)

    async with bridge.background(connection.inbound_streams(once), "streams") as streams:
        await asyncio.wait((ended, streams), return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            ended.result()
            await asyncio.wait((streams,), timeout=CLOSE_PATIENCE)
            return
        streams.result()
        if connection.error is not None:
            raise connection.error
