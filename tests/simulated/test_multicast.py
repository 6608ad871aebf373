"""Multicast groups in the simulated network: a few hosts on one wire, and what happens to them."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from tieline import (
    ECN,
    IP,
    UDP,
    ChannelClosedError,
    ConnectError,
    ConnectionGroup,
    GroupState,
    HostPort,
    Interface,
    InterfaceType,
    IPMetadata,
    MessageTooLargeError,
    MulticastGroup,
    NetworkConnection,
    NetworkListener,
    Parameters,
)
from tieline.testing import Fate, Host, SimulatedNetwork

MEMBER, MEMBER6 = HostPort("239.255.0.1", 5000), HostPort("ff02::114", 5000)


def wire(network: SimulatedNetwork, count: int = 3, **conditions: Any) -> list[Host]:
    """Hosts that all have each other on the links of one interface."""
    hosts = [network.host(f"host{number}.test") for number in range(1, count + 1)]
    for number, one in enumerate(hosts):
        for other in hosts[number + 1 :]:
            network.link(one, other, **conditions)
    return hosts


def group(host: Host, *members: HostPort, source: str | None = None, using: Any = None, **options: Any) -> ConnectionGroup[UDP]:
    """Joined on a host, and closed by the test."""
    wanted = MulticastGroup(*(members or (MEMBER,)), source=source)
    with host:
        return ConnectionGroup(wanted, Parameters(using or UDP(), **options)).start()


def close(*groups: ConnectionGroup[Any]) -> None:
    for one in groups:
        one.abort()


async def contents(one: ConnectionGroup[UDP], count: int) -> list[bytes]:
    return [(await one.receive()).content for _ in range(count)]


async def hears_nothing(one: ConnectionGroup[UDP]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await one.receive()


async def test_all_hear_it(simulated_network: SimulatedNetwork) -> None:
    hosts = wire(simulated_network, latency=0.25)
    groups = [group(host) for host in hosts]
    began = simulated_network.time
    await groups[0].send(b"hello")
    for one in groups:
        message = await one.receive()
        assert message.content == b"hello" and message.local_endpoint == MEMBER
        assert message.remote_endpoint == HostPort("10.0.0.1", 5000)
        assert message.interface is not None and message.interface.name == "eth0"
    assert simulated_network.time - began == pytest.approx(0.25)
    await message.reply(b"you alone")
    answer = await groups[0].receive()
    assert (answer.content, answer.remote_endpoint.host, answer.local_endpoint.host) == (b"you alone", "10.0.0.3", "10.0.0.1")
    await hears_nothing(groups[1])
    close(*groups)


async def test_both_versions(simulated_network: SimulatedNetwork) -> None:
    one, two = (group(host, MEMBER, MEMBER6) for host in wire(simulated_network, 2))
    await one.send(b"x")
    assert {(await two.receive()).local_endpoint for _ in range(2)} == {MEMBER, MEMBER6}
    await contents(one, 2)
    await one.send(b"y", to=MEMBER6)
    message = await two.receive()
    assert message.remote_endpoint.version == 6
    assert one.maximum_datagram_size == 1500 - 48
    close(one, two)


async def test_it_follows_the_network(simulated_network: SimulatedNetwork) -> None:
    """Interfaces come and go; each time the group is joined where it can be, and waits if that is nowhere."""
    host, left, right = (simulated_network.host(f"{name}.test") for name in ("host", "left", "right"))
    first = simulated_network.link(host, left)
    first.down()
    ours, theirs = group(host, waits_for_connectivity=True), group(left, waits_for_connectivity=True)
    states, interfaces = ours.state_updates(), ours.interfaces_updates()
    assert ours.state is GroupState.WAITING and "no interface but the loopback is up with an IPv4 address" in str(ours.error)
    sending = asyncio.create_task(ours.send(b"as soon as possible"))
    await asyncio.sleep(10)
    assert not sending.done() and ours.maximum_datagram_size == 0
    first.up()
    await sending
    assert await anext(states) is GroupState.READY and [one.name for one in await anext(interfaces)] == ["eth0"]
    assert await contents(theirs, 1) == [b"as soon as possible"] == await contents(ours, 1)
    second = host.interface("eth1", "10.9.0.1", type=InterfaceType.CELLULAR)
    other = simulated_network.link(second, right)
    others = group(right)
    assert [one.name for one in await anext(interfaces)] == ["eth0", "eth1"]
    await ours.send(b"to both sides")
    assert (await theirs.receive()).remote_endpoint.host == "10.0.0.1"
    message = await others.receive()
    assert message.remote_endpoint.host == "10.9.0.1"
    await contents(ours, 2)
    await message.reply(b"answer")
    answer = await ours.receive()
    assert answer.interface is not None and answer.interface.name == "eth1" and answer.interface.is_expensive
    first.down()
    assert [one.name for one in await anext(interfaces)] == ["eth1"]
    await ours.send(b"to one side")
    assert await contents(others, 1) == [b"to one side"] == await contents(ours, 1)
    other.down()
    assert await anext(interfaces) == () and await anext(states) is GroupState.WAITING
    assert answer.path.is_satisfied is False and answer.interface is not None
    with pytest.raises(ConnectError):
        await answer.reply(b"where to?")
    close(ours, theirs, others)
    assert await anext(states) is GroupState.CANCELLED and [one async for one in interfaces] == [()]


async def test_handlers_are_told(simulated_network: SimulatedNetwork) -> None:
    host, _ = wire(simulated_network, 2)
    seen: list[object] = []
    with host:
        ours = ConnectionGroup(MulticastGroup(MEMBER), UDP())
    ours.on_state_update(lambda one, state: seen.append((one is ours, state)))
    ours.on_interfaces_update(lambda one, interfaces: seen.append((one is ours, [each.name for each in interfaces])))
    with host:
        ours.start().start()
    host.interfaces[0].add_address("10.7.7.7")
    await asyncio.sleep(1)
    ours.abort()
    assert seen == [
        (True, GroupState.READY), (True, ["eth0"]), (True, ["eth0"]), (True, GroupState.CANCELLED), (True, []),
    ]  # fmt: skip


@pytest.mark.parametrize("when", [GroupState.READY, GroupState.WAITING])
@pytest.mark.parametrize("told", ["states", "interfaces"])
async def test_a_handler_may_close_the_group(simulated_network: SimulatedNetwork, when: GroupState, told: str) -> None:
    host, _ = wire(simulated_network, 2)
    if when is GroupState.WAITING:
        host.interfaces[0].down()
    with host:
        ours = ConnectionGroup(MulticastGroup(MEMBER), UDP())
        states, interfaces = ours.state_updates(), ours.interfaces_updates()
        (ours.on_state_update if told == "states" else ours.on_interfaces_update)(lambda one, _: one.abort())
        with pytest.raises(ChannelClosedError):
            await ours.ready()
    assert ours.state is GroupState.CANCELLED
    assert [state async for state in states] == [when, GroupState.CANCELLED]
    assert [one async for one in interfaces][-1] == ()


async def test_only_on_interfaces_that_are_allowed(simulated_network: SimulatedNetwork) -> None:
    host, left, right = (simulated_network.host(f"{name}.test") for name in ("host", "left", "right"))
    simulated_network.link(host, left)
    simulated_network.link(host.interface("wwan0", "10.9.0.1", type=InterfaceType.CELLULAR), right)
    ours = group(host, prohibited_interface_types=(InterfaceType.CELLULAR,))
    theirs, others = group(left), group(right)
    await ours.send(b"on Ethernet")
    assert await contents(theirs, 1) == [b"on Ethernet"] == await contents(ours, 1)
    await others.send(b"on cellular")
    await others.send(b"on cellular", to=HostPort("10.9.0.1", 5000))
    with pytest.raises(ConnectError, match="no route through an interface that the parameters allow"):
        await ours.send(b"x", to=(right.addresses[0], 5000))
    await contents(others, 1)
    await hears_nothing(ours)
    await hears_nothing(others)
    await ours.send(b"x", to=(left.addresses[0], 5000))
    assert await contents(theirs, 1) == [b"x"]
    close(ours, theirs, others)


async def test_several_programs_of_one_host(simulated_network: SimulatedNetwork) -> None:
    here, there = wire(simulated_network, 2)
    one, two, far = group(here), group(here, local_port=0), group(there)
    await far.send(b"to all")
    for each in (one, two, far):
        message = await each.receive()
    await two.send(b"question")
    own = two.local_endpoints[1]
    assert own.port != 5000
    for each in (one, two, far):
        message = await each.receive()
        assert message.remote_endpoint == HostPort("10.0.0.1", own.port)
    await message.reply(b"answer")
    assert await contents(two, 1) == [b"answer"]
    await one.send(b"hello", to=("10.0.0.1", own.port))
    message = await two.receive()
    assert message.content == b"hello" and message.interface is not None and message.interface.name == "eth0"
    await message.reply(b"to a program of this host")
    await hears_nothing(far)
    assert await contents(two, 1) == [b"to a program of this host"], "the newest socket of a port has what is sent to the host"
    with here:
        with pytest.raises(ConnectError, match="in use"):
            await NetworkListener(UDP(), on="0.0.0.0:5000").run(lambda _: asyncio.sleep(0))
        taken = NetworkListener(UDP(), on=5001)
        async with taken.serving(lambda _: asyncio.sleep(0)):
            late = group(here, HostPort("239.255.0.1", 5001))
            assert late.state is GroupState.FAILED and late.error is not None and late.error.code == errno.EADDRINUSE
    close(one, two, far)


async def test_sources_loopback_and_unicast(simulated_network: SimulatedNetwork) -> None:
    one, two, three = wire(simulated_network)
    picky = group(one, source="10.0.0.2")
    quiet = group(two, using=UDP(IP(multicast_loopback_disabled=True)))
    loud = group(three)
    await loud.send(b"from three")
    await loud.send(b"from three", to="10.0.0.1:5000")
    await quiet.send(b"from two")
    assert await contents(picky, 1) == [b"from two"]
    assert await contents(loud, 2) == [b"from three", b"from two"]
    assert await contents(quiet, 1) == [b"from three"]
    await hears_nothing(quiet)
    with two:
        deaf = ConnectionGroup(MulticastGroup(MEMBER, unicast_disabled=True), UDP()).start()
    await loud.send(b"to the host", to="10.0.0.2:5000")
    assert await contents(quiet, 1) == [b"to the host"]
    close(picky, quiet, loud, deaf)


async def test_what_packets_say(simulated_network: SimulatedNetwork) -> None:
    one, two = wire(simulated_network, 2)
    ours, theirs = group(one), group(two, using=UDP(IP(metadata_received=True)))
    await ours.send(b"x")
    await ours.send(b"y", metadata=IPMetadata(hop_limit=64, ecn=ECN.ECT_1))
    await ours.send(b"z", to="10.0.0.2:5000")
    said = [(await theirs.receive()).metadata.ip for _ in range(3)]
    assert [(each.hop_limit, each.ecn) for each in said if each is not None] == [
        (1, ECN.NOT_ECT), (64, ECN.ECT_1), (64, ECN.NOT_ECT),
    ]  # fmt: skip
    close(ours, theirs)


async def test_nobody_is_told_of_what_nobody_wants(simulated_network: SimulatedNetwork) -> None:
    one, two = wire(simulated_network, 2)
    ours = group(one)
    await ours.send(b"x")
    await asyncio.sleep(1)
    assert [(entry.place, entry.fate) for entry in simulated_network.trace] == [
        ("host1.test", Fate.SENT), ("host1.test", Fate.ARRIVED), ("host2.test", Fate.NOBODY),
    ]  # fmt: skip
    await ours.send(b"x", to=(two.addresses[0], 9))  # which is answered, and a socket of many peers does not hear of it
    await asyncio.sleep(1)
    assert ours.state is GroupState.READY
    close(ours)


async def test_routers_do_not_forward_it(simulated_network: SimulatedNetwork) -> None:
    one, two = simulated_network.host("one.test"), simulated_network.host("two.test")
    router = simulated_network.router("router.test")
    simulated_network.link(one, router)
    simulated_network.link(router, two)
    ours, theirs = group(one), group(two)
    await ours.send(b"x")
    await contents(ours, 1)
    await hears_nothing(theirs)
    await ours.send(b"by name of the host", to=(two.addresses[0], 5000))
    assert await contents(theirs, 1) == [b"by name of the host"]
    close(ours, theirs)


async def test_senders_wait_for_room_in_their_order(simulated_network: SimulatedNetwork) -> None:
    hosts = wire(simulated_network, 3, rate=10_000, queue=1500)
    ours, theirs, others = (group(host, receive_limit=1024 * 1024) for host in hosts)
    calls = [asyncio.create_task(ours.send(bytes([number]) * 1000)) for number in range(20)]
    await asyncio.sleep(0.05)
    assert not calls[5].done()
    calls[5].cancel()
    await asyncio.sleep(5)
    expected = [bytes([number]) * 1000 for number in range(20) if number != 5]
    assert await contents(theirs, 19) == expected == await contents(others, 19) == await contents(ours, 19)
    assert simulated_network.time > 19 * 1028 / 10_000, "the wire has a rate"
    last = asyncio.create_task(ours.send(bytes(1000)))
    waiting = asyncio.create_task(ours.send(bytes(1000)))
    await asyncio.sleep(0)
    close(ours, theirs, others)
    for call in (last, waiting):
        await asyncio.wait([call])
    assert isinstance(waiting.exception(), ChannelClosedError)


async def test_the_narrowest_wire_counts(simulated_network: SimulatedNetwork) -> None:
    host, left, right = (simulated_network.host(f"{name}.test") for name in ("host", "left", "right"))
    simulated_network.link(host, left)
    simulated_network.link(host, right, mtu=1000)
    ours = group(host)
    assert ours.maximum_datagram_size == 1000 - 28
    with pytest.raises(MessageTooLargeError, match="at most 972 bytes"):
        await ours.send(bytes(973))
    await ours.send(bytes(1472), to=(left.addresses[0], 5000))
    close(ours)


async def test_firewalls_and_partitions(simulated_network: SimulatedNetwork) -> None:
    one, two, three = wire(simulated_network)
    ours, theirs, others = group(one), group(two), group(three)
    rule = two.firewall.drop(destination="239.0.0.0/8")
    with simulated_network.partition([one], [three]):
        await ours.send(b"nobody else hears it")
        assert await contents(ours, 1) == [b"nobody else hears it"]
        await hears_nothing(theirs)
    two.firewall.remove(rule)
    await ours.send(b"all hear it")
    assert await contents(theirs, 1) == [b"all hear it"] == await contents(others, 1)
    close(ours, theirs, others)


async def test_a_crash(simulated_network: SimulatedNetwork) -> None:
    one, two = wire(simulated_network, 2)
    ours, theirs = group(one), group(two)
    await theirs.send(b"x")
    message = await ours.receive()
    one.crash()
    with pytest.raises(ConnectError):
        await message.reply(b"x")
    await theirs.send(b"to nobody")
    await asyncio.sleep(1)
    close(ours)
    one.restart()
    again = group(one)
    await theirs.send(b"after the crash")
    assert await contents(again, 1) == [b"after the crash"]
    close(again, theirs)


async def test_the_loopback_alone(simulated_network: SimulatedNetwork) -> None:
    host = simulated_network.host("host.test")
    ours = group(host, required_interface="lo")
    other = group(host, required_interface="lo", local_port=0)
    await other.send(b"x")
    message = await ours.receive()
    assert message.remote_endpoint.host == "127.0.0.1"
    await message.reply(b"y")
    assert await contents(other, 2) == [b"x", b"y"]
    close(ours, other)


async def test_an_extracted_connection_lives_on_its_host(simulated_network: SimulatedNetwork) -> None:
    one, two = wire(simulated_network, 2)
    ours = group(one)
    with two:
        peer = NetworkConnection("10.0.0.1:5000", UDP())
        await peer.send(b"hello")
    message = await ours.receive()
    connection = message.extract_connection()
    await connection.send_many([b"a", b"b"])
    assert [(await peer.receive()).content for _ in range(2)] == [b"a", b"b"]
    assert connection.local_endpoint == HostPort("10.0.0.1", 5000)
    viable: list[bool] = []
    connection.on_viability_update(lambda _, value: viable.append(value))
    one.interfaces[0].down()
    await asyncio.sleep(1)
    assert viable == [False]
    close(ours)
    await peer.aclose()


def test_an_interface_has_a_name_and_a_type() -> None:
    """What `interfaces` gives is what paths have."""
    network = SimulatedNetwork()
    host, _ = wire(network, 2)

    async def main() -> tuple[Interface, ...]:
        async with ConnectionGroup(MulticastGroup(MEMBER), UDP()) as ours:
            return ours.interfaces

    (only,) = network.run(main, on=host)
    assert (only.name, only.type) == ("eth0", InterfaceType.WIRED)


def test_on_no_host() -> None:
    async def main() -> None:
        async with ConnectionGroup(MulticastGroup(MEMBER), UDP()) as ours:
            await ours.ready()

    with pytest.raises(ConnectError, match="runs on no host of the simulated network"):
        SimulatedNetwork().run(main)
