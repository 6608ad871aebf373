"""One run of one check: it makes the pairs, compares, waits not for ever, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeAlias, TypeVar

from tieline.connection import NetworkConnection

__all__ = ["HOLDS", "MOMENTS", "PATIENCE", "Check", "Connection", "MakePair", "Trial"]

E = TypeVar("E", bound=Exception)
T = TypeVar("T")

Connection: TypeAlias = NetworkConnection[Any]
MakePair: TypeAlias = Callable[[], Awaitable[tuple[Connection, Connection]]]
"""Gives two connections that are ready and lead to each other, the same as any other time it is called."""

HOLDS = 16 << 20  # bytes on their way: what Linux lets a sender and a receiver of TCP grow to at most, with room
PATIENCE = 20.0  # seconds for one check
MOMENTS = 8  # turns of the event loop: more than any message needs from a call to the one that waits for it in memory
QUIET = 0.1  # seconds without any progress, after which there will be none


class Check:
    """One named check. Await it with what makes a pair.

    `holds` is how many bytes the transport is stated to keep between a sender and a receiver, beyond the `send_limit` of the one
    and the `receive_limit` of the other: the kernel's buffers, and what one read brings. `patience`: seconds for the whole check.
    """

    def __init__(self, function: Callable[[Trial], Coroutine[Any, Any, None]]) -> None:
        self._function = function
        self.name = function.__name__
        self.__doc__ = function.__doc__

    def __repr__(self) -> str:
        return f"<check {self.name}>"

    def __str__(self) -> str:
        return self.name

    async def __call__(self, make_pair: MakePair, *, holds: int = HOLDS, patience: float = PATIENCE) -> None:
        """Run it. Raises AssertionError.

        Cancelling: the pairs that it made are aborted.
        """
        await Trial(self.name, make_pair, holds, patience).run(self._function)


class Trial:
    """What a check is given."""

    def __init__(self, name: str, make_pair: MakePair, holds: int, patience: float) -> None:
        self._name = name
        self._make_pair = make_pair
        self._patience = patience
        self._step = "making a pair"
        self._tasks: list[asyncio.Task[Any]] = []
        self._connections: list[Connection] = []
        self.holds = holds

    async def run(self, function: Callable[[Trial], Coroutine[Any, Any, None]]) -> None:
        """Whatever goes wrong in there becomes an AssertionError of this check."""
        limit = asyncio.timeout(self._patience)
        try:
            async with limit:
                await function(self)
        except AssertionError:
            raise
        except Exception as error:
            if limit.expired():
                raise self.failure("it to happen", f"nothing within {self._patience:g} s") from error
            raise self.failure("no error", repr(error)) from error
        finally:
            await self._clean()

    async def _clean(self) -> None:
        for task in self._tasks:
            task.cancel()
        for connection in self._connections:
            connection.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def pair(self, *, swapped: bool = False) -> tuple[Connection, Connection]:
        """Another pair, which is aborted when the check is over; the side that was accepted comes first if `swapped`."""
        near, far = await self._make_pair()
        self._connections += near, far
        return (far, near) if swapped else (near, far)

    # Saying what goes on

    def step(self, text: str) -> None:
        """What is being looked at, in words for the error."""
        self._step = text

    def failure(self, expected: str, got: str) -> AssertionError:
        return AssertionError(f"{self._name}: {self._step}: expected {expected}, got {got}")

    def fail(self, expected: str, got: str) -> NoReturn:
        raise self.failure(expected, got)

    def same(self, expected: object, got: object) -> None:
        """Compare, and show bytes by where they differ."""
        if expected != got:
            if isinstance(expected, bytes) and isinstance(got, (bytes, bytearray)) and max(len(expected), len(got)) > 80:
                self.fail(*difference(expected, bytes(got)))
            self.fail(repr(expected), repr(got))

    @contextmanager
    def raising(self, kind: type[E]) -> Generator[list[E], None, None]:
        """The block raises an error of this class, which is then the only entry of the list."""
        caught: list[E] = []
        try:
            yield caught
        except kind as error:
            caught.append(error)
            return
        except Exception as error:
            raise self.failure(kind.__name__, repr(error)) from error
        self.fail(kind.__name__, "no error")

    # Doing several things at once

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run beside the check; it ends with it at the latest."""
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task

    async def together(self, *work: Coroutine[Any, Any, Any]) -> list[Any]:
        """Run these side by side."""
        return await asyncio.gather(*map(self.start, work))

    async def turns(self, count: int) -> None:
        """Let everybody else have so many turns of the event loop."""
        for _ in range(count):
            await asyncio.sleep(0)

    async def quiet(self, progress: Callable[[], object]) -> None:
        """Wait until this makes no progress any more. There is no event to wait for: it is that nothing happens."""
        before = None
        while before != (before := progress()):  # noqa: ASYNC110
            await asyncio.sleep(QUIET)

    async def cancelled(self, task: asyncio.Task[T]) -> T | None:
        """Cancel it: None, or its result if it was faster."""
        task.cancel()
        await asyncio.wait((task,))
        return None if task.cancelled() else task.result()


def difference(expected: bytes, got: bytes) -> tuple[str, str]:
    """Two long texts in words: how much, and where the second one goes another way."""
    at = next((place for place, (one, other) in enumerate(zip(expected, got, strict=False)) if one != other), None)
    where = "" if at is None else f" that differ from byte {at:,} on"
    return f"{len(expected):,} bytes", f"{len(got):,} bytes{where}"
