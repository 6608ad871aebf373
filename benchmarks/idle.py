"""What costs something without doing anything: connections that are open and idle, and the import.

The server's process is measured. Its clients are bare blocking sockets, so that they are the same for every server. A client asks
with a byte of its own how much memory the server has: before its many connections, and with them.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.workloads import Ready, ssl_context, tieline_stack
from tieline import NetworkListener

QUESTION, GREETING = b"?", b"!"
FIRST = 100  # connections before the first look: what all share is there then


def resident() -> int:
    """Bytes that this process has in memory (proc(5))."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def reply(content: bytes) -> bytes:
    return resident().to_bytes(8, "big") if content == QUESTION else content


async def tieline_idle(tls: bool, ready: Ready) -> None:
    async def handle(connection: Any) -> None:
        async for content, _ in connection:
            await connection.send(reply(content))

    async with NetworkListener(tieline_stack(tls, server=True), on="127.0.0.1:0").serving(handle) as listener:  # type: ignore[arg-type]
        ready(listener.port)
        await asyncio.Event().wait()


async def streams_idle(tls: bool, ready: Ready) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while content := await reader.read(65536):
            writer.write(reply(content))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=ssl_context(server=True) if tls else None, backlog=1024)
    async with server:
        ready(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()


async def hold(tls: bool, port: int, size: int, count: int) -> float:
    """KiB for each of that many idle connections."""
    context = ssl_context(server=False) if tls else None

    def connect() -> Any:
        connection: Any = socket.create_connection(("127.0.0.1", port))
        if context is not None:
            connection = context.wrap_socket(connection, server_hostname="localhost")
        connection.sendall(GREETING)  # its handler runs, and waits for more
        assert connection.recv(1) == GREETING
        return connection

    def ask() -> int:
        connections[0].sendall(QUESTION)
        return int.from_bytes(connections[0].recv(8), "big")

    connections = [connect() for _ in range(FIRST)]
    ask()  # the second answer finds everything there that answering takes
    before = ask()
    connections += [connect() for _ in range(count)]
    figure = (ask() - before) / 1024 / count
    for connection in connections:
        connection.close()
    return figure


async def nobody(tls: bool, ready: Ready) -> None:
    ready(0)
    await asyncio.Event().wait()


async def imports(tls: bool, port: int, size: int, count: int) -> float:
    """Milliseconds that `import tieline` adds to a bare interpreter: medians of alternating runs."""

    with tempfile.TemporaryDirectory() as folder:
        # What it compiles is kept, as an installation does it, whatever the environment says of our own.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)

        def run(program: str) -> float:
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True, env=environment)
            return (time.perf_counter() - begun) * 1e3

        run("import tieline")
        pairs = [(run("import tieline"), run("")) for _ in range(count)]
    return statistics.median(ours - bare for ours, bare in pairs)
