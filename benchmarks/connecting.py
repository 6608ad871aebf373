"""Connect, echo one message, close: one connection after the other, or a hundred at once. Every handshake is a full one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.workloads import Client, ssl_context, streams_open, tieline_stack
from tieline import NetworkConnection


async def at_once(number: int, once: Callable[[], Awaitable[None]], count: int) -> float:
    """How many of them are done in a second by that many workers."""

    async def work() -> None:
        for _ in range(count // number):
            await once()

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as workers:
        for _ in range(number):
            workers.create_task(work())
    return count // number * number / (time.perf_counter() - begun)


def tieline_connect(number: int) -> Client:
    async def connect(tls: bool, port: int, size: int, count: int) -> float:
        message = bytes(size)
        stack = tieline_stack(tls, server=False, tickets=False)  # so that no handshake is shortened: the peers' are not

        async def once() -> None:
            async with NetworkConnection(("127.0.0.1", port), stack) as connection:
                await connection.send(message)  # type: ignore[misc]
                await connection.receive(exactly=size)  # type: ignore[misc]

        return await at_once(number, once, count)

    return connect


def streams_connect(number: int) -> Client:
    async def connect(tls: bool, port: int, size: int, count: int) -> float:
        message = bytes(size)
        context: Any = ssl_context(server=False) if tls else None

        async def once() -> None:
            reader, writer = await streams_open(port, context)
            writer.write(message)
            await writer.drain()
            await reader.readexactly(size)
            writer.close()
            await writer.wait_closed()

        return await at_once(number, once, count)

    return connect
