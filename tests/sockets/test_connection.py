"""A connection's life on real sockets: closing, dropping, loops that end, monitors, parameters."""

from __future__ import annotations

import asyncio
import gc
import pickle
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tieline import (
    TCP,
    TLS,
    UDP,
    ChannelClosedError,
    ConnectError,
    HostPort,
    Identity,
    InterfaceType,
    NetworkConnection,
    NetworkListener,
    Parameters,
    PathMonitor,
    ServiceClass,
    State,
    TLSError,
    UnexpectedEndpointTypeError,
)

from ..authority import LOCALHOST, TRUST
from ..peers import Peer, conversing

SECURE = TLS(identity=LOCALHOST), TLS(trust=TRUST, server_name="localhost")
STACKS = [(TCP(), TCP()), SECURE, (UDP(), UDP())]


async def echo(connection: NetworkConnection[Any]) -> None:
    async for piece in connection:
        await connection.send(piece.content)


@pytest.mark.parametrize("stacks", STACKS)
async def test_every_fact_is_there_at_ready_and_the_states_in_order(stacks: Any) -> None:
    seen: list[State] = []
    async with NetworkListener(stacks[0], on="127.0.0.1:0").serving(echo) as listener:
        connection = NetworkConnection(listener.endpoint, stacks[1]).on_state_update(lambda _, one: seen.append(one))
        paths: list[Any] = []
        connection.on_path_update(lambda _, path: paths.append(path)).on_viability_update(lambda _, viable: paths.append(viable))
        async with connection:
            await connection.ready()
            assert connection.remote_endpoint == listener.endpoint
            path = connection.current_path
            assert path is not None and path.interface is not None and path.interface.type is InterfaceType.LOOPBACK
            assert paths == [path, True]
        assert seen == [State.PREPARING, State.READY, State.CANCELLED]


@pytest.mark.parametrize("stacks", STACKS)
async def test_a_dropped_connection_warns_and_its_socket_goes(stacks: Any) -> None:
    async with NetworkListener(stacks[0], on="127.0.0.1:0").serving(echo) as listener:
        connection = NetworkConnection(listener.endpoint, stacks[1])
        await connection.send(b"x")
        await connection.receive()
        gone = weakref.ref(connection)
        with pytest.warns(ResourceWarning, match="unclosed <NetworkConnection"):  # noqa: PT031
            del connection
            gc.collect()
        assert gone() is None


def test_a_connection_that_outlives_its_loop_goes_quietly(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    kept: list[NetworkConnection[TCP]] = []

    async def main() -> None:
        async def hold(peer: Peer) -> None:
            await peer.receive()

        async with conversing(hold) as endpoint:
            connection = NetworkConnection(endpoint, TCP())
            await connection.ready()
            waiting = NetworkConnection("127.0.0.1:1", TCP())
            with pytest.raises(ConnectionRefusedError):
                await waiting.ready()
            kept.extend((connection, waiting))

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kept.clear()
        gc.collect()
    assert [one.category for one in caught] == [ResourceWarning, ResourceWarning]


async def test_one_connection_used_from_many_tasks() -> None:
    async with (
        NetworkListener(TCP(), on="127.0.0.1:0").serving(echo) as listener,
        NetworkConnection(listener.endpoint, TCP()) as connection,
    ):
        sends = [connection.send(bytes([number])) for number in range(100)]
        receives = [connection.receive(exactly=1) for _ in range(100)]
        outcomes = await asyncio.gather(*receives, *sends)
        assert [one.content for one in outcomes[:100] if one is not None] == [bytes([number]) for number in range(100)]


def test_starting_needs_a_loop() -> None:
    connection = NetworkConnection("127.0.0.1:9", TCP())
    with pytest.raises(RuntimeError, match="running event loop"):
        connection.start()
    assert connection.state is State.SETUP
    with pytest.raises(RuntimeError, match="running event loop"):
        assert PathMonitor().current_path


async def test_the_monitor_gives_the_present_path_and_then_waits() -> None:
    monitor = PathMonitor()
    paths = aiter(monitor)
    assert await anext(paths) == monitor.current_path
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(paths)
    async for path in PathMonitor(required_interface_type=InterfaceType.LOOPBACK):
        assert [one.type for one in path.available_interfaces] == [InterfaceType.LOOPBACK]
        break


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"local_port": 70000}, ValueError, "local_port must be from 0 to 65535, got 70000"),
        ({"local_endpoint": "example.com:80"}, UnexpectedEndpointTypeError, "must be an address"),
        ({"local_endpoint": "127.0.0.1:0", "local_port": 1}, ValueError, "exclude each other"),
        ({"required_interface": ""}, ValueError, "got ''"),
        ({"required_interface": 3}, TypeError, "interface's name, got 3"),
        ({"required_interface_type": "wifi"}, TypeError, "InterfaceType, got 'wifi'"),
        ({"prohibited_interfaces": "eth0"}, TypeError, "sequence of interface names, got 'eth0'"),
        ({"prohibited_interface_types": InterfaceType.WIFI}, TypeError, "sequence of InterfaceType members"),
        ({"required_interface": "a", "prohibited_interfaces": ["a"]}, ValueError, "rules out what is required, 'a'"),
        ({"local_only": 1}, TypeError, "local_only must be True or False, got 1"),
        ({"service_class": "voice"}, TypeError, "ServiceClass, got 'voice'"),
        ({"close_timeout": 0}, ValueError, "close_timeout must be a finite number of seconds above 0, got 0"),
        ({"close_timeout": None}, TypeError, "close_timeout must be a number of seconds, got None"),
        ({"grace_period": -1}, ValueError, "grace_period must be a finite number of seconds of 0 or more, got -1"),
        ({"resolution_timeout": float("inf")}, ValueError, "resolution_timeout must be a finite number"),
        ({"attempt_delay": 0.001}, ValueError, "attempt_delay must be from 0.01 to 2.0 seconds, got 0.001"),
        ({"attempt_delay": "1"}, TypeError, "attempt_delay must be a number of seconds, got '1'"),
        ({"resolution_delay": 5}, ValueError, "resolution_delay must be from 0.0 to 2.0 seconds, got 5"),
        ({"receive_limit": 0}, ValueError, "receive_limit must be at least 1, got 0"),
        ({"backlog": 1.5}, TypeError, "backlog must be an int"),
    ],
)
def test_parameters_say_what_is_wrong(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Parameters(TCP(), **options)


def test_parameters_are_values() -> None:
    one = Parameters(TCP(), prohibited_interfaces=["eth0"], service_class=ServiceClass.SIGNALING)  # type: ignore[arg-type]
    assert one == Parameters(TCP(), prohibited_interfaces=("eth0",), service_class=ServiceClass.SIGNALING)
    assert hash(one) and Parameters.of(one) is one and Parameters.of(TCP()) == Parameters(TCP())
    assert Parameters(TCP(), local_endpoint=("127.0.0.1", 5)).local_endpoint == HostPort("127.0.0.1", 5)
    with pytest.raises(TypeError, match="wants a protocol stack"):
        Parameters("TCP")  # type: ignore[type-var]


@pytest.mark.parametrize("stack", [TCP(), UDP()])
async def test_a_call_of_a_connection_that_nobody_keeps(stack: TCP | UDP) -> None:
    receiving = NetworkConnection("127.0.0.1:9", stack).receive()  # type: ignore[misc]
    with pytest.raises(RuntimeError, match="keep a reference"):
        await receiving


async def test_only_true_accepts_a_certificate() -> None:
    """What a validator gives by mistake, such as a coroutine that was not awaited, is no yes."""
    identity = Identity.self_signed("localhost")

    async def mistaken(certificates: list[bytes], server_name: str) -> bool:
        return "no"  # type: ignore[return-value]

    async def nothing(connection: NetworkConnection[TLS]) -> None:
        await connection.receive()

    async with NetworkListener(TLS(identity=identity), on="127.0.0.1:0").serving(nothing) as listener:
        stack = TLS(server_name="localhost", certificate_validator=mistaken)
        with pytest.raises(TLSError, match="refused") as raised:
            async with NetworkConnection(listener.endpoint, stack) as connection:
                await connection.ready()
        assert isinstance(raised.value.__cause__, TypeError)


async def test_a_listener_leaves_a_regular_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "important.txt"
    file.write_text("keep me")
    with pytest.raises(OSError, match="in use"):
        async with NetworkListener(TCP(), on=f"unix:{file}").serving(print):  # type: ignore[arg-type]
            raise AssertionError("it listens on a file")
    assert file.read_text() == "keep me"


async def test_a_key_log_that_cannot_be_written_is_final(tmp_path: Path) -> None:
    stack = TLS(keylog_file=tmp_path / "missing" / "keys.log")
    with pytest.raises(ConnectError, match=r"keylog_file=.*missing.*cannot be written"):  # noqa: PT012
        async with NetworkConnection("127.0.0.1:9", stack) as connection:
            try:
                await connection.ready()
            finally:
                assert connection.state is State.FAILED


async def test_a_closing_unix_listener_leaves_its_successor_alone(tmp_path: Path) -> None:
    async def nothing(connection: NetworkConnection[TCP]) -> None:
        await connection.receive()

    path = tmp_path / "socket"
    async with NetworkListener(TCP(), on=f"unix:{path}").serving(nothing):
        path.unlink()
        successor = NetworkListener(TCP(), on=f"unix:{path}").serving(nothing)
        await successor.__aenter__()
    try:
        assert path.exists()
    finally:
        await successor.__aexit__(None, None, None)
    assert not path.exists()


async def test_what_was_closed_is_freed_without_the_collector() -> None:
    flows: list[weakref.ref[Any]] = []

    async def keep(connection: NetworkConnection[Any]) -> None:
        flows.append(weakref.ref(connection._flow))
        await echo(connection)

    async def once(to: HostPort) -> None:
        async with NetworkConnection(to, TCP()) as connection:
            flows.append(weakref.ref(connection._flow))
            await connection.send(b"hello")
            assert (await connection.receive(exactly=5)).content == b"hello"

    async with NetworkListener(TCP(), on="127.0.0.1:0").serving(keep) as listener:
        assert isinstance(listener.endpoint, HostPort)
        await once(listener.endpoint)  # what is made at the first time, such as tracebacks, may stay longer
        flows.clear()
        gc.collect()
        gc.disable()
        try:
            await once(listener.endpoint)
            async with asyncio.timeout(2):
                while listener._tasks:
                    await asyncio.wait(listener._tasks)  # type: ignore[type-var]
                await asyncio.sleep(0)  # their callbacks
            assert [flow() for flow in flows] == [None, None]
        finally:
            gc.enable()


async def test_iterators_of_a_connection_that_is_gone_say_so() -> None:
    async with NetworkListener(TCP(), on="127.0.0.1:0").serving(echo) as listener:
        async with NetworkConnection(listener.endpoint, TCP()) as connection:
            await connection.send(b"hello")
            pieces = aiter(connection)
        del connection
        with pytest.raises(ChannelClosedError, match="closed by this side"):
            await anext(pieces)


@pytest.mark.parametrize("on", ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"])
async def test_both_sides_report_the_transport_and_their_addresses(on: str) -> None:
    accepted: asyncio.Future[NetworkConnection[TCP]] = asyncio.get_running_loop().create_future()

    async def take(connection: NetworkConnection[TCP]) -> None:
        accepted.set_result(connection)
        await echo(connection)

    async with NetworkListener(TCP(), on=on).serving(take) as listener:  # noqa: SIM117
        async with NetworkConnection(listener.endpoint, TCP()) as client:
            await client.send(b"hello")
            await client.receive(exactly=5)
            server = await accepted
            assert (server.local_endpoint, server.remote_endpoint) == (client.remote_endpoint, client.local_endpoint)
            for one in (client, server):
                (handshake,) = (await one.establishment_report()).handshakes
                assert handshake.protocol == "TCP" and handshake.rtt is not None and 0 < handshake.rtt < 1
                assert (await one.data_transfer_report()).aggregate.sent_transport_byte_count == 5


async def test_parameters_are_worked_out_once() -> None:
    stack = TCP()
    parameters = Parameters.of(stack)
    assert Parameters.of(stack) is parameters and Parameters.of(TCP()) == parameters
    made: list[Parameters[Any]] = []

    def make(one: Parameters[Any]) -> int:
        made.append(one)
        return len(made)

    assert (parameters.kept(make), parameters.kept(make), Parameters(TCP()).kept(make)) == (1, 1, 2)
    assert pickle.loads(pickle.dumps(parameters)) == parameters
    with pytest.raises(ZeroDivisionError):
        parameters.kept(lambda _: 1 // 0)


async def test_a_call_that_waits_finds_the_connection_made_with_every_state_told() -> None:
    states: list[State] = []
    async with NetworkListener(TCP(), on="127.0.0.1:0").serving(echo) as listener:
        connection = NetworkConnection(listener.endpoint, TCP()).on_state_update(lambda _, state: states.append(state))
        async with connection:
            assert states == [State.PREPARING]
            await connection.send(b"hello")
            assert states == [State.PREPARING, State.READY]
            assert (await connection.receive(exactly=5)).content == b"hello"
        assert states[2:] == [State.CANCELLED]


async def test_a_handler_that_aborts_at_ready_is_heard_by_the_call_that_connected() -> None:
    def abort(connection: NetworkConnection[TCP], state: State) -> None:
        if state is State.READY:
            connection.abort()

    async with NetworkListener(TCP(), on="127.0.0.1:0").serving(echo) as listener:
        connection = NetworkConnection(listener.endpoint, TCP()).on_state_update(abort)
        with pytest.raises(ChannelClosedError):
            await connection.send(b"hello")
        assert connection.state is State.CANCELLED
