"""The network on systems without a source of their own: addresses from ifaddr, types guessed from names, no routes.

A name says little, so these are the names that systems themselves give out; anything else is `OTHER`. Nobody tells of changes:
who wants to know them has to look again.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address

from tieline.paths import Interface, InterfaceType, Network

__all__ = ["Source", "dns_servers"]

RESOLVER_FILE = "/etc/resolv.conf"

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
    return tuple(
        Interface(name, index, type, own[index], is_expensive=type is InterfaceType.CELLULAR)
        for index, name in sorted(indexes())
        if own.get(index)
        for type in (type_by_name(name),)
    )


def dns_servers(path: str = RESOLVER_FILE) -> tuple[str, ...] | None:
    """The addresses of the servers that resolv.conf(5) names; None without that file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            rows = [line.split() for line in file]
    except OSError:
        return None
    return tuple(row[1] for row in rows if len(row) > 1 and row[0] == "nameserver")


class Source:
    """The interfaces and addresses, each time anew."""

    def __init__(self, interfaces: Callable[[], tuple[Interface, ...]] | None = None) -> None:
        self._interfaces = interfaces or current

    def look(self) -> Network:
        """The network as it is now. Raises OSError if the system does not tell."""
        return Network(self._interfaces(), None, dns_servers())

    tells_all = False

    def subscribe(self) -> Sequence[int]:
        """Nobody tells of changes."""
        return ()

    def linger(self) -> float:
        """Nobody tells of changes."""
        return 0.0

    def hear(self) -> bool:
        """Nobody has said anything."""
        return False

    def close(self) -> None:
        """There is nothing to close."""
