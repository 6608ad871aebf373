"""Datagram sockets of a simulated host."""

from __future__ import annotations

import contextvars
import errno
from typing import TYPE_CHECKING, Any

from tieline.drivers.port import Buffer, DatagramHandler, OneByOne
from tieline.drivers.simulated.packets import Packet, TransportProtocol, headers
from tieline.drivers.simulated.stream import broken
from tieline.endpoints import HostPort

if TYPE_CHECKING:
    from tieline.drivers.port import Address
    from tieline.drivers.simulated.network import ScheduledEvent
    from tieline.drivers.simulated.sockets import SocketTable
    from tieline.parameters import Parameters

__all__ = ["SimulatedDatagramSocket"]

LARGEST = 65535  # RFC 768: the length field has 16 bits


class SimulatedDatagramSocket(OneByOne):
    """One datagram socket, connected or open to many."""

    def __init__(
        self, table: SocketTable, local: HostPort, remote: HostPort | None, parameters: Parameters[Any], handler: DatagramHandler
    ) -> None:
        self._table = table
        self._context = contextvars.copy_context()
        self._parameters = parameters
        self.device = parameters.required_interface
        self._closed = False
        self._blocked = False
        self._turn: ScheduledEvent | None = None  # among all that wait for room
        self.handler = handler
        self.local_address = local
        self.remote_address = remote

    def arrived(self, packet: Packet) -> None:
        """A datagram for this socket."""
        if not self._closed:
            self._context.run(self.handler.received, packet.payload, None if self.remote_address else packet.source)

    def unreachable(self, code: int) -> None:
        """The network could not deliver one of our datagrams; a socket that is not connected hears nothing of it."""
        if not self._closed and self.remote_address is not None:
            self._context.run(self.handler.failed, broken(code))

    def send(self, datagram: Buffer, remote: Address | None = None, /) -> bool:
        to = remote or self.remote_address
        assert isinstance(to, HostPort)  # the flow knows one or the other
        if self._closed:  # the host has crashed
            raise broken(errno.ENETDOWN)
        if len(datagram) > self.maximum_size(to):
            raise broken(errno.EMSGSIZE)
        source = self._table.source(self.local_address, to, self.device)
        packet = Packet(TransportProtocol.UDP, source, to, bytes(datagram))
        room_at = self._table.send_datagram(packet, self._parameters, self.device)
        if room_at is None:
            self._turn = None
            return True
        if not self._blocked:
            self._blocked = True
            if self._turn is None:
                self._turn = self._table.schedule(room_at, self._room)
            else:  # another socket was first: it is this one's turn before that has another
                self._table.again(self._turn, room_at)
        return False

    def _room(self) -> None:
        self._blocked = False
        if not self._closed:
            self._context.run(self.handler.writable)

    def maximum_size(self, remote: Address | None = None) -> int:
        to = remote or self.remote_address
        assert isinstance(to, HostPort)
        return min(self._table.path_mtu(self.local_address, to, self._parameters), LARGEST) - headers(to, TransportProtocol.UDP)

    def killed(self) -> None:
        """The host has crashed."""
        self._closed = True

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._table.close_datagrams(self)
