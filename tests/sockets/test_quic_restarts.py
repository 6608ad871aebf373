"""A server that starts again, and what it tells the clients that it has forgotten (RFC 9000 section 10.3)."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tieline import QUIC, NetworkConnection, NetworkListener, Parameters, PeerResetError, State
from tieline.protocols.security import PeerAuthentication

from ..peers import free_port
from ..quic import IDENTITY, client_of, echo_streams, server_of

KEY = bytes(range(32))
SERVER = """
import asyncio, sys
from tieline import QUIC, Identity, NetworkListener

async def echo(connection):
    async def answer(stream):
        async for content, _ in stream:
            await stream.send(content)
    await connection.inbound_streams(answer)

async def main(port, key):
    options = {"stateless_reset_key": bytes.fromhex(key)} if key else {}
    stack = QUIC(alpn=["test"], identity=Identity.self_signed("localhost"), **options)
    async with NetworkListener(stack, on=f"127.0.0.1:{port}").serving(echo):
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@contextlib.asynccontextmanager
async def server_process(port: int, key: bytes | None) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A server that is killed in the end, without a chance to say goodbye."""
    command = [sys.executable, "-c", SERVER, str(port), "" if key is None else key.hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: ASYNC220  # returns at once
        try:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == b"ready\n"
            yield process
        finally:
            process.kill()


def connecting(port: int, **options: Any) -> NetworkConnection[QUIC]:
    stack = QUIC(alpn=["test"], server_name="localhost", peer_authentication=PeerAuthentication.NONE, **options)
    return NetworkConnection(f"127.0.0.1:{port}", stack)


async def echoed(stream: Any) -> None:
    await stream.send(b"hello")
    assert (await stream.receive(exactly=5)).content == b"hello"


async def test_a_client_learns_at_once_that_the_server_was_started_again() -> None:
    port = free_port()
    loop = asyncio.get_running_loop()
    connection = connecting(port)
    async with server_process(port, KEY):
        stream = await connection.open_stream()
        await echoed(stream)
    async with server_process(port, KEY):
        began = loop.time()
        with pytest.raises(PeerResetError, match="no such connection any more"):
            await echoed(stream)
        assert loop.time() - began < 2  # the idle timeout is 30 s
        assert connection.state is State.FAILED and isinstance(connection.error, PeerResetError)
        async with connecting(port) as again:
            await echoed(await again.open_stream())
    await connection.aclose()


async def test_without_the_same_key_only_the_idle_timeout_tells() -> None:
    port = free_port()
    connection = connecting(port, idle_timeout=1.0)
    async with server_process(port, None):
        stream = await connection.open_stream()
        await echoed(stream)
    async with server_process(port, None):
        with pytest.raises(TimeoutError):
            await echoed(stream)
    await connection.aclose()


async def test_the_listeners_of_a_process_share_a_key() -> None:
    """One goes, and the next one at this address speaks for it: of many workers, any one may get a late packet."""
    first = NetworkListener(Parameters(server_of(), grace_period=0.0), on="127.0.0.1:0")
    block = first.serving(echo_streams)
    await block.__aenter__()
    port = first.port
    connection = NetworkConnection(("127.0.0.1", port), client_of())
    stream = await connection.open_stream()
    await echoed(stream)
    for endpoint in first._side._ports.values():  # type: ignore[union-attr]  # what a killed process would do to it
        endpoint.close()
    await block.__aexit__(None, None, None)
    async with NetworkListener(server_of(), on=f"127.0.0.1:{port}").serving(echo_streams):
        with pytest.raises(PeerResetError):
            await echoed(stream)
    await connection.aclose()


def test_the_key_is_checked_and_kept_secret() -> None:
    with pytest.raises(ValueError, match="stateless_reset_key must be 32 bytes, got 16"):
        QUIC(alpn=["test"], identity=IDENTITY, stateless_reset_key=bytes(16))
    with pytest.raises(TypeError, match="stateless_reset_key must be 32 bytes, got a str"):
        QUIC(alpn=["test"], identity=IDENTITY, stateless_reset_key="secret")  # type: ignore[arg-type]
    stack = QUIC(alpn=["test"], identity=IDENTITY, stateless_reset_key=KEY)
    assert KEY.hex() not in repr(stack) and repr(KEY) not in repr(stack) and stack.stateless_reset_key == KEY
    assert stack != QUIC(alpn=["test"], identity=IDENTITY)
