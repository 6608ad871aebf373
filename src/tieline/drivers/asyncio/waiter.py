"""What a coroutine awaits: like a future, but a callback of the event loop may run the coroutine at once.

A future that is completed asks the loop to run its task in the next turn, which costs a look at the selector and some
bookkeeping: as much as everything else that a small message needs. When bytes arrive, the loop is in a callback of ours and no
task is running, so the task that waits for them can just as well go on there and then. That is `resume`; everything else is
as with futures. asyncio lets any object be awaited that has these members (see `asyncio.isfuture`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any

__all__ = ["Waiter", "waiters"]


class Waiter:
    """For one coroutine, which awaits it once.

    The class attributes are what a new one begins with; so making one runs no code of ours.
    """

    _loop: asyncio.AbstractEventLoop
    _asyncio_future_blocking = True  # the task takes it back when it has seen that it has to wait
    _callback: Callable[[Any], object] | None = None
    _context: Context
    _done = False
    _error: BaseException | None = None

    def done(self) -> bool:
        return self._done

    def set_result(self, result: None, /) -> None:
        self._complete(None)

    def set_exception(self, error: BaseException, /) -> None:
        self._complete(error)

    def cancel(self, msg: Any = None) -> bool:
        if self._done:
            return False
        self._complete(asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg))
        return True

    def _complete(self, error: BaseException | None) -> None:
        if self._done:
            raise asyncio.InvalidStateError("this waiter has been completed before")
        self._done = True
        self._error = error
        if self._callback is not None:
            self._loop.call_soon(self._callback, self, context=self._context)

    def resume(self) -> None:
        """Complete, and run the coroutine until it waits again. Only from a callback of the loop, never from inside a task."""
        self._done = True
        if self._callback is not None:
            self._context.run(self._callback, self)

    # For the task that waits: it is given the waiter, calls `result` when that is done, and throws what that raises.

    def __await__(self) -> Generator[Any, None, None]:
        if self._done:
            self.result()
            return iter(())  # type: ignore[return-value]  # nobody sends into these or throws: any iterator does
        return iter((self,))  # type: ignore[return-value]

    def add_done_callback(self, callback: Callable[[Any], object], /, *, context: Context) -> None:
        self._callback = callback
        self._context = context

    def result(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # its traceback leads here, and from here to itself


def waiters(loop: asyncio.AbstractEventLoop) -> Callable[[], Waiter]:
    """What makes waiters for this loop."""
    return type("Waiter", (Waiter,), {"_loop": loop})
