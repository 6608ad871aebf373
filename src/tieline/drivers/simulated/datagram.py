"""Datagram sockets of a simulated host."""

from __future__ import annotations

import contextvars
import errno
from typing import TYPE_CHECKING

from tieline.drivers.port import Buffer, DatagramHandler
from tieline.drivers.simulated.packets import Packet, TransportProtocol, headers
from tieline.drivers.simulated.stream import broken
from tieline.endpoints import HostPort

if TYPE_CHECKING:
    from tieline.drivers.port import Address
    from tieline.drivers.simulated.sockets import SocketTable

__all__ = ["SimulatedDatagramSocket"]

LARGEST = 65535  # RFC 768: the length field has 16 bits


class SimulatedDatagramSocket:
    """One datagram socket, connected or open to many."""

    def __init__(
        self, table: SocketTable, local: HostPort, remote: HostPort | None, device: str | None, handler: DatagramHandler
    ) -> None:
        self._table = table
        self._context = contextvars.copy_context()
        self._device = device
        self._closed = False
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
        source = self._table.source(self.local_address, to, self._device)
        room_at = self._table.send_datagram(Packet(TransportProtocol.UDP, source, to, bytes(datagram)), self._device)
        if room_at is not None:
            self._table.schedule(room_at, self._room)
        return room_at is None

    def _room(self) -> None:
        if not self._closed:
            self._context.run(self.handler.writable)

    def maximum_size(self, remote: Address | None = None) -> int:
        to = remote or self.remote_address
        assert isinstance(to, HostPort)
        return min(self._table.path_mtu(to), LARGEST) - headers(to, TransportProtocol.UDP)

    def killed(self) -> None:
        """The host has crashed."""
        self._closed = True

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._table.close_datagrams(self)
