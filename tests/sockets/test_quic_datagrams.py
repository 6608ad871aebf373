"""Datagrams of QUIC connections on real sockets (RFC 9221)."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from tieline import ChannelClosedError, EndOfStreamError, MessageTooLargeError, QUICDatagram, State

from ..peers import until
from ..quic import client_of, connected, server_of

DATAGRAMS = {"max_datagram_frame_size": 65535}


async def channels(client: Any, server: Any) -> tuple[Any, Any]:
    return await client.datagrams(), await server.datagrams()


async def test_round_trips() -> None:
    async with connected(**DATAGRAMS) as (client, server, _):
        ours, theirs = await channels(client, server)
        for number in range(100):
            await ours.send(b"%d" % number)
            await theirs.send((await theirs.receive()).content[::-1])
            assert (await ours.receive()).content == (b"%d" % number)[::-1]
        assert (ours.state, ours.error, ours.parent) == (State.READY, None, client)
        assert ours is await client.datagrams() and "QUICDatagramChannel" in repr(ours)
        assert len({ours.id, theirs.id, client.id}) == 3


async def test_several_at_once() -> None:
    async with connected(**DATAGRAMS) as (client, server, _):
        ours, theirs = await channels(client, server)
        sent = [b"%d" % number * 100 for number in range(200)]
        await ours.send_many(sent)
        received: list[bytes] = []
        while len(received) < 200:
            messages = await theirs.receive_many(at_most=50)
            assert 1 <= len(messages) <= 50
            received += [message.content for message in messages]
        assert received == sent  # nothing is lost or reordered on this way


async def test_an_empty_datagram_and_buffers() -> None:
    async with connected(**DATAGRAMS) as (client, server, _):
        ours, theirs = await channels(client, server)
        for content in (b"", bytearray(b"one"), memoryview(b"two")):
            await ours.send(content)
            assert (await theirs.receive()).content == content


async def test_sizes() -> None:
    async with connected(**DATAGRAMS) as (client, server, _):
        ours, theirs = await channels(client, server)
        size = ours.maximum_datagram_size
        assert size == client.usable_datagram_frame_size and 1100 < size < 1472
        await ours.send(bytes(size))
        assert len((await theirs.receive()).content) == size
        limit = ours.maximum_datagram_size  # larger as soon as the path is known to carry more
        with pytest.raises(MessageTooLargeError, match=f"too large.*at most {limit} bytes.*got {limit + 1}") as raised:
            await ours.send(bytes(limit + 1))
        assert (raised.value.limit, raised.value.size) == (limit, limit + 1)
        with pytest.raises(MessageTooLargeError):
            await ours.send_many([b"small", bytes(65_536), b"small"])
        await ours.send(b"next")
        assert (await theirs.receive()).content == b"next"  # of the three, none was sent


async def test_the_peers_limit_counts() -> None:
    async with connected({"max_datagram_frame_size": 100}, DATAGRAMS) as (client, server, _):
        ours, theirs = await channels(client, server)
        assert 90 <= ours.maximum_datagram_size <= 100 and theirs.maximum_datagram_size > 1000
        await ours.send(bytes(ours.maximum_datagram_size))
        assert len((await theirs.receive()).content) == ours.maximum_datagram_size
        with pytest.raises(MessageTooLargeError):
            await ours.send(bytes(101))


async def test_a_full_queue_drops_the_newest_and_counts() -> None:
    async with connected(**DATAGRAMS, parameters={"receive_limit": 10_000}) as (client, server, _):
        ours, theirs = await channels(client, server)
        await ours.send_many([bytes([number]) * 1000 for number in range(50)])
        await until(lambda: server._flow.session.connection.statistics().datagrams_received == 50)
        await until(lambda: theirs.metadata(QUICDatagram).dropped_datagram_count > 0)
        await asyncio.sleep(0.02)
        dropped = theirs.metadata(QUICDatagram).dropped_datagram_count
        kept = await theirs.receive_many(at_most=100)
        assert len(kept) + dropped == 50 and 8 <= len(kept) <= 10
        assert [message.content[0] for message in kept] == list(range(len(kept)))
        await ours.send(b"again")
        assert (await theirs.receive()).content == b"again"


async def test_before_anybody_asks_for_them_the_oldest_give_way() -> None:
    async with connected(**DATAGRAMS) as (client, server, _):
        ours = await client.datagrams()
        await ours.send_many([b"%d" % number for number in range(10)])
        await until(lambda: server._flow.session.connection.statistics().datagrams_received == 10)
        theirs = await server.datagrams()
        assert [message.content for message in await theirs.receive_many()] == [b"%d" % number for number in range(10)]


async def test_a_sender_that_is_faster_than_the_path_waits() -> None:
    async with connected(**DATAGRAMS) as (client, server, _):
        ours, theirs = await channels(client, server)
        received = 0

        async def receive() -> None:
            nonlocal received
            async for content, _ in theirs:
                received += len(content)

        receiving = asyncio.create_task(receive())
        await ours.send_many([bytes(1000)] * 5000)
        counted = client._flow.session.connection.statistics()
        assert counted.datagrams_sent >= 4500 and counted.datagrams_unsendable == 0  # the queue has 256 KiB
        await until(lambda: received + 1000 * theirs.metadata(QUICDatagram).dropped_datagram_count >= 4_500_000)
        receiving.cancel()
        await asyncio.wait((receiving,))


async def test_a_side_that_accepts_none() -> None:
    async with connected({}, DATAGRAMS) as (client, server, _):
        with pytest.raises(RuntimeError, match=r"the peer accepts no datagrams.*max_datagram_frame_size"):
            await client.datagrams()
        with pytest.raises(RuntimeError, match=r"this side accepts no datagrams.*max_datagram_frame_size"):
            await server.datagrams()
        assert client.usable_datagram_frame_size == server.usable_datagram_frame_size == 0


async def test_the_end() -> None:
    for who in ("peer", "self"):
        async with connected(**DATAGRAMS) as (client, server, _):
            ours, theirs = await channels(client, server)
            await theirs.send(b"last")
            await until(lambda ours=ours: ours._flow.activity == 1)  # type: ignore[misc]
            iterating = asyncio.create_task(contents(ours))
            if who == "peer":
                await server.aclose()
                assert await iterating == [b"last"] and ours.state is State.CANCELLED
                with pytest.raises(EndOfStreamError):
                    await ours.receive()
            else:
                await asyncio.sleep(0)
                await client.aclose()
                with pytest.raises(ChannelClosedError):
                    await iterating
                with pytest.raises(ChannelClosedError):
                    await ours.send(b"x")
                assert await client.datagrams() is ours
                assert ours.state is State.CANCELLED
            assert ours.maximum_datagram_size == 0


async def contents(channel: Any) -> list[bytes]:
    return [content async for content, _ in channel.messages]


async def test_what_had_come_can_be_received_after_the_end() -> None:
    async with connected(**DATAGRAMS) as (client, server, _):
        ours, theirs = await channels(client, server)
        await theirs.send_many([b"1", b"2", b"3"])
        await until(lambda: ours._flow.activity == 3)
        await server.aclose()
        await until(lambda: client.state is State.CANCELLED)
        assert await contents(ours) == [b"1", b"2", b"3"]


async def test_calls_that_a_datagram_channel_does_not_have() -> None:
    async with connected(**DATAGRAMS) as (client, _, _):
        channel = await client.datagrams()
        with pytest.raises(TypeError, match="QUIC datagrams: "):
            await channel.receive(exactly=3)
        with pytest.raises(TypeError, match="QUIC datagrams: it has no receive_into"):
            await channel.receive_into(bytearray(1))
        with pytest.raises(TypeError, match="a buffer"):
            await channel.send("text")


async def test_dropping_the_channel_does_nothing() -> None:
    async with connected(**DATAGRAMS) as (client, server, _):
        ours, theirs = await channels(client, server)
        await ours.send(b"x")
        del ours, theirs
        gc.collect()
        assert (await (await server.datagrams()).receive()).content == b"x"


def test_the_size_is_checked() -> None:
    for wrong in (-1, 65_536):
        with pytest.raises(ValueError, match="max_datagram_frame_size"):
            client_of(max_datagram_frame_size=wrong)
    server_of(max_datagram_frame_size=65_535)
