"""Streams that are opened before a QUIC connection is ready: 0-RTT, its refusal, and the ends that both can come to."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tieline import (
    QUIC,
    TLV,
    ChannelClosedError,
    CloseTimeoutError,
    ConnectError,
    Directionality,
    Initiator,
    MessageTooLargeError,
    NetworkConnection,
    NetworkListener,
    Parameters,
    PeerResetError,
    QUICStream,
    State,
    TLSError,
)

from ..peers import free_port, until
from ..quic import client_of, collect, server_of

ONE_WAY = Directionality.UNIDIRECTIONAL
numbers = itertools.count()


class Server:
    """Remembers what came on each stream, and answers with the same in capitals."""

    def __init__(self, alpn: str) -> None:
        self.alpn = alpn
        self.received: dict[int, bytes] = {}
        self.broken: dict[int, Any] = {}
        self.early: list[bool] = []
        self.stopped: list[int] = []

    async def handle(self, connection: NetworkConnection[QUIC]) -> None:
        self.early.append(connection.security_metadata.early_data_accepted)
        self.received.clear()
        await connection.inbound_streams(self.answer)

    async def answer(self, stream: Any) -> None:
        try:
            content = await collect(stream)
        except PeerResetError as error:
            self.broken[stream.stream_id] = error.code
            return
        self.received[stream.stream_id] = content
        if stream.directionality is Directionality.BIDIRECTIONAL:
            await stream.send(content.upper(), end_of_stream=True)

    @asynccontextmanager
    async def listening(self, **options: Any) -> AsyncIterator[Any]:
        options = {"alpn": [self.alpn], "early_data": True, **options}
        async with NetworkListener(server_of(**options), on="127.0.0.1:0").serving(self.handle) as listener:
            yield listener.endpoint

    def to(self, endpoint: Any, parameters: dict[str, Any] | None = None, **options: Any) -> NetworkConnection[QUIC]:
        using = client_of(**{"alpn": [self.alpn], "early_data": True, **options})
        return NetworkConnection(endpoint, Parameters(using, fast_open_allowed=True, **(parameters or {})))

    async def visited(self, endpoint: Any) -> None:
        """A client was here before, and has tickets."""
        async with self.to(endpoint) as connection:
            stream = await connection.open_stream()
            stream.send_idempotent(b"first", end_of_stream=True)
            await collect(stream)


@pytest.fixture
def server() -> Server:
    return Server(f"early {next(numbers)}")  # no other test's tickets


async def ask(connection: Any, question: bytes) -> Any:
    stream = await connection.open_stream()
    stream.send_idempotent(question, end_of_stream=True)
    return stream


# Accepted and refused


async def test_accepted(server: Server) -> None:
    async with server.listening() as endpoint:
        await server.visited(endpoint)
        async with server.to(endpoint) as connection:
            streams = [await ask(connection, b"question %d" % number) for number in range(5)]
            assert [stream.state for stream in streams] == [State.PREPARING] * 5
            assert [await collect(stream) for stream in streams] == [b"QUESTION %d" % number for number in range(5)]
            assert [stream.stream_id for stream in streams] == [0, 4, 8, 12, 16]
            assert [stream.state for stream in streams] == [State.READY] * 5
            assert connection.security_metadata.early_data_accepted and connection.security_metadata.resumed
            assert connection._flow.sent_count == len(b"question 0") * 5
    assert server.early == [False, True]


async def test_without_a_ticket(server: Server) -> None:
    """All the same, later."""
    async with server.listening() as endpoint, server.to(endpoint) as connection:
        stream = await ask(connection, b"question")
        assert await collect(stream) == b"QUESTION"
        assert not connection.security_metadata.early_data_accepted


@pytest.mark.parametrize("limits", [{"early_data": False}, {"initial_max_data": 1_000_000}])
async def test_refused(server: Server, limits: dict[str, Any]) -> None:
    """The server has other tickets now. Its client sends everything again, and in the same order."""
    async with server.listening() as endpoint:
        await server.visited(endpoint)
    async with server.listening(**limits) as endpoint, server.to(endpoint) as connection:
        early = [await ask(connection, bytes([number]) * 10_000) for number in range(10)]
        one_way = await connection.open_stream(directionality=ONE_WAY)
        one_way.send_idempotent(b"one ")
        await one_way.send(b"way", end_of_stream=True)
        assert [await collect(stream) for stream in early] == [bytes([number]) * 10_000 for number in range(10)]
        assert not connection.security_metadata.early_data_accepted
        assert [stream.stream_id for stream in (*early, one_way)] == [*range(0, 40, 4), 2]
        await until(lambda: 2 in server.received)
        assert server.received == {**{4 * number: bytes([number]) * 10_000 for number in range(10)}, 2: b"one way"}
        assert connection._flow.sent_count == 100_007
    assert server.early == [False, False]


async def test_the_server_allows_less_than_before(server: Server) -> None:
    """Then it refuses (RFC 9000 section 7.4.1), and what it does not allow yet waits for its turn, before all others."""
    async with server.listening() as endpoint:
        await server.visited(endpoint)
    limits = {"initial_max_bidirectional_streams": 1, "initial_max_stream_data": 1000, "initial_max_data": 1500}
    async with server.listening(**limits) as endpoint, server.to(endpoint) as connection:
        early = [await ask(connection, b"%d" % number * 3000) for number in range(4)]
        await connection.ready()
        late = await ask(connection, b"late")
        for number, stream in enumerate(early):
            assert await collect(stream) == b"%d" % number * 3000
            await stream.aclose()
        assert await collect(late) == b"LATE"
        assert [stream.stream_id for stream in (*early, late)] == [0, 4, 8, 12, 16]
        assert not connection.security_metadata.early_data_accepted


async def test_more_than_the_ticket_remembers(server: Server) -> None:
    """As much rides as was allowed the last time, and the rest follows."""
    limits = {"initial_max_bidirectional_streams": 2, "initial_max_stream_data": 1000, "initial_max_data": 1500}
    async with server.listening(**limits) as endpoint:
        await server.visited(endpoint)
        async with server.to(endpoint) as connection:
            early = [await ask(connection, b"%d" % number * 3000) for number in range(4)]
            for number, stream in enumerate(early):
                assert await collect(stream) == b"%d" % number * 3000
                await stream.aclose()
            assert [stream.stream_id for stream in early] == [0, 4, 8, 12]
            assert connection.security_metadata.early_data_accepted


async def test_the_server_wants_to_see_our_address(server: Server) -> None:
    """It answers with a Retry, after which the first flight goes again (RFC 9000 section 17.2.5.3). An end alone, too."""
    async with server.listening(retry_above=0) as endpoint:
        await server.visited(endpoint)
        for _ in range(3):
            async with server.to(endpoint) as connection:
                streams = [await ask(connection, question) for question in (b"", b"question", b"x" * 50_000)]
                assert [await collect(stream) for stream in streams] == [b"", b"QUESTION", b"X" * 50_000]
                assert connection.security_metadata.early_data_accepted


async def test_what_is_not_idempotent_waits(server: Server) -> None:
    async with server.listening() as endpoint:
        await server.visited(endpoint)
        async with server.to(endpoint) as connection:
            stream = await connection.open_stream()
            stream.send_idempotent(b"early, ")
            sending = asyncio.create_task(stream.send(b"late, "))
            await asyncio.sleep(0)
            stream.send_idempotent(b"later", end_of_stream=True)
            assert await collect(stream) == b"EARLY, LATE, LATER" and sending.done()


async def test_messages_on_early_streams(server: Server) -> None:
    """What is no stream of bytes has nothing that may ride; it waits until ready."""
    async with server.listening() as endpoint:
        await server.visited(endpoint)
        async with server.to(endpoint) as connection:
            stream = await connection.open_stream(using=TLV(QUICStream()))
            await stream.send(b"abc", type=0x41424344)
            await stream.send(b"", type=7, last_message=True)
            assert (await stream.receive()).content == b"ABC"


async def test_several_at_once(server: Server) -> None:
    """Each takes a ticket of its own (RFC 8446 appendix C.4)."""
    async with server.listening() as endpoint:
        await server.visited(endpoint)

        async def once(number: int) -> bool:
            async with server.to(endpoint) as connection:
                assert await collect(await ask(connection, b"%d" % number)) == b"%d" % number
                return connection.security_metadata.early_data_accepted

        assert any(await asyncio.gather(*(once(number) for number in range(5))))


# Not allowed


@pytest.mark.parametrize("allowed", [{"fast_open_allowed": True}, {"early_data": True}])
async def test_both_options_have_to_allow_it(server: Server, allowed: dict[str, bool]) -> None:
    """Otherwise opening a stream waits until ready, as ever."""
    options = client_of(alpn=[server.alpn], early_data=allowed.get("early_data", False))
    async with server.listening() as endpoint:
        await server.visited(endpoint)
        using = Parameters(options, fast_open_allowed=allowed.get("fast_open_allowed", False))
        async with NetworkConnection(endpoint, using) as connection:
            stream = await connection.open_stream()
            assert connection.state is State.READY and stream.state is State.READY


# Before ready


async def test_properties_before_ready(server: Server) -> None:
    async with server.listening() as endpoint, server.to(endpoint) as connection:
        stream, one_way = await connection.open_stream(), await connection.open_stream(directionality=ONE_WAY)
        assert stream.directionality is Directionality.BIDIRECTIONAL and one_way.directionality is ONE_WAY
        assert stream.initiator is Initiator.CLIENT and stream.parent is connection
        with pytest.raises(RuntimeError, match="no number yet"):
            _ = stream.stream_id
        assert (await one_way.receive()).metadata.end_of_stream
        stream.priority, stream.application_error_code = 5, 7
        await connection.ready()
        assert (stream.priority, stream.application_error_code) == (5, 7)
        assert stream._socket.priority == 5 and connection.state is State.READY


async def test_a_hundred_streams_can_be_opened(server: Server) -> None:
    """The next one waits until ready, as it would without early data."""
    async with server.listening() as endpoint, server.to(endpoint) as connection:
        streams = [await connection.open_stream() for _ in range(100)]
        assert connection.state is State.PREPARING
        streams.append(await connection.open_stream(directionality=ONE_WAY))
        assert connection.state is State.READY
        assert [stream.stream_id for stream in streams] == [*range(0, 400, 4), 2]


async def test_no_more_is_accepted_than_send_limit(server: Server) -> None:
    async with server.listening() as endpoint, server.to(endpoint, {"send_limit": 1000}) as connection:
        stream = await connection.open_stream()
        stream.send_idempotent(bytes(900))
        with pytest.raises(MessageTooLargeError):
            stream.send_idempotent(bytes(101))
        stream.send_idempotent(bytes(100), end_of_stream=True)
        assert await collect(stream) == bytes(1000)


@pytest.mark.parametrize("accepted", [True, False])
async def test_a_stream_that_is_given_up_before_ready(server: Server, accepted: bool) -> None:
    async with server.listening() as endpoint:
        await server.visited(endpoint)
    async with server.listening(early_data=accepted) as endpoint, server.to(endpoint) as connection:
        given_up, kept, reset, deaf = [await ask(connection, b"content") for _ in range(4)]
        if accepted:
            await asyncio.sleep(0)
            assert connection._establishment is not None and connection._establishment._attempts  # they are on their way
        given_up.application_error_code = 3
        given_up.abort()
        await reset.reset(9)
        deaf.stop_sending(4)
        assert given_up.state is State.CANCELLED
        with pytest.raises(ChannelClosedError):
            await given_up.send(b"")
        with pytest.raises(ChannelClosedError):
            await reset.send(b"")
        with pytest.raises(ChannelClosedError):
            await deaf.receive()
        assert await collect(kept) == b"CONTENT"
        assert connection.security_metadata.early_data_accepted is accepted
        if not accepted:
            assert kept.stream_id == 0
        await until(lambda: deaf.stream_id in server.received and server.broken.get(reset.stream_id) == 9)


async def test_a_cancelled_send_sends_nothing(server: Server) -> None:
    async with server.listening() as endpoint:
        await server.visited(endpoint)
        async with server.to(endpoint) as connection:
            stream = await connection.open_stream()
            sending = asyncio.create_task(stream.send(b"cancelled", end_of_stream=True))
            receiving = asyncio.create_task(stream.receive())
            await asyncio.sleep(0)
            sending.cancel()
            receiving.cancel()
            await asyncio.wait((sending, receiving))
            stream.send_idempotent(b"kept", end_of_stream=True)
            assert await collect(stream) == b"KEPT"


# Closing


async def test_closing_a_stream_lets_leave_what_was_accepted(server: Server) -> None:
    async with server.listening() as endpoint, server.to(endpoint) as connection:
        async with await connection.open_stream(directionality=ONE_WAY) as stream:
            stream.send_idempotent(b"content")
            waiting = asyncio.create_task(stream.send(b"not this"))
            await asyncio.sleep(0)
        with pytest.raises(ChannelClosedError):
            await waiting
        await until(lambda: server.received == {2: b"content"})
        async with connection:
            pass
        assert not connection._flow.early


async def test_closing_the_connection_lets_leave_what_was_accepted(server: Server) -> None:
    """On streams that have ended, as always; nobody has to wait for anything else before."""
    for _ in range(2):
        async with server.listening() as endpoint:
            async with server.to(endpoint) as connection:
                await ask(connection, b"content")
                other = await connection.open_stream()
                receiving = asyncio.create_task(other.receive())
                await asyncio.sleep(0)
            with pytest.raises(ChannelClosedError):
                await receiving
            assert connection.state is State.CANCELLED and other.state is State.CANCELLED
            await until(lambda: server.received.get(0) == b"content")


async def test_closing_a_connection_on_which_nothing_was_sent(server: Server) -> None:
    """It does not wait for one."""
    async with server.to(f"127.0.0.1:{free_port()}") as connection:
        stream = await connection.open_stream()
    assert stream.state is State.CANCELLED
    with pytest.raises(ChannelClosedError):
        stream.send_idempotent(b"content")
    with pytest.raises(ChannelClosedError):
        await connection.open_stream()


async def test_closing_waits_no_longer_than_close_timeout(server: Server) -> None:
    limits = {"initial_max_bidirectional_streams": 0}
    async with server.listening(**limits) as endpoint, server.to(endpoint, {"close_timeout": 0.2}) as connection:
        stream = await ask(connection, b"content")
        with pytest.raises(CloseTimeoutError, match="a stream within close_timeout"):
            await stream.aclose()
        assert stream.state is State.CANCELLED and connection.state is State.READY
    async with server.listening(**limits) as endpoint:
        with pytest.raises(CloseTimeoutError):
            async with server.to(endpoint, {"close_timeout": 0.2}) as connection:
                await ask(connection, b"content")


async def test_an_aborted_connection(server: Server) -> None:
    async with server.listening() as endpoint:
        await server.visited(endpoint)
        connection = server.to(endpoint)
        stream = await ask(connection, b"content")
        closing = asyncio.create_task((await ask(connection, b"content")).aclose())
        receiving = asyncio.create_task(stream.receive())
        await asyncio.sleep(0)
        connection.abort()
        with pytest.raises(ChannelClosedError):
            await receiving
        with pytest.raises(ChannelClosedError):
            await closing
        assert stream.state is State.CANCELLED


# No connection


async def test_nobody_is_there(server: Server) -> None:
    """Calls raise why; what was accepted goes as soon as there is a connection."""
    port = free_port()
    connection = server.to(f"127.0.0.1:{port}")
    stream = await ask(connection, b"content")
    closing = await ask(connection, b"content")
    with pytest.raises(ConnectError):
        await stream.receive()
    assert connection.state is State.WAITING and stream.state is State.PREPARING
    with pytest.raises(ConnectError):
        await closing.aclose()
    async with NetworkListener(server_of(alpn=[server.alpn]), on=f"127.0.0.1:{port}").serving(server.handle):
        assert await collect(stream) == b"CONTENT"
        await connection.aclose()


async def test_nobody_is_there_and_it_waits(server: Server) -> None:
    port = free_port()
    connection = server.to(f"127.0.0.1:{port}", {"waits_for_connectivity": True})
    stream = await ask(connection, b"content")
    async with asyncio.TaskGroup() as tasks:
        receiving = tasks.create_task(stream.receive(exactly=7))
        await until(lambda: connection.state is State.WAITING)
        async with NetworkListener(server_of(alpn=[server.alpn]), on=f"127.0.0.1:{port}").serving(server.handle):
            assert (await receiving).content == b"CONTENT"
            await connection.aclose()


async def test_the_server_is_not_who_it_should_be(server: Server) -> None:
    """The connection fails, and each of its streams with it."""
    async with server.listening() as endpoint:
        connection = server.to(endpoint, server_name="other.test")
        stream = await ask(connection, b"content")
        for _ in range(2):
            with pytest.raises(TLSError, match="is for another name"):
                await stream.receive()
        assert connection.state is State.FAILED and stream.state is State.FAILED
        assert stream.error is not None
        with pytest.raises(TLSError, match="is for another name"):
            await connection.open_stream()


async def test_the_next_endpoint(server: Server) -> None:
    """Streams of the one that is given up are over; those that were opened since go with the next one."""
    async with server.listening() as endpoint, server.to(endpoint) as connection:
        first = await ask(connection, b"first")
        await connection.ready()
        connection.try_next_endpoint()
        with pytest.raises(ChannelClosedError):
            await first.receive(exactly=1000)
        second = await ask(connection, b"second")
        with pytest.raises(ConnectError, match="no other"):
            await second.receive()
