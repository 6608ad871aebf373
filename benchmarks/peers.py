"""The peers that have neither tasks nor streams: asyncio's bare Protocol, and blocking sockets, which are the physical limit.

They do the same work as the programs in `workloads.py`, with the same sizes and socket options (TCP_NODELAY, as both loops set
it), and are written as the standard library's documentation advises.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any

from benchmarks.workloads import Ready, ssl_context

READ = 256 * 1024  # of a sink: as much as asyncio's own transports ask for


# Protocols


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


class Pings(asyncio.Protocol):
    """Sends a message, and the next when it is back."""

    def __init__(self, size: int, count: int, done: asyncio.Future[None]) -> None:
        self._message = bytes(size)
        self._left, self._missing = count, size
        self._done = done

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def begin(self) -> None:
        self._transport.write(self._message)

    def data_received(self, data: bytes) -> None:
        self._missing -= len(data)
        if self._missing:
            return
        self._missing = len(self._message)
        self._left -= 1
        if self._left:
            self._transport.write(self._message)
        else:
            self._done.set_result(None)
            self._transport.close()


async def protocol_echo(tls: bool, ready: Ready) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=ssl_context(server=True) if tls else None)
    async with server:
        ready(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()


async def protocol_ping(tls: bool, port: int, size: int, count: int) -> float:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    secure: dict[str, Any] = {"ssl": ssl_context(server=False), "server_hostname": "localhost"} if tls else {}
    _, pings = await loop.create_connection(lambda: Pings(size, count, done), "127.0.0.1", port, **secure)
    begun = time.perf_counter()
    pings.begin()
    await done
    return count / (time.perf_counter() - begun)


# Blocking sockets. A coroutine that never waits: the loop that it blocks has nothing else to do.


def blocking_server(tls: bool, ready: Ready, handle: Callable[[Any], None]) -> None:
    context = ssl_context(server=True) if tls else None
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ready(listening.getsockname()[1])
        while True:
            accepted, _ = listening.accept()
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = accepted if context is None else context.wrap_socket(accepted, server_side=True)
            with connection, contextlib.suppress(ConnectionError):  # a client that is killed
                handle(connection)


def blocking_client(tls: bool, port: int) -> Any:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ssl_context(server=False).wrap_socket(connection, server_hostname="localhost") if tls else connection


async def blocking_echo(tls: bool, ready: Ready) -> None:
    def echo(connection: Any) -> None:
        while data := connection.recv(65536):
            connection.sendall(data)

    blocking_server(tls, ready, echo)


async def blocking_ping(tls: bool, port: int, size: int, count: int) -> float:
    message = bytes(size)
    with blocking_client(tls, port) as connection:
        begun = time.perf_counter()
        for _ in range(count):
            connection.sendall(message)
            missing = size
            while missing:
                missing -= len(connection.recv(missing))
        return count / (time.perf_counter() - begun)


async def blocking_sink(tls: bool, ready: Ready) -> None:
    def swallow(connection: Any) -> None:
        buffer = bytearray(READ)
        head = b""
        while len(head) < 8:
            head += connection.recv(8 - len(head))
        expected = missing = int.from_bytes(head, "big")
        while missing and (count := connection.recv_into(buffer)):
            missing -= count
        connection.sendall((expected - missing).to_bytes(8, "big"))

    blocking_server(tls, ready, swallow)


async def blocking_pour(tls: bool, port: int, size: int, count: int) -> float:
    piece = bytes(size)
    with blocking_client(tls, port) as connection:
        begun = time.perf_counter()
        connection.sendall((size * count).to_bytes(8, "big"))
        for _ in range(count):
            connection.sendall(piece)
        answer = b""
        while len(answer) < 8:
            answer += connection.recv(8 - len(answer))
        assert int.from_bytes(answer, "big") == size * count
        return size * count / 1e6 / (time.perf_counter() - begun)


async def blocking_connect(tls: bool, port: int, size: int, count: int) -> float:
    """One after the other, as blocking sockets do it."""
    message = bytes(size)
    context = ssl_context(server=False) if tls else None
    begun = time.perf_counter()
    for _ in range(count):
        connection: Any = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            connection = context.wrap_socket(connection, server_hostname="localhost")
        with connection:
            connection.sendall(message)
            missing = size
            while missing:
                missing -= len(connection.recv(missing))
    return count / (time.perf_counter() - begun)
