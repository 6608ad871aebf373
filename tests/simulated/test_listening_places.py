"""A listener with restrictions: which interfaces it has sockets on, as these come and go. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from tieline import (
    QUIC,
    TCP,
    UDP,
    ConnectError,
    HostPort,
    Interface,
    InterfaceType,
    ListenerState,
    NetworkConnection,
    NetworkListener,
    Parameters,
    State,
    set_interface_policy,
)
from tieline.testing import Host, NetworkInterface, SimulatedNetwork

from ..authority import LOCALHOST, TRUST
from .programs import echo

WIFI, CELLULAR = "192.0.2.2", "198.51.100.2"
STACKS: list[Any] = [TCP(), UDP(), QUIC(alpn=["test"], identity=LOCALHOST)]
QUIC_CLIENT = QUIC(alpn=["test"], trust=TRUST, server_name="localhost")
NOTICE = 0.01  # seconds, more than a host needs to notice a change of its network


class World:
    """A phone that listens, with a client on the network of each of its interfaces, and one behind the Wi-Fi's router."""

    def __init__(self, network: SimulatedNetwork) -> None:
        self.network = network
        self.phone = network.host("phone.test")
        self.wifi, self.near = self.way("wlan0", WIFI, "192.0.2.3", InterfaceType.WIFI)
        self.cellular, self.mobile = self.way("wwan0", CELLULAR, "198.51.100.3", InterfaceType.CELLULAR)
        router = network.router("router.test")
        network.link(self.wifi, router, latency=0.005)
        self.far = network.host("far.test", "203.0.113.1")
        network.link(router, self.far, latency=0.005)

    def way(self, name: str, own: str, peer: str, type: InterfaceType) -> tuple[NetworkInterface, Host]:
        interface, client = self.phone.interface(name, own, type=type), self.network.host(f"{name}.test", peer)
        self.network.link(interface, client, latency=0.005)
        return interface, client

    def listen(self, stack: Any, on: Any = 80, **options: Any) -> NetworkListener[Any]:
        listener = NetworkListener(Parameters(stack, grace_period=0.0, **options), on=on)
        self.phone.start(listener.run, echo)
        return listener

    async def reaches(self, client: Host, to: HostPort, stack: Any) -> bool:
        """Whether somebody answers."""
        with client:
            connection = await self.connected(to, stack)
        if connection is None:
            return False
        connection.abort()
        return True

    async def connected(self, to: HostPort, stack: Any) -> NetworkConnection[Any] | None:
        connection: NetworkConnection[Any] = NetworkConnection(to, QUIC_CLIENT if isinstance(stack, QUIC) else stack)
        try:
            async with asyncio.timeout(1):
                await answered(connection)
        except (TimeoutError, ConnectionError):
            connection.abort()
            return None
        return connection


async def answered(connection: NetworkConnection[Any]) -> None:
    if isinstance(connection.parameters.stack, QUIC):
        await connection.ready()
        async with await connection.open_stream() as stream:
            await stream.send(b"ping", end_of_stream=True)
            assert (await stream.receive(exactly=4)).content == b"ping"
    else:
        await connection.send(b"ping")
        assert (await connection.receive()).content == b"ping"


@pytest.fixture
def world(simulated_network: SimulatedNetwork) -> Iterator[World]:
    with ExitStack() as stack:
        stack.callback(set_interface_policy, None)
        yield World(simulated_network)


ALLOWING: list[tuple[dict[str, Any], bool, bool]] = [  # whether Wi-Fi is listened on, and cellular
    ({}, True, True),
    ({"required_interface": "wlan0"}, True, False),
    ({"required_interface_type": InterfaceType.CELLULAR}, False, True),
    ({"prohibited_interfaces": ("wlan0",)}, False, True),
    ({"prohibited_interface_types": (InterfaceType.CELLULAR,)}, True, False),
    ({"expensive_paths_prohibited": True}, True, False),
    ({"constrained_paths_prohibited": True}, False, True),
]


def constrain_wifi(one: Interface) -> Interface:
    return replace(one, is_constrained=one.type is InterfaceType.WIFI)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(("options", "wifi", "cellular"), ALLOWING)
async def test_only_what_the_parameters_allow_is_listened_on(
    world: World, stack: Any, options: dict[str, Any], wifi: bool, cellular: bool
) -> None:
    set_interface_policy(constrain_wifi)
    listener = world.listen(stack, **options)
    await asyncio.sleep(NOTICE)
    assert listener.state is ListenerState.READY and listener.port == 80
    assert await world.reaches(world.near, HostPort(WIFI, 80), stack) is wifi
    assert await world.reaches(world.mobile, HostPort(CELLULAR, 80), stack) is cellular
    assert await world.reaches(world.far, HostPort(WIFI, 80), stack) is wifi


@pytest.mark.parametrize("stack", STACKS)
async def test_it_waits_for_an_interface_and_follows_it(world: World, stack: Any) -> None:
    """And it keeps its port throughout, also one that the system chose."""
    world.cellular.down()
    listener = NetworkListener(Parameters(stack, grace_period=0.0, required_interface_type=InterfaceType.CELLULAR))
    seen: list[tuple[float, ListenerState]] = []
    listener.on_state_update(lambda _, state: seen.append((round(world.network.time, 3), state)))
    world.phone.start(listener.run, echo)
    await asyncio.sleep(5)
    assert listener.state is ListenerState.WAITING and listener.endpoints == ()
    assert isinstance(listener.error, ConnectError)
    assert "no remaining interface is of the required type" in str(listener.error)
    with pytest.raises(RuntimeError, match="no address: it is waiting"):
        _ = listener.endpoint

    world.cellular.up()
    await asyncio.sleep(1)
    assert listener.error is None
    port = listener.port
    assert listener.endpoint == HostPort(CELLULAR, port), "the loopback is ruled out"
    assert await world.reaches(world.mobile, HostPort(CELLULAR, port), stack)

    before = world.network.time
    world.cellular.down()
    await asyncio.sleep(1)
    assert listener.state is ListenerState.WAITING and listener.endpoints == () and listener.port == port
    world.cellular.up()
    await asyncio.sleep(1)
    assert await world.reaches(world.mobile, HostPort(CELLULAR, port), stack)
    waiting, ready = ListenerState.WAITING, ListenerState.READY
    begun = round(before, 3)
    assert seen == [(0, waiting), (5.001, ready), (round(begun + 0.001, 3), waiting), (round(begun + 1.001, 3), ready)]


async def test_serving_enters_when_an_interface_has_come(world: World) -> None:
    world.cellular.down()
    world.network.at(7, world.cellular.up)
    with world.phone:
        listener = NetworkListener(Parameters(UDP(), required_interface="wwan0"), on=80)
        async with listener.serving(echo):
            assert 7 < world.network.time < 7 + NOTICE
            assert listener.state is ListenerState.READY
        assert listener.state is ListenerState.CANCELLED


async def test_cancelled_while_it_waits(world: World) -> None:
    with world.phone:
        listener = NetworkListener(Parameters(TCP(), required_interface="nope0"), on=80)
        running = asyncio.create_task(listener.run(echo))
    await asyncio.sleep(1)
    assert listener.state is ListenerState.WAITING and "required_interface='nope0'" in str(listener.error)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert listener.state is ListenerState.CANCELLED
    assert not world.phone.driver._host._own_network.watches, "nobody watches any more"


@pytest.mark.parametrize("stack", STACKS)
async def test_what_was_handed_out_lives_on(world: World, stack: Any) -> None:
    """The interface goes for a while: the connection goes on when it is back, and for the rest it is listened on again."""
    listener = world.listen(stack, expensive_paths_prohibited=True, prohibited_interface_types=[InterfaceType.LOOPBACK])
    with world.near:
        connection = await world.connected(HostPort(WIFI, 80), stack)
    assert connection is not None
    world.wifi.down()
    await asyncio.sleep(0.5)
    assert listener.state is ListenerState.WAITING
    world.wifi.up()
    await asyncio.sleep(0.5)
    assert listener.state is ListenerState.READY
    await answered(connection)
    assert connection.state is State.READY
    assert await world.reaches(world.near, HostPort(WIFI, 80), stack), "others can connect, too"
    connection.abort()


@pytest.mark.parametrize("stack", STACKS)
async def test_an_interface_that_is_ruled_out_later(world: World, stack: Any) -> None:
    """Nobody new can connect there. The socket is closed when the last one has left."""
    listener = world.listen(stack, expensive_paths_prohibited=True, prohibited_interface_types=[InterfaceType.LOOPBACK])
    with world.near:
        connection = await world.connected(HostPort(WIFI, 80), stack)
    assert connection is not None
    set_interface_policy(lambda one: replace(one, is_expensive=True))
    world.cellular.add_address("198.51.100.9")  # the policy is asked at each change
    await asyncio.sleep(0.5)
    assert listener.state is ListenerState.WAITING
    assert "every remaining interface is expensive" in str(listener.error)
    assert not await world.reaches(world.near, HostPort(WIFI, 80), stack)
    await answered(connection)
    connection.abort()
    await asyncio.sleep(120)  # a UDP flow ends by idleness
    assert world.phone.sockets == ()


async def test_an_address_on_an_interface_that_is_ruled_out(world: World) -> None:
    listener = world.listen(TCP(), HostPort(WIFI, 80), required_interface_type=InterfaceType.CELLULAR)
    await asyncio.sleep(1)
    assert listener.state is ListenerState.WAITING
    assert "no interface that the parameters allow has an address for 192.0.2.2:80" in str(listener.error)
    world.wifi.remove_address(WIFI)
    world.cellular.add_address(WIFI)
    await asyncio.sleep(1)
    assert listener.state is ListenerState.READY and listener.endpoints == (HostPort(WIFI, 80),)


async def test_a_port_that_is_taken_is_no_lack_of_network(world: World) -> None:
    world.listen(TCP())
    await asyncio.sleep(NOTICE)
    with world.phone, pytest.raises(ConnectError, match="Address already in use"):
        await NetworkListener(Parameters(TCP(), required_interface="wlan0"), on=80).run(echo)


async def test_a_port_that_is_taken_when_the_interface_comes(world: World) -> None:
    world.wifi.down()
    world.listen(UDP())
    with world.phone:
        listener = NetworkListener(Parameters(UDP(), required_interface="wlan0"), on=80)
        running = asyncio.create_task(listener.run(echo))
    await asyncio.sleep(1)
    assert listener.state is ListenerState.WAITING
    world.wifi.up()
    with pytest.raises(ConnectError, match="Address already in use"):
        await running
    assert listener.state is ListenerState.FAILED


async def test_a_port_that_is_taken_on_one_interface(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The others are listened on, and it is said once."""
    world.wifi.down()
    listener = world.listen(UDP(), expensive_paths_prohibited=True)
    await asyncio.sleep(1)
    with world.phone:
        other = NetworkListener(Parameters(UDP(), grace_period=0.0, required_interface="wlan0"), on=80)
        world.wifi.up()
        world.phone.start(other.run, echo)
        await asyncio.sleep(1)
    world.cellular.add_address("198.51.100.9")
    await asyncio.sleep(1)
    assert listener.state is ListenerState.READY
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1 and said[0].startswith("not listening on every interface: ") and "already in use" in said[0]


# Only on the local network


@pytest.mark.parametrize("stack", STACKS)
async def test_a_local_listener_takes_in_nobody_from_beyond_a_router(world: World, stack: Any) -> None:
    listener = world.listen(stack, local_only=True)
    await asyncio.sleep(NOTICE)
    assert listener.endpoint == HostPort("127.0.0.1", 80)
    assert await world.reaches(world.phone, HostPort("127.0.0.1", 80), stack)
    assert await world.reaches(world.near, HostPort(WIFI, 80), stack)
    assert not await world.reaches(world.far, HostPort(WIFI, 80), stack)


@pytest.mark.parametrize("stack", STACKS)
async def test_a_local_connection_does_not_go_beyond_a_router(world: World, stack: Any) -> None:
    client = QUIC_CLIENT if isinstance(stack, QUIC) else stack
    for host in (world.near, world.far):
        host.start(NetworkListener(Parameters(stack, grace_period=0.0), on=80).run, echo)
    with world.phone:
        async with NetworkConnection("192.0.2.3:80", Parameters(client, local_only=True)) as connection:
            await answered(connection)
            connection.abort()
        async with NetworkConnection("203.0.113.1:80", Parameters(client, local_only=True)) as connection:
            with pytest.raises(ConnectError, match=r"on no link of this machine \(local_only=True\)"):
                await connection.ready()
            assert connection.state is State.WAITING
