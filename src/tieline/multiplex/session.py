"""One QUIC connection: its streams as sockets, its datagrams as a socket, and news for whoever owns it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

from tieline._engine.quic import QuicClose, QuicConnection, QuicError
from tieline.endpoints import HostPort
from tieline.errors import NetworkError, raisable
from tieline.multiplex.datagrams import QUICDatagramSocket
from tieline.multiplex.stream import QUICStreamSocket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tieline.drivers.port import Waiter
    from tieline.multiplex.early import EarlyStream
    from tieline.multiplex.endpoint import QUICEndpoint

__all__ = ["Session", "SessionOwner"]

FULL_PACKET = 1200  # bytes: the smallest that QUIC calls for (RFC 9000 section 14); what only keeps alive is smaller


class SessionOwner(Protocol):
    """Who is told of a connection: an attempt until it is ready, then a flow."""

    def connected(self) -> None: ...
    def ended(self, close: QuicClose) -> None: ...
    def opened(self) -> None:
        """The peer has opened streams."""

    def peer_moved(self) -> None:
        """The peer speaks from another address now."""

    def local_address_gone(self, error: OSError) -> None:
        """A client's packets cannot leave: its address, its interface or every route to the peer is gone."""


class Session:
    """What the engine calls a connection, with the objects that stand for its parts."""

    def __init__(self, endpoint: QUICEndpoint, connection: QuicConnection, *, is_client: bool) -> None:
        self.endpoint = endpoint
        self.connection = connection
        self.is_client = is_client
        self.owner: SessionOwner | None = None
        self.peer_name: object = None  # what errors call the peer
        self.close_reason: QuicClose | None = None
        self.streams: dict[int, QUICStreamSocket] = {}
        self._datagrams: QUICDatagramSocket | None = None
        self._openers: dict[bool, list[Waiter]] = {True: [], False: []}
        self._riding: dict[EarlyStream, tuple[QUICStreamSocket, int]] = {}  # and how much of each, until the handshake is done
        self._early: dict[EarlyStream, None] = {}  # those of the flow that are not opened yet: they come before all others
        self.arrived: list[QUICStreamSocket] = []  # that nobody had taken when the connection ended
        self.draining: dict[int, None] = {}  # streams whose end, or all that was before it, the peer does not have yet
        self.drain_waiter: Waiter | None = None
        self.received_in_datagrams = self.sent_in_datagrams = 0  # bytes
        self._rejected_count = 0  # bytes on streams that the peer did not want early

    # Called by the endpoint

    def happened(self, kind: str, value: Any) -> None:
        """One event of the engine, but for what is readable: that is told to the stream itself."""
        match kind:
            case "writable":
                if (stream := self.streams.get(value)) is not None:
                    stream.writable()
            case "opened":
                if self.owner is not None:
                    self.owner.opened()
            case "finished":
                self.drained(value)
                if (stream := self.streams.get(value)) is not None:
                    stream.finished()
            case "stopped":
                self._stopped(*value)
            case "available":
                self._let_open(value)
            case "datagrams":
                if self._datagrams is not None:
                    self._datagrams.readable()
            case "datagrams_unblocked":
                if self._datagrams is not None:
                    self._datagrams.unblocked()
            case "early_data_rejected":
                self._riding.clear()
                self.streams.clear()
                self.draining.clear()
                self._rejected_count = self.connection.written_count
            case "connected":
                if self.owner is not None:
                    self.owner.connected()
            case "peer_address":
                if self.owner is not None:
                    self.owner.peer_moved()
            case "lost":
                self._lost(value)
            case "drained":
                self.endpoint.drained(self)
            case _:  # readable: the stream has been told
                return

    def _stopped(self, number: int, code: int) -> None:
        if (stream := self.streams.get(number)) is not None:
            stream.stopped(code)
        else:  # closed here, and what was sent is still on its way
            self.drained(number)
            self.reset(number, code)

    def drained(self, number: int) -> None:
        """The peer has everything of a stream, or wants or gets no more of it."""
        if number in self.draining:
            del self.draining[number]
            self.wake_drain()

    def wake_drain(self) -> None:
        """A graceful close may have waited for this."""
        if self.drain_waiter is not None and not self.drain_waiter.done():
            self.drain_waiter.set_result(None)

    def _let_open(self, bidirectional: bool) -> None:
        openers = self._openers[bidirectional]
        if self._open_early(bidirectional) and openers and not openers[0].done():
            openers[0].set_result(None)

    def _lost(self, close: QuicClose) -> None:
        if close.kind not in ("local", "internal"):
            self._gather()
        self.close_reason = close
        self.draining.clear()
        self.wake_drain()
        if self.owner is not None:
            self.owner.ended(close)
        if close.kind != "internal":
            self.connection.release(self.endpoint.now)

    def _gather(self) -> None:
        """What had come before the end can still be read, also from streams that nobody has taken yet."""
        for stream in self.streams.values():
            stream.gather()
        if self._datagrams is not None:
            self._datagrams.readable()
        while (untaken := self._accepted()) is not None:
            untaken.gather()
            self.arrived.append(untaken)

    # Called by the flow

    @property
    def is_closing(self) -> bool:
        """Whether this side has closed it, so that the peer may still speak to it, and is told again."""
        reason = self.close_reason
        return reason is None or reason.kind == "local" or (reason.kind in ("transport", "tls") and not reason.received)

    @property
    def is_open(self) -> bool:
        """Whether streams can still be opened and used."""
        return self.close_reason is None

    @property
    def remote(self) -> HostPort:
        """The peer's address."""
        host, port, *rest = self.connection.remote_address
        scoped = rest and rest[1] and "%" not in host
        return HostPort(f"{host}%{rest[1]}" if scoped else host, port)

    @property
    def local(self) -> HostPort:
        """Our address. On a socket for all of them, it is the one that the peer came to."""
        socket = self.endpoint.local_address
        return HostPort(self.connection.local_ip or socket.host, socket.port)

    @property
    def is_unfinished(self) -> bool:
        """Whether streams have been ended, and the peer may still take what it does not have of them."""
        return self.is_open and (bool(self.draining) or any(stream.is_ending for stream in self.streams.values()))

    @property
    def unfinished_count(self) -> int:
        """How many of them there are."""
        return len(self.draining) + sum(stream.is_ending for stream in self.streams.values())

    @property
    def received_count(self) -> int:
        """Bytes on streams and in datagrams."""
        return self.connection.read_count + self.received_in_datagrams

    @property
    def sent_count(self) -> int:
        """Bytes on streams and in datagrams."""
        return self.connection.written_count - self._rejected_count + self.sent_in_datagrams

    def progress(self) -> tuple[int, int]:
        """Something to compare: how many datagrams have come, and how many bytes have gone and were not found to be lost."""
        counted = self.connection.statistics()
        return counted.udp_datagrams_received, counted.udp_bytes_sent - counted.bytes_lost

    def has_progressed(self, before: tuple[int, int]) -> bool:
        """Whether the peer has taken something since: it answers, and more has gone than what only keeps alive."""
        received, sent = self.progress()
        return received > before[0] and sent >= before[1] + FULL_PACKET

    def fail_openers(self, error: NetworkError) -> None:
        """Nobody can open a stream any more."""
        for waiters in self._openers.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(raisable(error))

    def fail(self, error: NetworkError, *, is_clean: bool = False) -> None:
        """Every stream, and whoever waits to open one, learns that it is over. `is_clean`: the peer's application said so."""
        self.fail_openers(error)
        streams, self.streams = self.streams, {}
        for stream in (*streams.values(), *self.arrived):
            stream.lost(raisable(error))
        if self._datagrams is not None:
            self._datagrams.lost(raisable(error), is_clean)

    def ride(self, streams: Sequence[EarlyStream]) -> None:
        """Send what these may send before the handshake is done, as far as the limits go that the ticket remembers."""
        full: set[bool] = set()
        for stream in streams:
            number = None if stream.may_receive in full else self._opened(stream.may_receive)
            if number is None:
                full.add(stream.may_receive)
            else:
                socket = self._socket(number)
                self._riding[stream] = socket, stream.ride(socket)

    def take_over(self, early: dict[EarlyStream, None]) -> None:
        """The handshake is done: go on with the streams that were opened before, and open the others, now or when possible."""
        self._early = early
        riding, self._riding = self._riding, {}
        for stream, (socket, count) in riding.items():
            if stream in early:
                stream.opened(socket, count)
            else:  # nobody wants it any more
                socket.error_code = stream.error_code
                socket.abort()
        for bidirectional in (True, False):
            self._open_early(bidirectional)

    def _open_early(self, bidirectional: bool) -> bool:
        """Whether all are opened, so that it is others' turn."""
        if not self._early:
            return True
        for stream in [stream for stream in self._early if stream.may_receive is bidirectional]:
            number = self._opened(bidirectional)
            if number is None:
                return False
            stream.opened(self._socket(number), 0)
        return True

    async def open(self, bidirectional: bool) -> QUICStreamSocket | None:
        """Open a stream, as soon as the peer allows another one; in the order of the calls. None if the connection has ended."""
        openers = self._openers[bidirectional]
        number = None if openers or not self._open_early(bidirectional) else self._opened(bidirectional)
        if number is None and self.is_open:
            waiter = self.endpoint.driver.waiter()
            openers.append(waiter)
            try:
                self.endpoint.touched()  # the peer is told that we are blocked
                while number is None and self.is_open:
                    await waiter
                    number = self._opened(bidirectional)
                    if number is None:
                        waiter = openers[0] = self.endpoint.driver.waiter()  # it was woken, so it is the first
            finally:
                was_first = openers[0] is waiter
                openers.remove(waiter)
                if was_first:
                    self._let_open(bidirectional)
        return None if number is None else self._socket(number)

    def _opened(self, bidirectional: bool) -> int | None:
        try:
            return self.connection.open(bidirectional) if self.is_open else None
        except QuicError:  # it has ended, and whoever waits will be told
            return None

    def accept(self) -> QUICStreamSocket | None:
        """The next stream that the peer has opened."""
        return self._accepted() if self.is_open else None

    def _accepted(self) -> QUICStreamSocket | None:
        for bidirectional in (True, False):
            number = self.connection.accept(bidirectional)
            if number is not None:
                return self._socket(number)
        return None

    def _socket(self, number: int) -> QUICStreamSocket:
        stream = self.streams[number] = QUICStreamSocket(self, number)
        return stream

    def datagrams(self) -> QUICDatagramSocket:
        """The connection's datagrams as a socket."""
        if self._datagrams is None:
            self._datagrams = QUICDatagramSocket(self)
        return self._datagrams

    # Called by streams. What they tell of themselves may come too late: then there is nothing to tell.

    def reset(self, number: int, code: int) -> None:
        """Give up sending on a stream."""
        if self.is_open:
            with contextlib.suppress(QuicError):
                self.connection.reset(number, code)
            self.endpoint.touched()

    def stop_sending(self, number: int, code: int) -> None:
        """Want nothing more of a stream."""
        if self.is_open:
            with contextlib.suppress(QuicError):
                self.connection.stop_sending(number, code)
            self.endpoint.touched()

    def set_priority(self, number: int, priority: int) -> None:
        """The larger, the earlier."""
        if self.is_open:
            with contextlib.suppress(QuicError):
                self.connection.set_priority(number, priority)

    def forget(self, number: int) -> None:
        """A stream's socket was closed, or both of its directions are over."""
        self.streams.pop(number, None)
