"""Interfaces on systems without a driver of their own: addresses from ifaddr, types guessed from names.

A name says little, so these are the names that systems themselves give out; anything else is `OTHER`.
"""

import re
import socket
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address

from tieline.paths import Interface, InterfaceType

# "en0" on macOS is Wi-Fi on laptops and wired on desktops; wired is what the name means.
_TYPES = (
    (InterfaceType.LOOPBACK, re.compile(r"lo\d*|loopback.*", re.IGNORECASE)),
    (InterfaceType.WIFI, re.compile(r"wl.*|ath\d+|iwn\d+|iwm\d+|wi-?fi.*|wireless.*", re.IGNORECASE)),
    (InterfaceType.CELLULAR, re.compile(r"ww.*|pdp_ip\d+|rmnet.*|cellular.*|mobile.*", re.IGNORECASE)),
    (InterfaceType.WIRED, re.compile(r"e[nmt]\w+|e[rm]\d+|igb\d+|bge\d+|re\d+|ethernet.*", re.IGNORECASE)),
)


def addresses() -> dict[int, tuple[str, ...]]:
    """The IP addresses of each interface that has any, without scope, by the interface's index."""
    import ifaddr  # its first import looks for the C library with a child process, so only who asks waits for it

    return {
        adapter.index: tuple(str(ip_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0])) for ip in adapter.ips)
        for adapter in ifaddr.get_adapters()
        if adapter.index is not None
    }


def type_by_name(name: str) -> InterfaceType:
    """What an interface of this name usually is."""
    return next((type for type, pattern in _TYPES if pattern.fullmatch(name)), InterfaceType.OTHER)


def current(
    addresses: Callable[[], Mapping[int, tuple[str, ...]]] = addresses,
    indexes: Callable[[], Iterable[tuple[int, str]]] = socket.if_nameindex,
) -> tuple[Interface, ...]:
    """The interfaces that have an address, by index; whether they are up, these sources do not say."""
    own = addresses()
    return tuple(Interface(name, index, type_by_name(name), own[index]) for index, name in sorted(indexes()) if own.get(index))
