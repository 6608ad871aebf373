"""QUIC across a network that loses, delays and reorders, and whose addresses and interfaces come and go."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import settings

from tieline import QUIC, HostPort, NetworkConnection, NetworkListener, Parameters, State
from tieline.errors import IdleTimeoutError

from ..authority import LOCALHOST, TRUST
from ..peers import until
from .conftest import Hosts

THOROUGH = settings().max_examples > 1000
SERVER, IMPAIRED, SECOND = "10.77.1.2", "10.77.3.2", "10.77.2.2"
MEGABYTE = random.Random(11).randbytes(1_000_000)
# Megabytes, of which each goes there and comes back. No test may take longer than faulthandler_timeout.
LARGE, MEDIUM, SMALL = (100, 20, 10) if THOROUGH else (2, 2, 1)
SLOW = pytest.mark.timeout(120 if THOROUGH else 60)
# What is impaired is the network: a second loop would show no more of it, and take as long.
ONE_LOOP = pytest.mark.asyncio_only


class Server:
    """A listener on the other host: it takes what comes, and answers with the hash of it and as many bytes of its own."""

    def __init__(self) -> None:
        self.connections: list[NetworkConnection[QUIC]] = []
        self.port = 0

    async def handle(self, connection: NetworkConnection[QUIC]) -> None:
        self.connections.append(connection)
        await connection.inbound_streams(self.answer)

    async def answer(self, stream: Any) -> None:
        digest, count = sha256(), 0
        async for content, _ in stream:
            digest.update(content)
            count += len(content)
        await stream.send(digest.digest())
        for _ in range(count // len(MEGABYTE)):
            await stream.send(MEGABYTE)
        await stream.send(b"", end_of_stream=True)


@asynccontextmanager
async def serving(hosts: Hosts, host: str, **options: Any) -> AsyncIterator[Server]:
    server = Server()
    using = Parameters(QUIC(**{"alpn": ["test"], "identity": LOCALHOST, **options}), grace_period=0.0)
    listener = NetworkListener(using, on=HostPort(host, 0))
    block = listener.serving(server.handle)
    with hosts.on_server():
        await block.__aenter__()
    server.port = listener.port
    try:
        yield server
    finally:
        await block.__aexit__(None, None, None)


def to(host: str, port: int, **options: Any) -> NetworkConnection[QUIC]:
    return NetworkConnection((host, port), QUIC(**{"alpn": ["test"], "trust": TRUST, "server_name": "localhost", **options}))


async def transfer(connection: NetworkConnection[QUIC], megabytes: int, halfway: asyncio.Event | None = None) -> None:
    """So many there, and so many back; `halfway` of the way back."""
    stream = await connection.open_stream()
    sent, received, count, said = sha256(), sha256(), 0, b""

    async def send() -> None:
        for _ in range(megabytes):
            await stream.send(MEGABYTE)
        await stream.send(b"", end_of_stream=True)

    sending = asyncio.create_task(send())
    try:
        said = (await stream.receive(exactly=32)).content
        async for content, _ in stream:
            received.update(content)
            count += len(content)
            if halfway is not None and 2 * count >= megabytes * len(MEGABYTE):
                halfway.set()
        await sending
    finally:
        sending.cancel()
    for _ in range(megabytes):
        sent.update(MEGABYTE)
    assert said == sent.digest() == received.digest() and count == megabytes * len(MEGABYTE)


async def begun(connection: NetworkConnection[QUIC]) -> asyncio.Task[None]:
    """A transfer in the middle of its second half, with more to come than all buffers hold."""
    halfway = asyncio.Event()
    transferring = asyncio.create_task(transfer(connection, 12, halfway))
    await halfway.wait()
    return transferring


# A bad link


@SLOW
@ONE_LOOP
@pytest.mark.parametrize("loss", [0.01, 0.05])
async def test_loss(hosts: Hosts, loss: float) -> None:
    with hosts.impaired(delay=0.001, loss=loss):
        async with serving(hosts, IMPAIRED) as server, to(IMPAIRED, server.port) as connection:
            await transfer(connection, LARGE)
            measured = (await connection.data_transfer_report()).aggregate
            assert measured.retransmitted_transport_byte_count > 0 and measured.transport_minimum_rtt >= 0.002


@SLOW
@ONE_LOOP
async def test_reordering_and_copies(hosts: Hosts) -> None:
    with hosts.impaired(delay=0.005, reorder=0.1, twice=0.1):
        async with serving(hosts, IMPAIRED) as server, to(IMPAIRED, server.port) as connection:
            await transfer(connection, SMALL)


@SLOW
@ONE_LOOP
async def test_fifty_milliseconds(hosts: Hosts) -> None:
    """Each way. The handshake takes one round trip, and the window grows to what such a path needs."""
    loop = asyncio.get_running_loop()
    with hosts.impaired(delay=0.05):
        async with serving(hosts, IMPAIRED) as server, to(IMPAIRED, server.port) as connection:
            before = loop.time()
            await connection.ready()
            assert 0.1 <= loop.time() - before < 0.25
            before = loop.time()
            await transfer(connection, 4 * MEDIUM)
            assert loop.time() - before < 2 + 1.5 * MEDIUM


@SLOW
@ONE_LOOP
async def test_everything_at_once(hosts: Hosts) -> None:
    with hosts.impaired(delay=0.01, loss=0.01, reorder=0.02, twice=0.02):
        async with serving(hosts, IMPAIRED) as server, to(IMPAIRED, server.port) as connection:
            await asyncio.gather(*(transfer(connection, 1) for _ in range(SMALL)))


async def test_a_link_that_everything_is_lost_on(hosts: Hosts) -> None:
    with hosts.impaired(loss=1.0):
        async with serving(hosts, IMPAIRED) as server, to(IMPAIRED, server.port, handshake_timeout=0.5) as connection:
            with pytest.raises(TimeoutError):
                await connection.ready()
            assert connection.state is State.WAITING


# Its size


def mtu(hosts: Hosts, size: int) -> None:
    hosts.ip("link", "set", "cl0", "mtu", str(size))
    hosts.ip("link", "set", "sv0", "mtu", str(size), on=hosts.server)


@pytest.mark.parametrize("host", [SERVER, "fd77:1::2"])
async def test_a_small_mtu(hosts: Hosts, host: str) -> None:
    mtu(hosts, 1280)
    async with (
        serving(hosts, host, max_datagram_frame_size=65535) as server,
        to(host, server.port, max_datagram_frame_size=65535) as connection,
    ):
        await transfer(connection, 2)
        headers = 48 if ":" in host else 28
        assert 1100 < connection.usable_datagram_frame_size <= 1280 - headers


async def test_the_mtu_shrinks_in_mid_transfer(hosts: Hosts) -> None:
    """A black hole for the packets that have been good before: both sides go back to small ones."""
    async with (
        serving(hosts, SERVER, max_datagram_frame_size=65535) as server,
        to(SERVER, server.port, max_datagram_frame_size=65535) as connection,
    ):
        await transfer(connection, 2)
        assert connection.usable_datagram_frame_size > 1300
        transferring = await begun(connection)
        mtu(hosts, 1280)
        await transferring
        await transfer(connection, 2)
        assert connection.usable_datagram_frame_size <= 1252


# Interfaces


async def test_an_interface_that_goes_down_and_up(hosts: Hosts) -> None:
    async with serving(hosts, SERVER) as server, to(SERVER, server.port) as connection:
        await transfer(connection, 1)
        for host, name in ((hosts.client, "cl0"), (hosts.server, "sv0")):
            transferring = await begun(connection)
            hosts.ip("link", "set", name, "down", on=host)
            await asyncio.sleep(0.3)
            assert not transferring.done() and connection.state is State.READY
            hosts.ip("link", "set", name, "up", on=host)
            async with asyncio.timeout(10):
                await transferring


@pytest.mark.parametrize("name", ["cl0", "sv0"])
async def test_an_interface_that_stays_down(hosts: Hosts, name: str) -> None:
    async with serving(hosts, SERVER, idle_timeout=1.0) as server, to(SERVER, server.port) as connection:
        await transfer(connection, 1)
        transferring = await begun(connection)
        loop = asyncio.get_running_loop()
        before = loop.time()
        hosts.ip("link", "set", name, "down", on=hosts.client if name == "cl0" else hosts.server)
        with pytest.raises(IdleTimeoutError):
            await transferring
        assert 0.9 < loop.time() - before < 2.0  # RFC 9000 section 10.1: three probe timeouts at least
        assert connection.state is State.FAILED and isinstance(connection.error, IdleTimeoutError)
        await until(lambda: server.connections[0].state is State.FAILED)
        assert isinstance(server.connections[0].error, IdleTimeoutError)


# Addresses


def local_host(connection: NetworkConnection[QUIC]) -> str:
    assert isinstance(connection.local_endpoint, HostPort)
    return connection.local_endpoint.host


@pytest.mark.parametrize(
    ("server", "old", "new"), [(SERVER, "10.77.1.1/24", "10.77.1.77/24"), ("fd77:1::2", "fd77:1::1/64", "fd77:1::77/64")]
)
async def test_the_clients_address_changes(hosts: Hosts, server: str, old: str, new: str) -> None:
    """In mid-transfer. It goes on from the new one, without being told to."""
    async with serving(hosts, server) as serves, to(server, serves.port) as connection:
        await transfer(connection, 1)
        transferring = await begun(connection)
        hosts.ip("addr", "del", old, "dev", "cl0")
        hosts.ip("addr", "add", new, "dev", "cl0")
        async with asyncio.timeout(10):
            await transferring
        assert connection.state is State.READY and local_host(connection) == new.partition("/")[0]
        assert len(serves.connections) == 1 and serves.connections[0].remote_endpoint == connection.local_endpoint


async def test_the_clients_address_is_gone_for_a_while(hosts: Hosts) -> None:
    """The connection stays, and goes on from the next address that there is."""
    async with serving(hosts, SERVER) as server, to(SERVER, server.port) as connection:
        await transfer(connection, 1)
        transferring = await begun(connection)
        hosts.ip("addr", "del", "10.77.1.1/24", "dev", "cl0")
        await asyncio.sleep(1.5)
        assert not transferring.done() and connection.state is State.READY
        hosts.ip("addr", "add", "10.77.1.77/24", "dev", "cl0")
        async with asyncio.timeout(10):
            await transferring
        assert local_host(connection) == "10.77.1.77"


async def test_the_clients_address_is_gone_for_good(hosts: Hosts) -> None:
    async with serving(hosts, SERVER, idle_timeout=1.0) as server, to(SERVER, server.port) as connection:
        await transfer(connection, 1)
        transferring = await begun(connection)
        loop = asyncio.get_running_loop()
        before = loop.time()
        hosts.ip("addr", "del", "10.77.1.1/24", "dev", "cl0")
        with pytest.raises(IdleTimeoutError):
            await transferring
        assert 0.9 < loop.time() - before < 2.0
        assert isinstance(connection.error, IdleTimeoutError)
        await until(lambda: server.connections[0].state is State.FAILED)


async def test_the_clients_address_is_gone_and_another_link_leads_to_the_server(hosts: Hosts) -> None:
    hosts.ip("route", "add", "10.77.1.0/24", "via", SECOND, "dev", "cl1", "metric", "500")  # after the direct one
    async with serving(hosts, SERVER) as server, to(SERVER, server.port) as connection:
        await transfer(connection, 1)
        transferring = await begun(connection)
        hosts.ip("addr", "del", "10.77.1.1/24", "dev", "cl0")
        async with asyncio.timeout(10):
            await transferring
        assert local_host(connection) == "10.77.2.1"
        assert len(server.connections) == 1


async def test_an_interface_that_is_taken_out(hosts: Hosts) -> None:
    """The one that the parameters call for: the connection goes on when another one of that name and address is there."""
    async with serving(hosts, SERVER) as server:
        parameters = Parameters(QUIC(alpn=["test"], trust=TRUST, server_name="localhost"), required_interface="cl0")
        async with NetworkConnection((SERVER, server.port), parameters) as connection:
            await transfer(connection, 1)
            transferring = await begun(connection)
            hosts.ip("link", "del", "cl0")
            await asyncio.sleep(0.3)
            assert not transferring.done() and connection.state is State.READY
            hosts.join(0)
            async with asyncio.timeout(10):
                await transferring


async def test_a_router_that_forgets(hosts: Hosts) -> None:
    """It gives the client another port in mid-transfer, twice. The server sees it, and goes on."""
    hosts.masquerade()
    async with serving(hosts, SERVER) as server, to(SERVER, server.port) as connection:
        await transfer(connection, 1)
        seen = {server.connections[0].remote_endpoint}
        for _ in range(2):
            transferring = await begun(connection)
            hosts.forget_mappings()
            async with asyncio.timeout(10):
                await transferring
            seen.add(server.connections[0].remote_endpoint)
        assert len(seen) == 3 and len(server.connections) == 1


async def test_moving_to_another_link(hosts: Hosts) -> None:
    """The first one goes down in mid-transfer, and the client goes on over the second one."""
    hosts.ip("route", "add", "10.77.1.0/24", "via", SECOND, "dev", "cl1", "metric", "500")  # after the direct one
    async with serving(hosts, SERVER) as server, to(SERVER, server.port) as connection:
        await transfer(connection, 1)
        for place, name in (("10.77.2.1", "cl0"), ("10.77.1.1", "cl1")):
            transferring = await begun(connection)
            hosts.ip("link", "set", name, "down")
            await asyncio.sleep(0.05)  # it may have found the other way by itself: its socket was bound to the first one
            assert connection.state is State.READY
            hosts.ip("link", "set", "cl0" if name == "cl1" else "cl1", "up")
            await connection.migrate(HostPort(place, 0))
            async with asyncio.timeout(10):
                await transferring
            assert isinstance(connection.local_endpoint, HostPort) and connection.local_endpoint.host == place
        assert len(server.connections) == 1


async def test_moving_to_a_dead_place(hosts: Hosts) -> None:
    """There is no such address here: the connection stays where it is."""
    async with serving(hosts, SERVER) as server, to(SERVER, server.port) as connection:
        await transfer(connection, 1)
        before = connection.local_endpoint
        with pytest.raises(OSError, match="annot assign"):
            await connection.migrate(HostPort("10.77.1.200", 0))
        assert connection.local_endpoint == before
        await transfer(connection, 1)
