"""News about an object: for one handler, for any number of asynchronous iterators, and for whoever waits for one event."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from tieline import drivers
from tieline.errors import NetworkError, raisable

if TYPE_CHECKING:
    from tieline.drivers.port import Driver, Waiter

__all__ = ["Follower", "UpdateIterator", "Updates", "Waiters"]

S = TypeVar("S")
T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

KEPT = 256  # updates for an iterator that nobody advances; beyond that the oldest go


class Follower(Protocol[T_contra]):
    """Keeps each update for somebody. Who follows is told before the handler, which may cause the next one."""

    def _push(self, value: T_contra, last: bool, /) -> None: ...


class Updates(Generic[S, T]):
    """Calls the handler at once and gives the value to whoever follows, in the order in which they began to."""

    __slots__ = ("_followers", "handler")

    def __init__(self) -> None:
        self.handler: Callable[[S, T], object] | None = None
        # Weak: a loop that was left leaves nothing behind. A dictionary: its order is not one of addresses in memory.
        self._followers: weakref.WeakKeyDictionary[Follower[T], None] | None = None

    @property
    def watched(self) -> bool:
        """Whether anybody would notice a `publish`."""
        return self.handler is not None or bool(self._followers)

    def publish(self, subject: S, value: T, *, last: bool = False) -> None:
        """Tell everybody. A handler that raises is logged and changes nothing else."""
        for follower in tuple(self._followers or ()):
            follower._push(value, last)
        if self.handler is not None:
            try:
                self.handler(subject, value)
            except Exception:
                from logging import getLogger

                getLogger("tieline").exception("an update handler of %r raised", subject)
        if last:
            self.handler = None

    def follow(self, follower: Follower[T]) -> None:
        """Give each value from now on to this object too, as long as somebody else holds it."""
        if self._followers is None:
            self._followers = weakref.WeakKeyDictionary()
        self._followers[follower] = None

    def unfollow(self, follower: Follower[T]) -> None:
        """Give it no more."""
        if self._followers is not None:
            self._followers.pop(follower, None)

    def iterate(self, *first: T, ended: bool = False) -> UpdateIterator[T]:
        """A new iterator, which begins with these values."""
        iterator = UpdateIterator(first, ended)
        if not ended:
            self.follow(iterator)
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

    def _push(self, value: T, last: bool, /) -> None:
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
