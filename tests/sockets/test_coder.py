"""Typed messages over byte streams: TCP, TLS, Unix sockets and QUIC streams."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from tieline import (
    QUIC,
    TCP,
    TLS,
    Coder,
    DecodingError,
    EncodingError,
    EndOfStreamError,
    IncompleteReceiveError,
    MessageTooLargeError,
    NetworkConnection,
    NetworkListener,
    Parameters,
    ProtocolViolationError,
    QUICStream,
)
from tieline.testing import memory_pair

from ..authority import LOCALHOST, TRUST


class Move(msgspec.Struct, tag=True):
    row: int
    column: int


class Chat(msgspec.Struct, tag=True):
    text: str


@dataclass
class Ack:
    seen: int


Pair = tuple[NetworkConnection[Any], NetworkConnection[Any]]


async def pair(stack: Any = None, peer: Any = None, **options: Any) -> Pair:
    one = Parameters(stack if stack is not None else Coder(Move | Chat, TCP()), **options)
    return await memory_pair(one, Parameters(peer, **options) if peer is not None else one)


@asynccontextmanager
async def bytes_pair(stack: Any, **options: Any) -> AsyncIterator[Pair]:
    """A connection of messages, and the bytes of its peer."""
    ours, theirs = await memory_pair(Parameters(stack, **options), Parameters(TCP()))
    try:
        yield ours, theirs
    finally:
        ours.abort()
        theirs.abort()


@pytest.mark.parametrize("using", ["json", "msgpack", "property-list"])
async def test_values_there_and_back(using: str) -> None:
    values: list[Move | Chat] = [Move(1, 2), Chat("grüße"), Move(-1, 2**53), Chat("x" * 100_000), Chat("")]
    ours, theirs = await pair(Coder(Move | Chat, TCP(), using=using))
    async with ours, theirs:
        for value in values:
            await ours.send(value)
            await theirs.send(value)
        for value in values:
            assert (await theirs.receive()).content == value
            assert (await ours.receive()).content == value


async def test_two_types_and_what_plists_have() -> None:
    now = datetime.datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001  # a property list knows no zones
    ours, theirs = await memory_pair(
        Coder(TCP(), sending=dict, receiving=Ack, using="property-list"),
        Coder(TCP(), sending=Ack, receiving=dict, using="property-list"),
    )
    async with ours, theirs:
        await ours.send({"raw": b"\0\xff", "when": now})
        assert (await theirs.receive()).content == {"raw": b"\0\xff", "when": now}
        await theirs.send(Ack(3))
        assert (await ours.receive()).content == Ack(3)


async def test_a_coder_of_ones_own() -> None:
    class Upper:
        def encode(self, value: Any) -> bytes:
            return str(value).upper().encode()

        def decode(self, data: bytes, type: Any) -> Any:
            if b"!" in data:
                raise ValueError("no shouting")
            return type(data.decode())

    ours, theirs = await pair(Coder(str, TCP(), using=Upper()))
    async with ours, theirs:
        await ours.send("quiet")
        await ours.send("loud!")
        assert (await theirs.receive()).content == "QUIET"
        with pytest.raises(DecodingError, match="no str: no shouting") as caught:
            await theirs.receive()
        assert isinstance(caught.value.__cause__, ValueError)


async def test_the_wire_is_a_length_of_32_bits_and_the_value() -> None:
    async with bytes_pair(Coder(dict, TCP())) as (ours, theirs):
        await ours.send({"a": 1})
        assert (await theirs.receive(exactly=11)).content == b'\0\0\0\x07{"a":1}'
        for byte in b'\0\0\0\x07{"a":2}':  # however it comes
            await theirs.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await ours.receive()).content == {"a": 2}
        await theirs.send(b"\0\0\0\x02{}\0\0\0\x02{}\0\0")
        assert [(await ours.receive()).content for _ in range(2)] == [{}, {}]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await ours.receive()
        await theirs.send(b"\0\x02{}")
        assert (await ours.receive()).content == {}


async def test_what_cannot_be_decoded_names_the_field_and_leaves_the_next() -> None:
    async with bytes_pair(Coder(Ack, TCP())) as (ours, theirs):
        for text in (b'{"seen":"much"}', b"{", b'{"seen":4}'):
            await theirs.send(len(text).to_bytes(4, "big") + text)
        with pytest.raises(DecodingError, match=r"no Ack: Expected `int`, got `str` - at `\$\.seen`"):
            await ours.receive()
        with pytest.raises(ValueError, match="truncated"):
            await ours.receive()
        assert (await ours.receive()).content == Ack(4)


async def test_what_cannot_be_encoded_or_is_too_large_sends_nothing() -> None:
    ours, theirs = await pair(Coder(object, TCP(), maximum_message_size=100))
    async with ours, theirs:
        with pytest.raises(EncodingError, match="a object could not be encoded"):
            await ours.send(object())
        with pytest.raises(MessageTooLargeError, match=r"at most 100 bytes \(maximum_message_size\), got 202") as caught:
            await ours.send("x" * 200)
        assert (caught.value.limit, caught.value.size) == (100, 202)
        await ours.send("fits")
        assert (await theirs.receive()).content == "fits"


async def test_a_message_above_the_limit_fails_the_connection() -> None:
    async with bytes_pair(Coder(str, TCP(), maximum_message_size=100)) as (ours, theirs):
        await theirs.send(b'\0\0\0\x03"a"\0\0\0\x65')
        assert (await ours.receive()).content == "a"
        for _ in range(2):
            with pytest.raises(ProtocolViolationError, match="at most maximum_message_size=100 bytes, got 101"):
                await ours.receive()
        assert ours.state.value == "failed"


async def test_ends() -> None:
    async with bytes_pair(Coder(str, TCP())) as (ours, theirs):
        await theirs.send(b'\0\0\0\x03"a"', end_of_stream=True)
        assert (await ours.receive()).content == "a"
        for _ in range(2):
            with pytest.raises(EndOfStreamError) as caught:
                await ours.receive()
            assert type(caught.value) is EndOfStreamError
        assert [one async for one in ours.messages] == []
        await ours.send("still", last_message=True)
        assert [piece.content async for piece in theirs] == [b'\0\0\0\x07"still"']
    async with bytes_pair(Coder(str, TCP())) as (ours, theirs):
        await theirs.send(b'\0\0\0\x09"cut', end_of_stream=True)
        with pytest.raises(IncompleteReceiveError) as incomplete:
            await ours.receive()
        assert incomplete.value.partial == b'\0\0\0\x09"cut' and incomplete.value.expected == 13


async def test_a_cancelled_receive_consumes_nothing_and_order_is_kept() -> None:
    ours, theirs = await pair(Coder(int, TCP()))
    async with ours, theirs:
        first = asyncio.create_task(theirs.receive())
        others = [asyncio.create_task(theirs.receive()) for _ in range(3)]
        await asyncio.sleep(0)
        first.cancel()
        for number in range(3):
            await ours.send(number)
        assert [(await other).content for other in others] == [0, 1, 2]


async def test_a_cancelled_send_is_all_or_nothing() -> None:
    """A message that has begun to leave arrives whole; one that has not, does not arrive."""
    ours, theirs = await pair(Coder(str, TCP()), send_limit=1000, receive_limit=1000)
    async with ours, theirs:
        sends = [asyncio.create_task(ours.send(letter * 300_000)) for letter in "abc"]
        await asyncio.sleep(0.01)
        assert not any(send.done() for send in sends)
        for send in sends[:2]:
            send.cancel()
        assert (await theirs.receive()).content == "a" * 300_000
        assert (await theirs.receive()).content == "c" * 300_000
        await sends[2]


async def test_a_large_message_gets_past_a_small_receive_limit() -> None:
    ours, theirs = await pair(Coder(str, TCP()), send_limit=1000, receive_limit=1000)
    async with ours, theirs:
        sending = asyncio.create_task(ours.send("x" * 1_000_000))
        assert (await theirs.receive()).content == "x" * 1_000_000
        await sending


@pytest.mark.parametrize("over", ["tls", "unix", "quic"])
async def test_over(over: str) -> None:
    server: Any = {"tls": TLS(identity=LOCALHOST), "unix": TCP(), "quic": None}[over]
    client: Any = {"tls": TLS(trust=TRUST, server_name="localhost"), "unix": TCP(), "quic": None}[over]

    async def answer(channel: Any) -> None:
        async for move, _ in channel.messages:
            await channel.send(Ack(move.row))

    if over == "quic":

        async def serve(connection: NetworkConnection[QUIC]) -> None:
            await connection.inbound_streams(answer, using=Coder(QUICStream(), sending=Ack, receiving=Move))

        listening = NetworkListener(QUIC(alpn=["moves"], identity=LOCALHOST), on="127.0.0.1:0").serving(serve)
        async with listening as listener:
            options = QUIC(alpn=["moves"], trust=TRUST, server_name="localhost")
            async with NetworkConnection(listener.endpoint, options) as connection:
                stream = await connection.open_stream(using=Coder(QUICStream(), sending=Move, receiving=Ack))
                for row in range(100):
                    await stream.send(Move(row, 0))
                assert [(await stream.receive()).content.seen for _ in range(100)] == list(range(100))
        return
    on = "unix:@tieline-coder" if over == "unix" else "127.0.0.1:0"
    serving = NetworkListener(Coder(server, sending=Ack, receiving=Move), on=on).serving(answer)
    async with serving as listener:  # noqa: SIM117
        async with NetworkConnection(listener.endpoint, Coder(client, sending=Move, receiving=Ack)) as connection:
            for row in range(100):
                await connection.send(Move(row, 0))
            assert [(await connection.receive()).content.seen for _ in range(100)] == list(range(100))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Coder(TCP()), TypeError, "Coder\\(T, below\\)"),
        (lambda: Coder(str, TCP(), sending=int), TypeError, "got 2 positional arguments, sending and no receiving"),
        (lambda: Coder(TCP(), str), TypeError, "Coder stands on a byte stream .*, got the class str"),
        (lambda: Coder(str, Coder(str, TCP())), TypeError, "Coder stands on a byte stream"),
        (lambda: Coder(str, TCP(), using="xml"), ValueError, "one of json, msgpack, property-list"),
        (lambda: Coder(str, TCP(), using=object()), TypeError, "encode and decode"),
        (lambda: Coder(str, TCP(), maximum_message_size=0), ValueError, "maximum_message_size"),
    ],
)
def test_mistakes_are_told_at_once(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


async def test_calls_of_other_protocols_are_refused_by_name() -> None:
    ours, theirs = await pair(Coder(str, TCP()))
    async with ours, theirs:
        for call in (lambda: ours.receive(exactly=3), lambda: ours.send_file(None), lambda: ours.send_idempotent(b"x")):
            with pytest.raises(TypeError, match=r"Coder: .* Its calls: send\(value, last_message=\), receive\(\)"):
                call()
