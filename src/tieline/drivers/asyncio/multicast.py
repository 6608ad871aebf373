"""Multicast sockets on Linux: several memberships, each on an interface of its own, and datagrams that leave by one.

What a socket has not joined it does not hear (Linux would give it the groups of all sockets), and it is told with each datagram
where that was sent to and by which interface it came. A socket is not bound to an interface: then it would not hear programs of
this machine, which the loopback leads to.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from tieline.drivers.asyncio import options
from tieline.drivers.asyncio.addresses import family_of, from_sockaddr, to_sockaddr
from tieline.drivers.asyncio.ancillary import Control, control_messages, described, priority_message, unfragmented
from tieline.drivers.asyncio.udp import (
    DEFAULT_MTU,
    IP_MTU,
    IPV4_HEADERS,
    IPV6_HEADERS,
    IPV6_MTU,
    LARGEST,
    LIMIT_LIFETIME,
    mtu_towards,
)
from tieline.drivers.port import Arrival, Buffer, MulticastHandler
from tieline.endpoints import HostPort
from tieline.protocols.ip import IP, IPMetadata

if TYPE_CHECKING:
    from tieline.parameters import Parameters

__all__ = ["UDPMulticastSocket"]

READS_PER_WAKEUP = 64
NAMES_KEPT = 256  # addresses of senders and receivers, so that they need not be made again
ANCILLARY = 256  # bytes of control messages: where a datagram was sent to, and what other options ask for

# linux/in.h, linux/in6.h
IP_PKTINFO, IP_MULTICAST_ALL, IPV6_MULTICAST_ALL = 8, 49, 29
MCAST_JOIN_GROUP, MCAST_LEAVE_GROUP, MCAST_JOIN_SOURCE_GROUP = 42, 45, 46
IPV4_INFO, IPV6_INFO = struct.Struct("=i4s4s"), struct.Struct("=16si")  # in_pktinfo, in6_pktinfo
STORAGE = 128  # sizeof(struct sockaddr_storage)
IPV6_SCOPED = (1, 2)  # RFC 4291 section 2.7: groups of one interface or link, which mean nothing without it

FULL = frozenset({errno.ENOBUFS, errno.ENOMEM})  # net.ipv4.igmp_max_memberships or net.core.optmem_max is reached for one socket

Place = tuple[Any, ...]
"""Where a socket is bound, as the socket module has it."""


class UDPMulticastSocket:
    """One port, and as many sockets as its memberships need: a socket has room for so many."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        buffer: memoryview,
        at: HostPort,
        parameters: Parameters[Any],
        handler: MulticastHandler,
        clock: Callable[[], float],
        *,
        unicast: bool,
    ) -> None:
        if not options.LINUX:
            raise OSError(errno.ENOPROTOOPT, "multicast groups can be joined on Linux only")
        options.require_supported(parameters)
        self.handler = handler
        self._loop = loop
        self._clock = clock
        self._buffer = buffer
        self._parameters = parameters
        self._ip: IP = parameters.stack.find(IP) or IP()
        self._family = family_of(at)
        self._v6 = self._family == socket.AF_INET6
        self._unicast = unicast
        self._sockets: dict[Place, list[socket.socket]] = {}
        self._members: dict[tuple[str, int], socket.socket] = {}
        self._blocked: set[socket.socket] = set()
        self._names: dict[Any, HostPort] = {}
        self._limits: dict[tuple[str, int], tuple[int, float]] = {}
        self._closed = False
        self.local_address = at
        if unicast:
            sock = self._open((at.host, at.port))
            self.local_address = HostPort(at.host, sock.getsockname()[1])
            self._sockets = {self._wildcard: [sock]}

    @property
    def _wildcard(self) -> Place:
        return self.local_address.host, self.local_address.port

    def _open(self, place: Place) -> socket.socket:
        sock = socket.socket(self._family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            options.apply_datagram(sock, self._parameters)
            if self._v6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)
            else:
                sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
                sock.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
            sock.bind(place)
        except BaseException:
            sock.close()
            raise
        self._sockets.setdefault(place, []).append(sock)
        self._loop.add_reader(sock.fileno(), self._readable, sock)
        return sock

    # Memberships

    def join(self, group: str, interface: int, source: str | None = None) -> None:
        place = self._place(group, interface)
        option = MCAST_JOIN_GROUP if source is None else MCAST_JOIN_SOURCE_GROUP
        request = self._request(interface, group, *(() if source is None else (source,)))
        for sock in self._sockets.get(place, ()):
            try:
                sock.setsockopt(self._level, option, request)
            except OSError as error:
                if error.errno not in FULL:
                    raise
            else:
                self._members[group, interface] = sock
                return
        sock = self._open(place)
        try:
            sock.setsockopt(self._level, option, request)
        except OSError as error:
            self._drop(place, sock)
            if error.errno in FULL:
                limit = "net.core.optmem_max" if self._v6 else "net.ipv4.igmp_max_memberships"
                raise OSError(error.errno, f"the system lets a socket join no group ({limit})") from error
            raise
        self._members[group, interface] = sock

    def leave(self, group: str, interface: int) -> None:
        sock = self._members.pop((group, interface))
        try:
            sock.setsockopt(self._level, MCAST_LEAVE_GROUP, self._request(interface, group))
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):  # the membership went with the interface
                raise
        place = self._place(group, interface)
        others = len(self._sockets[place]) > 1 or not self._unicast
        if others and sock not in self._members.values():
            self._drop(place, sock)

    def _place(self, group: str, interface: int) -> Place:
        """Where the socket for a group is bound: at its address, if it is to hear nothing that is sent to this machine."""
        if self._unicast:
            return self._wildcard
        port = self.local_address.port
        if not self._v6:
            return group, port
        scope = socket.inet_pton(socket.AF_INET6, group)[1] & 0xF
        return group, port, 0, interface if scope in IPV6_SCOPED else 0

    @property
    def _level(self) -> int:
        return socket.IPPROTO_IPV6 if self._v6 else socket.IPPROTO_IP

    def _request(self, interface: int, *addresses: str) -> bytes:
        """struct group_req, or group_source_req with a second address."""
        request = struct.pack("@I0L", interface)
        for address in addresses:
            packed = socket.inet_pton(self._family, address)
            if self._v6:
                name = struct.pack("=HHI16sI", self._family, 0, 0, packed, interface)
            else:
                name = struct.pack("=HH4s", self._family, 0, packed)
            request += name.ljust(STORAGE, b"\0")
        return request

    def _drop(self, place: Place, sock: socket.socket) -> None:
        self._sockets[place].remove(sock)
        self._loop.remove_reader(sock.fileno())
        if sock in self._blocked:
            self._blocked.remove(sock)
            self._loop.remove_writer(sock.fileno())
            if not self._closed:
                self._loop.call_soon(self.handler.writable)  # who waits for it has to look for another
        sock.close()

    # Receiving

    def _readable(self, sock: socket.socket) -> None:
        arrivals: list[Arrival] = []
        for _ in range(READS_PER_WAKEUP):
            try:
                count, ancillary, _, name = sock.recvmsg_into((self._buffer,), ANCILLARY)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if not arrivals:
                    self.handler.failed(error)
                    return
                break  # the next read tells of it
            for level, kind, data in ancillary:
                if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
                    address, interface = IPV6_INFO.unpack_from(data)
                elif (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
                    interface, _, address = IPV4_INFO.unpack_from(data)
                else:
                    continue
                remote, local = self._sender(name), self._receiver(address, interface)
                said = described(self._ip, ancillary, self._clock) if self._ip.describes else None
                arrivals.append(Arrival(bytes(self._buffer[:count]), remote, local, interface, said))
        if arrivals:
            self.handler.received(arrivals)

    def _sender(self, name: Any) -> HostPort:
        return self._names.get(name) or self._remember(name, name)

    def _receiver(self, address: bytes, interface: int) -> HostPort:
        key = address, interface
        known = self._names.get(key)
        if known is not None:
            return known
        name = socket.inet_ntop(self._family, address), self.local_address.port
        return self._remember(key, (*name, 0, interface) if self._v6 else name)

    def _remember(self, key: Any, name: Any) -> HostPort:
        if len(self._names) >= NAMES_KEPT:
            self._names.clear()
        made = from_sockaddr(name)
        assert isinstance(made, HostPort)  # the socket has an IP address, and so have its peers
        self._names[key] = made
        return made

    # Sending

    def send(
        self, datagram: Buffer, to: HostPort, interface: int, source: str | None, metadata: IPMetadata | None = None, /
    ) -> bool:
        sock = self._socket_on(interface)
        host = to.host.partition("%")[0]
        ours = socket.inet_pton(self._family, "::" if self._v6 else "0.0.0.0") if source is None else self._packed(source)
        if self._v6:
            name = (host, to.port, 0, interface) if to.is_multicast else to_sockaddr(to)
            info = socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, IPV6_INFO.pack(ours, interface)
        else:
            name = host, to.port
            info = socket.IPPROTO_IP, IP_PKTINFO, IPV4_INFO.pack(interface, ours, bytes(4))
        try:
            self._give(sock, datagram, info, name, metadata)
        except (BlockingIOError, InterruptedError):
            self._wait_writable(sock)
            return False
        except OSError as error:
            if error.errno == errno.ENOBUFS:  # the interface's queue is full; its packets leave by themselves
                self._wait_writable(sock)
                return False
            raise
        return True

    def _give(self, sock: socket.socket, datagram: Buffer, info: Control, name: Any, metadata: IPMetadata | None) -> None:
        if metadata is None:
            sock.sendmsg((datagram,), (info,), 0, name)
            return
        usual = self._parameters.service_class
        control = [info, *control_messages(metadata, self._family, usual)]
        priority = priority_message(metadata, usual)
        with unfragmented(sock, metadata):
            try:
                sock.sendmsg((datagram,), [*control, *priority], 0, name)
            except OSError as error:
                if error.errno != errno.EINVAL or not priority:
                    raise
                sock.sendmsg((datagram,), control, 0, name)  # before Linux 6.14, as with other datagrams

    def _packed(self, address: str) -> bytes:
        return socket.inet_pton(self._family, address.partition("%")[0])

    def _socket_on(self, interface: int) -> socket.socket:
        if self._unicast:
            return self._sockets[self._wildcard][0]
        fitting = [sock for (_, index), sock in self._members.items() if interface in (0, index)]
        if not fitting:
            raise OSError(errno.ENETDOWN, "no group is joined there")
        return fitting[0]

    def _wait_writable(self, sock: socket.socket) -> None:
        if sock not in self._blocked:
            self._blocked.add(sock)
            self._loop.add_writer(sock.fileno(), self._writable, sock)

    def _writable(self, sock: socket.socket) -> None:
        self._blocked.remove(sock)
        self._loop.remove_writer(sock.fileno())
        self.handler.writable()

    def maximum_size(self, to: HostPort, interface: int) -> int:
        key = to.host, interface
        limit, until = self._limits.get(key, (0, 0.0))
        now = monotonic()
        if now >= until:
            if len(self._limits) >= NAMES_KEPT:
                self._limits.clear()
            limit = self._ask_maximum_size(to, interface)
            self._limits[key] = limit, now + LIMIT_LIFETIME
        return limit

    def _ask_maximum_size(self, to: HostPort, interface: int) -> int:
        headers = IPV6_HEADERS if self._v6 else IPV4_HEADERS
        if self._v6 and self._ip.use_minimum_mtu:
            return options.IPV6_MINIMUM_MTU - headers
        mtu = self._group_mtu(to, interface) if to.is_multicast else mtu_towards(to)
        return min(mtu, LARGEST) - headers

    def _group_mtu(self, to: HostPort, interface: int) -> int:
        """What a socket that is connected to the group there would be told (connecting sends nothing)."""
        host = to.host.partition("%")[0]
        with socket.socket(self._family, socket.SOCK_DGRAM) as probe:
            try:
                if self._v6:
                    probe.connect((host, to.port, 0, interface))
                    return probe.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)
                probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", b"", b"", interface))
                probe.connect((host, to.port))
                return probe.getsockopt(socket.IPPROTO_IP, IP_MTU)
            except OSError:  # the interface has gone: sending tells
                return DEFAULT_MTU

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for place, sockets in self._sockets.items():
            for sock in tuple(sockets):
                self._drop(place, sock)
        self._members.clear()
