"""What simulated TCP learns of its path: how long a round trip takes (RFC 6298), and how much may be on the way (RFC 5681)."""

from __future__ import annotations

from math import inf

__all__ = ["CongestionWindow", "RoundTripTime"]

FIRST_TIMEOUT, LEAST_TIMEOUT, LARGEST_TIMEOUT = 1.0, 0.2, 120.0  # seconds: RFC 6298; Linux goes down to 0.2
FIRST_WINDOW = 10  # segments: RFC 6928
DUPLICATES = 3  # RFC 5681 section 3.2


class RoundTripTime:
    """An estimate, and the retransmission timeout that follows from it."""

    def __init__(self) -> None:
        self.smoothed: float | None = None
        self.variance = 0.0
        self.minimum: float | None = None
        self._timeout = FIRST_TIMEOUT

    def measured(self, rtt: float) -> None:
        """Take one measurement."""
        self.minimum = rtt if self.minimum is None else min(rtt, self.minimum)
        if self.smoothed is None:
            self.smoothed, self.variance = rtt, rtt / 2
        else:
            self.variance += (abs(self.smoothed - rtt) - self.variance) / 4
            self.smoothed += (rtt - self.smoothed) / 8
        self._timeout = max(LEAST_TIMEOUT, self.smoothed + 4 * self.variance)

    def timeout(self, back_off: int) -> float:
        """Seconds to wait for an answer, after so many that did not come."""
        return min(self._timeout * 2.0**back_off, LARGEST_TIMEOUT)


class CongestionWindow:
    """Slow start, congestion avoidance and fast recovery (RFC 5681, RFC 6582). Bytes, and sequence numbers."""

    def __init__(self, segment: int) -> None:
        self._segment = segment
        self.size = FIRST_WINDOW * segment
        self._threshold = inf
        self._duplicates = 0
        self._recover = -1  # fast recovery lasts until this number is acknowledged

    def acknowledged(self, count: int, number: int) -> bool:
        """So many bytes more, up to this number. True if that shows another hole, which is to be sent again at once."""
        self._duplicates = 0
        if self._recover >= 0:
            if number <= self._recover:
                return True
            self._recover = -1
            self.size = int(self._threshold)
        elif self.size < self._threshold:
            self.size += min(count, self._segment)
        else:
            self.size += max(1, self._segment * self._segment // self.size)
        return False

    def duplicate(self, in_flight: int, highest: int) -> bool:
        """An acknowledgement that says nothing new. True if the first segment is to be sent again."""
        self._duplicates += 1
        if self._recover >= 0:
            self.size += self._segment
        elif self._duplicates == DUPLICATES:
            self._recover = highest - 1
            self._halve(in_flight)
            self.size = int(self._threshold) + DUPLICATES * self._segment
            return True
        return False

    def timed_out(self, in_flight: int) -> None:
        """Nothing was acknowledged for too long."""
        self._halve(in_flight)
        self.size = self._segment
        self._recover = -1
        self._duplicates = 0

    def _halve(self, in_flight: int) -> None:
        self._threshold = max(in_flight // 2, 2 * self._segment)
