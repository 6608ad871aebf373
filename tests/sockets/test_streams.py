"""Bytes over TCP, TLS and Unix sockets: everything that can be asked of a stream, and in which order it is answered."""

from __future__ import annotations

import array
import asyncio
import io
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieline import (
    TCP,
    ChannelClosedError,
    IncompleteReceiveError,
    Int16,
    MessageTooLargeError,
    NetworkConnection,
    Parameters,
    UInt8,
    UInt32,
    UInt64,
)
from tieline.drivers.asyncio import AsyncioDriver
from tieline.flows.stream import StreamFlow

MEGABYTE = 1 << 20
PATTERN = bytes(range(251)) * (8 * MEGABYTE // 251)  # a period that divides no buffer, so that a shift shows


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def stalled(task: asyncio.Task[Any], progress: Any) -> None:
    """Wait until a task that sends has come to a halt: what it did does not change any more."""
    before = None
    while not task.done():
        now = progress()
        if now == before:
            return
        before = now
        await asyncio.sleep(0.1)


# Receiving


async def test_exactly_across_many_pieces(pair: Any) -> None:
    async with pair() as (client, server):
        for piece in (b"a", b"bc", b"def"):
            await client.send(piece)
        assert (await server.receive(exactly=4)).content == b"abcd"
        assert (await server.receive(exactly=0)).content == b""
        content, metadata = await server.receive(exactly=2)
        assert content == b"ef" and metadata.end_of_stream is False


async def test_at_least_and_at_most(pair: Any) -> None:
    async with pair() as (client, server):
        await client.send(b"0123456789")
        await server.receive(exactly=1)
        assert (await server.receive(at_most=3)).content == b"123"
        assert (await server.receive(at_least=2, at_most=2)).content == b"45"
        waiting = asyncio.create_task(server.receive(at_least=6))
        await turns()
        assert not waiting.done()
        await client.send(b"ab")
        assert (await waiting).content == b"6789ab"


@pytest.mark.parametrize("options", [{"at_least": 0}, {"at_least": 5, "at_most": 4}, {"at_most": 0}, {"exactly": -1}])
async def test_impossible_bounds(pair_over: Any, options: Any) -> None:
    async with pair_over("tcp") as (client, _):
        with pytest.raises(ValueError, match=str(next(iter(options.values())))):
            await client.receive(**options)


async def test_integers_are_big_endian_both_ways(pair: Any) -> None:
    async with pair() as (client, server):
        for value in (UInt8(7), UInt32(0x01020304), UInt64(2**64 - 1), Int16(-2)):
            await client.send(value)
        assert (await server.receive(as_=UInt8)).content == 7
        assert (await server.receive(exactly=4)).content == b"\1\2\3\4"
        assert (await server.receive(as_=UInt64)).content == 2**64 - 1
        assert (await server.receive(as_=Int16)).content == -2


async def test_until_gives_the_separator_with_it(pair: Any) -> None:
    async with pair() as (client, server):
        await client.send(b"one\r\ntwo\r")
        assert (await server.receive(until=b"\r\n")).content == b"one\r\n"
        waiting = asyncio.create_task(server.receive(until=b"\r\n"))
        await turns()
        await client.send(b"\nthree")
        assert (await waiting).content == b"two\r\n"
        assert (await server.receive()).content == b"three"


async def test_until_without_the_separator_consumes_nothing(pair: Any) -> None:
    async with pair() as (client, server):
        await client.send(b"abcdefgh;")
        with pytest.raises(MessageTooLargeError, match="within 4 bytes") as caught:
            await server.receive(until=b";", at_most=4)
        assert caught.value.limit == 4
        assert (await server.receive(until=b";", at_most=9)).content == b"abcdefgh;"  # the bound includes the separator
        await client.send(b"xy;")
        with pytest.raises(MessageTooLargeError):
            await server.receive(until=b";", at_most=2)
        assert (await server.receive(until=b";")).content == b"xy;"


async def test_until_wants_a_separator_that_fits(pair_over: Any) -> None:
    async with pair_over("tcp") as (client, _):
        with pytest.raises(ValueError, match="empty separator"):
            await client.receive(until=b"")
        with pytest.raises(ValueError, match="at_most=1"):
            await client.receive(until=b"\r\n", at_most=1)


async def test_receive_into(pair: Any) -> None:
    async with pair() as (client, server):
        await client.send(b"0123456789")
        buffer = bytearray(4)
        assert await server.receive_into(buffer, exactly=True) == 4 and buffer == b"0123"
        view = memoryview(bytearray(8))
        assert await server.receive_into(view[2:4]) == 2 and bytes(view) == b"\0\x0045\0\0\0\0"
        numbers = array.array("H", [0, 0])
        assert await server.receive_into(memoryview(numbers)) == 4 and numbers.tobytes() == b"6789"
        await client.send(b"x", end_of_stream=True)
        with pytest.raises(IncompleteReceiveError) as caught:
            await server.receive_into(buffer, exactly=True)
        assert caught.value.partial == b"x" and caught.value.expected == 4
        assert await server.receive_into(buffer) == 0
        with pytest.raises(TypeError, match="writable"):
            await server.receive_into(b"1234")
        with pytest.raises(ValueError, match="at least one byte"):
            await server.receive_into(bytearray())


async def test_iteration_gives_pieces_and_ends(pair: Any) -> None:
    async with pair() as (client, server):
        sending = asyncio.create_task(client.send(PATTERN, end_of_stream=True))
        pieces = [content async for content, _ in server]
        await sending
        assert all(pieces) and b"".join(pieces) == PATTERN
        assert [piece async for piece in server] == []


async def test_the_end_comes_every_time(pair: Any) -> None:
    async with pair() as (client, server):
        await client.send(b"last", end_of_stream=True)
        content, metadata = await server.receive(at_least=10)
        assert content == b"last" and metadata.end_of_stream
        for _ in range(3):
            content, metadata = await server.receive()
            assert content == b"" and metadata.end_of_stream


async def test_an_early_end_tells_what_had_come(pair: Any) -> None:
    async with pair() as (client, server):
        await client.send(b"abc", end_of_stream=True)
        with pytest.raises(IncompleteReceiveError) as caught:
            await server.receive(exactly=5)
        assert isinstance(caught.value, EOFError)
        assert caught.value.partial == b"abc" and caught.value.expected == 5
        with pytest.raises(IncompleteReceiveError) as caught:
            await server.receive(until=b"\n")
        assert caught.value.partial == b"" and caught.value.expected is None
        with pytest.raises(IncompleteReceiveError):
            await server.receive(as_=UInt32)


async def test_more_than_the_receive_limit(pair: Any) -> None:
    async with pair(server={"receive_limit": 1000}) as (client, server):
        sending = asyncio.create_task(client.send(PATTERN))
        assert (await server.receive(exactly=3 * MEGABYTE)).content == PATTERN[: 3 * MEGABYTE]
        rest = len(PATTERN) - 3 * MEGABYTE
        content = (await server.receive(at_least=rest, at_most=rest)).content
        assert content == PATTERN[3 * MEGABYTE :]
        await sending
        sending = asyncio.create_task(client.send(b"x" * MEGABYTE + b"\n"))
        assert len((await server.receive(until=b"\n", at_most=2 * MEGABYTE)).content) == MEGABYTE + 1
        await sending


class Below:
    """A socket that takes everything and reads nothing, and the connection above it."""

    early = 0
    handler: Any

    def __init__(self) -> None:
        self.driver = AsyncioDriver.current()

    def needed(self) -> None: ...
    def resume(self) -> None: ...
    def pause(self) -> None: ...


@given(
    st.lists(st.text("ab;", min_size=1, max_size=5), min_size=1, max_size=8),
    st.sampled_from([b";", b"b;", b";;", b"aa"]),
    st.integers(2, 12),
    st.booleans(),
)
def test_until_across_any_split(parts: list[str], separator: bytes, at_most: int, wait: bool) -> None:
    """The same answer, whichever pieces it comes in, and whether the call or the bytes were first."""
    whole = "".join(parts).encode()
    found = whole.find(separator)

    async def receive() -> Any:
        below = Below()
        flow = StreamFlow(below, Parameters(TCP()), None)  # type: ignore[arg-type]
        flow.attach(below, None, b"", b"", 0)  # type: ignore[arg-type]
        call = asyncio.create_task(flow.receiving.receive(until=separator, at_most=at_most))
        if wait:
            await turns(2)
        loop = asyncio.get_running_loop()
        for part in parts:  # as the driver does it, from the loop
            loop.call_soon(flow.received, part.encode())
        loop.call_soon(flow.received_end)
        try:
            answer = (await call).content
        except (IncompleteReceiveError, MessageTooLargeError) as error:
            answer = error
        left = (await flow.receiving.receive()).content
        return answer, left

    answer, left = asyncio.run(receive())
    if 0 <= found <= at_most - len(separator):
        assert (answer, left) == (whole[: found + len(separator)], whole[found + len(separator) :])
    elif found < 0 and len(whole) < at_most:
        assert isinstance(answer, IncompleteReceiveError) and answer.partial == whole and not left
    else:
        assert isinstance(answer, MessageTooLargeError) and left == whole


# Order and cancellation


async def test_receives_are_answered_in_their_order(pair: Any) -> None:
    async with pair() as (client, server):
        calls = [
            asyncio.create_task(server.receive(exactly=2)),
            asyncio.create_task(server.receive(until=b";")),
            asyncio.create_task(server.receive(as_=UInt8)),
            asyncio.create_task(server.receive(exactly=3)),
            asyncio.create_task(server.receive(at_least=2)),
        ]
        await turns()
        calls[1].cancel()
        calls[3].cancel()
        await turns()
        await client.send(b"ab\x01;rest")
        assert (await calls[0]).content == b"ab"
        assert (await calls[2]).content == 1
        assert (await calls[4]).content == b";rest"


async def test_a_receive_cancelled_in_the_turn_it_was_woken_loses_nothing(pair: Any) -> None:
    async with pair() as (client, server):
        first = asyncio.create_task(server.receive(exactly=3))
        second = asyncio.create_task(server.receive(exactly=3))
        third = asyncio.create_task(server.receive(exactly=3))
        await turns()
        first.add_done_callback(lambda _: second.cancel())  # the second has been woken by then and has not run
        await client.send(b"abcdefghi")
        assert (await first).content == b"abc"
        answers = await asyncio.gather(second, third, return_exceptions=True)
        rest = b"".join(one.content for one in answers if not isinstance(one, BaseException))
        if len(rest) < 6:
            rest += (await server.receive(exactly=6 - len(rest))).content
        assert rest == b"defghi"


async def test_a_call_behind_a_cancelled_one_is_not_stuck_behind_the_limit(pair: Any) -> None:
    """The one in front held reading back, because enough was there for it."""
    async with pair(server={"receive_limit": 10}) as (client, server):
        await client.send(b"x" * 100_000)
        patient = asyncio.create_task(server.receive(exactly=50_000))
        behind = asyncio.create_task(server.receive(exactly=50_000))
        await turns()
        patient.cancel()
        assert (await behind).content == b"x" * 50_000


async def test_concurrent_sends_keep_their_order(pair: Any) -> None:
    async with pair() as (client, server):
        blocks = [bytes([number]) * 700_001 for number in range(12)]
        sends = [asyncio.create_task(client.send(block)) for block in blocks]
        await turns()
        for block in blocks:
            assert (await server.receive(exactly=len(block))).content == block
        await asyncio.gather(*sends)


async def test_a_send_cancelled_in_the_middle_lets_the_next_go_on(pair: Any) -> None:
    async with pair() as (client, server):
        first = asyncio.create_task(client.send(b"a" * 20 * MEGABYTE))
        second = asyncio.create_task(client.send(b"b" * 5))
        await stalled(first, lambda: client._flow.sending.count)
        first.cancel()
        content = b""
        while not content.endswith(b"bbbbb"):
            content = content[-4:] + (await server.receive()).content
        await second
        client.abort()


# Flow control


async def test_a_stalled_reader_stops_the_writer(pair: Any) -> None:
    async with pair(send_limit=50_000, server={"receive_limit": 50_000}) as (client, server):
        sent = 0

        async def write() -> None:
            nonlocal sent
            while sent < 64 * MEGABYTE:
                await client.send(bytes(10_000))
                sent += 10_000

        writer = asyncio.create_task(write())
        await stalled(writer, lambda: sent)
        assert not writer.done()
        assert server._flow.receiving.inbox.size <= 2 * 50_000 + 16 * 1024
        assert client._flow.sending.remaining <= 50_000 + 5_000  # what TLS adds
        kernel = sent - server._flow.receiving.inbox.size - client._flow.sending.remaining
        assert kernel < 20 * MEGABYTE
        received = 0
        while received < 64 * MEGABYTE:
            received += len((await server.receive(at_most=MEGABYTE)).content)
        await writer
        assert received == sent or (await server.receive(exactly=sent - received)).content.count(0) == sent - received


@pytest.mark.parametrize("limit", [1, 100, 20_000])
async def test_a_small_send_limit(pair: Any, limit: int) -> None:
    async with pair(send_limit=limit) as (client, server):
        data = PATTERN[: limit * 300]
        largest = 0
        sending = asyncio.create_task(client.send(data * 3))
        received = bytearray()
        while len(received) < 3 * len(data):
            largest = max(largest, client._flow.sending.remaining)
            received += (await server.receive(at_most=50_000)).content
        await sending
        assert received == data * 3
        assert largest <= limit + 16_000


async def test_a_buffer_may_be_reused_after_send(pair: Any) -> None:
    async with pair() as (client, server):
        buffer = bytearray(100_000)

        async def write() -> None:
            for number in range(100):
                buffer[:] = bytes([number]) * len(buffer)
                await client.send(buffer)
            buffer[:] = b"\xff" * len(buffer)

        writer = asyncio.create_task(write())
        await stalled(writer, lambda: client._flow.sending.count)
        for number in range(100):
            assert (await server.receive(exactly=len(buffer))).content == bytes([number]) * len(buffer)
        await writer
        buffer.clear()  # nobody holds on to it


async def test_everything_with_the_buffer_protocol_can_be_sent(pair: Any) -> None:
    async with pair() as (client, server):
        await client.send(bytearray(b"a"))
        await client.send(memoryview(b"xbcx")[1:3])
        await client.send(array.array("H", [0x6464]))
        await client.send(b"")
        assert (await server.receive(exactly=5)).content == b"abcdd"
        with pytest.raises(TypeError, match="contiguous"):
            await client.send(memoryview(b"abcdef")[::2])


# Both directions and their ends


async def test_half_close_leaves_the_other_direction_open(pair: Any) -> None:
    async with pair() as (client, server):
        await client.send(b"question", end_of_stream=True)
        assert [content async for content, _ in server] == [b"question"]
        with pytest.raises(ChannelClosedError):
            await client.send(b"more")
        answer = asyncio.create_task(server.send(PATTERN[:MEGABYTE], end_of_stream=True))
        assert (await client.receive(exactly=MEGABYTE)).content == PATTERN[:MEGABYTE]
        await answer
        assert (await client.receive()).metadata.end_of_stream
        assert client.state.value == server.state.value == "ready"


async def test_both_directions_at_once(pair: Any) -> None:
    async with pair() as (client, server):

        async def echo() -> None:
            async for content, _ in server:
                await server.send(content)
            await server.send(b"", end_of_stream=True)

        echoing = asyncio.create_task(echo())
        sending = asyncio.create_task(client.send(PATTERN, end_of_stream=True))
        assert b"".join([content async for content, _ in client]) == PATTERN
        await asyncio.gather(echoing, sending)


# Misuse


async def test_a_wrong_call_names_the_protocol_and_its_calls(pair_over: Any) -> None:
    async with pair_over("tcp") as (tcp, _), pair_over("udp") as (udp, _):
        for call in (
            lambda: tcp.send("text"),
            lambda: tcp.send(7),
            lambda: tcp.send(b"x", type=7),
            lambda: tcp.receive_many(),
            lambda: tcp.send_many([b"x"]),
            lambda: tcp.receive(until=b"x", exactly=1),
            lambda: tcp.receive(exactly=3, at_most=2),
        ):
            with pytest.raises(TypeError, match=r"^TCP: .*receive\(exactly="):
                await call()
        for call in (
            lambda: udp.receive(exactly=1),
            lambda: udp.send("text"),
            lambda: udp.send(b"x", end_of_stream=True),
            lambda: udp.send_file(io.BytesIO()),
            lambda: udp.receive_into(bytearray(1)),
            lambda: udp.send_idempotent(b"x"),
        ):
            with pytest.raises(TypeError, match=r"^UDP: .*send_many\(list\)"):
                await call()
        with pytest.raises(TypeError, match="encode it first"):
            await tcp.send("text")
        with pytest.raises(TypeError, match="iterate the connection itself"):
            tcp.messages  # noqa: B018


async def test_sending_without_end_lets_others_run() -> None:
    """A reader that is fast enough never fills the kernel, so no send ever has to wait."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drain() -> None:
            with listening.accept()[0] as reader:
                while reader.recv(1 << 20):
                    continue

        reading = asyncio.get_running_loop().run_in_executor(None, drain)
        async with NetworkConnection(listening.getsockname(), TCP()) as client:
            with pytest.raises(TimeoutError):  # noqa: PT012
                async with asyncio.timeout(0.1):
                    while True:
                        await client.send(b"x")
        await reading
        await asyncio.get_running_loop().shutdown_default_executor()
