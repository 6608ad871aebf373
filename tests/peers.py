"""Peers without a library: plain sockets that say exactly what a test wants, and break off exactly where it wants."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Self

from tieline import HostPort

__all__ = ["Conversation", "Peer", "conversing", "free_port", "until"]

OURS = range(20_000, 32_000)  # no system gives ports from here to sockets that do not ask for one


def free_port() -> int:
    """For a server that cannot choose by itself: free for TCP and UDP, and nobody else's before the server has bound it."""
    while True:
        port = random.choice(OURS)
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            try:
                for probe in (stream, datagram):
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue  # somebody has it
            return port


class Peer:
    """One end of a TCP connection, nothing added."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connect(cls, to: HostPort) -> Self:
        sock = socket.socket(socket.AF_INET6 if to.version == 6 else socket.AF_INET)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (to.host, to.port))
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    async def receive(self, at_most: int = 65536) -> bytes:
        """What there is; nothing at the end."""
        return await self._loop.sock_recv(self.socket, at_most)

    async def receive_exactly(self, count: int) -> bytes:
        received = b""
        while len(received) < count:
            piece = await self.receive(count - len(received))
            if not piece:
                raise EOFError(f"{len(received)} of {count} bytes came")
            received += piece
        return received

    async def receive_all(self) -> bytes:
        """Everything up to the end."""
        received = bytearray()
        while piece := await self.receive():
            received += piece
        return bytes(received)

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.socket, data)

    async def gone(self) -> str:
        """Wait until the other side is gone, whatever it says meanwhile: ``"end"`` or ``"reset"``."""
        try:
            await self.receive_all()
        except ConnectionResetError:
            return "reset"
        return "end"

    def end(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something that nobody is told of."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


Conversation = Callable[[Peer], Awaitable[object]]


@asynccontextmanager
async def conversing(converse: Conversation, *, receive_buffer: int | None = None) -> AsyncIterator[HostPort]:
    """Listen, and hold this conversation with everybody who connects. A conversation that ends closes its socket."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        listening.setblocking(False)
        if receive_buffer is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        loop = asyncio.get_running_loop()
        conversations: set[asyncio.Task[None]] = set()

        async def hold(peer: Peer) -> None:
            try:
                await converse(peer)
            except ConnectionError:
                return  # the other side may go at any time: what it says of that is what the tests are about

        def arrived() -> None:
            try:
                peer = Peer(listening.accept()[0])
            except (BlockingIOError, ConnectionAbortedError):
                return
            task = asyncio.create_task(hold(peer))
            conversations.add(task)
            task.add_done_callback(conversations.discard)
            task.add_done_callback(lambda _: peer.socket.close())

        loop.add_reader(listening, arrived)
        try:
            yield HostPort("127.0.0.1", listening.getsockname()[1])
        finally:
            loop.remove_reader(listening)
            pending = tuple(conversations)
            for task in pending:
                task.cancel()
            results = await asyncio.gather(*pending, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception):
                    raise result
