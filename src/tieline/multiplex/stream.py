"""A QUIC stream that behaves like a stream socket, so that a flow can stand on it.

What has arrived stays in the engine until it is read, and the peer may send as much again when it was: so a reader that pauses
makes the peer wait. What is written stays in the engine until it is acknowledged, within a window for the whole connection.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol

from tieline._engine.quic import QuicError
from tieline.drivers.port import StreamHandler
from tieline.errors import ErrorDomain, NetworkError, PeerResetError, Phase
from tieline.reports import TransportCounters

if TYPE_CHECKING:
    from tieline.drivers.port import Address, Buffer
    from tieline.multiplex.session import Session

__all__ = ["QUICStreamSocket"]


def reset_error(what: str, code: int | None) -> PeerResetError:
    """A reset with a code of the application's, which is no errno."""
    error = PeerResetError(what, code=code, phase=Phase.TRANSFER)
    error.domain, error.errno = ErrorDomain.PROTOCOL, None
    return error


LARGEST_READ = 256 * 1024
NOTHING = TransportCounters()


class QUICStreamHandler(StreamHandler, Protocol):
    """The owner of a stream, which can be broken off in one direction alone."""

    def receive_failed(self, error: NetworkError) -> None: ...


class QUICStreamSocket:
    """One stream."""

    __slots__ = ("_closed", "_connection", "_ended", "_reading", "_session", "_soon", "early", "error_code", "handler", "number")

    def __init__(self, session: Session, number: int) -> None:
        self._session = session
        self._connection = session.connection
        self._reading = self._closed = self._soon = False
        self.number = number
        self._ended = not self.may_receive
        self.error_code = 0  # what a reset and a refusal to read say
        self.early = 0
        self.handler: QUICStreamHandler

    @property
    def local_address(self) -> Address | None:
        return self._session.endpoint.local_address

    @property
    def remote_address(self) -> Address | None:
        return None

    @property
    def _is_ours(self) -> bool:
        return bool(self.number & 1) != self._session.is_client  # RFC 9000 section 2.1: the last bit says who opened it

    @property
    def may_send(self) -> bool:
        """Whether it has a direction from here to the peer."""
        return self._is_ours or not self.number & 2

    @property
    def may_receive(self) -> bool:
        """Whether it has a direction from the peer to here."""
        return not self._is_ours or not self.number & 2

    # Events

    def readable(self) -> None:
        """Something has come."""
        handler, connection, number = self.handler, self._connection, self.number
        while self._reading and not self._closed and not self._ended:
            try:
                data, ended = connection.read(number, LARGEST_READ)
            except QuicError as error:
                self._read_failed(error)
                return
            if ended:
                self._ended = True
            if data:
                handler.received(data)
            elif not ended:
                return
            if ended and not self._closed:
                handler.received_end()

    def _read_failed(self, error: QuicError) -> None:
        self._ended = True
        if error.reason == "reset":
            self.handler.receive_failed(reset_error(f"the peer reset the stream with code {error.code}", error.code))
        # "closed": the connection's end is told to all streams at once

    def writable(self) -> None:
        """There is room again."""
        if not self._closed:
            self.handler.writable()

    def stopped(self, code: int) -> None:
        """The peer wants nothing more of what we send: the next send learns why."""
        if not self._closed:
            self.handler.writable()

    def lost(self, error: NetworkError) -> None:
        """The connection has ended."""
        if not self._closed:
            self._closed = True
            self.handler.failed(error)  # type: ignore[arg-type]  # each error of a lost connection is an OSError or stands for one

    # Calls

    def send(self, data: Buffer, /) -> int:
        try:
            taken = self._connection.write(self.number, data)
        except QuicError as error:
            raise self._write_failed(error) from None
        self._session.endpoint.touched()
        return taken

    def _write_failed(self, error: QuicError) -> OSError:
        if error.reason == "stopped":
            return reset_error(f"the peer wants nothing more of this stream (STOP_SENDING with code {error.code})", error.code)
        return OSError(errno.EPIPE, str(error))

    def send_file(self, file: int, offset: int, count: int, /) -> int | None:
        raise OSError(errno.EOPNOTSUPP, "the kernel cannot encrypt for QUIC")

    def end(self) -> None:
        if self.may_send:
            self._session.draining[self.number] = None
            try:
                self._connection.finish(self.number)
            except QuicError:  # stopped or reset before: there is nothing left to end
                del self._session.draining[self.number]
            self._session.endpoint.touched()

    def reset(self, code: int) -> None:
        """Give up sending; what is queued is dropped."""
        if self.may_send:
            self._session.draining.pop(self.number, None)
            try:
                self._connection.reset(self.number, code)
            except QuicError:  # it has ended already, one way or the other
                return
            self._session.endpoint.touched()

    def stop_sending(self, code: int) -> None:
        """Want nothing more; what has come is dropped."""
        if not self._ended:
            self._ended = True
            try:
                self._connection.stop_sending(self.number, code)
            except QuicError:
                return
            self._session.endpoint.touched()

    def set_priority(self, priority: int) -> None:
        """The larger, the earlier."""
        self._connection.set_priority(self.number, priority)

    def pause(self) -> None:
        self._reading = False

    def resume(self) -> None:
        if not self._reading and not self._closed:
            self._reading = True
            if not self._soon:
                self._soon = True
                self._session.endpoint.driver.call_soon(self._resumed)

    def _resumed(self) -> None:
        self._soon = False
        self.readable()
        self._session.endpoint.touched()

    def close(self) -> None:
        """What was sent still arrives, with the end if `end` was called; what comes is not wanted."""
        if not self._closed:
            self.stop_sending(self.error_code)
            self._closed = True
            self._session.forget(self.number)

    def abort(self) -> None:
        """Reset both directions."""
        if not self._closed:
            self.reset(self.error_code)
            self.close()

    # Measuring

    def unread(self) -> bool:
        return False  # nothing is destroyed by closing: the other direction is its own

    def counters(self) -> TransportCounters:
        return NOTHING

    def metadata(self) -> None:
        return None
