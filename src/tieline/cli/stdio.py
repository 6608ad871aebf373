"""Standard input and output beside an event loop: bytes, no threads, nothing read before it is wanted.

A pipe or terminal is opened a second time, through /proc, so that it can be read and written without blocking. Setting
that flag on the descriptor which we were given would set it for everybody who has inherited it, down to the shell.
Where opening again is impossible (sockets, other systems than Linux) the flag is set and put back at the end. Files
never block.
"""

import asyncio
import os
import stat
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import BinaryIO

__all__ = ["Input", "Output", "standard_input", "standard_output"]

CHUNK = 256 * 1024  # bytes of one read: as much as a connection takes at once
INPUT, OUTPUT = 0, 1


class Input:
    """Standard input; without a descriptor it is at its end."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self.is_terminal = descriptor is not None and os.isatty(descriptor)

    async def read(self, at_most: int = CHUNK) -> bytes:
        """What there is, empty at the end. Cancelling: nothing was read."""
        if self._descriptor is None:
            return b""
        await asyncio.sleep(0)  # input that never runs dry must not keep the other direction waiting
        while True:
            try:
                return os.read(self._descriptor, at_most)
            except BlockingIOError:
                loop = asyncio.get_running_loop()
                await until_called(self._descriptor, loop.add_reader, loop.remove_reader)

    def file(self) -> BinaryIO | None:
        """The file that standard input is, None if it is something else."""
        if self._descriptor is None:
            return None
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size == 0:  # /proc/cpuinfo says 0, and is not empty
            return None
        return open(self._descriptor, "rb", closefd=False)


class Output:
    """Standard output; without a descriptor it takes everything and keeps nothing."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    async def write(self, content: bytes) -> None:
        """Write all of it. Raises `BrokenPipeError` if nobody reads any more. Cancelling: a prefix may be written."""
        rest = memoryview(content)
        while rest and self._descriptor is not None:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                loop = asyncio.get_running_loop()
                await until_called(self._descriptor, loop.add_writer, loop.remove_writer)

    def end(self) -> None:
        """Let whoever reads our output see its end while we live on."""
        if self._descriptor is not None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for descriptor in {self._descriptor, OUTPUT}:
                os.dup2(nowhere, descriptor)
            os.close(nowhere)


async def until_called(descriptor: int, add: Callable[..., object], remove: Callable[[int], object]) -> None:
    """Wait until the event loop finds the descriptor ready."""
    ready = asyncio.Event()
    add(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        remove(descriptor)


@contextmanager
def standard_input() -> Generator[Input]:
    """Standard input as long as the block lasts."""
    if sys.stdin is None:  # closed, and then the number can be anybody's
        yield Input(None)
        return
    with unblocked(INPUT, os.O_RDONLY) as descriptor:
        yield Input(descriptor)


@contextmanager
def standard_output() -> Generator[Output]:
    """Standard output as long as the block lasts."""
    if sys.stdout is None:
        yield Output(None)
        return
    with unblocked(OUTPUT, os.O_WRONLY) as descriptor:
        yield Output(descriptor)


@contextmanager
def unblocked(descriptor: int, mode: int) -> Generator[int]:
    """A descriptor for the same thing that does not block."""
    kind = os.fstat(descriptor).st_mode
    if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or os.isatty(descriptor)):
        yield descriptor
        return
    try:
        own = os.open(f"/proc/self/fd/{descriptor}", mode | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        before = os.get_blocking(descriptor)
        os.set_blocking(descriptor, False)
        try:
            yield descriptor
        finally:
            os.set_blocking(descriptor, before)
    else:
        try:
            yield own
        finally:
            os.close(own)
