"""Looking for the next message before the event loop may sleep."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tieline import TCP, HostPort, NetworkConnection, NetworkError, Parameters

from .conftest import Pair

ROUND_TRIPS = 640
LONGEST = 0.001
ECHO = """
import socket
with socket.create_server(("127.0.0.1", 0)) as listening:
    print(listening.getsockname()[1], flush=True)
    one, _ = listening.accept()
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := one.recv(65536):
        one.sendall(data)
"""


@asynccontextmanager
async def echoed(busy_poll: float) -> AsyncIterator[NetworkConnection[TCP]]:
    """To a process of its own, as nobody in this one can answer while we look."""
    peer = await asyncio.create_subprocess_exec(sys.executable, "-c", ECHO, stdout=asyncio.subprocess.PIPE)
    assert peer.stdout is not None
    try:
        port = int(await peer.stdout.readline())
        async with NetworkConnection(HostPort("127.0.0.1", port), Parameters(TCP(), busy_poll=busy_poll)) as connection:
            yield connection
    finally:
        await peer.wait()  # it ends with the connection


@pytest.mark.asyncio_only
@pytest.mark.parametrize("busy_poll", [0.0, LONGEST])
async def test_answers_that_come_soon_are_met_awake(busy_poll: float) -> None:
    loop: Any = asyncio.get_running_loop()
    select, sleeps = loop._selector.select, 0

    def counted(timeout: float | None = None) -> Any:
        nonlocal sleeps
        sleeps += 1
        return select(timeout)

    async with echoed(busy_poll) as connection:
        await connection.ready()
        loop._selector.select = counted
        try:
            for number in range(ROUND_TRIPS):
                message = b"%08d" % number
                await connection.send(message)
                assert (await connection.receive(exactly=8)).content == message
        finally:
            loop._selector.select = select
    assert sleeps < ROUND_TRIPS / 2 if busy_poll else sleeps >= ROUND_TRIPS


async def test_other_tasks_have_their_turn() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async with echoed(LONGEST) as connection:
        await connection.ready()
        ticking = asyncio.create_task(tick())
        for _ in range(ROUND_TRIPS):
            await connection.send(b"x")
            await connection.receive(exactly=1)
        ticking.cancel()
    assert ticks >= ROUND_TRIPS / 64  # so many pieces may be met in a row


async def test_everything_else_is_as_it_was(pair: Pair) -> None:
    async with pair(busy_poll=0.0001, server={"busy_poll": 0.0001}) as (client, server):
        await client.send(b"a" * 1000)
        assert (await server.receive(exactly=1000)).content == b"a" * 1000
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await client.receive()
        waiting = asyncio.create_task(client.receive(exactly=3))
        await server.send(b"ab")
        await asyncio.sleep(0.01)
        await server.send(b"c", end_of_stream=True)
        assert (await waiting).content == b"abc"
        assert (await client.receive()).metadata.end_of_stream
        large = bytes(3_000_000)
        _, received = await asyncio.gather(client.send(large), server.receive(exactly=len(large)))
        assert received.content == large


async def test_a_program_that_ends_it_meanwhile(pair: Pair) -> None:
    async with pair(busy_poll=LONGEST) as (client, server):

        async def take_and_abort() -> None:
            await client.receive()
            client.abort()

        taking = asyncio.create_task(take_and_abort())
        await server.send(b"x")
        await taking
        with pytest.raises(NetworkError):
            await client.receive()


@pytest.mark.parametrize(("value", "error"), [(-0.1, ValueError), (0.01, ValueError), (None, TypeError), ("1", TypeError)])
def test_how_long_it_may_be(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="busy_poll"):
        Parameters(TCP(), busy_poll=value)
