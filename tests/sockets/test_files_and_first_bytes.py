"""Sends that are more than a piece of bytes: whole files, and bytes that may go before there is a connection."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import socket
import subprocess
import sys
import tempfile
from typing import Any

import pytest

from tieline import TCP, ChannelClosedError, MessageTooLargeError, NetworkConnection, NetworkListener, Parameters

MEGABYTE = 1 << 20
PATTERN = bytes(range(251)) * (8 * MEGABYTE // 251)  # a period that divides no buffer, so that a shift shows


async def stalled(task: asyncio.Task[Any], progress: Any) -> None:
    """Wait until a task that sends has come to a halt: what it did does not change any more."""
    before = None
    while not task.done():
        now = progress()
        if now == before:
            return
        before = now
        await asyncio.sleep(0.1)


# Files


@pytest.mark.parametrize("where", ["file", "memory", "named", "gzip"])
async def test_send_file(pair: Any, where: str) -> None:
    async with pair() as (client, server):
        with tempfile.TemporaryFile() as plain, tempfile.NamedTemporaryFile() as named, io.BytesIO() as memory:
            file: Any = {"file": plain, "memory": memory, "named": named, "gzip": plain}[where]
            file.write(gzip.compress(PATTERN) if where == "gzip" else PATTERN)
            if where == "gzip":
                file.seek(0)
                file = gzip.GzipFile(fileobj=plain)
            for offset, count, expected in (
                (0, None, PATTERN),
                (1, 10, PATTERN[1:11]),
                (len(PATTERN) - 5, 100, PATTERN[-5:]),
                (len(PATTERN), None, b""),
                (3, 0, b""),
            ):
                sending = asyncio.create_task(client.send_file(file, offset, count))
                assert (await server.receive(exactly=len(expected))).content == expected
                assert await sending == len(expected)
            await client.send(b"behind")
            assert (await server.receive(exactly=6)).content == b"behind"


async def test_a_files_position_stays(pair: Any) -> None:
    async with pair() as (client, server):
        with tempfile.TemporaryFile() as file:
            file.write(b"0123456789")
            file.seek(4)
            await client.send_file(file)
            assert file.tell() == 4
            assert (await server.receive(exactly=10)).content == b"0123456789"


async def test_a_file_that_is_cut_short_meanwhile(pair: Any) -> None:
    async with pair() as (client, server):
        with tempfile.TemporaryFile() as file:
            file.truncate(64 * MEGABYTE)
            sending = asyncio.create_task(client.send_file(file, count=64 * MEGABYTE))
            await stalled(sending, lambda: client._flow.sending.count)
            file.truncate(1000)
            received = 0
            while not sending.done() or received < sending.result():
                received += len((await server.receive()).content)
                await asyncio.sleep(0)
            assert received == await sending < 64 * MEGABYTE


async def test_what_reading_a_file_raises(pair: Any) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "the disk is gone")

    async with pair() as (client, server):
        with pytest.raises(OSError, match="the disk is gone"):
            await client.send_file(Broken())
        with open(os.devnull, "rb") as file:  # noqa: ASYNC230
            assert await client.send_file(file) == 0
        with pytest.raises(TypeError, match="binary mode"):
            await client.send_file(io.StringIO("text"))
        with pytest.raises(ValueError, match="offset"):
            await client.send_file(io.BytesIO(), offset=-1)
        with pytest.raises(ValueError, match="count"):
            await client.send_file(io.BytesIO(), count=-1)
        await client.send(b"fine")
        assert (await server.receive(exactly=4)).content == b"fine"


async def test_the_kernel_copies_files_on_plain_tcp(pair_over: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []
    sendfile = os.sendfile
    monkeypatch.setattr(os, "sendfile", lambda *given: copied.append(given[3]) or sendfile(*given))
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 100_000)
        file.flush()
        for transport in ("tls", "tcp"):
            async with pair_over(transport) as (client, server):
                assert await client.send_file(file) == 100_000
                await server.receive(exactly=100_000)
            assert bool(copied) is (transport == "tcp")


async def test_a_file_without_sendfile_is_read(pair_over: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(22, "not for this file")

    monkeypatch.setattr(os, "sendfile", refuse)
    with tempfile.TemporaryFile() as file:
        file.write(PATTERN)
        async with pair_over("tcp") as (client, server):
            sending = asyncio.create_task(client.send_file(file))
            assert (await server.receive(exactly=len(PATTERN))).content == PATTERN
            assert await sending == len(PATTERN)


# Idempotent sends


async def test_idempotent_sends_do_not_wait(pair: Any) -> None:
    async with pair(send_limit=1000) as (client, server):
        client.send_idempotent(b"one ")
        client.send_idempotent(b"two", end_of_stream=True)
        assert [content async for content, _ in server] != []
        with pytest.raises(ChannelClosedError):
            client.send_idempotent(b"three")


async def test_idempotent_sends_are_bounded_behind_a_stalled_one(pair: Any) -> None:
    async with pair(send_limit=1000) as (client, server):
        stuck = asyncio.create_task(client.send(bytes(20 * MEGABYTE)))
        await stalled(stuck, lambda: client._flow.sending.count)
        accepted = 0
        with pytest.raises(MessageTooLargeError, match="idempotent"):  # noqa: PT012
            for _ in range(100):
                client.send_idempotent(bytes(100))
                accepted += 100
        assert accepted <= 1000
        assert len((await server.receive(exactly=20 * MEGABYTE)).content) == 20 * MEGABYTE
        await stuck
        assert (await server.receive(exactly=accepted)).content == bytes(accepted)


async def test_idempotent_data_before_ready(transport: str) -> None:
    if transport != "tcp":
        return
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def handler(connection: NetworkConnection[Any]) -> None:
        received.put_nowait(b"".join([content async for content, _ in connection]))

    parameters = Parameters(TCP(fast_open_allowed=True), fast_open_allowed=True)
    async with NetworkListener(parameters, on="localhost:0").serving(handler) as listener:
        for _ in range(3):  # the first fetches a cookie where the system allows fast open
            connection = NetworkConnection(("localhost", listener.port), parameters)
            connection.send_idempotent(PATTERN[:100_000])
            connection.send_idempotent(b"more")
            async with connection:
                await connection.send(b"then", end_of_stream=True)
                assert await received.get() == PATTERN[:100_000] + b"morethen"


async def test_idempotent_data_goes_to_the_candidate_that_answers() -> None:
    """The first address refuses; the next one gets the data once."""
    with socket.socket(socket.AF_INET6) as silent:
        silent.bind(("::1", 0))
        port = silent.getsockname()[1]
        received: asyncio.Queue[bytes] = asyncio.Queue()

        async def handler(connection: NetworkConnection[Any]) -> None:
            received.put_nowait((await connection.receive(until=b".")).content)

        async with (
            NetworkListener(TCP(), on=f"127.0.0.1:{port}").serving(handler),
            NetworkConnection(f"localhost:{port}", Parameters(TCP(fast_open_allowed=True), fast_open_allowed=True)) as connection,
        ):
            connection.send_idempotent(b"once.")
            assert await received.get() == b"once."


FAST_OPEN = """
import asyncio, socket, subprocess
from pathlib import Path
from tieline import TCP, TLS, Identity, NetworkConnection, NetworkListener, Parameters, Trust

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("3")

async def echo(connection):
    if isinstance(connection.parameters.stack, TCP):
        await connection.send(b"hello")  # the server speaks first, whatever the client does
    async for content, _ in connection:
        await connection.send(content)

async def main():
    identity = Identity.self_signed("localhost")
    tcp = TCP(fast_open_allowed=True)
    below = TLS(tcp, trust=Trust.certificates(identity.certificate), server_name="localhost")
    for serving, using in ((tcp, tcp), (TLS(tcp, identity=identity), below)):
        async with NetworkListener(Parameters(serving), on="127.0.0.1:0").serving(echo) as listener:
            for first in (b"a", b"b" * 50_000, b""):
                connection = NetworkConnection(listener.endpoint, Parameters(using, fast_open_allowed=True))
                if first:
                    connection.send_idempotent(first)
                async with connection:
                    greeting = b"hello" if using is tcp else b""
                    await connection.send(b".")
                    expected = greeting + first + b"."
                    assert (await connection.receive(exactly=len(expected))).content == expected
                    print(connection.metadata(TCP).fast_open)

asyncio.run(asyncio.wait_for(main(), 20))
"""


def test_fast_open_carries_the_first_bytes_in_the_syn() -> None:
    """In a network of our own, where the server half of fast open is on. The first connection only fetches the cookie."""
    try:
        subprocess.run(["unshare", "-n", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no network namespaces here")
    done = subprocess.run(["unshare", "-n", sys.executable, "-c", FAST_OPEN], capture_output=True, text=True)
    assert done.stderr == ""
    # TCP without first bytes must not wait for them; below TLS the ClientHello is always there.
    assert done.stdout.split() == ["False", "True", "False", "True", "True", "True"]
