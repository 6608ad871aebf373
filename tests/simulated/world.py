"""Two hosts, a link, connections between them, and a model of what these may do: what random operations are carried out on.

Every call of an application is a task of its own, so that calls overlap, wait and are cancelled. `check` compares with the model
after each operation, `settle` mends the network, reads everything, closes, and demands what then must be true.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from tieline import (
    QUIC,
    TCP,
    TLS,
    UDP,
    ChannelClosedError,
    EndOfStreamError,
    HostPort,
    IncompleteReceiveError,
    MessageTooLargeError,
    NetworkConnection,
    NetworkError,
    NetworkListener,
    Parameters,
    State,
)
from tieline.engines.states import CONNECTION
from tieline.testing import Conditions, Partition, SimulatedNetwork, VirtualClock, certificates, record_events

from .ledger import DatagramLedger, Fate, StreamLedger

AUTHORITY = certificates()
IDENTITY = AUTHORITY.identity("server.test")
SERVER, CLIENT = "192.0.2.1", "198.51.100.1"
PORT = 443
BUFFER = 4 * 1024  # of each simulated socket, so that little data already wait
PATIENCE = 2000.0  # virtual seconds in which everything has come to an end once the network is well
CALM = 5.0  # virtual seconds in which the last datagram has arrived; flows end by idleness later
FLOWS_LAST = 25.0  # virtual seconds, of the 60 after which a listener ends a flow, give or take a half
BACK_OFF = 200.0  # virtual seconds that a waiting connection needs at most to try again, and to succeed
LEGAL = {(state, after) for (state, _), after in CONNECTION.items()}
LARGEST_RECORD = 16 * 1024  # RFC 8446 section 5.1
FIRST = b"\x00"  # the byte by which a QUIC server learns of the stream; no content has it
OVERHEAD = 3 * 1024  # what a TLS record adds, and a handshake that is still to be sent


def stacks(transport: str, limit: int) -> tuple[Any, Any]:
    """Parameters for the server and the client."""
    server: Any
    client: Any
    if transport == "tls":
        server, client = TLS(identity=IDENTITY), TLS(trust=AUTHORITY.trust, server_name="server.test")
    elif transport == "quic":
        windows: dict[str, Any] = {"alpn": ["test"], "initial_max_stream_data": BUFFER, "keepalive": 180.0, "idle_timeout": 600.0}
        server, client = QUIC(identity=IDENTITY, **windows), QUIC(trust=AUTHORITY.trust, server_name="server.test", **windows)
    else:
        server = client = UDP() if transport == "udp" else TCP()
    return (
        Parameters(server, send_limit=limit, receive_limit=limit, grace_period=0.0),
        Parameters(client, send_limit=limit, receive_limit=limit),
    )


class End:
    """One side of one connection, with the calls that were made on it."""

    def __init__(self, pair: Pair, connection: NetworkConnection[Any], out: Any, into: Any) -> None:
        self.pair = pair
        self.connection = connection
        self.channel: Any = None if pair.world.multiplexed else connection  # over QUIC its one stream, as soon as that is there
        self.out, self.into = out, into
        self.calls: list[asyncio.Task[None]] = []
        self.events = record_events(connection)
        self.state = connection.state
        self._asked = self._answered = 0
        self.waiting: dict[int, int] = {}  # receives, and what they need
        self.sending = 0  # sends that wait

    @property
    def other(self) -> End:
        """The other side, as far as there is one."""
        return self.pair.ends[self is self.pair.client and self.pair.server is not None]

    def start(self, call: Coroutine[Any, Any, None]) -> None:
        self.pair.world.raise_from(self)
        self.calls = [one for one in self.calls if not one.done()]
        self.calls.append(asyncio.get_running_loop().create_task(call))

    @contextmanager
    def asked(self, need: int) -> Iterator[Callable[[], None]]:
        """A receive, from its call to its end; it is to say when it is answered."""
        self._asked += 1
        number = self._asked
        self.waiting[number] = need

        def answered() -> None:
            assert number > self._answered, f"receive {number} was answered after {self._answered}"
            self._answered = number

        try:
            yield answered
        except NetworkError as error:
            self.pair.met(error)
        finally:
            del self.waiting[number]

    # Calls on streams

    async def send(self, content: bytes, end: bool) -> None:
        sent = self.out.sending(content)
        before = self.out.end
        if end and before is Fate.PENDING:
            self.out.end = Fate.BROKEN
        self.sending += 1
        try:
            await self.channel.send(content, end_of_stream=end)
        except NetworkError as error:
            sent.fate = Fate.BROKEN
            self.pair.met(error)
        except asyncio.CancelledError:
            sent.fate = Fate.BROKEN
            raise
        else:
            assert before is not Fate.ACCEPTED, "a send was accepted after the end of the stream"
            sent.fate = Fate.ACCEPTED
            if end:
                self.out.end = Fate.ACCEPTED
        finally:
            self.sending -= 1

    async def receive(self, **how: Any) -> None:
        with self.asked(how.get("exactly") or how.get("at_least") or how["at_most"]) as answered:
            try:
                content, metadata = await self.channel.receive(**how)
            except IncompleteReceiveError as error:
                answered()
                self.into.received(error.partial)
                self.into.received_end()
                return
            except MessageTooLargeError:
                answered()
                return
            answered()
            self.into.received(content)
            if metadata.end_of_stream:
                assert len(content) < how.get("at_least", 1)
                self.into.received_end()
            elif "exactly" in how:
                assert len(content) == how["exactly"]
            elif "until" in how:
                assert content.endswith(how["until"]) and content.count(how["until"]) == 1
            else:
                assert how["at_least"] <= len(content) <= how["at_most"]

    async def receive_into(self, size: int) -> None:
        buffer = bytearray(size)
        with self.asked(1) as answered:
            count = await self.channel.receive_into(buffer)
            answered()
            self.into.received(bytes(buffer[:count]))
            if not count:
                self.into.received_end()

    async def read_all(self) -> None:
        try:
            async for content, _ in self.channel:
                self.into.received(content)
        except NetworkError as error:
            self.pair.met(error)
        else:
            if isinstance(self.into, StreamLedger):
                self.into.received_end()

    # Calls on datagrams

    async def send_datagrams(self, contents: list[bytes]) -> None:
        for content in contents:
            self.out.sending(content)
        try:
            await self.channel.send_many(contents)
        except NetworkError as error:
            self.pair.met(error)

    async def receive_datagrams(self, at_most: int) -> None:
        with self.asked(1) as answered:
            messages = await self.channel.receive_many(at_most=at_most)
            answered()
            assert 1 <= len(messages) <= at_most
            for content, _ in messages:
                self.into.received(content)

    # Ends

    async def close(self) -> None:
        """What was accepted from us is still to arrive; what comes in is lost."""
        if isinstance(self.out, StreamLedger) and self.out.end is Fate.PENDING:
            self.out.end = Fate.BROKEN
        self.closed = True
        try:
            if self.channel is not self.connection and self.channel is not None:
                await self.channel.aclose()
            await self.connection.aclose()
        except NetworkError as error:
            self.pair.met(error)
            await self.connection.aclose()

    def abort(self) -> None:
        self.pair.aborted = True
        self.connection.abort()

    def check(self, limit: int) -> None:
        """Legal states, and no more in the buffers than was allowed."""
        for after in self.events.states[-1:] and self.new_states():
            assert (self.state, after) in LEGAL, f"{self.state} → {after} is no legal transition"
            self.state = after
        if self.channel is None:
            return
        flow: Any = self.channel._flow
        if isinstance(self.out, StreamLedger):
            wanted = flow.receiving._needed()
            kept = flow.receiving.inbox.size
            record = min(limit, LARGEST_RECORD) if flow.machine is not None else 0  # its bytes come all at once
            buffers = 2 if self.pair.world.multiplexed else 1  # when a connection ends, what its engine has comes at once
            assert kept <= max(limit, wanted) + buffers * BUFFER + record, f"{kept} bytes wait for a reader"
            assert flow.sending._size <= limit + OVERHEAD, f"{flow.sending._size} bytes wait for the kernel"
        else:
            assert flow._size <= max(limit, 2048), f"{flow._size} bytes of datagrams wait for a reader"

    def new_states(self) -> list[State]:
        states = list(self.events.states)
        new = states[self._seen :]
        self._seen = len(states)
        return new

    _seen = 0
    closed = False


class Pair:
    """A connection and what the listener made of it. A datagram flow that has ended may get a successor."""

    def __init__(self, world: World, client: NetworkConnection[Any]) -> None:
        ledger = DatagramLedger if world.datagrams else StreamLedger
        self.world = world
        self.forth, self.back = ledger(), ledger()
        self.aborted = False
        self.errors: list[NetworkError] = []
        self.client = End(self, client, self.forth, self.back)
        self.server: End | None = None

    @property
    def ends(self) -> list[End]:
        return [self.client] if self.server is None else [self.client, self.server]

    def met(self, error: NetworkError) -> None:
        """A call raised. Somebody must have given a reason for it."""
        closed = any(end.closed for end in self.ends)
        if isinstance(error, (ChannelClosedError, EndOfStreamError)) and (closed or self._ended()):
            return
        self.errors.append(error)
        assert self.aborted or closed or self.world.excuses, f"nobody did anything, and yet: {type(error).__name__}: {error}"

    def _ended(self) -> bool:
        if self.world.datagrams:
            return "udp idle" in self.world.excuses
        return any(one.end is not Fate.PENDING for one in (self.forth, self.back))

    def check_calm(self) -> None:
        """The network is well, and nothing has happened for long: who still waits must have a reason."""
        if self.server is None or self.aborted or self.errors:
            return
        for end, other in ((self.client, self.server), (self.server, self.client)):
            if end.closed or other.closed or not end.waiting:
                continue
            if self.world.datagrams:
                assert not end.connection._flow.waiting, "a receive waits, and a datagram is there"
            else:
                need = end.waiting[min(end.waiting)]
                assert end.into.available < need, f"a receive waits for {need} bytes, and {end.into.available} were accepted"
                assert not other.sending, "a receive and a send wait for each other"

    def check_ended(self) -> None:
        """Both sides have read to the end, or to the other's close."""
        broken = self.aborted or self.errors
        if broken and self.world.excuses:
            return  # the reset may have been lost, and TCP without keepalive does not ask whether the peer is there
        for end in self.ends:
            for call in end.calls:
                assert call.done(), f"in a network that is well, this call waits for ever: {call}"
        if self.server is None or broken:
            return
        for end in self.ends:
            assert end.closed or end.into.is_complete, f"{end.into.count} bytes came, and not all that were accepted"


class World:
    """Everything that one run has."""

    def __init__(self, seed: int, transport: str, conditions: dict[str, Any], limit: int) -> None:
        self.datagrams = transport == "udp"
        self.multiplexed = transport == "quic"
        self.limit = limit
        self.loop = VirtualClock()
        self.problems: list[Any] = []
        self.loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self.network = SimulatedNetwork(seed)
        self.server = self.network.host("server.test", SERVER, send_buffer=BUFFER, receive_buffer=BUFFER)
        self.client = self.network.host("client.test", CLIENT, send_buffer=BUFFER, receive_buffer=BUFFER)
        self.conditions = Conditions(**conditions)
        self.link = self.network.link(self.server, self.client, **conditions)
        self.partitions: list[Partition] = []
        self.pairs: list[Pair] = []
        self.excuses = {"lossy"} if self.conditions.loss > 0.1 else set[str]()  # of the network
        self._strangers: dict[HostPort, NetworkConnection[Any]] = {}
        self._number = 0
        self._over = asyncio.Event()
        self._for_server, self._for_client = stacks(transport, limit)
        self.do(self._listen)

    def do(self, operation: Callable[[], Any]) -> None:
        """Carry something out within the event loop, and let what it woke have one turn."""
        if self.datagrams and self.loop.time() > FLOWS_LAST:
            self.excuses.add("udp idle")

        async def turn() -> None:
            outcome = operation()
            if asyncio.iscoroutine(outcome):
                await outcome

        self.loop.run_until_complete(turn())

    async def _listen(self) -> None:
        with self.server:
            listener = NetworkListener(self._for_server, on=(SERVER, PORT))
            self._serving = listener.serving(self._arrived)
            await self._serving.__aenter__()

    async def _arrived(self, connection: NetworkConnection[Any]) -> None:
        assert isinstance(connection.remote_endpoint, HostPort)
        self._strangers[connection.remote_endpoint] = connection
        self._introduce()
        try:
            if self.multiplexed:
                with contextlib.suppress(NetworkError):
                    await connection.inbound_streams(self._opened)
            await self._over.wait()
        finally:
            connection.abort()

    async def _opened(self, stream: Any) -> None:
        """The client's one stream."""
        assert (await stream.receive(exactly=1)).content == FIRST
        self._introduce()
        [end] = [end for pair in self.pairs for end in pair.ends if end.connection is stream.parent]
        end.channel = stream
        await self._over.wait()

    def _introduce(self) -> None:
        for pair in self.pairs:
            stranger = self._strangers.pop(pair.client.connection.local_endpoint, None)  # type: ignore[arg-type]
            if stranger is not None:
                if pair.server is not None:
                    assert self.datagrams, "one connection arrived twice"
                    for call in pair.server.calls:
                        call.cancel()
                pair.server = End(pair, stranger, pair.back, pair.forth)

    # Operations; those that are not possible do nothing

    def connect(self) -> None:
        with self.client:
            connection = NetworkConnection((SERVER, PORT), self._for_client)
            pair = Pair(self, connection)
            self.pairs.append(pair)
            pair.client.start(self._ready(pair))

    async def _ready(self, pair: Pair) -> None:
        try:
            await pair.client.connection.ready()
            if self.multiplexed:
                stream = await pair.client.connection.open_stream()
                await stream.send(FIRST)
                pair.client.channel = stream
        except NetworkError as error:
            pair.met(error)
        else:
            self._introduce()

    def content(self, size: int) -> bytes:
        """Bytes like no others, for a while: a number, again and again."""
        self._number += 1
        pattern = f"{self._number}.\n".encode()
        return (pattern * (size // len(pattern) + 1))[:size]

    def send(self, end: End, size: int, last: bool) -> None:
        if end.channel is None:
            return
        if self.datagrams:
            end.start(end.send_datagrams([self.content(max(8, min(size, 1400))) for _ in range(1 + 3 * last)]))
        else:
            end.start(end.send(self.content(size), last))

    def receive(self, end: End, how: str, size: int) -> None:
        if end.channel is None:
            return
        if self.datagrams:
            end.start(end.receive_datagrams(1 + size % 2))
        elif how == "into":
            end.start(end.receive_into(size))
        elif how == "exactly":
            end.start(end.receive(exactly=size))
        elif how == "until":
            end.start(end.receive(until=b"\n", at_most=max(1, size)))
        else:
            end.start(end.receive(at_least=1 + size // 3, at_most=1 + size))

    def cancel(self, end: End, kind: str, which: int) -> None:
        waiting = [call for call in end.calls if not call.done() and kind in str(call.get_coro())]
        if waiting:
            waiting[which % len(waiting)].cancel()

    def impair(self, what: str) -> None:
        """Something happens to the network. What TCP mends by itself is no excuse; what it may give up on is."""
        if what == "down":
            self.excuses.add("link down")
            self.link.down()
        elif what == "up":
            self.link.up()
        elif what == "partition":
            self.excuses.add("partition")
            self.partitions.append(self.network.partition([self.server], [self.client]))
        elif what == "heal":
            for partition in self.partitions:
                partition.heal()
            self.partitions.clear()
        elif what == "address":
            self.excuses.add("address removed")
            interface = self.client.interfaces[0]
            if interface.addresses:
                interface.remove_address(CLIENT)
            else:
                interface.add_address(CLIENT)
        else:
            self.excuses.add("lossy")
            self.link.change(loss=0.3)

    def mend(self) -> None:
        self.impair("up")
        self.impair("heal")
        self.link.change(loss=0.0, reorder=0.0, duplicate=0.0, jitter=0.0, rate=None)
        if not self.client.interfaces[0].addresses:
            self.client.interfaces[0].add_address(CLIENT)

    def advance(self, seconds: float) -> None:
        if self.datagrams and self.loop.time() + seconds > FLOWS_LAST:
            self.excuses.add("udp idle")
        self.do(lambda: asyncio.sleep(seconds))

    def calm(self) -> None:
        """Mend, and wait until everything that was under way has come to rest."""
        self.mend()
        self.do(lambda: asyncio.sleep(CALM if self.datagrams else BACK_OFF))
        self.check()
        for pair in self.pairs:
            pair.check_calm()

    def turn(self) -> None:
        self.do(lambda: None)

    # What must be true

    def check(self) -> None:
        assert not self.problems, self.problems
        for pair in self.pairs:
            if self.datagrams:
                for ledger in (pair.forth, pair.back):
                    ledger.reorders = ledger.reorders or self.conditions.reorder > 0
                    ledger.duplicates = ledger.duplicates or self.conditions.duplicate > 0
            for end in pair.ends:
                end.check(self.limit)
                self.raise_from(end)

    def raise_from(self, end: End) -> None:
        for call in end.calls:
            if call.done() and not call.cancelled() and (error := call.exception()) is not None:
                raise error

    def settle(self) -> None:
        """Mend, read, end, close: everything that was called must end, everything that was accepted must be there."""
        self.calm()
        self.do(self._settle)
        self.check()

    async def _settle(self) -> None:
        if self.datagrams:
            self.excuses.add("udp idle")  # by the time that everything has come to an end
        self._introduce()
        for pair in self.pairs:
            for end in pair.ends:
                if end.channel is None:
                    continue
                if not self.datagrams:
                    end.start(end.send(b"", True))
                end.start(end.read_all())
        await asyncio.sleep(PATIENCE)
        for pair in self.pairs:
            self._introduce()
            if not self.datagrams:
                pair.check_ended()
                for end in pair.ends:
                    self.raise_from(end)
        for pair in self.pairs:
            for end in pair.ends:
                end.start(end.close())
        await asyncio.sleep(PATIENCE)
        for pair in self.pairs:
            for end in pair.ends:
                for call in end.calls:
                    assert call.done(), f"after the close this call still waits: {call}"
                self.raise_from(end)
                assert end.connection.state.is_final
        self._over.set()
        with self.server:
            await self._serving.__aexit__(None, None, None)
        await asyncio.sleep(PATIENCE)
        self.check()
        for host in (self.server, self.client):
            assert not host.sockets, f"{host.name} still has {host.sockets}"
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left: {left}"

    def close(self) -> None:
        """Give everything back, whatever state it is in."""
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        for pair in self.pairs:
            for end in pair.ends:
                end.connection.abort()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
        gc.collect(0)
