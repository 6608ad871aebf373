"""The same scenarios as on real hosts (tests/hosts/test_path_changes.py), in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tieline import (
    QUIC,
    TCP,
    ConnectError,
    InterfaceType,
    NetworkConnection,
    NetworkListener,
    Parameters,
    PathMonitor,
    State,
)
from tieline.testing import NetworkInterface, SimulatedNetwork, record_events

from ..authority import LOCALHOST, TRUST
from .programs import echo

SERVER = "203.0.113.1"


class World:
    """A phone with Wi-Fi and cellular, each with a router of its own, and a server that both lead to."""

    def __init__(self, network: SimulatedNetwork) -> None:
        self.network = network
        self.server, self.client = network.host("server.test", SERVER), network.host("phone.test")
        self.wifi = self.way("wlan0", "192.0.2.2", InterfaceType.WIFI)
        self.cellular = self.way("wwan0", "198.51.100.2", InterfaceType.CELLULAR)

    def way(self, name: str, address: str, type: InterfaceType) -> NetworkInterface:
        router = self.network.router(f"{name}.test")
        interface = self.client.interface(name, address, type=type)
        self.network.link(interface, router, latency=0.005)
        self.network.link(router, self.server, latency=0.005)
        return interface

    def serve(self, stack: Any = None) -> None:
        self.server.start(NetworkListener(stack or TCP(), on=80).run, echo)


@pytest.fixture
def world(simulated_network: SimulatedNetwork) -> World:
    return World(simulated_network)


def host_of(connection: NetworkConnection[Any]) -> str:
    return str(connection.local_endpoint).partition(":")[0]


async def test_a_monitor_is_told_of_each_change_once(world: World) -> None:
    seen: list[tuple[float, list[str]]] = []

    async def follow() -> None:
        async for path in PathMonitor(prohibited_interface_types=[InterfaceType.LOOPBACK]):
            seen.append((round(world.network.time, 4), [one.name for one in path.available_interfaces]))  # noqa: PERF401

    with world.client:
        following = asyncio.create_task(follow())
    for when, change in ((1, world.wifi.down), (2, world.wifi.up), (3, world.cellular.down)):
        world.network.at(when, change)
    world.network.at(4, world.server.interfaces[0].links[0].down)  # that is far away: nobody here notices
    await asyncio.sleep(5)
    following.cancel()
    both = ["wlan0", "wwan0"]
    assert seen == [(0, both), (1.001, ["wwan0"]), (2.001, both), (3.001, ["wlan0"])]


@pytest.mark.parametrize("fault", ["link", "address", "route"])
async def test_viability(world: World, fault: str) -> None:
    world.serve()
    breaking, mending = {
        "link": (world.wifi.down, world.wifi.up),
        "address": (lambda: world.wifi.remove_address("192.0.2.2"), lambda: world.wifi.add_address("192.0.2.2")),
        "route": (world.wifi.remove_route, world.wifi.add_route),
    }[fault]
    with world.client:
        async with NetworkConnection(f"{SERVER}:80", TCP()) as connection:
            events = record_events(connection)
            await connection.ready()
            assert host_of(connection) == "192.0.2.2"
            world.network.at(10, breaking)
            world.network.at(20, mending)
            await asyncio.sleep(15)
            await connection.send(b"later")
            assert (await connection.receive(exactly=5)).content == b"later"
    told = [(round(event.time, 3), event.kind, event.value) for event in events.events if event.time >= 10]
    assert [one for one in told if one[1] in ("viability", "better path")] == [
        (10.001, "viability", False), (10.001, "better path", True),
        (20.001, "viability", True), (20.001, "better path", False),
    ]  # fmt: skip


@pytest.mark.parametrize("waits", [False, True])
async def test_a_waiting_connection_tries_again_at_once(world: World, waits: bool) -> None:
    world.serve()
    for interface in (world.wifi, world.cellular):
        interface.remove_route()
    world.network.at(100, world.cellular.add_route)
    with world.client:
        using = Parameters(TCP(), waits_for_connectivity=waits)
        async with NetworkConnection(f"{SERVER}:80", using) as connection:
            if not waits:
                with pytest.raises(ConnectError):
                    await connection.ready()
            await asyncio.sleep(99.9)
            assert connection.state is State.WAITING
            await asyncio.sleep(0.13)
            assert connection.state is State.READY and host_of(connection) == "198.51.100.2"


async def test_a_change_that_does_not_matter_is_no_reason_to_try(world: World) -> None:
    with world.client:
        using = Parameters(TCP(), required_interface="wlan0", waits_for_connectivity=True)
        async with NetworkConnection(f"{SERVER}:80", using) as connection:
            with record_events(connection) as events:
                await asyncio.sleep(40)  # refused, and waiting for longer and longer
                count = len(events.states)
                world.cellular.down()
                await asyncio.sleep(0.5)
                assert len(events.states) == count
                world.wifi.remove_address("192.0.2.2")
                world.wifi.add_address("192.0.2.3")
                await asyncio.sleep(0.5)
                assert len(events.states) > count


async def test_quic_hands_over(world: World) -> None:
    world.serve(QUIC(alpn=["test"], identity=LOCALHOST))
    using = Parameters(QUIC(alpn=["test"], trust=TRUST, server_name="localhost"), multipath="handover")
    with world.client:
        async with NetworkConnection(f"{SERVER}:80", using) as connection:
            stream = await connection.open_stream()
            for change, host in (
                (world.wifi.down, "198.51.100.2"), (world.wifi.up, "192.0.2.2"), (world.wifi.remove_route, "198.51.100.2"),
            ):  # fmt: skip
                await stream.send(b"before")
                change()
                await asyncio.sleep(0.01)
                assert host_of(connection) == host
                await stream.send(b" after")
                async with asyncio.timeout(5):
                    assert (await stream.receive(exactly=12)).content == b"before after"


async def test_quic_that_looks_for_a_way_moves_once_when_one_comes(world: World) -> None:
    """The search for a local address, and the news that there is a better interface, are two reasons for one move."""
    world.serve(QUIC(alpn=["test"], identity=LOCALHOST))
    using = Parameters(QUIC(alpn=["test"], trust=TRUST, server_name="localhost"), multipath="handover")
    world.cellular.down()
    with world.client:
        async with NetworkConnection(f"{SERVER}:80", using) as connection:
            stream = await connection.open_stream()
            await stream.send(b"before")
            await stream.receive(exactly=6)
            places: list[Any] = []
            connection.on_path_update(lambda _, path: places.append(path.local_endpoint) if path.is_satisfied else None)
            world.wifi.down()
            await stream.send(b" after")  # which cannot leave
            world.network.after(0.25, world.cellular.up)
            await asyncio.sleep(1)
            assert [place.host for place in places] == ["198.51.100.2"]
            assert (await stream.receive(exactly=6)).content == b" after"


# A router that is rebooted


def reboot(world: World, router: Any, begin: float, end: float) -> None:
    world.network.at(begin, router.linked().down)
    world.network.at(end, router.linked().up)


async def test_tcp_across_a_reboot_of_the_router(world: World) -> None:
    world.serve()
    world.cellular.down()
    router = world.wifi.links[0].other(world.wifi).node
    reboot(world, router, 10, 12)
    with world.client:
        async with NetworkConnection(f"{SERVER}:80", TCP()) as connection:
            events = record_events(connection)
            await connection.ready()
            await asyncio.sleep(11)
            await connection.send(b"meanwhile")
            assert (await connection.receive(exactly=9)).content == b"meanwhile"
            assert world.network.time < 10 + 2 * 2.5, "the retransmission timeout doubles"
    told = [(round(event.time, 3), event.kind, event.value) for event in events.events if 9 < event.time < 14]
    assert [one for one in told if one[1] in ("viability", "better path")] == [
        (10.001, "viability", False), (12.001, "viability", True),
    ]  # fmt: skip
    assert [(when, path.is_satisfied) for when, kind, path in told if kind == "path"] == [(10.001, False), (12.001, True)]


async def test_quic_across_a_reboot_of_the_router(world: World) -> None:
    world.serve(QUIC(alpn=["test"], identity=LOCALHOST))
    world.cellular.down()
    router = world.wifi.links[0].other(world.wifi).node
    reboot(world, router, 10, 12)
    with world.client:
        using = QUIC(alpn=["test"], trust=TRUST, server_name="localhost")
        async with NetworkConnection(f"{SERVER}:80", using) as connection:
            stream = await connection.open_stream()
            viable: list[tuple[float, bool]] = []
            connection.on_viability_update(lambda _, value: viable.append((round(world.network.time, 3), value)))
            await asyncio.sleep(11)
            await stream.send(b"meanwhile")
            async with asyncio.timeout(5):
                assert (await stream.receive(exactly=9)).content == b"meanwhile"
            assert viable == [(10.001, False), (12.001, True)]
            assert connection.state is State.READY


@pytest.mark.parametrize("stack", [TCP(), QUIC(alpn=["test"], trust=TRUST, server_name="localhost")])
async def test_a_waiting_connection_is_ready_when_the_router_is_back(world: World, stack: Any) -> None:
    world.serve(QUIC(alpn=["test"], identity=LOCALHOST) if isinstance(stack, QUIC) else stack)
    world.cellular.down()
    router = world.wifi.links[0].other(world.wifi).node
    reboot(world, router, 0, 100)
    await asyncio.sleep(1)
    with world.client:
        async with NetworkConnection(f"{SERVER}:80", Parameters(stack, waits_for_connectivity=True)) as connection:
            await asyncio.sleep(98.9)
            assert connection.state is State.WAITING
            await connection.ready()
            assert 100 < world.network.time < 100.1


@pytest.mark.parametrize("multipath", ["disabled", "handover"])
@pytest.mark.parametrize(
    "restriction",
    [
        {"prohibited_interfaces": ("wwan0",)},
        {"expensive_paths_prohibited": True},
        {"required_interface_type": InterfaceType.WIFI},
    ],
)
async def test_quic_does_not_flee_to_an_interface_that_is_ruled_out(
    world: World, restriction: dict[str, Any], multipath: str
) -> None:
    world.serve(QUIC(alpn=["test"], identity=LOCALHOST))
    stack = QUIC(alpn=["test"], trust=TRUST, server_name="localhost")
    with world.client:
        async with NetworkConnection(f"{SERVER}:80", Parameters(stack, multipath=multipath, **restriction)) as connection:
            stream = await connection.open_stream()
            await stream.send(b"before")
            await stream.receive(exactly=6)
            world.wifi.down()
            await stream.send(b" after")
            await asyncio.sleep(5)
            assert host_of(connection) == "192.0.2.2"
            world.wifi.up()
            assert (await stream.receive(exactly=6)).content == b" after"
            assert host_of(connection) == "192.0.2.2"
