"""Two links, "Wi-Fi" and "cellular", that go down, lose addresses and routes, and come back: who notices what, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings

from tieline import (
    QUIC,
    TCP,
    UDP,
    ConnectError,
    HostPort,
    Interface,
    InterfaceType,
    Multipath,
    NetworkConnection,
    NetworkListener,
    Parameters,
    Path,
    PathMonitor,
    State,
    set_interface_policy,
)
from tieline.testing import record_events

from ..authority import LOCALHOST, TRUST
from ..peers import until
from .conftest import Hosts
from .test_quic_hosts import serving, transfer

THOROUGH = settings().max_examples > 1000
SERVER = "10.77.9.9"  # reached over either link
PROMPT = 0.1  # seconds from the kernel's notice to ours
CARRIER = 1.1  # that the kernel takes to notice that the other end of a link is down


def judge(one: Interface) -> Interface:
    types = {"cl0": InterfaceType.WIFI, "cl1": InterfaceType.CELLULAR}
    type = types.get(one.name, one.type)
    return replace(one, type=type, is_expensive=type is InterfaceType.CELLULAR)


def routes(hosts: Hosts, *numbers: int) -> None:
    """The ways to the server that a link's failure takes away."""
    for number in numbers:
        arguments = ("via", f"10.77.{number + 1}.2", "dev", f"cl{number}", "metric", str(100 + 100 * number))
        hosts.ip("route", "replace", f"{SERVER}/32", *arguments)


@pytest.fixture
def world(hosts: Hosts) -> Iterator[Hosts]:
    hosts.ip("addr", "add", f"{SERVER}/32", "dev", "lo", on=hosts.server)
    routes(hosts, 0, 1)
    set_interface_policy(judge)
    try:
        yield hosts
    finally:
        set_interface_policy(None)


async def follow(monitor: PathMonitor, seen: list[tuple[float, Path]]) -> None:
    async for path in monitor:
        seen.append((time.monotonic(), path))  # noqa: PERF401


async def test_the_monitor_tells_of_each_change_once(world: Hosts) -> None:
    seen: list[tuple[float, Path]] = []
    following = asyncio.create_task(follow(PathMonitor(prohibited_interface_types=[InterfaceType.LOOPBACK]), seen))
    await until(lambda: len(seen) == 1)
    assert [(one.name, one.type.name) for one in seen[0][1].available_interfaces] == [("cl0", "WIFI"), ("cl1", "CELLULAR")]
    assert not seen[0][1].is_expensive
    steps: list[tuple[tuple[str, ...], Any]] = [
        (
            ("link", "set", "cl0", "down"),
            lambda path: [one.name for one in path.available_interfaces] == ["cl1"] and path.is_expensive,
        ),
        (("addr", "add", "10.77.2.9/24", "dev", "cl1"), lambda path: "10.77.2.9" in path.available_interfaces[0].addresses),
        (("route", "add", "default", "via", "10.77.2.2"), lambda path: path.gateways == (HostPort("10.77.2.2", 0),)),
        (("route", "del", "default"), lambda path: path.gateways == ()),
    ]
    for count, (command, is_right) in enumerate(steps, 2):
        begun = time.monotonic()
        world.ip(*command)
        done = time.monotonic()
        await until(lambda count=count: len(seen) == count, 2.0)
        when, path = seen[-1]
        assert is_right(path), (command, path)
        assert when - done < PROMPT and when > begun
        await asyncio.sleep(0.1)
        assert len(seen) == count, "a change is told of once"
    following.cancel()
    await asyncio.wait([following])


async def test_a_lost_carrier_is_noticed(world: Hosts) -> None:
    async for path in PathMonitor(required_interface_type=InterfaceType.WIFI):
        if path.is_satisfied:
            begun = time.monotonic()
            world.ip("link", "set", "sv0", "down", on=world.server)
        else:
            assert time.monotonic() - begun < CARRIER + PROMPT
            break


async def echo(connection: NetworkConnection[TCP]) -> None:
    async for content, _ in connection:
        await connection.send(content)


async def test_tcp_is_viable_and_not_and_again(world: Hosts) -> None:
    """The interface, its address and the route go and come: nothing breaks, and each is told within a moment."""
    listener = NetworkListener(Parameters(TCP(), grace_period=0.0), on=HostPort(SERVER, 0))
    block = listener.serving(echo)
    with world.on_server():
        await block.__aenter__()
    try:
        async with NetworkConnection((SERVER, listener.port), TCP()) as connection:
            events = record_events(connection)
            await connection.ready()
            assert connection.local_endpoint.host == "10.77.1.1"  # type: ignore[union-attr]
            viable: list[tuple[float, bool]] = []
            connection.on_viability_update(lambda _, value: viable.append((time.monotonic(), value)))
            faults: list[tuple[list[tuple[str, ...]], list[tuple[str, ...]]]] = [
                ([("link", "set", "cl0", "down")], [("link", "set", "cl0", "up")]),
                ([("addr", "del", "10.77.1.1/24", "dev", "cl0")], [("addr", "add", "10.77.1.1/24", "dev", "cl0")]),
                ([("route", "del", SERVER, "dev", "cl0")], []),
            ]
            for breaking, mending in faults:
                for commands, expected in ((breaking, False), (mending, True)):
                    viable.clear()
                    for command in commands:
                        world.ip(*command)
                    if expected:
                        routes(world, 0)
                    done = time.monotonic()
                    await until(lambda: bool(viable), 2.0)
                    await asyncio.sleep(0.05)
                    assert [value for _, value in viable] == [expected]
                    assert viable[0][0] - done < PROMPT
                    assert connection.current_path is not None and connection.current_path.is_satisfied is expected
                    assert connection.state is State.READY
                await connection.send(b"still here")
                async with asyncio.timeout(10):  # after the retransmission timeout
                    assert (await connection.receive(exactly=10)).content == b"still here"
            kinds = [(event.kind, event.value) for event in events.events if event.kind in ("viability", "better path")]
            # While the connection's interface cannot be used, the other one is better.
            lost = [("viability", False), ("better path", True), ("viability", True), ("better path", False)]
            assert kinds == [("viability", True), *lost, *lost, *lost]
            events.stop()
    finally:
        await block.__aexit__(None, None, None)


async def test_a_better_path_comes_and_goes(world: Hosts) -> None:
    world.ip("link", "set", "cl0", "down")
    with world.listening(SERVER) as listening:
        port = listening.getsockname()[1]
        async with NetworkConnection((SERVER, port), TCP()) as connection:
            better: list[bool] = []
            connection.on_better_path_update(lambda _, value: better.append(value))
            await connection.ready()
            path = connection.current_path
            assert path is not None and path.interface is not None and path.interface.name == "cl1" and path.is_expensive
            world.ip("link", "set", "cl0", "up")
            routes(world, 0)
            await until(lambda: better == [True], 2.0)
            world.ip("link", "set", "cl0", "down")
            await until(lambda: better == [True, False], 2.0)
            assert connection.state is State.READY
            connection.abort()


@pytest.mark.parametrize("waits", [False, True])
async def test_a_waiting_connection_is_ready_when_the_route_returns(world: Hosts, waits: bool) -> None:
    for number in (0, 1):
        world.ip("route", "del", SERVER, "dev", f"cl{number}")
    with world.listening(SERVER) as listening:
        port = listening.getsockname()[1]
        connection = NetworkConnection((SERVER, port), Parameters(TCP(), waits_for_connectivity=waits))
        async with connection:
            await until(lambda: connection.state is State.WAITING)
            await asyncio.sleep(1.2)  # the back-off is at two seconds or more now
            await until(lambda: connection.state is State.WAITING)
            begun = time.monotonic()
            routes(world, 1)
            await until(lambda: connection.state is State.READY, 1.0)
            assert time.monotonic() - begun < 0.5
            connection.abort()


@pytest.mark.parametrize(
    ("restriction", "interface"),
    [
        ({"required_interface_type": InterfaceType.CELLULAR}, "cl1"),
        ({"prohibited_interface_types": (InterfaceType.WIFI,)}, "cl1"),
        ({"prohibited_interfaces": ("cl0",)}, "cl1"),
        ({"required_interface": "cl1"}, "cl1"),
        ({"expensive_paths_prohibited": True}, "cl0"),
        ({}, "cl0"),
    ],
)
@pytest.mark.parametrize("stack", [TCP(), UDP(), QUIC(alpn=["test"], trust=TRUST, server_name="localhost")])
async def test_restrictions_choose_the_way(world: Hosts, stack: Any, restriction: dict[str, Any], interface: str) -> None:
    """Also where the system prefers another one: the socket is bound to what the parameters allow."""
    peer = type(stack)(alpn=["test"], identity=LOCALHOST) if isinstance(stack, QUIC) else stack
    listener = NetworkListener(Parameters(peer, grace_period=0.0), on=HostPort(SERVER, 0))
    block = listener.serving(lambda connection: asyncio.Event().wait())
    with world.on_server():
        await block.__aenter__()
    try:
        async with NetworkConnection((SERVER, listener.port), Parameters(stack, **restriction)) as connection:
            await connection.ready()
            path = connection.current_path
            assert path is not None and path.interface is not None and path.interface.name == interface
    finally:
        await block.__aexit__(None, None, None)


async def test_nothing_is_left_by_the_restrictions(world: Hosts) -> None:
    world.ip("link", "set", "cl0", "down")
    using = Parameters(TCP(), expensive_paths_prohibited=True, prohibited_interface_types=(InterfaceType.LOOPBACK,))
    with world.listening(SERVER) as listening:
        async with NetworkConnection((SERVER, listening.getsockname()[1]), using) as connection:
            with pytest.raises(ConnectError, match=r"every remaining interface is expensive.*expensive_paths_prohibited=True"):
                await connection.ready()
            assert connection.state is State.WAITING
            world.ip("link", "set", "cl0", "up")
            routes(world, 0)
            await until(lambda: connection.state is State.READY, 1.0)
            connection.abort()


async def test_the_race_goes_over_both_interfaces(world: Hosts) -> None:
    """The first link is up and leads nowhere: the second one wins after the attempt delay."""
    world.filter('iifname "sv0" drop')
    with world.listening(SERVER) as listening:
        async with NetworkConnection((SERVER, listening.getsockname()[1]), TCP()) as connection:
            begun = time.monotonic()
            await connection.ready()
            assert 0.2 < time.monotonic() - begun < 1.0
            path = connection.current_path
            assert path is not None and path.interface is not None and path.interface.name == "cl1"
            connection.abort()


@pytest.mark.timeout(120)
@pytest.mark.asyncio_only
async def test_quic_crosses_three_handovers(world: Hosts) -> None:
    """Nobody calls `migrate`: the connection goes to the best interface that there is, and every byte arrives."""
    using = Parameters(QUIC(alpn=["test"], trust=TRUST, server_name="localhost"), multipath="handover")
    async with serving(world, SERVER) as server, NetworkConnection((SERVER, server.port), using) as connection:
        moves: list[str] = []
        connection.on_path_update(lambda _, path: moves.append("none" if path.interface is None else path.interface.name))
        await transfer(connection, 1)
        assert connection.local_endpoint.host == "10.77.1.1"  # type: ignore[union-attr]
        for number, change in enumerate(("down", "up", "down")):
            transferring = asyncio.create_task(transfer(connection, 70 if THOROUGH else 7))
            await asyncio.sleep(0.05)
            world.ip("link", "set", "cl0", change)
            if change == "up":
                routes(world, 0)
            local = "10.77.1.1" if change == "up" else "10.77.2.1"
            await until(lambda local=local: connection.local_endpoint.host == local, 1.0)  # type: ignore[misc]
            async with asyncio.timeout(30):
                await transferring
            assert connection.state is State.READY, number
        assert [name for name in moves if name != "none"] == ["cl0", "cl1", "cl0", "cl1"]
        assert len(server.connections) == 1


@pytest.mark.asyncio_only
async def test_a_dead_better_path_is_left_again(world: Hosts) -> None:
    world.ip("link", "set", "cl0", "down")
    using = Parameters(QUIC(alpn=["test"], trust=TRUST, server_name="localhost"), multipath="handover")
    async with serving(world, SERVER) as server, NetworkConnection((SERVER, server.port), using) as connection:
        await transfer(connection, 1)
        world.filter('iifname "sv0" drop')
        world.ip("link", "set", "cl0", "up")
        routes(world, 0)
        await until(lambda: connection.local_endpoint.host == "10.77.1.1", 2.0)  # type: ignore[union-attr]
        async with asyncio.timeout(20):
            await transfer(connection, 1)
        assert connection.local_endpoint.host == "10.77.2.1"  # type: ignore[union-attr]


@pytest.mark.parametrize("agrees", [True, False])
async def test_multipath_tcp_is_agreed_on_or_not(world: Hosts, agrees: bool) -> None:
    multipath = "aggregate" if agrees else "disabled"
    listener = NetworkListener(Parameters(TCP(), multipath=multipath, grace_period=0.0), on=HostPort(SERVER, 0))
    block = listener.serving(echo)
    with world.on_server():
        await block.__aenter__()
    try:
        using = Parameters(TCP(), multipath=Multipath.INTERACTIVE)
        async with NetworkConnection((SERVER, listener.port), using) as connection:
            await connection.send(b"over one path or more")
            assert (await connection.receive(exactly=21)).content == b"over one path or more"
            metadata = connection.metadata(TCP)
            assert metadata is not None and metadata.multipath is agrees
    finally:
        await block.__aexit__(None, None, None)
