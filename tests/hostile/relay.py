"""Between a client and a server over UDP: passes datagrams on, or does with them what a test says."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tieline import HostPort

__all__ = ["Relay", "relaying"]

Meddle = Callable[[bytes, bool], list[bytes]]
"""What is passed on in place of a datagram; the second argument tells whether it goes to the server."""


def bound() -> socket.socket:
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, 1 << 20)
    return sock


class Relay:
    """For one client."""

    def __init__(self, server: HostPort, meddle: Meddle) -> None:
        self._meddle = meddle
        self._server = (server.host, server.port)
        self._client: tuple[str, int] | None = None
        self.front, self.back = bound(), bound()
        self.passed: list[tuple[bytes, bool]] = []  # what came, as it was
        loop = asyncio.get_running_loop()
        loop.add_reader(self.front, self._from_client)
        loop.add_reader(self.back, self._from_server)

    @property
    def endpoint(self) -> HostPort:
        """Where the client finds the server."""
        return HostPort("127.0.0.1", self.front.getsockname()[1])

    def _from_client(self) -> None:
        for _ in range(64):
            try:
                datagram, self._client = self.front.recvfrom(65535)
            except BlockingIOError:
                return
            self._pass(datagram, to_server=True)

    def _from_server(self) -> None:
        for _ in range(64):
            try:
                datagram = self.back.recv(65535)
            except BlockingIOError:
                return
            self._pass(datagram, to_server=False)

    def _pass(self, datagram: bytes, *, to_server: bool) -> None:
        self.passed.append((datagram, to_server))
        for one in self._meddle(datagram, to_server):
            self.say(one, to_server=to_server)

    def say(self, datagram: bytes, *, to_server: bool) -> None:
        """Let one side hear this from the other one's address."""
        try:
            if to_server:
                self.back.sendto(datagram, self._server)
            elif self._client is not None:
                self.front.sendto(datagram, self._client)
        except OSError:
            return  # too large, or there is no room: it is lost

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in (self.front, self.back):
            loop.remove_reader(sock)
            sock.close()


@asynccontextmanager
async def relaying(server: HostPort, meddle: Meddle = lambda datagram, _: [datagram]) -> AsyncIterator[Relay]:
    relay = Relay(server, meddle)
    try:
        yield relay
    finally:
        relay.close()
