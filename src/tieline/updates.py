"""News about an object: for one handler, for any number of asynchronous iterators, and for whoever waits for one event."""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from tieline import drivers
from tieline.errors import NetworkError, raisable

if TYPE_CHECKING:
    from tieline.drivers.port import Driver, Waiter

__all__ = ["UpdateIterator", "Updates", "Waiters"]

S = TypeVar("S")
T = TypeVar("T")

KEPT = 256  # updates for an iterator that nobody advances; beyond that the oldest go

logger = logging.getLogger("tieline")


class Updates(Generic[S, T]):
    """Calls the handler at once and keeps the value for each iterator."""

    __slots__ = ("_iterators", "handler")

    def __init__(self) -> None:
        self.handler: Callable[[S, T], object] | None = None
        self._iterators: weakref.WeakSet[UpdateIterator[T]] | None = None

    @property
    def watched(self) -> bool:
        """Whether anybody would notice a `publish`."""
        return self.handler is not None or bool(self._iterators)

    def publish(self, subject: S, value: T, *, last: bool = False) -> None:
        """Tell everybody. A handler that raises is logged and changes nothing else."""
        for iterator in tuple(self._iterators or ()):
            iterator._push(value, last)
        if self.handler is not None:
            try:
                self.handler(subject, value)
            except Exception:
                logger.exception("an update handler of %r raised", subject)
        if last:
            self.handler = None

    def iterate(self, *first: T, ended: bool = False) -> UpdateIterator[T]:
        """A new iterator, which begins with these values."""
        iterator = UpdateIterator(first, ended)
        if not ended:
            if self._iterators is None:
                self._iterators = weakref.WeakSet()
            self._iterators.add(iterator)
        return iterator


class UpdateIterator(Generic[T]):
    """Gives each update once, in order; ends after the last one. Leaving a loop over it leaves nothing open.

    Cancelling: a cancelled step has consumed nothing.
    """

    __slots__ = ("__weakref__", "_ended", "_values", "_waiter")

    def __init__(self, values: tuple[T, ...], ended: bool) -> None:
        self._values: deque[T] = deque(values, KEPT)
        self._ended = ended
        self._waiter: Waiter | None = None

    def _push(self, value: T, last: bool) -> None:
        self._values.append(value)
        self._ended = self._ended or last
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> UpdateIterator[T]:
        return self

    async def __anext__(self) -> T:
        while not self._values:
            if self._ended:
                raise StopAsyncIteration
            if self._waiter is not None:
                raise RuntimeError("this iterator is already being waited for: each task needs one of its own")
            self._waiter = drivers.current().waiter()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._values.popleft()


class Waiters:
    """The coroutines that wait for one event. Each has a waiter of its own, so cancelling one leaves the others alone."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[Waiter] = []

    async def wait(self, driver: Driver) -> None:
        """Wait for `release`, and raise what it was given."""
        waiter = driver.waiter()
        self._waiting.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def release(self, error: NetworkError | None = None) -> None:
        """It happened, or it never will: then each gets a copy of the error."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(raisable(error))
