"""Multicast sockets of a simulated host.

All links of one interface are one network: what is sent to a group there reaches every node at their other ends at once, and the
sockets of this host that have joined it. Routers do not forward it.
"""

from __future__ import annotations

import contextvars
import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tieline.drivers.port import Arrival, Buffer, MulticastHandler
from tieline.drivers.simulated.packets import Packet, TransportProtocol, header, headers
from tieline.drivers.simulated.stream import broken
from tieline.drivers.simulated.watch import LOOPBACK
from tieline.endpoints import HostPort
from tieline.protocols.ip import IP, IPMetadata, received_metadata

if TYPE_CHECKING:
    from tieline.drivers.simulated.host import Host
    from tieline.drivers.simulated.sockets import SocketTable
    from tieline.parameters import Parameters

__all__ = ["GroupTable", "SimulatedMulticastSocket"]

LINK_ONLY = 1  # hops of what is sent to a group if nothing else is said: RFC 1112 section 6.1
LARGEST = 65535  # RFC 768: the length field has 16 bits


class GroupTable:
    """The multicast sockets of one host."""

    def __init__(self, host: Host, table: SocketTable) -> None:
        self.host = host
        self.table = table
        self._open: dict[SimulatedMulticastSocket, None] = {}

    def __iter__(self) -> Iterator[SimulatedMulticastSocket]:
        return iter(tuple(self._open))

    @property
    def addresses(self) -> tuple[HostPort, ...]:
        """Where they are bound."""
        return tuple(one.local_address for one in self._open)

    def open(
        self, at: HostPort, parameters: Parameters[Any], handler: MulticastHandler, *, unicast: bool
    ) -> SimulatedMulticastSocket:
        """A socket at a port, which several may have if the parameters say so. Raises OSError."""
        local = self.table.bindable(at, shared=parameters.local_endpoint_reuse_allowed)
        made = SimulatedMulticastSocket(self, local, parameters, handler, unicast=unicast)
        self._open[made] = None
        return made

    def forget(self, socket: SimulatedMulticastSocket) -> None:
        """It was closed."""
        self._open.pop(socket, None)

    def kill(self) -> None:
        """The host crashes."""
        self._open.clear()

    def has_joined(self, packet: Packet, interface: int) -> bool:
        """Whether some socket wants what was sent to a group and came in by an interface."""
        return any(one.has_joined(packet, interface) for one in self._open)

    def arrived(self, packet: Packet, interface: int) -> bool:
        """Give a packet to every socket that has joined its group, or to the newest one at its port. False if there is none."""
        if packet.destination.is_multicast:
            takers = [one for one in self._open if one.has_joined(packet, interface)]
        else:
            takers = [one for one in self._open if one.has_bound(packet.destination)][-1:]
        for one in takers:
            one.arrived(packet, interface)
        return bool(takers)

    def index(self, device: str) -> int:
        """The index of an interface."""
        return next((one.index for one in self.host.interfaces if one.name == device), LOOPBACK.index)

    def device(self, interface: int) -> str:
        """The name of an interface. Raises OSError."""
        if interface == LOOPBACK.index:
            return LOOPBACK.name
        for one in self.host.interfaces:
            if one.index == interface:
                return one.name
        raise broken(errno.ENODEV)


class SimulatedMulticastSocket:
    """One port of one IP version, and what it has joined."""

    def __init__(
        self, table: GroupTable, local: HostPort, parameters: Parameters[Any], handler: MulticastHandler, *, unicast: bool
    ) -> None:
        self.handler = handler
        self.local_address = local
        self._table = table
        self._host = table.host
        self._context = contextvars.copy_context()
        self._parameters = parameters
        self._ip: IP = parameters.stack.find(IP) or IP()
        self._unicast = unicast
        self._joined: dict[tuple[str, int], str | None] = {}
        self._closed = self._blocked = False

    def join(self, group: str, interface: int, source: str | None = None) -> None:
        self._table.device(interface)
        self._joined[group, interface] = source

    def leave(self, group: str, interface: int) -> None:
        del self._joined[group, interface]

    def has_joined(self, packet: Packet, interface: int) -> bool:
        """Whether it wants what was sent to a group and came in by an interface."""
        to = packet.destination
        if to.port != self.local_address.port or (to.host, interface) not in self._joined:
            return False
        return self._joined[to.host, interface] in (None, packet.source.host)

    def has_bound(self, address: HostPort) -> bool:
        """Whether it wants what was sent to an address of the host."""
        return self._unicast and (address.port, address.version) == (self.local_address.port, self.local_address.version)

    def arrived(self, packet: Packet, interface: int) -> None:
        """A datagram for this socket."""
        if not self._closed:
            said = received_metadata(self._ip, packet.dscp << 2 | packet.ecn, packet.hops, self._table.table.now)
            arrival = Arrival(packet.payload, packet.source, packet.destination, interface, said)
            self._context.run(self.handler.received, [arrival])

    def send(
        self, datagram: Buffer, to: HostPort, interface: int, source: str | None, metadata: IPMetadata | None = None, /
    ) -> bool:
        if self._closed:  # the host has crashed
            raise broken(errno.ENETDOWN)
        if len(datagram) > self.maximum_size(to, interface):
            raise broken(errno.EMSGSIZE)
        device = self._table.device(interface) if interface else None
        said = header(self._parameters, metadata)
        if to.is_multicast and self._ip.hop_limit is None and (metadata is None or metadata.hop_limit is None):
            said["hops"] = LINK_ONLY
        packet = Packet(TransportProtocol.UDP, self._source(to, device, source), to, bytes(datagram), **said)
        room_at = self._table.table.send_datagram(packet, device)
        if room_at is not None:
            if not self._blocked:
                self._blocked = True
                self._table.table.schedule(room_at, self._room)
            return False
        if to.is_multicast and not self._ip.multicast_loopback_disabled:
            self._host.loop_back_to_group(packet, interface)
        return True

    def _source(self, to: HostPort, device: str | None, source: str | None) -> HostPort:
        port = self.local_address.port
        if not to.is_multicast:
            return self._table.table.source(HostPort(source or self.local_address.host, port), to, device)
        interface = next((one for one in self._host.interfaces if one.name == device), None)
        own = LOOPBACK.addresses if interface is None else interface.addresses if interface.is_running else ()
        for address in own:
            if source in (None, address) and (":" in address) == (":" in to.host):
                return HostPort(address, port)
        raise broken(errno.ENETUNREACH)

    def _room(self) -> None:
        self._blocked = False
        if not self._closed:
            self._context.run(self.handler.writable)

    def maximum_size(self, to: HostPort, interface: int) -> int:
        if to.is_multicast:
            ways = self._host.group_ways(self._table.device(interface))
            mtu = min((link.direction(one).conditions.mtu for one, link in ways), default=LARGEST)
        else:
            mtu = self._table.table.path_mtu(self.local_address, to, self._parameters)
        return min(mtu, LARGEST) - headers(to, TransportProtocol.UDP)

    def killed(self) -> None:
        """The host has crashed."""
        self._closed = True

    def close(self) -> None:
        self._closed = True
        self._table.forget(self)
