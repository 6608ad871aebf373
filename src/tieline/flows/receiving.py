"""The inbound half of a byte stream: calls are answered in the order they were made.

Theory of operation. A call that cannot be answered at once queues up. When the first in the queue becomes answerable it is
*woken*, and nothing else happens: it takes its bytes when it runs, leaves the queue, and wakes the next. So a call that is
cancelled after it was woken has consumed nothing, and nobody has overtaken it. Whoever takes is therefore either the first in
the queue or finds the queue empty.

The queue and what most calls do are compiled (`tieline._engine.stream.Receiving`); here is what is rare.

The peer is pushed back by not reading: the socket is paused while more than `limit` bytes wait for a reader, or more than the
first call in the queue needs, whichever is larger, so that no call can wait for ever behind the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, cast

from tieline._engine.stream import Receiving, adopt_messages
from tieline.errors import IncompleteReceiveError, MessageTooLargeError, NetworkError, Phase, raisable
from tieline.flows.content import misuse
from tieline.protocols.integers import FixedWidthInteger
from tieline.protocols.message import Message, StreamMetadata

if TYPE_CHECKING:
    from tieline.flows.stream import StreamFlow

__all__ = ["StreamReceiving"]

AT_MOST = 64 * 1024

Make = Callable[[type[Message[Any, Any]], tuple[Any, Any]], Message[Any, Any]]
message: Make = cast("Any", tuple).__new__  # makes a Message in half the time that calling the class takes

adopt_messages(Message, StreamMetadata(), StreamMetadata(end_of_stream=True))


class StreamReceiving(Receiving):
    """Takes what arrives and hands it to the calls that wait."""

    __slots__ = ()

    _flow: StreamFlow

    # Called by the application

    def _checked(
        self, exactly: int | None, at_least: int, at_most: int, as_: type[FixedWidthInteger] | None, until: bytes | None
    ) -> tuple[int, int]:
        """How many bytes a call for an integer needs, and one with a separator may search. Raises for what no call is."""
        if as_ is not None:
            if exactly is not None or until is not None or at_least != 1 or at_most != AT_MOST:
                raise self._exclusive(exactly=exactly, as_=as_.__name__, until=until, at_least=at_least, at_most=at_most)
            return as_.width, as_.width
        if until is None and exactly is not None:
            if exactly < 0:
                raise ValueError(f"exactly must be 0 or more, got {exactly}")
            raise self._exclusive(exactly=exactly, at_least=at_least, at_most=at_most)
        if until is None:
            raise ValueError(f"at_least must be from 1 to at_most, got at_least={at_least} and at_most={at_most}")
        if exactly is not None or at_least != 1:
            raise self._exclusive(exactly=exactly, until=until, at_least=at_least)
        if not until:
            raise ValueError("until must be at least one byte, got an empty separator")
        if len(until) > at_most:
            raise ValueError(f"at_most={at_most} leaves no room for until={until!r}")
        return at_most, at_most

    def _exclusive(self, **options: object) -> TypeError:
        given = ", ".join(f"{name}={value!r}" for name, value in options.items() if value is not None)
        return misuse(self._flow, f"receive() takes one of its forms at a time, got {given}")

    def receive_into(self, buffer: bytearray | memoryview, *, exactly: bool = False) -> Coroutine[Any, Any, int]:
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise misuse(self._flow, "receive_into wants a writable buffer such as a bytearray, got a read-only one")
        if not view:
            raise ValueError("receive_into wants room for at least one byte, got an empty buffer")
        return self._receive_into(view, exactly)

    def _raisable(self, error: NetworkError) -> NetworkError:
        return raisable(error)

    def _too_late(self, separator: bytes, at_most: int, end: int | None) -> MessageTooLargeError:
        """The separator ends behind `at_most`, or is not there yet."""
        size = self.inbox.size
        self._taken(0)
        return MessageTooLargeError(
            "the separator did not come in time; nothing was consumed",
            limit=at_most,
            size=size if end is None else end,
            endpoint=self._flow.endpoint,
            phase=Phase.TRANSFER,
            expected=f"{separator!r} within {at_most:,} bytes",
            got=f"{size:,} bytes without it" if end is None else f"it after {end:,} bytes",
            hint="Raise at_most if the peer may send that much.",
        )

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
        if not plaintext and not self.has_calls and not self.inbox.size and socket is not None:
            self._paused = False
            socket.resume()
            return
        if plaintext:
            self.inbox.append(plaintext)
        self._paused = True
        self._turn()
        if self._paused and socket is not None:  # the handshake alone brought more than the limit
            socket.pause()

    @property
    def is_paused(self) -> bool:
        """Whether the peer is being pushed back."""
        return self._paused

    def _room(self) -> int:
        """Bytes that may wait for a reader: more than the limit if one call needs more."""
        return max(self._limit, self._needed())

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
