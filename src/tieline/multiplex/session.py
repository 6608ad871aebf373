"""One QUIC connection: its streams as sockets, its datagrams as a socket, and news for whoever owns it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from tieline._engine.quic import QuicClose, QuicConnection
from tieline.errors import NetworkError
from tieline.multiplex.datagrams import QUICDatagramSocket
from tieline.multiplex.stream import QUICStreamSocket

if TYPE_CHECKING:
    from tieline.drivers.port import Waiter
    from tieline.multiplex.endpoint import QUICEndpoint

__all__ = ["Session", "SessionOwner"]


class SessionOwner(Protocol):
    """Who is told of a connection: an attempt until it is ready, then a flow."""

    def connected(self) -> None: ...
    def ended(self, close: QuicClose) -> None: ...
    def opened(self) -> None:
        """The peer has opened streams."""

    def peer_moved(self) -> None:
        """The peer speaks from another address now."""


class Session:
    """What the engine calls a connection, with the objects that stand for its parts."""

    def __init__(self, endpoint: QUICEndpoint, connection: QuicConnection, *, is_client: bool) -> None:
        self.endpoint = endpoint
        self.connection = connection
        self.is_client = is_client
        self.owner: SessionOwner | None = None
        self.close_reason: QuicClose | None = None
        self._streams: dict[int, QUICStreamSocket] = {}
        self._datagrams: QUICDatagramSocket | None = None
        self._openers: dict[bool, deque[Waiter]] = {True: deque(), False: deque()}
        self.draining: dict[int, None] = {}  # streams whose end, or all that was before it, the peer does not have yet
        self.drain_waiter: Waiter | None = None

    # Called by the endpoint

    def happened(self, kind: str, value: Any) -> None:
        """One event of the engine."""
        match kind:
            case "readable":
                if (stream := self._streams.get(value)) is not None:
                    stream.readable()
            case "writable":
                if (stream := self._streams.get(value)) is not None:
                    stream.writable()
            case "opened":
                if self.owner is not None:
                    self.owner.opened()
            case "finished":
                self._finished(value)
            case "stopped":
                number, code = value
                if (stream := self._streams.get(number)) is not None:
                    stream.stopped(code)
                self._finished(number)
            case "available":
                self._let_open(value)
            case "datagrams":
                if self._datagrams is not None:
                    self._datagrams.readable()
            case "datagrams_unblocked":
                if self._datagrams is not None:
                    self._datagrams.unblocked()
            case "connected":
                if self.owner is not None:
                    self.owner.connected()
            case "peer_address":
                if self.owner is not None:
                    self.owner.peer_moved()
            case "lost":
                self._lost(value)
            case _:  # early_data_rejected, drained: the endpoint's affair
                return

    def _finished(self, number: int) -> None:
        self.draining.pop(number, None)
        self.wake_drain()

    def wake_drain(self) -> None:
        """A graceful close may have waited for this."""
        if self.drain_waiter is not None and not self.drain_waiter.done():
            self.drain_waiter.set_result(None)

    def _let_open(self, bidirectional: bool) -> None:
        for waiter in self._openers[bidirectional]:
            if not waiter.done():
                waiter.set_result(None)
                return

    def _lost(self, close: QuicClose) -> None:
        self.close_reason = close
        self.draining.clear()
        self.wake_drain()
        if self.owner is not None:
            self.owner.ended(close)
        self.connection.release(self.endpoint.now)

    # Called by the flow

    @property
    def is_open(self) -> bool:
        """Whether streams can still be opened and used."""
        return self.close_reason is None

    def fail(self, error: NetworkError, *, is_clean: bool = False) -> None:
        """Every stream, and whoever waits to open one, learns that it is over. `is_clean`: the peer's application said so."""
        for waiters in self._openers.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(error)
        for stream in tuple(self._streams.values()):
            stream.lost(error)
        self._streams.clear()
        if self._datagrams is not None:
            self._datagrams.lost(error, is_clean)

    async def open(self, bidirectional: bool) -> QUICStreamSocket:
        """Open a stream, as soon as the peer allows another one; in the order of the calls."""
        openers = self._openers[bidirectional]
        number = None if openers else self.connection.open(bidirectional)
        while number is None:
            waiter = self.endpoint.driver.waiter()
            openers.append(waiter)
            try:
                self.endpoint.touched()  # the peer is told that we are blocked
                await waiter
                number = self.connection.open(bidirectional)
            finally:
                openers.remove(waiter)
                if number is None or openers:
                    self._let_open(bidirectional)
        return self._socket(number)

    def accept(self) -> QUICStreamSocket | None:
        """The next stream that the peer has opened."""
        for bidirectional in (True, False):
            number = self.connection.accept(bidirectional)
            if number is not None:
                return self._socket(number)
        return None

    def _socket(self, number: int) -> QUICStreamSocket:
        stream = self._streams[number] = QUICStreamSocket(self, number)
        return stream

    def datagrams(self) -> QUICDatagramSocket:
        """The connection's datagrams as a socket."""
        if self._datagrams is None:
            self._datagrams = QUICDatagramSocket(self)
        return self._datagrams

    def forget(self, number: int) -> None:
        """A stream's socket was closed."""
        self._streams.pop(number, None)
