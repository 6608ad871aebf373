"""A file as a source of bytes to send."""

from __future__ import annotations

import io
import os
import stat
from typing import BinaryIO

__all__ = ["FileSource"]

CHUNK = 1024 * 1024  # one sendfile call: enough to amortise it, little enough to share the loop


class FileSource:
    """`count` bytes of a binary file from `offset`, or up to its end.

    A regular file is read by its descriptor, which leaves its position alone. Others are read as they come.
    """

    __slots__ = ("_file", "fileno", "left", "offset", "sendfile")

    def __init__(self, file: BinaryIO, offset: int, count: int | None) -> None:
        if offset < 0:
            raise ValueError(f"offset must be 0 or more, got {offset}")
        if count is not None and count < 0:
            raise ValueError(f"count must be 0 or more, got {count}")
        if isinstance(file, io.TextIOBase):  # type: ignore[unreachable]  # for callers who do not check types
            raise TypeError("send_file wants a file opened in binary mode, got one opened in text mode")
        self._file = file
        self.offset = offset
        self.left = count
        self.fileno = regular(file)
        self.sendfile = self.fileno is not None  # the kernel can copy it to a socket by itself
        if self.fileno is None and (offset or file.seekable()):
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
        wanted = at_most if self.left is None else min(at_most, self.left)
        if not wanted:
            return b""
        data = self._file.read(wanted) if self.fileno is None else os.pread(self.fileno, wanted, self.offset)
        self.advance(len(data))
        return data


def regular(file: BinaryIO) -> int | None:
    """The descriptor of a file on a disk; None for what is not one, or whose descriptor gives other bytes (gzip)."""
    if not isinstance(getattr(file, "raw", file), io.FileIO):
        return None
    if file.writable():
        file.flush()  # the kernel does not see what Python still buffers
    descriptor = file.fileno()
    return descriptor if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
