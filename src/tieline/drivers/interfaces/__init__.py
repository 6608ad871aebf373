"""Where the network is looked up: on Linux in the kernel, elsewhere as far as the system tells without more."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Protocol

from tieline.paths import Network

__all__ = ["Source", "source"]


class Source(Protocol):
    """Knows the network, and perhaps when it changes."""

    def look(self) -> Network:
        """The network as it is now. Raises OSError if the system does not tell."""
        ...

    def subscribe(self) -> Sequence[int]:
        """File descriptors that are readable when something may have changed; `hear` takes that in."""
        ...

    def linger(self) -> float:
        """Hear of changes from now on, for who may ask again; for so many seconds after a look they are all that can be.

        It may be forgotten without closing it. 0 where changes are not told.
        """
        ...

    @property
    def tells_all(self) -> bool:
        """Whether the descriptors tell of every change. If not, somebody has to look again and again."""
        ...

    def hear(self) -> bool:
        """Whether something has changed since the last time. Raises OSError if one that tells is gone: make another source."""
        ...

    def close(self) -> None:
        """Ask and hear no more."""
        ...


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
