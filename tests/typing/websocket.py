"""WebSocket: text and bytes, in whole and in parts."""

from __future__ import annotations

from typing import assert_type

from tieline import (
    QUIC,
    TCP,
    TLS,
    TLV,
    Coder,
    CoderMetadata,
    Deflate,
    HTTPRequest,
    HTTPResponse,
    IncomingMessage,
    Message,
    NetworkConnection,
    NetworkListener,
    Opcode,
    QUICStream,
    WebSocket,
    WebSocketMetadata,
    WebSocketSession,
    broadcast,
)


def page(request: HTTPRequest) -> HTTPResponse | None:
    assert_type(request.header("Origin"), str | None)
    return None


def constructing() -> None:
    assert_type(NetworkConnection("wss://example.com/chat", WebSocket()), NetworkConnection[WebSocket])
    assert_type(NetworkListener(WebSocket(TLS(), respond=page), on=443), NetworkListener[WebSocket])
    WebSocket(TLV(TCP()), compression=Deflate(), origins=["https://example.com", None])
    WebSocket(QUICStream(), origins=lambda origin: origin is not None)
    WebSocket(QUIC())  # type: ignore[arg-type]
    WebSocket(respond=lambda request: "text")  # type: ignore[arg-type, return-value]


async def messages(connection: NetworkConnection[WebSocket]) -> None:
    await connection.send("text")
    await connection.send(memoryview(b"bytes"))
    await connection.send(7)  # type: ignore[arg-type]
    await connection.send("text", end_of_stream=True)  # type: ignore[call-arg]
    assert_type(await connection.receive(), Message[str | bytes, WebSocketMetadata])
    await connection.receive(exactly=3)  # type: ignore[call-arg]
    async for content, metadata in connection.messages:
        assert_type(content, str | bytes)
        assert_type(metadata.opcode, Opcode)
    async for content, _ in connection:
        assert_type(content, str | bytes)
    assert_type(connection.metadata(WebSocket), WebSocketSession)


async def calls(connection: NetworkConnection[WebSocket], tcp: NetworkConnection[TCP]) -> None:
    assert_type(await (await connection.ping(b"x")), float)
    await connection.pong()
    await connection.close(4000, "why")
    assert_type(broadcast([connection], "all", slow="close")[0].sending_message(), object)  # type: ignore[assert-type]
    async with connection.sending_message(Opcode.TEXT) as text:
        await text.send("part")
        await text.send(b"part")  # type: ignore[arg-type]
    async with connection.sending_message(Opcode.BINARY) as data:
        await data.send(b"part", is_complete=True)
        await data.send("part")  # type: ignore[arg-type]
    async with connection.receiving_message(str) as incoming:
        assert_type(incoming, IncomingMessage[str])
        assert_type([piece async for piece in incoming], list[str])
    async with connection.receiving_message(bytes) as raw:
        assert_type(await raw.receive(), Message[bytes, WebSocketMetadata])
        assert_type(await raw.receive(at_least=2, at_most=4), Message[bytes, WebSocketMetadata])
    await tcp.ping()  # type: ignore[misc, unused-awaitable]
    await tcp.close()  # type: ignore[misc]
    tcp.sending_message()  # type: ignore[misc]


async def on_streams(connection: NetworkConnection[QUIC]) -> None:
    stream = await connection.open_stream(using=WebSocket(QUICStream()))
    assert_type((await stream.receive()).content, str | bytes)
    _ = await stream.ping()


async def values(connection: NetworkConnection[Coder[int, int]]) -> None:
    assert_type(Coder(int, WebSocket()), Coder[int, int])
    assert_type(await connection.receive(), Message[int, CoderMetadata])
