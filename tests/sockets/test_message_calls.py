"""Calls for messages are compiled where most is done by them: what they hand over to, and what they must not forget."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tieline import (
    TCP,
    TLS,
    Coder,
    DecodingError,
    EncodingError,
    NetworkConnection,
    NetworkError,
    NetworkListener,
    Opcode,
    WebSocket,
)
from tieline._engine.stream import MessageInbox

from ..authority import LOCALHOST, TRUST

STACKS: dict[str, tuple[Any, Any]] = {
    "websocket": (WebSocket(), WebSocket(TCP())),
    "websocket on TLS": (WebSocket(TLS(identity=LOCALHOST)), WebSocket(TLS(trust=TRUST, server_name="localhost"))),
    "values": (Coder(str, TCP()), Coder(str, TCP())),
    "values on TLS": (Coder(str, TLS(identity=LOCALHOST)), Coder(str, TLS(trust=TRUST, server_name="localhost"))),
}


@asynccontextmanager
async def pair(here: Any, there: Any) -> AsyncIterator[tuple[Any, Any]]:
    accepted: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def handler(channel: Any) -> None:
        accepted.set_result(channel)
        await over.wait()

    async with NetworkListener(here, on="127.0.0.1:0").serving(handler) as listener:
        client: Any = NetworkConnection(f"127.0.0.1:{listener.port}", there)
        try:
            await client.ready()
            yield client, await accepted
        finally:
            client.abort()
            over.set()


@pytest.mark.parametrize("stack", STACKS)
async def test_messages_that_came_together_are_answered_in_order(stack: str) -> None:
    async with pair(*STACKS[stack]) as (client, server):

        async def echo() -> None:
            async for content, _ in server.messages:
                await server.send(content)

        task = asyncio.create_task(echo())
        texts = [f"{number}" * (1 + number % 300) for number in range(1000)]
        sending = asyncio.create_task(send_all(client, texts))
        assert [(await client.receive()).content for _ in texts] == texts
        await sending
        task.cancel()


async def send_all(channel: Any, contents: list[Any]) -> None:
    for content in contents:
        await channel.send(content)


@pytest.mark.parametrize("stack", STACKS)
async def test_what_only_other_protocols_have_is_refused(stack: str) -> None:
    async with pair(*STACKS[stack]) as (client, _):
        with pytest.raises(TypeError, match=r"has no end_of_stream=\. Its calls: send\("):
            client.send("x", end_of_stream=True)
        with pytest.raises(TypeError, match=r"has no exactly=\. Its calls: send\("):
            client.receive(exactly=1)


async def test_a_received_message_is_a_sign_of_life() -> None:
    async with pair(WebSocket(keepalive=60.0), WebSocket(TCP())) as (client, server):
        assert server._flow.receiving.silence is None
        await client.send("here")
        assert (await server.receive()).content == "here"
        assert 0 <= server._flow.receiving.silence < 60
        keepalive = server._flow.layer._keepalive
        before = keepalive.heard = keepalive.heard - 30.0
        server._flow._rung()
        assert keepalive.heard > before + 29.0


async def test_what_is_no_message_keeps_its_place_among_them() -> None:
    async with pair(WebSocket(auto_reply_ping=False), WebSocket(TCP())) as (client, server):
        await client.send("first")
        await client.ping(b"between")
        await client.send("second")
        received = [await server.receive() for _ in range(3)]
        assert [message.content for message in received] == ["first", b"between", "second"]
        assert received[1].metadata.opcode is Opcode.PING


async def test_no_value_and_then_one() -> None:
    class Odd:
        """Bytes that are no bytes object, and what it does not take."""

        def encode(self, value: Any) -> bytearray:
            if value == "bad":
                raise ValueError("not this one")
            return bytearray(value.encode())

        def decode(self, data: bytes, receiving: Any) -> str:
            if data == b"worse":
                raise ValueError("nor this")
            return data.decode()

    stack: Any = Coder(str, TCP(), using=Odd())  # type: ignore[arg-type]
    async with pair(stack, stack) as (client, server):
        with pytest.raises(EncodingError, match="not this one") as refused:
            await client.send("bad")
        assert isinstance(refused.value.__cause__, ValueError)
        await client.send("worse")
        await client.send("good")
        with pytest.raises(DecodingError, match="nor this") as unread:
            await server.receive()
        assert isinstance(unread.value.__cause__, ValueError)
        assert (await server.receive()).content == "good"


async def test_a_value_larger_than_what_is_copied() -> None:
    async with pair(*STACKS["values"]) as (client, server):
        text = "large" * 100_000
        sending = asyncio.create_task(client.send(text))
        assert (await server.receive()).content == text
        await sending


def test_an_inbox_gives_what_it_has() -> None:
    inbox = MessageInbox()
    with pytest.raises(IndexError):
        inbox.take()
    inbox.append("a", None, 1)
    inbox.append("b", {}, 1)
    assert len(inbox) == 2 and inbox.size > 2
    assert inbox.take() == ("a", None, 1)
    inbox.clear()
    assert (len(inbox), inbox.size, inbox.partial, inbox.ended) == (0, 0, b"", False)


@pytest.mark.parametrize("stack", STACKS)
async def test_messages_in_quick_succession_leave_together_and_others_at_once(stack: str) -> None:
    async with pair(*STACKS[stack]) as (client, server):
        sending = client._flow.sending
        gathered = count = 0
        while not gathered:  # what comes in between on a busy machine is no quick succession
            for _ in range(8):
                await client.send("quick")
            count += 8
            gathered = sending._size
        await asyncio.sleep(0)
        assert sending._size == 0
        for _ in range(10):
            later = time.perf_counter() + 100e-6
            while time.perf_counter() < later:
                pass
            await client.send("slow")
            assert sending._size == 0
        contents = [(await server.receive()).content for _ in range(count + 10)]
        assert contents == ["quick"] * count + ["slow"] * 10


@pytest.mark.parametrize("large", ["text", "binary"])
async def test_a_large_message_that_the_kernel_does_not_take_at_once(large: str) -> None:
    content: Any = "ä€𝄞x" * 1_500_000 if large == "text" else bytes(range(256)) * 60_000
    async with pair(WebSocket(), WebSocket(TCP())) as (client, server):
        client._flow.socket.pause()
        sending = [asyncio.create_task(server.send(content)) for _ in range(2)]
        sending.append(asyncio.create_task(server.send("behind")))
        await asyncio.sleep(0.05)
        assert not sending[0].done()
        sending[0].cancel()  # it has begun to leave, and leaves whole
        sending[1].cancel()
        await asyncio.sleep(0)
        client._flow.socket.resume()
        assert (await client.receive()).content == content
        assert (await client.receive()).content == "behind"
        await sending[2]
        assert server._flow.sending.count > len(content)


async def test_a_large_message_to_a_peer_that_has_gone() -> None:
    async with pair(WebSocket(), WebSocket(TCP())) as (client, server):
        client.abort()
        contents = [bytes(100_000)] * 1000
        with pytest.raises(NetworkError):
            await send_all(server, contents)
