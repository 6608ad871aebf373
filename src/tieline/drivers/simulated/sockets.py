"""The sockets of one simulated host, by address: what its kernel would know."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

from tieline.drivers.simulated.datagram import SimulatedDatagramSocket
from tieline.drivers.simulated.multicast import GroupTable, SimulatedMulticastSocket
from tieline.drivers.simulated.packets import Packet, TransportProtocol, header, headers, no_socket_answer
from tieline.drivers.simulated.stream import SimulatedAcceptor, SimulatedStream, broken
from tieline.drivers.simulated.tcp import TCPMachine, TCPState
from tieline.endpoints import HostPort
from tieline.protocols.ip import IP
from tieline.protocols.tcp import TCP

if TYPE_CHECKING:
    from tieline.drivers.port import DatagramHandler, StreamHandler
    from tieline.drivers.simulated.host import Host
    from tieline.drivers.simulated.network import ScheduledEvent

__all__ = ["SocketTable"]

FIRST_PORT, LAST_PORT = 49152, 65535  # RFC 6335 section 6: dynamic ports
LINGERING = 60.0  # seconds in which a late segment of a finished connection is answered: TIME-WAIT of Linux
MTUS_KEPT = 1024  # paths that are known to be narrower than their first link
WILDCARDS = {4: "0.0.0.0", 6: "::"}
IPV6_MINIMUM_MTU = 1280  # RFC 8200 section 5

Ends = tuple[HostPort, HostPort]
"""Local and remote."""
Bound = tuple[HostPort, str | None]
"""The local address of an open socket, and the interface that it is bound to."""


class SocketTable:
    """Who gets which packet. It lives from one boot of its host to its crash."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._listeners: dict[Bound, SimulatedAcceptor] = {}
        self._streams: dict[Ends, SimulatedStream] = {}
        self._lingering: dict[Ends, tuple[SimulatedStream, float]] = {}
        self._bound: dict[Bound, SimulatedDatagramSocket] = {}
        self._connected: dict[Ends, SimulatedDatagramSocket] = {}
        self.groups = GroupTable(host, self)
        self._mtus: dict[str, int] = {}  # of paths that are narrower than their first link

    def __iter__(self) -> Iterator[SimulatedAcceptor | SimulatedStream | SimulatedDatagramSocket | SimulatedMulticastSocket]:
        yield from self._listeners.values()
        yield from self._streams.values()
        yield from self._bound.values()
        yield from self._connected.values()
        yield from self.groups

    # The host, for its sockets

    @property
    def now(self) -> float:
        """The network's time."""
        return self._host.network.time

    def schedule(self, when: float, callback: Callable[..., object], *arguments: Any) -> ScheduledEvent:
        """Call back at a time."""
        return self._host.network.schedule(when, callback, *arguments)

    def again(self, event: ScheduledEvent, when: float) -> None:
        """Let an event happen once more, in its turn."""
        self._host.network.again(event, when)

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Call back from the network's events, not from inside the program's present call."""
        self._host.network.schedule(self.now, callback)

    def send(self, packet: Packet, device: str | None = None) -> None:
        """Let a packet leave."""
        self._host.send(packet, device)

    def send_datagram(self, packet: Packet, device: str | None) -> float | None:
        """Let a datagram leave; when there will be room for it if there is none."""
        room_at = self._host.datagram_room_at(packet.source, packet.destination, packet.size, device)
        if room_at > self.now:
            return room_at
        self._host.datagram_accepted()
        self._host.send(packet, device)
        return None

    def path_mtu(self, local: HostPort, remote: HostPort, parameters: Any) -> int:
        """The largest packet that is known to get from one address to the other, and that may be sent."""
        source = None if local.host in WILDCARDS.values() else local
        direction = self._host.first_direction(source, remote, parameters.required_interface)
        first = 65535 if direction is None else direction.conditions.mtu
        ip: IP = parameters.stack.find(IP) or IP()
        if ip.use_minimum_mtu and ":" in remote.host:
            first = min(first, IPV6_MINIMUM_MTU)
        return min(first, self._mtus.get(remote.host, first))

    def source(self, local: HostPort, remote: HostPort, device: str | None) -> HostPort:
        """The address that a packet of a socket bound to `local` has. Raises OSError without a route."""
        if local.host not in WILDCARDS.values():
            if not self._host.has_address(local.host):
                raise broken(errno.EADDRNOTAVAIL)
            if not self._host.can_send(local, remote, device):
                raise broken(errno.ENETUNREACH)
            return local
        address = self._host.source_of(remote, device)
        if address is None:
            raise broken(errno.ENETUNREACH)
        return HostPort(address, local.port)

    # Opening

    def connect(self, to: HostPort, parameters: Any, handler: StreamHandler) -> SimulatedStream:
        """A stream socket that connects. Raises OSError."""
        local = self._local(to, parameters)
        self._expire_lingering()
        if not local.port:
            local = HostPort(local.host, self._free_port(lambda port: (HostPort(local.host, port), to) not in self._streams))
        if (local, to) in self._streams:
            raise broken(errno.EADDRINUSE)
        self._lingering.pop((local, to), None)
        stream = SimulatedStream(self, self._machine(local, to, parameters), connecting=True)
        stream.handler = handler
        self._streams[local, to] = stream
        stream.machine.connection = next(self._host.network.connections)
        stream.machine.connect(self.now)
        stream.progressed()
        return stream

    def listen(self, at: HostPort, parameters: Any, accepted: Callable[[SimulatedStream], None]) -> SimulatedAcceptor:
        """A listening socket. Raises OSError."""
        local = self._bindable(at, parameters.required_interface, self._listeners)
        acceptor = SimulatedAcceptor(self, local, parameters, accepted)
        self._listeners[local, acceptor.device] = acceptor
        return acceptor

    def bind(
        self, at: HostPort | None, to: HostPort | None, parameters: Any, handler: DatagramHandler
    ) -> SimulatedDatagramSocket:
        """A datagram socket. Raises OSError."""
        if to is None:
            assert at is not None  # the driver's caller gives one of them
            local = self.bindable(at, parameters.required_interface)
            made = SimulatedDatagramSocket(self, local, None, parameters, handler)
            self._bound[local, made.device] = made
            return made
        local = at or self._local(to, parameters)
        if not local.port:
            host = local.host
            local = HostPort(host, self._free_port(lambda port: (HostPort(host, port), to) not in self._connected))
        if (local, to) in self._connected:
            raise broken(errno.EADDRINUSE)
        made = self._connected[local, to] = SimulatedDatagramSocket(self, local, to, parameters, handler)
        return made

    def _local(self, to: HostPort, parameters: Any) -> HostPort:
        """Where a connecting socket is bound."""
        port = parameters.local_port or 0
        wanted = parameters.local_endpoint
        if isinstance(wanted, HostPort) and wanted.version == to.version:
            if wanted.host not in WILDCARDS.values():
                if not self._host.has_address(wanted.host):
                    raise broken(errno.EADDRNOTAVAIL)
                return wanted
            port = wanted.port
        address = self._host.source_of(to, parameters.required_interface)
        if address is None:
            raise broken(errno.ENETUNREACH)
        return HostPort(address, port)

    def bindable(self, at: HostPort, device: str | None = None, *, shared: bool = False) -> HostPort:
        """Where a datagram socket for many peers is bound; multicast sockets may share a port. Raises OSError."""
        groups = () if shared else self.groups.addresses
        return self._bindable(at, device, (*self._bound, *((address, None) for address in groups)))

    def _bindable(self, at: HostPort, own: str | None, used: Collection[Bound]) -> HostPort:
        if at.host not in WILDCARDS.values() and not self._host.has_address(at.host):
            raise broken(errno.EADDRNOTAVAIL)
        wildcard = HostPort(WILDCARDS[6 if ":" in at.host else 4], 0).host

        def is_free(port: int) -> bool:
            rivals = [one for one, device in used if None in (device, own) or device == own]
            others = [one for one in rivals if one.port == port and (":" in one.host) == (":" in at.host)]
            return not any(wildcard in (one.host, at.host) or one.host == at.host for one in others)

        if not at.port:
            return HostPort(at.host, self._free_port(is_free))
        if not is_free(at.port):
            raise broken(errno.EADDRINUSE)
        return at

    def _free_port(self, is_free: Callable[[int], bool]) -> int:
        for _ in range(FIRST_PORT, LAST_PORT):
            port = self._host.next_port
            self._host.next_port = FIRST_PORT if port == LAST_PORT else port + 1
            if is_free(port):
                return port
        raise broken(errno.EADDRNOTAVAIL)

    def _machine(self, local: HostPort, remote: HostPort, parameters: Any) -> TCPMachine:
        tcp: TCP = parameters.stack.find(TCP) or TCP()
        device, said = parameters.required_interface, header(parameters)
        segment = self.path_mtu(local, remote, parameters) - headers(remote, TransportProtocol.TCP)
        alive = tcp.keepalive
        return TCPMachine(
            local,
            remote,
            lambda packet: self.send(packet._replace(**said) if said else packet, device),
            maximum_segment=min(segment, tcp.maximum_segment_size or segment),
            send_capacity=self._host.send_buffer,
            receive_capacity=self._host.receive_buffer,
            drop_after=tcp.retransmit_connection_drop_time,
            keepalive=None if alive is None else (alive.idle, alive.interval, alive.count),
        )

    # Packets

    def arrived(self, packet: Packet, device: str) -> bool:
        """Give a packet that came in by an interface to its socket. False if there is none; then the sender has been told."""
        if packet.destination.is_multicast:
            return self.groups.arrived(packet, self.groups.index(device))
        if packet.about is not None:
            self._unreachable(packet, packet.about)
            return True
        if packet.protocol is TransportProtocol.UDP:
            socket = self._connected.get((packet.destination, packet.source)) or self._at(self._bound, packet.destination, device)
            if socket is not None:
                socket.arrived(packet)
                return True
            if self.groups.arrived(packet, self.groups.index(device)):
                return True
        else:
            ends = (packet.destination, packet.source)
            stream = self._streams.get(ends)
            if stream is None and (late := self._lingering.get(ends)) is not None and late[1] > self.now:
                stream = late[0]
            if stream is not None and stream.machine.connection != packet.connection:
                stream = self._other(stream, packet)
            if stream is not None:
                stream.arrived(packet)
                return True
            acceptor = self._at(self._listeners, packet.destination, device)
            if acceptor is not None and packet.flags == "S":
                if not acceptor.is_full:
                    self._open(acceptor, packet)
                return True
        answer = no_socket_answer(packet, errno.ECONNREFUSED)
        if answer is not None:
            self.send(answer)
        return False

    def _other(self, stream: SimulatedStream, packet: Packet) -> SimulatedStream | None:
        """Who gets a segment of another connection than the last one between these ports; None is as if that were not."""
        if packet.flags != "S":
            return None
        lingering = self._streams.get((packet.destination, packet.source)) is not stream
        opening = stream.machine.state is TCPState.SYN_RECEIVED
        if packet.connection < stream.machine.connection or not (lingering or opening):
            return stream  # which answers, and is reset by a peer that knows nothing of it (RFC 9293 section 3.5.1)
        if opening:
            stream.abort()
        return None

    def _open(self, acceptor: SimulatedAcceptor, syn: Packet) -> None:
        self._expire_lingering()
        self._lingering.pop((syn.destination, syn.source), None)
        machine = self._machine(syn.destination, syn.source, acceptor.parameters)
        stream = SimulatedStream(self, machine, connecting=False)
        self._streams[syn.destination, syn.source] = stream
        acceptor.opening(stream)
        stream.machine.accept(syn, self.now)
        stream.progressed()

    def _at(self, sockets: dict[Bound, Any], address: HostPort, device: str) -> Any:
        wildcard = HostPort(WILDCARDS[6 if ":" in address.host else 4], address.port)
        places = ((at, interface) for at in (address, wildcard) for interface in (device, None))
        return next((sockets[one] for one in places if one in sockets), None)

    def _unreachable(self, packet: Packet, about: Packet) -> None:
        """An ICMP error about a packet of ours."""
        ends = (about.source, about.destination)
        stream = self._streams.get(ends)
        if packet.mtu:
            known = self._mtus.get(about.destination.host, packet.mtu)
            if len(self._mtus) >= MTUS_KEPT:
                self._mtus.clear()
            self._mtus[about.destination.host] = min(known, packet.mtu)
            if stream is not None:
                stream.shrink(packet.mtu - headers(about.destination, TransportProtocol.TCP), about.sequence)
        elif stream is not None:
            stream.unreachable(packet.code)
        if about.protocol is TransportProtocol.UDP and (socket := self._connected.get(ends)) is not None:
            socket.unreachable(packet.code)

    # Closing

    def forget(self, stream: SimulatedStream, *, lingering: bool = False) -> None:
        """A connection is over. If both sides ended it, late segments are still answered for a while."""
        ends = (stream.machine.local, stream.machine.remote)
        if self._streams.get(ends) is stream:
            del self._streams[ends]
            if lingering:
                self._lingering[ends] = stream, self.now + LINGERING
        if stream.acceptor is not None:
            stream.acceptor.forget(stream)

    def _expire_lingering(self) -> None:
        while self._lingering:
            ends, (_, until) = next(iter(self._lingering.items()))
            if until > self.now:
                return
            del self._lingering[ends]

    def stop_listening(self, acceptor: SimulatedAcceptor) -> None:
        """A listening socket was closed."""
        self._listeners.pop((acceptor.local_address, acceptor.device), None)

    def close_datagrams(self, socket: SimulatedDatagramSocket) -> None:
        """A datagram socket was closed."""
        if socket.remote_address is None:
            self._bound.pop((socket.local_address, socket.device), None)
        else:
            self._connected.pop((socket.local_address, socket.remote_address), None)

    def kill(self) -> None:
        """The host crashes: every socket is gone, and nobody hears of it."""
        for socket in (*self,):
            socket.killed()
        for mine in (self._listeners, self._streams, self._lingering, self._bound, self._connected):
            mine.clear()
        self.groups.kill()
