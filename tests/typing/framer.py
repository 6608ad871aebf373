"""Framers: bytes, with the metadata that the framer gave; and values on any kind of message."""

from __future__ import annotations

from typing import assert_type

from tieline import (
    QUIC,
    TCP,
    TLV,
    UDP,
    Coder,
    CoderMetadata,
    Framer,
    FramerMetadata,
    FramerProtocol,
    Message,
    NetworkConnection,
    QUICDatagram,
    QUICStream,
    WebSocket,
)


async def messages(connection: NetworkConnection[Framer]) -> None:
    assert_type(await connection.receive(), Message[bytes, FramerMetadata])
    async for content, metadata in connection.messages:
        assert_type(content, bytes)
        assert_type(metadata, FramerMetadata)
    await connection.send(b"", metadata={"key": 1}, last_message=True)
    await connection.send(b"", type=7)  # type: ignore[call-arg]
    await connection.send("text")  # type: ignore[arg-type]
    await connection.receive(exactly=3)  # type: ignore[call-arg]


def stacks(lines: type[FramerProtocol]) -> None:
    assert_type(NetworkConnection("localhost:1", Framer(lines, TLV(TCP()))), NetworkConnection[Framer])
    assert_type(Coder(int, Framer(lines, TCP())), Coder[int, int])
    assert_type(Coder(int, WebSocket(TCP())), Coder[int, int])
    assert_type(Coder(int, UDP()), Coder[int, int])
    assert_type(Framer(lines, UDP()), Framer)
    TLV(Coder(int, TCP()))  # type: ignore[arg-type]


async def on_quic(connection: NetworkConnection[QUIC], lines: type[FramerProtocol]) -> None:
    stream = await connection.open_stream(using=Framer(lines, QUICStream()))
    assert_type((await stream.receive()).metadata, FramerMetadata)
    datagrams = await connection.datagrams(using=Coder(int, QUICDatagram()))
    assert_type(await datagrams.receive(), Message[int, CoderMetadata])
