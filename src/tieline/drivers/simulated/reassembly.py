"""The receiving half of simulated TCP: bytes in order out of segments in any order."""

from __future__ import annotations

__all__ = ["Reassembly"]


class Reassembly:
    """What has come and was not read, up to `capacity` bytes; what came too early waits within the same bound."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.expected = 0  # the next sequence number
        self.ended = False  # the peer's end is there, and everything before it
        self.count = 0  # bytes, in order
        self._incoming = bytearray()
        self._ahead: dict[int, bytes] = {}
        self._end: int | None = None

    @property
    def readable(self) -> int:
        """Bytes that can be read."""
        return len(self._incoming)

    @property
    def window(self) -> int:
        """Bytes that there is room for."""
        return max(0, self.capacity - len(self._incoming))

    def take(self, at_most: int) -> bytes:
        """Remove and return bytes in order."""
        data = bytes(self._incoming[:at_most])
        del self._incoming[: len(data)]
        return data

    def arrived(self, sequence: int, payload: bytes, ends: bool) -> None:
        """Take the bytes of a segment, and the end behind them."""
        end = sequence + len(payload)
        if ends:
            self._end = end
        limit = self.expected + self.window
        if sequence > self.expected:
            kept = sum(map(len, self._ahead.values()))
            if payload and end <= limit and kept + len(payload) <= self.window:  # pieces may overlap
                self._ahead[sequence] = max(payload, self._ahead.get(sequence, b""), key=len)
        elif end > self.expected:
            self._append(payload[self.expected - sequence : limit - sequence])
            while self._ahead and (first := min(self._ahead)) <= self.expected:
                self._append(self._ahead.pop(first)[self.expected - first :])
        if self.expected == self._end and not self.ended:
            self.expected += 1
            self.ended = True

    def _append(self, payload: bytes) -> None:
        self._incoming += payload
        self.expected += len(payload)
        self.count += len(payload)
