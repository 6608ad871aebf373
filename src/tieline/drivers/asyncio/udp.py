"""Datagram sockets: connected to one peer, or open to many."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import TYPE_CHECKING, Any

from tieline.drivers.asyncio import options
from tieline.drivers.asyncio.addresses import family_of, from_sockaddr, to_sockaddr
from tieline.drivers.asyncio.tcp import bind_local, forgets_at_error
from tieline.drivers.port import Address, Buffer, DatagramHandler
from tieline.protocols.ip import IP

if TYPE_CHECKING:
    from tieline.parameters import Parameters

__all__ = ["UDPSocket", "open_datagram_socket"]

DATAGRAMS_PER_WAKEUP = 64
NAMES_KEPT = 256  # socket addresses of peers, so that an answer need not make them again
IP_MTU, IPV6_MTU = 14, 24  # linux/in.h, linux/in6.h
IPV4_HEADERS, IPV6_HEADERS = 20 + 8, 40 + 8  # IP and UDP, without options
LARGEST = 65535  # RFC 768: the length field has 16 bits
DEFAULT_MTU = 1500  # of Ethernet, where the system does not tell


class UDPSocket:
    """One datagram socket. What cannot be received whole is not received: the buffer holds the largest datagram."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        buffer: memoryview,
        at: Address | None,
        to: Address | None,
        parameters: Parameters[Any],
        handler: DatagramHandler,
    ) -> None:
        self._loop = loop
        self._buffer = buffer
        self._writing = self._closed = self._blocked = False
        self._forgetful = forgets_at_error(loop)
        self._names: dict[Address, Any] = {}
        ip: IP | None = parameters.stack.find(IP)
        self._minimum_mtu = ip is not None and ip.use_minimum_mtu
        self.handler = handler
        self.remote_address = to
        self._sock, self.local_address = open_datagram_socket(at, to, parameters)
        loop.add_reader(self._sock.fileno(), self._readable)

    def _watch_again(self) -> None:
        if not self._closed:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.add_reader(self._sock.fileno(), self._readable)

    def _readable(self) -> None:
        connected = self.remote_address is not None
        for number in range(DATAGRAMS_PER_WAKEUP):
            try:
                if connected:
                    count = self._sock.recv_into(self._buffer)
                    remote = None
                else:
                    count, sockaddr = self._sock.recvfrom_into(self._buffer)
                    remote = from_sockaddr(sockaddr)
            except (BlockingIOError, InterruptedError):
                if self._forgetful and not number:  # an error that a send has already met
                    self._loop.call_soon(self._watch_again)
                return
            except OSError as error:
                if self._forgetful:
                    self._loop.call_soon(self._watch_again)
                self.handler.failed(error)
                return
            self.handler.received(bytes(self._buffer[:count]), remote)
            if self._closed:
                return

    def send(self, datagram: Buffer, remote: Address | None = None, /) -> bool:
        try:
            if remote is None:
                self._sock.send(datagram)
            else:
                self._sock.sendto(datagram, self._name(remote))
        except (BlockingIOError, InterruptedError):
            self._wait_writable()
            return False
        except OSError as error:
            if error.errno == errno.ENOBUFS:  # the interface's queue is full; its packets leave by themselves
                self._wait_writable()
                return False
            raise
        return True

    def _name(self, remote: Address) -> Any:
        name = self._names.get(remote)
        if name is None:
            if len(self._names) >= NAMES_KEPT:
                self._names.clear()
            name = self._names[remote] = to_sockaddr(remote)
        return name

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
            bind_local(sock, parameters)
        if to is not None:
            error = sock.connect_ex(to_sockaddr(to))
            if error:
                raise OSError(error, os.strerror(error))
        return sock, from_sockaddr(sock.getsockname()) or named
    except BaseException:
        sock.close()
        raise


def mtu_towards(remote: Address) -> int:
    """The path MTU that the kernel knows for a peer: that of a socket connected to it (which sends nothing)."""
    family = family_of(remote)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        if probe.connect_ex(to_sockaddr(remote)):
            return DEFAULT_MTU
        v6 = family == socket.AF_INET6
        return probe.getsockopt(socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP, IPV6_MTU if v6 else IP_MTU)
