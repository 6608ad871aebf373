"""Connecting across a network that refuses, forbids, forgets and breaks."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from tieline import (
    TCP,
    UDP,
    ConnectError,
    HostPort,
    InterfaceType,
    NetworkConnection,
    Parameters,
    PathMonitor,
    State,
)
from tieline.drivers.asyncio import AsyncioDriver
from tieline.errors import Phase

from ..peers import until
from .conftest import DROP, PROHIBIT, RESET, Hosts

SERVER, OTHER, FAR = "10.77.1.2", "10.77.1.3", "10.99.0.1"


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses of host.test, IPv6 and IPv4."""
    addresses: list[str] = []

    async def resolve(_: object, host: str, port: int, version: int) -> list[HostPort]:
        return [one for one in (HostPort(address, port) for address in addresses) if one.version == version]

    monkeypatch.setattr(AsyncioDriver, "resolve", resolve)
    return addresses


async def test_what_the_network_says_is_told_apart(hosts: Hosts) -> None:
    """Refused, reset by a filter, forbidden, unreachable, without a route, and silence."""
    hosts.filter(f"tcp dport 81 {DROP}", f"tcp dport 82 {RESET}", f"tcp dport 83 {PROHIBIT}")
    hosts.ip("route", "add", "unreachable", "10.98.0.1")
    hosts.ip("route", "add", "prohibit", "10.98.0.2")
    cases: list[tuple[str, int, type[Exception], int, State]] = [
        (SERVER, 80, ConnectionRefusedError, errno.ECONNREFUSED, State.WAITING),
        (SERVER, 82, ConnectionRefusedError, errno.ECONNREFUSED, State.WAITING),
        ("fd77:1::2", 80, ConnectionRefusedError, errno.ECONNREFUSED, State.WAITING),
        (SERVER, 81, TimeoutError, errno.ETIMEDOUT, State.WAITING),
        (SERVER, 83, ConnectError, errno.EHOSTUNREACH, State.WAITING),
        ("10.98.0.1", 80, ConnectError, errno.EHOSTUNREACH, State.WAITING),
        ("10.98.0.2", 80, ConnectError, errno.EACCES, State.FAILED),
        (FAR, 80, ConnectError, errno.ENETUNREACH, State.WAITING),
    ]
    texts = set()
    for host, port, kind, code, state in cases:
        async with NetworkConnection((host, port), TCP(connection_timeout=0.3)) as connection:
            with pytest.raises(kind) as caught:
                await connection.ready()
            error = caught.value
            assert isinstance(error, ConnectError) and error.errno == code and connection.state is state, (host, port)
            assert isinstance(error, TimeoutError) == (kind is TimeoutError)
            assert isinstance(error, ConnectionRefusedError) == (kind is ConnectionRefusedError)
            (attempt,) = error.attempts
            assert attempt.endpoint == HostPort(host, port) and attempt.phase is Phase.CONNECTING
            texts.add(str(error).partition("connecting: ")[2].partition(" (")[0])
    assert len(texts) == 5, texts


async def test_a_broken_ipv6_costs_one_attempt_delay(hosts: Hosts, name: list[str]) -> None:
    hosts.filter(f"meta nfproto ipv6 meta l4proto tcp {DROP}")
    name += ["fd77:1::2", "fd77:1::3", SERVER]
    with hosts.listening("0.0.0.0") as listening:
        port = listening.getsockname()[1]
        async with NetworkConnection(("host.test", port), TCP()) as connection:
            before = asyncio.get_running_loop().time()
            await connection.ready()
            assert 0.24 < asyncio.get_running_loop().time() - before < 0.35
            assert connection.remote_endpoint == HostPort(SERVER, port)
            report = await connection.establishment_report()
            assert report.resolutions[0].preferred_endpoint == HostPort("fd77:1::2", port)
            assert report.resolutions[0].successful_endpoint == HostPort(SERVER, port)
            connection.abort()


async def test_a_dead_first_address_costs_one_attempt_delay(hosts: Hosts, name: list[str]) -> None:
    hosts.filter(f"ip daddr {SERVER} tcp dport 1-65535 {DROP}")
    name += [SERVER, OTHER]
    with hosts.listening(OTHER) as listening:
        port = listening.getsockname()[1]
        async with NetworkConnection(("host.test", port), Parameters(TCP(), attempt_delay=0.1)) as connection:
            before = asyncio.get_running_loop().time()
            await connection.ready()
            assert 0.09 < asyncio.get_running_loop().time() - before < 0.2
            assert connection.remote_endpoint == HostPort(OTHER, port)
            connection.abort()


async def test_an_unreachable_first_address_costs_nothing(hosts: Hosts, name: list[str]) -> None:
    name += ["fd99::1", FAR, SERVER]
    with hosts.listening(SERVER) as listening:
        port = listening.getsockname()[1]
        async with NetworkConnection(("host.test", port), TCP()) as connection:
            before = asyncio.get_running_loop().time()
            await connection.ready()
            assert asyncio.get_running_loop().time() - before < 0.1
            connection.abort()


async def test_every_attempt_is_in_the_error(hosts: Hosts, name: list[str]) -> None:
    hosts.filter(f"ip daddr {OTHER} tcp dport 80 {DROP}", f"ip daddr {SERVER} tcp dport 80 {PROHIBIT}")
    name += ["fd77:1::2", SERVER, OTHER]
    async with NetworkConnection("host.test:80", TCP(connection_timeout=0.3)) as connection:
        with pytest.raises(ConnectError) as caught:
            await connection.ready()
    codes = {attempt.endpoint: attempt.error.errno for attempt in caught.value.attempts}  # type: ignore[attr-defined]
    assert codes == {
        HostPort("fd77:1::2", 80): errno.ECONNREFUSED,
        HostPort(SERVER, 80): errno.EHOSTUNREACH,
        HostPort(OTHER, 80): errno.ETIMEDOUT,
    }
    assert not isinstance(caught.value, (TimeoutError, ConnectionRefusedError))


async def test_a_connection_waits_for_its_link(hosts: Hosts) -> None:
    with hosts.listening(SERVER) as listening:
        port = listening.getsockname()[1]
        hosts.ip("link", "set", "cl0", "down")
        async with NetworkConnection((SERVER, port), Parameters(TCP(), waits_for_connectivity=True)) as connection:
            states: list[State] = []
            connection.on_state_update(lambda _, state: states.append(state))
            sending = asyncio.create_task(connection.send(b"at last"))
            await asyncio.sleep(0.2)
            assert connection.state is State.WAITING and isinstance(connection.error, ConnectError)
            assert connection.error.errno == errno.ENETUNREACH and not sending.done()
            hosts.ip("link", "set", "cl0", "up")
            async with asyncio.timeout(3):
                await sending
            assert states[-2:] == [State.PREPARING, State.READY]
            connection.abort()


async def test_a_link_that_goes_down_while_connecting(hosts: Hosts) -> None:
    """The attempt that was under way times out, and the next one finds the link again."""
    hosts.ip("link", "set", "sv0", "down", on=hosts.server)
    with hosts.listening("0.0.0.0") as listening:
        port = listening.getsockname()[1]
        parameters = Parameters(TCP(connection_timeout=0.5), waits_for_connectivity=True)
        async with NetworkConnection((SERVER, port), parameters) as connection:
            await asyncio.sleep(0.1)
            hosts.ip("link", "set", "cl0", "down")
            hosts.ip("link", "set", "sv0", "up", on=hosts.server)
            await asyncio.sleep(0.1)
            hosts.ip("link", "set", "cl0", "up")
            async with asyncio.timeout(5):
                await connection.ready()
            connection.abort()


async def test_an_established_connection_outlives_its_link(hosts: Hosts) -> None:
    """No error and no change of state: what is sent meanwhile arrives when the link is back."""
    with hosts.listening(SERVER) as listening:
        port = listening.getsockname()[1]
        async with NetworkConnection((SERVER, port), TCP()) as connection:
            await connection.ready()
            hosts.ip("link", "set", "cl0", "down")
            await connection.send(b"meanwhile")
            await asyncio.sleep(0.2)
            assert connection.state is State.READY
            hosts.ip("link", "set", "cl0", "up")
            accepted, _ = listening.accept()
            with accepted:
                accepted.settimeout(5)
                received = await asyncio.to_thread(accepted.recv, 100)
                assert received == b"meanwhile"


@pytest.mark.parametrize("using", [TCP(), UDP()])
async def test_a_required_interface_is_the_way_out(hosts: Hosts, using: Any) -> None:
    """The server's address on the first link can be reached over the second one, when that is asked for."""
    hosts.ip("route", "add", f"{SERVER}/32", "via", "10.77.2.2", "dev", "cl1", "metric", "500")
    with hosts.listening(SERVER) as listening:
        port = listening.getsockname()[1]
        for interface, source in (("cl0", "10.77.1.1"), ("cl1", "10.77.2.1")):
            async with NetworkConnection((SERVER, port), Parameters(using, required_interface=interface)) as connection:
                await connection.ready()
                assert isinstance(connection.local_endpoint, HostPort) and connection.local_endpoint.host == source
                assert connection.current_path is not None and connection.current_path.interface is not None
                assert connection.current_path.interface.name == interface
                connection.abort()


async def test_a_prohibited_interface_is_not_used(hosts: Hosts) -> None:
    with hosts.listening(SERVER) as listening:
        port = listening.getsockname()[1]
        async with NetworkConnection((SERVER, port), Parameters(TCP(), prohibited_interfaces=("cl0",))) as connection:
            with pytest.raises(ConnectError, match="the route leads through cl0, which the parameters rule out"):
                await connection.ready()
            assert connection.state is State.WAITING
        every = ("cl0", "cl1", "lo")
        async with NetworkConnection((SERVER, port), Parameters(TCP(), prohibited_interfaces=every)) as connection:
            with pytest.raises(ConnectError, match=r"no usable network.*prohibited_interfaces"):
                await connection.ready()


async def test_a_required_interface_that_goes_and_comes(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NetworkConnection, "_back_off", 60.0)  # so that it is not time that helps
    with hosts.listening(SERVER) as listening:
        port = listening.getsockname()[1]
        hosts.ip("link", "set", "cl0", "down")
        async with NetworkConnection((SERVER, port), Parameters(TCP(), required_interface="cl0")) as connection:
            with pytest.raises(ConnectError) as caught:
                await connection.ready()
            assert connection.state is State.WAITING and caught.value.errno in (errno.ENETDOWN, errno.ENETUNREACH)
            hosts.ip("link", "set", "cl0", "up")
            await until(lambda: connection.state is State.READY)  # nobody calls; the kernel tells of links once a second
            connection.abort()


async def test_the_monitor_sees_the_present_network(hosts: Hosts) -> None:
    names = [one.name for one in PathMonitor().current_path.available_interfaces]
    assert set(names) == {"lo", "cl0", "cl1"}
    hosts.ip("addr", "flush", "dev", "cl1")
    async for path in PathMonitor(prohibited_interface_types=[InterfaceType.LOOPBACK]):
        assert [one.name for one in path.available_interfaces] == ["cl0"]
        assert path.supports_ipv4 and path.supports_ipv6 and path.is_satisfied
        break
