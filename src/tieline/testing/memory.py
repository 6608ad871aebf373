"""Two connections joined in memory: the whole library above the port, and no network below it.

    client ── flow ── pipeline ── MemoryStream ◀──▶ MemoryStream ── pipeline ── flow ── server

What stands in for the sockets behaves as they do. A stream holds so many bytes that its reader has not taken, then a send takes
only a part; a reader that closes with bytes unread, or aborts, resets; who writes to a peer that has gone is told at the next
write. The bytes that had come before a reset can still be read, and a reset is told once, as Linux does both. Nothing is lost,
delayed or reordered, and everything happens in the turns of the event loop that runs, whichever it is: with the same program
they come in the same order every time.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from tieline import drivers
from tieline.connection import NetworkConnection
from tieline.drivers.port import OneByOne
from tieline.endpoints import HostPort
from tieline.establishment.attempt import TransportAttempt
from tieline.establishment.stacks import client_pipeline, require_reachable, server_pipeline
from tieline.establishment.stream import StreamAttempt
from tieline.parameters import Parameters
from tieline.protocols.checks import require_at_least
from tieline.protocols.ip import IP, IPMetadata, received_metadata, traffic_class
from tieline.protocols.roles import NetworkProtocol
from tieline.reports import TransportCounters
from tieline.updates import Waiters

if TYPE_CHECKING:
    from tieline._engine.stream import Receiving
    from tieline.drivers.port import Address, Buffer, DatagramHandler, Driver, StreamHandler
    from tieline.engines.pipeline import Pipeline
    from tieline.flows.datagram import DatagramFlow

__all__ = ["MemoryDatagrams", "MemoryStream", "memory_pair"]

P = TypeVar("P", bound=NetworkProtocol)
Q = TypeVar("Q", bound=NetworkProtocol)

CALLED = HostPort("localhost", 443)  # what the connecting side believes to call: the name that TLS checks
CLIENT, SERVER = HostPort("127.0.0.1", 49152), HostPort("127.0.0.1", 443)
CAPACITY = 64 * 1024
HOP_LIMIT = 64  # of packets of whom nobody says otherwise, as on Linux
LARGEST = 65507  # bytes of a datagram over IPv4: 65535 without the headers of IP and UDP


@overload
async def memory_pair(
    using: P | Parameters[P], peer: None = None, *, capacity: int = CAPACITY
) -> tuple[NetworkConnection[P], NetworkConnection[P]]: ...
@overload
async def memory_pair(
    using: P | Parameters[P], peer: Q | Parameters[Q], *, capacity: int = CAPACITY
) -> tuple[NetworkConnection[P], NetworkConnection[Q]]: ...
async def memory_pair(using: Any, peer: Any = None, *, capacity: int = CAPACITY) -> Any:
    """Two ready connections that lead to each other: the one that connected, and the one that was accepted.

    `using` and `peer` are the stacks (or `Parameters`) of these two; without `peer` both have the same, as for ``TCP()`` and
    ``UDP()``. With TLS the real handshakes run, and the connecting side calls ``localhost`` unless its stack says
    ``server_name=...``. `capacity` is how many bytes each direction holds for a reader that does not come, beyond what the
    `receive_limit` and `send_limit` of the parameters allow.

    Both are accepted connections: `try_next_endpoint` has no other candidate. Close them as any other.

    Raises what the handshake raises on the side that found the fault (`TLSError`), and `ValueError` for stacks that cannot
    talk to each other.

    Cancelling: nothing is left open.
    """
    require_at_least("capacity", capacity, 1)
    client: Parameters[Any] = Parameters.of(using).standing()
    server: Parameters[Any] = client if peer is None else Parameters.of(peer).standing()
    for side in (client, server):
        require_reachable(CALLED, side)
    driver = drivers.current()
    datagrams = client.stack.is_datagrams
    if datagrams is not server.stack.is_datagrams:
        raise ValueError(f"a pair has streams or datagrams on both sides, got {client.stack.name} and {server.stack.name}")
    if datagrams:
        return _datagram_pair(driver, client, server, capacity)
    near, far = MemoryStream.pair(driver, capacity)
    sides = Sides(driver)
    called = client_pipeline(client.stack, CALLED)
    accepting = server_pipeline(server.stack, CLIENT)
    try:
        sides.add(client, CALLED, called, near)
        sides.add(server, CLIENT, accepting, far)
        return await sides.ready()
    except BaseException:
        sides.abandon()
        raise


class Sides:
    """The handshakes of both sides with each other."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._shaking: list[TransportAttempt] = []
        self._connections: list[NetworkConnection[Any] | None] = []
        self._error: Exception | None = None
        self._over = Waiters()

    def add(self, parameters: Parameters[Any], endpoint: HostPort, pipeline: Pipeline | None, socket: MemoryStream) -> None:
        """Begin on one side."""
        place = len(self._connections)
        self._connections.append(None)

        def succeeded() -> None:
            # At once: what follows the handshake is the flow's.
            self._connections[place] = NetworkConnection.accepted(
                self._driver, parameters, socket.remote_address, attempt.hand_over, attempt
            )
            self._ended(attempt)

        def failed(error: Exception) -> None:
            self._error = self._error or error  # who fails first has found the fault, and the other is told of it
            self._ended(attempt)

        attempt = TransportAttempt(self._driver, parameters, succeeded=succeeded, failed=failed)
        if pipeline is not None:
            attempt = StreamAttempt(self._driver, parameters, endpoint, pipeline, succeeded=succeeded, failed=failed)
        self._shaking.append(attempt)
        attempt.accept(socket)

    def _ended(self, attempt: TransportAttempt) -> None:
        self._shaking.remove(attempt)
        if not self._shaking:
            self._over.release()

    async def ready(self) -> tuple[NetworkConnection[Any] | None, ...]:
        """The connections, when both are. Raises the first error."""
        if self._shaking:
            await self._over.wait(self._driver)
        if self._error is not None:
            raise self._error
        connections, self._connections = self._connections, []  # which live for their owner from now on
        return tuple(connections)

    def abandon(self) -> None:
        """Leave nothing open."""
        for attempt in self._shaking:
            attempt.cancel()
        for connection in self._connections:
            if connection is not None:
                connection.abort()


def _datagram_pair(
    driver: Driver, client: Parameters[Any], server: Parameters[Any], capacity: int
) -> tuple[NetworkConnection[Any], NetworkConnection[Any]]:
    near, far = MemoryDatagrams.pair(driver, client, server, capacity)

    def accepted(parameters: Parameters[Any], socket: MemoryDatagrams) -> NetworkConnection[Any]:
        def attach(flow: DatagramFlow) -> MemoryDatagrams:
            flow.attach(socket)
            return socket

        return NetworkConnection.accepted(driver, parameters, socket.remote_address, attach)

    return accepted(client, near), accepted(server, far)


class MemoryStream:
    """One end of a stream; what the other end sends comes into its buffer. A `StreamSocket` of the port."""

    handler: StreamHandler
    sink: Receiving | None = None
    _peer: MemoryStream

    def __init__(self, driver: Driver, capacity: int, local: Address, remote: Address) -> None:
        self._driver = driver
        self._capacity = capacity
        self._incoming = bytearray()
        self._due = False  # `_readable` has been asked for
        self._reading = False
        self._blocked = False  # the peer's buffer was full: `writable` follows
        self._end_came = self._end_sent = False
        self._broken = 0  # an errno: the peer has gone
        self._told = False  # of that
        self._closed = False
        self._received = self._sent = 0
        self.early = 0
        self.is_made = True
        self.local_address: Address | None = local
        self.remote_address: Address | None = remote

    @classmethod
    def pair(cls, driver: Driver, capacity: int) -> tuple[Self, Self]:
        """Two ends of one stream."""
        near, far = cls(driver, capacity, CLIENT, SERVER), cls(driver, capacity, SERVER, CLIENT)
        near._peer, far._peer = far, near
        return near, far

    # Reading

    def resume(self) -> None:
        self._reading = True
        self._look()

    def pause(self) -> None:
        self._reading = False

    def unread(self) -> bool:
        return bool(self._incoming)

    def _look(self) -> None:
        """Have the handler told what there is, in a turn of its own."""
        something = self._incoming or self._end_came or self._broken
        if something and self._reading and not self._due and not self._closed:
            self._due = True
            self._driver.call_soon(self._readable)

    def _readable(self) -> None:
        self._due = False
        if self._closed or not self._reading:
            return
        if self._incoming:
            data = bytes(self._incoming)
            self._incoming.clear()
            self._peer._unblock()
            self._look()  # an end may stand behind these bytes
            (self.handler.received if self.sink is None else self.sink.feed)(data)
        elif self._end_came or self._told:
            self._reading = False
            self.handler.received_end()
        elif self._broken:
            self.close()
            self.handler.failed(OSError(self._broken, os.strerror(self._broken)))

    # Writing

    def send(self, data: Buffer, /) -> int:
        if self._closed or self._broken or self._end_sent:
            raise self._refusal()
        peer = self._peer
        if peer._closed:
            self._break()  # these bytes leave, and what comes back is a reset
            return len(data)
        taken = min(len(data), self._capacity - len(peer._incoming))
        if taken:
            self._sent += taken
            peer._arrived(memoryview(data)[:taken])
        if taken < len(data):
            self._blocked = True
        return taken

    def send_file(self, file: int, offset: int, count: int, /) -> int | None:
        room = count if self._peer._closed else min(count, self._capacity - len(self._peer._incoming))
        if not room and count:
            self._blocked = True
            return None
        return self.send(os.pread(file, room, offset))

    def _arrived(self, data: memoryview) -> None:
        self._received += len(data)
        self._incoming += data
        self._look()

    def _refusal(self) -> OSError:
        number = errno.EBADF if self._closed else errno.EPIPE
        if self._broken and not self._told:
            self._told, number = True, self._broken
        return OSError(number, os.strerror(number))

    def _unblock(self) -> None:
        if self._blocked:
            self._blocked = False
            self._driver.call_soon(self._writable)

    def _writable(self) -> None:
        if not self._closed:
            self.handler.writable()

    # Ending

    def end(self) -> None:
        if not self._end_sent and not self._broken:
            self._end_sent = True
            self._peer._ended()

    def _ended(self) -> None:
        self._end_came = True
        self._look()

    def finish(self) -> None:
        self.close()  # which ends our direction as well

    def close(self) -> None:
        if self._incoming and not self._closed:
            self.abort()  # RFC 2525 section 2.17: the peer has to know that nobody reads what it sent
            return
        if not self._closed:
            self.end()
            self._closed = True

    def abort(self) -> None:
        if not self._closed:
            self._closed = True
            self._incoming.clear()
            with suppress(RuntimeError):  # the loop is closed, as when a forgotten connection is collected: nobody listens
                self._peer._break()

    def _break(self) -> None:
        """The peer has gone."""
        if not self._closed and not self._broken:
            self._broken = errno.EPIPE if self._end_came else errno.ECONNRESET
            self._unblock()
            self._look()

    # Measuring

    def counters(self) -> TransportCounters:
        return TransportCounters(received_bytes=self._received, sent_bytes=self._sent)

    def metadata(self) -> None:
        """There is no TCP here."""


class MemoryDatagrams(OneByOne):
    """One end of a datagram pair; it holds what its owner has not been given yet. A `DatagramSocket` of the port."""

    handler: DatagramHandler
    _peer: MemoryDatagrams

    def __init__(self, driver: Driver, parameters: Parameters[Any], capacity: int, local: Address, remote: Address) -> None:
        self._driver = driver
        self._service_class = parameters.service_class
        self._ip: IP = parameters.stack.find(IP) or IP()
        self._capacity = capacity
        self._incoming: deque[tuple[bytes, IPMetadata | None]] = deque()
        self._size = 0
        self._due = self._blocked = self._closed = False
        self.local_address = local
        self.remote_address: Address | None = remote

    @classmethod
    def pair(cls, driver: Driver, client: Parameters[Any], server: Parameters[Any], capacity: int) -> tuple[Self, Self]:
        """Two ends that are connected to each other."""
        near, far = cls(driver, client, capacity, CLIENT, SERVER), cls(driver, server, capacity, SERVER, CLIENT)
        near._peer, far._peer = far, near
        return near, far

    def maximum_size(self, remote: Address | None = None) -> int:
        return LARGEST

    def send(self, datagram: Buffer, remote: Address | None = None, metadata: IPMetadata | None = None, /) -> bool:
        if len(datagram) > LARGEST:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        peer = self._peer
        if peer._closed:
            self._driver.call_soon(self._refused)  # what ICMP would say of it
            return True
        if peer._incoming and peer._size + len(datagram) > self._capacity:
            self._blocked = True
            return False
        hops = self._ip.hop_limit if metadata is None or metadata.hop_limit is None else metadata.hop_limit
        byte = traffic_class(metadata, self._service_class)
        peer._arrived(bytes(datagram), received_metadata(peer._ip, byte, hops or HOP_LIMIT, self._driver.time()))
        return True

    def _arrived(self, datagram: bytes, metadata: IPMetadata | None) -> None:
        self._incoming.append((datagram, metadata))
        self._size += len(datagram)
        if not self._due:
            self._due = True
            self._driver.call_soon(self._readable)

    def _readable(self) -> None:
        self._due = False
        came, self._incoming, self._size = self._incoming, deque(), 0
        self._peer._unblock()
        for datagram, metadata in came:
            if self._closed:
                return
            self.handler.received(datagram, None, metadata)

    def _unblock(self) -> None:
        if self._blocked:
            self._blocked = False
            self._driver.call_soon(self._writable)

    def _writable(self) -> None:
        if not self._closed:
            self.handler.writable()

    def _refused(self) -> None:
        if not self._closed:
            self.handler.failed(OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._incoming.clear()
            self._peer._unblock()
