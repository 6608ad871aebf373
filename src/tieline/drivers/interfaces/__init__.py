"""Which interfaces there are: those that are up and have an IP address, loopback included."""

import sys

from tieline.paths import Interface


def current() -> tuple[Interface, ...]:
    """The interfaces as they are now, by index. Raises `OSError` if the system does not tell."""
    if sys.platform == "linux":
        from tieline.drivers.interfaces import linux as system
    else:
        from tieline.drivers.interfaces import portable as system
    return system.current()
