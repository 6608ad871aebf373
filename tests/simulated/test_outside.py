"""A program in a simulated network and on none of its hosts: it has the network's time, and no way into the system's network."""

from __future__ import annotations

import pytest

from tieline import TCP, UDP, NetworkConnection, NetworkError, NetworkListener, PathMonitor, State
from tieline.protocols.roles import NetworkProtocol
from tieline.testing import SimulatedNetwork, memory_pair, record_events


@pytest.mark.parametrize(("to", "using"), [("server.test:80", TCP()), ("127.0.0.1:80", TCP()), ("127.0.0.1:80", UDP())])
async def test_a_forgotten_host_is_told(simulated_network: SimulatedNetwork, to: str, using: NetworkProtocol) -> None:
    """Instead of asking the system's resolver, and calling whoever has that name on the real network."""
    simulated_network.host("server.test")
    async with NetworkConnection(to, using) as connection:
        with pytest.raises(NetworkError, match="runs on no host of the simulated network: start connections inside `with host:`"):
            await connection.ready()
        assert connection.state is State.FAILED and simulated_network.time == 0


async def test_a_forgotten_host_of_a_listener(simulated_network: SimulatedNetwork) -> None:
    with pytest.raises(Exception, match="runs on no host of the simulated network"):
        await NetworkListener(TCP(), on=80).run(lambda connection: connection.aclose())


async def test_a_forgotten_host_of_a_path_monitor(simulated_network: SimulatedNetwork) -> None:
    with pytest.raises(RuntimeError, match="runs on no host of the simulated network"):
        async for _ in PathMonitor():
            pass


async def test_pairs_in_memory_and_records_live_in_the_networks_time(simulated_network: SimulatedNetwork) -> None:
    near, far = await memory_pair(TCP())
    with record_events(near) as events:
        async with near, far:
            report = await near.establishment_report()
            assert report.duration == 0
    assert {event.time for event in events} == {simulated_network.time} == {0}
