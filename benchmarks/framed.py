"""Framed JSON messages: values over TCP behind their lengths, so many requests under way at a time."""

from __future__ import annotations

import asyncio
import time

import msgspec

from benchmarks.workloads import Ready
from tieline import TCP, Coder, NetworkConnection, NetworkListener


class Order(msgspec.Struct):
    """A message of some fields: 90 bytes of JSON."""

    number: int
    item: str
    price: float
    tags: list[str]


ORDER = Order(12_345, "a pound of apples", 3.75, ["fruit", "fresh", "local"])
Orders = Coder[Order, Order]


def stack() -> Orders:
    return Coder(Order, TCP())


async def tieline_framed(tls: bool, ready: Ready) -> None:
    async def echo(connection: NetworkConnection[Orders]) -> None:
        async for order, _ in connection.messages:
            await connection.send(order)

    async with NetworkListener(stack(), on="127.0.0.1:0").serving(echo) as listener:
        ready(listener.port)
        await asyncio.Event().wait()


async def tieline_orders(tls: bool, port: int, under_way: int, count: int) -> float:
    async with NetworkConnection(f"127.0.0.1:{port}", stack()) as connection:
        await connection.ready()
        began = time.perf_counter()
        for _ in range(under_way):
            await connection.send(ORDER)
        for _ in range(count - under_way):
            await connection.receive()
            await connection.send(ORDER)
        for _ in range(under_way):
            await connection.receive()
        return count / (time.perf_counter() - began)


class Framed:
    """What one writes by hand: a length, and msgspec."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(Order).decode

    async def send(self, order: Order) -> None:
        data = self._encode(order)
        self._writer.write(len(data).to_bytes(4, "big") + data)
        await self._writer.drain()

    async def receive(self) -> Order:
        head = await self._reader.readexactly(4)
        return self._decode(await self._reader.readexactly(int.from_bytes(head, "big")))


async def streams_framed(tls: bool, ready: Ready) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = Framed(reader, writer)
        try:
            while True:
                await channel.send(await channel.receive())
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    ready(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def streams_orders(tls: bool, port: int, under_way: int, count: int) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    channel = Framed(reader, writer)
    began = time.perf_counter()
    for _ in range(under_way):
        await channel.send(ORDER)
    for _ in range(count - under_way):
        await channel.receive()
        await channel.send(ORDER)
    for _ in range(under_way):
        await channel.receive()
    taken = time.perf_counter() - began
    writer.close()
    return count / taken
