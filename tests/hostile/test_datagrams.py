"""Datagrams of any size, from anybody: what a UDP listener and a UDP connection make of them."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import Any

import pytest

from tieline import UDP, HostPort, NetworkConnection, NetworkListener, Parameters

from ..peers import until
from .memory import nothing_stays

CHANCE = random.Random(768)
LARGEST = 65507  # RFC 768 and RFC 791: 65,535 without the headers of UDP and IPv4


def socket_to(there: Any) -> socket.socket:
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.connect((there.host, there.port))
    sock.setblocking(False)
    return sock


async def test_listener_takes_any_size() -> None:
    seen: list[bytes] = []
    last = asyncio.Event()

    async def note(connection: NetworkConnection[UDP]) -> None:
        async for datagram, _ in connection.messages:
            seen.append(datagram)
            if datagram == b"last":
                last.set()

    sent = [CHANCE.randbytes(size) for size in (0, 1, LARGEST, 1472, 0, *(CHANCE.randrange(3000) for _ in range(20)))]
    async with NetworkListener(Parameters(UDP(), receive_limit=1 << 20), on="127.0.0.1:0").serving(note) as listener:
        with socket_to(listener.endpoint) as sock:
            for datagram in (*sent, b"last"):
                sock.send(datagram)
            async with asyncio.timeout(5):
                await last.wait()
    assert seen == [*sent, b"last"]


async def test_connection_takes_any_size() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        async with NetworkConnection(server.getsockname(), UDP()) as connection:
            await connection.send(b"")
            _, address = server.recvfrom(10)
            for size in (0, 1, LARGEST):
                server.sendto(bytes(size), address)
                assert len((await connection.receive()).content) == size


async def test_connection_hears_nobody_else() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as server, socket.socket(type=socket.SOCK_DGRAM) as other:
        server.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        async with NetworkConnection(server.getsockname(), UDP()) as connection:
            await connection.send(b"?")
            _, address = server.recvfrom(10)
            other.sendto(b"forged", address)
            server.sendto(b"genuine", address)
            assert (await connection.receive()).content == b"genuine"


async def test_flood_is_dropped_and_counted() -> None:
    """A handler that does not receive costs no more than the receive limit."""
    arrived, go_on = asyncio.Event(), asyncio.Event()
    seen: list[int] = []

    async def wait_first(connection: NetworkConnection[UDP]) -> None:
        arrived.set()
        await go_on.wait()
        seen.append(len(await connection.receive_many(at_most=10_000)))
        seen.append(connection.metadata(UDP).dropped_datagram_count)

    parameters = Parameters(UDP(), receive_limit=10_000)
    async with NetworkListener(parameters, on="127.0.0.1:0").serving(wait_first) as listener:
        with socket_to(listener.endpoint) as sock:
            for _ in range(50):
                sock.send(bytes(936))  # with what it costs to keep one, ten are the limit
            await arrived.wait()
            for _ in range(5):
                await asyncio.sleep(0)  # two turns of the loop read them all
        go_on.set()
    assert seen[0] <= 10 and sum(seen) == 50


@pytest.mark.parametrize("size", [0, 100])
async def test_a_thousand_passers_by(size: int) -> None:
    """Each says something once, from a port of its own, and is never heard of again."""
    present = 0

    async def answer(connection: NetworkConnection[UDP]) -> None:
        nonlocal present
        present += 1
        async for datagram, _ in connection.messages:
            await connection.send(datagram)
        present -= 1

    listener = NetworkListener(UDP(idle_timeout=0.02), on="127.0.0.1:0")
    async with listener.serving(answer):
        assert isinstance(listener.endpoint, HostPort)

        async def pass_by(_: int) -> None:
            with socket_to(listener.endpoint) as sock:
                sock.send(bytes(size))
                assert len(await asyncio.get_running_loop().sock_recv(sock, 1000)) == size

        await nothing_stays(pass_by, lambda: until(lambda: not present))
