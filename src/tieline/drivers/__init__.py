"""The outside world. Nothing outside this folder imports asyncio, socket or ssl."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tieline.drivers.port import Driver

__all__ = ["current"]


def current() -> Driver:
    """The driver of the running event loop. Raises RuntimeError outside of one."""
    from tieline.drivers.asyncio import AsyncioDriver

    return AsyncioDriver.current()
