"""Records: bytes, and metadata with their type."""

from __future__ import annotations

from typing import assert_type

from tieline import QUIC, TCP, TLS, TLV, UDP, Coder, Message, NetworkConnection, QUICDatagram, QUICStream, TLVMetadata, UInt16


async def records(connection: NetworkConnection[TLV]) -> None:
    assert_type(await connection.receive(), Message[bytes, TLVMetadata])
    async for content, metadata in connection.messages:
        assert_type(content, bytes)
        assert_type(metadata.type, int)
    async for content, _ in connection:
        assert_type(content, bytes)
    await connection.send(b"", type=7)
    await connection.send(memoryview(b""), last_message=True)
    await connection.send("text")  # type: ignore[arg-type]
    await connection.send(b"", end_of_stream=True)  # type: ignore[call-arg]
    await connection.receive(exactly=3)  # type: ignore[call-arg]


def inferred() -> None:
    assert_type(NetworkConnection("localhost:1", TLV(TLS(), type_=UInt16)), NetworkConnection[TLV])


async def values(connection: NetworkConnection[Coder[int, str]]) -> None:
    assert_type(Coder(TLV(TCP()), sending=int, receiving=str), Coder[int, str])
    assert_type(NetworkConnection("localhost:1", TLV(UDP())), NetworkConnection[TLV])


async def on_streams(connection: NetworkConnection[QUIC]) -> None:
    stream = await connection.open_stream(using=TLV(QUICStream()))
    assert_type((await stream.receive()).content, bytes)
    datagrams = await connection.datagrams(using=TLV(QUICDatagram()))
    assert_type(await datagrams.receive(), Message[bytes, TLVMetadata])
