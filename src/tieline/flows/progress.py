"""Waiting for a close that takes its time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tieline.errors import CloseTimeoutError, Phase
from tieline.flows.owner import present

if TYPE_CHECKING:
    from tieline.flows.stream import StreamFlow

__all__ = ["progress"]


async def progress(flow: StreamFlow, done: Callable[[], bool], stall: str) -> None:
    """Wait until `done`; when nothing has left for `close_timeout` seconds, abort and raise."""
    if done():
        return
    driver = present(flow._owner).driver
    timeout = flow._parameters.close_timeout
    before = flow.sending.remaining
    stalled = False
    timer = driver.call_later(timeout, lambda: look())

    def look() -> None:
        nonlocal before, stalled, timer
        stalled = flow.sending.remaining == before
        before = flow.sending.remaining
        timer = driver.call_later(timeout, look)
        flow.wake_close()

    try:
        while not done() and flow.is_open and not stalled:  # there are other news: the peer's end, for one
            flow._news = flow.waiter()
            await flow._news
    finally:
        timer.cancel()
        flow._news = None
    if stalled and not done() and flow.is_open:
        flow.abort()
        raise CloseTimeoutError(
            stall,
            endpoint=flow.endpoint,
            phase=Phase.CLOSING,
            expected=f"progress within close_timeout={timeout:g} s",
            got="none; the connection was reset, and the last bytes may be lost",
        )
