"""The flow of a group: datagrams of many senders in, datagrams to several addresses out.

As with UDP, nothing waits for a reader: what exceeds the receive limit is dropped, the newest first, and counted.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tieline.endpoints import HostPort
from tieline.engines.framing import OVERHEAD
from tieline.errors import ChannelClosedError, NetworkError, Phase, raisable
from tieline.flows.datagram import STREAK
from tieline.flows.owner import FlowOwner, present
from tieline.flows.refusals import too_large, undelivered
from tieline.flows.turns import Turn

if TYPE_CHECKING:
    from tieline.drivers.port import Arrival, Buffer, MulticastSocket, Waiter
    from tieline.parameters import Parameters
    from tieline.protocols.ip import IPMetadata

__all__ = ["GroupFlow", "Way"]

logger = logging.getLogger("tieline")


class Way(NamedTuple):
    """How a datagram gets to an address: from a socket, over an interface (0 is the system's choice), from an address of ours."""

    socket: MulticastSocket
    to: HostPort
    interface: int
    source: str | None = None

    @property
    def maximum_size(self) -> int:
        """The largest datagram that goes out unfragmented."""
        return self.socket.maximum_size(self.to, self.interface)

    def send(self, datagram: Buffer, metadata: IPMetadata | None) -> bool:
        """Give one datagram to the kernel; False when blocked. Raises OSError."""
        return self.socket.send(datagram, self.to, self.interface, self.source, metadata)


class GroupFlow:
    """Moves datagrams both ways for one group."""

    calls = "send(data, to=, metadata=), receive() and iteration"
    has_packets = True

    def __init__(self, owner: FlowOwner, parameters: Parameters[Any], endpoint: object) -> None:
        self._owner = weakref.ref(owner)
        self._limit = parameters.receive_limit
        self.name = parameters.stack.name
        self.endpoint = endpoint
        self._inbox: deque[Arrival] = deque()
        self._size = 0
        self._readers: deque[Waiter] = deque()
        self._turn = Turn(self)  # of those who send
        self._room: Waiter | None = None  # of the one whose turn it is
        self._streak = 0
        self._end: NetworkError | None = None
        self.dropped = 0

    # Called by the application

    async def receive(self) -> Arrival:
        if self._readers or not self._inbox:
            self.need()
            waiter = self.waiter()
            self._readers.append(waiter)
            try:
                await waiter
            except BaseException:
                self._readers.remove(waiter)
                self._wake()
                raise
            del self._readers[0]  # it is done, so it is the first
        arrival = self._inbox.popleft()
        self._size -= len(arrival.content) + OVERHEAD
        self._wake()
        return arrival

    async def send(self, datagram: Buffer, ways: Sequence[Way], metadata: IPMetadata | None) -> None:
        """Send it each way. What fails on one of several ways and not on the others is no error."""
        limit = min(way.maximum_size for way in ways)
        if len(datagram) > limit:
            raise too_large(len(datagram), limit, self.endpoint)
        await self._turn.take()
        try:
            await self._pause()
            failures = [failure for way in ways if (failure := await self._send(datagram, way, metadata)) is not None]
        finally:
            self._turn.give()
        if len(failures) == len(ways):
            raise failures[0]
        for failure in failures:
            logger.debug("%s", failure)

    async def _send(self, datagram: Buffer, way: Way, metadata: IPMetadata | None) -> NetworkError | None:
        """Send it one way; what the system says if it will not."""
        self._streak += 1
        while True:
            self.need()
            try:
                if way.send(datagram, metadata):
                    return None
            except OSError as error:
                return undelivered(error, way.to, way.maximum_size)
            await self._until_room()

    async def _until_room(self) -> None:
        self._streak = 0
        self._room = self.waiter()
        try:
            await self._room
        finally:
            self._room = None

    async def _pause(self) -> None:
        """After many sends without any wait the other tasks have one turn: the kernel hardly ever makes a sender wait."""
        if self._streak >= STREAK:
            present(self._owner).driver.call_soon(self.writable)
            await self._until_room()

    # Waiting

    @property
    def socket(self) -> object:
        """None after the end, when no call has a turn any more."""
        return self if self._end is None else None

    def need(self) -> None:
        """Raise if the group has ended."""
        if self._end is not None:
            raise raisable(self._end)

    def waiter(self) -> Waiter:
        return present(self._owner).driver.waiter()

    def _wake(self) -> None:
        if self._inbox and self._readers and not self._readers[0].done():
            self._readers[0].set_result(None)

    # For the group

    def received(self, arrival: Arrival) -> None:
        cost = len(arrival.content) + OVERHEAD
        if self._size + cost > self._limit and self._inbox:
            self.dropped += 1
            return
        self._inbox.append(arrival)
        self._size += cost
        self._wake()

    def writable(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def close(self) -> None:
        """This side is done: calls that wait raise, and what was received is gone."""
        self._inbox.clear()
        self._size = 0
        self.fail(ChannelClosedError("the group was closed by this side", endpoint=self.endpoint, phase=Phase.TRANSFER))

    def fail(self, error: NetworkError) -> None:
        """It has ended: what was received can still be taken."""
        if self._end is not None:
            return
        self._end = error
        self._turn.fail(error)
        for waiter in (*self._readers, *(() if self._room is None else (self._room,))):
            if not waiter.done():
                waiter.set_exception(raisable(error))
