"""What is left of a QUIC connection that was closed: a socket that says so again, for a short while."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import Any

import pytest

from tieline import NetworkConnection, NetworkListener, Parameters
from tieline.drivers.asyncio import AsyncioDriver
from tieline.drivers.asyncio.packets import LINGERING
from tieline.multiplex.endpoint import LONGEST_LINGER

from ..peers import free_port, until
from ..quic import Connection, client_of, collect, echo_streams, server_of

PROGRAM = """
import asyncio, gc, sys
import uvloop
from tieline import QUIC, Identity, NetworkConnection, NetworkListener, Trust

identity = Identity.self_signed("localhost")

async def serve(connection):
    await connection.inbound_streams(lambda stream: stream.send(b"x", end_of_stream=True))

async def main():
    asyncio.get_running_loop().slow_callback_duration = 60.0  # only what is left open is of interest
    async with NetworkListener(QUIC(alpn=["test"], identity=identity), on="127.0.0.1:0").serving(serve) as listener:
        stack = QUIC(alpn=["test"], trust=Trust.certificates(identity.certificate), server_name="localhost")
        async with NetworkConnection(listener.endpoint, stack) as connection:
            await connection.ready()
            await asyncio.sleep(0)

if sys.argv[1] == "uvloop":
    uvloop.install()
asyncio.run(main(), debug=True)
gc.collect()
print("over")
"""


def lingering() -> int:
    return len(AsyncioDriver.current()._lingering)


async def echoed(connection: Connection) -> None:
    stream = await connection.open_stream()
    await stream.send(b"hello", end_of_stream=True)
    assert await collect(stream) == b"hello"


async def test_so_many_sockets_linger_and_not_for_long() -> None:
    async with NetworkListener(server_of(), on="127.0.0.1:0").serving(echo_streams) as listener:
        connections = [NetworkConnection(listener.endpoint, client_of()) for _ in range(LINGERING + 10)]
        await asyncio.gather(*map(echoed, connections))
        assert lingering() == 0
        for connection in connections:
            connection.abort()
        assert lingering() == LINGERING
        before = time.monotonic()
        await until(lambda: lingering() == 0)
        assert time.monotonic() - before < LONGEST_LINGER + 1
        async with NetworkConnection(listener.endpoint, client_of()) as again:
            await echoed(again)


async def test_nothing_lingers_after_the_peers_close() -> None:
    async with NetworkListener(server_of(), on="127.0.0.1:0").serving(at_once) as listener:
        async with NetworkConnection(listener.endpoint, client_of()) as connection:
            await connection.inbound_streams(collect)
        assert lingering() == 0


async def at_once(connection: Any) -> None:
    """Close as soon as there is a connection."""


async def test_a_port_of_the_programs_choice_is_given_back_at_once() -> None:
    async with NetworkListener(server_of(), on="127.0.0.1:0").serving(echo_streams) as listener:
        parameters = Parameters(client_of(), local_endpoint=f"127.0.0.1:{free_port()}")
        for _ in range(3):
            async with NetworkConnection(listener.endpoint, parameters) as connection:
                await echoed(connection)
            assert lingering() == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_program_ends_without_waiting_and_without_a_warning(loop: str) -> None:
    command = [sys.executable, "-W", "error", "-c", PROGRAM, loop]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")
