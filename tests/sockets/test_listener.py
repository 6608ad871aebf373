"""Listeners on real sockets: where they listen, what they hand out, and how they stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tieline import (
    TCP,
    TLS,
    UDP,
    ConnectError,
    DNSError,
    HostPort,
    ListenerState,
    NetworkConnection,
    NetworkListener,
    Parameters,
    State,
    UnexpectedEndpointTypeError,
    UnixEndpoint,
)
from tieline.drivers.asyncio import AsyncioDriver
from tieline.protocols.ip import IP, IPVersion

from ..authority import LOCALHOST, TRUST
from ..peers import Peer

HERE = HostPort("127.0.0.1", 0)
SERVER, CLIENT = TLS(identity=LOCALHOST), TLS(trust=TRUST, server_name="localhost")


async def echo(connection: NetworkConnection[Any]) -> None:
    async for piece in connection:
        await connection.send(piece.content)


async def forever(_: object) -> None:
    await asyncio.Event().wait()


async def echoed(to: Any, using: Any, content: bytes = b"hello") -> None:
    async with NetworkConnection(to, using) as connection:
        await connection.send(content)
        assert (await connection.receive()).content == content


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # what it waits for has no event
            await asyncio.sleep(0.005)


# Where


async def test_everywhere_under_one_port_by_default() -> None:
    async with NetworkListener(TCP()).serving(echo) as listener:
        assert listener.state is ListenerState.READY and listener.port > 0
        assert listener.endpoints == (HostPort("0.0.0.0", listener.port), HostPort("::", listener.port))
        assert listener.endpoint == HostPort("127.0.0.1", listener.port)
        for host in ("127.0.0.1", "::1", "localhost", "127.9.8.7"):
            await echoed((host, listener.port), TCP())
    assert listener.state is ListenerState.CANCELLED


@pytest.mark.parametrize("using", [TCP(), UDP()])
@pytest.mark.parametrize(("version", "host"), [(IPVersion.V4, "127.0.0.1"), (IPVersion.V6, "::1")])
async def test_one_version_only(using: Any, version: IPVersion, host: str) -> None:
    async with NetworkListener(type(using)(IP(version=version))).serving(echo) as listener:
        assert [one.version for one in listener.endpoints if isinstance(one, HostPort)] == [version.value]
        assert listener.endpoint == HostPort(host, listener.port)
        await echoed(listener.endpoint, using)


@pytest.mark.parametrize("using", [TCP(), UDP()])
@pytest.mark.parametrize("on", ["127.0.0.1:0", "[::1]:0", ("127.0.0.2", 0), HostPort("::1", 0), 0])
async def test_places(using: Any, on: Any) -> None:
    async with NetworkListener(using, on=on).serving(echo) as listener:
        await echoed(listener.endpoint, using)


async def test_a_name_is_bound_at_each_of_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(_: object, host: str, port: int, version: int) -> list[HostPort]:
        assert host == "here.test"
        return [HostPort(one, port) for one in (("::1",) if version == 6 else ("127.0.0.5", "127.0.0.6"))]

    monkeypatch.setattr(AsyncioDriver, "resolve", resolve)
    async with NetworkListener(TCP(), on="here.test:0").serving(echo) as listener:
        assert listener.endpoints == tuple(HostPort(host, listener.port) for host in ("127.0.0.5", "127.0.0.6", "::1"))
        for endpoint in listener.endpoints:
            await echoed(endpoint, TCP())


async def test_a_name_that_is_none_fails_the_listener() -> None:
    listener = NetworkListener(TCP(), on="does-not-exist.invalid:0")
    with pytest.raises(DNSError):
        await listener.run(echo)
    assert listener.state is ListenerState.FAILED and isinstance(listener.error, DNSError)


async def test_parameters_say_where_too() -> None:
    for parameters in (Parameters(TCP(), local_endpoint=HERE), Parameters(TCP(), local_port=0)):
        async with NetworkListener(parameters).serving(echo) as listener:
            await echoed(listener.endpoint, TCP())
        with pytest.raises(ValueError, match="exclude each other"):
            NetworkListener(parameters, on=7)


async def test_a_unix_socket(tmp_path: Path) -> None:
    file = tmp_path / "socket"
    place = UnixEndpoint(str(file))
    async with NetworkListener(TCP(), on=place).serving(echo) as listener:
        assert listener.endpoint == place and listener.endpoints == (place,)
        with pytest.raises(RuntimeError, match="Unix socket and has no port"):
            assert listener.port
        await echoed(place, TCP())
        await echoed(place, TCP())
    assert not file.exists()


async def test_the_port_is_not_known_before_ready() -> None:
    listener = NetworkListener(TCP())
    for fact in ("port", "endpoint"):
        with pytest.raises(RuntimeError, match="setup"):
            getattr(listener, fact)
    assert listener.endpoints == () and listener.state is ListenerState.SETUP


@pytest.mark.parametrize(("using", "command"), [(TCP(), "ss -ltnp"), (UDP(), "ss -lunp")])
async def test_a_busy_port_is_told(using: Any, command: str) -> None:
    async with NetworkListener(using, on=HERE).serving(echo) as first:
        second = NetworkListener(using, on=first.endpoint)
        with pytest.raises(ConnectError, match=rf"127\.0\.0\.1:\d+, listening: .*in use.*`{command}`") as caught:
            await second.run(echo)
        assert caught.value.errno == errno.EADDRINUSE and second.state is ListenerState.FAILED


@pytest.mark.parametrize("using", [TCP(), UDP()])
async def test_a_port_that_is_free_in_one_version_only_is_not_taken(using: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Port 0 means one port that is free everywhere, so the first that the system gives may not be the one."""
    listen, bind = AsyncioDriver.listen, AsyncioDriver.bind
    refused: list[int] = []

    def busy(at: Any) -> None:
        if at is not None and at.host == "::" and len(refused) < 3:
            refused.append(at.port)
            raise OSError(errno.EADDRINUSE, "in use")

    def listen_once_more(self: Any, at: Any, *rest: Any) -> Any:
        busy(at)
        return listen(self, at, *rest)

    def bind_once_more(self: Any, at: Any, *rest: Any) -> Any:
        busy(at)
        return bind(self, at, *rest)

    monkeypatch.setattr(AsyncioDriver, "listen", listen_once_more)
    monkeypatch.setattr(AsyncioDriver, "bind", bind_once_more)
    async with NetworkListener(using).serving(echo) as listener:
        assert len(refused) == 3 and len(listener.endpoints) == 2
        assert {one.port for one in listener.endpoints if isinstance(one, HostPort)} == {listener.port}
        await echoed(listener.endpoint, using)


async def test_one_busy_address_of_several_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with NetworkListener(TCP(), on="[::1]:0").serving(echo) as first:
        with caplog.at_level(logging.WARNING, "tieline.listener"):
            async with NetworkListener(TCP(), on=first.port).serving(echo) as second:
                assert second.endpoints == (HostPort("0.0.0.0", first.port),)
    assert f"not listening on [::]:{first.port}" in caplog.text


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"on": 70000}, ValueError, "from 0 to 65535, got 70000"),
        ({"on": True}, TypeError, "got True"),
        ({"on": "https://example.com"}, UnexpectedEndpointTypeError, "cannot listen there"),
        ({"service": "_http._tcp"}, UnexpectedEndpointTypeError, "cannot be advertised yet"),
        ({"new_connection_limit": -1}, ValueError, "at least 0, got -1"),
        ({"using": TLS()}, ValueError, "certificate and a key"),
        ({"using": UDP(), "on": "unix:/x"}, UnexpectedEndpointTypeError, "UDP does not run over Unix sockets"),
    ],
)
def test_what_can_never_be_is_refused_at_construction(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        NetworkListener(**{"using": TCP(), **options})


# Running


async def test_run_serves_until_cancelled_and_only_once() -> None:
    states: list[ListenerState] = []
    listener = NetworkListener(TCP(), on=HERE).on_state_update(lambda _, state: states.append(state))
    updates = listener.state_updates()
    running = asyncio.create_task(listener.run(forever))
    assert await anext(updates) is ListenerState.READY
    async with NetworkConnection(listener.endpoint, TCP()) as connection:
        await connection.ready()
        with pytest.raises(RuntimeError, match="has been run before"):
            await listener.run(forever)
        await until(lambda: len(listener._tasks) == 1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not listener._tasks
        with pytest.raises(ConnectionResetError):
            await connection.receive()
    assert states == [ListenerState.READY, ListenerState.CANCELLED]
    assert [state async for state in updates] == [ListenerState.CANCELLED]
    with pytest.raises(RuntimeError, match="has been run before"):
        async with listener.serving(forever):
            pass


@pytest.mark.parametrize(("server", "client"), [(TCP(), TCP()), (SERVER, CLIENT)])
async def test_a_handler_gets_a_ready_connection_and_its_end_closes_it(server: Any, client: Any) -> None:
    given: list[NetworkConnection[Any]] = []

    async def greet(connection: NetworkConnection[Any]) -> None:
        assert connection.state is State.READY and connection.current_path is not None
        given.append(connection)
        await connection.send(b"welcome")

    async with NetworkListener(server, on=HERE).serving(greet) as listener:
        async with NetworkConnection(listener.endpoint, client) as connection:
            assert [content async for content, _ in connection] == [b"welcome"]
            assert given[0].remote_endpoint == connection.local_endpoint
            assert given[0].local_endpoint == connection.remote_endpoint
        await until(lambda: given[0].state is State.CANCELLED)


async def test_a_thousand_connections_at_once() -> None:
    async with NetworkListener(TCP(), on=HERE).serving(echo) as listener:
        await asyncio.gather(*(echoed(listener.endpoint, TCP(), b"%d" % number) for number in range(1000)))
    assert not listener._tasks


async def test_an_error_in_a_handler_is_logged_told_and_kept_to_itself(caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[object, Exception]] = []

    async def handler(connection: NetworkConnection[Any]) -> None:
        if (await connection.receive()).content == b"fail":
            raise ZeroDivisionError("oh")
        await echo(connection)

    listener = NetworkListener(TCP(), on=HERE)
    listener.on_handler_error = lambda connection, error: told.append((connection, error))
    with caplog.at_level(logging.INFO, "tieline.listener"):
        async with listener.serving(handler), NetworkConnection(listener.endpoint, TCP()) as sibling:
            await sibling.send(b"hello")
            async with NetworkConnection(listener.endpoint, TCP()) as connection:
                await connection.send(b"fail")
                with pytest.raises(ConnectionResetError):
                    await connection.receive()
            await sibling.send(b"still here")
            assert (await sibling.receive()).content == b"still here"
    (record,) = caplog.records
    assert record.levelno == logging.ERROR and record.exc_info and record.exc_info[0] is ZeroDivisionError
    assert len(told) == 1 and isinstance(told[0][1], ZeroDivisionError)


async def test_on_handler_error_may_raise(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(_: object) -> None:
        raise ZeroDivisionError

    def fail(*_: object) -> None:
        raise LookupError

    listener = NetworkListener(TCP(), on=HERE)
    listener.on_handler_error = fail
    async with listener.serving(handler):
        for _ in range(2):
            with await Peer.connect(listener.endpoint) as peer:
                await peer.gone()
    assert len(caplog.records) == 4


@pytest.mark.parametrize("grouped", [False, True])
async def test_an_error_of_its_own_connection_is_one_line(caplog: pytest.LogCaptureFixture, grouped: bool) -> None:
    async def handler(connection: NetworkConnection[Any]) -> None:
        if grouped:
            async with asyncio.TaskGroup() as group:
                group.create_task(echo(connection))
        else:
            await echo(connection)

    with caplog.at_level(logging.INFO, "tieline.listener"):
        async with NetworkListener(TCP(), on=HERE).serving(handler) as listener:
            with await Peer.connect(listener.endpoint) as peer:
                await peer.send(b"hello")
                await peer.receive()
                peer.reset()
            await until(lambda: not listener._tasks)
    (record,) = caplog.records
    assert record.levelno == logging.INFO and record.exc_info is None and "ended" in record.getMessage()


async def test_a_network_error_of_another_connection_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(_: object) -> None:
        async with NetworkConnection("unix:/does/not/exist", TCP()) as upstream:
            await upstream.ready()

    async with NetworkListener(TCP(), on=HERE).serving(handler) as listener:
        with await Peer.connect(listener.endpoint) as peer:
            assert await peer.gone() == "reset"
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


# The budget


@pytest.mark.parametrize("using", [(TCP(), TCP()), (SERVER, CLIENT), (UDP(), UDP())])
async def test_the_budget_goes_down_and_can_be_raised(using: tuple[Any, Any]) -> None:
    server, client = using
    served: list[object] = []

    async def handler(connection: NetworkConnection[Any]) -> None:
        served.append(connection)
        await echo(connection)

    listener = NetworkListener(server, on=HERE, new_connection_limit=2)
    assert listener.new_connection_limit == 2
    async with listener.serving(handler):
        for left in (1, 0):
            await echoed(listener.endpoint, client)
            assert listener.new_connection_limit == left
        async with NetworkConnection(listener.endpoint, client) as third:
            sending = asyncio.create_task(third.send(b"x"))
            await asyncio.sleep(0.1)
            assert len(served) == 2
            listener.new_connection_limit = 1
            await sending
            if isinstance(server, UDP):  # the datagram was dropped
                await third.send(b"x")
            assert (await third.receive()).content == b"x"
        assert listener.new_connection_limit == 0
        listener.new_connection_limit = None
        await echoed(listener.endpoint, client)
        assert listener.new_connection_limit is None


async def test_a_budget_lowered_during_handshakes_holds() -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    inbound, outbound = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(inbound, outbound)
    async with NetworkListener(SERVER, on=HERE, new_connection_limit=1).serving(echo) as listener:
        with await Peer.connect(listener.endpoint) as peer:
            while True:
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
                    break
                await peer.send(outbound.read())
                inbound.write(await peer.receive())
            listener.new_connection_limit = 0
            await peer.send(outbound.read())  # the client's Finished
            assert await peer.gone() == "reset"
        assert listener.new_connection_limit == 0 and not listener._tasks


# Handshakes


async def test_a_handshake_that_fails_reaches_no_handler_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    served: list[object] = []

    async def handler(connection: NetworkConnection[Any]) -> None:
        served.append(connection)

    with caplog.at_level(logging.DEBUG, "tieline.listener"):
        async with NetworkListener(SERVER, on=HERE).serving(handler) as listener:
            with await Peer.connect(listener.endpoint) as peer:
                await peer.send(b"GET / HTTP/1.1\r\n\r\n")
                await peer.gone()
            with await Peer.connect(listener.endpoint) as peer:
                peer.reset()
            await until(lambda: listener.failed_handshake_count == 2)
    assert not served and len(caplog.records) == 2
    assert all(record.levelno == logging.DEBUG for record in caplog.records)


async def test_handshakes_are_bounded_in_time() -> None:
    async with NetworkListener(TLS(identity=LOCALHOST, handshake_timeout=0.1), on=HERE).serving(echo) as listener:
        with await Peer.connect(listener.endpoint) as silent:
            await silent.gone()
        assert listener.failed_handshake_count == 1
        await echoed(listener.endpoint, CLIENT)


async def test_handshakes_are_bounded_in_number_and_run_side_by_side() -> None:
    parameters = Parameters(SERVER, maximum_pending_handshakes=2)
    async with NetworkListener(parameters, on=HERE).serving(echo) as listener:
        with await Peer.connect(listener.endpoint) as silent:
            await echoed(listener.endpoint, CLIENT)  # beside a silent one
            with await Peer.connect(listener.endpoint):
                third = asyncio.create_task(echoed(listener.endpoint, CLIENT))
                await asyncio.sleep(0.1)
                assert not third.done()
                silent.reset()
                await third


async def test_stopping_ends_pending_handshakes() -> None:
    async with NetworkListener(SERVER, on=HERE).serving(echo) as listener:
        peer = await Peer.connect(listener.endpoint)
        await until(lambda: len(listener._side._handshakes) == 1)  # type: ignore[union-attr]
    with peer:
        assert await peer.gone() == "reset"


async def test_a_mistake_in_a_servers_handshake_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        messages = ()
        handshaking = None

        def __init__(self, *_: object) -> None: ...
        def start(self) -> bytes:
            raise ZeroDivisionError

    monkeypatch.setattr("tieline.inbound.streams.server_pipeline", Broken)
    monkeypatch.setattr("tieline.inbound.streams.is_bare", lambda _: False)
    async with NetworkListener(TCP(), on=HERE).serving(echo) as listener:
        with await Peer.connect(listener.endpoint) as peer:
            await peer.gone()
        await until(lambda: listener.failed_handshake_count == 1)
    assert caplog.records[0].exc_info and caplog.records[0].exc_info[0] is ZeroDivisionError


# Stopping


async def test_leaving_lets_handlers_finish() -> None:
    finished: list[str] = []

    async def handler(connection: NetworkConnection[Any]) -> None:
        await connection.receive()
        await asyncio.sleep(0.1)
        await connection.send(b"done")
        finished.append("handler")

    async with NetworkListener(TCP(), on=HERE).serving(handler) as listener:
        connection = NetworkConnection(listener.endpoint, TCP())
        await connection.send(b"x")
        await until(lambda: len(listener._tasks) == 1)
    finished.append("listener")
    assert finished == ["handler", "listener"]
    async with connection:
        assert (await connection.receive()).content == b"done"


@pytest.mark.parametrize("grace", [0, 0.2])
async def test_leaving_cancels_handlers_after_the_grace_period(grace: float) -> None:
    cancelled: list[bool] = []

    async def handler(_: object) -> None:
        try:
            await forever(_)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async with NetworkListener(Parameters(TCP(), grace_period=grace), on=HERE).serving(handler) as listener:
        with await Peer.connect(listener.endpoint):
            await until(lambda: len(listener._tasks) == 1)
            await asyncio.sleep(0)
        before = asyncio.get_running_loop().time()
    assert cancelled == [True]
    assert grace - 0.01 < asyncio.get_running_loop().time() - before < grace + 0.5


async def test_leaving_by_an_exception_cancels_at_once() -> None:
    before = asyncio.get_running_loop().time()
    with pytest.raises(LookupError):  # noqa: PT012
        async with NetworkListener(TCP(), on=HERE).serving(forever) as listener:
            with await Peer.connect(listener.endpoint):
                await until(lambda: len(listener._tasks) == 1)
            raise LookupError
    assert asyncio.get_running_loop().time() - before < 1 and listener.state is ListenerState.CANCELLED


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelling_the_stop_cancels_the_handlers(times: int) -> None:
    ready = asyncio.Event()

    async def slow(connection: NetworkConnection[Any]) -> None:
        try:
            await forever(connection)
        finally:
            await asyncio.sleep(0.05)

    async def serve() -> None:
        async with NetworkListener(UDP(), on=HERE).serving(slow) as listener:
            async with NetworkConnection(listener.endpoint, UDP()) as connection:
                await connection.send(b"x")
                await until(lambda: len(listener._tasks) == 1)
            await asyncio.sleep(0)
            ready.set()

    task = asyncio.create_task(serve())
    await ready.wait()
    for _ in range(times):
        await asyncio.sleep(0.01)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.1)


async def test_a_handler_that_is_cancelled_before_it_began_leaves_nothing() -> None:
    with pytest.raises(LookupError):  # noqa: PT012
        async with NetworkListener(TCP(), on=HERE).serving(forever) as listener:
            accepted = listener._accepted

            def accept_and_leave(connection: Any) -> None:
                accepted(connection)
                body.set_exception(LookupError())

            listener._side._accepted = accept_and_leave  # type: ignore[union-attr]
            body: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            with await Peer.connect(listener.endpoint):
                await body


@pytest.mark.parametrize("using", [TCP(), UDP()])
async def test_a_listener_that_fails_cancels_the_body_and_raises_from_it(using: Any) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(ConnectError, match="the listening socket failed") as caught:  # noqa: PT012
            async with NetworkListener(using, on=HERE).serving(forever) as listener:
                break_listening(listener)
                await asyncio.Event().wait()
    assert listener.state is ListenerState.FAILED and isinstance(caught.value.__cause__, ConnectError)
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0


def break_listening(listener: NetworkListener[Any]) -> None:
    """As if the socket were none any more: nothing that a peer or the network does breaks a listening socket."""
    side: Any = listener._side
    if hasattr(side, "_acceptors"):
        side._accept_failed(OSError(errno.EINVAL, "Invalid argument"))
    else:
        next(iter(side._ports.values())).failed(OSError(errno.EBADF, "Bad file descriptor"))


async def test_a_failing_listener_ends_run() -> None:
    listener = NetworkListener(TCP(), on=HERE)
    listener.on_state_update(
        lambda _, state: asyncio.get_running_loop().call_soon(break_listening, listener) if state is ListenerState.READY else None
    )
    with pytest.raises(ConnectError, match="the listening socket failed"):
        await listener.run(forever)


async def test_a_failure_and_a_cancellation_from_outside_are_a_cancellation() -> None:
    async def serve() -> None:
        async with NetworkListener(TCP(), on=HERE).serving(forever) as listener:
            asyncio.get_running_loop().call_soon(break_listening, listener)
            asyncio.get_running_loop().call_soon(task.cancel)
            await asyncio.Event().wait()

    task = asyncio.create_task(serve())
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_failure_just_before_the_block_ends_is_raised() -> None:
    with pytest.raises(ConnectError, match="the listening socket failed"):
        async with NetworkListener(TCP(), on=HERE).serving(forever) as listener:
            break_listening(listener)
    await asyncio.sleep(0)


async def test_a_cancellation_from_outside_goes_first_also_when_the_body_does_not_meet_it() -> None:
    async def serve() -> None:
        async with NetworkListener(TCP(), on=HERE).serving(forever) as listener:
            task.cancel()
            break_listening(listener)

    task = asyncio.create_task(serve())
    with pytest.raises(asyncio.CancelledError):
        await task


# UDP


async def test_udp_flows_go_by_remote_address() -> None:
    served: list[object] = []

    async def handler(connection: NetworkConnection[UDP]) -> None:
        served.append(connection.remote_endpoint)
        await echo(connection)

    async with (
        NetworkListener(UDP(), on=HERE).serving(handler) as listener,
        NetworkConnection(listener.endpoint, UDP()) as one,
        NetworkConnection(listener.endpoint, UDP()) as two,
    ):
        for number in range(3):
            for connection in (one, two):
                await connection.send(b"%d" % number)
                assert (await connection.receive()).content == b"%d" % number
        assert served == [one.local_endpoint, two.local_endpoint]


async def test_an_idle_flow_ends() -> None:
    ended = asyncio.Event()

    async def handler(connection: NetworkConnection[UDP]) -> None:
        await echo(connection)
        ended.set()

    async with (
        NetworkListener(UDP(idle_timeout=0.2), on=HERE).serving(handler) as listener,
        NetworkConnection(listener.endpoint, UDP()) as connection,
    ):
        for _ in range(5):
            await connection.send(b"x")
            await asyncio.sleep(0.08)
        assert not ended.is_set()
        async with asyncio.timeout(2):
            await ended.wait()
        await connection.send(b"again")
        await until(lambda: len(listener._tasks) == 1)


async def test_leaving_ends_the_iteration_of_udp_flows_at_once() -> None:
    ended: list[bytes] = []

    async def handler(connection: NetworkConnection[UDP]) -> None:
        async for content, _ in connection:
            ended.append(content)
        ended.append(b"end")
        await connection.send(b"goodbye")

    async with asyncio.timeout(2):
        async with NetworkListener(UDP(), on=HERE).serving(handler) as listener:
            connection = NetworkConnection(listener.endpoint, UDP())
            await connection.send(b"x")
            await until(lambda: ended == [b"x"])
        async with connection:
            assert (await connection.receive()).content == b"goodbye"
    assert ended == [b"x", b"end"]


async def test_a_peer_that_goes_on_sending_does_not_keep_the_iteration_alive() -> None:
    ended = asyncio.Event()

    async def handler(connection: NetworkConnection[UDP]) -> None:
        await echo(connection)
        ended.set()

    async with asyncio.timeout(2):
        async with NetworkListener(UDP(), on=HERE).serving(handler) as listener:
            connection = NetworkConnection(listener.endpoint, UDP())
            await connection.send(b"x")
            await connection.receive()
            listener._side.close()  # type: ignore[union-attr]  # what leaving does first
            await connection.send(b"late")
            await ended.wait()
            assert next(iter(listener._side._ports.values())).flows  # type: ignore[union-attr]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await connection.receive()
        connection.abort()


async def test_a_flow_whose_handler_has_ended_makes_room_for_another() -> None:
    async def handler(connection: NetworkConnection[UDP]) -> None:
        await connection.send((await connection.receive()).content)

    async with NetworkListener(UDP(maximum_flows=1), on=HERE).serving(handler) as listener:
        for _ in range(3):
            await until(lambda: not listener._tasks)
            await echoed(listener.endpoint, UDP())


async def test_more_flows_than_allowed_are_not_made() -> None:
    async with NetworkListener(UDP(maximum_flows=2), on=HERE).serving(echo) as listener:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as three,
        ):
            for sock in (one, two, three):
                sock.sendto(b"x", ("127.0.0.1", listener.port))
            await asyncio.sleep(0.05)
            assert len(listener._tasks) == 2


# Resources

OUT_OF_DESCRIPTORS = """
import asyncio, logging, resource, socket, sys
from tieline import TCP, NetworkConnection, NetworkListener

async def echo(connection):
    async for piece in connection:
        await connection.send(piece.content)

async def main():
    records = []
    class Keep(logging.Handler):
        def emit(self, record):
            records.append(record.getMessage())
    logging.getLogger("tieline.listener").addHandler(Keep())
    async with NetworkListener(TCP(), on="127.0.0.1:0").serving(echo) as listener:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        peers = []
        try:
            while True:
                peers.append(socket.create_connection(("127.0.0.1", listener.port)))
        except OSError as error:
            assert error.errno == 24, error
        await asyncio.sleep(0.5)
        served = len(listener._tasks)
        assert len(records) == 1 and "Too many open files" in records[0], records
        for peer in peers[: len(peers) - 3]:
            peer.close()
        async with asyncio.timeout(5):
            await asyncio.sleep(0.3)
            async with NetworkConnection(listener.endpoint, TCP()) as connection:
                await connection.send(b"hello")
                assert (await connection.receive()).content == b"hello"
        for peer in peers:
            peer.close()
    assert len(records) == 1, records
    print("survived", served)

asyncio.run(main())
"""


def test_running_out_of_descriptors_is_survived_and_logged_once() -> None:
    result = subprocess.run([sys.executable, "-c", OUT_OF_DESCRIPTORS], capture_output=True, text=True, timeout=30)
    assert result.stdout.startswith("survived") and not result.stderr, result.stderr


async def test_a_listener_says_what_it_is() -> None:
    listener = NetworkListener(TCP(), on=HERE)
    assert repr(listener) == "<NetworkListener on 127.0.0.1:0 for TCP, setup>"
    async with listener.serving(echo):
        assert repr(listener) == f"<NetworkListener on 127.0.0.1:{listener.port} for TCP, ready>"
