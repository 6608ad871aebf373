"""What random operations have found, each as the shortest program that shows it. The seed is part of it."""

from __future__ import annotations

import asyncio
from typing import Any

from tieline import TLS, NetworkConnection, NetworkListener, Parameters
from tieline.testing import SimulatedNetwork, certificates

from .world import World

AUTHORITY = certificates()
SERVER = TLS(identity=AUTHORITY.identity("server.test"))
CLIENT = TLS(trust=AUTHORITY.trust, server_name="server.test")


def test_more_than_the_limit_in_the_read_that_ends_the_handshake() -> None:
    """The last segment of the handshake came late, and everything behind it at once: from then on nothing made the peer wait."""
    network = SimulatedNetwork(seed=12)
    server, client = network.host("server.test", "192.0.2.1"), network.host("client.test", "192.0.2.2")
    network.link(server, client, reorder=0.3)
    accepted: list[NetworkConnection[Any]] = []

    async def keep(connection: NetworkConnection[Any]) -> None:
        accepted.append(connection)
        await asyncio.Event().wait()

    async def serve() -> None:
        await NetworkListener(Parameters(SERVER, receive_limit=1000), on=443).run(keep)

    async def main() -> None:
        server.start(serve)
        await asyncio.sleep(1)
        with client:
            # Records of 1000 bytes, so that one of them fits into the first segment.
            connection = NetworkConnection("192.0.2.1:443", Parameters(CLIENT, send_limit=1000))
            sending = asyncio.create_task(connection.send(bytes(1_000_000)))
            await asyncio.sleep(60)
            assert not sending.done()
            # A read and a record more than the limit.
            assert accepted[0]._flow.receiving.inbox.size <= 1000 + 64 * 1024 + 1000
            sending.cancel()
            connection.abort()

    network.run(main)


def test_random_operations_repeat_from_their_seed() -> None:
    """The same world and the same operations give the same packets."""

    def trace() -> list[str]:
        world = World(7, "tcp", {"latency": 0.02, "jitter": 0.01, "loss": 0.1, "reorder": 0.1, "duplicate": 0.1}, 1000)
        try:
            world.do(world.connect)
            world.advance(1.0)
            for end in world.pairs[0].ends:
                world.do(lambda end=end: world.send(end, 20_000, False))  # type: ignore[misc]
                world.do(lambda end=end: world.receive(end, "exactly", 15_000))  # type: ignore[misc]
            world.advance(1.0)
            world.settle()
            return [str(entry) for entry in world.network.trace]
        finally:
            world.close()

    first = trace()
    assert len(first) > 100 and first == trace()
