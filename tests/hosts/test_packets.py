"""What packets say on the wire, and what a router does with it.

client  rc 10.88.1.1 fd88:1::1  ──  10.88.1.9 fd88:1::9  router  10.88.2.9 fd88:2::9  ──  sc 10.88.2.1 fd88:2::1  server
                                                                 MTU 1400
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tieline import (
    ECN,
    IP,
    QUIC,
    TCP,
    UDP,
    IPMetadata,
    MessageTooLargeError,
    NetworkConnection,
    NetworkListener,
    Parameters,
    ServiceClass,
)
from tieline.testing import certificates

from ..peers import until
from .conftest import Hosts

AUTHORITY = certificates()
VERSIONS = {"IPv4": "10.88.2.1", "IPv6": "fd88:2::1"}
HEADERS = {"IPv4": 28, "IPv6": 48}
NARROW = 1400
ETH_P_ALL, IP_RECVTTL, IPV6_RECVHOPLIMIT = 3, 12, 51
DESCRIBED = UDP(IP(metadata_received=True))


@pytest.fixture
def routed(hosts: Hosts) -> Iterator[Hosts]:
    router = f"{hosts.client}-router"
    subprocess.run(["ip", "netns", "add", router], check=True)
    try:
        dad = ("net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
        hosts.set(*dad, "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", on=router)
        for number, (host, name) in enumerate(((hosts.client, "rc"), (hosts.server, "sc")), 1):
            hosts.ip("link", "add", name, "type", "veth", "peer", "name", f"r{number}", "netns", router, on=host)
            for prefix, length in ((f"10.88.{number}.", 24), (f"fd88:{number}::", 64)):
                hosts.ip("addr", "add", f"{prefix}1/{length}", "dev", name, on=host)
                hosts.ip("addr", "add", f"{prefix}9/{length}", "dev", f"r{number}", on=router)
            hosts.ip("link", "set", name, "up", on=host)
            hosts.ip("link", "set", f"r{number}", "up", on=router)
            for prefix in (f"10.88.{3 - number}.0/24", f"fd88:{3 - number}::/64"):
                via = f"fd88:{number}::9" if ":" in prefix else f"10.88.{number}.9"
                hosts.ip("route", "add", prefix, "via", via, on=host)
        hosts.ip("link", "set", "r2", "mtu", str(NARROW), on=router)
        yield hosts
    finally:
        subprocess.run(["ip", "netns", "del", router], check=True)


@contextlib.contextmanager
def receiver(hosts: Hosts, version: str) -> Iterator[socket.socket]:
    """A socket of the server, which is told of hop limits."""
    with hosts.on_server():
        sock = socket.socket(socket.AF_INET6 if version == "IPv6" else socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.bind((VERSIONS[version], 0))
        sock.settimeout(5)
        if version == "IPv6":
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        yield sock


def hops_of(ancillary: list[tuple[int, int, bytes]]) -> int:
    ((_, _, data),) = ancillary
    (hops,) = struct.unpack("=i", data)
    return int(hops)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_router_counts_hops(routed: Hosts, version: str) -> None:
    with receiver(routed, version) as server:
        async with NetworkConnection(server.getsockname()[:2], DESCRIBED) as connection:
            for metadata, expected in ((None, 63), (IPMetadata(hop_limit=9), 8), (IPMetadata(hop_limit=2), 1), (None, 63)):
                await connection.send(b"?", metadata=metadata)
                _, ancillary, _, peer = server.recvmsg(100, 100)
                assert hops_of(ancillary) == expected
            server.sendto(b"!", peer)
            assert (await connection.receive()).metadata.ip == IPMetadata(ecn=ECN.NOT_ECT, dscp=0, hop_limit=63)
            await connection.send(b"not further than the router", metadata=IPMetadata(hop_limit=1))
            await connection.send(b"farther")
            assert server.recv(100) == b"farther"


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_datagram_that_is_too_large_for_a_router(routed: Hosts, version: str) -> None:
    """It is lost, and told; from then on the limit is known, and one that is too large does not even leave."""
    largest, fitting = 1500 - HEADERS[version], NARROW - HEADERS[version]
    whole = IPMetadata(fragmentation_disabled=True)
    with receiver(routed, version) as server:
        async with NetworkConnection(server.getsockname()[:2], UDP()) as connection:
            await connection.ready()
            assert connection.maximum_datagram_size == largest
            await connection.send(bytes(largest), metadata=whole)
            with pytest.raises(MessageTooLargeError, match="a router on the path did not forward a datagram") as lost:
                await connection.receive()
            assert lost.value.limit == connection.maximum_datagram_size == fitting
            assert f"at most {fitting} bytes on this path" in str(lost.value)
            for metadata in (whole, None):
                with pytest.raises(MessageTooLargeError, match=f"at most {fitting} bytes on this path, got {fitting + 1}"):
                    await connection.send(bytes(fitting + 1), metadata=metadata)
                await connection.send(bytes(fitting), metadata=metadata)
                assert len(server.recv(2000)) == fitting


async def test_of_a_host_that_lets_routers_cut_packets(routed: Hosts) -> None:
    """Where the system sends without the don't-fragment bit, it is set for the one datagram that asks for it."""
    routed.set("net.ipv4.ip_no_pmtu_disc=1")
    with receiver(routed, "IPv4") as server, captured("rc") as packets:
        async with NetworkConnection(server.getsockname()[:2], UDP()) as connection:
            await connection.send(b"1".ljust(1472))
            await connection.send(b"2".ljust(1472), metadata=IPMetadata(fragmentation_disabled=True))
            assert server.recv(2000)[:1] == b"1"
            server.setblocking(False)
            with pytest.raises(BlockingIOError):
                server.recv(2000)
    assert [packet.whole for packet in packets if packet.protocol == socket.IPPROTO_UDP] == [False, True]


# Every packet of a connection


class Seen(NamedTuple):
    """What a packet on the wire says."""

    protocol: int
    traffic_class: int
    whole: bool
    source_port: int
    destination_port: int


@contextlib.contextmanager
def captured(device: str) -> Iterator[list[Seen]]:
    """The packets that leave through a device during the block."""
    packets: list[Seen] = []
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)) as sock:
        sock.bind((device, ETH_P_ALL))
        sock.setblocking(False)
        yield packets
        while True:
            try:
                data, address = sock.recvfrom(65536)
            except BlockingIOError:
                return
            if address[2] != socket.PACKET_OUTGOING:
                continue
            if data[0] >> 4 == 6:
                said: tuple[int, int, bool] = (data[6], (data[0] << 4 | data[1] >> 4) & 255, True)
                ports = data[40:44]
            else:
                said = (data[9], data[1], bool(data[6] & 0x40))
                ports = data[20:24]
            packets.append(Seen(*said, *struct.unpack("!HH", ports)))


OWN, THEIRS = ServiceClass.INTERACTIVE_VIDEO, ServiceClass.SIGNALING


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_every_segment_has_the_code_point(hosts: Hosts, host: str) -> None:
    """Also those of the handshake, which the kernels send by themselves."""

    async def echo(connection: NetworkConnection[Any]) -> None:
        await connection.send((await connection.receive()).content, end_of_stream=True)

    with captured("lo") as packets:
        async with (
            NetworkListener(Parameters(TCP(), service_class=THEIRS), on=(host, 0)).serving(echo) as listener,
            NetworkConnection(listener.endpoint, Parameters(TCP(), service_class=OWN)) as connection,
        ):
            await connection.send(b"question")
            await connection.receive()
            port = listener.port
    said = {port: THEIRS, 0: OWN}
    segments = [one for one in packets if one.protocol == socket.IPPROTO_TCP]
    assert len(segments) >= 6
    for segment in segments:
        expected = said[port if segment.source_port == port else 0]
        assert segment.traffic_class >> 2 == expected.dscp, segment


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_quic_has_the_code_point_and_ecn(hosts: Hosts, host: str) -> None:
    server = QUIC(alpn=["x"], identity=AUTHORITY.identity("localhost"))
    client = QUIC(alpn=["x"], trust=AUTHORITY.trust, server_name="localhost")
    arrived: list[int] = []

    async def count(connection: NetworkConnection[Any]) -> None:
        async def stream(one: Any) -> None:
            async for content, _ in one:
                arrived.append(len(content))

        await connection.inbound_streams(stream)

    with captured("lo") as packets:
        async with (
            NetworkListener(Parameters(server, service_class=THEIRS), on=(host, 0)).serving(count) as listener,
            NetworkConnection(listener.endpoint, Parameters(client, service_class=OWN)) as connection,
        ):
            stream = await connection.open_stream()
            await stream.send(bytes(100_000), end_of_stream=True)
            async with asyncio.timeout(10):
                await until(lambda: sum(arrived) == 100_000)
            port = listener.port
    datagrams = [one for one in packets if one.protocol == socket.IPPROTO_UDP]
    for mine, expected in ((True, OWN), (False, THEIRS)):
        bytes_ = {one.traffic_class for one in datagrams if (one.destination_port == port) is mine}
        assert {byte >> 2 for byte in bytes_} == {expected.dscp}
        assert ECN.ECT_0 in {byte & 3 for byte in bytes_}
