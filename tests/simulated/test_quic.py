"""QUIC on simulated hosts: bad links, routers that forget, addresses that change, peers that vanish."""

from __future__ import annotations

import asyncio
import hashlib
from functools import partial
from typing import Any

import pytest

from tieline import (
    QUIC,
    ApplicationError,
    ConnectionAbortedByPeerError,
    HostPort,
    IdleTimeoutError,
    NetworkConnection,
    NetworkError,
    NetworkListener,
    Parameters,
    State,
)
from tieline._engine import quic as engine
from tieline.testing import Host, SimulatedNetwork, Trace, certificates

from .programs import two_hosts

AUTHORITY = certificates()
IDENTITY = AUTHORITY.identity("server.test")
CONTENT = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(30_000))  # 960 kB
LATENCY = 0.025

BAD_LINKS: dict[str, dict[str, Any]] = {
    "good": {},
    "loss": {"loss": 0.05},
    "reorder": {"reorder": 0.1, "jitter": 0.005},
    "duplicate": {"duplicate": 0.1},
    "rate": {"rate": 1_000_000.0},
    "small": {"mtu": 1280},
    "everything": {"loss": 0.02, "reorder": 0.05, "duplicate": 0.05, "jitter": 0.003, "rate": 2_000_000.0, "mtu": 1280},
}


def server_of(**options: Any) -> QUIC:
    return QUIC(**{"alpn": ["test"], "identity": IDENTITY, **options})


def client_of(**options: Any) -> QUIC:
    return QUIC(**{"alpn": ["test"], "trust": AUTHORITY.trust, **options})


class Server:
    """Answers each stream with the hash of what came, and then with the same bytes; remembers its connections."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.connections: list[NetworkConnection[Any]] = []
        self.received: list[str] = []

    async def run(self) -> None:
        await NetworkListener(server_of(**self.options), on=443).run(self.handle)

    async def handle(self, connection: NetworkConnection[Any]) -> None:
        self.connections.append(connection)
        await connection.inbound_streams(self.answer)

    async def answer(self, stream: Any) -> None:
        digest = hashlib.sha256()
        pieces: list[bytes] = []
        async for content, _ in stream:
            digest.update(content)
            pieces.append(content)
        self.received.append(digest.hexdigest())
        if stream.stream_id & 2:
            return
        await stream.send(digest.digest())
        await stream.send(b"".join(pieces), end_of_stream=True)


async def transfer(connection: Any, content: bytes = CONTENT) -> None:
    """There and back again."""
    stream = await connection.open_stream()
    digest = hashlib.sha256(content).digest()

    async def send() -> None:
        for start in range(0, len(content), 50_000):
            await stream.send(content[start : start + 50_000])
        await stream.send(b"", end_of_stream=True)

    async def receive() -> None:
        assert (await stream.receive(exactly=32)).content == digest
        back = hashlib.sha256()
        async for piece, _ in stream:
            back.update(piece)
        assert back.digest() == digest

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send())
        tasks.create_task(receive())


def connect(**options: Any) -> NetworkConnection[QUIC]:
    return NetworkConnection("server.test:443", client_of(**options))


# Links


@pytest.mark.parametrize("conditions", BAD_LINKS.values(), ids=BAD_LINKS)
async def test_transfers_over_bad_links(simulated_network: SimulatedNetwork, conditions: dict[str, Any]) -> None:
    host, client = two_hosts(simulated_network, latency=LATENCY, **conditions)
    server = Server()
    host.start(server.run)
    with client:
        async with connect() as connection:
            await transfer(connection)
            path = (await connection.data_transfer_report()).aggregate
            assert path.transport_minimum_rtt is not None and 1.99 * LATENCY <= path.transport_minimum_rtt < 3 * LATENCY
            if conditions.get("loss"):
                assert path.retransmitted_transport_byte_count
        assert connection.state is State.CANCELLED
        assert server.connections[0].state in (State.CANCELLED, State.READY)


async def test_many_streams_over_a_bad_link(simulated_network: SimulatedNetwork) -> None:
    host, client = two_hosts(simulated_network, latency=LATENCY, loss=0.05, reorder=0.05)
    host.start(Server().run)
    with client:
        async with connect() as connection, asyncio.TaskGroup() as tasks:
            for number in range(150):  # the peer allows 100 at once
                tasks.create_task(transfer(connection, CONTENT[: 100 * number]))


async def test_a_graceful_close_over_a_bad_link(simulated_network: SimulatedNetwork) -> None:
    host, client = two_hosts(simulated_network, latency=LATENCY, loss=0.1)
    server = Server()
    host.start(server.run)
    with client:
        async with connect() as connection:
            for _ in range(10):
                stream = await connection.open_stream()
                await stream.send(CONTENT[:100_000], end_of_stream=True)
            connection.application_error = ApplicationError(42)
    await asyncio.sleep(60)
    assert server.received == [hashlib.sha256(CONTENT[:100_000]).hexdigest()] * 10
    error = server.connections[0].error
    assert isinstance(error, IdleTimeoutError) or (error is not None and error.code == 42)  # the close itself may be lost


async def test_datagrams_over_a_bad_link(simulated_network: SimulatedNetwork) -> None:
    host, client = two_hosts(simulated_network, latency=LATENCY, loss=0.2)
    received: list[bytes] = []

    async def handle(connection: Any) -> None:
        async for content, _ in await connection.datagrams():
            received.append(content)

    host.start(NetworkListener(server_of(max_datagram_frame_size=1500), on=443).run, handle)
    with client:
        async with connect(max_datagram_frame_size=1500) as connection:
            channel = await connection.datagrams()
            for number in range(300):
                await channel.send(b"%d" % number)
                await asyncio.sleep(0.01)
            await asyncio.sleep(1)
    numbers = [int(content) for content in received]
    assert 50 < len(numbers) < 290 and numbers == sorted(set(numbers))


# What goes away for a while


async def test_a_link_that_is_down_for_5_seconds(simulated_network: SimulatedNetwork) -> None:
    host, client = simulated_network.host("server.test"), simulated_network.host("client.test")
    link = simulated_network.link(host, client, latency=LATENCY, rate=500_000.0)
    host.start(Server().run)
    with client:
        async with connect() as connection:
            transferring = asyncio.create_task(transfer(connection))
            await asyncio.sleep(1)
            link.down()
            await asyncio.sleep(5)
            assert not transferring.done() and connection.state is State.READY
            link.up()
            await transferring


async def test_a_link_that_is_down_for_longer_than_the_idle_timeout(simulated_network: SimulatedNetwork) -> None:
    host, client = simulated_network.host("server.test"), simulated_network.host("client.test")
    link = simulated_network.link(host, client, latency=LATENCY, rate=500_000.0)
    server = Server(idle_timeout=10.0)
    host.start(server.run)
    loop = asyncio.get_running_loop()
    with client:
        async with connect() as connection:
            transferring = asyncio.create_task(transfer(connection))
            await asyncio.sleep(1)
            began = loop.time()
            link.down()
            with pytest.raises(ExceptionGroup) as raised:
                await transferring
            assert raised.group_contains(IdleTimeoutError)
            assert 9 < loop.time() - began < 14
            assert connection.state is State.FAILED and isinstance(connection.error, IdleTimeoutError)
            await asyncio.sleep(5)
            assert server.connections[0].state is State.FAILED


async def test_keepalive_within_three_probe_timeouts(simulated_network: SimulatedNetwork) -> None:
    """Nothing but signs of life, and the idle timeout does not come."""
    host, client = two_hosts(simulated_network, latency=LATENCY, loss=0.2)
    host.start(Server(idle_timeout=10.0).run)
    with client:
        async with connect(keepalive=2.0) as connection:
            await connection.ready()
            await asyncio.sleep(300)
            assert connection.state is State.READY
            await transfer(connection, b"still there")


async def test_a_server_that_crashes(simulated_network: SimulatedNetwork) -> None:
    host, client = two_hosts(simulated_network, latency=LATENCY)
    host.start(Server().run)
    loop = asyncio.get_running_loop()
    with client:
        connection = connect(idle_timeout=20.0)
        stream = await connection.open_stream()
        await stream.send(b"x")
        await asyncio.sleep(1)
        began = loop.time()
        host.crash()
        host.restart()
        server = Server()
        host.start(server.run)
        with pytest.raises(NetworkError) as raised:
            await stream.receive()
        assert isinstance(raised.value, IdleTimeoutError) and 15 < loop.time() - began < 25
        assert connection.state is State.FAILED
        await connection.aclose()
        async with connect() as again:
            await transfer(again, b"a new one")
        assert len(server.connections) == 1


# Paths


async def test_a_router_that_forgets_in_mid_transfer(simulated_network: SimulatedNetwork) -> None:
    """The server sees another port, and goes on. A client that has nothing left to send learns of it by its keepalive alone."""
    network = simulated_network
    host, client = network.host("server.test", "192.0.2.1"), network.host("client.test", "10.0.0.2")
    nat = network.nat("nat.test", "203.0.113.1")
    network.link(client, nat, latency=LATENCY)
    assert nat.outside is not None
    network.link(nat.outside, host, latency=LATENCY, rate=400_000.0)
    server = Server()
    host.start(server.run)
    with client:
        async with connect(keepalive=1.0) as connection:
            transferring = asyncio.create_task(transfer(connection))
            seen: list[Any] = []
            for _ in range(3):
                await asyncio.sleep(1)
                seen.append(server.connections[0].remote_endpoint)
                nat.forget_mappings()
            await transferring
            seen.append(server.connections[0].remote_endpoint)
    assert len(set(seen)) > 1 and {endpoint.host for endpoint in seen} == {"203.0.113.1"}


@pytest.mark.parametrize("local", [None, "10.0.0.3:0", "10.0.0.2:5555"])
async def test_migration_in_mid_transfer(simulated_network: SimulatedNetwork, local: str | None) -> None:
    network = simulated_network
    host, client = network.host("server.test", "10.0.0.1"), network.host("client.test", "10.0.0.2", "10.0.0.3")
    network.link(host, client, latency=LATENCY, rate=400_000.0, loss=0.01)
    server = Server()
    host.start(server.run)
    with client:
        async with connect() as connection:
            transferring = asyncio.create_task(transfer(connection))
            await asyncio.sleep(1)
            before = connection.local_endpoint
            await connection.migrate(local)
            assert connection.local_endpoint != before
            await asyncio.sleep(1)
            assert server.connections[0].remote_endpoint == connection.local_endpoint
            await transferring
            if local is not None and not local.endswith(":0"):
                assert connection.local_endpoint == HostPort("10.0.0.2", 5555)


async def test_migration_to_another_interface_when_the_first_one_goes_down(simulated_network: SimulatedNetwork) -> None:
    network = simulated_network
    host, client = network.host("server.test", "10.0.0.1"), network.host("client.test", "10.0.0.2")
    other = client.interface("wlan0", "10.0.1.2")
    network.link(host, client.interfaces[0], latency=LATENCY, rate=400_000.0)
    network.link(host, other, latency=2 * LATENCY, rate=400_000.0)
    host.start(Server().run)
    with client:
        async with connect() as connection:
            transferring = asyncio.create_task(transfer(connection))
            await asyncio.sleep(1)
            client.interfaces[0].down()
            await asyncio.sleep(1)
            await connection.migrate("10.0.1.2:0")
            await transferring
            path = connection.current_path
            assert path is not None and path.interface is not None and path.interface.name == "wlan0"


async def test_a_dead_new_path_is_given_up_and_the_old_one_tried_again(simulated_network: SimulatedNetwork) -> None:
    network = simulated_network
    host, client = network.host("server.test", "10.0.0.1"), network.host("client.test", "10.0.0.2")
    other = client.interface("wlan0", "10.0.1.2")
    network.link(host, client.interfaces[0], latency=LATENCY, rate=400_000.0)
    network.link(host, other, loss=1.0)
    host.start(Server().run)
    with client:
        async with connect() as connection:
            transferring = asyncio.create_task(transfer(connection))
            await asyncio.sleep(1)
            before = connection.local_endpoint
            await connection.migrate("10.0.1.2:0")
            assert connection.local_endpoint != before
            await asyncio.sleep(2)
            assert connection.local_endpoint == before
            await transferring


@pytest.mark.parametrize("how", ["address", "interface"])
async def test_the_local_address_goes_and_another_one_is_there(simulated_network: SimulatedNetwork, how: str) -> None:
    """Nobody tells the connection: it finds out, and goes on over the other interface."""
    network = simulated_network
    host, client = network.host("server.test", "10.0.0.1"), network.host("client.test", "10.0.0.2")
    other = client.interface("wlan0", "10.0.1.2")
    network.link(host, client.interfaces[0], latency=LATENCY, rate=400_000.0)
    network.link(host, other, latency=2 * LATENCY, rate=400_000.0)
    server = Server()
    host.start(server.run)
    loop = asyncio.get_running_loop()
    with client:
        async with connect() as connection:
            transferring = asyncio.create_task(transfer(connection))
            await asyncio.sleep(1)
            began = loop.time()
            if how == "address":
                client.interfaces[0].remove_address("10.0.0.2")
            else:
                client.interfaces[0].down()
            await asyncio.sleep(2)
            assert connection.local_endpoint is not None and str(connection.local_endpoint).startswith("10.0.1.2:")
            assert server.connections[0].remote_endpoint == connection.local_endpoint
            await transferring
            assert loop.time() - began < 30  # 1.9 MB at 400 kB/s and the start anew
            assert connection.state is State.READY and len(server.connections) == 1


async def test_the_local_address_is_gone_for_a_while(simulated_network: SimulatedNetwork) -> None:
    network = simulated_network
    host, client = two_hosts(network, latency=LATENCY, rate=400_000.0)
    host.start(Server().run)
    with client:
        async with connect() as connection:
            transferring = asyncio.create_task(transfer(connection))
            await asyncio.sleep(1)
            client.interfaces[0].remove_address("10.0.0.2")
            await asyncio.sleep(8)
            assert not transferring.done() and connection.state is State.READY
            client.interfaces[0].add_address("10.0.0.9")
            await transferring
            assert connection.local_endpoint is not None and str(connection.local_endpoint).startswith("10.0.0.9:")


async def test_the_local_address_is_gone_for_good(simulated_network: SimulatedNetwork) -> None:
    """Then it is the idle timeout that ends the connection, and says so."""
    network = simulated_network
    host, client = two_hosts(network, latency=LATENCY)
    host.start(Server().run)
    loop = asyncio.get_running_loop()
    with client:
        async with connect(idle_timeout=10.0) as connection:
            stream = await connection.open_stream()
            await stream.send(b"x")
            await asyncio.sleep(1)
            began = loop.time()
            client.interfaces[0].remove_address("10.0.0.2")
            await stream.send(b"y")
            with pytest.raises(IdleTimeoutError):
                await stream.receive()
            assert 8 < loop.time() - began < 12
            assert isinstance(connection.error, IdleTimeoutError)


async def test_a_peer_that_forbids_migration_is_not_moved_away_from(
    simulated_network: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 9000 section 9: the connection waits for its address to come back. Our own listeners allow it."""
    monkeypatch.setattr(engine, "QuicEndpoint", partial(engine.QuicEndpoint, migration=False))
    network = simulated_network
    host, client = two_hosts(network, latency=LATENCY, rate=400_000.0)
    host.start(Server().run)
    with client:
        async with connect() as connection:
            transferring = asyncio.create_task(transfer(connection))
            await asyncio.sleep(1)
            before = connection.local_endpoint
            client.interfaces[0].remove_address("10.0.0.2")
            await asyncio.sleep(1)
            client.interfaces[0].add_address("10.0.0.9")
            await asyncio.sleep(1)
            assert connection.local_endpoint == before and not transferring.done()
            client.interfaces[0].add_address("10.0.0.2")
            await transferring
            assert connection.local_endpoint == before


async def test_a_silent_server_and_a_dead_address(simulated_network: SimulatedNetwork) -> None:
    """The race: a name with two addresses, of which one does not answer."""
    network = simulated_network
    host, client = two_hosts(network, latency=LATENCY)
    host.start(Server().run)
    network.resolver.answer("server.test", "10.0.0.1", "10.0.0.77")
    with client:
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with connect() as connection:
            await connection.ready()
            assert loop.time() - began < 1
            await transfer(connection, b"x")
        dead = NetworkConnection("10.0.0.77:443", client_of(server_name="server.test", handshake_timeout=5.0))
        with pytest.raises(NetworkError):
            await dead.ready()
        dead.abort()


# Closing


async def test_a_close_that_is_lost_is_said_again(simulated_network: SimulatedNetwork) -> None:
    """To a peer that goes on to speak, for three probe timeouts (RFC 9000 section 10.2.1)."""
    network = simulated_network
    host, client = two_hosts(network, latency=LATENCY)
    server = Server(keepalive=0.05, idle_timeout=1000.0)
    host.start(server.run)
    with client:
        connection = connect()
        await transfer(connection, b"x")
        connection.application_error = ApplicationError(7, "enough")
        with network.partition([host], [client]):
            await connection.aclose()
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert isinstance(server.connections[0].error, ConnectionAbortedByPeerError) and server.connections[0].error.code == 7
        await asyncio.sleep(2)
        before = len(network.trace)
        await asyncio.sleep(100)
        assert len(network.trace) == before  # and that was all


async def test_a_port_of_the_programs_choice_is_free_at_once(simulated_network: SimulatedNetwork) -> None:
    host, client = two_hosts(simulated_network, latency=LATENCY)
    host.start(Server().run)
    with client:
        for _ in range(3):
            parameters = Parameters(client_of(), local_port=5555)
            async with NetworkConnection("server.test:443", parameters) as connection:
                await transfer(connection, b"x")


# The same again


def seen(entry: Trace) -> tuple[Any, ...]:
    """What does not depend on keys: all but the payload."""
    return (entry.time, entry.place, entry.fate, *entry.packet._replace(payload=b"", about=None), len(entry.packet.payload))


def conversation(seed: int) -> list[Trace]:
    network = SimulatedNetwork(seed)
    host, client = two_hosts(network, latency=0.01, jitter=0.004, loss=0.03, reorder=0.05, duplicate=0.05, rate=400_000.0)
    server = Server()

    async def main() -> None:
        host.start(server.run)
        async with connect() as connection, asyncio.TaskGroup() as tasks:
            for number in range(5):
                tasks.create_task(transfer(connection, CONTENT[: 20_000 * number]))

    network.run(main, on=client)
    return list(network.trace)


def test_the_same_seed_gives_the_same_times_endpoints_and_lengths() -> None:
    first, second = conversation(5), conversation(5)
    assert len(first) > 500
    assert [seen(entry) for entry in first] == [seen(entry) for entry in second]
    payloads = [{entry.packet.payload for entry in trace} for trace in (first, second)]
    assert payloads[0] != payloads[1]  # the keys are others each time


def test_another_seed_gives_other_times() -> None:
    assert [seen(entry) for entry in conversation(6)] != [seen(entry) for entry in conversation(7)]


def test_limits_hold_in_virtual_time_too(simulated_network: SimulatedNetwork) -> None:
    """A reader that pauses for an hour costs no more than the window."""
    host, client = two_hosts(simulated_network, latency=LATENCY)
    handles: list[Any] = []

    async def handle(connection: Any) -> None:
        async def read_later(stream: Any) -> None:
            handles.append(stream)
            await asyncio.sleep(3600)
            assert len(b"".join([content async for content, _ in stream])) == len(CONTENT)

        await connection.inbound_streams(read_later, using=None)

    async def main(host: Host) -> None:
        options = Parameters(server_of(initial_max_stream_data=30_000), receive_limit=10_000)
        host.start(NetworkListener(options, on=443).run, handle)
        async with NetworkConnection("server.test:443", Parameters(client_of(keepalive=5.0), send_limit=10_000)) as connection:
            stream = await connection.open_stream()
            sending = asyncio.create_task(stream.send(CONTENT, end_of_stream=True))
            await asyncio.sleep(1000)
            assert not sending.done() and handles[0]._flow.receiving.inbox.size <= 40_000
            await sending
            await asyncio.sleep(10)

    simulated_network.run(main, host, on=client)


async def test_a_validator_that_cannot_be_hashed(simulated_network: SimulatedNetwork) -> None:
    class Validator:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, certificates: list[bytes], server_name: str) -> bool:
            return server_name == "server.test"

    host, client = two_hosts(simulated_network)
    host.start(Server().run)
    with client:
        async with NetworkConnection("server.test:443", QUIC(alpn=["test"], certificate_validator=Validator())) as connection:
            await transfer(connection, b"content")
