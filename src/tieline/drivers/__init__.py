"""The outside world. Nothing outside this folder imports asyncio, socket or ssl."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from tieline.drivers.port import Driver

__all__ = ["current", "enter", "leave"]

_Entered: TypeAlias = "tuple[Driver, _Entered | None]"
_running: Callable[[], Driver] | None = None  # as soon as somebody wants it: the driver of the running event loop
_entered: ContextVar[_Entered | None] = ContextVar("tieline driver", default=None)


def current() -> Driver:
    """The driver that was entered in this context, or else the running event loop's. Raises RuntimeError outside of one."""
    entered = _entered.get()
    if entered is not None:
        return entered[0]
    global _running
    if _running is None:
        from tieline.drivers.asyncio import AsyncioDriver

        _running = AsyncioDriver.current
    return _running()


def enter(driver: Driver) -> None:
    """Let everything that is started in this context, and in tasks that are made in it, use this driver."""
    _entered.set((driver, _entered.get()))


def leave() -> None:
    """Go back to the driver before."""
    entered = _entered.get()
    assert entered is not None  # `enter` came before
    _entered.set(entered[1])
