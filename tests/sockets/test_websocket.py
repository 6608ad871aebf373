"""WebSocket on real connections: its calls, their order, its ends, what it stands on, and hostile peers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from tieline import (
    QUIC,
    TCP,
    TLS,
    TLV,
    ChannelClosedError,
    CloseCode,
    CloseTimeoutError,
    Coder,
    ConnectError,
    ConnectionAbortedByPeerError,
    DecodingError,
    Deflate,
    EncodingError,
    EndOfStreamError,
    HostPort,
    HTTPResponse,
    IdleTimeoutError,
    MessageTooLargeError,
    NetworkConnection,
    NetworkError,
    NetworkListener,
    Opcode,
    Parameters,
    QUICStream,
    State,
    WebSocket,
    broadcast,
)
from tieline.protocols.roles import NetworkProtocol

from ..authority import LOCALHOST, TRUST
from ..peers import Peer
from ..quic import connected, take

Connection = NetworkConnection[WebSocket]


class Ends(NamedTuple):
    client: Connection
    server: Connection


async def echo(channel: Any) -> None:
    async for content, _ in channel.messages:
        await channel.send(content)


@asynccontextmanager
async def pair(
    server: Any = None, client: Any = None, parameters: dict[str, Any] | None = None, **both: Any
) -> AsyncIterator[Ends]:
    """Both ends, ready."""
    arrived: asyncio.Queue[Connection] = asyncio.Queue()
    over = asyncio.Event()

    async def handler(connection: Connection) -> None:
        arrived.put_nowait(connection)
        await over.wait()
        connection.abort()

    more = parameters or {}
    listener = NetworkListener(Parameters(server or WebSocket(TCP(), **both), **more), on="127.0.0.1:0")
    async with listener.serving(handler):
        connection: Connection = NetworkConnection(
            f"ws://127.0.0.1:{listener.port}/chat?room=1", Parameters(client or WebSocket(TCP(), **both), **more)
        )
        try:
            await connection.ready()
            yield Ends(connection, await arrived.get())
        finally:
            over.set()
            connection.abort()


# What it stands on


@pytest.mark.parametrize("kind", ["TCP", "TLS", "Unix"])
async def test_over_streams(tmp_path: Path, kind: str) -> None:
    where = f"unix:{tmp_path / 'socket'}" if kind == "Unix" else "127.0.0.1:0"
    server = WebSocket(TLS(identity=LOCALHOST) if kind == "TLS" else TCP())
    client = WebSocket(TLS(trust=TRUST, server_name="localhost") if kind == "TLS" else TCP(), path="/here?x=1")
    async with (
        NetworkListener(server, on=where).serving(echo) as listener,
        NetworkConnection(listener.endpoint, client) as connection,
    ):
        for message in ("grüße", b"\x00\xff", "", b"", "x" * 300_000, bytes(2**20)):
            await connection.send(message)
            content, metadata = await connection.receive()
            assert content == message
            assert metadata.opcode is (Opcode.TEXT if isinstance(message, str) else Opcode.BINARY)
        assert connection.metadata(WebSocket).path == "/here?x=1"
        handshakes = [handshake.protocol for handshake in (await connection.establishment_report()).handshakes]
        assert handshakes[-1] == "WebSocket" and ("TLS" in handshakes) is (kind == "TLS")


async def test_a_url_says_what_is_below() -> None:
    async with (
        NetworkListener(WebSocket(), on="127.0.0.1:0").serving(echo) as listener,
        NetworkConnection(f"ws://127.0.0.1:{listener.port}/", WebSocket()) as connection,
    ):
        assert [layer.name for layer in connection.parameters.stack.layers][:2] == ["WebSocket", "TCP"]
        await connection.send("plain")
        assert (await connection.receive()).content == "plain"
    secure = NetworkConnection("wss://example.com/", Coder(int, WebSocket()))
    assert [layer.name for layer in secure.parameters.stack.layers][:3] == ["Coder", "WebSocket", "TLS"]
    for url, stack in (("wss://example.com/", WebSocket(TCP())), ("ws://example.com/", WebSocket(TLS()))):
        with pytest.raises(ValueError, match="contradicts the stack"):
            NetworkConnection(url, stack)


@pytest.mark.parametrize("stack", [WebSocket(), WebSocket(QUICStream(), compression=Deflate())])
async def test_on_quic_streams(stack: WebSocket) -> None:
    async def serve(connection: NetworkConnection[QUIC]) -> None:
        await connection.inbound_streams(echo, using=stack)

    async with (
        NetworkListener(QUIC(alpn=["test"], identity=LOCALHOST), on="127.0.0.1:0").serving(serve) as listener,
        NetworkConnection(listener.endpoint, QUIC(alpn=["test"], trust=TRUST, server_name="localhost")) as connection,
    ):
        for _ in range(3):
            stream = await connection.open_stream(using=stack)
            async with stream:
                await stream.send("quiet " * 1000)
                assert (await stream.receive()).content == "quiet " * 1000
                assert 0 <= await (await stream.ping()) < 5
                await stream.close()


FRAMES = WebSocket(QUICStream(), skip_handshake=True)


@pytest.mark.parametrize("stack", [FRAMES, Coder(str, FRAMES)], ids=lambda stack: stack.name)
async def test_closing_a_quic_stream_waits_for_the_answer_to_its_close(stack: Any) -> None:
    async with connected() as (client, server, _):
        stream = await client.open_stream(using=stack)
        await stream.send("hello")
        inbound, over = await take(server, using=stack)
        async with asyncio.timeout(2):
            await stream.aclose()
            assert [content async for content, _ in inbound.messages] == ["hello"]
        assert stream.state is State.CANCELLED
        over.set()


class Move(msgspec.Struct):
    x: int
    text: str = "ß"


@pytest.mark.parametrize("using", ["json", "msgpack"])
async def test_values(using: Any) -> None:
    stack = Coder(Move, WebSocket(TCP()), using=using)
    raw_stack = WebSocket(TCP())
    async with (
        NetworkListener(raw_stack, on="127.0.0.1:0").serving(echo) as listener,
        NetworkConnection(listener.endpoint, stack) as connection,
    ):
        await connection.send(Move(7))
        content, metadata = await connection.receive()
        assert content == Move(7)
        opcode = metadata.other[0].opcode
        assert opcode is (Opcode.TEXT if using == "json" else Opcode.BINARY)


async def test_a_value_that_is_none_leaves_the_next_one() -> None:
    async def wrong(connection: Connection) -> None:
        await connection.send('{"x": "no number"}')
        await connection.send('{"x": 2}')
        await connection.close(CloseCode.GOING_AWAY)

    async with (
        NetworkListener(WebSocket(), on="127.0.0.1:0").serving(wrong) as listener,
        NetworkConnection(listener.endpoint, Coder(Move, WebSocket(TCP()))) as connection,
    ):
        with pytest.raises(DecodingError, match=r"\$\.x"):
            await connection.receive()
        assert (await connection.receive()).content == Move(2)
        with pytest.raises(EndOfStreamError):
            await connection.receive()
        with pytest.raises(ConnectionAbortedByPeerError, match="1001"):
            await connection.send(Move(3))


@pytest.mark.parametrize("stack", [TLV(WebSocket(TCP())), WebSocket(TLV(TCP())), WebSocket(WebSocket(TCP()), path="/inner")])
async def test_messages_on_messages(stack: Any) -> None:
    async with (
        NetworkListener(stack, on="127.0.0.1:0").serving(echo) as listener,
        NetworkConnection(listener.endpoint, stack) as connection,
    ):
        for size in (0, 1, 100_000):
            await connection.send(bytes(size))
            assert (await connection.receive()).content == bytes(size)


@pytest.mark.parametrize("compression", [None, Deflate(), Deflate(threshold=2**30)], ids=["plain", "deflate", "threshold"])
async def test_large_messages_are_whole_and_in_order(compression: Deflate | None) -> None:
    """What a side says by itself, such as the answer to a ping, goes between them and not into one."""
    async with pair(compression=compression) as (client, server):
        sizes = [131_072, 131_073, 3, 1_000_000, 0, 65_536, 200_000]
        data = random.Random(2).randbytes(1_000_000)
        for one, other in ((server, client), (client, server)):
            sending = [asyncio.create_task(one.send(data[:size])) for size in sizes]
            pings = [await other.ping() for _ in range(3)]
            assert [(await other.receive()).content == data[:size] for size in sizes] == [True] * len(sizes)
            await asyncio.gather(*sending)
            assert [await ping >= 0 for ping in pings] == [True] * 3
        cancelled = asyncio.create_task(server.send(data))
        await asyncio.sleep(0)
        cancelled.cancel()
        await server.send("after it")
        content = (await client.receive()).content
        if content != "after it":  # it had begun to leave, so it is whole
            assert content == data and (await client.receive()).content == "after it"


# Messages in parts


async def test_parts() -> None:
    async with pair() as (client, server):
        async with client.sending_message(Opcode.TEXT) as part:
            await part.send("one ")
            other = asyncio.create_task(client.send("after it"))
            assert await (await client.ping()) >= 0  # goes between
            await part.send("two ")
            await part.send("three", is_complete=True)
            with pytest.raises(RuntimeError, match="has ended"):
                await part.send("four")
        await other
        async with client.sending_message(Opcode.BINARY) as data:
            await data.send(bytearray(b"a"))
            await data.send(memoryview(b"b"))
        async with client.sending_message():
            pass
        contents = [(await server.receive()).content for _ in range(4)]
        assert contents == ["one two three", "after it", b"ab", ""]


async def test_receiving_in_parts() -> None:
    async with pair() as (client, server):
        pieces: list[str] = []
        came = asyncio.Event()

        async def take() -> None:
            async with server.receiving_message(str) as message:
                async for piece in message:
                    pieces.append(piece)
                    came.set()

        task = asyncio.create_task(take())
        async with client.sending_message() as part:
            for text in ("grü", "ße", "!"):
                came.clear()
                await part.send(text)
                await came.wait()  # as it comes, and not when the message is whole
        await task
        assert pieces == ["grü", "ße", "!"]
        await client.send(b"whole")
        async with server.receiving_message(bytes) as message:
            content, metadata = await message.receive()
            assert (content, metadata.is_complete) == (b"whole", True)


async def test_parts_of_a_chosen_size() -> None:
    async with pair() as (client, server):
        await client.send("grüße an alle")
        async with server.receiving_message(str) as message:
            sizes = [(1, 3), (2, 2), (1, 100)]
            parts = [await message.receive(at_least=least, at_most=most) for least, most in sizes]
            assert [(part.content, part.metadata.is_complete) for part in parts] == [
                ("grü", False),
                ("ße", False),
                (" an alle", True),
            ]
            with pytest.raises(RuntimeError, match="has ended"):
                await message.receive()
        async with server.receiving_message(bytes) as message, client.sending_message(Opcode.BINARY) as part:
            for at_least, at_most in ((0, 1), (2, 1)):
                with pytest.raises(ValueError, match="at_least must be from 1 to at_most"):
                    await message.receive(at_least=at_least, at_most=at_most)
            task = asyncio.create_task(message.receive(at_least=10, at_most=12))
            for _ in range(5):  # in small pieces, of which more than wanted comes
                await part.send(b"123")
                await (await client.ping())
            assert (await task).content == b"123123123123"
            await part.send(b"45", is_complete=True)
            content, metadata = await message.receive(at_least=100, at_most=200)  # fewer come only at the end
            assert (content, metadata.is_complete) == (b"12345", True)
        await client.send(b"the next")
        assert (await server.receive()).content == b"the next"


async def test_one_byte_after_the_other_of_a_large_message() -> None:
    async with pair() as (client, server):
        data = random.Random(1).randbytes(200_000)
        await client.send(data)
        async with server.receiving_message(bytes) as message:
            taken = b"".join([(await message.receive(at_most=1)).content for _ in range(1000)])
            assert taken + b"".join([piece async for piece in message]) == data


async def test_pings_between_parts_are_for_the_next_receive() -> None:
    async with pair(auto_reply_ping=False) as (client, server):
        async with server.receiving_message(str) as message, client.sending_message() as part:
            await part.send("one ")
            assert (await message.receive()).content == "one "
            await client.ping(b"first")
            await client.ping(b"last")
            await part.send("two", is_complete=True)
            content, metadata = await message.receive()
            assert (content, metadata.is_complete) == ("two", True)
        content, metadata = await server.receive()
        assert (content, metadata.opcode) == (b"last", Opcode.PING)


async def test_what_a_cancelled_receive_had_gathered_is_there_for_parts() -> None:
    async with pair() as (client, server):
        async with server.receiving_message(str) as message:  # from here on pieces are given as they come
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await message.receive()
        async with client.sending_message() as part:
            await part.send("be")
            await (await client.ping())  # it has come
            whole = asyncio.create_task(server.receive())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            whole.cancel()
            await asyncio.wait([whole])
            async with server.receiving_message(str) as message:
                await part.send("gun", is_complete=True)
                assert "".join([piece async for piece in message]) == "begun"


async def test_the_last_message_says_so() -> None:
    async with pair() as (client, server):
        await client.send("one")
        await client.send("two")
        await client.close()
        assert [(await server.receive()).metadata.last_message for _ in range(2)] == [False, True]


async def test_what_is_left_of_a_message_is_skipped() -> None:
    async with pair() as (client, server):
        async with server.receiving_message(str) as message, client.sending_message() as part:
            await part.send("begun")
            assert (await message.receive()).content == "begun"
            await part.send(", ended" * 100)
        await client.send("the next")
        assert (await server.receive()).content == "the next"


async def test_a_message_of_the_other_kind_stays() -> None:
    async with pair() as (client, server):
        await client.send(b"binary")
        async with server.receiving_message(str) as message:
            with pytest.raises(DecodingError, match="expected text, got binary"):
                await message.receive()
        assert (await server.receive()).content == b"binary"
        async with client.sending_message(Opcode.BINARY) as part:
            await part.send(b"in ")
            async with server.receiving_message(str) as message:
                with pytest.raises(DecodingError):
                    await message.receive()
            await part.send(b"parts")
        assert (await server.receive()).content == b"in parts"


async def test_a_message_that_is_not_ended_fails_the_connection() -> None:
    async with pair() as (client, server):

        async def half() -> None:
            async with client.sending_message() as part:
                await part.send("half")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await half()
        with pytest.raises(ConnectionAbortedByPeerError, match="1011"):
            await server.receive()
        assert client.state is State.FAILED
        with pytest.raises(NetworkError, match="not ended"):
            await client.send("more")


async def test_a_message_that_was_not_begun_fails_nothing() -> None:
    async with pair() as (client, server):
        with pytest.raises(ZeroDivisionError):
            async with client.sending_message():
                raise ZeroDivisionError
        await client.send("fine")
        assert (await server.receive()).content == "fine"


# Order and cancellation


async def test_calls_are_served_in_their_order() -> None:
    async with pair() as (client, server):
        receives = [asyncio.create_task(server.receive()) for _ in range(20)]
        await asyncio.gather(*(client.send(str(number)) for number in range(20)))
        assert [(await receive).content for receive in receives] == [str(number) for number in range(20)]


async def test_a_cancelled_receive_takes_nothing() -> None:
    async with pair() as (client, server):
        for number in range(50):
            receive = asyncio.create_task(server.receive())
            for _ in range(number % 5):
                await asyncio.sleep(0)
            receive.cancel()
            await client.send(str(number))
            with contextlib.suppress(asyncio.CancelledError):
                assert (await receive).content == str(number)
                continue
            assert (await server.receive()).content == str(number)


async def test_a_cancelled_receive_in_parts_takes_nothing() -> None:
    async with pair() as (client, server):
        async with server.receiving_message(str) as message:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await message.receive()
            await client.send("still there")
            assert (await message.receive()).content == "still there"
        whole = asyncio.create_task(server.receive())
        async with client.sending_message() as part:
            await part.send("be")
            await asyncio.sleep(0.02)
            whole.cancel()
            await part.send("gun")
        assert (await server.receive()).content == "begun"


@pytest.mark.parametrize("compression", [None, Deflate()])
async def test_a_cancelled_send_sends_all_or_nothing(compression: Deflate | None) -> None:
    async with pair(compression=compression, parameters={"send_limit": 4096}) as (client, server):
        sent = []
        for number in range(40):
            message = bytes([number]) + bytes(number * 7 % 251 for _ in range(200_000))
            send = asyncio.create_task(client.send(message))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    await send
                sent.append(message)
        end = asyncio.create_task(client.send("end"))
        received = []
        while (content := (await server.receive()).content) != "end":
            received.append(content)
        await end
        assert [message for message in received if message in sent] == sent
        assert all(len(message) == 200_001 for message in received)


async def test_a_paused_reader_pushes_back() -> None:
    async with pair() as (client, server):
        count = 0
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(0.3):
                    await client.send(bytes(10_000))
                count += 1
                assert count < 10_000
        flow: Any = server._flow
        assert flow.layer.inbox.size < 1_000_000
        for _ in range(count):
            assert len((await server.receive()).content) == 10_000


async def test_compressed_messages_push_back_as_well() -> None:
    async with pair(compression=Deflate()) as (client, server):
        for _ in range(20):
            await client.send(bytes(2**20))
        flow: Any = server._flow
        for _ in range(20):
            assert len((await server.receive()).content) == 2**20
            assert flow.layer.inbox.size <= 3 * 2**20


# Ends


async def test_close() -> None:
    async with pair() as (client, server):
        closing = asyncio.create_task(client.close(1000, "done"))
        with pytest.raises(EndOfStreamError):
            await server.receive()
        await closing
        for side in (client, server):
            session = side.metadata(WebSocket)
            assert (session.close_code, session.close_reason) == (1000, "done")
        await client.close()  # again: nothing
        await server.close()
        with pytest.raises(ChannelClosedError, match=r"after close\(\)"):
            await client.send("more")
        with pytest.raises(ConnectionAbortedByPeerError, match="1000"):
            await server.send("more")
        with pytest.raises(EndOfStreamError):
            await client.receive()
        assert [message async for message in client.messages] == []


async def test_messages_before_the_close_come() -> None:
    async with pair() as (client, server):
        await server.send("before")
        await server.send("and this")
        closing = asyncio.create_task(server.close(CloseCode.GOING_AWAY))
        assert [content async for content, _ in client] == ["before", "and this"]
        await closing
        assert client.metadata(WebSocket).close_code == 1001


@pytest.mark.parametrize("code", [1002, 1008, 1011, 3000, 4999])
async def test_a_close_that_is_no_end_raises(code: int) -> None:
    async with pair() as (client, server):
        await server.send("before")
        closing = asyncio.create_task(server.close(code, "why"))
        assert (await client.receive()).content == "before"
        for _ in range(2):
            with pytest.raises(ConnectionAbortedByPeerError, match=f"{code}.*why") as caught:
                await client.receive()
            assert (caught.value.code, caught.value.reason) == (code, "why")
        await closing
        assert client.state is State.FAILED
        assert client.metadata(WebSocket).close_code == code


async def test_a_close_that_was_cancelled_before_it_left_is_none() -> None:
    limits = {"receive_limit": 1000, "send_limit": 1000}
    async with pair(parameters=limits) as (client, server):
        large = bytes(15_000_000)
        sending = asyncio.gather(*(client.send(large) for _ in range(4)))  # more than any kernel holds: nobody reads yet
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.close(4000, "not said")
        received = [len((await server.receive()).content) for _ in range(4)]
        await sending
        assert received == [len(large)] * 4
        await client.close(4001, "said")
        with pytest.raises(ConnectionAbortedByPeerError, match="4001") as caught:
            await server.receive()
        assert caught.value.reason == "said"


async def test_a_part_that_failed_does_not_end_the_message() -> None:
    async with pair() as (client, server):
        async with client.sending_message() as part:
            with pytest.raises(EncodingError):
                await part.send("\udc80", is_complete=True)
            await part.send("good", is_complete=True)
        async with client.sending_message() as part:
            await part.send("begun, ")
            with pytest.raises(EncodingError):
                await part.send("\udc80", is_complete=True)
            await part.send("ended")
        assert [(await server.receive()).content for _ in range(2)] == ["good", "begun, ended"]


async def test_leaving_the_block_closes_with_1000() -> None:
    async with pair() as (client, server):
        receive = asyncio.create_task(server.receive())
        await client.aclose()
        with pytest.raises(EndOfStreamError):
            await receive
        assert server.metadata(WebSocket).close_code == 1000


async def test_an_abort_is_1006() -> None:
    async with pair() as (client, server):
        receive = asyncio.create_task(server.receive())
        await asyncio.sleep(0)
        client.abort()
        with pytest.raises(NetworkError):
            await receive


async def test_a_peer_that_does_not_answer_the_close() -> None:
    async with pair(parameters={"close_timeout": 0.2}) as (client, server):
        flow: Any = server._flow
        flow.socket.pause()
        with pytest.raises(CloseTimeoutError, match="does not answer our close frame"):
            await client.close()
        assert not flow.closed


async def test_bad_closes() -> None:
    async with pair() as (client, _):
        for code, reason in ((1005, ""), (999, ""), (1016, ""), (5000, ""), (1000, "x" * 124), (None, "x")):
            with pytest.raises(ValueError, match=r"code|reason"):
                await client.close(code, reason)
        with pytest.raises(TypeError):
            await client.close("1000")  # type: ignore[arg-type]


# Pings


async def test_pings() -> None:
    async with pair() as (client, server):
        first, second = await client.ping(b"1"), await client.ping(b"2")
        assert 0 <= await second < 5
        assert 0 <= await first < 5
        assert await first == await first
        await client.pong(b"nobody asked")
        with pytest.raises(MessageTooLargeError, match="125"):
            await client.ping(bytes(126))
        with pytest.raises(TypeError, match="encode it"):
            await client.ping("text")  # type: ignore[arg-type]
        unanswered = await client.ping()
        flow: Any = server._flow
        flow.fail(NetworkError("broken"))
        with pytest.raises(NetworkError):
            await unanswered


async def test_pings_that_the_program_answers() -> None:
    async with pair(server=WebSocket(TCP(), auto_reply_ping=False)) as (client, server):
        trip = await client.ping(b"7")
        content, metadata = await server.receive()
        assert (content, metadata.opcode) == (b"7", Opcode.PING)
        await server.pong(content)
        assert 0 <= await trip < 5


async def test_a_ping_that_is_not_answered_before_the_close_raises() -> None:
    async with pair(server=WebSocket(TCP(), auto_reply_ping=False)) as (client, _):
        waiting = asyncio.ensure_future(await client.ping())
        await asyncio.sleep(0)
        client.abort()
        with pytest.raises(ChannelClosedError):
            await waiting


async def test_a_dead_peer_is_found() -> None:
    client = WebSocket(TCP(), keepalive=0.05, keepalive_timeout=0.05)
    async with pair(client=client) as (one, two):
        await asyncio.sleep(0.3)  # it answers
        assert one.state is State.READY
        flow: Any = two._flow
        flow.socket.pause()
        with pytest.raises(IdleTimeoutError, match=r"keepalive_timeout=0\.05 s"):
            await one.receive()
        assert one.state is State.FAILED


# Broadcast


async def test_broadcast() -> None:
    async with contextlib.AsyncExitStack() as stack:
        pairs = [await stack.enter_async_context(pair()) for _ in range(5)]
        servers = [ends.server for ends in pairs]
        assert broadcast(servers, "to all") == []
        assert broadcast(servers, b"\x00") == []
        for client, _ in pairs:
            assert (await client.receive()).content == "to all"
            assert (await client.receive()).content == b"\x00"
        assert broadcast([pairs[0].client], "masked") == []
        assert (await pairs[0].server.receive()).content == "masked"
        await pairs[1].client.aclose()
        assert broadcast(servers[2:], "x") == []
        with pytest.raises(ValueError, match="slow"):
            broadcast(servers, "x", slow="wait")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="broadcast"):
            broadcast([NetworkConnection("localhost:1", TCP())], "x")  # type: ignore[list-item]


@pytest.mark.parametrize("slow", ["skip", "close"])
async def test_broadcast_does_not_wait_for_the_slow(slow: Any) -> None:
    async with pair() as (client, server), pair() as (quick, other):
        flow: Any = client._flow
        flow.socket.pause()
        missed = 0
        for number in range(400):
            lost = broadcast([server, other], bytes(50_000), slow=slow)
            assert (await quick.receive()).content == bytes(50_000)
            missed += len(lost)
            if lost and slow == "close":
                assert number > 0 and lost == [server]
                break
        assert 0 < missed < 400
        assert server.state is (State.FAILED if slow == "close" else State.READY)
        assert flow.layer.inbox.size < 1_000_000


# Foreign


async def test_a_server_answers_web_clients(caplog: pytest.LogCaptureFixture) -> None:
    def respond(request: Any) -> HTTPResponse | None:
        return HTTPResponse(200, [("Content-Type", "text/html")], "<p>page" * 100_000) if request.path == "/" else None

    caplog.set_level(logging.INFO, "tieline")
    async with NetworkListener(WebSocket(respond=respond), on="127.0.0.1:0").serving(echo) as listener:
        for line, status, size in ((b"GET / ", b"200", 700_000), (b"GET /x ", b"426", 10), (b"nonsense ", b"400", 10)):
            with await Peer.connect(HostPort("127.0.0.1", listener.port)) as peer:
                await peer.send(line + b"HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = b""
                while piece := await peer.receive():
                    answer += piece
                assert answer.startswith(b"HTTP/1.1 " + status) and len(answer) > size
    assert not caplog.records


async def test_refusals_reach_the_client() -> None:
    server = WebSocket(origins=["https://good.example"])
    async with NetworkListener(server, on="127.0.0.1:0").serving(echo) as listener:
        url = f"ws://127.0.0.1:{listener.port}/"
        connection = NetworkConnection(url, WebSocket(additional_headers=[("Origin", "https://bad.example")]))
        with pytest.raises(ConnectError, match=r"HTTP 403.*may not connect"):
            await connection.ready()
        connection.abort()
        good = WebSocket(additional_headers=[("Origin", "https://good.example")])
        async with NetworkConnection(url, good) as connection:
            await connection.send("in")
            assert (await connection.receive()).content == "in"


async def test_headers_of_both_sides() -> None:
    server = WebSocket(TCP(), subprotocols=["a", "b"], additional_headers=[("X-Served-By", "one")])
    client = WebSocket(TCP(), subprotocols=["c", "b"], additional_headers=[("X-Forwarded-For", "192.0.2.1"), ("Cookie", "k=v")])
    async with pair(server, client) as (one, two):
        seen = two.metadata(WebSocket)
        assert (seen.path, seen.subprotocol) == ("/chat?room=1", "b")
        assert ("X-Forwarded-For", "192.0.2.1") in seen.request_headers and ("Cookie", "k=v") in seen.request_headers
        assert ("X-Served-By", "one") in one.metadata(WebSocket).response_headers


# Misuse


async def test_what_cannot_be_sent() -> None:
    async with pair() as (client, server):
        for wrong in (7, None, 1.5, ["text"]):
            with pytest.raises(TypeError, match=r"sending_message\(\)"):
                await client.send(wrong)  # type: ignore[arg-type]
        with pytest.raises(EncodingError, match="UTF-8"):
            await client.send("\udc80")
        with pytest.raises(EncodingError, match="UTF-8"):
            broadcast([client], "\udc80")
        with pytest.raises(TypeError, match="texts"):
            async with client.sending_message() as part:
                await part.send(b"bytes")  # type: ignore[arg-type]
        await client.send("fine")
        assert (await server.receive()).content == "fine"


async def test_calls_that_others_have_not() -> None:
    connection: Any = NetworkConnection("localhost:1", TCP())
    for call in ("ping", "pong", "close"):
        with pytest.raises(TypeError, match=rf"no {call}\(\)"):
            await getattr(connection, call)()
    with pytest.raises(TypeError, match=r"no sending_message\(\)"):
        connection.sending_message()
    websocket: Any = NetworkConnection("localhost:1", WebSocket())
    for call in ("receive_into", "send_file", "send_many"):
        with pytest.raises(TypeError, match=r"Its calls: send\(text or bytes\)"):
            getattr(websocket, call)(bytearray(1))


def test_what_it_cannot_stand_on() -> None:
    below: NetworkProtocol
    for below in (QUIC(alpn=["x"]),):
        with pytest.raises(TypeError, match="WebSocket stands on"):
            WebSocket(below)  # type: ignore[arg-type]
