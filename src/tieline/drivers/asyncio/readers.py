"""Who tells that there is something to read from a stream socket.

That is the loop itself, for one. For more there is an epoll of our own on Linux, which the loop watches as if it were one socket:
to begin and to stop is a system call then, and what came for many connections is told in one callback.

uvloop stops to watch a socket at its first error, after calling the reader and the writer once more. There may be more to read
before that error than one read takes, so the rest has to be watched anew. That it has stopped shows without a system call for
each read: it drops the reader that it was given, to which we keep a weak reference.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from tieline.drivers.asyncio.options import LINUX

__all__ = ["Readers", "RenewedReaders", "forgets_at_error", "readers_of"]

Callback = Callable[[], object]


class Readers(Protocol):
    """As an event loop has them."""

    def add_reader(self, fd: int, callback: Callback, /) -> Any: ...
    def remove_reader(self, fd: int, /) -> Any: ...

    def keep(self) -> None:
        """Readers will come and go: until `release`, give nothing up in between."""

    def release(self) -> None: ...


def readers_of(loop: asyncio.AbstractEventLoop) -> Readers:
    """For the stream sockets of a loop."""
    if LINUX:
        from tieline._engine.stream import Epoll

        return Epoll(loop, RenewedReaders(loop) if forgets_at_error(loop) else loop)
    return RenewedReaders(loop)


def forgets_at_error(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the loop may stop to watch a socket by itself, as those on libuv do; asyncio's own never do."""
    return not isinstance(loop, asyncio.BaseEventLoop)


class Watch(weakref.ref[Any]):
    """On what the loop holds for one reader."""

    __slots__ = ("callback", "fd")

    fd: int
    callback: Callback


class RenewedReaders:
    """Those of a loop that may forget."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watches: dict[int, Watch] = {}

    def add_reader(self, fd: int, callback: Callback) -> None:
        held = partial(callback)
        watch = self._watches[fd] = Watch(held, self._dropped)
        watch.fd, watch.callback = fd, callback
        self._loop.remove_reader(fd)  # it may remember one that it no longer watches
        self._loop.add_reader(fd, held)

    def remove_reader(self, fd: int) -> None:
        if self._watches.pop(fd, None) is not None:
            self._loop.remove_reader(fd)

    def keep(self) -> None:
        """There is nothing to give up."""

    release = keep

    def _dropped(self, watch: Watch) -> None:
        if self._is_wanted(watch):
            self._loop.call_soon(self._again, watch)

    def _again(self, watch: Watch) -> None:
        if self._is_wanted(watch):
            self.add_reader(watch.fd, watch.callback)

    def _is_wanted(self, watch: Watch) -> bool:
        return self._watches.get(watch.fd) is watch and not self._loop.is_closed()
