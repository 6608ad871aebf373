"""The inbound side of a listener: what comes in becomes connections.

    StreamSide     one socket per address, accepted sockets, handshakes side by side (bounded in number and time)
    DatagramSide   one socket per address, a flow for each remote address that speaks
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tieline.connection import NetworkConnection
from tieline.errors import ConnectError, NetworkError, Phase
from tieline.establishment.attempt import StreamAttempt
from tieline.establishment.stacks import server_pipeline
from tieline.protocols.udp import UDP

if TYPE_CHECKING:
    from tieline.drivers.port import Address, DatagramSocket, Driver, StreamAcceptor, StreamSocket, Timer
    from tieline.flows.datagram import DatagramFlow
    from tieline.parameters import Parameters

__all__ = ["DatagramSide", "StreamSide"]

logger = logging.getLogger("tieline.listener")

Accepted = Callable[[NetworkConnection[Any]], None]
Failed = Callable[[NetworkError], None]


class StreamSide:
    """Listening stream sockets. A connection is handed out when its handshakes are done."""

    def __init__(self, driver: Driver, parameters: Parameters[Any], *, accepted: Accepted, failed: Failed) -> None:
        self._driver = driver
        self._parameters = parameters
        self._accepted = accepted
        self._acceptors: list[StreamAcceptor] = []
        self._handshakes: set[StreamAttempt] = set()
        self._budget: int | None = None
        self._closed = self._out_of_resources = False
        self.failed_handshakes = 0

    def bind(self, address: Address) -> Address:
        """Listen on one address; returns it with its port. Raises OSError."""
        acceptor = self._driver.listen(address, self._parameters, self._arrived, self._accept_failed)
        self._acceptors.append(acceptor)
        self._closed = False
        self._adjust()
        return acceptor.local_address

    def limit(self, budget: int | None) -> None:
        """How many more connections may be handed out."""
        self._budget = budget
        self._adjust()

    def _adjust(self) -> None:
        """Accept while there is room for another handshake and budget for another connection."""
        full = len(self._handshakes) >= self._parameters.maximum_pending_handshakes
        spent = self._budget is not None and self._budget <= len(self._handshakes)
        for acceptor in self._acceptors:
            if full or spent:
                acceptor.pause()
            else:
                acceptor.resume()

    def _arrived(self, socket: StreamSocket) -> None:
        self._out_of_resources = False
        remote = socket.remote_address
        attempt = StreamAttempt(
            self._driver,
            self._parameters,
            remote,
            server_pipeline(self._parameters.stack, remote),
            succeeded=lambda: self._ready(attempt, remote),
            failed=lambda error: self._handshake_failed(attempt, remote, error),
        )
        self._handshakes.add(attempt)
        attempt.accept(socket)
        self._adjust()

    def _ready(self, attempt: StreamAttempt, remote: Address | None) -> None:
        self._handshakes.discard(attempt)
        if self._closed:
            attempt.cancel()
            return
        self._accepted(NetworkConnection.accepted(self._driver, self._parameters, remote, attempt.hand_over))
        self._adjust()

    def _handshake_failed(self, attempt: StreamAttempt, remote: Address | None, error: Exception) -> None:
        self._handshakes.discard(attempt)
        self.failed_handshakes += 1
        logger.debug("handshake with %s failed: %s", remote, error)
        self._adjust()

    def _accept_failed(self, error: OSError) -> None:
        if not self._out_of_resources:  # once, until accepting works again
            self._out_of_resources = True
            logger.error("cannot accept connections at present: %s; trying again until it works", error)

    def close(self) -> None:
        """Listen no more; connections that were handed out live on."""
        self._closed = True
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()
        for attempt in tuple(self._handshakes):
            attempt.cancel()
        self._handshakes.clear()

    def abort(self) -> None:
        """Nothing is shared with the connections."""


class DatagramSide:
    """Datagram sockets, and the flows over them by remote address."""

    def __init__(self, driver: Driver, parameters: Parameters[Any], *, accepted: Accepted, failed: Failed) -> None:
        self._driver = driver
        self._parameters = parameters
        self._accepted = accepted
        self._failed = failed
        self._ports: list[SharedSocket] = []
        self._budget: int | None = None
        self._closed = False
        self.failed_handshakes = 0

    def bind(self, address: Address) -> Address:
        """Open one address; returns it with its port. Raises OSError."""
        port = SharedSocket(self._driver, self._parameters, address, self)
        self._ports.append(port)
        self._closed = False
        return port.socket.local_address

    def limit(self, budget: int | None) -> None:
        """How many more flows may be handed out."""
        self._budget = budget

    @property
    def admits(self) -> bool:
        """Whether a datagram of a new peer makes a flow."""
        udp: UDP = self._parameters.stack.find(UDP)
        flows = sum(len(port.flows) for port in self._ports)
        return not self._closed and (self._budget is None or self._budget > 0) and flows < udp.maximum_flows

    def hand_out(self, connection: NetworkConnection[Any]) -> None:
        self._accepted(connection)

    def broke(self, error: OSError, where: Address) -> None:
        failure = ConnectError(
            f"the socket failed: {error.strerror or error}", endpoint=where, phase=Phase.LISTENING, code=error.errno
        )
        failure.__cause__ = error
        self._failed(failure)

    def close(self) -> None:
        """Take no new flows and end the iteration of those there are; their handlers may still send."""
        self._closed = True
        for port in self._ports:
            port.end()

    def abort(self) -> None:
        """Close the sockets: no handler is left."""
        for port in self._ports:
            port.close()
        self._ports.clear()


class SharedSocket:
    """One datagram socket and its flows."""

    def __init__(self, driver: Driver, parameters: Parameters[Any], address: Address, side: DatagramSide) -> None:
        self._driver = driver
        self._parameters = parameters
        self._side = side
        self._seen: dict[Address, int] = {}  # activity of each flow at the last sweep
        self._sweeper: Timer | None = None
        self.flows: dict[Address, DatagramFlow] = {}
        self.socket: DatagramSocket = driver.bind(address, None, parameters, self)

    # The socket's handler

    def received(self, datagram: bytes, remote: Address | None) -> None:
        assert remote is not None  # the socket is not connected
        flow = self.flows.get(remote)
        if flow is None or flow.socket is None:
            if not self._side.admits:
                return
            connection = NetworkConnection.accepted(
                self._driver, self._parameters, remote, lambda flow: self._attach(flow, remote)
            )
            flow = self.flows[remote]
            flow.received(datagram, None)
            self._side.hand_out(connection)
            if self._sweeper is None:
                self._start_sweeping()
            return
        flow.received(datagram, None)

    def _attach(self, flow: DatagramFlow, remote: Address) -> DatagramSocket:
        self.flows[remote] = flow
        flow.attach(self.socket, remote)
        return self.socket

    def writable(self) -> None:
        for flow in tuple(self.flows.values()):
            flow.writable()

    def failed(self, error: OSError) -> None:
        """An ICMP error for a peer that has gone reaches an open socket without a name: its flow ends by idleness."""
        logger.debug("a datagram from %s could not be delivered: %s", self.socket.local_address, error)

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
        for flow in self.flows.values():
            flow.end()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def close(self) -> None:
        self.end()
        self.socket.close()
