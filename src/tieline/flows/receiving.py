"""The inbound half of a byte stream: calls are answered in the order they were made.

Theory of operation. A call that cannot be answered at once queues up. When the first in the queue becomes answerable it is
*woken*, and nothing else happens: it takes its bytes when it runs, leaves the queue, and wakes the next. So a call that is
cancelled after it was woken has consumed nothing, and nobody has overtaken it.

The peer is pushed back by not reading: the socket is paused while more than `limit` bytes wait for a reader, or more than the
first call in the queue needs, whichever is larger, so that no call can wait for ever behind the limit.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from tieline.engines.inbox import ByteInbox
from tieline.errors import IncompleteReceiveError, MessageTooLargeError, NetworkError, Phase, raisable
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


class Call:
    """One receive that waits for its turn: for `minimum` bytes, or for a separator within them."""

    __slots__ = ("minimum", "scanned", "separator", "waiter")

    def __init__(self, minimum: int, separator: bytes | None, waiter: Waiter) -> None:
        self.minimum = minimum
        self.separator = separator
        self.scanned = 0
        self.waiter = waiter

    def answerable(self, inbox: ByteInbox) -> bool:
        if inbox.size >= self.minimum or inbox.ended:
            return True
        if self.separator is None:
            return False
        found = inbox.find(self.separator, self.scanned)
        self.scanned = max(0, inbox.size - len(self.separator) + 1)
        return found >= 0


class StreamReceiving:
    """Takes what arrives and hands it to the calls that wait."""

    __slots__ = ("_calls", "_flow", "_limit", "_paused", "count", "inbox")

    def __init__(self, flow: StreamFlow, limit: int) -> None:
        self._flow = flow
        self._limit = limit
        self._paused = False
        self._calls: deque[Call] = deque()
        self.inbox = ByteInbox()
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
        inbox = self.inbox
        if exactly is None and as_ is None and until is None:
            if not 1 <= at_least <= at_most:
                raise ValueError(f"at_least must be from 1 to at_most, got at_least={at_least} and at_most={at_most}")
            if self._calls or inbox.size < at_least:
                await self._turn(at_least)
            end = inbox.size < at_least
            return Message(self._take(at_most), END if end else MORE)
        if (exactly is not None) + (as_ is not None) + (until is not None) > 1:
            raise TypeError(f"exactly={exactly!r}, as_={as_!r} and until={until!r} exclude each other: give one")
        if until is not None:
            return Message(await self._receive_until(until, at_most), MORE)
        if as_ is not None:
            return Message(as_.decode(await self._receive_exactly(as_.width)), MORE)
        assert exactly is not None
        if exactly < 0:
            raise ValueError(f"exactly must be 0 or more, got {exactly}")
        if self._calls or inbox.size < exactly:
            return Message(await self._receive_exactly(exactly), MORE)
        return Message(self._take(exactly), MORE)

    async def receive_into(self, buffer: bytearray | memoryview, *, exactly: bool = False) -> int:
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise TypeError("receive_into wants a writable buffer such as a bytearray, got a read-only one")
        if not view:
            raise ValueError("receive_into wants room for at least one byte, got an empty buffer")
        minimum = len(view) if exactly else 1
        if self._calls or self.inbox.size < minimum:
            await self._turn(minimum)
        if exactly and self.inbox.size < minimum:
            raise self._incomplete(minimum)
        filled = self.inbox.take_into(view)
        self._taken(filled)
        return filled

    async def next_piece(self) -> Message[bytes, StreamMetadata] | None:
        """What is there, as it came; None at the end."""
        if self._calls or not self.inbox.size:
            await self._turn(1)
        piece = self._take(PIECE)
        return Message(piece, MORE) if piece else None

    async def _receive_exactly(self, count: int) -> bytes:
        await self._turn(count)
        if self.inbox.size < count:
            raise self._incomplete(count)
        return self._take(count)

    async def _receive_until(self, separator: bytes, at_most: int) -> bytes:
        if not separator:
            raise ValueError("until must be at least one byte, got an empty separator")
        if len(separator) > at_most:
            raise ValueError(f"at_most={at_most} leaves no room for until={separator!r}")
        await self._turn(at_most, separator)
        found = self.inbox.find(separator, 0)
        end = found + len(separator)
        if 0 <= found and end <= at_most:
            return self._take(end)
        if found < 0 and self.inbox.size < at_most:
            raise self._incomplete(None)
        self._taken(0)
        raise MessageTooLargeError(
            "the separator did not come in time; nothing was consumed",
            limit=at_most,
            size=self.inbox.size if found < 0 else end,
            endpoint=self._flow.endpoint,
            phase=Phase.TRANSFER,
            expected=f"{separator!r} within {at_most:,} bytes",
            got=f"{self.inbox.size:,} bytes without it" if found < 0 else f"it after {end:,} bytes",
            hint="Raise at_most if the peer may send that much.",
        )

    # The queue

    async def _turn(self, minimum: int, separator: bytes | None = None) -> None:
        """Wait until the calls before this one are done and it can be answered; it is then first in the queue."""
        flow = self._flow
        if not self.inbox.ended and not (separator is None and self.inbox.size >= minimum):
            flow.need()
        call = Call(minimum, separator, flow.waiter())
        self._calls.append(call)
        if self._calls[0] is call and call.answerable(self.inbox):
            return
        self._adjust()
        try:
            await call.waiter
        except BaseException:
            self._calls.remove(call)
            self._wake()
            raise

    def _take(self, at_most: int) -> bytes:
        content = self.inbox.take(at_most)
        self._taken(len(content))
        return content

    def _taken(self, count: int) -> None:
        """This call is done: account for what it took, and let the next one come."""
        self.count += count
        if self._calls:
            done = self._calls[0].waiter
            self._calls.popleft()
            if not done.done():
                done.cancel()
            self._wake()
        if self._paused:
            self._adjust()

    def _wake(self) -> None:
        if self._calls:
            first = self._calls[0]
            if not first.waiter.done() and first.answerable(self.inbox):
                first.waiter.set_result(None)

    def _incomplete(self, expected: int | None) -> IncompleteReceiveError:
        partial = self._take(self.inbox.size)
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
        self.inbox.append(piece)
        self._wake()
        if self.inbox.size > self._limit:
            self._adjust()

    def ended(self) -> None:
        self.inbox.ended = True
        self._wake()

    def attached(self) -> None:
        """A new socket is there: it may have been paused while nobody could read."""
        self._paused = True
        self._adjust()

    def fail(self, error: NetworkError) -> None:
        """Every pending call raises; what has already arrived stays for later ones."""
        for call in self._calls:
            if not call.waiter.done():
                call.waiter.set_exception(raisable(error))

    def _adjust(self) -> None:
        """Read or push back, as the room says."""
        socket = self._flow.socket
        if socket is None or self.inbox.ended:
            return
        room = max(self._limit, self._calls[0].minimum if self._calls else 0)
        if self._paused and self.inbox.size < room:
            self._paused = False
            socket.resume()
        elif not self._paused and self.inbox.size > room:
            self._paused = True
            socket.pause()
