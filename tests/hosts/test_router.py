"""A router between two hosts that is rebooted: who notices what, in which order, and when it goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tieline import (
    QUIC,
    TCP,
    UDP,
    ConnectError,
    HostPort,
    NetworkConnection,
    NetworkListener,
    Parameters,
    PathMonitor,
    State,
)
from tieline.testing import record_events

from ..authority import LOCALHOST, TRUST
from ..peers import until
from .conftest import Hosts, Router
from .test_path_changes import CARRIER, PROMPT, echo, follow
from .test_quic_hosts import serving, transfer

SERVER = "10.77.5.2"
OUTAGE = 1.5  # seconds that the router is away


@pytest.fixture
def router(hosts: Hosts) -> Iterator[Router]:
    with hosts.routed() as router:
        yield router


@asynccontextmanager
async def echoing(hosts: Hosts, stack: Any, host: str = SERVER, port: int = 0) -> AsyncIterator[NetworkListener[Any]]:
    listener = NetworkListener(Parameters(stack, grace_period=0.0), on=HostPort(host, port))
    block = listener.serving(echo)
    with hosts.on_server():
        await block.__aenter__()
    try:
        yield listener
    finally:
        await block.__aexit__(None, None, None)


async def reboot(router: Router) -> tuple[float, float]:
    """When it went down and when it came up."""
    router.goes_down()
    down = time.monotonic()
    await asyncio.sleep(OUTAGE)
    router.comes_up()
    return down, time.monotonic()


async def test_tcp_across_a_reboot(hosts: Hosts, router: Router) -> None:
    """Not viable while there is no carrier, viable again; what was sent meanwhile arrives when TCP sends it again."""
    seen: list[Any] = []
    following = asyncio.create_task(follow(PathMonitor(prohibited_interfaces=["lo", "cl0", "cl1"]), seen))
    async with echoing(hosts, TCP()) as listener, NetworkConnection((SERVER, listener.port), TCP()) as connection:
        events = record_events(connection)
        viable: list[tuple[float, bool]] = []
        connection.on_viability_update(lambda _, value: viable.append((time.monotonic(), value)))
        await connection.send(b"before")
        assert (await connection.receive(exactly=6)).content == b"before"
        rebooting = asyncio.create_task(reboot(router))
        await until(lambda: [value for _, value in viable] == [True, False], CARRIER + PROMPT)
        assert connection.current_path is not None and not connection.current_path.is_satisfied
        await connection.send(b"meanwhile")
        down, up = await rebooting
        await until(lambda: len(viable) == 3, CARRIER + PROMPT)
        async with asyncio.timeout(2 * OUTAGE):  # the retransmission timeout doubles
            assert (await connection.receive(exactly=9)).content == b"meanwhile"
        assert viable[1][0] - down < CARRIER + PROMPT and viable[2] == (pytest.approx(up, abs=CARRIER + PROMPT), True)
        assert connection.state is State.READY
        told = [(event.kind, event.value) for event in events.events if event.kind in ("viability", "better path")]
        assert told == [("viability", True), ("viability", False), ("viability", True)]
        satisfied = [event.value.is_satisfied for event in events.events if event.kind == "path"]
        assert satisfied == [True, False, True]
    following.cancel()
    await asyncio.wait([following])
    assert [[one.name for one in path.available_interfaces] for _, path in seen] == [["cl3"], [], ["cl3"]]


@pytest.mark.asyncio_only
async def test_quic_across_a_reboot(hosts: Hosts, router: Router) -> None:
    """In mid-transfer: the same connection goes on, and every byte arrives."""
    using = QUIC(alpn=["test"], trust=TRUST, server_name="localhost")
    async with serving(hosts, SERVER) as server, NetworkConnection((SERVER, server.port), using) as connection:
        await transfer(connection, 1)
        viable: list[bool] = []
        connection.on_viability_update(lambda _, value: viable.append(value))
        transferring = asyncio.create_task(transfer(connection, 7))
        await asyncio.sleep(0.02)
        await reboot(router)
        async with asyncio.timeout(10):
            await transferring
        assert viable == [False, True] and connection.state is State.READY
        assert len(server.connections) == 1


@pytest.mark.parametrize("stack", [TCP(), QUIC(alpn=["test"], trust=TRUST, server_name="localhost")])
async def test_a_waiting_connection_is_ready_when_the_router_is_back(hosts: Hosts, router: Router, stack: Any) -> None:
    """It does not send into the dead link, where nobody would answer, and so it begins at once when there is a carrier."""
    peer = QUIC(alpn=["test"], identity=LOCALHOST) if isinstance(stack, QUIC) else stack
    async with echoing(hosts, peer) as listener:
        router.goes_down()
        async for path in PathMonitor(prohibited_interfaces=["lo", "cl0", "cl1"]):
            if not path.is_satisfied:
                break
        async with NetworkConnection((SERVER, listener.port), stack) as connection:
            with pytest.raises(ConnectError, match="the link that leads there is down"):
                await connection.ready()
            assert connection.state is State.WAITING
            await asyncio.sleep(1.2)  # the back-off is at two seconds or more now
            await until(lambda: connection.state is State.WAITING)
            router.comes_up()
            async for path in PathMonitor(prohibited_interfaces=["lo", "cl0", "cl1"]):
                if path.is_satisfied:  # the kernel takes its time to notice a carrier
                    break
            await until(lambda: connection.state is State.READY, 1.0)
            connection.abort()


# Only on the local network


@pytest.mark.parametrize("stack", [TCP(), UDP(), QUIC(alpn=["test"], trust=TRUST, server_name="localhost")])
async def test_local_only(hosts: Hosts, router: Router, stack: Any) -> None:
    """What is behind the router is not connected to; what is on a link is."""
    peer = QUIC(alpn=["test"], identity=LOCALHOST) if isinstance(stack, QUIC) else stack
    using = Parameters(stack, local_only=True)
    async with echoing(hosts, peer, "0.0.0.0") as listener:
        async with NetworkConnection((SERVER, listener.port), using) as connection:
            with pytest.raises(ConnectError, match=r"on no link of this machine \(local_only=True\)"):
                await connection.ready()
            assert connection.state is State.WAITING
        async with NetworkConnection(("10.77.1.2", listener.port), using) as connection:
            await connection.ready()
            connection.abort()
