"""Inbound datagrams: one socket per address, a flow for each remote address that speaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tieline._engine.datagram import Sharing
from tieline.connection import NetworkConnection
from tieline.inbound.side import FATAL, Accepted, Failed, is_welcome, listening_failed, logger
from tieline.protocols.udp import UDP

if TYPE_CHECKING:
    from tieline.drivers.port import Address, DatagramSocket, Driver, Timer
    from tieline.establishment.binding import Spot
    from tieline.flows.datagram import DatagramFlow
    from tieline.parameters import Parameters
    from tieline.protocols.ip import IPMetadata

__all__ = ["DatagramSide"]


class DatagramSide:
    """Datagram sockets, and the flows over them by remote address."""

    def __init__(self, driver: Driver, parameters: Parameters[Any], *, accepted: Accepted, failed: Failed) -> None:
        self._driver = driver
        self._parameters = parameters
        self._accepted = accepted
        self._failed = failed
        self._live: dict[NetworkConnection[Any], SharedSocket] = {}  # whose handlers run, also after the end by idleness
        self._ports: dict[Spot, SharedSocket] = {}
        self._left: dict[Spot, SharedSocket] = {}  # that take in no new flows, and are open for those that there are
        self._budget: int | None = None
        self.closed = False
        self.failed_handshakes = 0

    def bind(self, spot: Spot, at: Address) -> Address:
        """Open one address, or use it again; returns it with its port. Raises OSError."""
        port = self._left.pop(spot, None)
        if port is None:
            port = SharedSocket(self._driver, self._parameters, at, spot.interface, self)
        port.is_open = True
        self._ports[spot] = port
        return port.socket.local_address

    def unbind(self, spot: Spot) -> None:
        """Take in no new flows there, and close the socket with the last one's end."""
        port = self._left[spot] = self._ports.pop(spot)
        port.is_open = False
        self._close_left()

    def _close_left(self) -> None:
        used = set(self._live.values())
        for spot, port in tuple(self._left.items()):
            if port not in used:
                del self._left[spot]
                port.close()

    def limit(self, budget: int | None) -> None:
        """How many more flows may be handed out."""
        self._budget = budget

    @property
    def admits(self) -> bool:
        """Whether a datagram of a new peer makes a flow."""
        udp: UDP = self._parameters.stack.find(UDP)
        return (self._budget is None or self._budget > 0) and len(self._live) < udp.maximum_flows

    def hand_out(self, connection: NetworkConnection[Any], port: SharedSocket) -> None:
        self._live[connection] = port
        self._accepted(connection)

    def broke(self, error: OSError, where: Address) -> None:
        self._failed(listening_failed(error, where))

    def release(self, connection: NetworkConnection[Any]) -> None:
        """A flow's handler has ended: its peer may begin another."""
        port = self._live.pop(connection)
        port.forget(connection.remote_endpoint, connection._flow)
        if self._left:
            self._close_left()

    def close(self) -> None:
        """Take in nothing more, so the iteration of flows ends; their handlers may still send."""
        self.closed = True
        for port in self._all():
            port.end()

    def abort(self) -> None:
        """Close the sockets: no handler is left."""
        for port in self._all():
            port.close()
        self._ports.clear()
        self._left.clear()

    def _all(self) -> tuple[SharedSocket, ...]:
        return *self._ports.values(), *self._left.values()


class SharedSocket(Sharing):
    """One datagram socket and its flows. What comes for one of those goes there, and the rest is told here."""

    flows: dict[Address, DatagramFlow]

    def __init__(
        self, driver: Driver, parameters: Parameters[Any], at: Address, interface: str | None, side: DatagramSide
    ) -> None:
        self._driver = driver
        self._parameters = parameters
        self._side = side
        self._seen: dict[Address, int] = {}  # activity of each flow at the last sweep
        self._sweeper: Timer | None = None
        self.is_open = False
        self.socket: DatagramSocket = driver.bind(at, None, parameters.bound_to(interface), self)

    # The socket's handler

    def received(self, datagram: bytes, remote: Address | None, metadata: IPMetadata | None = None) -> None:
        assert remote is not None  # the socket is not connected
        if self._side.closed:
            return
        flow = self.flows.get(remote)
        if flow is None or flow.socket is None:
            if not (self.is_open and self._side.admits and is_welcome(self._driver, self._parameters, remote)):
                return
            connection = NetworkConnection.accepted(
                self._driver, self._parameters, remote, lambda flow: self._attach(flow, remote)
            )
            flow = self.flows[remote]
            flow.received(datagram, None, metadata)
            self._side.hand_out(connection, self)
            if self._sweeper is None:
                self._start_sweeping()
            return
        flow.received(datagram, None, metadata)

    def received_all(self, datagrams: list[bytes], remote: Address | None, metadata: IPMetadata | None = None) -> None:
        assert remote is not None  # the socket is not connected
        flow = self.flows.get(remote)
        if flow is not None and flow.socket is not None and not self._side.closed:
            flow.received_all(datagrams, None, metadata)
            return
        for datagram in datagrams:
            self.received(datagram, remote, metadata)

    def _attach(self, flow: DatagramFlow, remote: Address) -> DatagramSocket:
        self.flows[remote] = flow
        flow.attach(self.socket, remote)
        return self.socket

    def writable(self) -> None:
        for flow in tuple(self.flows.values()):
            flow.writable()

    def failed(self, error: OSError) -> None:
        """An ICMP error for a peer that has gone reaches an open socket without a name: its flow ends by idleness."""
        if error.errno in FATAL:
            self._side.broke(error, self.socket.local_address)
            return
        logger().debug("a datagram of %s could not be delivered: %s", self.socket.local_address, error)

    def forget(self, remote: Address | None, flow: DatagramFlow) -> None:
        """Forget a flow, unless its peer has begun another since."""
        if remote is not None and self.flows.get(remote) is flow:
            del self.flows[remote]

    # Idle flows

    def _start_sweeping(self) -> None:
        udp: UDP = self._parameters.stack.find(UDP)
        self._sweeper = self._driver.call_later(udp.idle_timeout / 2, self._sweep)

    def _sweep(self) -> None:
        """End the flows that were silent for two sweeps, and forget those that were closed."""
        self._sweeper = None
        seen: dict[Address, int] = {}
        for remote, flow in tuple(self.flows.items()):
            before = self._seen.get(remote, 0)
            if flow.socket is None:
                del self.flows[remote]
            elif before == -flow.activity:
                flow.end()
                del self.flows[remote]
            else:  # negative: silent for one sweep already
                seen[remote] = -flow.activity if before == flow.activity else flow.activity
        self._seen = seen
        if self.flows:
            self._start_sweeping()

    def end(self) -> None:
        self.deaf = True
        for flow in self.flows.values():
            flow.end()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def close(self) -> None:
        self.end()
        self.socket.close()
