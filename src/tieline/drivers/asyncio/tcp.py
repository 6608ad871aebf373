"""Stream sockets: TCP and Unix.

The reader stays registered for the life of the socket and is taken out only to push back on the peer. A send is tried at
once; the writer is registered only while the kernel's buffer is full.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import struct
import termios
from functools import cache
from socket import SO_ERROR, SOL_SOCKET
from typing import TYPE_CHECKING, Any

from tieline._engine.stream import Descriptor
from tieline.drivers.asyncio import options
from tieline.drivers.asyncio.addresses import family_of, from_sockaddr, plain, to_sockaddr
from tieline.drivers.port import Address, StreamHandler
from tieline.endpoints import HostPort
from tieline.protocols.tcp import TCP, TCPMetadata

if TYPE_CHECKING:
    from tieline.drivers.asyncio.readers import Readers
    from tieline.parameters import Parameters

__all__ = ["TCPSocket", "bind_local"]

# A read makes room for as many bytes as the last ones suggest: small for messages, because making and giving back a large
# piece costs more than a small message, and large for bulk, where every system call counts.
FIRST_READ, READ_STEP, LARGEST_READ = 4 * 1024, 8, 256 * 1024
INTERNET, INTERNET6, UNIX = int(socket.AF_INET), int(socket.AF_INET6), int(getattr(socket, "AF_UNIX", -1))
SIOCINQ, SIOCOUTQ = termios.FIONREAD, termios.TIOCOUTQ  # linux/sockios.h gives them these numbers


class TCPSocket(Descriptor):
    """One connected (or connecting) stream socket."""

    __slots__ = (
        "_blocked", "_fd", "_largest", "_loop", "_sock", "_unix", "early", "is_made", "local_address", "remote_address",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        readers: Readers,
        sock: socket.SocketType,
        fd: int,
        family: int,
        local: Address | None,
        remote: Address | None,
        settings: Settings,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._fd = fd
        self.local_address = local
        self.remote_address = remote
        self._blocked = False
        self._largest = settings.largest
        unix = self._unix = family == UNIX
        self._open(fd, sock, readers, FIRST_READ, settings.quick and not unix, settings.busy_poll)
        self.early = 0
        self.is_made = True

    @classmethod
    def connect(
        cls,
        loop: asyncio.AbstractEventLoop,
        readers: Readers,
        to: Address,
        parameters: Parameters[Any],
        handler: StreamHandler,
        first: bytes = b"",
    ) -> TCPSocket:
        settings = parameters.kept(Settings)
        remote: Address | None = to
        self: TCPSocket | None = None
        sockaddr: Any
        # As most are: to an IP address, with options that are known and nothing else to look at.
        common = settings.is_common and not first and isinstance(to, HostPort) and "%" not in to.host
        if common:
            family, sockaddr = INTERNET6 if ":" in to.host else INTERNET, (to.host, to.port)  # type: ignore[union-attr]
            sock = socket.SocketType(family, options.STREAM)
        else:
            family, sockaddr = family_of(to), to_sockaddr(to)
            sock = options.stream_socket(family, parameters)
        try:
            if common:
                for option in settings.options[family]:
                    sock.setsockopt(*option)
            else:
                options.apply_stream(sock, family, parameters, listening=False, on_syn=bool(first))
                bind_local(sock, family, parameters)
                if isinstance(to, HostPort) and "%" in to.host:  # the kernel may have a nicer text for the scope
                    remote = from_sockaddr(sockaddr)
            self = cls(loop, readers, sock, sock.fileno(), family, None, remote, settings)
            self.handler = handler
            error = sock.connect_ex(sockaddr)
            if error == 0 and first:
                # TCP_FASTOPEN_CONNECT with a cookie: the connection is made by the first write, which rides on the SYN.
                try:
                    self.early = sock.send(first)
                except BlockingIOError:  # EINPROGRESS: the SYN went without
                    self.early = 0
            if error not in (0, errno.EINPROGRESS):
                raise OSError(error, os.strerror(error))
            self.is_made = self._unix or self._look_made()
            if self.is_made:
                own = sock.getsockname()
                self.local_address = plain(*own) if family == INTERNET else from_sockaddr(own)
            else:
                loop.add_writer(self._fd, self._connected)
                self._writing = True
        except BaseException:
            if self is None:
                sock.close()
            else:
                self.close()
            raise
        return self

    def _connected(self) -> None:
        if self._closed:
            return
        self._loop.remove_writer(self._fd)
        self._writing = False
        error = self._sock.getsockopt(SOL_SOCKET, SO_ERROR)
        if error:
            self._fail(OSError(error, os.strerror(error)))
            return
        self.local_address = from_sockaddr(self._sock.getsockname())
        self.resume()
        self.handler.connected()

    # Reading

    def _arrived(self) -> None:
        """The kernel forgets this option after each segment."""
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _resize(self, count: int) -> None:
        """Let the next read be larger after one that was full, and smaller after one that was mostly empty."""
        size = self._size
        if count == size:
            size = min(size * READ_STEP, self._largest)
            if size == LARGEST_READ:
                keep_freed_buffers()
        else:
            size = max(size // READ_STEP, min(FIRST_READ, self._largest))
        self._expect(size, size // READ_STEP if size > FIRST_READ else 0)

    # Writing

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
        self._loop.call_soon(self._shut)

    def _shut(self) -> None:
        if not self._closed:
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                if error.errno != errno.ENOTCONN:  # the peer has reset: the reader tells
                    self._fail(error)

    def _unwritable(self, fd: int) -> None:
        self._loop.remove_writer(fd)

    # Ending

    def _fail(self, error: OSError) -> None:
        self.close()
        self.handler.failed(error)

    def abort(self) -> None:
        if not self._closed and not self._unix:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    # Measuring

    def metadata(self) -> TCPMetadata | None:
        if self._closed or self._unix or not options.LINUX:
            return None
        information = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        queued = _queued(self._fd, SIOCINQ), _queued(self._fd, SIOCOUTQ)
        (segment,) = struct.unpack_from("=I", information, 16)
        fast_open = bool(information[5] & 32)  # TCPI_OPT_SYN_DATA
        return TCPMetadata(*queued, segment, fast_open, options.is_multipath(self._sock))


class Settings:
    """What parameters come to for each stream socket. Raises OSError for what cannot be set for one connection."""

    __slots__ = ("busy_poll", "is_common", "largest", "options", "quick")

    def __init__(self, parameters: Parameters[Any]) -> None:
        options.require_supported(parameters)
        tcp: TCP | None = parameters.stack.find(TCP)
        self.largest = min(LARGEST_READ, max(parameters.receive_limit, FIRST_READ))  # of one read
        self.quick = tcp is not None and tcp.ack_stretching_disabled  # each is to be acknowledged at once
        self.busy_poll = parameters.busy_poll
        self.options = {family: options.of_stream(family, parameters) for family in (INTERNET, INTERNET6)}
        special = (parameters.local_endpoint, parameters.local_port, parameters.required_interface)
        self.is_common = options.LINUX and not options.wants_multipath(parameters) and special == (None, None, None)


@cache
def keep_freed_buffers() -> None:
    """Have the allocator keep the memory of large reads for the next ones.

    glibc gives a block above its threshold back to the kernel when it is freed, and raises the threshold to that block's size
    (mallopt(3), M_MMAP_THRESHOLD). So reads of one size are never below it, and each costs page faults, until a larger block
    has been freed. Nothing is written to this one, so it costs two system calls.
    """
    bytes(2 * LARGEST_READ)


def _queued(fd: int, request: int) -> int:
    return int(struct.unpack("i", fcntl.ioctl(fd, request, b"\0\0\0\0"))[0])


def bind_local(sock: socket.SocketType, family: int, parameters: Parameters[Any]) -> None:
    """Bind to the local endpoint or port that the parameters ask for, if it is of this socket's family."""
    local = parameters.local_endpoint
    if local is not None and family_of(local) == family:  # type: ignore[arg-type]  # Parameters made it an address
        sock.bind(to_sockaddr(local))  # type: ignore[arg-type]
    elif parameters.local_port is not None and family != socket.AF_UNIX:
        sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", parameters.local_port))
