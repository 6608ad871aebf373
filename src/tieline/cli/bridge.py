"""A connection on one side, standard input and output on the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from tieline.cli.stdio import Input, Output
from tieline.connection import NetworkConnection
from tieline.errors import NetworkError
from tieline.protocols.roles import DatagramProtocol, StreamProtocol

__all__ = ["background", "datagrams", "stream"]


@asynccontextmanager
async def background(work: Coroutine[Any, Any, None], name: str) -> AsyncGenerator[asyncio.Task[None]]:
    """A task that lives no longer than the block, which asks it for its result if it wants to know."""
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def stream(connection: NetworkConnection[StreamProtocol], source: Input, sink: Output) -> None:
    """Bytes both ways until both directions have ended; at a terminal the peer's end is enough."""
    async with (
        background(send_stream(connection, source), "input") as sending,
        background(print_stream(connection, sink), "output") as receiving,
    ):
        await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
        if sending.done() and not isinstance(sending.exception(), (NetworkError, type(None))):
            sending.result()  # our own input cannot be read
        await receiving  # also when nothing can be sent any more: what the peer had to say may tell why
        if not source.is_terminal:
            await sending


async def send_stream(connection: NetworkConnection[StreamProtocol], source: Input) -> None:
    if (file := source.file()) is not None:
        await connection.send_file(file, file.tell())
    else:
        while content := await source.read():
            await connection.send(content)
    await connection.send(b"", end_of_stream=True)


async def print_stream(connection: NetworkConnection[StreamProtocol], sink: Output) -> None:
    async for content, _ in connection:
        await sink.write(content)
    sink.end()


async def datagrams(connection: NetworkConnection[DatagramProtocol], source: Input, sink: Output, linger: float | None) -> None:
    """A datagram for each read, until `linger` seconds after the end of input; None prints until the flow ends."""
    async with (
        background(send_datagrams(connection, source), "input") as sending,
        background(print_datagrams(connection, sink), "output") as receiving,
    ):
        await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
            await asyncio.wait((receiving,), timeout=linger)
        if receiving.done():
            receiving.result()


async def send_datagrams(connection: NetworkConnection[DatagramProtocol], source: Input) -> None:
    while content := await source.read(connection.maximum_datagram_size):
        await connection.send(content)


async def print_datagrams(connection: NetworkConnection[DatagramProtocol], sink: Output) -> None:
    async for content, _ in connection:
        await sink.write(content)
