"""Hosts: where programs run, what they find there, and what becomes of them when things go wrong."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from tieline import (
    IP,
    TCP,
    UDP,
    ChannelClosedError,
    ConnectError,
    EndOfStreamError,
    HostPort,
    IdleTimeoutError,
    InterfaceType,
    IPVersion,
    Keepalive,
    NetworkConnection,
    NetworkListener,
    Parameters,
    PathMonitor,
    PeerResetError,
    State,
    UnsatisfiedReason,
)
from tieline.testing import Host, SimulatedNetwork, VirtualClock

from .programs import echo, failure_of, fates, serve, serve_datagrams, two_hosts


def now() -> float:
    return asyncio.get_running_loop().time()


async def ask(connection: NetworkConnection[Any], question: bytes = b"question") -> float:
    """Send something to an echo, check its answer, and tell how long that took."""
    began = now()
    await connection.send(question)
    received = b""
    while len(received) < len(question):
        received += (await connection.receive()).content
    assert received == question
    return now() - began


# Programs and where they run


async def test_what_begins_within_a_host_lives_there(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)
    server.start(serve)
    with client:
        connection = NetworkConnection("server.test:80", TCP()).start()
        with server:  # the inner one counts
            inner = NetworkConnection("client.test:81", TCP()).start()
        outer = NetworkConnection("server.test:80", TCP()).start()
    await connection.ready()
    await outer.ready()
    assert "nobody listens there" in str(await failure_of(inner))
    assert [str(one.local_endpoint).split(":")[0] for one in (connection, outer)] == ["10.0.0.2", "10.0.0.2"]
    assert connection.local_endpoint != outer.local_endpoint
    with server:  # where a connection lives is decided when it starts
        await ask(connection)
    for one in (connection, outer):
        await one.aclose()


async def test_tasks_live_where_they_were_made(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)
    other = simulated_network.host("other.test", "10.0.0.9")
    simulated_network.link(other, server)
    server.start(serve)
    places: list[str] = []

    async def program() -> None:
        async def connect() -> None:
            async with NetworkConnection("10.0.0.1:80", TCP()) as connection:
                await connection.ready()
                assert isinstance(connection.local_endpoint, HostPort)
                places.append(connection.local_endpoint.host)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(connect())
            tasks.create_task(connect())
            with other:
                tasks.create_task(connect())

    await client.start(program)
    assert sorted(places) == ["10.0.0.2", "10.0.0.2", "10.0.0.9"]


async def test_programs_have_arguments_names_and_an_end(simulated_network: SimulatedNetwork) -> None:
    host = simulated_network.host("host.test")

    async def program(one: int, *, until: float = 1.0) -> int:
        await asyncio.sleep(until)
        return one + 1

    task = host.start(program, 41)
    assert task.get_name() == "program on host.test" and host.programs == (task,)
    assert await task == 42 and now() == 1.0
    await asyncio.sleep(0)
    assert host.programs == ()


def test_a_run_on_a_host(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)

    async def main(name: str, size: int) -> str:
        server.start(serve)
        async with NetworkConnection(name, TCP()) as connection:
            await ask(connection, bytes(size))
            return str(connection.remote_endpoint)

    assert simulated_network.run(main, "server.test:80", 10, on=client) == "10.0.0.1:80"


async def test_a_listener_serves_several_hosts(simulated_network: SimulatedNetwork) -> None:
    server = simulated_network.host("server.test")
    clients = [simulated_network.host(f"client{number}.test") for number in range(5)]
    for number, client in enumerate(clients):
        simulated_network.link(client, server, latency=0.01 * (number + 1))
    seen: list[str] = []

    async def note(connection: NetworkConnection[Any]) -> None:
        seen.append(str(connection.remote_endpoint))
        await echo(connection)

    server.start(serve, TCP(), 80, note)
    server.start(serve_datagrams)
    times: dict[str, list[float]] = {}

    async def program(host: Host) -> None:
        async with NetworkConnection("server.test:80", TCP()) as stream, NetworkConnection("server.test:53", UDP()) as datagrams:
            await stream.ready()
            await datagrams.ready()
            times[host.name] = [await ask(stream), await ask(datagrams)]

    await asyncio.gather(*(client.start(program, client) for client in clients))
    assert times == {f"client{number}.test": [pytest.approx(0.02 * (number + 1))] * 2 for number in range(5)}
    assert [text.rpartition(":")[0] for text in seen] == [f"[2001:db8::{number + 2}]" for number in range(5)]


def test_two_networks_side_by_side(simulated_network: SimulatedNetwork) -> None:
    """Of one event loop, with the same names and addresses, and they know nothing of each other."""
    other = SimulatedNetwork(seed=2)
    pairs = [two_hosts(simulated_network, latency=0.1), two_hosts(other, latency=0.2)]

    async def main() -> list[float]:
        times: list[float] = []
        for server, client in pairs:
            server.start(serve)
            with client:
                async with NetworkConnection("server.test:80", TCP()) as connection:
                    await connection.ready()
                    times.append(await ask(connection))
        for server, _ in pairs:
            for task in server.programs:
                task.cancel()
        return times

    assert simulated_network.run(main) == [pytest.approx(0.2), pytest.approx(0.4)]
    assert len(fates(simulated_network, "sent: TCP", " S ")) == len(fates(other, "sent: TCP", " S ")) == 1


def test_a_network_belongs_to_one_loop(simulated_network: SimulatedNetwork) -> None:
    host = simulated_network.host("host.test")
    with pytest.raises(RuntimeError, match="no running event loop"), host:
        pass

    async def enter() -> None:
        with host:
            pass

    with asyncio.Runner(loop_factory=VirtualClock) as runner:
        runner.run(enter())
    with asyncio.Runner(loop_factory=VirtualClock) as runner, pytest.raises(RuntimeError, match="belongs to another event loop"):
        runner.run(enter())


def test_a_network_on_an_ordinary_loop_has_real_time(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network, latency=0.01)

    async def main() -> float:
        task = server.start(serve)
        with client:
            async with NetworkConnection("server.test:80", TCP()) as connection:
                await connection.ready()
                took = await ask(connection)
        task.cancel()
        return took

    assert 0.02 <= asyncio.run(main()) < 1.0


# Crashes


async def test_a_crash_is_silent(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)
    server.start(serve)
    with client:
        async with NetworkConnection("server.test:80", TCP(retransmit_connection_drop_time=20.0)) as connection:
            await ask(connection)
            server.crash()
            assert not server.is_up and not server.sockets
            began = now()
            await connection.send(b"anybody?")
            with pytest.raises(IdleTimeoutError, match="the peer stopped answering"):
                await connection.receive()
            assert now() - began == pytest.approx(20.0)
    assert fates(simulated_network, "server.test: dropped, the host is down")
    assert not [
        entry for entry in simulated_network.trace if entry.place == "server.test" and entry.time > began and "sent" in str(entry)
    ]


async def test_without_an_option_it_takes_the_quarter_of_an_hour_that_it_takes_on_linux(
    simulated_network: SimulatedNetwork,
) -> None:
    server, client = two_hosts(simulated_network)
    server.start(serve)
    with client:
        async with NetworkConnection("server.test:80", TCP()) as connection:
            await ask(connection)
            server.crash()
            began = now()
            await connection.send(b"anybody?")
            with pytest.raises(IdleTimeoutError):
                await connection.receive()
            assert now() - began == pytest.approx(924.6)


async def test_keepalive_notices_a_crash(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)
    server.start(serve)
    with client:
        async with NetworkConnection("server.test:80", TCP(keepalive=Keepalive(idle=10, interval=2, count=3))) as connection:
            await ask(connection)
            heard = now()
            await asyncio.sleep(95)
            assert connection.state is State.READY
            server.crash()
            with pytest.raises(IdleTimeoutError):
                await connection.receive()
            # Probes were answered at 10, 20, … and then not at 100, 102 and 104.
            assert now() == pytest.approx(heard + 106, abs=0.1)


async def test_after_a_restart_the_peer_is_reset(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)
    server.start(serve)
    with client:
        async with NetworkConnection("server.test:80", TCP()) as connection:
            await ask(connection)
            server.crash()
            await connection.send(b"lost")
            await asyncio.sleep(5)
            assert connection.state is State.READY
            server.restart()
            assert server.is_up and not server.programs
            with pytest.raises(PeerResetError):
                await connection.receive()
        assert connection.state is State.FAILED
        assert "nobody listens there" in str(await failure_of(NetworkConnection("server.test:80", TCP())))
        server.start(serve)
        async with NetworkConnection("server.test:80", TCP()) as again:
            assert await ask(again) > 0


async def test_a_server_that_restarted_is_found_by_an_idle_client_with_the_same_port(simulated_network: SimulatedNetwork) -> None:
    """The other way round: the client crashes, and what the server still has does not keep the new connection out."""
    server, client = two_hosts(simulated_network)
    server.start(serve)
    for said in (b"", b"something"):
        with client:
            connection = NetworkConnection("server.test:80", Parameters(TCP(), local_port=5000))
            await connection.ready()
            if said:
                await ask(connection, said)
        client.crash()
        client.restart()
        connection.abort()
        with client:
            again = NetworkConnection("server.test:80", Parameters(TCP(), local_port=5000))
            began = now()
            await again.ready()
            assert now() - began < 1.1  # its first SYN is answered by the old connection, which the answer ends
            await ask(again)
            again.abort()
        await asyncio.sleep(1)


async def test_an_old_segment_belongs_to_no_later_connection(simulated_network: SimulatedNetwork) -> None:
    """Nor do a reset and a SYN that were held up on the way, between the same addresses and ports."""
    server, client = two_hosts(simulated_network, latency=0.1)
    link = client.interfaces[0].links[0]
    received: list[bytes] = []

    async def take(connection: NetworkConnection[Any]) -> None:
        async for content, _ in connection:
            received.append(content)

    server.start(serve, TCP(), 80, take)
    with client:
        for number in range(4):
            link.change(duplicate=1.0)  # the second one comes a latency later
            connection = NetworkConnection("10.0.0.1:80", Parameters(TCP(), local_port=5000))
            await connection.ready()
            link.change(reorder=1.0)
            await connection.send(b"late %d" % number)
            connection.abort()
            link.change(reorder=0.0, duplicate=0.0)
            async with NetworkConnection("10.0.0.1:80", Parameters(TCP(), local_port=5000)) as later:
                await later.send(b"later %d" % number)
                await asyncio.sleep(3)
                assert later.state is State.READY
            await asyncio.sleep(100)
    assert [content for content in received if content.startswith(b"later")] == [b"later %d" % number for number in range(4)]
    assert all(b"late" in content[:5] for content in received) and b"".join(received).count(b"later") == 4


async def test_a_crash_cancels_programs_and_handlers(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)
    ended: list[str] = []

    async def handle(connection: NetworkConnection[Any]) -> None:
        try:
            await echo(connection)
        finally:
            ended.append("handler")

    async def program() -> None:
        try:
            await NetworkListener(TCP(), on=80).run(handle)
        finally:
            ended.append("program")

    async def own_task() -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(2):
                tasks.create_task(asyncio.sleep(1000))

    tasks = [server.start(program), server.start(own_task)]
    with client:
        connection = NetworkConnection("server.test:80", TCP())
        await ask(connection)
        assert len(server.programs) == 3
        server.crash()
        server.crash()  # it is down already
        await asyncio.sleep(0.1)
        assert ended == ["handler", "program"] and all(task.cancelled() for task in tasks) and not server.programs
        connection.abort()
    for _ in range(2):
        server.restart()


async def test_a_host_that_is_down_runs_and_reaches_nothing(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)
    client.crash()
    with pytest.raises(RuntimeError, match=r"client.test has crashed: restart it before a program can run there"):
        client.start(serve)
    with client:
        error = await failure_of(NetworkConnection("10.0.0.1:80", TCP()))
        assert isinstance(error, ConnectError) and error.code == errno.ENETDOWN
        with pytest.raises(ConnectError, match="Network is down"):
            async with NetworkListener(TCP(), on=80).serving(echo):
                pass
        assert [one.name for one in PathMonitor().current_path.available_interfaces] == ["lo"]
    server.start(serve)
    client.restart()
    with client:
        async with NetworkConnection("10.0.0.1:80", TCP()) as connection:
            await ask(connection)


async def test_a_crash_in_mid_transfer_and_a_program_that_tries_again(simulated_network: SimulatedNetwork) -> None:
    """What this network is for: reconnect logic, unchanged."""
    server, client = two_hosts(simulated_network, latency=0.01, rate=100_000.0)
    sent: list[int] = []
    tries = 0

    async def upload() -> None:
        nonlocal tries
        while len(sent) < 20:
            tries += 1
            options = TCP(connection_timeout=2.0, retransmit_connection_drop_time=5.0)
            try:
                async with NetworkConnection("server.test:80", options) as connection:
                    while len(sent) < 20:
                        await connection.send(bytes(10_000))
                        await connection.receive(exactly=10_000)
                        sent.append(len(sent))
            except (PeerResetError, IdleTimeoutError, ConnectError):
                await asyncio.sleep(1)

    server.start(serve)
    uploading = client.start(upload)
    await asyncio.sleep(1)
    server.crash()
    await asyncio.sleep(10)
    server.restart()
    server.start(serve)
    await uploading
    assert sent == list(range(20)) and 3 <= tries < 8 and 11 < now() < 20


async def test_a_program_that_crashes_its_own_host_ends(simulated_network: SimulatedNetwork) -> None:
    host = simulated_network.host("host.test")

    async def program() -> None:
        host.crash()
        await asyncio.sleep(0)
        raise AssertionError

    task = host.start(program)
    await asyncio.wait([task])
    assert task.cancelled()


# Addresses and interfaces


async def test_an_address_removed_and_added_in_mid_connection(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)
    interface = client.interfaces[0]
    server.start(serve)
    with client:
        async with NetworkConnection("server.test:80", TCP()) as connection:
            await ask(connection)
            interface.remove_address("10.0.0.2")
            assert client.addresses == () and PathMonitor().current_path.available_interfaces[-1].name == "lo"
            error = await failure_of(NetworkConnection("10.0.0.1:80", TCP()))
            assert isinstance(error, ConnectError) and error.code == errno.ENETUNREACH
            began = now()
            asking = asyncio.create_task(ask(connection))
            await asyncio.sleep(5)
            assert not asking.done() and fates(simulated_network, "client.test: dropped, no route")
            interface.add_address("10.0.0.2")
            await asking
            assert now() - began == pytest.approx(0.2 * (2**5 - 1) + 0.002)  # with the next retransmission
            interface.remove_address("10.0.0.2")
            interface.add_address("10.0.0.77")
            async with NetworkConnection("10.0.0.1:80", TCP()) as moved:
                await ask(moved)
                assert str(moved.local_endpoint).startswith("10.0.0.77:")
            asking = asyncio.create_task(ask(connection))
            await asyncio.sleep(2)
            assert not asking.done()
            interface.add_address("10.0.0.2")
            await asking


async def test_datagrams_without_their_address(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)
    server.start(serve_datagrams)
    with client:
        async with NetworkConnection("server.test:53", UDP()) as connection:
            await ask(connection)
            client.interfaces[0].remove_address("10.0.0.2")
            with pytest.raises(ConnectError, match="could not be delivered"):
                await connection.send(b"x")
            client.interfaces[0].add_address("10.0.0.2")
            await ask(connection)


async def test_an_interface_goes_down_and_up(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)
    interface = client.interfaces[0]
    server.start(serve)
    with client:
        async with NetworkConnection("server.test:80", TCP()) as connection:
            await ask(connection)
            interface.down()
            assert not interface.is_running and interface.addresses == ["10.0.0.2"]
            error = await failure_of(NetworkConnection("server.test:80", TCP()))
            assert "resolver does not answer at present" in str(error)
            asking = asyncio.create_task(ask(connection))
            await asyncio.sleep(3)
            assert not asking.done()
            interface.up()
            await asking


async def test_connections_wait_for_an_interface(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)
    server.start(serve)
    client.interfaces[0].down()
    simulated_network.at(10.0, client.interfaces[0].up)
    with client:
        async with NetworkConnection("server.test:80", Parameters(TCP(), waits_for_connectivity=True)) as connection:
            await connection.ready()
            assert now() == pytest.approx(10 + 0.001 + 0.002)  # at once, and not at the next pause's end


def two_ways(network: SimulatedNetwork) -> tuple[Host, Host]:
    """A phone with Wi-Fi and cellular, and a server that is reached by both, over routers of their own."""
    server = network.host("server.test", "192.0.2.1")
    phone = network.host("phone.test", "10.1.0.1", type=InterfaceType.WIFI)
    phone.interface("cell0", "10.2.0.1", type=InterfaceType.CELLULAR)
    for number, (interface, latency) in enumerate(zip(phone.interfaces, (0.005, 0.05), strict=True)):
        router = network.router(f"router{number}.test")
        network.link(interface, router, latency=latency, mtu=1500 - 100 * number)
        network.link(router, server, latency=latency)
    return server, phone


async def test_which_interface_is_used(simulated_network: SimulatedNetwork) -> None:
    server, phone = two_ways(simulated_network)
    server.start(serve)

    async def used(**options: Any) -> str:
        async with NetworkConnection("server.test:80", Parameters(TCP(), **options)) as connection:
            await connection.ready()
            path = connection.current_path
            assert path is not None and path.interface is not None and path.remote_endpoint == HostPort("192.0.2.1", 80)
            assert (
                path.local_endpoint
                == connection.local_endpoint
                == HostPort(path.interface.addresses[0], path.local_endpoint.port)
            )
            assert path.uses_interface_type(path.interface.type)
            took = await ask(connection)
            assert took == pytest.approx(0.02 if path.interface.name == "eth0" else 0.2)
            return path.interface.name

    with phone:
        assert await used() == "eth0"
        assert await used(required_interface="cell0") == "cell0"
        assert await used(required_interface="eth0") == "eth0"
        assert await used(prohibited_interface_types=[InterfaceType.CELLULAR]) == "eth0"
        assert await used(required_interface_type=InterfaceType.WIFI) == "eth0"
        assert await used(local_endpoint="10.2.0.1:0") == "cell0"
        phone.interfaces[0].down()
        assert await used() == "cell0"
        assert await used(prohibited_interface_types=[InterfaceType.WIFI]) == "cell0"
        with pytest.raises(ConnectError, match=r"the required interface is not available \(required_interface='eth0'\)"):
            await used(required_interface="eth0")
        for options in (
            {"prohibited_interface_types": [InterfaceType.CELLULAR, InterfaceType.LOOPBACK]},
            {"required_interface_type": InterfaceType.WIFI},
        ):
            with pytest.raises(ConnectError, match="no usable network"):
                await used(**options)


async def test_the_mtu_is_that_of_the_interface_in_use(simulated_network: SimulatedNetwork) -> None:
    server, phone = two_ways(simulated_network)
    server.start(serve)
    server.start(serve_datagrams)
    with phone:
        for options, mtu in (
            ({}, 1500),
            ({"required_interface": "cell0"}, 1400),
            ({"local_endpoint": "10.2.0.1:0"}, 1400),
        ):
            async with NetworkConnection("192.0.2.1:53", Parameters(UDP(), **options)) as datagrams:
                await datagrams.ready()
                assert datagrams.maximum_datagram_size == mtu - 28, options
            async with NetworkConnection("192.0.2.1:80", Parameters(TCP(), **options)) as connection:
                await connection.ready()
                assert connection.metadata(TCP).maximum_segment_size == mtu - 40, options


async def test_a_path_monitor_sees_its_own_host(simulated_network: SimulatedNetwork) -> None:
    server, phone = two_ways(simulated_network)
    with phone:
        path = PathMonitor().current_path
        assert [(one.name, one.type, one.addresses) for one in path.available_interfaces] == [
            ("eth0", InterfaceType.WIFI, ("10.1.0.1",)),
            ("cell0", InterfaceType.CELLULAR, ("10.2.0.1",)),
            ("lo", InterfaceType.LOOPBACK, ("127.0.0.1", "::1")),
        ]
        assert [one.index for one in path.available_interfaces] == [2, 3, 1]
        assert path.is_satisfied and path.supports_ipv4 and not path.supports_ipv6
        wifi = PathMonitor(required_interface_type=InterfaceType.WIFI)
        assert [one.name for one in wifi.current_path.available_interfaces] == ["eth0"]
        phone.interfaces[0].down()
        assert wifi.current_path.unsatisfied_reason is UnsatisfiedReason.INTERFACE_TYPE_REQUIRED
        phone.interfaces[0].up()
        phone.interfaces[0].add_address("2001:db8::1:1")
        assert wifi.current_path.supports_ipv6
        phone.interfaces[0].links[0].down()
        assert not wifi.current_path.is_satisfied
        async for path in PathMonitor():
            assert [one.name for one in path.available_interfaces] == ["cell0", "lo"]
            break
    with server:
        assert next(one.addresses for one in PathMonitor().current_path.available_interfaces) == ("192.0.2.1",)


async def test_a_listener_on_one_interface(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)
    second = server.interface("eth1", "10.9.0.1")
    simulated_network.link(second, client.interface("eth1", "10.9.0.2"))
    with client:
        with server:
            by_address, by_name = (
                NetworkListener(TCP(), on="10.9.0.1:80"),
                NetworkListener(Parameters(TCP(), required_interface="eth1"), on=81),
            )
            datagrams = NetworkListener(Parameters(UDP(), required_interface="eth1"), on=82)
            for listener in (by_address, by_name, datagrams):
                server.start(listener.run, echo)
        await asyncio.sleep(0)
        for port in (80, 81):
            async with NetworkConnection(f"10.9.0.1:{port}", TCP()) as connection:
                await ask(connection)
            assert "nobody listens there" in str(await failure_of(NetworkConnection(f"10.0.0.1:{port}", TCP())))
        async with NetworkConnection("10.9.0.1:82", UDP()) as flow:
            await ask(flow)
        async with NetworkConnection("10.0.0.1:82", UDP()) as flow:
            await flow.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                await flow.receive()


async def test_what_comes_to_an_address_of_another_interface_is_not_taken(simulated_network: SimulatedNetwork) -> None:
    """The strong model of RFC 1122; so there is no way to that address, either."""
    server, client = two_hosts(simulated_network)
    server.interface("eth1", "10.9.0.1")
    server.start(serve)
    with client:
        error = await failure_of(NetworkConnection("10.9.0.1:80", TCP(connection_timeout=3.0)))
        assert isinstance(error, TimeoutError) and now() == pytest.approx(3.0)


# Loopback and ports


async def test_the_loopback_is_the_hosts_own(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)
    server.start(serve)
    with server:
        for place in ("127.0.0.1", "127.0.0.77", "localhost", "[::1]", "10.0.0.1", "server.test"):
            async with NetworkConnection(f"{place}:80", TCP()) as connection:
                await connection.ready()
                assert await ask(connection) < 0.001
    for entry in simulated_network.trace:
        assert entry.place == "server.test"
    with client:
        for place in ("127.0.0.1", "localhost", "[::1]"):
            assert "nobody listens there" in str(await failure_of(NetworkConnection(f"{place}:80", TCP())))


async def test_a_host_without_any_link_has_its_loopback(simulated_network: SimulatedNetwork) -> None:
    host = simulated_network.host("host.test")
    host.start(serve)
    with host:
        async with NetworkConnection("127.0.0.1:80", Parameters(TCP(), required_interface="lo")) as connection:
            await ask(connection)
            assert connection.current_path is not None and connection.current_path.interface is not None
            assert connection.current_path.interface.type is InterfaceType.LOOPBACK
        error = await failure_of(NetworkConnection("192.0.2.1:80", TCP()))
        assert isinstance(error, ConnectError) and error.code == errno.ENETUNREACH


async def test_ports_in_use(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)
    with server:
        async with NetworkListener(TCP(), on=80).serving(echo), NetworkListener(UDP(), on=80).serving(echo):
            for place in (80, "10.0.0.1:80", "127.0.0.1:80"):
                for stack in (TCP(), UDP()):
                    with pytest.raises(ConnectError, match="in use") as raised:
                        async with NetworkListener(stack, on=place).serving(echo):
                            pass
                    assert raised.value.code == errno.EADDRINUSE
            with client:  # another host has ports of its own
                async with NetworkListener(TCP(), on=80).serving(echo):
                    pass
        async with (
            NetworkListener(TCP(), on="127.0.0.1:80").serving(echo),
            NetworkListener(TCP(), on="10.0.0.1:80").serving(echo),
            NetworkListener(TCP()).serving(echo) as free,
            NetworkListener(TCP()).serving(echo) as another,
        ):
            assert free.port != another.port and free.port >= 49152
        with pytest.raises(ConnectError, match="Cannot assign requested address"):
            async with NetworkListener(TCP(), on="10.0.0.2:80").serving(echo):
                pass


async def test_a_listener_that_accepts_nobody_has_a_queue(simulated_network: SimulatedNetwork) -> None:
    """Its kernel completes as many as the backlog holds; further SYNs are not answered, and repeated."""
    server, client = two_hosts(simulated_network)
    listener = NetworkListener(Parameters(TCP(), backlog=2), on=80, new_connection_limit=0)
    server.start(listener.run, echo)
    with client:
        waiting = [NetworkConnection("server.test:80", TCP()) for _ in range(2)]
        for connection in waiting:
            await connection.ready()
        late = NetworkConnection("server.test:80", TCP()).start()
        await asyncio.sleep(2)
        listener.new_connection_limit = None
        await late.ready()
        assert now() == pytest.approx(3.004 + 0.002, abs=0.01)  # its third SYN
        for connection in (*waiting, late):
            await ask(connection)
            connection.abort()


async def test_local_ports_of_connections(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)
    server.start(serve)
    server.start(serve_datagrams)
    with client:
        connections: list[NetworkConnection[Any]] = []
        for stack, place in ((TCP(), "10.0.0.1:80"), (UDP(), "10.0.0.1:53")):
            for options in ({"local_port": 5000}, {"local_endpoint": "10.0.0.2:5001"}, {"local_endpoint": "0.0.0.0:5002"}):
                connections.append(NetworkConnection(place, Parameters(stack, **options)))
                await ask(connections[-1])
            assert [str(one.local_endpoint) for one in connections[-3:]] == [f"10.0.0.2:{port}" for port in (5000, 5001, 5002)]
            error = await failure_of(NetworkConnection(place, Parameters(stack, local_port=5000)))
            assert isinstance(error, ConnectError) and error.code == errno.EADDRINUSE
            error = await failure_of(NetworkConnection(place, Parameters(stack, local_endpoint="10.0.0.3:0")))
            assert isinstance(error, ConnectError) and error.code == errno.EADDRNOTAVAIL
        ports = {NetworkConnection("10.0.0.1:80", TCP()).start() for _ in range(50)}
        for connection in ports:
            await connection.ready()
        assert len({str(one.local_endpoint) for one in ports}) == 50
        for connection in (*connections, *ports):
            connection.abort()


async def test_dual_stack(simulated_network: SimulatedNetwork) -> None:
    """By default a host has an address of each version, and IPv6 is tried first."""
    server, client = simulated_network.host("server.test"), simulated_network.host("client.test")
    simulated_network.link(server, client)
    assert server.addresses == ("10.0.0.1", "2001:db8::1") and client.addresses == ("10.0.0.2", "2001:db8::2")
    server.start(serve)
    with client:
        for version, address in ((IPVersion.ANY, "2001:db8::1"), (IPVersion.V4, "10.0.0.1"), (IPVersion.V6, "2001:db8::1")):
            async with NetworkConnection("server.test:80", TCP(IP(version=version))) as connection:
                await connection.ready()
                assert connection.remote_endpoint == HostPort(address, 80)


# What goes wrong while building


def test_names_and_addresses_are_checked(simulated_network: SimulatedNetwork) -> None:
    host = simulated_network.host("host.test", "10.0.0.1")
    with pytest.raises(ValueError, match=r"there already is a node 'HOST.test'"):
        simulated_network.router("HOST.test")  # the same name for everybody who resolves it
    with pytest.raises(ValueError, match=r"there already is a node 'host.test'"):
        simulated_network.router("host.test")
    for make in (simulated_network.host, simulated_network.router, simulated_network.nat):
        with pytest.raises(ValueError, match=r"10.0.0.1 is the address of host.test already"):
            make("other.test", "10.0.0.1")
        with pytest.raises(ValueError, match="'no address'"):
            make("other.test", "no address")
    with pytest.raises(ValueError, match="host must"):
        simulated_network.host("not a name", "10.0.0.5")
    with pytest.raises(ValueError, match="send_buffer must be at least 1, got 0"):
        simulated_network.host("other.test", send_buffer=0)
    assert simulated_network.nodes == [host]  # nothing is left of those
    simulated_network.host("other.test", "10.0.0.5")
    with pytest.raises(ValueError, match=r"host.test already has an interface eth0"):
        host.interface("eth0")
    with pytest.raises(ValueError, match=r"10.0.0.5 is the address of other.test already"):
        host.interface("eth1", "10.0.0.6", "10.0.0.5")
    assert [one.name for one in host.interfaces] == ["eth0"]
    with pytest.raises(ValueError, match=r"10.0.0.1"):
        host.interfaces[0].add_address("10.0.0.1")
    with pytest.raises(ValueError, match=r"10.0.0.9"):
        host.interfaces[0].remove_address("10.0.0.9")
    assert host.addresses == ("10.0.0.1",)


def test_default_addresses_leave_out_what_is_taken(simulated_network: SimulatedNetwork) -> None:
    first = simulated_network.host("first.test", "10.0.0.2")
    second = simulated_network.host("second.test")
    third = simulated_network.host("third.test")
    addresses = (*first.addresses, *second.addresses, *third.addresses)
    assert len(set(addresses)) == 5


async def test_the_end_of_both_sides_leaves_nothing(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)

    async def say(connection: NetworkConnection[Any]) -> None:
        await connection.send(b"bye", end_of_stream=True)
        await connection.receive()

    server.start(serve, TCP(), 80, say)
    with client:
        connection = NetworkConnection("server.test:80", TCP())
        assert (await connection.receive(exactly=3)).content == b"bye"
        with pytest.raises(EndOfStreamError):
            await connection.receive(exactly=1)
        await connection.aclose()
        with pytest.raises(ChannelClosedError):
            await connection.receive()
    await asyncio.sleep(1)
    assert not client.sockets and len(server.sockets) == 2  # the listener's, IPv4 and IPv6
    packets = len(simulated_network.trace)
    await asyncio.sleep(10_000)
    assert len(simulated_network.trace) == packets
