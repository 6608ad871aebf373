"""What a user's framer sees of its connection: the unread input, and everything that it may do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tieline._engine.stream import ByteInbox
from tieline.protocols.framer import FramerContext

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from tieline.engines.framer import FramerLayer
    from tieline.protocols.roles import NetworkProtocol

__all__ = ["Context"]


class Context(FramerContext):
    """The framer's side of the layer."""

    def __init__(self, layer: FramerLayer, options: Mapping[str, Any]) -> None:
        self.options = options
        self.local_endpoint: object = None
        self.remote_endpoint: object = None
        self.input_ended = False
        self.written: list[bytes] = []
        self.passes_output = False
        self.reason: str | BaseException | None = None
        self._layer = layer
        self._input = ByteInbox()
        self._scanned: tuple[bytes, int] = (b"", 0)  # a separator, and where it cannot begin
        self._pending: tuple[int, dict[str, Any] | None, bool] | None = None
        self._parts: list[bytes] = []  # of a message that is not complete
        self._size = 0
        self._passes_input = False

    # For the layer

    @property
    def unread(self) -> int:
        return self._input.size

    def arrived(self, piece: bytes) -> None:
        self._input.append(piece)

    def rest(self) -> bytes:
        """What the end leaves over."""
        return b"".join(self._parts) + self._input.take(self._input.size)

    def forget(self) -> None:
        """Nothing that follows belongs to what came before."""
        self._input.clear()
        self._scanned = (b"", 0)
        self._pending = None
        self._parts.clear()
        self._size = 0

    def deliver_pending(self) -> bool:
        """Whether the framer may read: a delivery that was waiting for its bytes has had them."""
        if self._passes_input:
            return False
        if self._pending is not None:
            length, metadata, is_complete = self._pending
            if self._input.size < length:
                return False
            self._pending = None
            self.deliver_input(self._take(length), metadata, is_complete=is_complete)
        return self._input.size > 0

    def deliver_passing(self) -> None:
        """Hand up what passes through."""
        if self._passes_input and self._input.size:
            self._layer.deliver(self._take(self._input.size), None)

    def _take(self, count: int) -> bytes:
        self._scanned = (b"", 0)
        return self._input.take(count)

    def _readable(self, count: int) -> bool:
        return self._pending is None and not self._passes_input and self._input.size >= count

    # For the framer

    def read(self, count: int) -> bytes | None:
        if count < 0:
            raise ValueError(f"count must be 0 or more, got {count}")
        return self._take(count) if self._readable(count) else None

    def read_until(self, separator: bytes, *, at_most: int = 65536) -> bytes | None:
        if not separator:
            raise ValueError("the separator must be at least one byte, got an empty one")
        if not self._readable(1):
            return None
        known, start = self._scanned
        found = self._input.find(separator, start if known == separator else 0)
        end = found + len(separator)
        if found >= 0 and end <= at_most:
            return self._take(end)
        if found >= 0 or self._input.size >= at_most:
            raise self._layer.error(
                "the separator did not come in time",
                expected=f"{separator!r} within {at_most:,} bytes",
                got=f"it after {end:,} bytes" if found >= 0 else f"{self._input.size:,} bytes without it",
            )
        self._scanned = (separator, max(0, self._input.size - len(separator) + 1))
        return None

    def parse_input(self, minimum: int, maximum: int, function: Callable[[bytes, bool], int]) -> bool:
        if not 0 <= minimum <= maximum:
            raise ValueError(f"minimum must be from 0 to maximum, got minimum={minimum} and maximum={maximum}")
        if not self._readable(minimum):
            return False
        data = self._input.peek(maximum)
        consumed = function(data, self.input_ended)
        if not 0 <= consumed <= len(data):
            raise ValueError(f"the function of parse_input() was shown {len(data)} bytes and consumed {consumed}")
        self._take(consumed)
        return True

    def deliver_input(self, content: Buffer, metadata: dict[str, Any] | None = None, *, is_complete: bool = True) -> None:
        data = bytes(content)
        self._require_size(self._size + len(data))
        if data and (self._parts or not is_complete):
            self._parts.append(data)
            self._size += len(data)
        if not is_complete:
            return
        if self._parts:
            data = b"".join(self._parts)
            self._parts.clear()
            self._size = 0
        self._layer.deliver(data, metadata)

    def deliver_input_no_copy(self, length: int, metadata: dict[str, Any] | None = None, *, is_complete: bool = True) -> bool:
        if length < 0:
            raise ValueError(f"length must be 0 or more, got {length}")
        self._require_size(self._size + length)
        if self._pending is not None:
            raise RuntimeError("the delivery before this one still waits for its bytes")
        if self._input.size < length:
            self._pending = (length, metadata, is_complete)
            return False
        self.deliver_input(self._take(length), metadata, is_complete=is_complete)
        return True

    def _require_size(self, size: int) -> None:
        if size > self._layer.limit:
            raise self._layer.outsized(size)

    def pass_through_input(self) -> None:
        self._passes_input = True

    def write_output(self, data: Buffer) -> None:
        self.written.append(bytes(data))

    def pass_through_output(self) -> None:
        self.passes_output = True

    def mark_ready(self) -> None:
        self._layer.mark_ready()

    def mark_failed(self, reason: str | BaseException) -> None:
        if self.reason is None:
            self.reason = reason

    def prepend(self, protocol: NetworkProtocol) -> None:
        self._layer.prepend(protocol)

    def schedule_wakeup(self, seconds: float | None) -> None:
        if seconds is not None and seconds < 0:
            raise ValueError(f"seconds must be 0 or more, got {seconds}")
        self._layer.deadline = None if seconds is None else self._layer.now + seconds
