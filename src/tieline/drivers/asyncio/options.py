"""Protocol values become socket options.

Numbers that the socket module lacks are Linux's, from include/uapi/linux/{in,in6,tcp}.h and asm-generic/socket.h. What
this system cannot do for one socket raises ENOPROTOOPT with the option's name: it is done or refused, never ignored.
A Unix socket has no network below it, so none of them applies to one.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any

from tieline.parameters import Multipath, Parameters
from tieline.protocols.ip import IP, AddressPreference, ServiceClass, traffic_class
from tieline.protocols.tcp import TCP
from tieline.protocols.udp import UDP

__all__ = [
    "apply_accepted", "apply_datagram", "apply_ecn", "apply_stream", "is_multipath", "require_supported", "stream_socket",
]  # fmt: skip

LINUX = sys.platform == "linux"
ONE_PATH = Multipath.DISABLED  # before Python 3.12, to look it up there takes longer than what is done with it
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2
IPV6_MTU_DISCOVER, IPV6_MTU, IPV6_ADDR_PREFERENCES = 23, 24, 72
IPV6_PREFER_SRC_TMP, IPV6_PREFER_SRC_PUBLIC = 0x1, 0x2
IPV6_MINIMUM_MTU = 1280  # RFC 8200 section 5
IPV6_MINIMUM_MTU_SEGMENT = IPV6_MINIMUM_MTU - 40 - 20  # what TCP may put into it behind the headers of IPv6 and TCP
IP_RECVTTL, IP_RECVTOS, IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS = 12, 13, 51, 66
SO_NO_CHECK, SO_TIMESTAMPNS = 11, 35
SO_PRIORITY = getattr(socket, "SO_PRIORITY", 12)
TCP_FASTOPEN = getattr(socket, "TCP_FASTOPEN", 23)
TCP_FASTOPEN_CONNECT = 30
IPPROTO_MPTCP, SOL_MPTCP, MPTCP_INFO = 262, 284, 1  # linux/in.h, linux/socket.h, linux/mptcp.h

# Linux queues by SO_PRIORITY (tc-prio(8)); above 6 needs CAP_NET_ADMIN.
PRIORITY = {
    ServiceClass.BACKGROUND: 1,
    ServiceClass.BEST_EFFORT: 0,
    ServiceClass.RESPONSIVE_DATA: 3,
    ServiceClass.SIGNALING: 4,
    ServiceClass.INTERACTIVE_VIDEO: 5,
    ServiceClass.INTERACTIVE_VOICE: 6,
}

STREAM = int(socket.SOCK_STREAM) | getattr(socket, "SOCK_NONBLOCK", 0)  # Linux has the latter, which saves a system call
Option = tuple[int, int, int | bytes]

_LINUX_TCP = ("no_push", "retransmit_connection_drop_time", "ack_stretching_disabled", "fast_open_allowed")


def require_supported(parameters: Parameters[Any]) -> None:
    """Raise for options that exist on this system only for everybody, or not at all."""
    tcp: TCP | None = parameters.stack.find(TCP)
    ip: IP | None = parameters.stack.find(IP)
    refused: list[str] = []
    if tcp is not None and (tcp.no_options or tcp.retransmit_fin_drop or tcp.ecn_disabled):
        refused += [
            f"TCP({option}={getattr(tcp, option)!r})"
            for option in ("no_options", "retransmit_fin_drop", "ecn_disabled")
            if getattr(tcp, option)
        ]
    if tcp is not None and tcp.persist_timeout is not None:
        refused.append(f"TCP(persist_timeout={tcp.persist_timeout!r})")
    if not LINUX:
        if tcp is not None:
            refused += [f"TCP({option}={getattr(tcp, option)!r})" for option in _LINUX_TCP if getattr(tcp, option)]
        if ip is not None:
            refused += [
                f"IP({option}=True)"
                for option in ("use_minimum_mtu", "fragmentation_disabled", "metadata_received", "receive_time_calculated")
                if getattr(ip, option)
            ]
            if ip.local_address_preference is not AddressPreference.DEFAULT:
                refused.append(f"IP(local_address_preference={ip.local_address_preference})")
        udp: UDP | None = parameters.stack.find(UDP)
        if udp is not None and udp.no_checksum_preferred:
            refused.append("UDP(no_checksum_preferred=True)")
        if parameters.required_interface is not None:
            refused.append(f"Parameters(required_interface={parameters.required_interface!r})")
        if parameters.service_class is not ServiceClass.BEST_EFFORT:
            refused.append(f"Parameters(service_class={parameters.service_class})")
    if refused:
        raise OSError(
            errno.ENOPROTOOPT,
            f"{', '.join(refused)} cannot be set for one connection on {sys.platform}: leave it out",
        )


def stream_socket(family: int, parameters: Parameters[Any]) -> socket.SocketType:
    """A stream socket that does not block, of Multipath TCP if the parameters want that and the system has it. Raises OSError.

    It is what `socket.socket` is made of, whose names for numbers and files on sockets nobody here needs.
    """
    if LINUX and family != socket.AF_UNIX and wants_multipath(parameters):
        try:
            return socket.SocketType(family, STREAM, IPPROTO_MPTCP)
        except OSError as error:
            if error.errno not in (errno.EPROTONOSUPPORT, errno.ENOPROTOOPT, errno.EPERM):  # built without, or switched off
                raise
    sock = socket.SocketType(family, STREAM)
    return sock if LINUX else unblocked(sock)


def wants_multipath(parameters: Parameters[Any]) -> bool:
    return parameters.multipath is not ONE_PATH


def of_stream(family: int, parameters: Parameters[Any]) -> tuple[Option, ...]:
    """What is set on a TCP socket of an IP version."""
    return parameters.kept(_STREAM[family])


def accepted_socket(descriptor: int, family: int, protocol: int) -> socket.SocketType:
    """The socket of a descriptor that was accepted, which is the socket's from here on."""
    sock = socket.SocketType(family, STREAM, protocol, descriptor)
    return sock if LINUX else unblocked(sock)


def unblocked(sock: socket.SocketType) -> socket.SocketType:
    """On Linux `STREAM` says so."""
    sock.setblocking(False)
    return sock


def is_multipath(sock: socket.SocketType) -> bool:
    """Whether a connected socket speaks Multipath TCP: this side asked, and the peer agreed (RFC 8684 section 3.1)."""
    try:
        return bool(sock.getsockopt(SOL_MPTCP, MPTCP_INFO, 128))
    except OSError:  # an ordinary socket, or one that fell back to being one
        return False


def apply_stream(
    sock: socket.SocketType, family: int, parameters: Parameters[Any], *, listening: bool, on_syn: bool = False
) -> None:
    """Set everything on a stream socket that is not yet bound or connected. Raises OSError.

    `on_syn`: there are bytes for the SYN. Without any, Linux would not even send that before the first write.
    """
    if family == socket.AF_UNIX:
        return
    _bind_to_interface(sock, parameters.required_interface)
    try:
        _set(sock, of_stream(family, parameters))
    except OSError as error:
        if sock.proto == IPPROTO_MPTCP and error.errno in (errno.EOPNOTSUPP, errno.ENOPROTOOPT):
            raise _not_on_multipath(family, parameters) from error
        raise
    if listening:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp: TCP | None = parameters.stack.find(TCP)
        if tcp is not None and tcp.fast_open_allowed:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN, parameters.backlog)
    elif on_syn:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)


def _not_on_multipath(family: int, parameters: Parameters[Any]) -> OSError:
    """Linux does not pass every option of TCP and IP on to the paths of Multipath TCP; which of them depends on its version."""
    layers = [layer for layer in parameters.stack.layers if isinstance(layer, (TCP, IP))]
    given = [
        f"{layer.name}({field.name}={getattr(layer, field.name)!r})"
        for layer in layers
        for field in fields(layer)
        if field.name != "below" and getattr(layer, field.name) != field.default
    ]
    if parameters.service_class is not ServiceClass.BEST_EFFORT:
        given.append(f"Parameters(service_class={parameters.service_class})")
    version = 6 if family == socket.AF_INET6 else 4
    what = f"Multipath TCP over IPv{version} does not take all of {', '.join(given)} on {sys.platform}"
    return OSError(errno.ENOPROTOOPT, f"{what}: leave that out, or multipath")


def apply_accepted(sock: socket.SocketType, family: int, parameters: Parameters[Any]) -> None:
    """Linux hands a listener's options down to what it accepts, but not the priority; elsewhere all are set again."""
    _set(sock, _accepted_options(family, parameters))


def has_accepted_options(family: int, parameters: Parameters[Any]) -> bool:
    """Whether something is to be set on what a listener accepts."""
    return bool(_accepted_options(family, parameters))


def _accepted_options(family: int, parameters: Parameters[Any]) -> tuple[Option, ...]:
    if family == socket.AF_UNIX:
        return ()
    return parameters.kept(_stream_priority) if LINUX else of_stream(family, parameters)


def apply_datagram(sock: socket.socket, parameters: Parameters[Any]) -> None:
    """Set everything on a datagram socket that is not yet bound or connected. Raises OSError."""
    if sock.family == socket.AF_UNIX:
        return
    _bind_to_interface(sock, parameters.required_interface)
    _set(sock, _common(sock.family, parameters))
    ip: IP = parameters.stack.find(IP) or IP()
    _set(sock, _multicast(sock.family, ip))
    _set(sock, _described(sock.family, ip))
    udp: UDP | None = parameters.stack.find(UDP)
    if udp is not None and udp.no_checksum_preferred and sock.family == socket.AF_INET:
        sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)


def _set(sock: socket.SocketType, options: Iterable[Option]) -> None:
    for level, option, value in options:
        sock.setsockopt(level, option, value)


def _bind_to_interface(sock: socket.SocketType, name: str | None) -> None:
    """Let packets leave and come only by one interface. Any user may do that once for each socket, since Linux 5.7."""
    if name is None:
        return
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
    except PermissionError as error:
        needed = "this system wants CAP_NET_RAW for that, as Linux before 5.7 and some sandboxes do"
        raise PermissionError(error.errno, f"a socket may not be bound to interface {name}: {needed}") from None


def _common(family: int, parameters: Parameters[Any]) -> Iterator[Option]:
    if parameters.local_endpoint_reuse_allowed:
        yield socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        if hasattr(socket, "SO_REUSEPORT"):
            yield socket.SOL_SOCKET, socket.SO_REUSEPORT, 1
    ip: IP = parameters.stack.find(IP) or IP()
    v6 = family == socket.AF_INET6
    if ip.hop_limit is not None:
        if v6:
            yield socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ip.hop_limit
        else:
            yield socket.IPPROTO_IP, socket.IP_TTL, ip.hop_limit
    if ip.use_minimum_mtu and v6:
        yield socket.IPPROTO_IPV6, IPV6_MTU, IPV6_MINIMUM_MTU
    if ip.fragmentation_disabled:
        if v6:
            yield socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_DO
            yield socket.IPPROTO_IPV6, socket.IPV6_DONTFRAG, 1
        else:
            yield socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO
    if v6 and ip.local_address_preference is not AddressPreference.DEFAULT:
        temporary = ip.local_address_preference is AddressPreference.TEMPORARY
        yield socket.IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, IPV6_PREFER_SRC_TMP if temporary else IPV6_PREFER_SRC_PUBLIC
    if parameters.service_class is not ServiceClass.BEST_EFFORT:
        yield _traffic_class(v6, traffic_class(None, parameters.service_class))
    yield from _priority(parameters)


def _stream_v4(parameters: Parameters[Any]) -> tuple[Option, ...]:
    return _stream(socket.AF_INET, parameters)


def _stream_v6(parameters: Parameters[Any]) -> tuple[Option, ...]:
    return _stream(socket.AF_INET6, parameters)


_STREAM: dict[int, Callable[[Parameters[Any]], tuple[Option, ...]]] = {
    socket.AF_INET: _stream_v4,
    socket.AF_INET6: _stream_v6,
}


def _stream(family: int, parameters: Parameters[Any]) -> tuple[Option, ...]:
    tcp: TCP | None = parameters.stack.find(TCP)
    return (*_common(family, parameters), *(() if tcp is None else _tcp(family, tcp)))


def _stream_priority(parameters: Parameters[Any]) -> tuple[Option, ...]:
    return tuple(_priority(parameters))


def _traffic_class(v6: bool, value: int) -> Option:
    """The byte with DSCP and ECN bits. Over IPv4 Linux also sets a priority of its own choice with it: that comes after."""
    return (socket.IPPROTO_IPV6, socket.IPV6_TCLASS, value) if v6 else (socket.IPPROTO_IP, socket.IP_TOS, value)


def apply_ecn(sock: socket.socket, parameters: Parameters[Any], ecn: int) -> None:
    """Set the ECN bits of what a datagram socket sends from now on."""
    byte = traffic_class(None, parameters.service_class) | ecn
    _set(sock, (_traffic_class(sock.family == socket.AF_INET6, byte), *_priority(parameters)))


def _described(family: int, ip: IP) -> Iterator[Option]:
    """What the kernel is to tell of each datagram."""
    if ip.metadata_received:
        if family == socket.AF_INET6:
            yield socket.IPPROTO_IPV6, IPV6_RECVTCLASS, 1
            yield socket.IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1
        else:
            yield socket.IPPROTO_IP, IP_RECVTOS, 1
            yield socket.IPPROTO_IP, IP_RECVTTL, 1
    if ip.receive_time_calculated:
        yield socket.SOL_SOCKET, SO_TIMESTAMPNS, 1


def _priority(parameters: Parameters[Any]) -> Iterator[Option]:
    if parameters.service_class is not ServiceClass.BEST_EFFORT:
        yield socket.SOL_SOCKET, SO_PRIORITY, PRIORITY[parameters.service_class]


def _multicast(family: int, ip: IP) -> Iterator[Option]:
    """For datagram sockets: a stream socket refuses these options."""
    v6 = family == socket.AF_INET6
    if ip.hop_limit is not None:
        if v6:
            yield socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ip.hop_limit
        else:
            yield socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ip.hop_limit
    if ip.multicast_loopback_disabled:
        if v6:
            yield socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0
        else:
            yield socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0


def _tcp(family: int, tcp: TCP) -> Iterator[Option]:
    level = socket.IPPROTO_TCP
    if tcp.no_delay:
        yield level, socket.TCP_NODELAY, 1
    if tcp.no_push:
        yield level, socket.TCP_CORK, 1
    if tcp.ack_stretching_disabled:
        yield level, socket.TCP_QUICKACK, 1
    if tcp.keepalive is not None:
        yield socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1
        yield level, getattr(socket, "TCP_KEEPIDLE", 0x10), tcp.keepalive.idle  # TCP_KEEPALIVE on macOS
        yield level, socket.TCP_KEEPINTVL, tcp.keepalive.interval
        yield level, socket.TCP_KEEPCNT, tcp.keepalive.count
    segment = tcp.maximum_segment_size
    if tcp.below.use_minimum_mtu and family == socket.AF_INET6:  # TCP makes its packets by the segment, not by IPV6_MTU
        segment = min(segment or IPV6_MINIMUM_MTU_SEGMENT, IPV6_MINIMUM_MTU_SEGMENT)
    if segment is not None:
        yield level, socket.TCP_MAXSEG, segment
    if tcp.retransmit_connection_drop_time is not None:
        yield level, socket.TCP_USER_TIMEOUT, max(1, round(tcp.retransmit_connection_drop_time * 1000))
