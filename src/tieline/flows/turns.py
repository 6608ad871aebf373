"""What a call waits for besides data: its turn, and the answer to a ping."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from tieline.errors import NetworkError, raisable

if TYPE_CHECKING:
    from tieline.drivers.port import Waiter
    from tieline.flows.group import GroupFlow
    from tieline.flows.stream import StreamFlow

__all__ = ["RoundTrip", "Turn"]


class Turn:
    """One call after the other, in the order in which they came."""

    __slots__ = ("_flow", "_granted", "_waiting", "is_taken")

    def __init__(self, flow: StreamFlow | GroupFlow) -> None:
        self._flow = flow
        self._waiting: deque[Waiter] = deque()
        self._granted: Waiter | None = None  # whose turn it is, and who has perhaps not run since
        self.is_taken = False

    async def take(self) -> None:
        """Wait for it. Raises NetworkError if the connection ends before; cancelled, the call had no turn."""
        if not self.is_taken:
            self.is_taken = True
            return
        if self._flow.socket is None:
            self._flow.need()
        waiter = self._flow.waiter()
        self._waiting.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif self._granted is waiter:
                self.give()
            raise

    def give(self) -> None:
        """Pass it on."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._granted = waiter
                waiter.set_result(None)
                return
        self._granted = None
        self.is_taken = False

    def fail(self, error: NetworkError) -> None:
        """Those that wait raise. Who has the turn gives it back later."""
        waiting = list(self._waiting)
        self._waiting.clear()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_exception(raisable(error))


class RoundTrip:
    """The answer to a ping: awaiting it gives the seconds that it took. Nothing happens if nobody awaits it.

    Awaiting raises `NetworkError` if the connection ends before the answer.

    Cancelling: the answer can be awaited again.
    """

    __slots__ = ("__weakref__", "_error", "_flow", "_seconds", "_waiting")

    def __init__(self, flow: StreamFlow) -> None:
        self._flow = flow
        self._seconds: float | None = None
        self._error: NetworkError | None = None
        self._waiting: list[Waiter] = []

    def __await__(self) -> Generator[Any, None, float]:
        if self._seconds is None and self._error is None:
            waiter = self._flow.waiter()
            self._waiting.append(waiter)
            try:
                yield from waiter.__await__()
            finally:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
        if self._seconds is None:
            assert self._error is not None  # one of both has come
            raise raisable(self._error)
        return self._seconds

    def answered(self, seconds: float) -> None:
        """The pong came."""
        self._seconds = seconds
        self._wake()

    def failed(self, error: NetworkError) -> None:
        """No pong will come."""
        if self._seconds is None and self._error is None:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
