"""Records of type, length and value: over every byte stream, and in memory where only the bytes matter."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieline import (
    QUIC,
    TCP,
    TLS,
    TLV,
    Coder,
    DecodingError,
    EncodingError,
    EndOfStreamError,
    IncompleteReceiveError,
    Int16,
    MessageTooLargeError,
    NetworkConnection,
    NetworkListener,
    Parameters,
    ProtocolViolationError,
    QUICStream,
    UInt8,
    UInt16,
    UInt64,
)
from tieline._engine.stream import ByteInbox
from tieline.engines.tlv import TLVCodec
from tieline.testing import memory_pair

from ..authority import LOCALHOST, TRUST
from .test_coder import bytes_pair


async def mirrored(channel: Any) -> None:
    async for content, metadata in channel.messages:
        await channel.send(content[::-1], type=metadata.type + 1)


RECORDS = [(b"wizard", 0), (b"", 1), (b"x" * 300_000, 2**32 - 2), (b"\0" * 8, 8)]


async def check_mirror(channel: Any) -> None:
    for content, kind in RECORDS:
        await channel.send(content, type=kind)
        message = await channel.receive()
        assert message.content == content[::-1]
        assert (message.metadata.type, message.metadata.length, message.metadata.is_complete) == (kind + 1, len(content), True)


@pytest.mark.parametrize("kind", ["TCP", "TLS", "Unix"])
async def test_there_and_back(tmp_path: Path, kind: str) -> None:
    where = f"unix:{tmp_path / 'socket'}" if kind == "Unix" else "127.0.0.1:0"
    server = TLV(TLS(identity=LOCALHOST) if kind == "TLS" else TCP())
    client = TLV(TLS(trust=TRUST, server_name="localhost") if kind == "TLS" else TCP())
    async with (
        NetworkListener(server, on=where).serving(mirrored) as listener,
        NetworkConnection(listener.endpoint, client) as connection,
    ):
        await check_mirror(connection)


async def test_on_quic_streams() -> None:
    async def serve(connection: NetworkConnection[QUIC]) -> None:
        await connection.inbound_streams(mirrored, using=TLV(QUICStream()))

    async with (
        NetworkListener(QUIC(alpn=["test"], identity=LOCALHOST), on="127.0.0.1:0").serving(serve) as listener,
        NetworkConnection(listener.endpoint, QUIC(alpn=["test"], trust=TRUST, server_name="localhost")) as connection,
        await connection.open_stream(using=TLV(QUICStream())) as stream,
    ):
        await check_mirror(stream)


@pytest.mark.parametrize(
    ("options", "wire"),
    [
        ({}, b"\0\0\0\7\0\0\0\2hi"),
        ({"type_": UInt8, "length": UInt16}, b"\7\0\2hi"),
        ({"type_": UInt16, "length": UInt8, "byte_order": "little"}, b"\7\0\2hi"),
        ({"type_": UInt64, "length": UInt16, "byte_order": "little"}, b"\7\0\0\0\0\0\0\0\2\0hi"),
    ],
)
async def test_bytes_on_the_wire(options: dict[str, Any], wire: bytes) -> None:
    async with bytes_pair(TLV(TCP(), **options)) as (ours, theirs):
        await ours.send(memoryview(bytearray(b"hi")), type=7, last_message=True)
        assert (await theirs.receive(exactly=len(wire))).content == wire
        assert (await theirs.receive()).metadata.end_of_stream
        await theirs.send(wire, end_of_stream=True)
        content, metadata = await ours.receive()
        assert (content, metadata.type, metadata.length) == (b"hi", 7, 2)
        with pytest.raises(EndOfStreamError, match="the peer has sent its last message"):
            await ours.receive()
        assert [message async for message in ours.messages] == []


async def test_what_does_not_fit_is_not_sent() -> None:
    async with bytes_pair(TLV(TCP(), type_=UInt8, length=UInt8, maximum_message_size=1000)) as (ours, theirs):
        with pytest.raises(EncodingError, match=r"the type does not fit its field; expected 0 to 255 \(type_=UInt8\), got 256"):
            await ours.send(b"", type=256)
        with pytest.raises(EncodingError):
            await ours.send(b"", type=-1)
        with pytest.raises(MessageTooLargeError, match="length=UInt8") as caught:
            await ours.send(bytes(256))
        assert (caught.value.limit, caught.value.size) == (255, 256)
        with pytest.raises(TypeError, match="TLV: type must be an int, got 'x'"):
            await ours.send(b"", type="x")
        with pytest.raises(TypeError, match=r"TLV: .*end_of_stream.*Its calls: send\(data, type=, last_message=\)"):
            await ours.send(b"", end_of_stream=True)
        with pytest.raises(TypeError, match="TLV: bytes, a buffer"):
            await ours.send("text")
        await ours.send(b"!", type=255)
        assert (await theirs.receive(exactly=3)).content == b"\xff\1!"


async def test_a_record_that_is_too_long_fails_the_connection() -> None:
    """After those that came before it."""
    async with bytes_pair(TLV(TCP(), maximum_message_size=100)) as (ours, theirs):
        await theirs.send(b"\0\0\0\1\0\0\0\1a" + b"\0\0\0\1\0\0\0\x65")
        assert (await ours.receive()).content == b"a"
        for _ in range(2):
            with pytest.raises(ProtocolViolationError, match="expected at most maximum_message_size=100 bytes, got 101"):
                await ours.receive()


async def test_an_end_within_a_record() -> None:
    async with bytes_pair(TLV(TCP())) as (ours, theirs):
        await theirs.send(b"\0\0\0\1\0\0\0\5abc", end_of_stream=True)
        with pytest.raises(IncompleteReceiveError) as caught:
            await ours.receive()
        assert caught.value.partial == b"\0\0\0\1\0\0\0\5abc"


async def test_a_cancelled_receive_has_consumed_nothing() -> None:
    async with bytes_pair(TLV(TCP())) as (ours, theirs):
        await theirs.send(b"\0\0\0\1\0\0\0\5abc")
        receiving = asyncio.create_task(ours.receive())
        await asyncio.sleep(0.01)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        await theirs.send(b"de")
        assert (await ours.receive()).content == b"abcde"


async def test_a_cancelled_send_is_all_or_nothing() -> None:
    one = Parameters(TLV(TCP()), send_limit=1000)
    ours, theirs = await memory_pair(one, one, capacity=1000)
    async with ours, theirs:
        sends = [asyncio.create_task(ours.send(bytes([number]) * 100_000, type=number)) for number in range(1, 4)]
        await asyncio.sleep(0)
        for send in sends[:2]:  # the first has begun to leave, the second has not
            send.cancel()
        first, last = await theirs.receive(), await theirs.receive()
        assert (first.content, last.content) == (b"\1" * 100_000, b"\3" * 100_000)
        await asyncio.wait(sends)
        assert [send.cancelled() for send in sends] == [True, True, False]


async def test_values_in_records() -> None:
    """A Coder over TLV: one value for each record, without a length of its own."""
    async with bytes_pair(Coder(dict[str, int], TLV(TCP(), type_=UInt8, length=UInt8))) as (ours, theirs):
        await ours.send({"a": 1})
        assert (await theirs.receive(exactly=9)).content == b'\0\7{"a":1}'
        await theirs.send(b"\5\1[" + b'\6\7{"b":2}')
        with pytest.raises(DecodingError, match="It was consumed; the next one can be received"):
            await ours.receive()
        content, metadata = await ours.receive()
        assert (content, metadata.other[0].type, metadata.other[0].length) == ({"b": 2}, 6, 7)
        with pytest.raises(MessageTooLargeError, match="length=UInt8"):
            await ours.send({"x" * 300: 1})


def test_options_check_themselves() -> None:
    for below in (Coder(int, TCP()), None, TCP):
        with pytest.raises(TypeError, match="TLV stands on a byte stream"):
            TLV(below)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="type_ must be unsigned, got Int16: write UInt16"):
        TLV(TCP(), type_=Int16)
    with pytest.raises(TypeError, match="length must be an unsigned integer's class"):
        TLV(TCP(), length=int)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='byte_order must be "big" or "little"'):
        TLV(TCP(), byte_order="middle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="maximum_message_size"):
        TLV(TCP(), maximum_message_size=-1)


@given(
    records=st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 2**16 - 1)), max_size=8),
    cuts=st.lists(st.integers(1, 9), min_size=1),
    byte_order=st.sampled_from(["big", "little"]),
)
def test_any_split_gives_the_same_records(records: list[tuple[bytes, int]], cuts: list[int], byte_order: Any) -> None:
    codec = TLVCodec(TLV(TCP(), type_=UInt16, length=UInt8, byte_order=byte_order), None)
    wire = b"".join(codec.encode(content, kind) for content, kind in records)
    inbox, found, place, turn = ByteInbox(), [], 0, 0
    while place < len(wire):
        end = place + cuts[turn % len(cuts)]
        inbox.append(wire[place:end])
        place, turn = end, turn + 1
        while (size := codec.size(inbox)) is not None and inbox.size >= size:
            content, metadata = codec.decode(inbox.take(size))
            found.append((content, metadata.type))
    assert found == records and not inbox.size


@given(noise=st.binary(max_size=64))
def test_noise_is_a_record_or_a_violation(noise: bytes) -> None:
    codec, inbox = TLVCodec(TLV(TCP(), maximum_message_size=20), None), ByteInbox()
    if noise:
        inbox.append(noise)
    try:
        while (size := codec.size(inbox)) is not None and inbox.size >= size:
            before = inbox.size
            content, metadata = codec.decode(inbox.take(size))
            assert len(content) == metadata.length <= 20 and inbox.size < before
    except ProtocolViolationError:
        assert int.from_bytes(inbox.peek(8)[4:], "big") > 20
