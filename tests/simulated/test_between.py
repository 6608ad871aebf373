"""What lies between hosts: routers, address translation, firewalls, partitions; and the names that lead there."""

from __future__ import annotations

import asyncio
import errno
import itertools
import socket
from typing import Any

import pytest

from tieline import (
    IP,
    TCP,
    UDP,
    ConnectError,
    DNSError,
    HostPort,
    IdleTimeoutError,
    IPVersion,
    NetworkConnection,
    NetworkListener,
    Parameters,
    State,
)
from tieline.drivers.simulated.nat import AddressTranslation
from tieline.testing import Fate, Host, Packet, Router, Rule, SimulatedNetwork, TransportProtocol

from .programs import echo, failure_of, fates, serve, serve_datagrams, two_hosts


def now() -> float:
    return asyncio.get_running_loop().time()


async def ask(connection: NetworkConnection[Any], question: bytes = b"question") -> float:
    began = now()
    await connection.send(question)
    assert (await connection.receive()).content == question
    return now() - began


async def tell_who_asks(connection: NetworkConnection[Any]) -> None:
    """Answer everything with the address that it comes from."""
    async for _ in connection:
        await connection.send(str(connection.remote_endpoint).encode())


async def seen_as(connection: NetworkConnection[Any]) -> HostPort:
    """Where the server sees the connection come from."""
    await connection.send(b"who am I?")
    return HostPort.parse((await connection.receive()).content.decode())


# Routers


def chain(network: SimulatedNetwork, routers: int, **conditions: Any) -> tuple[Host, Host, list[Router]]:
    """Client, routers, server; the latency of each link is 10 ms."""
    server, client = network.host("server.test", "192.0.2.1"), network.host("client.test", "10.0.0.1")
    between = [network.router(f"router{number}.test", f"10.1.{number}.1") for number in range(routers)]
    nodes = [client, *between, server]
    for one, other in itertools.pairwise(nodes):
        network.link(one, other, latency=0.01, **conditions)
    return server, client, between


async def test_over_two_routers(simulated_network: SimulatedNetwork) -> None:
    server, client, _ = chain(simulated_network, 2)
    server.start(serve)
    with client:
        async with NetworkConnection("server.test:80", TCP()) as connection:
            await connection.ready()
            assert now() == pytest.approx(0.06)
            assert await ask(connection) == pytest.approx(0.06)
    first = [entry for entry in simulated_network.trace if entry.packet.flags == "S"]
    assert [(entry.place, entry.fate) for entry in first] == [
        ("client.test", Fate.SENT),
        ("router0.test", Fate.FORWARDED),
        ("router1.test", Fate.FORWARDED),
        ("server.test", Fate.ARRIVED),
    ]
    assert [entry.packet.hops for entry in first] == [64, 63, 62, 62]


@pytest.mark.parametrize("hops", [1, 2, 3])
async def test_packets_go_so_many_hops(simulated_network: SimulatedNetwork, hops: int) -> None:
    server, client, _ = chain(simulated_network, 2)
    server.start(serve)
    server.start(serve_datagrams)
    with client:
        stream = NetworkConnection("192.0.2.1:80", TCP(IP(hop_limit=hops)))
        datagrams = NetworkConnection("192.0.2.1:53", UDP(IP(hop_limit=hops)))
        if hops == 3:
            await ask(stream)
            await ask(datagrams)
            stream.abort()
        else:
            error = await failure_of(stream)
            assert isinstance(error, ConnectError) and error.code == errno.EHOSTUNREACH
            assert now() == pytest.approx(0.02 * hops)
            await datagrams.send(b"x")
            with pytest.raises(ConnectError, match="No route to host"):
                await datagrams.receive()
            assert {entry.place for entry in fates(simulated_network, "too many hops")} == {f"router{hops - 1}.test"}
        datagrams.abort()


async def test_a_long_chain_ends(simulated_network: SimulatedNetwork) -> None:
    _server, client, _ = chain(simulated_network, 64)
    with client:
        error = await failure_of(NetworkConnection("192.0.2.1:80", TCP()))
        assert isinstance(error, ConnectError) and error.code == errno.EHOSTUNREACH


async def test_a_known_address_that_nothing_leads_to(simulated_network: SimulatedNetwork) -> None:
    """The router knows, and says so at once."""
    server, client, _routers = chain(simulated_network, 2)
    server.start(serve)
    server.start(serve_datagrams)
    server.interfaces[0].links[0].down()
    with client:
        connection = NetworkConnection("192.0.2.1:80", TCP())
        error = await failure_of(connection)
        assert isinstance(error, ConnectError) and error.code == errno.EHOSTUNREACH and "cannot be reached" in str(error)
        assert now() == pytest.approx(0.02)  # the first router sees that the link is down
        async with NetworkConnection("192.0.2.1:53", UDP()) as datagrams:
            await datagrams.send(b"x")
            with pytest.raises(ConnectError, match="No route to host"):
                await datagrams.receive()
            server.interfaces[0].links[0].up()
            await ask(datagrams)


async def test_an_established_connection_outlives_what_routers_say(simulated_network: SimulatedNetwork) -> None:
    server, client, _ = chain(simulated_network, 1)
    server.start(serve)
    with client:
        async with NetworkConnection("192.0.2.1:80", TCP()) as connection:
            await ask(connection)
            link = server.interfaces[0].links[0]
            link.down()
            asking = asyncio.create_task(ask(connection))
            await asyncio.sleep(2)
            assert connection.state is State.READY and not asking.done()
            link.up()
            await asking


@pytest.mark.parametrize("routers", [0, 1])
async def test_an_unknown_address_is_silent(simulated_network: SimulatedNetwork, routers: int) -> None:
    _server, client, _ = chain(simulated_network, routers)
    with client:
        error = await failure_of(NetworkConnection("203.0.113.9:80", TCP(connection_timeout=5.0)))
        assert isinstance(error, TimeoutError) and now() == pytest.approx(5.0)
        async with NetworkConnection("203.0.113.9:53", UDP()) as datagrams:
            await datagrams.send(b"x")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(10):
                    await datagrams.receive()
    assert fates(simulated_network, "dropped, nobody has this address")


async def test_the_shorter_way_is_taken_while_it_is_there(simulated_network: SimulatedNetwork) -> None:
    server, client, routers = chain(simulated_network, 2)
    simulated_network.link(routers[0], server, latency=0.01)
    short = routers[0].interfaces[0].links[-1]
    server.start(serve)
    with client:
        async with NetworkConnection("192.0.2.1:80", TCP()) as connection:
            await connection.ready()
            assert await ask(connection) == pytest.approx(0.04)
            short.down()
            assert await ask(connection) == pytest.approx(0.06)
            short.up()
            assert await ask(connection) == pytest.approx(0.04)


async def test_hosts_do_not_forward(simulated_network: SimulatedNetwork) -> None:
    one, middle, other = (
        simulated_network.host(f"{name}.test", f"10.0.0.{number}") for number, name in enumerate(("one", "middle", "other"), 1)
    )
    simulated_network.link(one, middle)
    simulated_network.link(middle, other)
    other.start(serve)
    with one:
        error = await failure_of(NetworkConnection("10.0.0.3:80", TCP(connection_timeout=2.0)))
        assert isinstance(error, TimeoutError)


async def test_a_router_answers_for_its_own_address(simulated_network: SimulatedNetwork) -> None:
    _server, client, _ = chain(simulated_network, 1)
    with client:
        assert "nobody listens there" in str(await failure_of(NetworkConnection("10.1.0.1:80", TCP())))
        async with NetworkConnection("10.1.0.1:53", UDP()) as datagrams:
            await datagrams.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                await datagrams.receive()


# Address translation


def home(network: SimulatedNetwork, **timeouts: float) -> tuple[Host, list[Host], Router]:
    """Two machines behind a NAT with the address 203.0.113.1, and a server outside."""
    server = network.host("server.test", "192.0.2.1")
    inside = [network.host(f"inside{number}.test", f"192.168.0.{number + 2}") for number in range(2)]
    nat = network.nat("nat.test", "203.0.113.1", **timeouts)
    for host in inside:
        network.link(host, nat, latency=0.01)
    assert nat.outside is not None
    network.link(nat.outside, server, latency=0.01)
    return server, inside, nat


@pytest.mark.parametrize(("stack", "port"), [(TCP(), 80), (UDP(), 53)])
async def test_those_inside_share_an_address(simulated_network: SimulatedNetwork, stack: Any, port: int) -> None:
    server, inside, _ = home(simulated_network)
    server.start(serve, TCP(), 80, tell_who_asks)
    server.start(serve_datagrams, 53, tell_who_asks)
    seen: list[HostPort] = []
    for host in inside:
        with host:
            async with (
                NetworkConnection(f"192.0.2.1:{port}", stack) as one,
                NetworkConnection(f"192.0.2.1:{port}", stack) as other,
            ):
                seen += [await seen_as(one), await seen_as(other)]
                assert isinstance(one.local_endpoint, HostPort) and one.local_endpoint.host == host.addresses[0]
                assert one.remote_endpoint == HostPort("192.0.2.1", port)
    assert {one.host for one in seen} == {"203.0.113.1"} and len({one.port for one in seen}) == 4
    outside = [entry.packet for entry in simulated_network.trace if entry.place == "server.test"]
    assert not [packet for packet in outside if "192.168." in str(packet)]


async def test_one_mapping_for_all_peers(simulated_network: SimulatedNetwork) -> None:
    """RFC 4787, REQ-1: what the mapping depends on is the inside alone."""
    server, inside, nat = home(simulated_network)
    other = simulated_network.host("other.test", "192.0.2.2")
    simulated_network.link(nat.outside, other)
    for host in (server, other):
        host.start(serve_datagrams, 53, tell_who_asks)
    with inside[0]:
        seen: list[HostPort] = []
        for place in ("192.0.2.1:53", "192.0.2.2:53"):
            async with NetworkConnection(place, Parameters(UDP(), local_port=7000)) as connection:
                seen.append(await seen_as(connection))
    assert seen[0] == seen[1]


async def test_nothing_comes_in_unasked(simulated_network: SimulatedNetwork) -> None:
    server, inside, _ = home(simulated_network)
    stranger = simulated_network.host("stranger.test", "192.0.2.9")
    simulated_network.link(stranger, server.interface("eth1", "192.0.2.10"))
    server.start(serve_datagrams, 53, tell_who_asks)
    inside[0].start(serve)
    with inside[0]:
        async with NetworkConnection("192.0.2.1:53", UDP()) as connection:
            outside = await seen_as(connection)
            with server:
                for place in ("203.0.113.1:80", "192.168.0.2:80"):
                    error = await failure_of(NetworkConnection(place, TCP(connection_timeout=2.0)))
                    assert isinstance(error, ConnectError), place
                async with NetworkConnection(outside, UDP()) as unasked:  # the right address, from another port
                    await unasked.send(b"let me in")
            await asyncio.sleep(1)
            assert len(fates(simulated_network, "nat.test: dropped, the NAT has no mapping")) == 3
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await connection.receive()


async def test_what_leads_inside_is_unreachable_from_outside(simulated_network: SimulatedNetwork) -> None:
    server, inside, _ = home(simulated_network)
    inside[0].start(serve)
    with server:
        error = await failure_of(NetworkConnection("192.168.0.2:80", TCP()))
        assert isinstance(error, ConnectError) and error.code == errno.EHOSTUNREACH
    assert not [entry for entry in simulated_network.trace if entry.place == "inside0.test"]


@pytest.mark.parametrize(("pause", "same"), [(29.0, True), (31.0, False)])
async def test_a_mapping_of_datagrams_expires(simulated_network: SimulatedNetwork, pause: float, same: bool) -> None:
    server, inside, _ = home(simulated_network, timeout=30.0)
    server.start(serve_datagrams, 53, tell_who_asks)
    with inside[0]:
        async with NetworkConnection("192.0.2.1:53", UDP()) as connection:
            first = await seen_as(connection)
            for _ in range(3):
                await asyncio.sleep(pause)
                second = await seen_as(connection)
                assert (second == first) is same
                if not same:
                    assert second.host == first.host and second.port != first.port
                first = second


async def test_what_comes_in_does_not_keep_a_mapping(simulated_network: SimulatedNetwork) -> None:
    """RFC 4787, REQ-6 says that only what goes out must; and after that the peer talks to nobody."""
    server, inside, _ = home(simulated_network, timeout=30.0)

    async def chatter(connection: NetworkConnection[UDP]) -> None:
        for _ in range(10):
            await asyncio.sleep(10)
            await connection.send(b"are you there?")

    server.start(serve_datagrams, 53, chatter)
    received = 0
    with inside[0]:
        async with NetworkConnection("192.0.2.1:53", UDP()) as connection:
            await connection.send(b"talk to me")
            with pytest.raises(TimeoutError):  # noqa: PT012
                async with asyncio.timeout(110):
                    async for _ in connection.messages:
                        received += 1
    assert received == 2 and len(fates(simulated_network, "the NAT has no mapping")) == 8


async def test_a_mapping_of_tcp_lives_longer(simulated_network: SimulatedNetwork) -> None:
    server, inside, _ = home(simulated_network, timeout=30.0, tcp_timeout=300.0)
    server.start(serve, TCP(), 80, tell_who_asks)
    with inside[0]:
        async with NetworkConnection("192.0.2.1:80", TCP(retransmit_connection_drop_time=20.0)) as connection:
            first = await seen_as(connection)
            await asyncio.sleep(299)
            assert await seen_as(connection) == first
            await asyncio.sleep(301)
            with pytest.raises(ConnectionResetError):  # to the server it is another connection, of which it knows nothing
                await seen_as(connection)


async def test_a_restarted_nat_has_forgotten(simulated_network: SimulatedNetwork) -> None:
    server, inside, nat = home(simulated_network)
    server.start(serve_datagrams, 53, tell_who_asks)
    server.start(serve)
    with inside[0]:
        async with NetworkConnection("192.0.2.1:53", UDP()) as datagrams, NetworkConnection("192.0.2.1:80", TCP()) as stream:
            first = await seen_as(datagrams)
            await ask(stream)
            await asyncio.sleep(1)
            nat.forget_mappings()
            second = await seen_as(datagrams)
            assert second.host == first.host and second.port != first.port
            await stream.send(b"x")
            with pytest.raises(ConnectionResetError):
                await stream.receive()


async def test_errors_go_through_a_nat(simulated_network: SimulatedNetwork) -> None:
    server, inside, nat = home(simulated_network)
    with inside[0]:
        async with NetworkConnection("192.0.2.1:99", UDP()) as datagrams:
            await datagrams.send(b"anybody?")
            with pytest.raises(ConnectionRefusedError):
                await datagrams.receive()
        assert "nobody listens there" in str(await failure_of(NetworkConnection("192.0.2.1:99", TCP())))
        server.start(serve_datagrams)
        server.start(serve)
        assert nat.outside is not None
        nat.outside.links[0].change(mtu=1000)
        async with NetworkConnection("192.0.2.1:53", UDP()) as datagrams:
            await datagrams.send(bytes(1400))
            await asyncio.sleep(1)
            assert datagrams.maximum_datagram_size == 972
        async with NetworkConnection("192.0.2.1:80", TCP()) as stream:
            await stream.send(bytes(20_000))
            await stream.receive(exactly=20_000)
            assert stream.metadata(TCP).maximum_segment_size == 960


async def test_an_error_about_what_came_in_goes_out_translated(simulated_network: SimulatedNetwork) -> None:
    server, inside, _ = home(simulated_network)
    told: list[str] = []

    async def answer_late(connection: NetworkConnection[UDP]) -> None:
        await asyncio.sleep(5)
        await connection.send(b"too late")

    server.start(serve_datagrams, 53, answer_late)
    with inside[0]:
        async with NetworkConnection("192.0.2.1:53", UDP()) as connection:
            await connection.send(b"x")
            await asyncio.sleep(1)
    await asyncio.sleep(10)
    told = [str(entry.packet) for entry in fates(simulated_network, "server.test: arrived: ICMP")]
    assert len(told) == 1 and "192.168." not in told[0] and "203.0.113.1" in told[0]


async def test_hairpins_are_not_supported(simulated_network: SimulatedNetwork) -> None:
    """The outside address leads nowhere from inside, as with many routers that people have."""
    server, inside, _ = home(simulated_network)
    server.start(serve_datagrams, 53, tell_who_asks)
    with inside[0]:
        async with NetworkConnection("192.0.2.1:53", UDP()) as connection:
            outside = await seen_as(connection)
            with inside[1]:
                async with NetworkConnection(outside, UDP()) as other:
                    await other.send(b"from next door")
                    await asyncio.sleep(1)
            assert fates(simulated_network, "the NAT has no mapping")


async def test_a_nat_counts_hops_both_ways(simulated_network: SimulatedNetwork) -> None:
    server, inside, _ = home(simulated_network)

    async def serve_near() -> None:
        await NetworkListener(UDP(IP(hop_limit=1)), on=53).run(tell_who_asks)

    server.start(serve_near)
    with inside[0]:
        async with NetworkConnection("192.0.2.1:53", UDP()) as connection:
            await connection.send(b"who am I?")
            await asyncio.sleep(1)
    assert [entry.place for entry in fates(simulated_network, "too many hops")] == ["nat.test"]
    assert len(fates(simulated_network, "server.test: arrived: ICMP 203.0.113.1:")) == 1


def test_a_nat_without_a_free_port_gives_that_of_the_oldest_mapping() -> None:
    table = AddressTranslation("203.0.113.1", 120.0, 7440.0)
    server = HostPort("192.0.2.1", 1)

    def leaving(protocol: TransportProtocol, number: int, now: float) -> HostPort:
        inside = HostPort(f"10.0.{number // 60000}.1", number % 60000 + 1)
        return table.outwards(Packet(protocol, inside, server), now).source

    of_tcp = leaving(TransportProtocol.TCP, 0, 0.0)
    first, second, *_ = [leaving(TransportProtocol.UDP, number, 1.0) for number in range(40_001)]
    assert leaving(TransportProtocol.UDP, 50_000, 2.0) == first
    assert leaving(TransportProtocol.UDP, 50_001, 2.0) == second
    assert leaving(TransportProtocol.TCP, 0, 3.0) == of_tcp  # older than all of them, but a protocol has its own ports


async def test_those_inside_reach_each_other(simulated_network: SimulatedNetwork) -> None:
    _server, inside, _ = home(simulated_network)
    inside[1].start(serve, TCP(), 80, tell_who_asks)
    with inside[0]:
        async with NetworkConnection("192.168.0.3:80", TCP()) as connection:
            assert (await seen_as(connection)).host == "192.168.0.2"


async def test_a_nat_translates_one_version_and_passes_no_other(simulated_network: SimulatedNetwork) -> None:
    """A home with addresses of both versions behind a NAT of one: the other is refused at once, and the race goes on."""
    server, client = simulated_network.host("server.test"), simulated_network.host("client.test")
    nat = simulated_network.nat("nat.test", "203.0.113.1")
    simulated_network.link(client, nat, latency=0.01)
    simulated_network.link(nat.outside, server, latency=0.01)
    server.start(serve, TCP(), 80, tell_who_asks)
    with client:
        error = await failure_of(NetworkConnection("server.test:80", TCP(IP(version=IPVersion.V6))))
        assert isinstance(error, ConnectError) and error.code == errno.EHOSTUNREACH
        began = now()
        async with NetworkConnection("server.test:80", TCP()) as connection:
            await connection.ready()
            assert now() - began == pytest.approx(0.02 + 0.04)
            assert (await seen_as(connection)).host == "203.0.113.1"


def test_a_nat_checks_its_options(simulated_network: SimulatedNetwork) -> None:
    for options, text in (
        ({"timeout": 0}, "timeout must be .* got 0"),
        ({"tcp_timeout": -1.0}, "tcp_timeout must be .* got -1.0"),
    ):
        with pytest.raises(ValueError, match=text):
            simulated_network.nat("nat.test", "203.0.113.1", **options)
    nat = simulated_network.nat("nat.test", "203.0.113.1")
    assert nat.outside is not None and nat.outside.addresses == ["203.0.113.1"]
    router = simulated_network.router("router.test")
    assert router.outside is None
    router.forget_mappings()  # it has none


# Firewalls


async def tried(host: Host, stack: Any, place: str) -> str:
    """What becomes of a try: "open", "refused" or "silent"."""
    with host:
        if isinstance(stack, UDP):
            async with NetworkConnection(place, stack) as datagrams:
                await datagrams.send(b"x")
                try:
                    async with asyncio.timeout(3):
                        await datagrams.receive()
                except TimeoutError:
                    return "silent"
                except ConnectionRefusedError:
                    return "refused"
                return "open"
        connection = NetworkConnection(place, stack)
        try:
            await connection.ready()
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "silent"
        finally:
            connection.abort()
        return "open"


TCP_3 = TCP(connection_timeout=3.0)


@pytest.mark.parametrize("where", ["client", "router0", "server"])
@pytest.mark.parametrize("action", ["drop", "reject"])
async def test_firewalls(simulated_network: SimulatedNetwork, where: str, action: str) -> None:
    """On either host or between them, the result is the same."""
    server, client, _ = chain(simulated_network, 1)
    for port in (80, 81):
        server.start(serve, TCP(), port)
        server.start(serve_datagrams, port)
    firewall = next(node for node in simulated_network.nodes if node.name == f"{where}.test").firewall
    forbidden = "silent" if action == "drop" else "refused"
    add = getattr(firewall, action)

    async def results() -> list[str]:
        return [await tried(client, stack, f"192.0.2.1:{port}") for stack in (TCP_3, UDP()) for port in (80, 81)]

    await asyncio.sleep(0)
    assert await results() == ["open"] * 4
    cases: list[tuple[dict[str, Any], list[bool]]] = [
        ({"port": 80}, [False, True, False, True]),
        ({"protocol": "TCP"}, [False, False, True, True]),
        ({"protocol": "UDP", "port": 81}, [True, True, True, False]),
        ({"destination": "192.0.2.0/24"}, [False] * 4),
        ({"destination": "192.0.2.1"}, [False] * 4),
        ({"destination": "192.0.3.0/24"}, [True] * 4),
        ({"source": "10.0.0.0/8", "protocol": "UDP"}, [True, True, False, False]),
        ({"source": "10.0.0.2"}, [True] * 4),
        ({"destination": "2001:db8::/32"}, [True] * 4),
        ({}, [False] * 4),
    ]
    for options, passes in cases:
        rule = add(**options)
        assert await results() == ["open" if one else forbidden for one in passes], options
        firewall.remove(rule)
        assert await results() == ["open"] * 4
    with pytest.raises(ValueError, match="this firewall has no Rule"):
        firewall.remove(rule)


async def test_a_rejected_datagram_is_told_quickly(simulated_network: SimulatedNetwork) -> None:
    _server, client, routers = chain(simulated_network, 1)
    routers[0].firewall.reject(port=80)
    assert await tried(client, TCP(), "192.0.2.1:80") == "refused" and now() == pytest.approx(0.02)
    assert fates(simulated_network, "router0.test: rejected by a firewall")


async def test_a_rule_in_mid_connection(simulated_network: SimulatedNetwork) -> None:
    server, client, routers = chain(simulated_network, 1)
    server.start(serve)
    with client:
        async with NetworkConnection("192.0.2.1:80", TCP()) as connection:
            await ask(connection)
            rule = routers[0].firewall.drop(source="192.0.2.1")
            asking = asyncio.create_task(ask(connection))
            await asyncio.sleep(3)
            assert not asking.done()
            routers[0].firewall.remove(rule)
            await asking
            routers[0].firewall.reject(port=80)
            await connection.send(b"x")
            with pytest.raises(ConnectionResetError):
                await connection.receive()


def test_rules_are_checked() -> None:
    for options, text in (
        ({"protocol": "SCTP"}, "protocol must be 'TCP', 'UDP' or None, got 'SCTP'"),
        ({"port": 70000}, "port must be from 0 to 65535, got 70000"),
        ({"source": "10.0.0.0/40"}, "10.0.0.0/40"),
        ({"destination": "example.com"}, "example.com"),
    ):
        with pytest.raises(ValueError, match=text):
            Rule(**options)


# Partitions


async def test_a_partition_is_silence_until_it_heals(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)
    server.start(serve)
    with client:
        async with NetworkConnection("server.test:80", TCP()) as connection:
            await ask(connection)
            partition = simulated_network.partition([server], [client])
            asking = asyncio.create_task(ask(connection))
            error = await failure_of(NetworkConnection("10.0.0.1:80", TCP(connection_timeout=2.0)))
            assert isinstance(error, TimeoutError) and not asking.done()
            assert fates(simulated_network, "client.test: dropped, in another partition")
            partition.heal()
            partition.heal()
            await asking


async def test_a_partition_for_a_block(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)
    server.start(serve)
    with client:
        async with NetworkConnection("server.test:80", TCP(retransmit_connection_drop_time=10.0)) as connection:
            await ask(connection)
            with simulated_network.partition((server,), (client,)):
                await connection.send(b"x")
                with pytest.raises(IdleTimeoutError):
                    await connection.receive()
        async with NetworkConnection("server.test:80", TCP()) as connection:
            await ask(connection)


@pytest.mark.parametrize("routers", [1, 2])
async def test_a_partition_separates_hosts_also_across_routers(simulated_network: SimulatedNetwork, routers: int) -> None:
    """A router that is in no group passes things on for all of them, but not from one to the other."""
    server, client, between = chain(simulated_network, routers)
    third = simulated_network.host("third.test", "10.0.0.3")
    simulated_network.link(third, between[0])
    server.start(serve)
    assert await tried(client, TCP_3, "192.0.2.1:80") == "open"
    with simulated_network.partition([server], [client]):
        assert await tried(client, TCP_3, "192.0.2.1:80") == "silent"
        assert await tried(third, TCP_3, "192.0.2.1:80") == "open"
        assert await tried(server, TCP_3, "10.0.0.1:80") == "silent"
    with simulated_network.partition([server], [client, third]):
        assert await tried(client, TCP_3, "10.0.0.3:80") == "refused"
        assert await tried(third, TCP_3, "192.0.2.1:80") == "silent"
    with simulated_network.partition([server, between[0]], [client]):
        assert await tried(client, TCP_3, "192.0.2.1:80") == "silent"
        assert await tried(third, TCP_3, "192.0.2.1:80") == "open"
    with simulated_network.partition([between[-1]], [client]):
        assert await tried(client, TCP_3, "192.0.2.1:80") == "silent"
        assert await tried(server, TCP_3, "10.0.0.1:80") == "silent"
    assert await tried(client, TCP_3, "192.0.2.1:80") == "open"


async def test_a_partition_across_a_nat(simulated_network: SimulatedNetwork) -> None:
    server, inside, _ = home(simulated_network)
    server.start(serve)
    with simulated_network.partition([server], [inside[0]]):
        assert await tried(inside[0], TCP_3, "192.0.2.1:80") == "silent"
        assert await tried(inside[1], TCP_3, "192.0.2.1:80") == "open"
    assert await tried(inside[0], TCP_3, "192.0.2.1:80") == "open"


async def test_several_partitions_add_up(simulated_network: SimulatedNetwork) -> None:
    hosts = [simulated_network.host(f"host{number}.test", f"10.0.0.{number + 1}") for number in range(3)]
    hub = simulated_network.router("hub.test")
    for host in hosts:
        simulated_network.link(host, hub)
        host.start(serve)

    async def reached() -> list[str]:
        return [await tried(hosts[one], TCP_3, f"10.0.0.{other + 1}:80") for one, other in ((0, 1), (1, 2), (2, 0))]

    assert await reached() == ["open", "open", "open"]
    with simulated_network.partition([hosts[0]], [hosts[1]]):
        with simulated_network.partition([hosts[1]], [hosts[2]]):
            assert await reached() == ["silent", "silent", "open"]
        assert await reached() == ["silent", "open", "open"]
    with simulated_network.partition([hosts[0]], [hosts[1]], [hosts[2]]):
        assert await reached() == ["silent", "silent", "silent"]
    assert await reached() == ["open", "open", "open"]


def test_partitions_are_checked(simulated_network: SimulatedNetwork) -> None:
    one, other = two_hosts(simulated_network)
    with pytest.raises(ValueError, match="separates two groups of nodes or more, got 1"):
        simulated_network.partition([one, other])
    with pytest.raises(ValueError, match=r"server.test cannot be in two groups of a partition"):
        simulated_network.partition([one], [other, one])


# Names


async def resolved(host: Host, name: str, **options: Any) -> tuple[str, float]:
    """Where a name leads, or the error's text; and how long that took. Nobody listens anywhere."""
    with host:
        began = now()
        connection = NetworkConnection(name, Parameters(TCP(), **options))
        try:
            await connection.ready()
        except DNSError as error:
            return error.summary, now() - began
        except ConnectError as error:
            return ", ".join(str(one.endpoint) for one in error.attempts), now() - began
        finally:
            connection.abort()
        raise AssertionError("somebody listens")


async def test_records(simulated_network: SimulatedNetwork) -> None:
    server, client = simulated_network.host("server.test"), simulated_network.host("client.test")
    simulated_network.link(server, client)
    resolver = simulated_network.resolver
    assert (await resolved(client, "server.test:1"))[0] == "[2001:db8::1]:1, 10.0.0.1:1"
    assert (await resolved(client, "SERVER.Test:1"))[0] == "[2001:db8::1]:1, 10.0.0.1:1"
    assert (await resolved(client, "nobody.test:1")) == ("no such name (IPv6)", 0.0)
    server.interfaces[0].add_address("10.0.0.7")
    resolver.answer("many.test", "10.0.0.1", "10.0.0.7")
    assert (await resolved(client, "many.test:1"))[0] == "10.0.0.1:1, 10.0.0.7:1"
    resolver.answer("many.test", "2001:db8::1", version=6)
    assert (await resolved(client, "many.test:1"))[0] == "[2001:db8::1]:1, 10.0.0.1:1, 10.0.0.7:1"
    resolver.forget("many.test")
    resolver.forget("many.test")
    assert (await resolved(client, "many.test:1"))[0] == "no such name (IPv6)"
    resolver.answer("empty.test")
    assert (await resolved(client, "empty.test:1"))[0] == "the name has no address of this kind (IPv6)"
    with pytest.raises(ValueError, match=r"'10.0.0'"):
        resolver.answer("bad.test", "10.0.0")
    with pytest.raises(ValueError, match="version must be 4, 6 or None for both, got 5"):
        resolver.answer("bad.test", "10.0.0.1", version=5)
    for delay in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="delay must be"):
            resolver.answer("bad.test", "10.0.0.1", delay=delay)
        with pytest.raises(ValueError, match="delay must be"):
            resolver.fail("bad.test", delay=delay)


async def test_delays_and_failures(simulated_network: SimulatedNetwork) -> None:
    server, client = simulated_network.host("server.test"), simulated_network.host("client.test")
    simulated_network.link(server, client)
    resolver = simulated_network.resolver
    resolver.answer("slow.test", "10.0.0.1", delay=2.0)
    assert await resolved(client, "slow.test:1") == ("10.0.0.1:1", pytest.approx(2.002))
    resolver.fail("slow.test", version=6, delay=0.5)
    assert await resolved(client, "slow.test:1") == ("10.0.0.1:1", pytest.approx(2.002))
    for code, text in (
        (socket.EAI_AGAIN, "the resolver does not answer at present"),
        (socket.EAI_FAIL, "the resolver refused to answer"),
        (socket.EAI_NONAME, "no such name"),
    ):
        resolver.fail("failing.test", code=code, delay=0.25)
        assert await resolved(client, "failing.test:1") == (f"{text} (IPv6)", 0.25)
    resolver.silence("silent.test")
    text, took = await resolved(client, "silent.test:1", resolution_timeout=3.0)
    assert text == "the resolver did not answer within resolution_timeout=3 s" and took == 3.0
    resolver.answer("silent.test", "10.0.0.1", version=4)
    text, took = await resolved(client, "silent.test:1", resolution_timeout=3.0, resolution_delay=0.05)
    assert text == "10.0.0.1:1" and took == pytest.approx(3.0)  # an answer for IPv6 may still come


async def test_a_host_that_is_offline_resolves_nothing_but_itself(simulated_network: SimulatedNetwork) -> None:
    _server, client = two_hosts(simulated_network)
    client.interfaces[0].down()
    assert (await resolved(client, "server.test:1"))[0] == "the resolver does not answer at present (IPv6)"
    assert "127.0.0.1:1" in (await resolved(client, "localhost:1"))[0]
    client.interfaces[0].up()
    assert (await resolved(client, "server.test:1"))[0] == "10.0.0.1:1"
    client.crash()
    assert (await resolved(client, "server.test:1"))[0] == "the resolver does not answer at present (IPv6)"


async def test_listening_on_a_name(simulated_network: SimulatedNetwork) -> None:
    server, client = simulated_network.host("server.test"), simulated_network.host("client.test")
    simulated_network.link(server, client)
    with server:
        async with NetworkListener(TCP(), on="server.test:80").serving(echo) as listener:
            assert listener.endpoints == (HostPort("10.0.0.1", 80), HostPort("2001:db8::1", 80))
            with client:
                async with NetworkConnection("server.test:80", TCP()) as connection:
                    await ask(connection)
        with pytest.raises(ConnectError, match="Cannot assign requested address"):
            async with NetworkListener(TCP(), on="client.test:80").serving(echo):
                pass
