"""What a QUIC connection has in place of a flow of data: a session that gives rise to streams and datagrams.

It has been there since the connection was constructed, so a call can wait in it before there is a session.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from tieline.engines.quic import close_error
from tieline.engines.tls import tls_metadata
from tieline.errors import ChannelClosedError, CloseTimeoutError, NetworkError, Phase, raisable
from tieline.protocols.quic import ApplicationError
from tieline.protocols.security import SecurityOptions
from tieline.reports import TransportCounters

if TYPE_CHECKING:
    from tieline._engine.quic import QuicClose
    from tieline.drivers.port import Driver, Waiter
    from tieline.multiplex.session import Session
    from tieline.multiplex.stream import QUICStreamSocket
    from tieline.parameters import Parameters
    from tieline.protocols.security import TLSMetadata

__all__ = ["MultiplexFlow", "MultiplexOwner"]


class MultiplexOwner(Protocol):
    """The connection, as its flow sees it. The flow does not keep it alive."""

    driver: Driver

    def flow_failed(self, error: NetworkError | None) -> None: ...


class MultiplexFlow:
    """The streams and datagrams of one connection."""

    __slots__ = (
        "__weakref__", "_close_socket", "_closed", "_failure", "_inbound", "_owner", "_parameters", "application_error",
        "endpoint", "name", "peer_closed", "server_name", "session",
    )  # fmt: skip

    calls = "open_stream(), inbound_streams() and datagrams()"
    received_count = sent_count = 0  # its streams count for themselves

    def __init__(self, owner: MultiplexOwner, parameters: Parameters[Any], endpoint: object) -> None:
        self._owner = weakref.ref(owner)
        self._parameters = parameters
        self.name = parameters.stack.name
        self.endpoint = endpoint
        self.session: Session | None = None
        self.application_error = ApplicationError(0)  # what a close says; after the peer's close, what that said
        self.peer_closed = False
        self.server_name: str | None = None
        self._close_socket: Callable[[], None] = lambda: None
        self._failure: NetworkError | None = None
        self._closed = False
        self._inbound: Waiter | None = None

    # For the connection

    def attach(self, session: Session, close_socket: Callable[[], None], server_name: str | None) -> None:
        """Go on with a session whose handshake is done; `close_socket` is called when that is over."""
        self.session = session
        self._close_socket = close_socket
        self.server_name = server_name
        session.owner = self
        if session.close_reason is not None:  # lost in the very turn in which it became ready
            self.ended(session.close_reason)

    def detach(self) -> None:
        """Give up the session for another endpoint."""
        session, self.session = self.session, None
        if session is not None:
            session.owner = None
            session.connection.close(session.endpoint.now, 0, b"")
            session.fail(ChannelClosedError("the connection went on to another endpoint", endpoint=self.endpoint))
            self._leave(session)

    def _leave(self, session: Session) -> None:
        session.endpoint.flush()
        self._close_socket()
        self._close_socket = lambda: None

    def raise_pending(self, error: NetworkError) -> None:
        """Calls wait for the connection itself, which tells them; here nobody waits before there is a session."""

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

        Raises CloseTimeoutError when the peer acknowledges nothing more for `close_timeout` seconds.
        """
        session = self.session
        if session is None or not session.is_open:
            return
        driver = session.endpoint.driver
        timeout = self._parameters.close_timeout
        left = len(session.draining)
        while session.draining and session.is_open:
            waiter = session.drain_waiter = driver.waiter()
            timer = driver.call_later(timeout, session.wake_drain)
            began = driver.time()
            try:
                await waiter
            finally:
                timer.cancel()
                session.drain_waiter = None
            if len(session.draining) == left and driver.time() - began >= timeout:
                self.abort()
                raise CloseTimeoutError(
                    f"the peer did not acknowledge the end of {left} streams",
                    endpoint=self.endpoint,
                    phase=Phase.CLOSING,
                    expected=f"progress within close_timeout={timeout:g} s",
                    got="none; the connection was closed, and the last bytes may be lost",
                )
            left = len(session.draining)

    def _closed_error(self) -> ChannelClosedError:
        return ChannelClosedError("the connection was closed by this side", endpoint=self.endpoint, phase=Phase.TRANSFER)

    def _end_session(self, error: NetworkError, *, is_clean: bool = False) -> None:
        session, self.session = self.session, None
        if session is not None:
            session.owner = None
            session.fail(error, is_clean=is_clean)
            self._leave(session)
        self._wake_inbound()

    # For the calls

    def require_session(self) -> Session:
        """The session. Raises why there is none any more."""
        if self._closed:
            raise self._closed_error()
        if self._failure is not None:
            raise raisable(self._failure)
        assert self.session is not None  # the caller waited until the connection was ready
        return self.session

    async def next_inbound(self) -> QUICStreamSocket | None:
        """The next stream that the peer opens; None when no more can come."""
        while (session := self.session) is not None and session.is_open:
            socket = session.accept()
            if socket is not None:
                return socket
            self._inbound = session.endpoint.driver.waiter()
            try:
                await self._inbound
            finally:
                self._inbound = None
        return None

    def _wake_inbound(self) -> None:
        if self._inbound is not None and not self._inbound.done():
            self._inbound.set_result(None)

    # For the session

    def connected(self) -> None:
        """That was before."""

    def opened(self) -> None:
        self._wake_inbound()

    def peer_moved(self) -> None:
        """Its packets find it: the engine has validated the new address."""

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

    def counters(self) -> TransportCounters | None:
        return None if self.session is None else session_counters(self.session)


def session_counters(session: Session) -> TransportCounters:
    """What the engine has counted of a connection."""
    counted = session.connection.statistics()
    return TransportCounters(
        received_packets=counted.udp_datagrams_received,
        sent_packets=counted.udp_datagrams_sent,
        received_bytes=counted.udp_bytes_received,
        sent_bytes=counted.udp_bytes_sent,
        retransmitted_bytes=counted.bytes_lost,
        smoothed_rtt=counted.rtt,
        minimum_rtt=counted.minimum_rtt,
    )
