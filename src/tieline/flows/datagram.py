"""Datagrams to and from one peer: over a socket of its own, or over a listener's with many others.

What arrives while nobody receives is kept up to the receive limit; then the newest is dropped and counted, as the kernel does
it. What is sent goes to the kernel at once, and waits only while that has no room.

The queue of receives and what most calls do are compiled (`tieline._engine.datagram.Datagrams`); here is what is rare.
"""

from __future__ import annotations

import errno
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tieline._engine.datagram import Datagrams, adopt_datagrams
from tieline.engines.framing import OVERHEAD
from tieline.errors import ChannelClosedError, EndOfStreamError, NetworkError, Phase, raisable
from tieline.flows.content import misuse, octets, sendable
from tieline.flows.owner import FlowOwner, present
from tieline.flows.refusals import too_large, undelivered
from tieline.protocols.ip import IP, IPMetadata
from tieline.protocols.message import DatagramMetadata, Message
from tieline.protocols.udp import UDPMetadata
from tieline.reports import TransportCounters

if TYPE_CHECKING:
    from tieline.drivers.port import Address, Buffer, Counted, DatagramSocket, Waiter
    from tieline.parameters import Parameters

__all__ = ["DatagramFlow"]

PLAIN = DatagramMetadata()
adopt_datagrams(Message, PLAIN)
STREAK = 64  # single datagrams that may be sent before other tasks have their turn: the kernel hardly ever makes a sender wait


class Place:
    """Of a send in the queue: what it waits for at present."""

    __slots__ = ("waiter",)

    def __init__(self, waiter: Waiter) -> None:
        self.waiter = waiter


class DatagramFlow(Datagrams):
    """Moves datagrams both ways for one connection."""

    __slots__ = ("__weakref__", "_closed", "_failure", "_owner", "endpoint", "has_packets", "name")

    socket: DatagramSocket | None
    remote: Address | None  # on a socket that is shared with others
    _senders: list[Place]
    _notice: NetworkError | None  # what the network said of an earlier datagram, for the next call
    farewell: NetworkError | None = None  # datagrams have no end
    lost = False  # a datagram goes to the kernel at once
    calls = "send(data), send_many(list), receive(), receive_many(at_most=), messages and iteration"

    def __init__(self, owner: FlowOwner, parameters: Parameters[Any], endpoint: object) -> None:
        self._owner = weakref.ref(owner)
        self.name = parameters.stack.name
        self.endpoint = endpoint
        ip: IP | None = parameters.stack.find(IP)
        self.has_packets = ip is not None  # each datagram one of its own
        self._failure: NetworkError | None = None
        self._closed = False
        self._begin(parameters.receive_limit, OVERHEAD, ip is not None and ip.describes)

    # Called by the application

    def _unexpected(self, call: str, option: str) -> None:
        raise misuse(self, f"{call}() has no {option}=")

    async def _send_one(self, content: Any, metadata: IPMetadata | None) -> None:
        """What is not simply given to the kernel."""
        await self._send((octets(content, self),), sendable(metadata, self))

    async def _send_blocked(self, datagram: bytes) -> None:
        """The kernel has no room."""
        await self._send((datagram,), None)

    def _too_large(self, size: int, limit: int) -> NetworkError:
        return too_large(size, limit, self.endpoint)

    def _refused(self, error: OSError, datagram: bytes) -> NetworkError:
        told = self._not_sent(error, datagram)
        told.__cause__ = error
        return told

    async def _send_all(self, contents: Sequence[Any], metadata: IPMetadata | None) -> None:
        datagrams = tuple(content if type(content) is bytes else octets(content, self) for content in contents)
        await self._send(datagrams, sendable(metadata, self))

    async def _send(self, datagrams: tuple[Buffer, ...], metadata: IPMetadata | None) -> None:
        place: Place | None = None
        if self.socket is None or self._senders or self._streak >= STREAK:
            self._need()
            place = Place(self._waiter())
            self._senders.append(place)
        try:
            if place is not None:
                await self._until_first(place)
            self._raise_notice()
            while datagrams:
                if self.socket is None:  # on the way to another endpoint
                    self._need()
                elif gone := self._put(datagrams, metadata):
                    datagrams = datagrams[gone:]
                    continue
                if place is None:  # nobody waits, or this call would have
                    place = Place(self._waiter())
                    self._senders.append(place)
                await self._until_room(place)
        finally:
            if place is not None:
                self._senders.remove(place)
                self.writable()

    async def _until_first(self, place: Place) -> None:
        """Wait for the sends before this one, for a socket, and for one turn of the loop after many sends without any."""
        if self.socket is not None and self._senders[0] is place:
            present(self._owner).driver.call_soon(self._turn, place)
        await self._until_room(place)
        while self.socket is None:
            await self._until_room(place)

    @staticmethod
    def _turn(place: Place) -> None:
        if not place.waiter.done():
            place.waiter.resume()

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

    def _waiters(self) -> Any:
        return present(self._owner).driver.waiter

    def _waiter(self) -> Waiter:
        return present(self._owner).driver.waiter()

    def _closed_error(self) -> ChannelClosedError:
        return ChannelClosedError("the connection was closed by this side", endpoint=self.endpoint, phase=Phase.TRANSFER)

    def _nothing(self) -> NetworkError:
        """Why nothing is left for a receive whose turn had come."""
        if self._closed or self._failure is None:
            return self._closed_error()
        return raisable(self._failure)

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

    def measured(self) -> tuple[Counted | None, int, int]:
        """What the transport has counted, and the bytes of the application that were received and sent."""
        return self.counters(), self.received_count, self.sent_count

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
            self._clear()
            self.detach()

    # For the socket

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

    @staticmethod
    def _describing(metadata: IPMetadata) -> DatagramMetadata:
        return DatagramMetadata((metadata,))


def describing(metadata: IPMetadata | None) -> DatagramMetadata:
    return PLAIN if metadata is None else DatagramMetadata((metadata,))
