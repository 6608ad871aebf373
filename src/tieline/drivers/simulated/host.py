"""Hosts: nodes on which programs run."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tieline import drivers
from tieline.drivers.simulated.driver import SimulatedDriver
from tieline.drivers.simulated.link import LOOPBACK_LATENCY
from tieline.drivers.simulated.node import NetworkInterface, Node
from tieline.drivers.simulated.packets import Fate, Packet
from tieline.drivers.simulated.sockets import FIRST_PORT, SocketTable
from tieline.drivers.simulated.stream import broken
from tieline.drivers.simulated.watch import LOOPBACK, HostNetwork, HostWatch
from tieline.endpoints import HostPort
from tieline.paths import Network
from tieline.protocols.checks import require_at_least

if TYPE_CHECKING:
    from tieline.drivers.simulated.link import Direction, Link
    from tieline.drivers.simulated.network import SimulatedNetwork

__all__ = ["Host"]

DATAGRAMS_PER_SECOND = 100_000  # that a host sends at most, so that time passes also for a program that does nothing else


class Host(Node):
    """A machine of a simulated network. Made by `SimulatedNetwork.host`.

    ``with host:`` makes connections, listeners and path monitors that are started within the block, and in tasks that are
    made there, live on this host. ``host.start(program)`` runs a program on it in the background.
    """

    def __init__(self, network: SimulatedNetwork, name: str, *, send_buffer: int, receive_buffer: int) -> None:
        super().__init__(network, name)
        require_at_least("send_buffer", send_buffer, 1)
        require_at_least("receive_buffer", receive_buffer, 1)
        self.send_buffer = send_buffer
        self.receive_buffer = receive_buffer
        self.next_port = FIRST_PORT
        self._sending_until = 0.0  # the datagrams that it has accepted so far
        self._sockets = SocketTable(self)
        self._programs: dict[asyncio.Task[Any], None] = {}
        self._driver: SimulatedDriver | None = None
        self._crashed = False
        self._own_network = HostNetwork(self)

    # Programs

    @property
    def driver(self) -> SimulatedDriver:
        """This host as the library sees it. Raises RuntimeError outside a running event loop."""
        loop = self.network.bound()
        if self._driver is None:
            self._driver = SimulatedDriver(loop, self)
        return self._driver

    def __enter__(self) -> Self:
        drivers.enter(self.driver)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        drivers.leave()

    def start(self, program: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> asyncio.Task[Any]:
        """Run ``program(*arguments)`` on this host as a task of its own; a crash of the host cancels it, and so does the end.

        What the program raises ends `SimulatedNetwork.run`, which raises it. Raises `RuntimeError` while the host is down.
        """
        if self._crashed:
            raise RuntimeError(f"{self.name} has crashed: restart it before a program can run there")
        with self:
            task = self.driver.spawn(program(*arguments), f"{getattr(program, '__name__', 'program')} on {self.name}")
        task.add_done_callback(self.network.program_ended)
        return task

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """A task of this host: it ends when the host crashes."""
        self._programs[task] = None
        task.add_done_callback(lambda _: self._programs.pop(task, None))

    @property
    def programs(self) -> tuple[asyncio.Task[Any], ...]:
        """The tasks that run on it: programs, and handlers of listeners."""
        return tuple(self._programs)

    @property
    def sockets(self) -> tuple[object, ...]:
        """Every socket that is open on this host."""
        return tuple(self._sockets)

    # Crashing

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        return not self._crashed

    def crash(self) -> None:
        """Stop dead: nothing more is sent, peers hear nothing, programs are cancelled, and every socket is gone."""
        if not self._crashed:
            self._crashed = True
            self._sockets.kill()
            for task in tuple(self._programs):
                task.cancel()
            self.changed()

    def restart(self) -> None:
        """Come up again with the same addresses and without any socket. Programs have to be started anew."""
        if self._crashed:
            self._crashed = False
            self._sockets = SocketTable(self)
            self.changed()

    # For the driver

    @property
    def socket_table(self) -> SocketTable:
        """The sockets of the present boot. Raises OSError while the host is down."""
        if self._crashed:
            raise broken(errno.ENETDOWN)
        return self._sockets

    def has_address(self, address: str) -> bool:
        """Whether packets to this address stay here: it is its own, or the loopback's (RFC 1122 section 3.2.1.3)."""
        return address.startswith("127.") or address == "::1" or any(address in one.addresses for one in self.interfaces)

    def datagram_room_at(self, source: HostPort, to: HostPort, size: int, device: str | None) -> float:
        """When there is room for another datagram of this size."""
        now = self.network.time
        room = max(now, self._sending_until - self.send_buffer / DATAGRAMS_PER_SECOND / 100)
        if to.is_multicast:
            return max([room, *(link.direction(one).room_at(now, size) for one, link in self.group_ways(device))])
        direction = self.first_direction(source, to, device)
        return room if direction is None else max(room, direction.room_at(now, size))

    def datagram_accepted(self) -> None:
        """Another datagram is on its way."""
        self._sending_until = max(self.network.time, self._sending_until) + 1 / DATAGRAMS_PER_SECOND

    def own_network(self) -> Network:
        """The network as this host knows it."""
        return self._own_network.now()

    def watch_network(self, changed: Callable[[Network], object]) -> HostWatch:
        """Call back with the network after each change that this host notices."""
        return self._own_network.watch(changed)

    def topology_changed(self) -> None:
        """Links, interfaces or addresses of the network are different, perhaps its own."""
        self._own_network.changed()

    def source_of(self, to: HostPort, device: str | None = None) -> str | None:
        """The local address for packets to this one, None without a route."""
        if self.has_address(to.host):
            return to.host if device in (None, LOOPBACK.name) else None
        way = self.network.way(to.host, self._outgoing(None, to.host, device))
        return None if way is None else way[0].address_for(to.host)

    def first_direction(self, source: HostPort | None, to: HostPort, device: str | None) -> Direction | None:
        """The first piece of link on the way of such a packet; None where there is none."""
        if self.has_address(to.host):
            return None
        way = self.network.way(to.host, self._outgoing(source, to.host, device))
        return None if way is None else way[1].direction(way[0])

    def can_send(self, source: HostPort, to: HostPort, device: str | None) -> bool:
        """Whether an interface is up for packets from this address. What becomes of them farther on nobody here knows."""
        return self.has_address(to.host) or bool(self._outgoing(source, to.host, device))

    def _outgoing(self, source: HostPort | None, to: str, device: str | None) -> list[NetworkInterface]:
        """The interfaces through which a packet may leave: of the right IP version, with its source address if that is given."""
        return [
            one
            for one in self.interfaces
            if one.is_running
            and one.has_route
            and device in (None, one.name)
            and (one.address_for(to) is not None if source is None else source.host in one.addresses)
        ]

    # Packets

    def send(self, packet: Packet, device: str | None = None) -> None:
        """A packet of one of its sockets leaves."""
        if self._crashed:
            return
        self.network.note(self, Fate.SENT, packet)
        if not self.passes(packet):
            return
        if self.has_address(packet.destination.host):
            self.network.loop_back(self, packet)
            return
        if packet.destination.is_multicast:
            self._send_to_group(packet, device)
            return
        self.network.forward(self, packet, self._outgoing(packet.source, packet.destination.host, device))

    def _send_to_group(self, packet: Packet, device: str | None) -> None:
        """Over every link of an interface: they are one network. Its own sockets hear it by themselves."""
        for interface, link in self.group_ways(device):
            self.network.transmit(self, packet, interface, link)

    def loop_back_to_group(self, packet: Packet, interface: int) -> None:
        """The same for its own sockets, as if it had come in by that interface."""
        self.network.schedule(self.network.time + LOOPBACK_LATENCY, self._looped_back, packet, interface)

    def _looped_back(self, packet: Packet, interface: int) -> None:
        if not self._crashed and self.passes(packet) and self._sockets.groups.has_joined(packet, interface):
            self.network.note(self, Fate.ARRIVED, packet)
            self._sockets.groups.arrived(packet, interface)

    def group_ways(self, device: str | None) -> list[tuple[NetworkInterface, Link]]:
        """The links that a packet to a group takes, all at once."""
        return [
            (one, link)
            for one in self.interfaces
            if one.name == device and one.is_running
            for link in one.links
            if link.is_up and link.other(one).is_running
        ]

    def arrived(self, packet: Packet, interface: NetworkInterface | None) -> None:
        if self._crashed:
            self.network.note(self, Fate.HOST_DOWN, packet)
        elif interface is not None and not self._takes(packet, interface):
            self.network.note(self, Fate.NOBODY, packet)
        elif interface is None or self.passes(packet):  # what comes over the loopback has passed when it was sent
            self.network.note(self, Fate.ARRIVED, packet)
            self._sockets.arrived(packet, LOOPBACK.name if interface is None else interface.name)

    def _takes(self, packet: Packet, interface: NetworkInterface) -> bool:
        """Whether what came in by an interface is for an address of that, or for a group that is joined there."""
        if packet.destination.is_multicast:
            return self._sockets.groups.has_joined(packet, interface.index)
        return packet.destination.host in interface.addresses
