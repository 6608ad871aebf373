"""A network in a box: hosts, routers and links that exist only here, and the events that happen to them.

    program ── NetworkConnection ── SimulatedDriver ── SocketTable ── Host ═ Link ═ Router ═ Link ═ Host ── …
                                                                       │
                                                              SimulatedNetwork: routes, events in order of time, trace

Everything that takes time is an event in one queue, in order of its time and, at the same time, of its making. What depends on
chance asks one random generator. So a seed determines every packet, and a run can be had again from its seed.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import Any, TypeVar

from tieline import drivers
from tieline.drivers.simulated.clock import VirtualClock
from tieline.drivers.simulated.driver import OutsideDriver
from tieline.drivers.simulated.host import Host
from tieline.drivers.simulated.link import LOOPBACK_LATENCY, Conditions, Link
from tieline.drivers.simulated.node import NetworkInterface, Node, Router, address_translation
from tieline.drivers.simulated.packets import Fate, Packet, Trace
from tieline.drivers.simulated.partition import Partition
from tieline.drivers.simulated.resolver import SimulatedResolver
from tieline.drivers.simulated.topology import Topology
from tieline.paths import InterfaceType
from tieline.protocols.checks import require_seconds

__all__ = ["ScheduledEvent", "SimulatedNetwork"]

T = TypeVar("T")

DAY = 86400.0
EVENTS_PER_TURN = 10_000  # so that the loop sees it if one thing leads to another for ever
TRACE_LIMIT = 100_000  # packets' fates that are remembered
BUFFER = 128 * 1024  # bytes that a host keeps for each socket and direction


class ScheduledEvent:
    """Something that will happen at a time, unless it is cancelled."""

    __slots__ = ("_arguments", "_callback", "_cancelled", "number", "when")

    def __init__(
        self,
        when: float,
        number: int,
        callback: Callable[..., object],
        arguments: tuple[Any, ...],
        cancelled: Callable[[], None],
    ) -> None:
        self.when = when
        self.number = number
        self._cancelled = cancelled
        self._callback: Callable[..., object] | None = callback
        self._arguments = arguments

    def cancel(self) -> None:
        """It will not happen."""
        self._callback = None
        self._arguments = ()
        self._cancelled()

    @property
    def is_cancelled(self) -> bool:
        """Whether it will not happen."""
        return self._callback is None

    def happen(self) -> None:
        """It is time."""
        if self._callback is not None:
            self._callback(*self._arguments)


class SimulatedNetwork(Topology):
    """A network of hosts, routers and links in memory, under programs that do not know of it.

    ::

        network = SimulatedNetwork(seed=1)
        server, client = network.host("server.test"), network.host("client.test")
        network.link(server, client, latency=0.02, loss=0.01)

        async def main():
            server.start(serve)
            with client:
                async with NetworkConnection("server.test:80", TCP()) as connection: ...

        network.run(main)

    `seed` determines everything that happens by chance; by default it is a new one each time, to be read from ``.seed``, and
    what `run` raises tells it. The network belongs to the event loop in which it is used first. On a `VirtualClock`, as `run`
    makes one, time jumps; on any other loop its seconds are real ones.
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.seed = random.SystemRandom().getrandbits(32) if seed is None else seed
        self.resolver = SimulatedResolver()
        self.trace: deque[Trace] = deque(maxlen=TRACE_LIMIT)
        """What became of each packet, oldest first; the newest 100,000 entries. ``str()`` of one is a line of text."""
        self._chance = random.Random(self.seed)
        self._events: list[tuple[float, int, ScheduledEvent]] = []
        self._count = 0
        self.connections = itertools.count(1)
        """Numbers for TCP connections."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._partitions: list[Partition] = []
        self._hosts: list[Host] = []
        self._main: asyncio.Task[Any] | None = None
        self._failure: BaseException | None = None

    def __repr__(self) -> str:
        return f"<SimulatedNetwork seed={self.seed}: {', '.join(node.name for node in self.nodes)}>"

    def changed(self) -> None:
        """Something about links, interfaces or addresses is different."""
        super().changed()
        for host in self._hosts:
            host.topology_changed()

    # Building

    def host(
        self,
        name: str,
        *addresses: str,
        type: InterfaceType = InterfaceType.WIRED,
        send_buffer: int = BUFFER,
        receive_buffer: int = BUFFER,
    ) -> Host:
        """Add a host with these addresses on an interface ``eth0``; without any it gets one of each IP version.

        Others can find it by its name. The buffers are what its sockets keep, in bytes, for each direction of a stream. More
        interfaces come from ``host.interface(...)``. Raises `ValueError` for a name or an address that is in use.
        """
        host = Host(self, self.checked_name(name), send_buffer=send_buffer, receive_buffer=receive_buffer)
        host.interface("eth0", *(addresses or self.free_addresses()), type=type)
        self.add(host)
        self._hosts.append(host)
        self.resolver.answer(name, *host.addresses)
        return host

    def router(self, name: str, *addresses: str) -> Router:
        """Add a router, which forwards between its links and may have addresses of its own."""
        router = Router(self, self.checked_name(name))
        router.interface("eth0", *addresses)
        self.add(router)
        return router

    def nat(self, name: str, address: str, *, timeout: float = 120.0, tcp_timeout: float = 7440.0) -> Router:
        """Add a router that translates: what is linked to it is inside, what is linked to its ``.outside`` sees `address`.

        A mapping is forgotten after so many seconds without a packet to the outside (RFC 4787 and RFC 5382 say at least these).
        """
        router = Router(self, self.checked_name(name), address_translation(address, timeout, tcp_timeout))
        self.add(router)
        return router

    def link(self, one: Node | NetworkInterface, other: Node | NetworkInterface, **conditions: Any) -> Link:
        """Connect two nodes, or two of their interfaces, under the given `Conditions`, which hold in both directions.

        Raises `TypeError` and `ValueError` for bad conditions.
        """
        ends = tuple(end.linked() if isinstance(end, Node) else end for end in (one, other))
        if ends[0].node is ends[1].node:
            raise ValueError(f"a link connects two nodes, got {ends[0].node.name} twice")
        link = Link(self.changed, (ends[0], ends[1]), Conditions(**conditions))
        self.changed()
        return link

    def partition(self, *groups: list[Node] | tuple[Node, ...]) -> Partition:
        """Let nothing pass between these groups of nodes from now on, until its ``heal()``, or the end of a ``with``.

        Nobody is told. A node in none of the groups reaches all of them.
        """
        made = Partition(groups, self._partitions)
        self._partitions.append(made)
        return made

    # Running

    def run(
        self, main: Callable[..., Coroutine[Any, Any, T]], *arguments: Any, on: Host | None = None, limit: float = 7 * DAY
    ) -> T:
        """Run ``main(*arguments)`` in virtual time, on a host if one is given, and return what it returns.

        When it ends, the programs that were started on hosts are cancelled. What one of them raises ends the run, and so does
        what a callback of `at` or `after` raises. After `limit` seconds of virtual time the run ends with `TimeoutError`; one in
        which everybody waits for nothing ends at once with `StandstillError`. A note on each exception tells the seed. A network
        runs once.
        """
        if self._loop is not None:
            raise RuntimeError("this network has run before: time does not go back, make another")
        try:
            with asyncio.Runner(loop_factory=VirtualClock) as runner:
                return runner.run(self._run(main, arguments, on, limit))
        except BaseException as error:  # pytest's own failures are no Exception
            error.add_note(f"in a simulated network with seed={self.seed}, which repeats it")
            raise

    async def _run(
        self, main: Callable[..., Coroutine[Any, Any, T]], arguments: tuple[Any, ...], on: Host | None, limit: float
    ) -> T:
        clock = self.bound()
        assert isinstance(clock, VirtualClock)  # of `run`
        drivers.enter(OutsideDriver(clock))
        self._main = asyncio.current_task()
        clock.limit = clock.call_at(limit, self._too_long, clock, limit)
        clock.end = limit + DAY
        try:
            with on or nullcontext():
                result = await main(*arguments)
        except BaseException as error:
            if self._failure is None:
                raise
            raise self._failure from None if isinstance(error, asyncio.CancelledError) else error
        finally:
            self._main = None
            clock.limit.cancel()
            await self._end_programs()
        if self._failure is not None:  # main did not mind, or a program failed on being cancelled
            raise self._failure
        return result

    async def _end_programs(self) -> None:
        programs = [task for host in self._hosts for task in host.programs]
        for task in programs:
            task.cancel()
        for task, end in zip(programs, await asyncio.gather(*programs, return_exceptions=True), strict=True):
            if isinstance(end, BaseException) and not task.cancelled():
                self._failed(task.get_name(), end)

    def _too_long(self, clock: VirtualClock, limit: float) -> None:
        if self._main is not None and self._failure is None:
            self._failure = TimeoutError(f"the run is not over after limit={limit:g} s of virtual time:\n{clock.waiting()}")
            self._main.cancel()

    def program_ended(self, task: asyncio.Task[Any]) -> None:
        """A program of a host has ended; if it failed, so does the run."""
        if self._main is not None and not task.cancelled() and (error := task.exception()) is not None:
            self._failed(task.get_name(), error)
            self._main.cancel()

    def _event_failed(self, error: BaseException) -> None:
        if self._main is not None:
            self._failed(f"an event at {self.time:g} s", error)
            self._main.cancel()
            return
        assert self._loop is not None  # it runs the events
        self._loop.call_exception_handler({"message": "an event of a simulated network raised", "exception": error})

    def _failed(self, by: str, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            error.add_note(f"raised by {by}")

    def bound(self) -> asyncio.AbstractEventLoop:
        """The event loop of this network: the one in which it is used first. Raises RuntimeError in any other."""
        running = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = running
            for _, _, event in self._events:  # they were made when it was 0
                event.when += running.time()
            self._events = [(event.when, event.number, event) for _, _, event in self._events]
            self._wake()
        elif self._loop is not running:
            raise RuntimeError(f"{self!r} belongs to another event loop")
        return self._loop

    # Events

    @property
    def time(self) -> float:
        """Seconds, of the event loop; 0 before the network is used: what is planned then counts from its first use."""
        return 0.0 if self._loop is None else self._loop.time()

    def at(self, when: float, callback: Callable[..., object], *arguments: Any) -> ScheduledEvent:
        """Let something happen at a time: ``network.at(5.0, link.down)``. The event can be cancelled."""
        require_seconds("when", when, zero=True)
        return self.schedule(when, callback, *arguments)

    def after(self, delay: float, callback: Callable[..., object], *arguments: Any) -> ScheduledEvent:
        """Let something happen in so many seconds from now."""
        require_seconds("delay", delay, zero=True)
        return self.schedule(self.time + delay, callback, *arguments)

    def schedule(self, when: float, callback: Callable[..., object], *arguments: Any) -> ScheduledEvent:
        """The same, for the network's own parts."""
        self._count += 1
        event = ScheduledEvent(when, self._count, callback, arguments, self._drop_cancelled)
        self._queue(event)
        return event

    def again(self, event: ScheduledEvent, when: float) -> None:
        """Let an event that has happened happen once more, ahead of those at that time that were made after it."""
        event.when = when
        self._queue(event)

    def _queue(self, event: ScheduledEvent) -> None:
        heapq.heappush(self._events, (event.when, event.number, event))
        if self._events[0][2] is event:
            self._wake()

    def _drop_cancelled(self) -> None:
        """Time must not go on for what will not happen."""
        if self._events and self._events[0][2].is_cancelled:  # those further behind are dropped when they come to the front
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._wake()

    def _wake(self) -> None:
        """See that the loop comes back for the first event."""
        while self._events and self._events[0][2].is_cancelled:
            heapq.heappop(self._events)
        if self._loop is None or not self._events or self._loop.is_closed():
            return
        when = self._events[0][0]
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        # In an empty context: no event belongs to the program in whose turn it was scheduled.
        self._timer = self._loop.call_at(when, self._happen, context=contextvars.Context())

    def _happen(self) -> None:
        self._timer = None
        events = self._events
        now = self.time
        for _ in range(EVENTS_PER_TURN):
            if not events or events[0][0] > now:
                break
            event = heapq.heappop(events)[2]
            try:
                event.happen()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # also pytest's own failures, which are no Exception; the other events go on
                self._event_failed(error)
        self._wake()

    # Packets

    def note(self, node: Node, fate: Fate, packet: Packet) -> None:
        """Write into the trace."""
        self.trace.append(Trace(self.time, node.name, fate, packet))

    def loop_back(self, node: Node, packet: Packet) -> None:
        """A packet to the node itself."""
        self.schedule(self.time + LOOPBACK_LATENCY, node.arrived, packet, None)

    def random_bytes(self, count: int) -> bytes:
        """For machines that make choices of their own: what they do by chance comes from the seed, too."""
        return self._chance.randbytes(count)

    def transmit(self, node: Node, packet: Packet, interface: NetworkInterface, link: Link) -> None:
        """A packet leaves a node over a link."""
        direction = link.direction(interface)
        peer = direction.towards.node
        if self._partitions and self._separated(packet, node, peer):
            self.note(node, Fate.PARTITIONED, packet)
            return
        packet = direction.marked(packet, self.time)
        arrivals, fate = direction.carry(packet.size, self.time, self._chance)
        if fate is not None:
            self.note(node, fate, packet)
            if fate is Fate.TOO_LARGE:
                self.too_large(node, packet, direction.conditions.mtu)
        for when in arrivals:
            self.schedule(when, self._arrive, link, link.losses, direction.towards, packet)

    def _separated(self, packet: Packet, node: Node, peer: Node) -> bool:
        """Whether a packet comes from one group of a partition, and is at a node of another, or would be there in the end."""
        origins = (node, self.owner(packet.source.host))
        aims = (peer, self.owner(packet.destination.host))
        return any(one.separates(origin, aim) for one in self._partitions for origin in origins for aim in aims)

    def _arrive(self, link: Link, losses: int, towards: NetworkInterface, packet: Packet) -> None:
        if link.losses != losses or not towards.is_running:
            self.note(towards.node, Fate.LINK_DOWN, packet)
        else:
            towards.node.arrived(packet, towards)
