"""A file as a source of bytes to send."""

from __future__ import annotations

import io
from typing import BinaryIO

__all__ = ["FileSource"]

CHUNK = 1024 * 1024  # one sendfile call: enough to amortise it, little enough to share the loop


class FileSource:
    """`count` bytes of a binary file from `offset`, or up to its end. The file's own position is used only without a descriptor."""

    __slots__ = ("_file", "fileno", "left", "offset")

    def __init__(self, file: BinaryIO, offset: int, count: int | None) -> None:
        if offset < 0:
            raise ValueError(f"offset must be 0 or more, got {offset}")
        if count is not None and count < 0:
            raise ValueError(f"count must be 0 or more, got {count}")
        if isinstance(file, io.TextIOBase):  # type: ignore[unreachable]  # for callers who do not check types
            raise TypeError("send_file wants a file opened in binary mode, got one opened in text mode")
        self._file: BinaryIO | None = file
        self.offset = offset
        self.left = count
        try:
            self.fileno: int | None = file.fileno()
        except (AttributeError, io.UnsupportedOperation):
            self.fileno = None
            file.seek(offset)

    @property
    def chunk(self) -> int:
        """How much to ask for next."""
        return CHUNK if self.left is None else min(self.left, CHUNK)

    def advance(self, count: int) -> None:
        """So much has been sent."""
        self.offset += count
        if self.left is not None:
            self.left -= count

    def read(self, at_most: int) -> bytes:
        """The next bytes, empty at the end."""
        if self._file is None:
            return b""
        wanted = at_most if self.left is None else min(at_most, self.left)
        if self.fileno is not None:
            import os

            data = os.pread(self.fileno, wanted, self.offset)
        else:
            data = self._file.read(wanted)
        self.advance(len(data))
        return data

    def close(self) -> None:
        """Let go of the file, which stays open: it is the caller's."""
        self._file = None
