"""The inbound half of a byte stream: calls are answered in the order they were made.

Theory of operation. A call that cannot be answered at once queues up. When the first in the queue becomes answerable it is
*woken*, and nothing else happens: it takes its bytes when it runs, leaves the queue, and wakes the next. So a call that is
cancelled after it was woken has consumed nothing, and nobody has overtaken it. Whoever takes is therefore either the first in
the queue or finds the queue empty.

The peer is pushed back by not reading: the socket is paused while more than `limit` bytes wait for a reader, or more than the
first call in the queue needs, whichever is larger, so that no call can wait for ever behind the limit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from tieline.engines.inbox import ByteInbox
from tieline.errors import IncompleteReceiveError, MessageTooLargeError, NetworkError, Phase, raisable
from tieline.flows.content import misuse
from tieline.protocols.integers import FixedWidthInteger
from tieline.protocols.message import Message, StreamMetadata

if TYPE_CHECKING:
    from tieline.drivers.port import Waiter
    from tieline.flows.stream import StreamFlow

__all__ = ["StreamReceiving"]

MORE = StreamMetadata()
END = StreamMetadata(end_of_stream=True)
AT_MOST = 64 * 1024
PIECE = 256 * 1024  # of an iteration: as large as one read

Call = tuple["Waiter", int, "bytes | None"]
"""One receive that waits for its turn: for that many bytes, or for a separator within them."""

Make = Callable[[type[Message[Any, Any]], tuple[Any, Any]], Message[Any, Any]]
message: Make = cast("Any", tuple).__new__  # makes a Message in half the time that calling the class takes


class StreamReceiving:
    """Takes what arrives and hands it to the calls that wait."""

    __slots__ = ("_calls", "_flow", "_limit", "_paused", "_scanned", "count", "error", "inbox")

    def __init__(self, flow: StreamFlow, limit: int) -> None:
        self._flow = flow
        self._limit = limit
        self._paused = False
        self._calls: list[Call] = []  # short, and an idle connection has it: an empty deque has 600 bytes
        self._scanned = 0  # of the inbox: where the first call's separator cannot begin
        self.inbox = ByteInbox()
        self.error: NetworkError | None = None  # the peer has broken this direction off
        self.count = 0

    # Called by the application

    async def receive(
        self,
        *,
        exactly: int | None = None,
        at_least: int = 1,
        at_most: int = AT_MOST,
        as_: type[FixedWidthInteger] | None = None,
        until: bytes | None = None,
    ) -> Message[Any, StreamMetadata]:
        if as_ is not None or until is not None:
            at_least = at_most = self._checked(exactly, at_least, at_most, as_, until)
        elif exactly is not None:
            if exactly < 0:
                raise ValueError(f"exactly must be 0 or more, got {exactly}")
            if at_least != 1 or at_most != AT_MOST:
                raise self._exclusive(exactly=exactly, at_least=at_least, at_most=at_most)
            at_least = at_most = exactly
        elif not 1 <= at_least <= at_most:
            raise ValueError(f"at_least must be from 1 to at_most, got at_least={at_least} and at_most={at_most}")
        inbox = self.inbox
        if self._calls or inbox.size < at_least or until is not None:
            # Here and below each call awaits its waiter itself: a coroutine in between would be entered anew for each message.
            call = self._enter(at_least, until)
            try:
                await call[0]
            except BaseException:
                self._leave(call)
                raise
            if inbox.size < at_least and until is None and (exactly is not None or as_ is not None):
                raise self._incomplete(at_least)
        metadata = MORE
        if until is not None:
            at_most = self._separated(until, at_most)
        elif inbox.size < at_least:
            metadata = END
        content = inbox.take(at_most)
        self.count += len(content)
        if self._calls or self._paused:
            self._pass_on()
        if as_ is not None:
            return message(Message, (as_.decode(content), metadata))
        return message(Message, (content, metadata))

    def _checked(
        self, exactly: int | None, at_least: int, at_most: int, as_: type[FixedWidthInteger] | None, until: bytes | None
    ) -> int:
        """How many bytes a call for an integer needs, and one with a separator may search."""
        if as_ is not None:
            if exactly is not None or until is not None or at_least != 1 or at_most != AT_MOST:
                raise self._exclusive(exactly=exactly, as_=as_.__name__, until=until, at_least=at_least, at_most=at_most)
            return as_.width
        if exactly is not None or at_least != 1:
            raise self._exclusive(exactly=exactly, until=until, at_least=at_least)
        if not until:
            raise ValueError("until must be at least one byte, got an empty separator")
        if len(until) > at_most:
            raise ValueError(f"at_most={at_most} leaves no room for until={until!r}")
        return at_most

    def _exclusive(self, **options: object) -> TypeError:
        given = ", ".join(f"{name}={value!r}" for name, value in options.items() if value is not None)
        return misuse(self._flow, f"receive() takes one of its forms at a time, got {given}")

    async def receive_into(self, buffer: bytearray | memoryview, *, exactly: bool = False) -> int:
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise misuse(self._flow, "receive_into wants a writable buffer such as a bytearray, got a read-only one")
        if not view:
            raise ValueError("receive_into wants room for at least one byte, got an empty buffer")
        minimum = len(view) if exactly else 1
        if self._calls or self.inbox.size < minimum:
            call = self._enter(minimum, None)
            try:
                await call[0]
            except BaseException:
                self._leave(call)
                raise
        if exactly and self.inbox.size < minimum:
            raise self._incomplete(minimum)
        filled = self.inbox.take_into(view)
        self._taken(filled)
        return filled

    async def next_piece(self) -> Message[bytes, StreamMetadata]:
        """What is there, as it came; StopAsyncIteration at the end."""
        inbox = self.inbox
        if self._calls or not (inbox.size or (inbox.ended and self._flow.usable)):
            call = self._enter(1, None)
            try:
                await call[0]
            except BaseException:
                self._leave(call)
                raise
        piece = inbox.take(PIECE)
        self.count += len(piece)
        if self._calls or self._paused:
            self._pass_on()
        if not piece:
            raise StopAsyncIteration
        return message(Message, (piece, MORE))

    def _separated(self, separator: bytes, at_most: int) -> int:
        """It is this call's turn: how many bytes the first separator ends. Raises if it is not there in time."""
        found = self.inbox.find(separator, self._scanned)
        end = found + len(separator)
        if found >= 0 and end <= at_most:
            return end
        size = self.inbox.size
        if found < 0 and size < at_most:
            raise self._incomplete(None)
        self._taken(0)
        raise MessageTooLargeError(
            "the separator did not come in time; nothing was consumed",
            limit=at_most,
            size=size if found < 0 else end,
            endpoint=self._flow.endpoint,
            phase=Phase.TRANSFER,
            expected=f"{separator!r} within {at_most:,} bytes",
            got=f"{size:,} bytes without it" if found < 0 else f"it after {end:,} bytes",
            hint="Raise at_most if the peer may send that much.",
        )

    # The queue

    def _enter(self, minimum: int, separator: bytes | None) -> Call:
        """Queue a call. Its waiter is done when those before it are and it can be answered; it is then the first."""
        flow = self._flow
        calls = self._calls
        if self.error is not None and not self._answerable(minimum, separator):
            raise raisable(self.error)
        if not flow.usable and (flow.closed or calls or not self._answerable(minimum, separator)):
            flow.need()  # raises, unless a socket may still come
        call = (flow.waiter(), minimum, separator)
        calls.append(call)
        if len(calls) == 1:
            self._scanned = 0
            # One that can be answered without a separator enters only if it is not the first.
            if self.inbox.ended or (separator is not None and self._answerable(minimum, separator)):
                call[0].set_result(None)
            elif self._paused:
                self._adjust()
        return call

    def _leave(self, call: Call) -> None:
        """A call raises instead of taking."""
        self._calls.remove(call)
        self._turn()

    def _taken(self, count: int) -> None:
        """The call whose turn it was is done."""
        self.count += count
        self._pass_on()

    def _pass_on(self) -> None:
        """It is the next call's turn, if there is one."""
        if self._calls:
            self._calls.pop(0)
            if self._calls:
                self._turn()
        if self._paused:
            self._adjust()

    def _turn(self) -> None:
        """Another call may be the first now: wake it if it can be answered, and read on if it needs more."""
        self._scanned = 0
        if self._calls:
            waiter, minimum, separator = self._calls[0]
            if not waiter.done() and self._answerable(minimum, separator):
                waiter.set_result(None)
        if self._paused:
            self._adjust()

    def _answerable(self, minimum: int, separator: bytes | None) -> bool:
        inbox = self.inbox
        if inbox.size >= minimum or inbox.ended:
            return True
        if separator is None:
            return False
        found = inbox.find(separator, self._scanned)
        self._scanned = found if found >= 0 else max(0, inbox.size - len(separator) + 1)
        return found >= 0

    def _incomplete(self, expected: int | None) -> IncompleteReceiveError:
        partial = self.inbox.take(self.inbox.size)
        self._taken(len(partial))
        return IncompleteReceiveError(
            "the peer ended the stream early",
            partial=partial,
            expected_bytes=expected,
            endpoint=self._flow.endpoint,
            phase=Phase.TRANSFER,
            expected="the separator" if expected is None else f"{expected:,} bytes",
            got=f"{len(partial):,}" + (" bytes without it" if expected is None else ""),
        )

    # Called by the flow

    def arrived(self, piece: bytes) -> None:
        """Bytes from the socket. The last thing that the flow does with them: the call that they answer may run in here."""
        inbox = self.inbox
        inbox.append(piece)
        if self._calls:
            waiter, minimum, separator = self._calls[0]
            if (inbox.size >= minimum or (separator is not None and self._answerable(minimum, separator))) and not waiter.done():
                waiter.resume()
        if inbox.size > self._limit:
            self._adjust()

    def ended(self) -> None:
        """The peer's end: every call can be answered now, one after the other."""
        self.inbox.ended = True
        self._turn()

    def failed(self, error: NetworkError) -> None:
        """Only this direction is over: what waits raises, and so does what comes after what has already been received."""
        self.error = error
        self.fail(error)

    def clear(self) -> None:
        """Forget what nobody has taken."""
        self.inbox.clear()
        self.inbox.ended = False

    def attached(self, plaintext: bytes) -> None:
        """A new socket is there, with what came during its handshake. It may have been paused while nobody could read."""
        socket = self._flow.socket
        if not plaintext and not self._calls and not self.inbox.size and socket is not None:
            self._paused = False
            socket.resume()
            return
        if plaintext:
            self.inbox.append(plaintext)
        self._paused = True
        self._turn()
        if self._paused and socket is not None:  # the handshake alone brought more than the limit
            socket.pause()

    def fail(self, error: NetworkError) -> None:
        """Every pending call raises; what has already arrived stays for later ones."""
        for waiter, _, _ in self._calls:
            if not waiter.done():
                waiter.set_exception(raisable(error))

    @property
    def has_calls(self) -> bool:
        """Whether a call waits."""
        return bool(self._calls)

    @property
    def is_paused(self) -> bool:
        """Whether the peer is being pushed back."""
        return self._paused

    def _room(self) -> int:
        """Bytes that may wait for a reader: more than the limit if one call needs more."""
        return max(self._limit, self._calls[0][1] if self._calls else 0)

    def _adjust(self) -> None:
        """Read or push back, as the room says."""
        socket = self._flow.socket
        if socket is None or self.inbox.ended:
            return
        room = self._room()
        if self._paused and self.inbox.size < room:
            self._paused = False
            socket.resume()
        elif not self._paused and self.inbox.size > room:
            self._paused = True
            socket.pause()
