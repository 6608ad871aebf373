"""0-RTT on simulated hosts: what is in the first flight, and what becomes of it on bad links and in races."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tieline import NetworkConnection, NetworkListener, Parameters, State
from tieline.testing import Fate, Host, SimulatedNetwork

from .programs import two_hosts
from .test_quic import BAD_LINKS, CONTENT, LATENCY, client_of, server_of

numbers = itertools.count()
INITIAL, EARLY, HANDSHAKE, RETRY, SHORT = "Initial", "0-RTT", "Handshake", "Retry", "1-RTT"


def varint(data: bytes, at: int) -> tuple[int, int]:
    """RFC 9000 section 16: the value, and where it ends."""
    size = 1 << (data[at] >> 6)
    return int.from_bytes(data[at : at + size]) & ((1 << (8 * size - 2)) - 1), at + size


def packets_of(datagram: bytes) -> list[str]:
    """The types of QUIC packets in a datagram (RFC 9000 section 17.2)."""
    found: list[str] = []
    at = 0
    while at < len(datagram):
        if not datagram[at] & 0x80:
            return [*found, SHORT]
        kind = (INITIAL, EARLY, HANDSHAKE, RETRY)[datagram[at] >> 4 & 3]
        found.append(kind)
        if kind == RETRY:
            return found
        at += 5
        at += 1 + datagram[at]
        at += 1 + datagram[at]
        if kind == INITIAL:
            length, at = varint(datagram, at)
            at += length
        length, at = varint(datagram, at)
        at += length
    return found


class Echo:
    """A server that answers each stream with what came; a ticket is good for as long as its options are the same."""

    def __init__(self, alpn: str, **options: Any) -> None:
        self.options = {"alpn": [alpn], "early_data": True, **options}
        self.received: list[tuple[int, bytes]] = []

    async def run(self) -> None:
        await NetworkListener(server_of(**self.options), on=443).run(self.handle)

    async def handle(self, connection: NetworkConnection[Any]) -> None:
        await connection.inbound_streams(self.answer)

    async def answer(self, stream: Any) -> None:
        content = b"".join([content async for content, _ in stream])
        self.received.append((stream.stream_id, content))
        await stream.send(content, end_of_stream=True)


@pytest.fixture
def alpn() -> str:
    return f"early {next(numbers)}"  # no other test's tickets


def connect(alpn: str, **parameters: Any) -> NetworkConnection[Any]:
    using = Parameters(client_of(alpn=[alpn], early_data=True), fast_open_allowed=True, **parameters)
    return NetworkConnection("server.test:443", using)


async def exchange(connection: NetworkConnection[Any], *contents: bytes) -> bool:
    """Each on a stream of its own, opened before ready; whether it went early."""
    streams = [await connection.open_stream() for _ in contents]
    assert connection.state is State.PREPARING
    for stream, content in zip(streams, contents, strict=True):
        stream.send_idempotent(content, end_of_stream=True)
    for number, (stream, content) in enumerate(zip(streams, contents, strict=True)):
        assert b"".join([piece async for piece, _ in stream]) == content
        assert stream.stream_id == 4 * number
    return bool(connection.security_metadata.early_data_accepted)


def first_flight(network: SimulatedNetwork, source: Any, destination: Any) -> list[str]:
    """What the client has sent at once."""
    sent = [
        entry
        for entry in network.trace
        if entry.fate is Fate.SENT and (entry.packet.source, entry.packet.destination) == (source, destination)
    ]
    return [kind for entry in sent if entry.time == sent[0].time for kind in packets_of(entry.packet.payload)]


async def test_the_first_flight(simulated_network: SimulatedNetwork, alpn: str) -> None:
    """Bytes and their end leave in the datagram behind the first one, not a round trip later."""
    host, client = two_hosts(simulated_network, latency=LATENCY)
    host.start(Echo(alpn).run)
    with client:
        for early in (False, True):
            async with connect(alpn) as connection:
                assert await exchange(connection, b"question") is early
                flight = first_flight(simulated_network, connection.local_endpoint, connection.remote_endpoint)
            assert (EARLY in flight) is early and flight[0] == INITIAL


@pytest.mark.parametrize("conditions", BAD_LINKS.values(), ids=BAD_LINKS)
@pytest.mark.parametrize("again", [{}, {"retry_above": 0}, {"early_data": False}], ids=["accepted", "retry", "refused"])
async def test_over_bad_links(
    simulated_network: SimulatedNetwork, alpn: str, conditions: dict[str, Any], again: dict[str, Any]
) -> None:
    """Whatever is lost, and whatever the server says to it, each stream arrives once and as a whole."""
    host, client = two_hosts(simulated_network, latency=LATENCY, **conditions)
    contents = b"small", CONTENT[:60_000], b"another", CONTENT[1000:3000]
    host.start(Echo(alpn).run)
    with client:
        async with connect(alpn) as connection:
            assert not await exchange(connection, *contents)
    host.crash()
    host.restart()
    server = Echo(alpn, **again)
    host.start(server.run)
    with client:
        async with connect(alpn) as connection:
            accepted = await exchange(connection, *contents)
    if "loss" not in conditions:  # or the tickets may be
        assert accepted is again.get("early_data", True)
    assert sorted(server.received) == [(4 * number, content) for number, content in enumerate(contents)]


async def test_a_race(simulated_network: SimulatedNetwork, alpn: str) -> None:
    """The first address is silent, and has the first flight as well; the one that answers loses nothing by that."""
    host, client = two_hosts(simulated_network, latency=LATENCY)
    server = Echo(alpn)
    host.start(server.run)
    with client:
        async with connect(alpn) as connection:
            await exchange(connection, b"question")
        simulated_network.resolver.answer("server.test", "10.0.0.9", "10.0.0.1", version=4)
        host.interfaces[-1].add_address("10.0.0.9")
        host.firewall.drop(destination="10.0.0.9")
        for _ in range(2):
            server.received.clear()
            async with connect(alpn) as connection:
                assert await exchange(connection, b"one", b"two") is True
                assert connection.remote_endpoint.host == "10.0.0.1"
                silent = [
                    kind
                    for entry in simulated_network.trace
                    if entry.packet.destination.host == "10.0.0.9" and entry.fate is Fate.SENT
                    for kind in packets_of(entry.packet.payload)
                ]
            assert EARLY in silent
            assert sorted(server.received) == [(0, b"one"), (4, b"two")]


@pytest.mark.parametrize("conditions", ["loss", "reorder"])
def test_early_data_does_not_block_the_handshake(alpn: str, conditions: str) -> None:
    """With these seeds a first flight full of early data left no room for what was lost of the handshake, which stood still."""
    for seed in (6, 9, 13, 18, 19, 53, 55):
        network = SimulatedNetwork(seed=seed)
        host, client = two_hosts(network, latency=LATENCY, **BAD_LINKS[conditions])
        network.run(visit_twice, host, client, f"{alpn} {seed}")
        assert network.time < 5


async def visit_twice(host: Host, client: Host, alpn: str) -> None:
    host.start(Echo(alpn).run)
    with client:
        for _ in range(2):
            async with connect(alpn) as connection:
                await exchange(connection, b"small", CONTENT[:60_000], b"another", CONTENT[1000:3000])
