"""The order in which the addresses of one name are tried.

Theory of operation
-------------------

Two steps, both pure::

    answers ──sort_destinations──▶ best first ──interleave──▶ families alternate ──▶ Race

Sorting is destination address selection (RFC 6724 section 6). Each rule asks something about the destination *and* the
source address that the system would use to reach it, so the caller passes a function that knows the source: on Linux a
UDP socket that is connected (which sends nothing) and asked for its own name.

Sorting alone would put all of one family in front, and a broken family would cost one attempt delay per address.
Interleaving bounds that cost to a single delay (RFC 8305 section 4).

Each rule of RFC 6724 compares one number per destination, so the rules together are a tuple and the comparison is
Python's. Python's sort is stable, which is rule 10. Rules 3 (deprecated source), 4 (home address) and 7 (native
transport) need facts about the interface that a source address does not carry; the kernel has weighed the first two
when it chose the source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tieline.endpoints import HostPort

# RFC 8305 section 8: how many addresses of the first family are tried before the other one has its turn.
FIRST_FAMILY_COUNT: Final = 1

# RFC 6724 section 2.1: prefix, precedence, label. The longest matching prefix decides, so the longest comes first.
POLICY_TABLE: Final = tuple(
    (IPv6Network(prefix), precedence, label)
    for prefix, precedence, label in (
        ("::1/128", 50, 0),
        ("::ffff:0:0/96", 35, 4),
        ("::/96", 1, 3),
        ("2001::/32", 5, 5),
        ("2002::/16", 30, 2),
        ("3ffe::/16", 1, 12),
        ("fec0::/10", 1, 11),
        ("fc00::/7", 3, 13),
        ("::/0", 40, 1),
    )
)

# RFC 6724 section 3.1, with the values of the scope field of a multicast address (RFC 4291 section 2.7).
LINK_LOCAL_SCOPE: Final = 0x2
SITE_LOCAL_SCOPE: Final = 0x5
GLOBAL_SCOPE: Final = 0xE

# RFC 4291 section 2.5.1: the lower half of a unicast address names the interface and is no part of the prefix.
INTERFACE_ID_BITS: Final = 64


def sort_destinations(addresses: Sequence[HostPort], source_of: Callable[[HostPort], str | None]) -> list[HostPort]:
    """Sort addresses by RFC 6724 section 6, the best first.

    ``source_of`` is asked once per address for the source address that the system would use; None means that there is
    no route, and puts the address behind all that have one.
    """
    return sorted(addresses, key=lambda address: _sort_key(address.host, source_of(address)))


def interleave(addresses: Sequence[HostPort], first_family_count: int = FIRST_FAMILY_COUNT) -> list[HostPort]:
    """Alternate the families of sorted addresses, beginning with that of the first (RFC 8305 section 4).

    The order inside a family stays. ``first_family_count`` addresses of the first family lead; 2 favours it more.
    Raises ValueError if it is less than 1.
    """
    if first_family_count < 1:
        raise ValueError(f"first_family_count must be 1 or more, not {first_family_count}")
    first_family = [address for address in addresses if _family(address) == _family(addresses[0])]
    other_family = [address for address in addresses if _family(address) != _family(addresses[0])]
    turns = zip_longest(other_family, first_family[first_family_count:])
    alternating = (address for address in chain.from_iterable(turns) if address is not None)
    return [*first_family[:first_family_count], *alternating]


def _sort_key(host: str, source_host: str | None) -> tuple[bool, bool, bool, int, int, int]:
    """Return what RFC 6724 section 6 compares, the smaller the better, one element per rule."""
    destination = _as_ipv6(host)
    precedence, label = _policy(destination)
    scope = _scope(destination)
    if source_host is None:
        # Rule 1 alone tells it from a reachable one; among the unreachable, the rules about the source say nothing.
        return True, True, True, -precedence, scope, 0
    source = _as_ipv6(source_host)
    return (
        False,  # rule 1: avoid unusable destinations
        _scope(source) != scope,  # rule 2: prefer matching scope
        _policy(source)[1] != label,  # rule 5: prefer matching label
        -precedence,  # rule 6: prefer higher precedence; 35 is IPv4 alone, so below this families are not compared
        scope,  # rule 8: prefer smaller scope
        -_common_prefix_length(source, destination),  # rule 9: longest matching prefix
    )


def _as_ipv6(host: str) -> IPv6Address:
    """Return the address as the rules see it: IPv4 as IPv4-mapped (RFC 6724 section 2)."""
    address = ip_address(host)
    return IPv6Address(f"::ffff:{address}") if isinstance(address, IPv4Address) else address


def _family(address: HostPort) -> int:
    return ip_address(address.host).version


def _policy(address: IPv6Address) -> tuple[int, int]:
    """Return precedence and label."""
    return next((precedence, label) for prefix, precedence, label in POLICY_TABLE if address in prefix)


def _scope(address: IPv6Address) -> int:
    """Return the scope (RFC 6724 sections 3.1 and 3.2); private IPv4 and unique local IPv6 addresses are global."""
    native = address.ipv4_mapped or address
    if isinstance(native, IPv6Address) and native.is_multicast:
        return native.packed[1] & 0x0F
    if native.is_link_local or native.is_loopback:
        return LINK_LOCAL_SCOPE
    return SITE_LOCAL_SCOPE if address.is_site_local else GLOBAL_SCOPE


def _common_prefix_length(source: IPv6Address, destination: IPv6Address) -> int:
    """Return how many leading bits agree, the interface identifier left out (RFC 6724 section 2.2).

    IPv4-mapped addresses agree in all of these bits, so the rule leaves IPv4 alone. glibc does the same beyond the own
    subnet: IPv4 prefixes were not handed out by topology, so a longer match does not mean a nearer host, and would only
    defeat the rotation of answers that spreads load.
    """
    difference = (int(source) ^ int(destination)) >> INTERFACE_ID_BITS
    return 128 - INTERFACE_ID_BITS - difference.bit_length()
