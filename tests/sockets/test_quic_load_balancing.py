"""Servers behind a load balancer that knows them by their connection IDs (draft-ietf-quic-load-balancers section 5.2)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from tieline import QUIC, HostPort, NetworkConnection, NetworkListener, Parameters

from ..quic import IDENTITY, client_of, collect, echo_streams, server_of

ROTATION = 3
SERVER_IDS = (b"\x00\x01", b"\x00\x02", b"\xbe\xef")


class Balancer:
    """Spreads clients over the servers by their own first connection IDs, and later goes by those of the servers alone."""

    def __init__(self, servers: Sequence[tuple[bytes, HostPort]]) -> None:
        self.servers = dict(servers)
        self.routed = dict.fromkeys(self.servers, 0)  # datagrams, by the server that their connection IDs named
        self.first: dict[bytes, bytes] = {}  # the servers of IDs that clients have chosen
        self._loop = asyncio.get_running_loop()
        self._backs: dict[tuple[Any, bytes], socket.socket] = {}  # towards a server, one for each address of a client
        self._front = socket.socket(type=socket.SOCK_DGRAM)
        self._front.bind(("127.0.0.1", 0))
        self.endpoint = HostPort(*self._front.getsockname())
        self._watch(self._front, self._forward)

    def _watch(self, sock: socket.socket, pass_on: Callable[[bytes, Any], None]) -> None:
        def readable() -> None:
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                pass_on(*sock.recvfrom(65536))

        sock.setblocking(False)
        self._loop.add_reader(sock, readable)

    def _forward(self, data: bytes, client: Any) -> None:
        key = (client, self._server_of(data))
        if key not in self._backs:
            back = self._backs[key] = socket.socket(type=socket.SOCK_DGRAM)
            server = self.servers[key[1]]
            back.connect((server.host, server.port))
            self._watch(back, lambda answer, _: self._front.sendto(answer, client) and None)
        self._backs[key].send(data)

    def _server_of(self, data: bytes) -> bytes:
        """Whose connection ID it is."""
        is_long = data[0] & 0x80
        identifier = data[6 : 6 + data[5]] if is_long else data[1:]
        for server_id in self.servers:
            if identifier.startswith(bytes((ROTATION << 5 | (len(server_id) + 6), *server_id))):
                self.routed[server_id] += 1
                return server_id
        assert is_long, "a packet of an established connection leads nowhere"
        return self.first.setdefault(identifier, SERVER_IDS[len(self.first) % len(SERVER_IDS)])

    def close(self) -> None:
        for sock in (self._front, *self._backs.values()):
            self._loop.remove_reader(sock)
            sock.close()


@contextlib.asynccontextmanager
async def balanced() -> AsyncIterator[Balancer]:
    async with contextlib.AsyncExitStack() as stack:
        servers: list[tuple[bytes, HostPort]] = []
        for server_id in SERVER_IDS:
            using = Parameters(server_of(server_id=server_id, server_id_rotation=ROTATION), grace_period=0.0)
            listener = await stack.enter_async_context(NetworkListener(using, on="127.0.0.1:0").serving(echo_streams))
            assert isinstance(listener.endpoint, HostPort)
            servers.append((server_id, listener.endpoint))
        with contextlib.closing(Balancer(servers)) as balancer:
            yield balancer


async def echoed(connection: Any) -> None:
    content = bytes(10_000)
    stream = await connection.open_stream()
    await stream.send(content, end_of_stream=True)
    assert await collect(stream) == content


async def test_connections_stay_with_their_server_when_they_move() -> None:
    async with balanced() as balancer:
        connections = [NetworkConnection(balancer.endpoint, client_of()) for _ in SERVER_IDS]
        for connection in connections:
            await echoed(connection)
        assert sorted(balancer.first.values()) == sorted(SERVER_IDS)  # each has another server
        before = dict(balancer.routed)
        for connection in connections:
            await connection.migrate()  # from an address that the balancer does not know
            await echoed(connection)
        assert all(balancer.routed[server_id] > before[server_id] > 0 for server_id in SERVER_IDS)
        assert len(balancer.first) == len(SERVER_IDS)
        for connection in connections:
            await connection.aclose()


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"server_id": b""}, ValueError, "server_id must be 1 to 13 bytes, got 0"),
        ({"server_id": bytes(14)}, ValueError, "server_id must be 1 to 13 bytes, got 14"),
        ({"server_id": 7}, TypeError, "server_id must be 1 to 13 bytes, got a int"),
        ({"server_id": b"x", "server_id_rotation": 7}, ValueError, "server_id_rotation must be from 0 to 6, got 7"),
    ],
)
def test_options_are_checked(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        QUIC(alpn=["test"], identity=IDENTITY, **options)
