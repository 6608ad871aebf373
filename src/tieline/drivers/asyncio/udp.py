"""Datagram sockets: connected to one peer, or open to many.

Linux takes several datagrams of one size at once (GSO) and hands over several of one peer at once (GRO), which saves most of what
a datagram costs; elsewhere each goes by itself. Reading and sending are compiled (`tieline._engine.datagram.DatagramDescriptor`).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tieline._engine.datagram import DatagramDescriptor, Towards
from tieline.drivers.asyncio import options
from tieline.drivers.asyncio.addresses import family_of, from_sockaddr, to_sockaddr
from tieline.drivers.asyncio.ancillary import Control, control_messages, described, priority_message, unfragmented
from tieline.drivers.asyncio.readers import forgets_at_error
from tieline.drivers.asyncio.tcp import bind_local
from tieline.drivers.port import Address, Buffer, DatagramHandler
from tieline.protocols.ip import IP, IPMetadata

if TYPE_CHECKING:
    from tieline.parameters import Parameters

__all__ = ["UDPSocket", "open_datagram_socket"]

NAMES_KEPT = 256  # socket addresses of peers, so that they need not be made again
IP_MTU, IPV6_MTU = 14, 24  # linux/in.h, linux/in6.h
IPV4_HEADERS, IPV6_HEADERS = 20 + 8, 40 + 8  # IP and UDP, without options
LARGEST = 65535  # RFC 768: the length field has 16 bits
DEFAULT_MTU = 1500  # of Ethernet, where the system does not tell
LIMIT_LIFETIME = 1.0  # seconds that the size which a path takes is not asked for again
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104  # linux/udp.h


class UDPSocket(DatagramDescriptor):
    """One datagram socket. What cannot be received whole is not received: the buffer holds the largest datagram."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        at: Address | None,
        to: Address | None,
        parameters: Parameters[Any],
        handler: DatagramHandler,
        clock: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._writing = self._closed = self._blocked = False
        self._forgetful = forgets_at_error(loop)
        self._ways: dict[Address | None, Towards] = {}
        ip: IP = parameters.stack.find(IP) or IP()
        self._minimum_mtu = ip.use_minimum_mtu
        self._described = ip if ip.describes else None
        self._service_class = parameters.service_class
        self._priorities = True  # may be told for one packet
        self.handler = handler
        self.remote_address = to
        self._sock, self.local_address = open_datagram_socket(at, to, parameters)
        self._segments = takes_segments(self._sock)
        self._open(self._sock.fileno(), to is not None, self._described is not None, parameters.busy_poll)
        loop.add_reader(self._sock.fileno(), self._readable)

    def _watch_again(self) -> None:
        if not self._closed:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.add_reader(self._sock.fileno(), self._readable)

    def _nothing(self) -> None:
        """Nothing was there to read: an error, perhaps, that a send has already met."""
        if self._forgetful:
            self._loop.call_soon(self._watch_again)

    def _gather(self) -> bool:
        """Several came in a row: have them put together; whether the kernel does that."""
        if not options.LINUX or self._closed:
            return False
        try:
            self._sock.setsockopt(SOL_UDP, UDP_GRO, 1)
        except OSError:  # before Linux 5.0
            return False
        return True

    def _broke(self, error: OSError) -> None:
        if self._forgetful:
            self._loop.call_soon(self._watch_again)
        self._learn(error, None)
        self.handler.failed(error)

    def _metadata(self, ancillary: list[Control]) -> IPMetadata | None:
        assert self._described is not None  # or it would not be asked
        return described(self._described, ancillary, self._clock)

    @staticmethod
    def _peer(name: Any) -> Address | None:
        return from_sockaddr(name)

    def send(self, datagram: Buffer, remote: Address | None = None, metadata: IPMetadata | None = None, /) -> bool:
        if metadata is not None:
            return self.send_many((datagram,), remote, metadata) == 1
        try:
            if remote is None:
                self._sock.send(datagram)
            else:
                self._sock.sendto(datagram, self._towards(remote).name)
        except (BlockingIOError, InterruptedError):
            self._wait_writable()
            return False
        except OSError as error:
            if error.errno == errno.ENOBUFS:  # the interface's queue is full; its packets leave by themselves
                self._wait_writable()
                return False
            self._learn(error, remote)
            raise
        return True

    def _send_described(self, datagrams: Sequence[Buffer], remote: Address | None, metadata: IPMetadata) -> int:
        """Datagrams whose packets are not like the others of this socket."""
        if not options.LINUX:
            raise OSError(errno.ENOPROTOOPT, f"nothing can be said of the packet of one datagram on {sys.platform}")
        usual = self._service_class
        control = list(control_messages(metadata, self._sock.family, usual))
        priority = priority_message(metadata, usual) if self._priorities else ()
        with unfragmented(self._sock, metadata):
            try:
                return self._give(datagrams, remote, [*control, *priority])
            except OSError as error:
                if error.errno != errno.EINVAL or not priority:
                    raise
                gone = self._give(datagrams, remote, control)
                self._priorities = False  # before Linux 6.14: the queues go by the code point (IPv4), or the socket (IPv6)
                return gone

    def _towards(self, remote: Address | None) -> Towards:
        """What is known of the way to that peer, None for the one that the socket is connected to."""
        towards = self._ways.get(remote)
        if towards is None:
            if len(self._ways) >= NAMES_KEPT:
                self._ways.clear()
            towards = self._ways[remote] = Towards(None if remote is None else to_sockaddr(remote))
        return towards

    def _learn(self, error: OSError, remote: Address | None) -> None:
        """The way to a peer is narrower than was known."""
        if error.errno == errno.EMSGSIZE:
            self._towards(remote).forget()

    def _wait_writable(self) -> None:
        self._blocked = True
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._sock.fileno(), self._writable)

    def _writable(self) -> None:
        self._blocked = False
        self.handler.writable()
        if not self._blocked and self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock.fileno())

    def maximum_size(self, remote: Address | None = None) -> int:
        towards = self._towards(remote)
        limit = towards.limit
        if limit is None:
            limit = self._ask_maximum_size(remote)
            towards.learn(limit, LIMIT_LIFETIME)
        return limit

    def _ask_maximum_size(self, remote: Address | None) -> int:
        v6 = self._sock.family == socket.AF_INET6
        headers = IPV6_HEADERS if v6 else IPV4_HEADERS
        if v6 and self._minimum_mtu:  # Linux minds IPV6_MTU only on paths that are narrower than the datagram
            return options.IPV6_MINIMUM_MTU - headers
        mtu = DEFAULT_MTU
        if options.LINUX:
            mtu = self._mtu(v6) if remote is None else mtu_towards(remote)
        return min(mtu, LARGEST) - headers

    def _mtu(self, v6: bool) -> int:
        try:
            if v6:
                return self._sock.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)
            return self._sock.getsockopt(socket.IPPROTO_IP, IP_MTU)
        except OSError:  # ENOTCONN: the route has gone
            return DEFAULT_MTU

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        fd = self._sock.fileno()
        self._loop.remove_reader(fd)
        if self._writing:
            self._loop.remove_writer(fd)
        self._shut_down()
        self._sock.close()


def open_datagram_socket(at: Address | None, to: Address | None, parameters: Parameters[Any]) -> tuple[socket.socket, Address]:
    """A socket with its options, bound if `at` is given, connected if `to` is; and its address. Raises OSError."""
    options.require_supported(parameters)
    named = to or at
    assert named is not None  # the driver passes one of them
    sock = socket.socket(family_of(named), socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        options.apply_datagram(sock, parameters)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if at is not None:
            sock.bind(to_sockaddr(at))
        else:
            bind_local(sock, family_of(named), parameters)
        if to is not None:
            error = sock.connect_ex(to_sockaddr(to))
            if error:
                raise OSError(error, os.strerror(error))
        return sock, from_sockaddr(sock.getsockname()) or named
    except BaseException:
        sock.close()
        raise


def takes_segments(sock: socket.socket) -> bool:
    """Whether the kernel takes several datagrams at once."""
    if not options.LINUX:
        return False
    try:
        sock.getsockopt(SOL_UDP, UDP_SEGMENT)
    except OSError:  # before Linux 4.18
        return False
    return True


def mtu_towards(remote: Address) -> int:
    """The path MTU that the kernel knows for a peer: that of a socket connected to it (which sends nothing)."""
    family = family_of(remote)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        if probe.connect_ex(to_sockaddr(remote)):
            return DEFAULT_MTU
        v6 = family == socket.AF_INET6
        return probe.getsockopt(socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP, IPV6_MTU if v6 else IP_MTU)
