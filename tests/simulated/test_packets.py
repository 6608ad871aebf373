"""What packets say in a simulated network: what senders say, what routers and queues change, and what receivers are told."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from tieline import (
    ECN,
    IP,
    QUIC,
    TCP,
    UDP,
    ConnectError,
    IPMetadata,
    NetworkConnection,
    NetworkListener,
    Parameters,
    ServiceClass,
)
from tieline.testing import Host, SimulatedNetwork, TransportProtocol, certificates
from tieline.testing.conformance import PACKET_CHECKS, Check

from .programs import fates, serve, two_hosts

DESCRIBED = UDP(IP(metadata_received=True, receive_time_calculated=True))
AUTHORITY = certificates()


class Listening:
    """A server whose datagrams are looked at by the test."""

    def __init__(self, using: Any = DESCRIBED) -> None:
        self.using = using
        self.received: list[tuple[bytes, IPMetadata]] = []
        self.connections: asyncio.Queue[NetworkConnection[Any]] = asyncio.Queue()

    async def serve(self) -> None:
        await NetworkListener(self.using, on=53).run(self.handle)

    async def handle(self, connection: NetworkConnection[Any]) -> None:
        self.connections.put_nowait(connection)
        async for content, metadata in connection:
            assert metadata.ip is not None
            self.received.append((content, metadata.ip))

    async def hand_out(self) -> None:
        async def wait(connection: NetworkConnection[Any]) -> None:
            self.connections.put_nowait(connection)
            await asyncio.Event().wait()

        await NetworkListener(self.using, on=53).run(wait)


def between(network: SimulatedNetwork, routers: int, **conditions: Any) -> tuple[Host, Host]:
    """Server and client with so many routers between them."""
    server, client = network.host("server.test", "192.0.2.1"), network.host("client.test", "10.0.0.1")
    nodes = [client, *(network.router(f"router{number}.test", f"10.1.{number}.1") for number in range(routers)), server]
    for one, other in itertools.pairwise(nodes):
        network.link(one, other, **conditions)
    return server, client


@pytest.mark.parametrize("check", PACKET_CHECKS, ids=str)
async def test_conformance(simulated_network: SimulatedNetwork, check: Check) -> None:
    server, client = between(simulated_network, 3)
    listening = Listening()
    server.start(listening.hand_out)

    async def make_pair() -> Any:
        near = NetworkConnection("192.0.2.1:53", DESCRIBED)
        await near.send(b"")
        far = await listening.connections.get()
        await far.receive()
        return near, far

    with client:
        await check(make_pair)


async def test_routers_count_hops(simulated_network: SimulatedNetwork) -> None:
    server, client = between(simulated_network, 3, latency=0.01)
    listening = Listening()
    server.start(listening.serve)
    with client:
        async with NetworkConnection("192.0.2.1:53", Parameters(UDP(IP(hop_limit=20)))) as connection:
            await connection.send(b"usual")
            await connection.send(b"described", metadata=IPMetadata(hop_limit=4, dscp=46, ecn=ECN.ECT_1))
            await connection.send(b"too far", metadata=IPMetadata(hop_limit=3))
            await asyncio.sleep(1)
            with pytest.raises(ConnectError, match="No route to host"):
                await connection.send(b"that one did not arrive")
    assert listening.received == [
        (b"usual", IPMetadata(ecn=ECN.NOT_ECT, dscp=0, hop_limit=17, receive_time=pytest.approx(0.04))),
        (b"described", IPMetadata(ecn=ECN.ECT_1, dscp=46, hop_limit=1, receive_time=pytest.approx(0.04))),
    ]
    assert [entry.place for entry in fates(simulated_network, "too many hops")] == ["router2.test"]


async def test_every_packet_of_a_connection_has_its_code_point(simulated_network: SimulatedNetwork) -> None:
    """Of streams as well, both ways, and through a NAT."""
    server = simulated_network.host("server.test", "198.51.100.1")
    client = simulated_network.host("client.test", "192.168.0.2")
    nat = simulated_network.nat("nat.test", "203.0.113.1")
    simulated_network.link(client, nat)
    simulated_network.link(nat.outside, server)
    server.start(serve, Parameters(TCP(), service_class=ServiceClass.SIGNALING))
    server.start(Listening().serve)
    with client:
        stream = Parameters(TCP(), service_class=ServiceClass.RESPONSIVE_DATA)
        async with NetworkConnection("198.51.100.1:80", stream) as connection:
            await connection.send(b"question")
            await connection.receive()
        datagrams = Parameters(UDP(), service_class=ServiceClass.INTERACTIVE_VOICE)
        async with NetworkConnection("198.51.100.1:53", datagrams) as connection:
            await connection.send(b"hello")
            await connection.send(b"hello", metadata=IPMetadata(ecn=ECN.ECT_0))
        await asyncio.sleep(1)
    arrived = [entry.packet for entry in fates(simulated_network, "server.test: arrived")]
    assert {(packet.protocol, packet.dscp, packet.ecn) for packet in arrived} == {
        (TransportProtocol.TCP, 18, ECN.NOT_ECT),
        (TransportProtocol.UDP, 46, ECN.NOT_ECT),
        (TransportProtocol.UDP, 46, ECN.ECT_0),
    }
    assert {entry.packet.dscp for entry in fates(simulated_network, "client.test: arrived")} == {40}


async def test_a_long_queue_marks_who_reacts_to_it(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network, rate=100_000.0, queue=20_000, marking=5_000)
    listening = Listening()
    server.start(listening.serve)
    with client:
        async with NetworkConnection("10.0.0.1:53", UDP()) as connection:
            for number in range(15):
                for ecn in ECN:
                    await connection.send(b"%d" % number + bytes(270), metadata=IPMetadata(ecn=ecn))
            await asyncio.sleep(1)
    assert len(listening.received) == 60
    first, second = listening.received[:16], listening.received[20:]
    assert [metadata.ecn for _, metadata in first] == [*ECN] * 4
    assert [metadata.ecn for _, metadata in second] == [ECN.NOT_ECT, ECN.CE, ECN.CE, ECN.CE] * 10


async def transfer(network: SimulatedNetwork, **conditions: Any) -> int:
    """Send a megabyte over QUIC, through a router with a slow link behind it; how many packets were dropped there."""
    server, client = network.host("server.test", "192.0.2.1"), network.host("client.test", "10.0.0.1")
    router = network.router("router.test")
    network.link(client, router)
    network.link(router, server, latency=0.02, rate=1_000_000.0, queue=120_000, **conditions)
    count = 0

    async def count_bytes(connection: NetworkConnection[Any]) -> None:
        async def stream(one: Any) -> None:
            nonlocal count
            async for content, _ in one:
                count += len(content)
            await one.send(b"thanks", end_of_stream=True)

        await connection.inbound_streams(stream)

    async def listen() -> None:
        await NetworkListener(QUIC(alpn=["x"], identity=AUTHORITY.identity("server.test")), on=443).run(count_bytes)

    server.start(listen)
    with client:
        async with NetworkConnection("server.test:443", QUIC(alpn=["x"], trust=AUTHORITY.trust)) as connection:
            stream = await connection.open_stream()
            await stream.send(bytes(1_000_000), end_of_stream=True)
            assert (await stream.receive(exactly=6)).content == b"thanks"
    assert count == 1_000_000
    return len(fates(network, "the queue is full"))


async def test_quic_slows_down_before_packets_are_lost(simulated_network: SimulatedNetwork) -> None:
    assert await transfer(simulated_network, marking=20_000) == 0
    marked = [entry.packet.ecn for entry in fates(simulated_network, "server.test: arrived: UDP")]
    assert 0 < marked.count(ECN.CE) < marked.count(ECN.ECT_0)


async def test_quic_without_marks_fills_the_queue(simulated_network: SimulatedNetwork) -> None:
    assert await transfer(simulated_network) > 0
    assert ECN.CE not in {entry.packet.ecn for entry in simulated_network.trace}
