"""Packet sockets: UDP for a transport protocol on top of it, in batches.

Linux hands over several datagrams of one peer at once (GRO) and takes several at once (GSO), which saves most of what a datagram
costs; elsewhere each goes by itself. A packet that cannot be sent is lost like any other: the protocol above sends it again.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from tieline._engine.polling import arrived
from tieline.drivers.asyncio import options
from tieline.drivers.asyncio.readers import forgets_at_error
from tieline.drivers.asyncio.udp import open_datagram_socket
from tieline.drivers.lingering import LingeringSocket
from tieline.drivers.port import PacketHandler, Packets
from tieline.endpoints import HostPort

if TYPE_CHECKING:
    from tieline.parameters import Parameters

__all__ = ["BATCHES", "UDPPacketSocket"]

BATCHES = 16  # reads for one wake-up: each brings up to 64 datagrams
LINGERING = 64  # sockets of one loop that wait for what may still come
ANCILLARY = 128  # bytes of control messages: ECN, our address, the size of segments
BUFFER = 4 * 1024 * 1024  # bytes asked of the kernel for each direction; it gives what its limits allow

# linux/udp.h, linux/in.h, linux/in6.h
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
IP_PKTINFO, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_PROBE = 8, 10, 23, 3
IP_TOS, IPV6_TCLASS, IP_RECVTOS, IPV6_RECVTCLASS = 1, 67, 13, 66
IPV6_PKTINFO, IPV6_RECVPKTINFO = 50, 49
ECN_BITS = 3

INT, SEGMENT_SIZE = struct.Struct("=i"), struct.Struct("=H")
LOST = frozenset({
    errno.EMSGSIZE, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EPERM, errno.EACCES, errno.EADDRNOTAVAIL,
    errno.EINVAL, errno.ECONNREFUSED, errno.ENODEV, errno.ENXIO,
})  # fmt: skip
"""What a send says of one packet, and not of the socket."""
GONE = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EINVAL, errno.ENODEV, errno.ENXIO})
"""What a send says when nothing can leave: Linux says EINVAL when it finds that the source address is none of its own."""


class UDPPacketSocket:
    """One UDP socket, connected to one peer or open to many."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        buffers: list[memoryview],
        lingering: WeakSet[UDPPacketSocket],
        at: HostPort | None,
        to: HostPort | None,
        parameters: Parameters[Any],
        handler: PacketHandler,
    ) -> None:
        self._loop = loop
        self._buffers = buffers
        self._parameters = parameters
        self._lingering = lingering  # those of this loop
        self._forgetful = forgets_at_error(loop)
        self._writing = self._closed = self._gone = False
        self._connected = to is not None
        self.handler = handler
        sock, local = open_datagram_socket(at, to, parameters)
        assert isinstance(local, HostPort)  # as it was asked for
        self._sock = LingeringSocket(sock.family, sock.type, sock.proto, sock.detach())
        self.local_address: HostPort = local
        self._v6 = self._sock.family == socket.AF_INET6
        self._ecn = 0  # of the packets that leave without a word about it
        self._local = None if local.host in ("0.0.0.0", "::") else local.host.partition("%")[0]
        self.peer: Any = self._sock.getpeername() if to is not None else None
        try:
            self._segments = self._ask_for_everything()
        except BaseException:
            self._sock.close()
            raise
        loop.add_reader(self._sock.fileno(), self._readable)

    def _ask_for_everything(self) -> bool:
        """Set what the protocol above profits from; whether the kernel takes several datagrams at once."""
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self._sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        if not options.LINUX:
            return False
        level = socket.IPPROTO_IPV6 if self._v6 else socket.IPPROTO_IP
        self._sock.setsockopt(level, IPV6_MTU_DISCOVER if self._v6 else IP_MTU_DISCOVER, PMTUDISC_PROBE)
        self._sock.setsockopt(level, IPV6_RECVTCLASS if self._v6 else IP_RECVTOS, 1)
        if self._local is None:
            self._sock.setsockopt(level, IPV6_RECVPKTINFO if self._v6 else IP_PKTINFO, 1)
        try:
            self._sock.setsockopt(SOL_UDP, UDP_GRO, 1)
            self._sock.getsockopt(SOL_UDP, UDP_SEGMENT)
        except OSError:  # before Linux 5.0
            return False
        return True

    @property
    def maximum_segments(self) -> int:
        """How many datagrams may be given at once."""
        return 64 if self._segments else 1

    # Receiving

    def _readable(self) -> None:
        batch: list[Packets] = []
        receive = self._sock.recvmsg_into
        for buffer in self._buffers:
            try:
                count, ancillary, _, remote = receive([buffer], ANCILLARY)
            except (BlockingIOError, InterruptedError):
                if self._forgetful and not batch:  # an error that a send has already met
                    self._loop.call_soon(self._watch_again)
                break
            except OSError as error:
                if self._forgetful:
                    self._loop.call_soon(self._watch_again)
                self.handler.failed(error)
                if self._closed:
                    return
                continue
            local, ecn, size = self._local, 0, count
            for level, kind, data in ancillary:
                if level == SOL_UDP and kind == UDP_GRO:
                    (size,) = INT.unpack_from(data)
                elif kind in (IP_TOS, IPV6_TCLASS):
                    ecn = data[0] & ECN_BITS
                elif level == socket.IPPROTO_IP and kind == IP_PKTINFO:
                    local = socket.inet_ntop(socket.AF_INET, data[8:12])
                elif level == socket.IPPROTO_IPV6 and kind == IPV6_PKTINFO:
                    local = socket.inet_ntop(socket.AF_INET6, data[:16])
            if count:
                batch.append((buffer[:count], remote or self.peer, local, ecn, size))
        if batch:
            arrived(self._loop, self._parameters.busy_poll)
            self.handler.received(batch)

    def _watch_again(self) -> None:
        if not self._closed:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.add_reader(self._sock.fileno(), self._readable)

    # Sending

    def send(self, packets: Packets, /) -> bool:
        data, remote, local, ecn, size = packets
        if ecn != self._ecn:
            self._ecn = ecn
            options.apply_ecn(self._sock, self._parameters, ecn)
        ancillary: list[tuple[int, int, bytes]] = []
        if size < len(data):
            ancillary.append((SOL_UDP, UDP_SEGMENT, SEGMENT_SIZE.pack(size)))
        if local is not None and self._local is None:
            ancillary.append(self._source(local))
        try:
            if self._connected:
                self._sock.sendmsg((data,), ancillary)
            else:
                self._sock.sendmsg((data,), ancillary, 0, remote)
        except (BlockingIOError, InterruptedError):
            self._wait_writable()
            return False
        except OSError as error:
            if error.errno == errno.ENOBUFS:  # the interface's queue is full; its packets leave by themselves
                self._wait_writable()
                return False
            if error.errno == errno.EIO and size < len(data):  # a network card that cannot checksum segments
                self._segments = False
                return self._one_by_one(packets)
            if error.errno not in LOST:
                raise
            if error.errno == errno.ECONNREFUSED:  # about a packet before: this one has not left
                self._loop.call_soon(self._refused, error)
            elif error.errno in GONE and self._connected and not self._gone:
                self._gone = True
                self._loop.call_soon(self._say_gone, error)
        return True

    def _say_gone(self, error: OSError) -> None:
        self._gone = False
        if not self._closed:
            self.handler.local_address_gone(error)

    def _refused(self, error: OSError) -> None:
        if not self._closed:
            self.handler.failed(error)

    def _one_by_one(self, packets: Packets) -> bool:
        data, remote, local, ecn, size = packets
        view = memoryview(data)
        for start in range(0, len(view), size):
            piece = view[start : start + size]
            self.send((piece, remote, local, ecn, len(piece)))
        return True

    def _source(self, local: str) -> tuple[int, int, bytes]:
        if self._v6:
            return socket.IPPROTO_IPV6, IPV6_PKTINFO, socket.inet_pton(socket.AF_INET6, local) + INT.pack(0)
        return socket.IPPROTO_IP, IP_PKTINFO, INT.pack(0) + socket.inet_pton(socket.AF_INET, local) + bytes(4)

    def _wait_writable(self) -> None:
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._sock.fileno(), self._writable)

    def _writable(self) -> None:
        self._writing = False
        self._loop.remove_writer(self._sock.fileno())
        self.handler.writable()

    def linger(self) -> bool:
        if len(self._lingering) >= LINGERING:
            return False
        self._lingering.add(self)
        self._sock.lingers = True
        return True

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._lingering.discard(self)
        fd = self._sock.fileno()
        self._loop.remove_reader(fd)
        if self._writing:
            self._loop.remove_writer(fd)
        self._sock.close()
