"""Listening stream sockets: TCP and Unix."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tieline._engine.polling import arrived
from tieline._engine.stream import accept
from tieline.drivers.asyncio import options
from tieline.drivers.asyncio.addresses import family_of, from_sockaddr, own_address, plain, to_sockaddr
from tieline.drivers.asyncio.tcp import Settings, TCPSocket
from tieline.drivers.port import Address
from tieline.endpoints import HostPort, UnixEndpoint, ip_of

if TYPE_CHECKING:
    from tieline.drivers.asyncio.readers import Readers
    from tieline.parameters import Parameters

__all__ = ["Acceptor"]

ACCEPTS_PER_WAKEUP = 64
PATIENCE = 4  # wake-ups with one accept each, after one in which there was no second: to find nobody costs as much
ACCEPT_BACK_OFF = 0.1  # seconds without descriptors before accepting is tried again
OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """One listening stream socket."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        readers: Readers,
        at: Address,
        parameters: Parameters[Any],
        accepted: Callable[[TCPSocket], None],
        failed: Callable[[OSError], None],
    ) -> None:
        self._settings = parameters.kept(Settings)
        self._loop = loop
        self._readers = readers  # of what it accepts
        self._parameters = parameters
        self._accepted = accepted
        self._failed = failed
        self._accepting = self._closed = False
        self._single = 0  # wake-ups for which one is enough
        self._back_off: asyncio.TimerHandle | None = None
        self._family = family_of(at)
        self._sock = options.stream_socket(self._family, parameters)
        self._fd, self._proto = self._sock.fileno(), self._sock.proto
        self._unix = self._family == socket.AF_UNIX
        self._path = at.path if isinstance(at, UnixEndpoint) and not at.is_abstract else None
        try:
            options.apply_stream(self._sock, self._family, parameters, listening=True)
            if self._family == socket.AF_INET6:
                self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
            try:
                self._sock.bind(to_sockaddr(at))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or self._path is None or not remove_dead_socket(self._path):
                    raise
                self._sock.bind(to_sockaddr(at))
            self._file = None if self._path is None else file_identity(self._path)
            self._sock.listen(parameters.backlog)
        except BaseException:
            self._sock.close()
            raise
        self.local_address: Address = from_sockaddr(self._sock.getsockname()) or at
        wildcard = isinstance(self.local_address, HostPort) and ip_of(self.local_address).is_unspecified
        self._local = None if wildcard else self.local_address  # of what it accepts, too
        self._inherits_not = options.has_accepted_options(self._family, parameters)
        readers.keep()

    def resume(self) -> None:
        if not self._accepting and not self._closed and self._back_off is None:
            self._accepting = True
            self._loop.add_reader(self._sock.fileno(), self._readable)

    def pause(self) -> None:
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self._sock.fileno())

    def _readable(self) -> None:
        for number in range(1 if self._single else ACCEPTS_PER_WAKEUP):
            try:
                taken = accept(self._fd, self._unix)
            except ConnectionAbortedError:
                taken = None
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    self.pause()
                    self._back_off = self._loop.call_later(ACCEPT_BACK_OFF, self._try_again)
                self._failed(error)
                return
            if taken is None:
                if number == 1:
                    self._single = PATIENCE
                return
            if number == 0:
                arrived(self._loop, self._parameters.busy_poll)
            descriptor, remote = taken
            sock = options.accepted_socket(descriptor, self._family, self._proto)
            try:
                if self._inherits_not:
                    options.apply_accepted(sock, self._family, self._parameters)
                local = self._local or own_address(sock.getsockname())
            except OSError:  # reset before we came to it: nobody is there
                sock.close()
                continue
            peer = plain(*remote) if self._family == socket.AF_INET else from_sockaddr(remote)
            stream = TCPSocket(self._loop, self._readers, sock, descriptor, self._family, local, peer, self._settings)
            self._accepted(stream)
            # Who connects mostly speaks first: what he says has come by the time that the handler waits for it.
            self._loop.call_soon(stream.look)
            if not self._accepting:
                return
        if self._single:
            self._single -= 1

    def _try_again(self) -> None:
        self._back_off = None
        self.resume()

    def close(self) -> None:
        if self._closed:
            return
        self.pause()
        self._closed = True
        self._readers.release()
        if self._back_off is not None:
            self._back_off.cancel()
        self._sock.close()
        if self._path is not None and file_identity(self._path) == self._file:  # and not a successor's
            os.unlink(self._path)


def file_identity(path: str) -> tuple[int, int] | None:
    """Which file this path names now; None if there is none."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def remove_dead_socket(path: str) -> bool:
    """Take away a Unix socket's file that a process left behind; False for everything else, which stays."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(path) != errno.ECONNREFUSED:
            return False
    os.unlink(path)
    return True
