"""Inbound streams: one socket per address, accepted sockets, handshakes side by side (bounded in number and time)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tieline.connection import NetworkConnection
from tieline.errors import NetworkError, Phase
from tieline.establishment.attempt import Attempt
from tieline.establishment.stacks import is_bare, server_pipeline
from tieline.establishment.stream import StreamAttempt
from tieline.inbound.side import FATAL, Accepted, Failed, is_welcome, listening_failed, logger
from tieline.protocols.tcp import TCP

if TYPE_CHECKING:
    from tieline.drivers.port import Address, Counted, Driver, StreamAcceptor, StreamSocket
    from tieline.establishment.binding import Spot
    from tieline.flows.stream import StreamFlow
    from tieline.parameters import Parameters

__all__ = ["StreamSide"]

QUIET = 10.0  # seconds of accepting without trouble, after which trouble is news again


class StreamSide:
    """Listening stream sockets. A connection is handed out when its handshakes are done."""

    def __init__(self, driver: Driver, parameters: Parameters[Any], *, accepted: Accepted, failed: Failed) -> None:
        self._driver = driver
        self._parameters = parameters
        self._is_bare = parameters.kept(is_bare)
        self._accepted = accepted
        self._failed = failed
        self._acceptors: dict[Spot, StreamAcceptor] = {}
        self._handshakes: dict[StreamAttempt, None] = {}  # in the order in which they began
        self._budget: int | None = None
        self._admits = True
        self._last_trouble = -QUIET
        self.failed_handshakes = 0

    def bind(self, spot: Spot, at: Address) -> Address:
        """Listen on one address; returns it with its port. Raises OSError."""
        parameters = self._parameters.bound_to(spot.interface)
        acceptor = self._acceptors[spot] = self._driver.listen(at, parameters, self._arrived, self._accept_failed)
        if self._admits:
            acceptor.resume()
        return acceptor.local_address

    def unbind(self, spot: Spot) -> None:
        """Listen there no more. An accepted connection has a socket of its own."""
        self._acceptors.pop(spot).close()

    def limit(self, budget: int | None) -> None:
        """How many more connections may be handed out."""
        self._budget = budget
        self._adjust()

    def _adjust(self) -> None:
        """Accept while there is room for another handshake and budget for another connection."""
        under_way = len(self._handshakes)
        admits = under_way < self._parameters.maximum_pending_handshakes and (self._budget is None or under_way < self._budget)
        if admits is self._admits:
            return
        self._admits = admits
        for acceptor in self._acceptors.values():
            if admits:
                acceptor.resume()
            else:
                acceptor.pause()

    def _arrived(self, socket: StreamSocket) -> None:
        remote = socket.remote_address
        if self._parameters.local_only and not is_welcome(self._driver, self._parameters, remote):
            self.failed_handshakes += 1
            socket.abort()
            return
        pipeline = None if self._is_bare else server_pipeline(self._parameters.stack, remote)
        if pipeline is None:
            self._ready_at_once(socket, remote)
            return
        attempt = StreamAttempt(
            self._driver,
            self._parameters,
            remote,
            pipeline,
            succeeded=lambda: self._ready(attempt, remote),
            failed=lambda error: self._handshake_failed(attempt, remote, error),
        )
        self._handshakes[attempt] = None
        attempt.accept(socket)
        self._adjust()

    def _ready_at_once(self, socket: StreamSocket, remote: Address | None) -> None:
        """Without a handshake, that it was accepted is all there is to it."""
        if self._budget == 0:
            socket.abort()
            return
        try:
            accepted = AcceptedSocket(self._driver.time(), socket)
            connection = NetworkConnection.accepted(self._driver, self._parameters, remote, accepted.hand_over, accepted)
            self._accepted(connection)
        except Exception as error:
            socket.abort()
            self._not_handed_out(remote, error)

    def _ready(self, attempt: StreamAttempt, remote: Address | None) -> None:
        self._handshakes.pop(attempt, None)
        if self._budget == 0:  # it was lowered while the handshakes ran
            attempt.cancel()
            return
        self._accepted(NetworkConnection.accepted(self._driver, self._parameters, remote, attempt.hand_over, attempt))
        self._adjust()

    def _handshake_failed(self, attempt: StreamAttempt, remote: Address | None, error: Exception) -> None:
        self._handshakes.pop(attempt, None)
        self._not_handed_out(remote, error)
        self._adjust()

    def _not_handed_out(self, remote: Address | None, error: Exception) -> None:
        self.failed_handshakes += 1
        if isinstance(error, (OSError, NetworkError)) and type(error) is not NetworkError:
            logger().debug("handshake with %s failed: %s", remote, error)
        else:
            logger().error("the handshake with %s ended in a mistake of the program", remote, exc_info=error)

    def _accept_failed(self, error: OSError) -> None:
        if error.errno in FATAL:
            where = next((one.local_address for one in self._acceptors.values()), None)
            self.close()
            self._failed(listening_failed(error, where))
            return
        now = self._driver.time()
        if now - self._last_trouble >= QUIET:  # not for each descriptor that a closing connection gives back
            logger().error("cannot accept connections at present: %s; trying again until it works", error)
        self._last_trouble = now

    def release(self, connection: NetworkConnection[Any]) -> None:
        """A connection's handler has ended: a stream has nothing left here."""

    def close(self) -> None:
        """Listen no more; connections that were handed out live on."""
        for acceptor in self._acceptors.values():
            acceptor.close()
        self._acceptors.clear()
        for attempt in tuple(self._handshakes):
            attempt.cancel()
        self._handshakes.clear()

    def abort(self) -> None:
        """The same: nothing is shared with the connections."""
        self.close()


class AcceptedSocket(Attempt):
    """A stream socket that a listener accepted, and on which nobody has to shake hands."""

    __slots__ = ("_counted", "_socket", "begun", "handshakes")

    phase = Phase.CONNECTING

    def __init__(self, begun: float, socket: StreamSocket) -> None:
        self.begun = begun
        self._socket = socket
        self._counted = socket.counters()
        self.handshakes = ((TCP.name, 0.0, self._counted),)

    def counters(self) -> Counted | None:
        """What the transport has moved so far: nothing has moved since."""
        return self._counted

    def hand_over(self, flow: StreamFlow) -> StreamSocket:
        """Give the socket to the flow that goes on with it."""
        flow.attach(self._socket, None, b"", b"", 0)
        return self._socket

    def cancel(self) -> None:
        """Give up, and tell nobody."""
        self._socket.abort()
