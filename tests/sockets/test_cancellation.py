"""Every public coroutine, cancelled at every await that it passes, keeps the promise of its docstring.

A *case* makes a coroutine, helps it along, and checks the promise. The harness runs it once for each of its suspensions,
cancelling it there, until it comes through unharmed. What a case leaves behind (a task, a descriptor) fails the test.
"""

from __future__ import annotations

import asyncio
import inspect
import io
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from tieline import (
    QUIC,
    TCP,
    ChannelClosedError,
    NetworkConnection,
    NetworkListener,
    PathMonitor,
    PeerResetError,
    State,
    WebSocket,
)
from tieline.channel import MessageIterator
from tieline.listener import Serving
from tieline.reporting import PendingDataTransferReport
from tieline.updates import UpdateIterator

from .. import quic

PUBLIC = (
    NetworkConnection, NetworkListener, Serving, MessageIterator, UpdateIterator, PendingDataTransferReport, QUIC.Stream,
    QUIC.Datagrams,
)  # fmt: skip
STREAMS = ("tcp", "tls", "unix")
BULK = bytes(range(256)) * (48 << 12)  # 48 MiB: more than every buffer on the way


class Case(NamedTuple):
    """One coroutine to cancel; `help` lets it come to its end; `check` is told whether it was cancelled."""

    work: Coroutine[Any, Any, Any]
    help: Callable[[], Coroutine[Any, Any, Any]] | None
    check: Callable[[bool, Any], Coroutine[Any, Any, None]]


class Cancelled:
    """Awaits a coroutine and has the task cancelled at its n-th suspension."""

    def __init__(self, work: Coroutine[Any, Any, Any], at: int, suspended: asyncio.Event) -> None:
        self._work = work
        self._at = at
        self._suspended = suspended
        self.count = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        thrown: BaseException | None = None
        while True:
            try:
                awaited = self._work.send(None) if thrown is None else self._work.throw(thrown)
            except StopIteration as end:
                return end.value
            self.count += 1
            self._suspended.set()
            if self.count == self._at:
                asyncio.get_running_loop().call_soon(task.cancel)
            thrown = None
            try:
                yield awaited
            except BaseException as error:
                thrown = error


async def run(case: Case, at: int) -> bool:
    """Whether the coroutine was cancelled, at its suspension number `at`."""
    suspended = asyncio.Event()

    async def drive() -> Any:
        return await Cancelled(case.work, at, suspended)

    task = asyncio.create_task(drive())
    first = asyncio.create_task(suspended.wait())
    await asyncio.wait((task, first), return_when=asyncio.FIRST_COMPLETED)
    first.cancel()
    helping = None
    if at == 1:
        await asyncio.wait((task,), timeout=0.02)  # it is cancelled before anybody helps
    if case.help is not None and not task.done():
        helping = asyncio.create_task(case.help())
    await asyncio.wait((task,))
    cancelled = task.cancelled()
    await case.check(cancelled, None if cancelled else task.result())
    if helping is not None:
        helping.cancel()
        await asyncio.wait((helping,))
    return cancelled


CASES: dict[str, list[Any]] = {}


def case(*names: str, over: tuple[str, ...] = STREAMS) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        for name in names:
            CASES.setdefault(name, []).append((function, over))
        return function

    return register


def every() -> list[Any]:
    return [
        pytest.param(asynccontextmanager(function), transport, id=f"{function.__name__}-{transport}")
        for function, over in dict.fromkeys(one for cases in CASES.values() for one in cases)
        for transport in over
    ]


# Receiving: nothing has been consumed


def receiving(call: Callable[[Any], Coroutine[Any, Any, Any]], answer: Callable[[Any], bytes]) -> Any:
    async def scenario(pair_over: Any, transport: str) -> AsyncIterator[Case]:
        async with pair_over(transport) as (client, server):

            async def help() -> None:
                for piece in (b"01", b"23", b"4", b"5\n", b"67"):
                    await client.send(piece)
                    await asyncio.sleep(0.005)

            async def check(cancelled: bool, result: Any) -> None:
                if cancelled:
                    await client.send(b"012345\n67")
                    assert (await server.receive(exactly=9)).content == b"012345\n67"
                else:
                    assert b"012345\n67".startswith(answer(result))

            yield Case(call(server), help, check)

    return scenario


buffer = bytearray(4)
for name, call, answer in (
    ("receive_exactly", lambda one: one.receive(exactly=5), lambda result: result.content),
    ("receive_at_least", lambda one: one.receive(at_least=4), lambda result: result.content),
    ("receive_until", lambda one: one.receive(until=b"\n"), lambda result: result.content),
    ("receive_into", lambda one: one.receive_into(buffer, exactly=True), lambda _: bytes(buffer)),
    ("iteration", lambda one: anext(aiter(one)), lambda result: result.content),
):
    scenario = receiving(call, answer)
    scenario.__name__ = name
    covered = {"receive_into": "NetworkConnection.receive_into", "iteration": "MessageIterator.__anext__"}
    case(covered.get(name, "NetworkConnection.receive"), over=(*STREAMS, "quic"))(scenario)


def receiving_datagrams(call: Callable[[Any], Coroutine[Any, Any, Any]], answer: Callable[[Any], bytes]) -> Any:
    async def scenario(pair_over: Any, transport: str) -> AsyncIterator[Case]:
        async with pair_over(transport) as (client, server):

            async def check(cancelled: bool, result: Any) -> None:
                if cancelled:
                    await client.send(b"datagram")
                    result = await server.receive()
                    assert result.content == b"datagram"
                else:
                    assert answer(result) == b"datagram"

            yield Case(call(server), lambda: client.send(b"datagram"), check)

    return scenario


for name, call, answer in (
    ("receive_datagram", lambda one: one.receive(), lambda result: result.content),
    ("receive_many", lambda one: one.receive_many(), lambda result: result[0].content),
    ("iteration_of_datagrams", lambda one: anext(one.messages), lambda result: result.content),
):
    scenario = receiving_datagrams(call, answer)
    scenario.__name__ = name
    covered = {"receive_many": "NetworkConnection.receive_many", "iteration_of_datagrams": "MessageIterator.__anext__"}
    case(covered.get(name, "NetworkConnection.receive"), over=("udp",))(scenario)


# Sending


@case("NetworkConnection.send", over=(*STREAMS, "quic"))
async def send(pair_over: Any, transport: str) -> AsyncIterator[Case]:
    """A prefix may have gone; never anything else, and never out of order."""
    async with pair_over(transport) as (client, server):
        received = bytearray()

        async def help() -> None:
            while True:
                received.extend((await server.receive(at_most=1 << 20)).content)

        async def check(cancelled: bool, result: Any) -> None:
            if cancelled:
                client.abort()
            assert BULK.startswith(bytes(received))

        yield Case(client.send(BULK), help, check)


@case("NetworkConnection.send_file", over=(*STREAMS, "quic"))
async def send_file(pair_over: Any, transport: str) -> AsyncIterator[Case]:
    async with pair_over(transport) as (client, server):
        received = bytearray()

        async def help() -> None:
            while True:
                received.extend((await server.receive(at_most=1 << 20)).content)

        async def check(cancelled: bool, result: Any) -> None:
            if cancelled:
                client.abort()
            else:
                assert result == len(BULK)
            assert BULK.startswith(bytes(received))

        yield Case(client.send_file(io.BytesIO(BULK)), help, check)


@case("NetworkConnection.send", "NetworkConnection.send_many", over=("udp",))
async def send_datagrams(pair_over: Any, transport: str) -> AsyncIterator[Case]:
    """Before ready, where a send of datagrams waits: each went whole or not at all."""
    async with pair_over(transport) as (_, server), NetworkConnection(server.local_endpoint, server.parameters) as connection:

        async def check(cancelled: bool, result: Any) -> None:
            await connection.ready()
            assert connection._flow.sent_datagrams == (0 if cancelled else 2)

        yield Case(connection.send_many([b"one", b"two"]), None, check)


# Lifetime


@case("NetworkConnection.ready", "NetworkConnection.establishment_report", "NetworkConnection.data_transfer_report",
      "PendingDataTransferReport.collect", over=("ready", "establishment_report", "data_transfer_report", "collect"))  # fmt: skip
async def waiting_for_ready(pair_over: Any, transport: str) -> AsyncIterator[Case]:
    """The connection goes on being established, and a measurement goes on."""
    async with pair_over("tcp") as (client, _), NetworkConnection(client.remote_endpoint, TCP()) as connection:
        pending = connection.start_data_transfer_report()

        async def check(cancelled: bool, result: Any) -> None:
            await connection.ready()
            assert connection.state.value == "ready"
            assert (await pending.collect()).duration >= 0

        yield Case(pending.collect() if transport == "collect" else getattr(connection, transport)(), None, check)


@case("NetworkConnection.aclose", "NetworkConnection.__aexit__")
async def aclose(pair_over: Any, transport: str) -> AsyncIterator[Case]:
    async with pair_over(transport, send_limit=len(BULK)) as (client, server):
        await client.send(BULK)

        async def help() -> None:
            async for _ in server:
                pass

        async def check(cancelled: bool, result: Any) -> None:
            assert client.state.value == "cancelled"
            assert not client._flow.is_open
            with pytest.raises(ChannelClosedError):
                await client.send(b"x")

        yield Case(client.__aexit__(None, None, None), help, check)


@case("NetworkConnection.__aenter__", over=("tcp",))
async def enter(pair_over: Any, transport: str) -> AsyncIterator[Case]:
    async with pair_over(transport) as (client, _):
        connection = NetworkConnection(client.remote_endpoint, TCP())

        async def check(cancelled: bool, result: Any) -> None:
            await connection.aclose()

        yield Case(connection.__aenter__(), None, check)


@case("NetworkListener.run", over=("tcp",))
async def listener_run(pair_over: Any, transport: str) -> AsyncIterator[Case]:
    """The handlers are cancelled and waited for. It never ends by itself, so its end is a cancellation from outside."""
    listener = NetworkListener(TCP(), on="127.0.0.1:0")
    running: list[str] = []

    async def handler(connection: NetworkConnection[Any]) -> None:
        running.append("began")
        try:
            await connection.receive()
        finally:
            running.append("ended")

    async def help() -> None:
        while not listener.endpoints:  # noqa: ASYNC110
            await asyncio.sleep(0)
        async with NetworkConnection(listener.endpoint, TCP()) as connection:
            await connection.receive()

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(0.3, task.cancel)
        try:
            await listener.run(handler)
        except asyncio.CancelledError:
            if not task.uncancel():
                raise
            raise

    async def check(cancelled: bool, result: Any) -> None:
        assert cancelled
        assert listener.state.value == "cancelled" and running.count("began") == running.count("ended")

    yield Case(work(), help, check)


@case("Serving.__aenter__", "Serving.__aexit__", over=("enter", "exit"))
async def serving(pair_over: Any, transport: str) -> AsyncIterator[Case]:
    """Nothing is left open; the handlers are cancelled and waited for."""
    listener = NetworkListener(TCP(), on="127.0.0.1:0")
    ended = asyncio.Event()

    async def handler(connection: NetworkConnection[Any]) -> None:
        try:
            await connection.receive()
        finally:
            ended.set()

    block = listener.serving(handler)
    if transport == "enter":

        async def entered(cancelled: bool, result: Any) -> None:
            if not cancelled:
                await block.__aexit__(None, None, None)
            assert listener.state.value == "cancelled"

        yield Case(block.__aenter__(), None, entered)
        return
    await block.__aenter__()
    connection = NetworkConnection(listener.endpoint, TCP())
    await connection.ready()
    await asyncio.sleep(0.01)

    async def help() -> None:
        await connection.aclose()

    async def left(cancelled: bool, result: Any) -> None:
        assert ended.is_set() and listener.state.value == "cancelled"
        connection.abort()

    yield Case(block.__aexit__(None, None, None), help, left)


@case("NetworkConnection.ping", "NetworkConnection.pong", "NetworkConnection.close", over=("ping", "pong", "close"))
async def websocket_controls(pair_over: Any, name: str) -> AsyncIterator[Case]:
    """What was cancelled before it left is not sent, and the connection goes on; a close that has left waits for its answer."""

    async def echo(connection: Any) -> None:
        async for content, _ in connection.messages:
            await connection.send(content)

    async with NetworkListener(WebSocket(), on="127.0.0.1:0").serving(echo) as listener:
        connection = NetworkConnection(f"ws://127.0.0.1:{listener.port}/", WebSocket())

        async def check(cancelled: bool, result: Any) -> None:
            if cancelled and name != "close":
                await connection.send("on")
                assert (await connection.receive()).content == "on"
            elif name == "ping" and not cancelled:
                assert await result >= 0
            await connection.aclose()

        yield Case(getattr(connection, name)(), None, check)


@case("UpdateIterator.__anext__", over=("states",))
async def state_updates(pair_over: Any, transport: str) -> AsyncIterator[Case]:
    async with pair_over("tcp") as (client, _):
        connection = NetworkConnection(client.remote_endpoint, TCP())
        updates = connection.state_updates()

        async def help() -> None:
            connection.start()

        async def check(cancelled: bool, result: Any) -> None:
            connection.start()
            await connection.aclose()
            seen = [state.value async for state in updates]
            assert seen[-1] == "cancelled" and ("preparing" in seen) is cancelled

        yield Case(anext(updates), help, check)


@case("UpdateIterator.__anext__", over=("paths",))
async def path_monitor(pair_over: Any, transport: str) -> AsyncIterator[Case]:
    updates = aiter(PathMonitor())
    first = await anext(updates)

    async def help() -> None:
        updates._push(first, True)

    async def check(cancelled: bool, result: Any) -> None:
        if cancelled:
            updates._push(first, True)
            assert await anext(updates) == first
        with pytest.raises(StopAsyncIteration):
            await anext(updates)

    yield Case(anext(updates), help, check)


# QUIC


@case("NetworkConnection.open_stream", over=("at the limit", "before ready"))
async def open_stream(pair_over: Any, transport: str) -> AsyncIterator[Case]:
    """No stream has been opened: the next one has its number."""
    limit = {"initial_max_bidirectional_streams": 1} if transport == "at the limit" else {}
    async with (
        quic.connected(limit) as (ready, server, listener),
        quic.gather(server, quic.collect),
        NetworkConnection(listener.endpoint, quic.client_of()) as other,
    ):
        client = ready if transport == "at the limit" else other
        first = await client.open_stream() if transport == "at the limit" else None

        async def help() -> None:
            if first is not None:
                await first.send(b"", end_of_stream=True)

        async def check(cancelled: bool, result: Any) -> None:
            await help() if cancelled else None
            stream = await client.open_stream() if cancelled else result
            assert stream.stream_id == (0 if first is None else 4)

        yield Case(client.open_stream(), help, check)


@case("NetworkConnection.inbound_streams", over=("quic",))
async def inbound_streams(pair_over: Any, transport: str) -> AsyncIterator[Case]:
    """The handlers are cancelled and waited for."""
    async with quic.connected() as (client, server, _):
        running: list[str] = []

        async def handler(stream: Any) -> None:
            running.append("began")
            try:
                await stream.receive(exactly=2)
            finally:
                running.append("ended")

        async def help() -> None:
            for _ in range(2):
                await (await client.open_stream()).send(b"x")
            await asyncio.sleep(0.01)
            await client.aclose()

        async def check(cancelled: bool, result: Any) -> None:
            assert running.count("began") == running.count("ended")
            assert server.state is State.READY or not cancelled or running

        yield Case(server.inbound_streams(handler), help, check)


@case("NetworkConnection.datagrams", over=("quic",))
async def datagrams(pair_over: Any, transport: str) -> AsyncIterator[Case]:
    options = {"max_datagram_frame_size": 1500}
    async with (
        quic.connected(**options) as (_, _, listener),
        NetworkConnection(listener.endpoint, quic.client_of(**options)) as client,
    ):

        async def check(cancelled: bool, result: Any) -> None:
            channel = await client.datagrams()
            assert cancelled or channel is result
            await channel.send(b"x")

        yield Case(client.datagrams(), None, check)


@case("NetworkConnection.migrate", over=("quic",))
async def migrate(pair_over: Any, transport: str) -> AsyncIterator[Case]:
    async with quic.connected() as (client, _, _):
        before = client.local_endpoint

        async def check(cancelled: bool, result: Any) -> None:
            assert client.local_endpoint != before

        yield Case(client.migrate(), None, check)


@case("QUICStreamChannel.reset", over=("quic",))
async def reset(pair_over: Any, transport: str) -> AsyncIterator[Case]:
    async with pair_over("quic") as (client, server):

        async def check(cancelled: bool, result: Any) -> None:
            with pytest.raises(PeerResetError, match="code 7"):
                await server.receive()

        yield Case(client.reset(7), None, check)


@case("QUICStreamChannel.aclose", "QUICStreamChannel.__aexit__", "QUICStreamChannel.__aenter__", over=("exit", "enter"))
async def close_stream(pair_over: Any, transport: str) -> AsyncIterator[Case]:
    """The stream is reset."""
    async with pair_over("quic", send_limit=len(BULK)) as (client, server):
        await client.send(BULK)

        async def help() -> None:
            async for _ in server:
                pass

        async def check(cancelled: bool, result: Any) -> None:
            if transport == "enter":
                assert result is client
                return
            assert client.state is State.CANCELLED
            with pytest.raises(ChannelClosedError):
                await client.send(b"x")
            if cancelled:
                with pytest.raises(PeerResetError, match="code 0"):
                    await quic.collect(server)

        yield Case(client.__aenter__() if transport == "enter" else client.__aexit__(None, None, None), help, check)


@pytest.mark.parametrize(("scenario", "transport"), every())
async def test_cancelled_at_every_await(pair_over: Any, scenario: Any, transport: str) -> None:
    for at in range(1, 100):
        before = asyncio.all_tasks()
        async with scenario(pair_over, transport) as one:
            cancelled = await run(one, at)
        for _ in range(10):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() <= before
        if not cancelled or (scenario.__name__ == "listener_run" and at > 4):
            return
    pytest.fail("it never came through unharmed")


def public_coroutines() -> dict[str, str]:
    """The names of all public coroutines, with what documents them."""
    found: dict[str, str] = {}
    known: set[Any] = set()
    for owner in PUBLIC:
        for name, member in inspect.getmembers(owner, inspect.isfunction):
            if member in known:  # a class above has it, too
                continue
            known.add(member)
            returned = str(inspect.signature(member).return_annotation)
            coroutine = inspect.iscoroutinefunction(member) or returned.startswith("Coroutine")
            if coroutine and (not name.startswith("_") or name in ("__aenter__", "__aexit__", "__anext__")):
                found[f"{owner.__name__}.{name}"] = f"{member.__doc__}\n{owner.__doc__ if name == '__anext__' else ''}"
    return found


def test_every_public_coroutine_is_covered() -> None:
    assert set(public_coroutines()) == set(CASES)


@pytest.mark.parametrize("name", sorted(public_coroutines()))
def test_every_public_coroutine_says_what_cancelling_does(name: str) -> None:
    assert "Cancelling: " in public_coroutines()[name]
