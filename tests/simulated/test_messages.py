"""Messages of every kind on simulated hosts: a bad link, and silence, cost time but no message."""

from __future__ import annotations

from typing import Any

import pytest

from tieline import TCP, TLV, Coder, Framer, NetworkConnection, NetworkListener, WebSocket
from tieline.testing import SimulatedNetwork

from ..engines.test_framer import Blocks
from .programs import two_hosts

STACKS: dict[str, Any] = {
    "TLV": TLV(TCP()),
    "Framer": Framer(Blocks, TCP()),
    "WebSocket": WebSocket(TCP()),
    "Coder": Coder(bytes, TCP()),
    "Coder on WebSocket": Coder(bytes, WebSocket(TCP())),
    "TLV on WebSocket": TLV(WebSocket(TCP())),
}
CONTENTS = [b"", b"a", bytes(range(256)) * 16, b"x" * 40_000]


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("link", [{}, {"loss": 0.05, "reorder": 0.1, "jitter": 0.003}], ids=["good", "bad"])
async def test_messages_arrive_whole_and_in_order(simulated_network: SimulatedNetwork, name: str, link: dict[str, Any]) -> None:
    server, client = two_hosts(simulated_network, latency=0.02, **link)

    async def mirror(connection: NetworkConnection[Any]) -> None:
        async for content, _ in connection.messages:
            await connection.send(content)

    server.start(NetworkListener(STACKS[name], on=7).run, mirror)
    with client:
        async with NetworkConnection("server.test:7", STACKS[name]) as connection:
            for content in CONTENTS:
                await connection.send(content)
            for content in CONTENTS:
                assert (await connection.receive()).content == content


@pytest.mark.parametrize("name", STACKS)
async def test_what_is_sent_in_a_row_leaves_together(simulated_network: SimulatedNetwork, name: str) -> None:
    """The first few at once; the last although nothing follows."""
    server, client = two_hosts(simulated_network, latency=0.02)
    received: list[bytes] = []

    async def collect(connection: NetworkConnection[Any]) -> None:
        async for content, _ in connection.messages:
            received.append(content)
            if len(received) == 100:
                await connection.send(b"all")

    def sent() -> int:
        return sum("client.test: sent" in str(entry) and entry.packet.payload != b"" for entry in simulated_network.trace)

    server.start(NetworkListener(STACKS[name], on=7).run, collect)
    with client:
        async with NetworkConnection("server.test:7", STACKS[name]) as connection:
            await connection.ready()
            before = sent()
            for number in range(100):
                await connection.send(b"%d" % number)
                if number == 3:
                    assert sent() - before == 4
            assert (await connection.receive()).content == b"all"
            assert sent() - before < 20
    assert received == [b"%d" % number for number in range(100)]
