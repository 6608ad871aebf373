"""An event loop in virtual time.

Theory of operation. An event loop alternates between running callbacks and waiting in its selector, for as long as the next
timer allows. Here the selector does not wait: asked to, it moves the clock to that timer and returns. So time passes only while
nobody has anything to do, all at once, and every `asyncio.sleep`, `asyncio.timeout` and `call_later` follows it by itself.

If there is no next timer either, the program waits for something that cannot happen any more. That is an error, told at once
with where each task waits, and not a test that hangs. The exception are threads: while one works for the loop
(`run_in_executor`), the clock stands still and the selector really waits, so that a thread takes no virtual time.
"""

from __future__ import annotations

import asyncio
import selectors
import traceback
from collections.abc import Callable, Iterator
from contextvars import Context
from math import inf
from types import FrameType
from typing import Any, cast

__all__ = ["StandstillError", "VirtualClock"]

TURNS_AT_ONE_INSTANT = 1_000_000  # of the loop without time going on: a program that spins would never come to an end

_Ready = list[tuple[selectors.SelectorKey, int]]


class StandstillError(RuntimeError):
    """Every task of a virtual clock waits, and nothing is going to happen; or the program spins and time cannot go on."""


class VirtualClock(asyncio.SelectorEventLoop):
    """An asyncio event loop whose time jumps to the next timer when nothing is runnable.

    ``asyncio.Runner(loop_factory=VirtualClock)`` runs a program in it: an hour of sleeping takes no time. `time()` begins at
    0 and counts seconds. What asks the system for the time (`time.monotonic`, `datetime.now`) sees no jump.

    Runs are repeatable: tasks are hashed by their number and not by their address, so that sets of them, such as a task group
    holds, have the same order in each run. Sockets of the system are refused, since their peers do not live in this time.

    Raises `StandstillError` from whatever runs the loop when every task waits and no timer is left.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector(self)
        self._threads = 0  # that work for us at present
        self.limit: asyncio.TimerHandle | None = None
        self.end = inf  # a program that is still there then cannot be ended in a good way
        """A timer that only ends a run that takes too long: when no other is left, nothing is going to happen."""
        self._started = False
        super().__init__(self._jumping)
        self._started = True
        self.set_task_factory(_numbered_tasks())

    def time(self) -> float:
        """Seconds of virtual time since the loop was made."""
        return self._jumping.now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """As usual; the clock stands still until the thread is done."""
        future = super().run_in_executor(executor, func, *args)
        self._threads += 1
        future.add_done_callback(self._thread_done)
        return future

    async def shutdown_default_executor(self, *timeout: Any) -> None:
        """As usual; it waits for a thread."""
        self._threads += 1
        try:
            await super().shutdown_default_executor(*timeout)
        finally:
            self._threads -= 1

    def _thread_done(self, _: object) -> None:
        self._threads -= 1

    def _add_reader(self, fd: Any, callback: Any, *args: Any) -> Any:
        if self._started:  # after the loop's own pipe, by which threads and signals wake it
            raise self._no_sockets()
        return super()._add_reader(fd, callback, *args)  # type: ignore[misc]  # asyncio's own, unknown to its stubs

    def _add_writer(self, fd: Any, callback: Any, *args: Any) -> Any:
        raise self._no_sockets()

    @staticmethod
    def _no_sockets() -> RuntimeError:
        return RuntimeError(
            "a socket of the system cannot be waited for in virtual time: its peer lives in real time. "
            "Start connections and listeners inside `with host:` of a SimulatedNetwork"
        )

    def next_timer(self) -> float | None:
        """When the loop's earliest timer is due, None without any but the limit."""
        scheduled = cast("list[asyncio.TimerHandle]", self._scheduled)  # type: ignore[attr-defined]  # a heap since 3.4
        if not scheduled or (scheduled[0] is self.limit and all(timer.cancelled() for timer in scheduled[1:])):
            return None
        return scheduled[0].when()

    def waiting(self) -> str:
        """Where each task waits, as text."""
        lines: list[str] = []
        for task in sorted(asyncio.all_tasks(self), key=hash):
            lines.append(f"  {task.get_name()}")
            lines += [line.rstrip() for line in traceback.StackSummary.extract(_awaiting(task.get_coro())).format()]
        return "\n".join(lines) or "  (there is no task)"


def _awaiting(coroutine: Any) -> Iterator[tuple[FrameType, int]]:
    """The frames of what a task waits in, outermost first; a task itself tells only the outermost."""
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            return
        yield frame, frame.f_lineno
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)


class _JumpingSelector(selectors.DefaultSelector):
    """Waits by moving the clock."""

    def __init__(self, loop: VirtualClock) -> None:
        super().__init__()
        self._loop = loop
        self._turns = 0
        self.now = 0.0

    def select(self, timeout: float | None = None) -> _Ready:
        ready = super().select(0)
        if ready or timeout == 0:
            self._turns += 1
            if self._turns > TURNS_AT_ONE_INSTANT:
                raise StandstillError(
                    f"{TURNS_AT_ONE_INSTANT:,} turns of the loop at {self.now:g} s, and time does not go on: some task spins\n"
                    f"{self._loop.waiting()}"
                )
            return ready
        if self._loop._threads:
            return super().select(None)
        due = self._loop.next_timer()
        if timeout is None or due is None:
            raise StandstillError(f"at {self.now:g} s every task waits, and nothing is going to happen:\n{self._loop.waiting()}")
        if due > self._loop.end:
            raise StandstillError(f"at {self.now:g} s the program goes on, although it was cancelled:\n{self._loop.waiting()}")
        self.now = max(self.now, due)  # the timer's own time: a sum of delays would drift from it
        self._turns = 0
        return ready


class _Task(asyncio.Task[Any]):
    number = 0

    def __hash__(self) -> int:
        return self.number


def _numbered_tasks() -> Any:
    count = 0

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, context: Context | None = None, **options: Any) -> _Task:
        nonlocal count
        count += 1
        # asyncio keeps tasks in a set as soon as they are made, so the number has to be there before.
        task = _Task.__new__(_Task)
        task.number = count
        if context is not None:
            options["context"] = context
        options["name"] = options.get("name") or f"Task-{count}"  # asyncio would count those of other loops, too
        task.__init__(coroutine, loop=loop, **options)  # type: ignore[misc]
        return task

    return make
