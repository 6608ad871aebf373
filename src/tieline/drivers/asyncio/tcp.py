"""Stream sockets: TCP and Unix.

The reader stays registered for the life of the socket and is taken out only to push back on the peer. A send is tried at
once; the writer is registered only while the kernel's buffer is full.

uvloop stops to watch a socket at its first error, after calling the reader and the writer once more. There may be more to read
before that error than one read takes, so the rest has to be watched anew. That it has stopped shows without a system call for
each read: it drops the reader that it was given, to which we keep a weak reference.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import stat
import struct
import termios
import weakref
from collections.abc import Callable
from socket import SO_ERROR, SOL_SOCKET
from typing import TYPE_CHECKING, Any

from tieline.drivers.asyncio import options
from tieline.drivers.asyncio.addresses import family_of, from_sockaddr, to_sockaddr
from tieline.drivers.asyncio.counters import NOTHING, transport_counters
from tieline.drivers.port import Address, Buffer, StreamHandler
from tieline.endpoints import UnixEndpoint
from tieline.protocols.tcp import TCP, TCPMetadata
from tieline.reports import TransportCounters

if TYPE_CHECKING:
    from tieline.parameters import Parameters

__all__ = ["Acceptor", "TCPSocket"]

# A read makes room for as many bytes as the last ones suggest: small for messages, because making and giving back a large
# piece costs more than a small message, and large for bulk, where every system call counts.
FIRST_READ, READ_STEP, LARGEST_READ = 4 * 1024, 8, 256 * 1024
ACCEPTS_PER_WAKEUP = 64
PATIENCE = 4  # wake-ups with one accept each, after one in which there was no second: to find nobody costs as much
ACCEPT_BACK_OFF = 0.1  # seconds without descriptors before accepting is tried again
OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
SIOCINQ, SIOCOUTQ = termios.FIONREAD, termios.TIOCOUTQ  # linux/sockios.h gives them these numbers


class TCPSocket:
    """One connected (or connecting) stream socket."""

    __slots__ = (
        "_blocked", "_closed", "_fd", "_forgetful", "_largest", "_little", "_local", "_loop", "_quick", "_reading", "_receive",
        "_remote", "_send", "_size", "_sock", "_unix", "_watch", "_writing", "early", "handler",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, remote: Any, parameters: Parameters[Any]) -> None:
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._local: Any = None
        self._remote = remote
        self._reading = self._writing = self._blocked = self._closed = False
        self._largest = min(LARGEST_READ, max(parameters.receive_limit, FIRST_READ))
        self._size = FIRST_READ
        self._little = 0  # bytes: a read of fewer makes the next one smaller
        self._receive, self._send = sock.recv, sock.send
        tcp: TCP | None = parameters.stack.find(TCP)
        self._unix = sock.family == socket.AF_UNIX
        self._quick = tcp is not None and tcp.ack_stretching_disabled and not self._unix
        self._forgetful = forgets_at_error(loop)
        self._watch: weakref.ref[Any] | None = None  # on such a loop: the reader that it holds
        self.early = 0
        self.handler: StreamHandler

    @classmethod
    def connect(
        cls, loop: asyncio.AbstractEventLoop, to: Address, parameters: Parameters[Any], handler: StreamHandler, first: bytes
    ) -> TCPSocket:
        options.require_supported(parameters)
        sock = options.stream_socket(family_of(to), parameters)
        try:
            sock.setblocking(False)
            options.apply_stream(sock, parameters, listening=False, on_syn=bool(first))
            bind_local(sock, parameters)
            remote = to_sockaddr(to)
            self = cls(loop, sock, remote, parameters)
            self.handler = handler
            error = sock.connect_ex(remote)
            if error == 0 and first:
                # TCP_FASTOPEN_CONNECT with a cookie: the connection is made by the first write, which rides on the SYN.
                try:
                    self.early = sock.send(first)
                except BlockingIOError:  # EINPROGRESS: the SYN went without
                    self.early = 0
            if error not in (0, errno.EINPROGRESS):
                raise OSError(error, os.strerror(error))
            loop.add_writer(self._fd, self._connected)
            self._writing = True
        except BaseException:
            sock.close()
            raise
        return self

    @classmethod
    def accepted(
        cls, loop: asyncio.AbstractEventLoop, sock: socket.socket, remote: Any, parameters: Parameters[Any]
    ) -> TCPSocket:
        sock.setblocking(False)
        options.apply_accepted(sock, parameters)
        self = cls(loop, sock, remote, parameters)
        self._local = sock.getsockname()
        return self

    @property
    def local_address(self) -> Address | None:
        return None if self._local is None else from_sockaddr(self._local)

    @property
    def remote_address(self) -> Address | None:
        return None if self._remote is None else from_sockaddr(self._remote)

    def _connected(self) -> None:
        self._loop.remove_writer(self._fd)
        self._writing = False
        error = self._sock.getsockopt(SOL_SOCKET, SO_ERROR)
        if error:
            self._fail(OSError(error, os.strerror(error)))
            return
        self._local = self._sock.getsockname()
        self.resume()
        self.handler.connected()

    def start(self) -> None:
        """Begin to read an accepted socket, once its handler is set."""
        self.resume()

    # Reading

    def resume(self) -> None:
        if not self._reading and not self._closed:
            self._reading = True
            reader = self._readable
            if self._forgetful:
                self._loop.remove_reader(self._fd)  # it may remember one that it no longer watches
                self._watch = weakref.ref(reader, self._forgotten)
            self._loop.add_reader(self._fd, reader)

    def pause(self) -> None:
        if self._reading:
            self._reading = False
            self._watch = None  # it drops the reader because we say so
            self._loop.remove_reader(self._fd)

    def _forgotten(self, _: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon(self._watch_again)

    def _watch_again(self) -> None:
        if self._reading:
            self.pause()
            self.resume()

    def _readable(self) -> None:
        try:
            data = self._receive(self._size)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        count = len(data)
        if count == self._size or count < self._little:
            self._resize(count)
        if data:
            if self._quick:  # the kernel forgets this one after each segment
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            self.handler.received(data)
        else:
            self.pause()
            self.handler.received_end()

    def _resize(self, count: int) -> None:
        """Let the next read be larger after one that was full, and smaller after one that was mostly empty."""
        if count == self._size:
            self._size = min(self._size * READ_STEP, self._largest)
        else:
            self._size = max(self._size // READ_STEP, min(FIRST_READ, self._largest))
        self._little = self._size // READ_STEP if self._size > FIRST_READ else 0

    # Writing

    def send(self, data: Buffer, /) -> int:
        try:
            count = self._send(data)
        except (BlockingIOError, InterruptedError):
            count = 0
        if count < len(data):
            self._wait_writable()
        return count

    def send_file(self, file: int, offset: int, count: int, /) -> int | None:
        try:
            return os.sendfile(self._fd, file, offset, count)
        except (BlockingIOError, InterruptedError):
            self._wait_writable()
            return None

    def _wait_writable(self) -> None:
        self._blocked = True
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self._writable)

    def _writable(self) -> None:
        self._blocked = False
        self.handler.writable()
        if not self._blocked and self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)

    def end(self) -> None:
        self._loop.call_soon(self._shut)  # unless it is closed in this turn, as it mostly is: that ends our direction as well

    def _shut(self) -> None:
        if not self._closed:
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                if error.errno != errno.ENOTCONN:  # the peer has reset: the reader tells
                    self._fail(error)

    # Ending

    def _fail(self, error: OSError) -> None:
        self.close()
        self.handler.failed(error)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.pause()
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)
        self._sock.close()

    def abort(self) -> None:
        if not self._closed and not self._unix:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    # Measuring

    def unread(self) -> bool:
        return not self._closed and _queued(self._fd, SIOCINQ) > 0

    def counters(self) -> TransportCounters:
        return NOTHING if self._unix or self._closed else transport_counters(self._sock)

    def metadata(self) -> TCPMetadata | None:
        if self._closed or self._unix or not options.LINUX:
            return None
        information = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        queued = _queued(self._fd, SIOCINQ), _queued(self._fd, SIOCOUTQ)
        (segment,) = struct.unpack_from("=I", information, 16)
        fast_open = bool(information[5] & 32)  # TCPI_OPT_SYN_DATA
        return TCPMetadata(*queued, segment, fast_open, options.is_multipath(self._sock))


def _queued(fd: int, request: int) -> int:
    return int(struct.unpack("i", fcntl.ioctl(fd, request, b"\0\0\0\0"))[0])


def forgets_at_error(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the loop may stop to watch a socket by itself, as those on libuv do; asyncio's own never do."""
    return not isinstance(loop, asyncio.BaseEventLoop)


def bind_local(sock: socket.socket, parameters: Parameters[Any]) -> None:
    """Bind to the local endpoint or port that the parameters ask for, if it is of this socket's family."""
    local = parameters.local_endpoint
    if local is not None and family_of(local) == sock.family:  # type: ignore[arg-type]  # Parameters made it an address
        sock.bind(to_sockaddr(local))  # type: ignore[arg-type]
    elif parameters.local_port is not None and sock.family != socket.AF_UNIX:
        sock.bind(("::" if sock.family == socket.AF_INET6 else "0.0.0.0", parameters.local_port))


class Acceptor:
    """One listening stream socket."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        at: Address,
        parameters: Parameters[Any],
        accepted: Callable[[TCPSocket], None],
        failed: Callable[[OSError], None],
    ) -> None:
        options.require_supported(parameters)
        self._loop = loop
        self._parameters = parameters
        self._accepted = accepted
        self._failed = failed
        self._accepting = self._closed = False
        self._single = 0  # wake-ups for which one is enough
        self._back_off: asyncio.TimerHandle | None = None
        self._sock = options.stream_socket(family_of(at), parameters)
        self._path = at.path if isinstance(at, UnixEndpoint) and not at.is_abstract else None
        try:
            self._sock.setblocking(False)
            options.apply_stream(self._sock, parameters, listening=True)
            if self._sock.family == socket.AF_INET6:
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
                sock, remote = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                if number == 1:
                    self._single = PATIENCE
                return
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    self.pause()
                    self._back_off = self._loop.call_later(ACCEPT_BACK_OFF, self._try_again)
                self._failed(error)
                return
            try:
                stream = TCPSocket.accepted(self._loop, sock, remote, self._parameters)
            except OSError:  # reset before we came to it: nobody is there
                sock.close()
                continue
            self._accepted(stream)
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
