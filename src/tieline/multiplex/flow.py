"""What a QUIC connection has in place of a flow of data: a session that gives rise to streams and datagrams.

It has been there since the connection was constructed, so a call can wait in it before there is a session.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from tieline.endpoints import HostPort
from tieline.engines.quic import close_error
from tieline.engines.tls import tls_metadata
from tieline.errors import ChannelClosedError, CloseTimeoutError, NetworkError, Phase, raisable
from tieline.multiplex.migration import Migration
from tieline.protocols.quic import ApplicationError, QUICOptions
from tieline.protocols.security import SecurityOptions
from tieline.reports import TransportCounters

if TYPE_CHECKING:
    from tieline._engine.quic import QuicClose
    from tieline.drivers.port import Counted, Driver, Waiter
    from tieline.multiplex.early import EarlyStream
    from tieline.multiplex.session import Session
    from tieline.multiplex.stream import QUICStreamSocket
    from tieline.parameters import Parameters
    from tieline.protocols.security import TLSMetadata

__all__ = ["MultiplexFlow", "MultiplexOwner"]


class MultiplexOwner(Protocol):
    """The connection, as its flow sees it. The flow does not keep it alive."""

    driver: Driver

    def flow_failed(self, error: NetworkError | None) -> None: ...
    def moved(self, local: HostPort | None, remote: HostPort | None) -> None:
        """It goes on between other addresses."""


class MultiplexFlow:
    """The streams and datagrams of one connection."""

    __slots__ = (
        "__weakref__", "_arrived", "_close_socket", "_closed", "_counted", "_failure", "_inbound", "_keepalive", "_migration",
        "_owner", "_parameters", "_received_count", "_sent_count", "application_error", "early", "endpoint", "name",
        "peer_closed",
        "server_name", "session",
    )  # fmt: skip

    calls = "open_stream(), inbound_streams() and datagrams()"

    def __init__(self, owner: MultiplexOwner, parameters: Parameters[Any], endpoint: object) -> None:
        self._owner = weakref.ref(owner)
        self._parameters = parameters
        self.name = parameters.stack.name
        self.endpoint = endpoint
        self.session: Session | None = None
        self.early: dict[EarlyStream, None] = {}  # not opened yet, in the order of the calls
        self.application_error = ApplicationError(0)  # what a close says; after the peer's close, what that said
        self.peer_closed = False
        self.server_name: str | None = None
        self._close_socket: Callable[[], None] = lambda: None
        self._failure: NetworkError | None = None
        self._closed = False
        self._migration: Migration | None = None  # of a client's session
        self._inbound: Waiter | None = None
        self._arrived: list[QUICStreamSocket] = []  # when the session ended, and nobody had taken them
        options: QUICOptions = parameters.stack
        self._keepalive = options.keepalive
        self._counted: TransportCounters | None = None  # when the session ended
        self._received_count = self._sent_count = 0  # of earlier sessions

    # For the connection

    def attach(self, session: Session, close_socket: Callable[[], None], server_name: str | None) -> None:
        """Go on with a session whose handshake is done; `close_socket` is called when that is over."""
        self.session = session
        self._close_socket = close_socket
        self.server_name = server_name
        session.owner = self
        session.peer_name = self.endpoint
        if session.is_client:
            self._migration = Migration(session, self._left_from)
        if session.connection.keepalive != self._keepalive:
            self.keepalive = self._keepalive
        session.take_over(self.early)
        if session.close_reason is not None:  # lost in the very turn in which it became ready
            self.ended(session.close_reason)
        self._wake_inbound()

    def detach(self) -> None:
        """Give up the session for another endpoint. Who waits to open a stream, or for one, goes on to wait."""
        session, self.session = self.session, None
        if session is not None:
            self._count(session)
            session.owner = None
            session.connection.close(session.endpoint.now, 0, b"")
            session.fail(ChannelClosedError("the connection went on to another endpoint", endpoint=self.endpoint))
            self._leave(session)

    def _leave(self, session: Session) -> None:
        if self._migration is not None:
            self._migration.cancel()
            self._migration = None
        session.endpoint.flush()
        self._close_socket()
        self._close_socket = lambda: None

    def raise_pending(self, error: NetworkError) -> None:
        """Who waits for the connection itself is told by it; streams that were opened early have calls of their own."""
        for stream in tuple(self.early):
            stream.raise_pending(error)

    def fail(self, error: NetworkError) -> None:
        """It is over."""
        if self._failure is None:
            self._failure = error
        self._end_session(raisable(error))

    def abort(self) -> None:
        """Close at once, with the application's error."""
        self._closed = True
        session = self.session
        if session is not None and session.is_open:
            error = self.application_error
            session.owner = None  # what is heard of it from now on is our own doing
            session.connection.close(session.endpoint.now, error.code, error.reason.encode())
        self._end_session(self._closed_error())

    async def finish(self) -> None:
        """Close gracefully: what was sent on streams that have ended is acknowledged first.

        Raises CloseTimeoutError when the peer takes nothing more for `close_timeout` seconds, and why the connection has ended
        if it did so before the peer had everything, unless its application said with code 0 that it wants no more.
        """
        session = self.session
        if session is None or not session.is_open:
            return
        self._closed = True
        session.fail_openers(self._closed_error())
        self._wake_inbound()
        wanted = self._is_unfinished(session)
        while self._is_unfinished(session):
            await self._progress(session)
        if wanted:
            self._require_taken()

    def _is_unfinished(self, session: Session) -> bool:
        return session.is_unfinished or (session.is_open and any(stream.is_promised for stream in self.early))

    def _require_taken(self) -> None:
        """Raise what has ended the session, unless the peer's application said with code 0 that it wants no more."""
        if self._failure is not None and not (self.peer_closed and self.application_error.code == 0):
            raise raisable(self._failure)

    async def _progress(self, session: Session) -> None:
        """Wait until the peer has a stream as a whole, or has taken something at least."""
        driver = session.endpoint.driver
        timeout = self._parameters.close_timeout
        waiter = session.drain_waiter = driver.waiter()
        expired = False
        before = session.progress()

        def expire() -> None:
            nonlocal expired
            expired = True
            session.wake_drain()

        timer = driver.call_later(timeout, expire)
        try:
            await waiter
        finally:
            timer.cancel()
            session.drain_waiter = None
        if expired and session.is_open and not session.has_progressed(before):
            count = session.unfinished_count
            self.abort()
            raise CloseTimeoutError(
                f"the peer did not take everything of {count} streams that were ended",
                endpoint=self.endpoint,
                phase=Phase.CLOSING,
                expected=f"progress within close_timeout={timeout:g} s",
                got="none; the connection was closed, and the last bytes may be lost",
            )

    def _closed_error(self) -> ChannelClosedError:
        return ChannelClosedError("the connection was closed by this side", endpoint=self.endpoint, phase=Phase.TRANSFER)

    def _end_session(self, error: NetworkError, *, is_clean: bool = False) -> None:
        session = self.session
        if session is not None:
            self._counted = self.counters()
            self._count(session)
            self._keepalive = self.keepalive
            self.session = session.owner = None
            if not self._closed:
                self._arrived = session.arrived
            session.fail(error, is_clean=is_clean)
            self._leave(session)
        for stream in tuple(self.early):
            stream.fail(error)
        self._wake_inbound()

    # For the calls

    @property
    def accepted_early(self) -> tuple[EarlyStream, ...]:
        """All streams that were opened before there is a session, if something was accepted on one of them."""
        return tuple(self.early) if any(stream.is_promised for stream in self.early) else ()

    @property
    def is_over(self) -> bool:
        """Whether there is no session any more, and never will be."""
        return self._closed or self._failure is not None

    @property
    def farewell(self) -> NetworkError | None:
        """What the peer's application said when it closed the connection, if it was first."""
        return raisable(self._failure) if self.peer_closed and not self._closed and self._failure is not None else None

    def require_open(self) -> None:
        """Raise why there is no session any more, if that is so."""
        if self._closed:
            raise self._closed_error()
        if self._failure is not None:
            raise raisable(self._failure)

    async def next_inbound(self, driver: Driver) -> QUICStreamSocket | None:
        """The next stream that the peer opens; None when no more can come."""
        while True:
            session = self.session
            socket = None if self._closed or session is None else session.accept()
            if socket is None and self._arrived:
                socket = self._arrived.pop(0)
            if socket is not None or self.is_over:
                return socket
            self._inbound = driver.waiter()
            try:
                await self._inbound
            finally:
                self._inbound = None

    def _wake_inbound(self) -> None:
        if self._inbound is not None and not self._inbound.done():
            self._inbound.set_result(None)

    @property
    def keepalive(self) -> float | None:
        """Seconds between signs of life that the peer is asked for."""
        return self._keepalive if self.session is None else self.session.connection.keepalive

    @keepalive.setter
    def keepalive(self, seconds: float | None) -> None:
        self._keepalive = seconds
        if self.session is not None:
            self.session.connection.set_keepalive(self.session.endpoint.now, seconds)
            self.session.endpoint.touched()

    def migrate(self, local: HostPort | None, interface: str | None = None) -> None:
        """Go on from another local address or interface. Raises OSError, and nothing has changed."""
        assert self._migration is not None  # the caller looked: this side is the client, and there is a session
        self._migration.move(local, interface)

    def _left_from(self, local: HostPort) -> None:
        owner = self._owner()
        if owner is not None:
            owner.moved(local, None)

    # For the session

    def connected(self) -> None:
        """That was before."""

    def opened(self) -> None:
        self._wake_inbound()

    def peer_moved(self) -> None:
        owner = self._owner()
        if self.session is not None and owner is not None:
            owner.moved(None, self.session.remote)

    def local_address_gone(self, error: OSError) -> None:
        if self._migration is not None:
            self._migration.local_address_gone()

    def ended(self, close: QuicClose) -> None:
        """The session has ended by itself."""
        error = close_error(close, endpoint=self.endpoint, phase=Phase.TRANSFER)
        owner = self._owner()
        self.peer_closed = close.kind == "application"
        if self.peer_closed and close.code is not None:
            self.application_error = ApplicationError(close.code, close.reason.decode("utf-8", "replace"))
        self._failure = error
        self._end_session(raisable(error), is_clean=self.peer_closed)
        if owner is not None:
            owner.flow_failed(None if self.peer_closed and close.code == 0 else error)

    # Measuring

    @property
    def lost(self) -> bool:
        """Whether something that was accepted did not arrive, and nobody was told: a graceful close waits for it, or raises."""
        return False

    def metadata(self, protocol: type[Any]) -> TLSMetadata | None:
        """What the handshake agreed on, None without a session."""
        if self.session is None or not issubclass(protocol, SecurityOptions):
            return None
        return tls_metadata(self.session.connection.info(), self.server_name)

    @property
    def received_count(self) -> int:
        """Bytes on streams and in datagrams."""
        return self._received_count + (0 if self.session is None else self.session.received_count)

    @property
    def sent_count(self) -> int:
        """Bytes on streams and in datagrams."""
        return self._sent_count + (0 if self.session is None else self.session.sent_count)

    def _count(self, session: Session) -> None:
        self._received_count += session.received_count
        self._sent_count += session.sent_count

    def measured(self) -> tuple[Counted | None, int, int]:
        """What the transport has counted, and the bytes of the application that were received and sent."""
        return self.counters(), self.received_count, self.sent_count

    def counters(self) -> TransportCounters | None:
        return self._counted if self.session is None else session_counters(self.session)


def session_counters(session: Session) -> TransportCounters | None:
    """What the engine has counted of a connection; None if it broke."""
    try:
        counted = session.connection.statistics()
    except RuntimeError:
        return None
    return TransportCounters(
        received_packets=counted.udp_datagrams_received,
        sent_packets=counted.udp_datagrams_sent,
        received_bytes=counted.udp_bytes_received,
        sent_bytes=counted.udp_bytes_sent,
        retransmitted_bytes=counted.bytes_lost,
        smoothed_rtt=counted.rtt,
        minimum_rtt=counted.minimum_rtt,
    )
