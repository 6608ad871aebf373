"""What has arrived on a byte stream and nobody has taken yet.

Pieces are kept as they came, so that a whole one is handed on uncopied.
"""

from __future__ import annotations

__all__ = ["OVERHEAD", "ByteInbox"]

MERGE_BELOW = 64 * 1024
OVERHEAD = 64  # bytes that a kept message or datagram costs beside its content, or a peer could send empty ones without end


class ByteInbox:
    """A queue of bytes. `size` counts them; `ended` says that no more will come."""

    __slots__ = ("_offset", "_pieces", "ended", "size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # an idle connection has one, and an empty deque has 600 bytes
        self._offset = 0  # of the first piece: what was taken of it
        self.size = 0
        self.ended = False

    def append(self, piece: bytes) -> None:
        """Add what has arrived; not empty."""
        pieces = self._pieces
        if not pieces:
            pieces.append(piece)
            self.size = len(piece)
            return
        self.size += len(piece)
        # Small pieces are merged like the digits of a binary counter: a peer that sends byte by byte costs us neither an
        # object per byte nor a quadratic search.
        while len(pieces) > 1 and len(pieces[-1]) <= len(piece) < MERGE_BELOW:
            piece = pieces.pop() + piece
        pieces.append(piece)

    def peek(self, count: int) -> bytes:
        """The first so many bytes, or what there is of them; they stay."""
        head = b""
        for number, piece in enumerate(self._pieces):
            start = 0 if number else self._offset
            head += piece[start : start + count - len(head)]
            if len(head) == count:
                break
        return head

    def take(self, at_most: int) -> bytes:
        """Remove and return up to that many bytes, as many as there are."""
        pieces = self._pieces
        if self.size <= at_most and len(pieces) == 1 and not self._offset:  # nearly always: what came is taken
            self.size = 0
            return pieces.pop()
        if not self.size or not at_most:
            return b""
        piece = pieces[0]
        offset = self._offset
        left = len(piece) - offset
        if at_most < left:
            self._offset = offset + at_most
            self.size -= at_most
            return piece[offset : offset + at_most]
        if offset:
            piece = piece[offset:]
            self._offset = 0
        if left == at_most or len(pieces) == 1:
            del pieces[0]
            self.size -= left
            return piece
        wanted = min(at_most, self.size)
        self.size -= wanted
        pieces[0] = piece
        whole = 0  # pieces
        while wanted and len(pieces[whole]) <= wanted:
            wanted -= len(pieces[whole])
            whole += 1
        parts = pieces[:whole]
        del pieces[:whole]
        if wanted:
            parts.append(pieces[0][:wanted])
            self._offset = wanted
        return b"".join(parts)

    def take_into(self, buffer: memoryview) -> int:
        """Fill a writable buffer of bytes as far as possible; returns the count."""
        filled = 0
        wanted = min(len(buffer), self.size)
        whole = 0  # pieces
        while filled < wanted:
            piece = self._pieces[whole]
            count = min(len(piece) - self._offset, wanted - filled)
            buffer[filled : filled + count] = memoryview(piece)[self._offset : self._offset + count]
            filled += count
            self._offset += count
            if self._offset == len(piece):
                whole += 1
                self._offset = 0
        del self._pieces[:whole]
        self.size -= filled
        return filled

    def find(self, separator: bytes, start: int) -> int:
        """Where the separator begins, searching from `start`, or -1."""
        overlap = len(separator) - 1
        tail = b""  # of the pieces before, as much as a match across the seam can need
        position = -self._offset  # of the present piece's first byte, counted from the first that is left to take
        for piece in self._pieces:
            end = position + len(piece)
            if end > start:
                if tail:
                    seam = position - len(tail)
                    found = (tail + piece[:overlap]).find(separator, max(0, start - seam))
                    if found >= 0:
                        return seam + found
                found = piece.find(separator, max(0, start - position))
                if found >= 0:
                    return position + found
            tail = (tail + piece[-overlap:])[-overlap:] if overlap else b""
            position = end
        return -1

    def clear(self) -> None:
        """Forget everything that was not taken."""
        self._pieces.clear()
        self._offset = self.size = 0
