"""Between our addresses and the tuples of the socket module."""

from __future__ import annotations

import ipaddress
import socket
from functools import lru_cache
from typing import Any

from tieline.drivers.port import Address
from tieline.endpoints import HostPort, UnixEndpoint

__all__ = ["family_of", "from_sockaddr", "own_address", "plain", "to_sockaddr"]

OWN_ADDRESSES_KEPT = 64

SockAddr = Any


def plain(host: str, port: int) -> HostPort:
    """Of an IPv4 address, which the system writes in its one form: nothing has to be looked at."""
    address: HostPort = new(HostPort)
    set_host(address, host)
    set_port(address, port)
    return address


new, set_host, set_port = object.__new__, vars(HostPort)["host"].__set__, vars(HostPort)["port"].__set__


def family_of(address: Address) -> socket.AddressFamily:
    """AF_INET, AF_INET6 or AF_UNIX."""
    if isinstance(address, UnixEndpoint):
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in address.host else socket.AF_INET


def to_sockaddr(address: Address) -> SockAddr:
    """What `connect` and `bind` take. Raises OSError if an IPv6 scope names no interface."""
    if isinstance(address, UnixEndpoint):
        return address.path
    host, _, scope = address.host.partition("%")
    if ":" not in host:
        return (host, address.port)
    if not scope:
        return (host, address.port)
    return (host, address.port, 0, int(scope) if scope.isdigit() else socket.if_nametoindex(scope))


def from_sockaddr(sockaddr: SockAddr) -> Address | None:
    """The address of a socket as the socket module tells it; None for an unnamed Unix socket."""
    if isinstance(sockaddr, bytes):
        sockaddr = sockaddr.decode("utf-8", "surrogateescape")
    if isinstance(sockaddr, str):
        return UnixEndpoint(sockaddr) if sockaddr else None
    if len(sockaddr) == 2:
        return plain(*sockaddr)
    host, port, *rest = sockaddr
    if len(rest) == 2 and rest[1] and "%" not in host and ipaddress.IPv6Address(host).is_link_local:
        try:
            host = f"{host}%{socket.if_indextoname(rest[1])}"
        except OSError:  # the interface went meanwhile: its number is still the truth
            host = f"{host}%{rest[1]}"
    return HostPort(host, port)


@lru_cache(OWN_ADDRESSES_KEPT)
def own_address(sockaddr: Any) -> Address | None:
    """The address that accepted sockets have on our side: the same for many."""
    return from_sockaddr(sockaddr)
