"""Foreign programs: started for one test, spoken to through one socket, and ended with it."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from ..peers import Peer

__all__ = ["Program", "running"]


ASCII = bytes(range(128))


class Program(Peer):
    """What goes to its standard input, and comes from its standard output."""

    def __init__(self, sock: socket.socket, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        super().__init__(sock)
        self.process = process
        self._errors = errors
        self._said = b""

    @property
    def errors(self) -> str:
        """What it has written to its standard error so far."""
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace")

    async def expect(self, pattern: bytes) -> re.Match[bytes]:
        """Read on until this comes, and drop everything up to its end."""
        expression = re.compile(pattern, re.DOTALL)
        while not (found := expression.search(self._said)):
            await self._more(f"{pattern!r}, got {self._said[-2000:]!r}")
        self._said = self._said[found.end() :]
        return found

    async def take(self, count: int) -> bytes:
        """The next bytes of its output."""
        pieces, left = [self._said], count - len(self._said)
        while left > 0:
            self._said = b""
            await self._more(f"{left} more bytes")
            pieces.append(self._said)
            left -= len(self._said)
        said = b"".join(pieces)
        self._said = said[count:]
        return said[:count]

    async def take_data(self, count: int) -> bytes:
        """The next so many bytes of 128 and more. What is ASCII, in between or not, is the program speaking of itself."""
        data = bytearray()
        while True:
            data += self._said.translate(None, ASCII)
            if len(data) >= count:
                assert len(data) == count, "more came than was sent"
                self._said = b""
                return bytes(data)
            self._said = b""
            await self._more(f"{count - len(data)} more bytes")

    async def rest(self) -> bytes:
        """Its output up to the end."""
        said, self._said = self._said, b""
        return said + await self.receive_all()

    async def _more(self, expected: str) -> None:
        piece = await self.receive(1 << 18)
        if not piece:
            raise AssertionError(f"{self.process.args!r} ended; expected {expected}\n{self.errors}")
        self._said += piece

    async def ended(self) -> int:
        """Wait for its end; returns its exit status."""
        return await asyncio.to_thread(self.process.wait)


@asynccontextmanager
async def running(*command: str | Path, log: bool = False) -> AsyncIterator[Program]:
    """Start a program, and end it with the block if it has not ended by itself. With `log`, standard error is output."""
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryFile() as errors, ours:
        with theirs:
            end = theirs.fileno()
            log_to = end if log else errors.fileno()
            process = subprocess.Popen(command, stdin=end, stdout=end, stderr=log_to)  # noqa: ASYNC220  # returns at once
        try:
            yield Program(ours, process, errors)
        finally:
            process.kill()
            process.wait()
