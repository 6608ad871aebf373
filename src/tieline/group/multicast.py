"""MulticastGroup: which groups to join, and what to hear there."""

from __future__ import annotations

from ipaddress import ip_address

from tieline.endpoints import EndpointLike, HostPort, to_endpoint
from tieline.errors import UnexpectedEndpointTypeError
from tieline.values import Value, value

__all__ = ["MulticastGroup", "bare", "is_same"]


@value
class MulticastGroup(Value):
    """One multicast group or several, each an address and a port: ``MulticastGroup("239.255.0.1:5000", "[ff02::114]:5000")``.

    A member with a scope, such as ``"[ff02::114%eth0]:5000"``, is joined on that interface only.

    - `source`: an IP address; only what it sends is received (source-specific multicast, RFC 4607).
    - `unicast_disabled`: what is sent to an address of this machine instead of a group is not received.

    Raises `ValueError` for an address that is no multicast group, a member without a port or given twice, and a `source` that
    cannot send to the members; `UnexpectedEndpointTypeError` for what is no address at all.
    """

    members: tuple[HostPort, ...]
    source: str | None
    unicast_disabled: bool

    def __init__(self, *members: EndpointLike, source: str | None = None, unicast_disabled: bool = False) -> None:
        if not members:
            raise ValueError("a MulticastGroup has one member or more, got none")
        if not isinstance(unicast_disabled, bool):
            raise TypeError(f"unicast_disabled must be True or False, got {unicast_disabled!r}")
        checked = tuple(_member(to_endpoint(one)) for one in members)
        for number, one in enumerate(checked):
            for other in checked[:number]:
                if is_same(one, other) and (one.interface == other.interface or None in (one.interface, other.interface)):
                    raise ValueError(f"the member {one} is given twice")
        object.__setattr__(self, "members", checked)
        object.__setattr__(self, "source", None if source is None else _source(source, checked))
        object.__setattr__(self, "unicast_disabled", unicast_disabled)

    def has_member(self, address: HostPort) -> bool:
        """Whether an address is that of a member, on whichever interface."""
        return any(is_same(address, member) for member in self.members)

    def __str__(self) -> str:
        return ", ".join(map(str, self.members)) + (f" from {self.source}" if self.source else "")


def _member(endpoint: object) -> HostPort:
    if not isinstance(endpoint, HostPort) or not endpoint.is_literal:
        raise UnexpectedEndpointTypeError(
            "this is no multicast group", endpoint=endpoint, expected="a multicast address with a port"
        )
    if not endpoint.is_multicast:
        raise ValueError(f"a member is a multicast address, in 224.0.0.0/4 or ff00::/8, got {endpoint}")
    if not endpoint.port:
        raise ValueError(f"a member has a port from 1 to 65535, got {endpoint}")
    return endpoint


def _source(source: object, members: tuple[HostPort, ...]) -> str:
    if not isinstance(source, str):
        raise TypeError(f"source must be an IP address as text, got {source!r}")
    try:
        address = ip_address(source)
    except ValueError:
        raise ValueError(f"source must be an IP address, got {source!r}") from None
    if address.is_multicast or address.is_unspecified or "%" in source:
        raise ValueError(f"source must be the address of one host, without scope, got {source!r}")
    for member in members:
        if member.version != address.version:
            raise ValueError(f"source={source} is IPv{address.version}, and cannot send to {member}")
    return str(address)


def bare(host: str) -> str:
    """An address without scope."""
    return host.partition("%")[0]


def is_same(one: HostPort, other: HostPort) -> bool:
    """Whether two addresses name one group, on whichever interface."""
    return (bare(one.host), one.port) == (bare(other.host), other.port)
