"""What goes along with datagrams beside their bytes, as control messages of the kernel: ip(7), ipv6(7), RFC 3542.

Numbers that the socket module lacks are Linux's, from include/uapi/linux/{in,in6}.h and asm-generic/socket.h.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tieline.drivers.asyncio import options
from tieline.protocols.ip import IP, IPMetadata, ServiceClass, received_metadata, traffic_class

__all__ = ["Control", "control_messages", "described", "priority_message", "unfragmented"]

Control = tuple[int, int, bytes]
IPV6_DONTFRAG = 62
INT, TIMESPEC = struct.Struct("=i"), struct.Struct("@ll")
NANOSECOND = 1e-9


def control_messages(metadata: IPMetadata, family: int, usual: ServiceClass) -> Iterator[Control]:
    """What tells the kernel of packets that differ from those that their connection sends usually."""
    v6 = family == socket.AF_INET6
    level = socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP
    if metadata.ecn is not None or metadata.dscp is not None or metadata.service_class is not None:
        kind = socket.IPV6_TCLASS if v6 else socket.IP_TOS
        yield level, kind, INT.pack(traffic_class(metadata, usual))
    if metadata.hop_limit is not None:
        yield level, socket.IPV6_HOPLIMIT if v6 else socket.IP_TTL, INT.pack(metadata.hop_limit)
    if metadata.fragmentation_disabled and v6:
        yield level, IPV6_DONTFRAG, INT.pack(1)


def priority_message(metadata: IPMetadata, usual: ServiceClass) -> tuple[Control, ...]:
    """Their place in this machine's queues, where that is not what Linux derives from the code point (IPv4), or the socket's."""
    if metadata.dscp is not None or (metadata.ecn is None and metadata.service_class is None):
        return ()
    chosen = usual if metadata.service_class is None else metadata.service_class
    if chosen is usual is ServiceClass.BEST_EFFORT:
        return ()
    return ((socket.SOL_SOCKET, options.SO_PRIORITY, INT.pack(options.PRIORITY[chosen])),)


@contextmanager
def unfragmented(sock: Any, metadata: IPMetadata) -> Generator[None, None, None]:
    """IPv4 has no control message for it: what is sent meanwhile leaves whole, or is refused with EMSGSIZE."""
    if not metadata.fragmentation_disabled or sock.family == socket.AF_INET6:
        yield
        return
    usual = sock.getsockopt(socket.IPPROTO_IP, options.IP_MTU_DISCOVER)
    sock.setsockopt(socket.IPPROTO_IP, options.IP_MTU_DISCOVER, options.IP_PMTUDISC_DO)
    try:
        yield
    finally:
        sock.setsockopt(socket.IPPROTO_IP, options.IP_MTU_DISCOVER, usual)


def described(ip: IP, ancillary: Iterable[tuple[int, int, bytes]], clock: Callable[[], float]) -> IPMetadata | None:
    """What the kernel says of packets that have come. It stamps them by the calendar, which becomes the time of that clock."""
    byte = hops = 0
    arrived = 0.0
    for level, kind, data in ancillary:
        match level, kind:
            case (socket.IPPROTO_IP, socket.IP_TOS):
                byte = data[0]
            case (socket.IPPROTO_IPV6, socket.IPV6_TCLASS):
                (byte,) = INT.unpack_from(data)
            case (socket.IPPROTO_IP, socket.IP_TTL) | (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT):
                (hops,) = INT.unpack_from(data)
            case (socket.SOL_SOCKET, options.SO_TIMESTAMPNS):
                seconds, nanoseconds = TIMESPEC.unpack_from(data)
                age = time.time_ns() - seconds * 1_000_000_000 - nanoseconds
                arrived = clock() - max(0, age) * NANOSECOND
            case _:
                pass  # the size of segments, which is the socket's
    return received_metadata(ip, byte, hops, arrived)
