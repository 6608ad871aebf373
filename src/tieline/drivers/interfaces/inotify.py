"""Tells when the file that a path leads to has changed: inotify(7) of Linux, which the standard library does not have.

A configuration file changes in many ways: it is written to, another is renamed over it, and it is often a symbolic link into a
directory that a daemon makes later. So each name on the way is watched in its directory, and the file itself as well: in a
container it may be one that is written to outside, under another name.
"""

from __future__ import annotations

import ctypes
import os
import struct

__all__ = ["FileWatch"]

# linux/inotify.h
ATTRIB, CLOSE_WRITE, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x4, 0x8, 0x40, 0x80, 0x100, 0x200
DELETE_SELF, MOVE_SELF, OVERFLOW, ONLYDIR = 0x400, 0x800, 0x4000, 0x0100_0000
OF_A_NAME = CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | ONLYDIR
OF_THE_FILE = ATTRIB | CLOSE_WRITE | DELETE_SELF | MOVE_SELF
EVENT = struct.Struct("=iIII")  # watch, what happened, cookie, length of the name behind it

LINKS = 40  # that are followed: as many as the kernel does (path_resolution(7))


class FileWatch:
    """One path. Raises OSError where there is no inotify, or no more of it."""

    def __init__(self, path: str) -> None:
        self._fd = -1
        self._path = os.path.abspath(path)
        self._names: dict[int, set[str]] = {}  # by watch: the names that matter in that directory; "" is the file itself
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            self._add, self._remove = libc.inotify_add_watch, libc.inotify_rm_watch
            self._fd = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        except AttributeError:
            raise OSError("this C library has no inotify") from None
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._follow()

    def fileno(self) -> int:
        """Readable when something has happened, perhaps to another file; `hear` takes that in."""
        return self._fd

    def hear(self) -> bool:
        """Whether the path may lead to another file or content than the last time."""
        heard = False
        while True:
            try:
                events = os.read(self._fd, 65536)
            except (BlockingIOError, InterruptedError):
                break
            heard = self._concerns_us(events) or heard
        if heard:
            self._follow()
        return heard

    def close(self) -> None:
        """Watch no more. Idempotent."""
        if self._fd >= 0:
            self._close(self._fd)
            self._fd = -1

    _close = staticmethod(os.close)  # which is there at the end of the interpreter, too
    __del__ = close

    def _concerns_us(self, events: bytes) -> bool:
        position, concerns = 0, False
        while position < len(events):
            watch, happened, _, length = EVENT.unpack_from(events, position)
            position += EVENT.size + length
            name = os.fsdecode(events[position - length : position].rstrip(b"\0"))
            concerns = concerns or bool(happened & OVERFLOW) or name in self._names.get(watch, ())
        return concerns

    def _follow(self) -> None:
        """Watch what is on the way now, and nothing else."""
        before, self._names = self._names, {}
        path = self._path
        for _ in range(LINKS):
            directory, name = os.path.split(path)
            while directory != "/" and not self._watch(directory, name, OF_A_NAME):
                directory, name = os.path.split(directory)  # there is none yet
            try:
                path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
            except OSError:  # it is no link
                self._watch(path, "", OF_THE_FILE)
                break
        for watch in before.keys() - self._names.keys():
            self._remove(self._fd, watch)

    def _watch(self, path: str, name: str, mask: int) -> bool:
        watch = int(self._add(self._fd, os.fsencode(path), mask))
        if watch >= 0:
            self._names.setdefault(watch, set()).add(name)
        return watch >= 0
