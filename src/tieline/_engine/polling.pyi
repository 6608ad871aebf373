"""Busy polling: an event loop that does not sleep while what comes next is expected soon. Mirrors rust/python/src/polling.rs."""

from typing import Any

__all__ = ["arrived"]

def arrived(event_loop: Any, busy_poll: float | None) -> None:
    """Something has come on this loop for a socket with that `Parameters.busy_poll`."""
