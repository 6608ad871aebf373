"""Inbound QUIC: one socket per address for all its connections. One is handed out when its handshake is done.

The engine bounds the handshakes, and asks clients to show their address while there are many (Retry).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tieline.connection import NetworkConnection
from tieline.endpoints import HostPort
from tieline.engines.quic import CONNECTION_REFUSED, server_endpoint
from tieline.errors import NetworkError
from tieline.establishment.handshaking import SessionHandshake
from tieline.inbound.side import FATAL, Accepted, Failed, is_welcome, listening_failed, logger
from tieline.multiplex.endpoint import QUICEndpoint
from tieline.protocols.quic import QUICOptions

if TYPE_CHECKING:
    from tieline._engine.quic import QuicClose
    from tieline.drivers.port import Address, Driver, PacketAddress
    from tieline.establishment.binding import Spot
    from tieline.multiplex.session import Session
    from tieline.parameters import Parameters

__all__ = ["SessionSide"]


class SessionSide:
    """QUIC sockets, and the sessions on them."""

    def __init__(self, driver: Driver, parameters: Parameters[Any], *, accepted: Accepted, failed: Failed) -> None:
        self._driver = driver
        self._parameters = parameters
        self._accepted = accepted
        self._failed = failed
        self._ports: dict[Spot, QUICEndpoint] = {}
        self._left: dict[Spot, QUICEndpoint] = {}  # that take in no new connections, and are open for those that there are
        self._handshakes: dict[InboundSession, None] = {}
        self._budget: int | None = None
        self.failed_handshakes = 0

    def bind(self, spot: Spot, at: Address) -> Address:
        """Listen on one address, or do so again; returns it with its port. Raises OSError."""
        port = self._left.pop(spot, None)
        if port is None or port.is_closed:
            port, local = self._opened(spot, at)
        else:
            local = port.local_address
        self._ports[spot] = port
        port.closes_when_empty = False
        self._share_room()
        return local

    def _opened(self, spot: Spot, at: Address) -> tuple[QUICEndpoint, HostPort]:
        assert isinstance(at, HostPort)  # the listener has refused the others
        options: QUICOptions = self._parameters.stack.find(QUICOptions)
        engine = server_endpoint(options, self._parameters.maximum_pending_handshakes, self._driver.seed())
        port = QUICEndpoint(
            self._driver,
            engine,
            incoming=lambda session: self._arrived(port, session),  # pyright: ignore[reportUnknownLambdaType]
            refused=lambda remote, close: self._refused(remote, close),
            failed=lambda error: self._broke(port, error),
        )
        return port, port.open(at, None, self._parameters, spot.interface)

    def unbind(self, spot: Spot) -> None:
        """Take in no new connections there, and close the socket with the last one's end."""
        self._left = {one: port for one, port in self._left.items() if not port.is_closed}
        port = self._left[spot] = self._ports.pop(spot)
        port.admit_at_most(0)
        port.closes_when_empty = True

    def limit(self, budget: int | None) -> None:
        """How many more connections may be handed out."""
        self._budget = budget
        self._share_room()

    def _share_room(self) -> None:
        """Handshakes under way may still become connections, of which only so many may be handed out."""
        room = None if self._budget is None else max(0, self._budget - len(self._handshakes))
        for port in self._ports.values():
            port.admit_at_most(room)

    def _arrived(self, port: QUICEndpoint, session: Session) -> None:
        remote = session.remote
        attempt = InboundSession(
            self._driver,
            self._parameters,
            remote,
            succeeded=lambda: self._ready(attempt),
            failed=lambda error: self._handshake_failed(attempt, error),
        )
        attempt.local_address, attempt.remote_address = session.local, remote
        self._handshakes[attempt] = None
        attempt.watch(session)
        if not is_welcome(self._driver, self._parameters, remote):
            self._handshakes.pop(attempt)
            self.failed_handshakes += 1
            attempt.cancel()
        self._share_room()

    def _ready(self, attempt: InboundSession) -> None:
        self._handshakes.pop(attempt, None)
        remote = attempt.remote_address
        if self._budget == 0:  # it was lowered while the handshakes ran
            attempt.cancel()
            return
        self._accepted(NetworkConnection.accepted(self._driver, self._parameters, remote, attempt.hand_over, attempt))

    def _handshake_failed(self, attempt: InboundSession, error: Exception) -> None:
        self._handshakes.pop(attempt, None)
        self._share_room()
        self.failed_handshakes += 1
        if isinstance(error, (OSError, NetworkError)):
            logger().debug("handshake with %s failed: %s", attempt.remote_address, error)
        else:
            logger().error("the handshake with %s ended in a mistake of the program", attempt.remote_address, exc_info=error)

    def _refused(self, remote: PacketAddress, close: QuicClose) -> None:
        """It failed in the first packet already."""
        self.failed_handshakes += 1
        logger().debug("handshake with %s failed: %s", HostPort(remote[0], remote[1]), close.message)

    def _broke(self, port: QUICEndpoint, error: OSError) -> None:
        if error.errno in FATAL:
            self._failed(listening_failed(error, port.local_address))
            return
        logger().debug("a datagram of %s could not be delivered: %s", port.local_address, error)

    def release(self, connection: NetworkConnection[Any]) -> None:
        """A connection's handler has ended: it has closed its session, and nothing is left here."""

    def close(self) -> None:
        """Take in no more connections; those that were handed out live on."""
        for attempt in tuple(self._handshakes):
            attempt.cancel()
        self._handshakes.clear()
        for port in self._all():
            port.stop()

    def abort(self) -> None:
        """Close the sockets: no handler is left."""
        for attempt in tuple(self._handshakes):
            attempt.cancel()
        self._handshakes.clear()
        for port in self._all():
            port.flush()
            port.close()
        self._ports.clear()
        self._left.clear()

    def _all(self) -> tuple[QUICEndpoint, ...]:
        return *self._ports.values(), *self._left.values()


class InboundSession(SessionHandshake):
    """A client that has begun to connect to us."""

    farewell = CONNECTION_REFUSED, "the server takes in no connection at present"
    local_address: Address
    remote_address: HostPort
