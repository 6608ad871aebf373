"""The inbound side of a listener: what comes in becomes connections.

StreamSide     one socket per address, accepted sockets, handshakes side by side (bounded in number and time)
DatagramSide   one socket per address, a flow for each remote address that speaks
"""

from __future__ import annotations

import errno
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

QUIET = 10.0  # seconds of accepting without trouble, after which trouble is news again

FATAL = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP})
"""What a listening socket says when it is none any more; everything else passes or concerns one peer."""


def listening_failed(error: OSError, where: object) -> ConnectError:
    """The error of a listener whose socket broke."""
    failure = ConnectError(
        f"the listening socket failed: {error.strerror or error}", endpoint=where, phase=Phase.LISTENING, code=error.errno
    )
    failure.__cause__ = error
    return failure


class StreamSide:
    """Listening stream sockets. A connection is handed out when its handshakes are done."""

    def __init__(self, driver: Driver, parameters: Parameters[Any], *, accepted: Accepted, failed: Failed) -> None:
        self._driver = driver
        self._parameters = parameters
        self._accepted = accepted
        self._failed = failed
        self._acceptors: list[StreamAcceptor] = []
        self._handshakes: set[StreamAttempt] = set()
        self._budget: int | None = None
        self._last_trouble = -QUIET
        self.failed_handshakes = 0

    def bind(self, address: Address) -> Address:
        """Listen on one address; returns it with its port. Raises OSError."""
        acceptor = self._driver.listen(address, self._parameters, self._arrived, self._accept_failed)
        self._acceptors.append(acceptor)
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
        if self._budget == 0:  # it was lowered while the handshakes ran
            attempt.cancel()
            return
        self._accepted(NetworkConnection.accepted(self._driver, self._parameters, remote, attempt.hand_over, attempt))
        self._adjust()

    def _handshake_failed(self, attempt: StreamAttempt, remote: Address | None, error: Exception) -> None:
        self._handshakes.discard(attempt)
        self.failed_handshakes += 1
        if isinstance(error, (OSError, NetworkError)):
            logger.debug("handshake with %s failed: %s", remote, error)
        else:
            logger.error("the handshake with %s ended in a mistake of the program", remote, exc_info=error)
        self._adjust()

    def _accept_failed(self, error: OSError) -> None:
        if error.errno in FATAL:
            where = self._acceptors[0].local_address if self._acceptors else None
            self.close()
            self._failed(listening_failed(error, where))
            return
        now = self._driver.time()
        if now - self._last_trouble >= QUIET:  # not for each descriptor that a closing connection gives back
            logger.error("cannot accept connections at present: %s; trying again until it works", error)
        self._last_trouble = now

    def release(self, connection: NetworkConnection[Any]) -> None:
        """A connection's handler has ended: a stream has nothing left here."""

    def close(self) -> None:
        """Listen no more; connections that were handed out live on."""
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()
        for attempt in tuple(self._handshakes):
            attempt.cancel()
        self._handshakes.clear()

    def abort(self) -> None:
        """The same: nothing is shared with the connections."""
        self.close()


class DatagramSide:
    """Datagram sockets, and the flows over them by remote address."""

    def __init__(self, driver: Driver, parameters: Parameters[Any], *, accepted: Accepted, failed: Failed) -> None:
        self._driver = driver
        self._parameters = parameters
        self._accepted = accepted
        self._failed = failed
        self._live = 0  # flows whose handlers run, also those that have ended by idleness
        self._ports: list[SharedSocket] = []
        self._budget: int | None = None
        self.closed = False
        self.failed_handshakes = 0

    def bind(self, address: Address) -> Address:
        """Open one address; returns it with its port. Raises OSError."""
        port = SharedSocket(self._driver, self._parameters, address, self)
        self._ports.append(port)
        return port.socket.local_address

    def limit(self, budget: int | None) -> None:
        """How many more flows may be handed out."""
        self._budget = budget

    @property
    def admits(self) -> bool:
        """Whether a datagram of a new peer makes a flow."""
        udp: UDP = self._parameters.stack.find(UDP)
        return (self._budget is None or self._budget > 0) and self._live < udp.maximum_flows

    def hand_out(self, connection: NetworkConnection[Any]) -> None:
        self._live += 1
        self._accepted(connection)

    def broke(self, error: OSError, where: Address) -> None:
        self._failed(listening_failed(error, where))

    def release(self, connection: NetworkConnection[Any]) -> None:
        """A flow's handler has ended: its peer may begin another."""
        self._live -= 1
        for port in self._ports:
            port.forget(connection.remote_endpoint, connection._flow)

    def close(self) -> None:
        """Take in nothing more, so the iteration of flows ends; their handlers may still send."""
        self.closed = True
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
        if self._side.closed:
            return
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
        if error.errno in FATAL:
            self._side.broke(error, self.socket.local_address)
            return
        logger.debug("a datagram of %s could not be delivered: %s", self.socket.local_address, error)

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
        for flow in self.flows.values():
            flow.end()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def close(self) -> None:
        self.end()
        self.socket.close()
