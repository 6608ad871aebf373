"""One UDP socket and the QUIC connections on it.

    datagrams ──▶ received() ──▶ engine ──▶ events ──▶ Session ──▶ streams, datagrams
                                   │ ▲
    datagrams ◀── transmit ◀───────┘ └── write, read, open, close: `touched` asks for a turn

A *turn* tells the sessions what happened, lets everything leave that wants to, and sets the one timer. What the program does
while it is told is part of the same turn; what it does at other times is gathered until the loop's next one. When that is much,
it leaves in parts, so that both sides work at the same time instead of waiting for each other.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from tieline._engine.quic import OVERLAP, QuicClient, QuicEndpoint
from tieline.endpoints import HostPort
from tieline.multiplex.session import Session

if TYPE_CHECKING:
    from tieline._engine.quic import QuicClose
    from tieline.drivers.port import Driver, PacketAddress, Packets, PacketSocket, Timer
    from tieline.parameters import Parameters

__all__ = ["QUICEndpoint"]

TRANSMISSIONS = 32  # that leave before received datagrams and other tasks have their turn
SEGMENTS = 20  # datagrams that leave at once: a system call costs less for each, and they are still a short burst
LONGEST_LINGER = 2.0  # seconds; a probe timeout may be as long where a busy machine has answered late
SILENCE = 0.5  # seconds in which nothing comes, after which a client looks whether its address is still there


class QUICEndpoint:
    """Drives the engine of one socket."""

    def __init__(
        self,
        driver: Driver,
        engine: QuicEndpoint,
        *,
        incoming: Callable[[Session], None] | None = None,
        refused: Callable[[PacketAddress, QuicClose], None] | None = None,
        failed: Callable[[OSError], None] | None = None,
    ) -> None:
        self.driver = driver
        self._engine = engine
        self._incoming = incoming
        self._refused = refused
        self._socket_failed = failed
        self._socket: PacketSocket
        self._sessions: dict[int, Session] = {}
        self._unsent: list[Any] = []  # at most TRANSMISSIONS
        self._timer: Timer | None = None
        self._limit: Timer | None = None  # of lingering
        self._due = 0.0
        self._heard = driver.time()
        self._closes_when_empty = False
        self._soon = self._blocked = self._leaving = self._closed = False

    def open(
        self, at: HostPort | None, to: HostPort | None, parameters: Parameters[Any], interface: str | None = None
    ) -> HostPort:
        """Make the socket, on one interface if that is given; returns its address. Raises OSError."""
        self._to, self.parameters, self.interface = to, parameters, interface
        wanted = parameters.local_endpoint
        self._has_own_port = bool(at or parameters.local_port or (isinstance(wanted, HostPort) and wanted.port))
        self._socket = self.driver.packets(at, to, parameters.bound_to(interface), self)
        return self._socket.local_address

    def rebind(self, at: HostPort | None, interface: str | None = None) -> None:
        """Go on with another socket, on one interface or where the system leads. Raises OSError, and the old one goes on."""
        socket = self.driver.packets(at, self._to, self.parameters.bound_to(interface), self)
        self._socket.close()
        self._socket, self.interface = socket, interface
        self._has_own_port = at is not None and at.port != 0
        self._blocked = False

    @property
    def peer(self) -> PacketAddress:
        """The peer of a connected socket, as packets have it."""
        peer = self._socket.peer
        assert peer is not None  # asked of a client's socket
        return peer

    @property
    def local_address(self) -> HostPort:
        """The socket's."""
        return self._socket.local_address

    @property
    def now(self) -> float:
        """The driver's time."""
        return self.driver.time()

    def connect(self, client: QuicClient, remote: PacketAddress, server_name: str) -> Session:
        """Begin to connect. The first datagrams leave in the next turn."""
        connection = self._engine.connect(self.now, client, remote, server_name)
        session = self._sessions[connection.handle] = Session(self, connection, is_client=True)
        self.touched()
        return session

    def touched(self, times: int = 1) -> None:
        """Something was done with a connection, perhaps several times: what follows from it leaves soon."""
        engine = self._engine
        engine.touches += times
        if not engine.turning and not self._soon and not self._closed:
            self._soon = True
            self.driver.call_soon(self._turn_soon)
        if engine.touches >= OVERLAP:
            self._send()

    def _turn_soon(self) -> None:
        self._soon = False
        self._turn()

    # The socket's handler

    def received(self, batch: list[Packets]) -> None:
        self._heard = self.now
        try:
            self._engine.receive(self._heard, batch)
        finally:  # an engine that has failed inside tells so of each connection
            self._turn()

    def writable(self) -> None:
        self._blocked = False
        self._turn()

    def failed(self, error: OSError) -> None:
        if self._leaving:  # there is nobody who could be told
            self.close()
        elif self._socket_failed is not None:
            self._socket_failed(error)

    def local_address_gone(self, error: OSError) -> None:
        if self._leaving:
            self.close()
        for session in tuple(self._sessions.values()) if self._to is not None else ():  # a listener's clients come to it
            if session.owner is not None:
                session.owner.local_address_gone(error)

    # A turn

    def _turn(self) -> None:
        if self._closed or self._engine.turning:
            return
        self._engine.turning = True
        try:
            more = True
            while more:
                self._dispatch()
                if (self._leaving or self._closes_when_empty) and not self._sessions:
                    self.close()
                more = self._send()
        finally:
            self._engine.turning = False
        if not self._closed:
            self._set_timer()

    def _dispatch(self) -> None:
        while self._engine.dispatch(self._sessions, self._other):
            pass

    def _other(self, handle: int, kind: str, value: Any) -> None:
        """An event that no session hears."""
        if kind == "incoming" and not self._closed:
            self._arrived(handle)
        elif kind == "refused" and self._refused is not None:
            remote, close = cast("tuple[PacketAddress, QuicClose]", value)
            self._refused(remote, close)

    def drained(self, session: Session) -> None:
        """The engine has forgotten a connection."""
        self._sessions.pop(session.connection.handle, None)

    def _arrived(self, handle: int) -> None:
        session = self._sessions[handle] = Session(self, self._engine.connection(handle), is_client=False)
        if self._incoming is not None:
            self._incoming(session)

    def _send(self) -> bool:
        """Let datagrams leave; whether something did and events may have followed from it."""
        self._engine.touches = 0
        if self._blocked or self._closed:
            return False
        socket = self._socket
        if not self._unsent:
            self._unsent.extend(self._engine.transmit(self.now, TRANSMISSIONS, min(socket.maximum_segments, SEGMENTS)))
            if not self._unsent:
                return False
        unsent = self._unsent
        while unsent:
            data, remote, local, ecn, size = unsent[0]
            if not socket.send((data, remote, local, ecn, size or len(data))):
                self._blocked = True
                return False
            del unsent[0]
        return True

    def _set_timer(self) -> None:
        due = self._engine.timeout()
        if due is None or (self._timer is not None and self._due <= due):
            return  # an early timer looks again, which is cheaper than a new one for each packet
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self.driver.call_later(max(0.0, due - self.now), self._expired)

    def _expired(self) -> None:
        self._timer = None
        due = self._engine.timeout()
        if due is None or due > self.now:
            self._set_timer()  # the engine has put it off since
            return
        self._engine.handle_timeout(self.now)
        self._look_for_address()
        self._turn()

    def _look_for_address(self) -> None:
        """Not each system says of a packet that its source address is gone: silence gives reason to look."""
        if self._to is not None and self.now - self._heard >= SILENCE:
            self._heard = self.now  # so the next look is as far away
            host = self.local_address.host.partition("%")[0]
            try:
                is_here = host.startswith("127.") or self.driver.network().owner(self.local_address.host) is not None
            except OSError:  # the system does not tell
                return
            if not is_here:
                self.local_address_gone(OSError(errno.EADDRNOTAVAIL, f"the local address {host} is gone"))

    # Ending

    def admit_at_most(self, room: int | None) -> None:
        """Take in so many more connections; others are refused with their first packet (CONNECTION_REFUSED)."""
        self._engine.admit_at_most(room)

    @property
    def closes_when_empty(self) -> bool:
        """Whether the socket is closed as soon as no connection is left, its farewells said."""
        return self._closes_when_empty

    @closes_when_empty.setter
    def closes_when_empty(self, value: bool) -> None:
        self._closes_when_empty = value
        self.touched()

    @property
    def is_closed(self) -> bool:
        """Whether the socket is closed."""
        return self._closed

    def stop(self) -> None:
        """Take in no more connections; those that there are go on."""
        self._engine.stop()
        self.touched()

    def flush(self) -> None:
        """Let everything leave that can, now: a close is about to follow.

        Nobody is told anything meanwhile: this may be inside a task, and who is told may run another one.
        """
        while self._send():
            pass
        self.touched()

    def leave(self) -> None:
        """Close the socket as soon as no peer may need to be told again that its connection was closed.

        That lasts three probe timeouts (RFC 9000 section 10.2), which the engine counts, at most LONGEST_LINGER. A port that the
        program has chosen is given back at once: it may want it for the next connection.
        """
        if any(session.is_closing for session in self._sessions.values()) and not self._has_own_port and self._socket.linger():
            self._leaving = True
            self._limit = self.driver.call_later(LONGEST_LINGER, self.close)
            self.touched()
        else:
            self.close()

    def close(self) -> None:
        """Close the socket. Sessions that were not closed before are not heard of by their peers."""
        if self._closed:
            return
        self._closed = True
        for timer in (self._timer, self._limit):
            if timer is not None:
                timer.cancel()
        self._timer = self._limit = None
        self._socket.close()
        self._sessions.clear()
        self._unsent.clear()
