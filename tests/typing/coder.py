"""Typed messages: what is sent and received has the types that the coder was given, unions too."""

from __future__ import annotations

from typing import assert_type

import msgspec

from tieline import QUIC, TCP, TLS, Coder, CoderMetadata, Message, NetworkConnection, QUICStream


class Move(msgspec.Struct, tag=True):
    row: int


class Chat(msgspec.Struct, tag=True):
    text: str


class Ack(msgspec.Struct):
    seen: int


async def two_types(connection: NetworkConnection[Coder[Ack, Move | Chat]]) -> None:
    assert_type(await connection.receive(), Message[Move | Chat, CoderMetadata])
    async for content, metadata in connection.messages:
        assert_type(content, Move | Chat)
        assert_type(metadata, CoderMetadata)
    async for content, _ in connection:
        assert_type(content, Move | Chat)
    await connection.send(Ack(1))
    await connection.send(Ack(1), last_message=True)
    await connection.send(Move(1))  # type: ignore[arg-type]
    await connection.receive(exactly=3)  # type: ignore[call-arg]


def inferred() -> None:
    assert_type(Coder(Move, TCP()), Coder[Move, Move])
    assert_type(Coder(Move | Chat, TCP()), Coder[Move | Chat, Move | Chat])
    assert_type(Coder(TLS(), sending=Ack, receiving=Move | Chat), Coder[Ack, Move | Chat])
    assert_type(NetworkConnection("localhost:1", Coder(Move, TLS())), NetworkConnection[Coder[Move, Move]])


async def on_streams(connection: NetworkConnection[QUIC]) -> None:
    stream = await connection.open_stream(using=Coder(Move | Chat, QUICStream()))
    assert_type((await stream.receive()).content, Move | Chat)
    await stream.send(Chat("hello"))
