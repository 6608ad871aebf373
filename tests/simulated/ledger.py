"""Models of what may come out of a connection, given what was put into it."""

from __future__ import annotations

import enum
from collections import Counter


class Fate(enum.Enum):
    """How far a send has come."""

    PENDING = "pending"  # a prefix of it may be on its way
    ACCEPTED = "accepted"  # all of it
    BROKEN = "broken"  # it was cancelled or raised: some prefix of it, and what comes next follows that


class Sent:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.fate = Fate.PENDING


class StreamLedger:
    """One direction of a byte stream.

    What was received must be the sends in their order, each whole, or a prefix of one that was broken off. Where several readings
    are possible (after a broken send) all are followed: a place is the number of a send and an offset in it.
    """

    def __init__(self) -> None:
        self.sends: list[Sent] = []
        self.end = Fate.PENDING
        """ACCEPTED: the direction has been ended. BROKEN: perhaps."""
        self.count = 0
        self._places = {(0, 0)}

    def sending(self, content: bytes) -> Sent:
        sent = Sent(content)
        self.sends.append(sent)
        return sent

    def received(self, data: bytes) -> None:
        """Raises AssertionError if this cannot be what comes next."""
        self.count += len(data)
        at = 0
        while at < len(data):
            self._places = {place for place in self._closure() if self._has_more(place)}
            byte = self.count - len(data) + at
            assert self._places, f"{data[at : at + 20]!r}… was received where nothing had been sent (byte {byte})"
            run = min(len(self.sends[send].content) - offset for send, offset in self._places)
            piece = data[at : at + run]
            fitting = {
                (send, offset + len(piece))
                for send, offset in self._places
                if self.sends[send].content[offset : offset + len(piece)] == piece
            }
            if not fitting:  # perhaps only up to a place where a broken send stops: byte by byte
                piece = piece[:1]
                fitting = {
                    (send, offset + 1) for send, offset in self._places if self.sends[send].content[offset : offset + 1] == piece
                }
            assert fitting, f"byte {byte} was received wrong: {data[at : at + 20]!r}…"
            # A reading that stops within this run is a reading too.
            fitting |= {
                (send + 1, 0) for send, offset in fitting if self.sends[send].fate is Fate.BROKEN and send + 1 < len(self.sends)
            }
            self._places = fitting
            at += len(piece)

    def _has_more(self, place: tuple[int, int]) -> bool:
        send, offset = place
        return send < len(self.sends) and offset < len(self.sends[send].content)

    def _closure(self) -> set[tuple[int, int]]:
        found = set(self._places)
        ahead = list(found)
        while ahead:
            send, offset = ahead.pop()
            if send < len(self.sends) and (offset == len(self.sends[send].content) or self.sends[send].fate is Fate.BROKEN):
                following = (send + 1, 0)
                if following not in found:
                    found.add(following)
                    ahead.append(following)
        return found

    def received_end(self) -> None:
        """The receiver was told that no more will come."""
        assert self.end is not Fate.PENDING, "the end was received, and nobody had ended the direction"
        assert self.is_complete, f"the end was received after {self.count} bytes, and not all that had been sent"

    @property
    def available(self) -> int:
        """Bytes that have certainly been accepted and were not received."""
        if any(sent.fate is Fate.BROKEN for sent in self.sends):
            return 0
        return sum(len(sent.content) for sent in self.sends if sent.fate is Fate.ACCEPTED) - self.count

    @property
    def is_complete(self) -> bool:
        """Whether everything that was accepted has been received."""
        return (len(self.sends), 0) in self._closure()


class DatagramLedger:
    """One direction of datagrams, over a link that may lose them; whether it may also reorder or duplicate, it is told."""

    def __init__(self) -> None:
        self.sent: dict[bytes, int] = {}
        self.reorders = self.duplicates = False
        self._received: Counter[bytes] = Counter()
        self._last = -1

    def sending(self, content: bytes) -> None:
        assert content not in self.sent
        self.sent[content] = len(self.sent)

    def received(self, content: bytes) -> None:
        """Raises AssertionError if it cannot be."""
        number = self.sent.get(content)
        assert number is not None, f"a datagram was received that nobody sent: {content[:40]!r}"
        self._received[content] += 1
        times = self._received[content]
        assert times <= (2 if self.duplicates else 1), f"{content[:40]!r} was received {times} times"
        if not (self.reorders or self.duplicates):
            assert number > self._last, f"datagram {number} came after {self._last}"
        self._last = max(self._last, number)
