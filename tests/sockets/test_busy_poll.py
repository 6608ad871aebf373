"""An event loop that goes on turning while what comes next is expected soon."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tieline import TCP, UDP, HostPort, NetworkConnection, NetworkError, NetworkListener, Parameters

from .conftest import Pair

ROUND_TRIPS = 640
MORE_ROUND_TRIPS = 5000  # on a busy machine looking does not pay for a while
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
async def echoed(busy_poll: float | None) -> AsyncIterator[NetworkConnection[TCP]]:
    """To a process of its own, as nobody in this one can answer while we look."""
    peer = await asyncio.create_subprocess_exec(sys.executable, "-c", ECHO, stdout=asyncio.subprocess.PIPE)
    assert peer.stdout is not None
    try:
        port = int(await peer.stdout.readline())
        async with NetworkConnection(HostPort("127.0.0.1", port), Parameters(TCP(), busy_poll=busy_poll)) as connection:
            yield connection
    finally:
        await peer.wait()  # it ends with the connection


@asynccontextmanager
async def sleeps() -> AsyncIterator[list[float | None]]:
    """How long the loop was ready to sleep, each time that it was."""
    loop: Any = asyncio.get_running_loop()
    select, limits = loop._selector.select, list[float | None]()

    def counted(timeout: float | None = None) -> Any:
        if timeout != 0:
            limits.append(timeout)
        return select(timeout)

    loop._selector.select = counted
    try:
        yield limits
    finally:
        loop._selector.select = select


@pytest.mark.asyncio_only
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("busy_poll", [None, 0.0, LONGEST])
async def test_answers_that_come_soon_are_met_awake(busy_poll: float | None, kind: socket.SocketKind) -> None:
    """The peer answers in the next turn of the loop, which would have gone to sleep behind it."""
    loop = asyncio.get_running_loop()
    count = MORE_ROUND_TRIPS if busy_poll is None else ROUND_TRIPS
    with socket.socket(type=kind) as peer:
        peer.bind(("127.0.0.1", 0))
        stack: Any = TCP() if kind is socket.SOCK_STREAM else UDP()
        if kind is socket.SOCK_STREAM:
            peer.listen()
        async with NetworkConnection(peer.getsockname(), Parameters(stack, busy_poll=busy_poll)) as connection:
            await connection.ready()
            if kind is socket.SOCK_STREAM:
                other, _ = peer.accept()
            else:
                await connection.send(b"hello")
                other = peer
                other.connect(peer.recvfrom(10)[1])
            async with sleeps() as slept:
                for number in range(count):
                    message = b"%08d" % number
                    loop.call_soon(other.send, message)
                    assert (await connection.receive()).content == message
            other.close()
    if busy_poll == 0:
        assert len(slept) >= count
    else:
        assert len(slept) < (count / 4 if busy_poll else count * 0.9)


@pytest.mark.asyncio_only
@pytest.mark.parametrize("busy_poll", [0.0, LONGEST])
async def test_connections_that_come_soon_are_met_awake(busy_poll: float) -> None:
    loop = asyncio.get_running_loop()
    came = asyncio.Queue[None]()

    async def count(connection: NetworkConnection[TCP]) -> None:
        await came.put(None)

    async with NetworkListener(Parameters(TCP(), busy_poll=busy_poll), on="127.0.0.1:0").serving(count) as listener:

        def call() -> None:
            with socket.create_connection(("127.0.0.1", listener.port)):
                pass

        async with sleeps() as slept:
            for _ in range(100):
                loop.call_soon(call)
                await came.get()
    assert len(slept) < 25 if busy_poll else len(slept) >= 100


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
    assert ticks >= ROUND_TRIPS


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


@pytest.mark.parametrize(("value", "error"), [(-0.1, ValueError), (0.01, ValueError), ("1", TypeError)])
def test_how_long_it_may_be(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="busy_poll"):
        Parameters(TCP(), busy_poll=value)
