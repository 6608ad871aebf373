"""Datagrams to and from one peer: over a socket of its own, or over a listener's with many others.

What arrives while nobody receives is kept up to the receive limit; then the newest is dropped and counted, as the kernel does
it. What is sent goes to the kernel at once, and waits only while that has no room.
"""

from __future__ import annotations

import errno
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

from tieline.engines.framing import OVERHEAD
from tieline.errors import ChannelClosedError, EndOfStreamError, NetworkError, Phase, raisable
from tieline.flows.content import octets, sendable
from tieline.flows.owner import FlowOwner, present
from tieline.flows.receiving import message
from tieline.flows.refusals import too_large, undelivered
from tieline.protocols.ip import IP, IPMetadata
from tieline.protocols.message import DatagramMetadata, Message
from tieline.protocols.udp import UDPMetadata
from tieline.reports import TransportCounters

if TYPE_CHECKING:
    from tieline.drivers.port import Address, Buffer, DatagramSocket, Waiter
    from tieline.parameters import Parameters

__all__ = ["DatagramFlow"]

PLAIN = DatagramMetadata()
STREAK = 64  # datagrams that may be sent before other tasks have their turn: the kernel hardly ever makes a sender wait


class Place:
    """Of a send in the queue: what it waits for at present."""

    __slots__ = ("waiter",)

    def __init__(self, waiter: Waiter) -> None:
        self.waiter = waiter


class DatagramFlow:
    """Moves datagrams both ways for one connection."""

    __slots__ = (
        "__weakref__", "_closed", "_described", "_ended", "_failure", "_inbox", "_limit", "_make_waiter", "_notice", "_owner",
        "_readers", "_senders", "_size", "_streak", "activity", "dropped", "endpoint", "has_packets", "name", "received_count",
        "received_datagrams", "remote", "sent_count", "sent_datagrams", "socket",
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
        ip: IP | None = parameters.stack.find(IP)
        self.has_packets = ip is not None  # each datagram one of its own
        self._described: deque[DatagramMetadata] | None = deque() if ip is not None and ip.describes else None  # as the inbox
        self._size = 0
        self._readers: deque[Waiter] = deque()
        self._senders: deque[Place] = deque()
        self._streak = 0
        self._make_waiter: Callable[[], Waiter] | None = None  # the driver's
        self._failure: NetworkError | None = None
        self._notice: NetworkError | None = None  # what the network said of an earlier datagram, for the next call
        self._closed = self._ended = False
        self.dropped = 0
        self.activity = 0  # datagrams either way: a listener sees by it whether the flow is idle
        self.received_count = self.sent_count = self.received_datagrams = self.sent_datagrams = 0

    # Called by the application

    async def receive(self) -> Message[bytes, DatagramMetadata]:
        # Here and below each call awaits its waiter itself: a coroutine in between would be entered anew for each datagram.
        if self._readers or not self._inbox:
            waiter = self._enter()
            try:
                await waiter
            except BaseException:
                self._leave(waiter)
                raise
            del self._readers[0]
        datagram = self._inbox.popleft()
        size = len(datagram)
        self._size -= size + OVERHEAD
        self.received_count += size
        self.received_datagrams += 1
        if self._readers:
            self._wake()
        return message(Message, (datagram, PLAIN if self._described is None else self._described.popleft()))

    async def receive_many(self, *, at_most: int = 64) -> list[Message[bytes, DatagramMetadata]]:
        if at_most < 1:
            raise ValueError(f"at_most must be at least 1, got {at_most}")
        if self._readers or not self._inbox:
            waiter = self._enter()
            try:
                await waiter
            except BaseException:
                self._leave(waiter)
                raise
            del self._readers[0]
        inbox = self._inbox
        if len(inbox) <= at_most:
            taken = list(inbox)
            inbox.clear()
        else:
            taken = [inbox.popleft() for _ in range(at_most)]
        size = sum(map(len, taken))
        self._size -= size + len(taken) * OVERHEAD
        self.received_count += size
        self.received_datagrams += len(taken)
        if self._readers:
            self._wake()
        described = self._described
        metadata = repeat(PLAIN) if described is None else [described.popleft() for _ in taken]
        return list(map(message, repeat(Message), zip(taken, metadata, strict=False)))

    async def next_piece(self) -> Message[bytes, DatagramMetadata]:
        try:
            return await self.receive()
        except EndOfStreamError:
            raise StopAsyncIteration from None

    async def send(self, content: Any, *, metadata: IPMetadata | None = None) -> None:
        datagram = content if type(content) is bytes else octets(content, self)
        socket = self.socket
        if socket is None or self._senders or self._notice is not None or self._streak >= STREAK or metadata is not None:
            await self._send((datagram,), sendable(metadata, self))
            return
        # Nobody is before us and nothing is special: straight to the kernel.
        self._streak += 1
        limit = socket.maximum_size(self.remote)
        if len(datagram) > limit:
            raise too_large(len(datagram), limit, self.endpoint)
        try:
            gone = socket.send(datagram, self.remote)
        except OSError as error:
            raise self._not_sent(error, datagram) from error
        if not gone:
            await self._send((datagram,), None)
            return
        self.sent_count += len(datagram)
        self.sent_datagrams += 1
        self.activity += 1

    async def send_many(self, contents: Sequence[Any], *, metadata: IPMetadata | None = None) -> None:
        datagrams = [content if type(content) is bytes else octets(content, self) for content in contents]
        await self._send(datagrams, sendable(metadata, self))

    async def _send(self, datagrams: Sequence[Buffer], metadata: IPMetadata | None) -> None:
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
            limit, largest = self.maximum_size, max(map(len, datagrams), default=0)
            if largest > limit:
                raise too_large(largest, limit, self.endpoint)
            while datagrams:
                if gone := self._put(datagrams, metadata):
                    datagrams = datagrams[gone:]
                else:
                    if place is None:  # nobody waits, or this call would have
                        place = Place(self._waiter())
                        self._senders.append(place)
                    await self._until_room(place)
        finally:
            if place is not None:
                self._senders.remove(place)
                self.writable()

    def _put(self, datagrams: Sequence[Buffer], metadata: IPMetadata | None) -> int:
        """Give datagrams to the kernel; how many it has taken when it has no room for more."""
        socket = self.socket
        if socket is None:  # on the way to another endpoint
            self._need()
            return 0
        gone = len(datagrams)
        try:
            if gone > 1:
                gone = socket.send_many(datagrams, self.remote, metadata)
            elif not socket.send(datagrams[0], self.remote, metadata):
                return 0
        except OSError as error:
            raise self._not_sent(error, datagrams[0]) from error
        self.sent_count += sum(map(len, datagrams[:gone]))
        self.sent_datagrams += gone
        self.activity += gone
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

    def _not_sent(self, error: OSError, datagram: Buffer) -> NetworkError:
        size, limit = len(datagram), self.maximum_size
        if error.errno == errno.EMSGSIZE and size > limit:
            return too_large(size, limit, self.endpoint)
        return undelivered(error, self.endpoint, limit)

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
        make = self._make_waiter
        if make is None:
            make = self._make_waiter = present(self._owner).driver.waiter
        return make()

    def _closed_error(self) -> ChannelClosedError:
        return ChannelClosedError("the connection was closed by this side", endpoint=self.endpoint, phase=Phase.TRANSFER)

    def _enter(self) -> Waiter:
        """Queue a receive. Its waiter is done when those before it are and a datagram is there: it is the first and leaves."""
        if not self._readers and not self._inbox:
            if self._notice is not None:
                self._raise_notice()
            if self._ended:
                raise self._end_error()
        if self.socket is None:
            self._need()
        make = self._make_waiter
        waiter = self._waiter() if make is None else make()
        self._readers.append(waiter)
        return waiter

    def _leave(self, waiter: Waiter) -> None:
        """A receive raises instead of taking."""
        self._readers.remove(waiter)
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
            if self._described is not None:
                self._described.clear()
            self.detach()

    # For the socket

    def received_all(self, datagrams: list[bytes], remote: Address | None, metadata: IPMetadata | None = None) -> None:
        """Several at once. The last thing that a driver does with them: the call that they answer may run in here."""
        size = (sum(map(len, datagrams)) if len(datagrams) > 1 else len(datagrams[0])) + len(datagrams) * OVERHEAD
        if self._size + size <= self._limit:
            self.activity += len(datagrams)
            self._inbox += datagrams
            self._size += size
            if self._described is not None:
                self._described += [describing(metadata)] * len(datagrams)
        else:
            for datagram in datagrams:
                self._keep(datagram, metadata)
        if self._inbox and self._readers and not self._readers[0].done():
            self._readers[0].resume()

    def received(self, datagram: bytes, remote: Address | None, metadata: IPMetadata | None = None) -> None:
        self._keep(datagram, metadata)
        self._wake()

    def _keep(self, datagram: bytes, metadata: IPMetadata | None) -> None:
        self.activity += 1
        cost = len(datagram) + OVERHEAD
        if self._size + cost > self._limit and self._inbox:
            self.dropped += 1
            return
        self._inbox.append(datagram)
        self._size += cost
        if self._described is not None:
            self._described.append(describing(metadata))

    def writable(self) -> None:
        if self._senders and not self._senders[0].waiter.done():
            self._senders[0].waiter.set_result(None)

    def failed(self, error: OSError) -> None:
        """The network answered one of our datagrams with an error. Others may fare better, so only a call is told."""
        notice = undelivered(error, self.endpoint, self.maximum_size)
        for waiter in self._readers:
            if not waiter.done():
                waiter.set_exception(notice)
                return
        self._notice = notice


def describing(metadata: IPMetadata | None) -> DatagramMetadata:
    return PLAIN if metadata is None else DatagramMetadata((metadata,))
