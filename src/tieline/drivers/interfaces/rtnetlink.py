"""Messages of the kernel's routing socket as values: links, addresses and routes (rtnetlink(7), linux/rtnetlink.h).

Only bytes go in and values come out. Whatever is not understood is left out, so a newer kernel does no harm.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from tieline.paths import Route
from tieline.values import Value, value

__all__ = [
    "ADDRESSES", "LINKS", "ROUTES", "Link", "address_of", "link_of", "messages", "request", "routes_of",
]  # fmt: skip

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
ATTRIBUTE = struct.Struct("=HH")  # length, type
LINK = struct.Struct("=BxHiII")  # family, hardware type, index, flags, change
ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
ROUTE = struct.Struct("=BBBBBBBBI")  # family, destination and source length, tos, table, protocol, scope, type, flags
NEXT_HOP = struct.Struct("=HBBi")  # length, flags, hops, index
NUMBER = struct.Struct("=I")
FAMILY = struct.Struct("=H")

ERROR, DONE = 2, 3
NEW_LINK, LINKS = 16, 18
NEW_ADDRESS, ADDRESSES = 20, 22
NEW_ROUTE, ROUTES = 24, 26
REQUEST, DUMP, INTERRUPTED = 0x1, 0x300, 0x10  # flags
TYPE = 0x3FFF  # of an attribute, without its flags

IFLA_IFNAME, IFLA_LINKINFO, IFLA_EXT_MASK, IFLA_INFO_KIND = 3, 18, 29, 1
SKIP_STATISTICS = 0x8  # RTEXT_FILTER_SKIP_STATS
IFF_UP, IFF_LOOPBACK, IFF_RUNNING = 0x1, 0x8, 0x40
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
UNUSABLE = 0x40 | 0x08  # IFA_F_TENTATIVE and IFA_F_DADFAILED: not to be bound, yet or ever
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_MULTIPATH, RTA_TABLE, RTA_VIA = 1, 4, 5, 6, 9, 15, 18
UNICAST, REFUSALS = 1, (6, 7, 8)  # black hole, unreachable, prohibited
UNSPECIFIED, DEFAULT_TABLE, MAIN, LOCAL = 0, 253, 254, 255  # tables
CLONED = 0x200  # a route's flag: of the kernel's cache
VERSIONS = {int(socket.AF_INET): 4, int(socket.AF_INET6): 6}
SIZES = {int(socket.AF_INET): 4, int(socket.AF_INET6): 16}

Attributes = dict[int, memoryview]


@value
class Link(Value):
    """A network device. `kind` is what made it, such as "veth" or "bridge", empty for hardware."""

    name: str
    index: int
    is_running: bool
    is_loopback: bool
    kind: str


def request(what: int) -> bytes:
    """A request for all `LINKS`, `ADDRESSES` or `ROUTES`."""
    body = LINK.pack(0, 0, 0, 0, 0) + ATTRIBUTE.pack(8, IFLA_EXT_MASK) + NUMBER.pack(SKIP_STATISTICS)
    if what != LINKS:
        body = ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0) if what == ROUTES else ADDRESS.pack(0, 0, 0, 0, 0)
    return HEADER.pack(HEADER.size + len(body), what, REQUEST | DUMP, 1, 0) + body


def messages(data: bytes) -> Iterator[tuple[int, int, memoryview]]:
    """The type, flags and body of each message in what was received."""
    view = memoryview(data)
    while len(view) >= HEADER.size:
        length, kind, flags, _, _ = HEADER.unpack_from(view)
        if not HEADER.size <= length <= len(view):
            return
        yield kind, flags, view[HEADER.size : length]
        view = view[_aligned(length) :]


def link_of(body: memoryview) -> Link | None:
    """The link of a `NEW_LINK` message."""
    if len(body) < LINK.size:
        return None
    _, _, index, flags, _ = LINK.unpack_from(body)
    attributes = _attributes(body[LINK.size :])
    name = bytes(attributes.get(IFLA_IFNAME, b"")).rstrip(b"\0").decode("utf-8", "surrogateescape")
    kind = bytes(_attributes(attributes.get(IFLA_LINKINFO, memoryview(b""))).get(IFLA_INFO_KIND, b"")).rstrip(b"\0")
    running = flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING
    return Link(name, index, running, bool(flags & IFF_LOOPBACK), kind.decode("ascii", "replace"))


def address_of(body: memoryview) -> tuple[int, str] | None:
    """The interface's index and the address of a `NEW_ADDRESS` message; None if it cannot be used."""
    if len(body) < ADDRESS.size:
        return None
    family, _, flags, _, index = ADDRESS.unpack_from(body)
    attributes = _attributes(body[ADDRESS.size :])
    flags = _number(attributes.get(IFA_FLAGS)) or flags
    address = _address(family, attributes.get(IFA_LOCAL, attributes.get(IFA_ADDRESS)))
    return None if address is None or flags & UNUSABLE else (index, address)


def routes_of(body: memoryview) -> Iterator[Route]:
    """The routes of a `NEW_ROUTE` message, one for each next hop; none if it does not lead to other machines."""
    if len(body) < ROUTE.size:
        return
    family, length, source_length, _, table, _, _, kind, flags = ROUTE.unpack_from(body)
    attributes = _attributes(body[ROUTE.size :])
    table = _number(attributes.get(RTA_TABLE)) or table
    if family not in VERSIONS or table in (UNSPECIFIED, LOCAL) or flags & CLONED or not (kind == UNICAST or kind in REFUSALS):
        return
    prefix = int.from_bytes(attributes.get(RTA_DST, b""), "big")
    metric = _number(attributes.get(RTA_PRIORITY))
    # What depends on the source's address is a rule of policy, too.
    by_policy = table not in (MAIN, DEFAULT_TABLE) or source_length > 0
    if kind in REFUSALS:
        yield Route(VERSIONS[family], prefix, length, None, None, metric, by_policy)
        return
    hops = [(_number(attributes.get(RTA_OIF)), attributes)]
    if (several := attributes.get(RTA_MULTIPATH)) is not None:
        hops = list(_next_hops(several))
    for index, hop in hops:
        if index:
            yield Route(VERSIONS[family], prefix, length, index, _gateway(family, hop), metric, by_policy)


def _next_hops(view: memoryview) -> Iterator[tuple[int, Attributes]]:
    while len(view) >= NEXT_HOP.size:
        length, _, _, index = NEXT_HOP.unpack_from(view)
        if not NEXT_HOP.size <= length <= len(view):
            return
        yield index, _attributes(view[NEXT_HOP.size : length])
        view = view[_aligned(length) :]


def _gateway(family: int, attributes: Attributes) -> str | None:
    via = attributes.get(RTA_VIA)  # a router of the other IP version (RFC 9229)
    if via is not None and len(via) > 2:
        return _address(FAMILY.unpack_from(via)[0], via[FAMILY.size :])
    return _address(family, attributes.get(RTA_GATEWAY))


def _address(family: int, packed: memoryview | None) -> str | None:
    if packed is None or len(packed) != SIZES.get(family):
        return None
    return socket.inet_ntop(family, packed)


def _number(packed: memoryview | None) -> int:
    return NUMBER.unpack_from(packed)[0] if packed is not None and len(packed) >= NUMBER.size else 0


def _attributes(view: memoryview) -> Attributes:
    found: Attributes = {}
    while len(view) >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(view)
        if not ATTRIBUTE.size <= length <= len(view):
            break
        found[kind & TYPE] = view[ATTRIBUTE.size : length]
        view = view[_aligned(length) :]
    return found


def _aligned(length: int) -> int:
    return length + 3 & ~3
