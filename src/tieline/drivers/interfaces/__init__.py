"""Where the network is looked up: on Linux in the kernel, elsewhere as far as the system tells without more."""

from __future__ import annotations

import socket
import sys
from typing import Protocol

from tieline.paths import Network

__all__ = ["Source", "source"]


class Source(Protocol):
    """Knows the network, and perhaps when it changes."""

    def look(self) -> Network: ...
    def subscribe(self) -> socket.socket | None: ...
    def hear(self) -> bool: ...
    def close(self) -> None: ...


def source() -> Source:
    """The best that this system has."""
    if sys.platform == "linux":
        from tieline.drivers.interfaces import linux

        try:
            return linux.Source()
        except OSError:  # a sandbox without routing sockets
            pass
    from tieline.drivers.interfaces import portable

    return portable.Source()
