"""A QUIC stream that behaves like a stream socket, so that a flow can stand on it.

What has arrived stays in the engine until it is read, and the peer may send as much again when it was: so a reader that pauses
makes the peer wait. What is written stays in the engine until it is acknowledged, within a window for the whole connection.

When the connection ends, the engine forgets it. What had come until then is gathered first, and read as if it came now.

What most messages pass is compiled (`tieline._engine.quic.QuicStream`); here is what is rare.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol

from tieline._engine.quic import QuicError, QuicStream
from tieline.drivers.port import StreamHandler
from tieline.errors import ErrorDomain, NetworkError, PeerResetError, Phase, raisable
from tieline.reports import TransportCounters

if TYPE_CHECKING:
    from tieline.drivers.port import Address, Buffer
    from tieline.flows.sending import StreamSending
    from tieline.multiplex.session import Session

__all__ = ["QUICStreamSocket"]


def reset_error(what: str, code: int | None, endpoint: object) -> PeerResetError:
    """A reset with a code of the application's, which is no errno."""
    error = PeerResetError(what, code=code, endpoint=endpoint, phase=Phase.TRANSFER)
    error.domain, error.errno = ErrorDomain.PROTOCOL, None
    return error


LARGEST_READ = 256 * 1024
NOTHING = TransportCounters()


class QUICStreamHandler(StreamHandler, Protocol):
    """The owner of a stream, which can be broken off in one direction alone."""

    @property
    def sending(self) -> StreamSending: ...
    def receive_failed(self, error: NetworkError) -> None: ...


class QUICStreamSocket(QuicStream):
    """One stream."""

    __slots__ = (
        "_broken", "_done", "_end_sent", "_failure", "_gathered", "_soon", "early", "error_code", "is_made", "is_ours",
        "may_receive", "may_send", "priority",
    )  # fmt: skip

    _session: Session
    handler: QUICStreamHandler | None  # None until somebody has taken the stream

    def __init__(self, session: Session, number: int) -> None:
        self._soon = True  # whoever takes the stream calls `start`
        self.is_ours = is_ours = bool(number & 1) != session.is_client  # RFC 9000 section 2.1: the last bit says who opened it
        self.may_send = is_ours or not number & 2
        self.may_receive = not is_ours or not number & 2
        self._news = not is_ours  # the engine has said so, or did not have to: there may be something to read
        self._ended = not self.may_receive  # nothing more is to be had from the engine
        self._done = not self.may_send  # nothing more is to be told to it
        self._end_sent = False
        self._broken: PeerResetError | None = None  # the peer wants nothing more
        self._failure: NetworkError | None = None  # the connection has ended
        self._gathered: list[bytes | PeerResetError | None] = []  # until then: pieces, and perhaps a reset, or None as the end
        self.error_code = 0  # what a reset and a refusal to read say
        self.priority = 0
        self.early = 0
        self.is_made = True

    @property
    def local_address(self) -> Address | None:
        return self._session.endpoint.local_address

    @property
    def remote_address(self) -> Address | None:
        return None

    @property
    def by_server(self) -> bool:
        """Whether the server has opened it (RFC 9000 section 2.1)."""
        return bool(self.number & 1)

    @property
    def is_ending(self) -> bool:
        """Whether our direction was ended, and not all that was before the end is in the engine yet."""
        if self.handler is None or self._done:
            return False
        sending = self.handler.sending
        return sending.ended and not sending.idle

    # Events

    def _unreadable(self, error: QuicError) -> None:
        """Nothing more is to be read."""
        self._ended = error.reason != "closed"  # that is told to all streams at once
        if error.reason == "reset":
            if self.handler is not None:
                self.handler.receive_failed(self._reset_error(error))
            self._retire()

    def _ended_by_peer(self) -> None:
        """All has been read."""
        if not self._closed and self.handler is not None:
            self.handler.received_end()
        self._retire()

    def _reset_error(self, error: QuicError) -> PeerResetError:
        return reset_error(f"the peer reset the stream with code {error.code}", error.code, self._session.peer_name)

    def writable(self) -> None:
        """There is room again."""
        if not self._closed and self.handler is not None:
            self.handler.writable()

    def finished(self) -> None:
        """The peer has all that was sent, the end too."""
        self._done = True
        self._retire()

    def stopped(self, code: int) -> None:
        """The peer wants nothing more of what we send: the next send learns why. RFC 9000 section 3.5 wants a reset for it."""
        if self._broken is None and not self._done:
            what = f"the peer wants nothing more of this stream (STOP_SENDING with code {code})"
            self._broken = reset_error(what, code, self._session.peer_name)
            self._refuses = True
            self.reset(code)
            self.writable()

    @property
    def peer_code(self) -> int | None:
        """The code of the peer's STOP_SENDING."""
        return None if self._broken is None else self._broken.code

    def _retire(self) -> None:
        """Both directions are over: the connection need not know of it any more."""
        if self._ended and self._done:
            self._session.forget(self.number)

    # The connection's end

    def gather(self) -> None:
        """Take everything that the engine still has."""
        while not self._ended:
            try:
                data, self._ended = self._connection.read(self.number, LARGEST_READ)
            except QuicError as error:
                self._ended = True
                if error.reason == "reset":
                    self._gathered.append(self._reset_error(error))
                return
            if data:
                self._gathered.append(data)
            if self._ended:
                self._gathered.append(None)
            elif not data:
                return

    def lost(self, error: NetworkError) -> None:
        """The connection has ended."""
        if not self._closed:
            self._failure = error
            self._refuses = True
            if self.handler is not None:
                self._deliver(self.handler)

    def _deliver(self, handler: QUICStreamHandler) -> None:
        """What had come, and then the connection's end."""
        assert self._failure is not None  # that is why
        gathered, self._gathered = self._gathered, []
        for piece in gathered:
            if self._closed:  # by a call that an earlier piece has answered
                return
            if piece is None:
                handler.received_end()
            elif isinstance(piece, PeerResetError):
                handler.receive_failed(piece)
            else:
                (handler.received if self.sink is None else self.sink.feed)(piece)
        if not self._closed:
            self._closed = True
            handler.failed(self._failure)  # type: ignore[arg-type]  # an OSError or what stands for one

    # Calls

    def send(self, data: Buffer, /) -> int:
        reason = self._broken or self._failure
        if reason is not None:
            raise raisable(reason)
        try:
            taken = self._connection.write(self.number, data)
        except QuicError as error:
            if error.reason == "stopped" and error.code is not None:
                self.stopped(error.code)
                assert self._broken is not None  # or we had ended before
                raise raisable(self._broken) from None
            raise OSError(errno.EPIPE, str(error)) from None
        self._session.endpoint.touched()
        return taken

    def send_file(self, file: int, offset: int, count: int, /) -> int | None:
        raise OSError(errno.EOPNOTSUPP, "the kernel cannot encrypt for QUIC")

    def end(self) -> None:
        if self._done or self._end_sent or self._failure is not None:  # it may have gone with the first flight
            return
        self._end_sent = True
        self._session.draining[self.number] = None
        try:
            self._connection.finish(self.number)
        except QuicError as error:
            self._session.drained(self.number)
            if error.reason == "stopped" and error.code is not None:
                self.stopped(error.code)
        self._session.endpoint.touched()

    def reset(self, code: int) -> None:
        """Give up sending; what is queued is dropped."""
        if not self._done:
            self._done = True
            self._session.drained(self.number)
            self._session.reset(self.number, code)
            self._retire()

    def stop_sending(self, code: int) -> None:
        """Want nothing more; what has come is dropped."""
        self._gathered.clear()
        if not self._ended:
            self._ended = True
            self._session.stop_sending(self.number, code)
            self._retire()

    def set_priority(self, priority: int) -> None:
        """The larger, the earlier."""
        self.priority = priority
        if not self._done and self._failure is None:
            self._session.set_priority(self.number, priority)

    def pause(self) -> None:
        self._reading = False

    def resume(self) -> None:
        if not self._reading and not self._closed:
            self._reading = True
            if not self._soon and (self._news or self._failure is not None):
                self._soon = True
                self._session.endpoint.driver.call_soon(self.start)

    def start(self) -> None:
        """Hand on what has come already: from the loop, or before a call can wait for it."""
        self._soon = False
        if self._closed or self.handler is None:
            return
        if self._failure is not None:
            self._deliver(self.handler)
            return
        if self._news:
            self.readable()
            self._session.endpoint.touched()

    def finish(self) -> None:
        self.end()
        self.close()

    def close(self) -> None:
        """What was sent still arrives, if `end` was called; what comes is not wanted."""
        if not self._closed:
            self.stop_sending(self.error_code)
            if not self._end_sent:
                self.reset(self.error_code)
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
