"""What an event loop offers whatever its network is: time, timers, tasks and what a task waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from tieline._engine.stream import Waiters
from tieline.drivers.asyncio.counters import transport_counters

__all__ = ["LoopDriver"]


class LoopDriver:
    """The half of a driver that is the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, time: Callable[[], float]) -> None:
        self._loop = loop
        self.time = time
        self.waiter = Waiters(loop)
        self.call_soon = loop.call_soon
        self.call_later = loop.call_later
        self.counters_in = transport_counters

    def seed(self) -> bytes | None:
        return None

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        return self._loop.create_task(work, name=name)

    def current_task(self) -> asyncio.Task[Any]:
        task = asyncio.current_task()
        assert task is not None  # asked from a coroutine
        return task

    async def wait(self, tasks: Sequence[Any], timeout: float | None) -> None:
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
