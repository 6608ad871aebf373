"""A connection or stream on one side, standard input and output on the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import click

from tieline.channel import NetworkChannel
from tieline.cli.stdio import Input, Output
from tieline.connection import NetworkConnection
from tieline.errors import NetworkError
from tieline.protocols.roles import DatagramProtocol, StreamProtocol
from tieline.protocols.websocket import WebSocket
from tieline.quic import QUICStreamChannel

__all__ = ["background", "datagrams", "lines", "stream"]

LONGEST_LINE = 16 * 1024 * 1024  # bytes, of what becomes one message


@asynccontextmanager
async def background(work: Coroutine[Any, Any, None], name: str) -> AsyncGenerator[asyncio.Task[None]]:
    """A task that lives no longer than the block, which asks it for its result if it wants to know."""
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def stream(channel: NetworkChannel[StreamProtocol], source: Input, sink: Output) -> None:
    """Bytes both ways until both directions have ended; at a terminal the peer's end is enough."""
    async with (
        background(send_stream(channel, source), "input") as sending,
        background(print_stream(channel, sink), "output") as receiving,
    ):
        await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
        if sending.done() and not isinstance(sending.exception(), (NetworkError, type(None))):
            sending.result()  # our own input cannot be read
        await receiving  # also when nothing can be sent any more: what the peer had to say may tell why
        if not source.is_terminal:
            async with background(end_of(channel), "end") as over:
                await asyncio.wait((sending, over), return_when=asyncio.FIRST_COMPLETED)
            await (sending if sending.done() else channel.send(b""))  # which says why nothing can be sent any more


async def end_of(channel: NetworkChannel[StreamProtocol]) -> None:
    """Wait until the connection is over. Whoever waits for input alone would not learn of it."""
    connection = channel.parent if isinstance(channel, QUICStreamChannel) else channel
    if isinstance(connection, NetworkConnection):
        async for _ in connection.state_updates():
            pass


async def send_stream(channel: NetworkChannel[StreamProtocol], source: Input) -> None:
    if (file := source.file()) is not None:
        await channel.send_file(file, file.tell())
    else:
        while content := await source.read():
            await channel.send(content)
    await channel.send(b"", end_of_stream=True)


async def print_stream(channel: NetworkChannel[StreamProtocol], sink: Output) -> None:
    async for content, _ in channel:
        await sink.write(content)
    sink.end()


async def datagrams(channel: NetworkChannel[DatagramProtocol], source: Input, sink: Output, linger: float | None) -> None:
    """A datagram for each read, until `linger` seconds after the end of input; None prints until the flow ends."""
    async with (
        background(send_datagrams(channel, source), "input") as sending,
        background(print_datagrams(channel, sink), "output") as receiving,
    ):
        await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
            await asyncio.wait((receiving,), timeout=linger)
        if receiving.done():
            receiving.result()


async def send_datagrams(channel: NetworkChannel[DatagramProtocol], source: Input) -> None:
    while content := await source.read(channel.maximum_datagram_size):
        await channel.send(content)


async def print_datagrams(channel: NetworkChannel[DatagramProtocol], sink: Output) -> None:
    async for content, _ in channel:
        await sink.write(content)


async def lines(channel: NetworkChannel[WebSocket], source: Input, sink: Output, linger: float | None) -> None:
    """A text message for each line, until `linger` seconds after the end of input, or as long as the peer wants (None)."""
    async with (
        background(send_lines(channel, source), "input") as sending,
        background(print_messages(channel, sink), "output") as receiving,
    ):
        await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            if not isinstance(sending.exception(), NetworkError):
                sending.result()
            await asyncio.wait((receiving,), timeout=linger)
        if receiving.done():
            receiving.result()


async def send_lines(channel: NetworkChannel[WebSocket], source: Input) -> None:
    """A line that is no text goes as a binary message."""
    rest = b""
    while content := await source.read():
        *whole, rest = (rest + content).split(b"\n")
        for line in whole:
            await send_line(channel, line)
        if len(rest) > LONGEST_LINE:
            raise click.ClickException(f"a line of more than {LONGEST_LINE:,} bytes is no message")
    if rest:
        await send_line(channel, rest)


async def send_line(channel: NetworkChannel[WebSocket], line: bytes) -> None:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        await channel.send(line)
    else:
        await channel.send(text)


async def print_messages(channel: NetworkChannel[WebSocket], sink: Output) -> None:
    """A text message is a line; a binary one is printed as it is."""
    async for content, _ in channel:
        await sink.write(f"{content}\n".encode() if isinstance(content, str) else content)
    sink.end()
