"""Datagrams to and from one peer: over a socket of its own, or over a listener's with many others.

What arrives while nobody receives is kept up to the receive limit; then the newest is dropped and counted, as the kernel does
it. What is sent goes to the kernel at once, and waits only while that has no room.
"""

from __future__ import annotations

import errno
import weakref
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tieline.errors import (
    ChannelClosedError,
    ConnectError,
    ConnectRefusedError,
    EndOfStreamError,
    MessageTooLargeError,
    NetworkError,
    PeerResetError,
    Phase,
    raisable,
)
from tieline.flows.content import octets
from tieline.flows.owner import FlowOwner, present
from tieline.protocols.message import DatagramMetadata, Message
from tieline.protocols.udp import UDPMetadata
from tieline.reports import TransportCounters

if TYPE_CHECKING:
    from tieline.drivers.port import Address, Buffer, DatagramSocket, Waiter
    from tieline.parameters import Parameters

__all__ = ["DatagramFlow"]

PLAIN = DatagramMetadata()
OVERHEAD = 64  # bytes that a kept datagram costs beside its content: an empty one is not free


STREAK = 64  # datagrams that may be sent before other tasks have their turn: the kernel hardly ever makes a sender wait


class Place:
    """Of a send in the queue: what it waits for at present."""

    __slots__ = ("waiter",)

    def __init__(self, waiter: Waiter) -> None:
        self.waiter = waiter


class DatagramFlow:
    """Moves datagrams both ways for one connection."""

    __slots__ = (
        "__weakref__", "_closed", "_ended", "_failure", "_inbox", "_limit", "_notice", "_owner", "_readers", "_senders", "_size",
        "_streak",
        "activity", "dropped", "endpoint", "name", "received_count", "received_datagrams", "remote", "sent_count",
        "sent_datagrams", "socket",
    )  # fmt: skip

    farewell: NetworkError | None = None  # datagrams have no end
    lost = False  # a datagram goes to the kernel at once
    calls = "send(data), send_many(list), receive(), receive_many(at_most=), messages and iteration"

    def __init__(self, owner: FlowOwner, parameters: Parameters[Any], endpoint: object) -> None:
        self._owner = weakref.ref(owner)
        self._limit = parameters.receive_limit
        self.name = parameters.stack.name
        self.endpoint = endpoint
        self.socket: DatagramSocket | None = None
        self.remote: Address | None = None  # on a socket that is shared with others
        self._inbox: deque[bytes] = deque()
        self._size = 0
        self._readers: deque[Waiter] = deque()
        self._senders: deque[Place] = deque()
        self._streak = 0
        self._failure: NetworkError | None = None
        self._notice: NetworkError | None = None  # what the network said of an earlier datagram, for the next call
        self._closed = self._ended = False
        self.dropped = 0
        self.activity = 0  # datagrams either way: a listener sees by it whether the flow is idle
        self.received_count = self.sent_count = self.received_datagrams = self.sent_datagrams = 0

    # Called by the application

    async def receive(self) -> Message[bytes, DatagramMetadata]:
        if self._readers or not self._inbox:
            await self._turn()
        message = Message(self._take(), PLAIN)
        self._next()
        return message

    async def receive_many(self, *, at_most: int = 64) -> list[Message[bytes, DatagramMetadata]]:
        if at_most < 1:
            raise ValueError(f"at_most must be at least 1, got {at_most}")
        if self._readers or not self._inbox:
            await self._turn()
        messages = [Message(self._take(), PLAIN) for _ in range(min(at_most, len(self._inbox)))]
        self._next()
        return messages

    async def next_piece(self) -> Message[bytes, DatagramMetadata]:
        try:
            return await self.receive()
        except EndOfStreamError:
            raise StopAsyncIteration from None

    async def send(self, content: Any) -> None:
        await self.send_many((content,))

    async def send_many(self, contents: Sequence[Any]) -> None:
        datagrams = [octets(content, self) for content in contents]
        self._streak += len(datagrams)
        place: Place | None = None
        if self.socket is None or self._senders or self._streak > STREAK:
            self._need()
            place = Place(self._waiter())
            self._senders.append(place)
        try:
            if place is not None:
                await self._until_first(place)
            self._raise_notice()
            limit = self.maximum_size
            for datagram in datagrams:
                if len(datagram) > limit:
                    self._too_large(len(datagram), limit)
            for datagram in datagrams:
                while not self._put(datagram):
                    if place is None:  # nobody waits, or this call would have
                        place = Place(self._waiter())
                        self._senders.append(place)
                    await self._until_room(place)
        finally:
            if place is not None:
                self._senders.remove(place)
                self.writable()

    def _put(self, datagram: Buffer) -> bool:
        """Give a datagram to the kernel; False if it has no room."""
        socket = self.socket
        if socket is None:  # on the way to another endpoint
            self._need()
            return False
        try:
            gone = socket.send(datagram, self.remote) if self.remote is not None else socket.send(datagram)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                self._too_large(len(datagram), self.maximum_size)
            raise self._said(error) from error
        if gone:
            self.sent_count += len(datagram)
            self.sent_datagrams += 1
            self.activity += 1
        return gone

    async def _until_first(self, place: Place) -> None:
        """Wait for the sends before this one, for a socket, and for one turn of the loop after many sends without any."""
        if self.socket is not None and self._senders[0] is place:
            present(self._owner).driver.call_soon(self.writable)
        await self._until_room(place)
        while self.socket is None:
            await self._until_room(place)

    async def _until_room(self, place: Place) -> None:
        """Wait for `writable`, which wakes the first in the queue."""
        self._streak = 0
        await place.waiter
        place.waiter = self._waiter()

    def _too_large(self, size: int, limit: int) -> None:
        raise MessageTooLargeError(
            "the datagram is too large",
            limit=limit,
            size=size,
            endpoint=self.endpoint,
            phase=Phase.TRANSFER,
            expected=f"at most {limit} bytes on this path",
            got=str(size),
            hint="Split the data; maximum_datagram_size tells the limit.",
        )

    def _raise_notice(self) -> None:
        """Raise, once, what the network said of an earlier datagram."""
        if self._notice is not None:
            notice, self._notice = self._notice, None
            raise raisable(notice)

    # Waiting

    def _need(self) -> None:
        if self._closed:
            raise self._closed_error()
        if self._failure is not None:
            raise raisable(self._failure)
        if self.socket is None:
            present(self._owner).needed()

    def _waiter(self) -> Waiter:
        return present(self._owner).driver.waiter()

    def _closed_error(self) -> ChannelClosedError:
        return ChannelClosedError("the connection was closed by this side", endpoint=self.endpoint, phase=Phase.TRANSFER)

    async def _turn(self) -> None:
        """Wait until the receives before this one are done and a datagram is there; it is then first in the queue."""
        if not self._readers and not self._inbox:
            self._raise_notice()
            if self._ended:
                raise self._end_error()
        self._need()
        waiter = self._waiter()
        self._readers.append(waiter)
        if self._readers[0] is waiter and self._inbox:
            return
        try:
            await waiter
        except BaseException:
            self._readers.remove(waiter)
            self._wake()
            raise

    def _take(self) -> bytes:
        datagram = self._inbox.popleft()
        self._size -= len(datagram) + OVERHEAD
        self.received_count += len(datagram)
        self.received_datagrams += 1
        return datagram

    def _next(self) -> None:
        if self._readers:
            waiter = self._readers.popleft()
            if not waiter.done():
                waiter.cancel()
            self._wake()

    def _wake(self) -> None:
        """The first receive can take what is there; after the end, and with nothing left, none ever can."""
        if self._inbox:
            if self._readers and not self._readers[0].done():
                self._readers[0].set_result(None)
        elif self._ended:
            for waiter in self._readers:
                if not waiter.done():
                    waiter.set_exception(self._end_error())

    def _end_error(self) -> EndOfStreamError:
        return EndOfStreamError("the flow has ended", endpoint=self.endpoint, phase=Phase.TRANSFER)

    # Measuring

    def metadata(self, protocol: type[Any]) -> UDPMetadata | None:
        return None if self.socket is None else UDPMetadata(self.dropped)

    def counters(self) -> TransportCounters:
        """The kernel counts nothing per datagram socket, so we do."""
        return TransportCounters(
            received_packets=self.received_datagrams,
            sent_packets=self.sent_datagrams,
            received_bytes=self.received_count,
            sent_bytes=self.sent_count,
        )

    # For the connection

    @property
    def maximum_size(self) -> int:
        return 0 if self.socket is None else self.socket.maximum_size(self.remote)

    def attach(self, socket: DatagramSocket, remote: Address | None = None) -> None:
        self.socket, self.remote = socket, remote
        if remote is None:
            socket.handler = self
        self.writable()

    def detach(self) -> None:
        if self.socket is not None:
            if self.remote is None:
                self.socket.close()
            self.socket = None

    def end(self) -> None:
        """No more will come: what was received can still be taken, then the flow has ended."""
        self._ended = True
        self._wake()

    def raise_pending(self, error: NetworkError) -> None:
        for waiter in (*self._readers, *(place.waiter for place in self._senders)):
            if not waiter.done():
                waiter.set_exception(raisable(error))

    def fail(self, error: NetworkError) -> None:
        if self._failure is None:
            self._failure = error
        self.detach()
        self.raise_pending(error)

    def abort(self) -> None:
        self._close()

    async def finish(self) -> None:
        self._close()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self.raise_pending(self._closed_error())
            self._inbox.clear()
            self.detach()

    # For the socket

    def received_all(self, datagrams: list[bytes]) -> None:
        """Several at once. The last thing that a driver does with them: the call that they answer may run in here."""
        for datagram in datagrams:
            self._keep(datagram)
        if self._inbox and self._readers and not self._readers[0].done():
            self._readers[0].resume()

    def received(self, datagram: bytes, remote: Address | None) -> None:
        self._keep(datagram)
        self._wake()

    def _keep(self, datagram: bytes) -> None:
        self.activity += 1
        cost = len(datagram) + OVERHEAD
        if self._size + cost > self._limit and self._inbox:
            self.dropped += 1
            return
        self._inbox.append(datagram)
        self._size += cost

    def writable(self) -> None:
        if self._senders and not self._senders[0].waiter.done():
            self._senders[0].waiter.set_result(None)

    def failed(self, error: OSError) -> None:
        """The network answered one of our datagrams with an error. Others may fare better, so only a call is told."""
        notice = self._said(error)
        for waiter in self._readers:
            if not waiter.done():
                waiter.set_exception(notice)
                return
        self._notice = notice

    def _said(self, error: OSError) -> NetworkError:
        where: dict[str, Any] = {"endpoint": self.endpoint, "phase": Phase.TRANSFER, "code": error.errno}
        notice: NetworkError
        if error.errno == errno.ECONNREFUSED:
            notice = ConnectRefusedError("nobody receives datagrams there (ICMP port unreachable)", **where)
        elif error.errno == errno.ECONNRESET:
            notice = PeerResetError("the peer refused a datagram", **where)
        else:
            notice = ConnectError(f"the datagram could not be delivered: {error.strerror or error}", **where)
        notice.__cause__ = error
        return notice
