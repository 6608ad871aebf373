"""Listeners of QUIC on real sockets: one UDP socket for all connections, and everybody who sends to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
from typing import Any

import pytest

from tieline import (
    ApplicationError,
    ConnectError,
    ConnectionAbortedByPeerError,
    HostPort,
    ListenerState,
    NetworkConnection,
    NetworkError,
    NetworkListener,
    Parameters,
    PeerResetError,
    State,
    TLSError,
    Trust,
)
from tieline.engines import quic
from tieline.errors import ConnectRefusedError
from tieline.protocols.security import PeerAuthentication

from ..authority import CLIENT, STRANGER
from ..peers import until
from ..quic import client_of, collect, echo_streams, server_of

HERE = "127.0.0.1:0"
REFUSING = {"trust": Trust.system(), "certificate_validator": lambda *_: False}


async def echoed(connection: Any, content: bytes = b"hello") -> None:
    stream = await connection.open_stream()
    await stream.send(content, end_of_stream=True)
    assert await collect(stream) == content


def listening(on: Any = HERE, limit: int | None = None, parameters: dict[str, Any] | None = None, **options: Any) -> Any:
    return NetworkListener(Parameters(server_of(**options), **(parameters or {})), on=on, new_connection_limit=limit)


def connecting(listener: Any) -> Any:
    return NetworkConnection(listener.endpoint, client_of())


def sockets() -> int:
    return sum(name.startswith("socket:") for name in map(link, os.listdir("/proc/self/fd")))


def link(number: str) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/self/fd/{number}")
    return ""


# Many


async def test_two_hundred_connections_at_once_on_one_socket() -> None:
    before = sockets()
    async with listening().serving(echo_streams) as listener:
        assert sockets() == before + 1
        async with contextlib.AsyncExitStack() as stack:
            connections = [await stack.enter_async_context(connecting(listener)) for _ in range(200)]
            await asyncio.gather(*(echoed(connection, b"%d" % number) for number, connection in enumerate(connections)))
            assert sockets() == before + 201
            assert len({connection.local_endpoint for connection in connections}) == 200
    assert listener.state is ListenerState.CANCELLED
    await until(lambda: sockets() == before)


async def test_connections_one_after_the_other_leave_nothing() -> None:
    async with listening().serving(echo_streams) as listener:
        for _ in range(30):
            async with connecting(listener) as connection:
                await echoed(connection)
        [port] = listener._side._ports.values()
        await until(lambda: not port._sessions and not listener._tasks)
        assert port._engine.connections == 0
        assert not listener._side._handshakes


async def test_one_connections_bulk_does_not_keep_the_others_waiting() -> None:
    async with (
        listening().serving(echo_streams) as listener,
        connecting(listener) as bulky,
        connecting(listener) as one,
    ):
        stream = await bulky.open_stream()

        async def pour() -> None:
            while True:
                await stream.send(bytes(100_000))

        async def drain() -> None:
            async for _ in stream:
                pass

        tasks = [asyncio.create_task(pour()), asyncio.create_task(drain())]
        async with asyncio.timeout(5):
            for _ in range(20):
                await echoed(one)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


# Limits


async def test_new_connection_limit() -> None:
    async with (
        listening(limit=2).serving(echo_streams) as listener,
        connecting(listener) as one,
        connecting(listener) as two,
    ):
        await echoed(one)
        await echoed(two)
        assert listener.new_connection_limit == 0
        async with connecting(listener) as three:
            with pytest.raises(ConnectionRefusedError, match=r"takes in no connection at present \(CONNECTION_REFUSED\)"):
                await three.ready()
            assert three.state is State.WAITING and listener.failed_handshake_count == 0
            [port] = listener._side._ports.values()
            assert port._engine.counters[2] > 0 and not listener._side._handshakes  # it cost no handshake
            listener.new_connection_limit = 1
            await echoed(three)
        await echoed(one)


async def test_maximum_connections() -> None:
    async with listening(maximum_connections=1).serving(echo_streams) as listener, connecting(listener) as one:
        await echoed(one)
        async with connecting(listener) as two:
            with pytest.raises(ConnectionRefusedError, match=r"takes in no connection at present \(CONNECTION_REFUSED\)"):
                await two.ready()
            assert two.state is State.WAITING
        await echoed(one)


async def test_maximum_pending_handshakes() -> None:
    """Clients whose handshake never goes on take up places, and only so many."""
    async with listening(parameters={"maximum_pending_handshakes": 5}).serving(echo_streams) as listener:
        for packet in first_packets(8):
            send_alone(packet, listener)
        [port] = listener._side._ports.values()
        await until(lambda: port._engine.counters[2] == 3)
        assert len(listener._side._handshakes) == 5
        async with connecting(listener) as connection:
            with pytest.raises(ConnectionRefusedError):
                await connection.ready()


def first_packets(count: int) -> list[bytes]:
    """The first packets of so many clients, who say nothing more."""
    options = client_of()
    packets: list[bytes] = []
    for _ in range(count):
        endpoint = quic.client_endpoint(options)
        endpoint.connect(0.0, quic.client(options), ("127.0.0.1", 1), "localhost")
        packets.append(endpoint.transmit(0.0, 1, 1)[0][0])
    return packets


def send_alone(datagram: bytes, listener: Any) -> None:
    """From a socket that nobody else uses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.sendto(datagram, (listener.endpoint.host, listener.port))


async def test_retry_under_load() -> None:
    """Above `retry_above` clients are asked to show their address first, and get in."""
    async with listening(retry_above=0).serving(echo_streams) as listener:
        for _ in range(3):
            async with connecting(listener) as connection:
                await echoed(connection)
        [port] = listener._side._ports.values()
        accepted, retried, refused, failed = port._engine.counters
        assert accepted == 3 and refused == failed == 0 and 1 <= retried <= 3  # a token of the first one may do for the others


async def test_a_flood_of_initials_is_bounded_and_honest_clients_get_in() -> None:
    async with listening(retry_above=10, parameters={"maximum_pending_handshakes": 50}).serving(echo_streams) as listener:
        for number, packet in enumerate(first_packets(300)):
            send_alone(packet, listener)
            if number % 20 == 0:
                await asyncio.sleep(0)
        [port] = listener._side._ports.values()
        await until(lambda: sum(port._engine.counters) >= 250)
        assert len(listener._side._handshakes) <= 50 and port._engine.connections <= 50
        async with connecting(listener) as connection:
            await echoed(connection)


async def test_garbage_leaves_a_listener_alive(caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(7)
    with caplog.at_level(logging.INFO):
        async with listening().serving(echo_streams) as listener:
            async with connecting(listener) as connection:
                await echoed(connection)
                template = first_packets(1)[0]
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as garbage:
                    for number in range(1000):
                        damaged = bytearray(template)
                        for _ in range(1 + number % 5):
                            damaged[chance.randrange(60)] = chance.randrange(256)
                        for datagram in (
                            chance.randbytes(chance.randrange(1500)),
                            bytes(damaged),
                            b"",
                            bytes([0xC0 | number % 64]),
                        ):
                            garbage.sendto(datagram, (listener.endpoint.host, listener.port))
                        if number % 20 == 0:
                            await asyncio.sleep(0)
                    await echoed(connection)
                async with connecting(listener) as other:
                    await echoed(other)
            [port] = listener._side._ports.values()
            assert port._engine.connections < 300
    assert not [record for record in caplog.records if record.name.startswith("tieline")]


# Failures


async def test_failed_handshakes_are_counted_and_logged_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "tieline"):
        async with listening().serving(echo_streams) as listener:
            for options in ({"alpn": ["other"]}, {"trust": STRANGER.trust}, REFUSING):
                connection = NetworkConnection(listener.endpoint, client_of(**options))
                with pytest.raises(TLSError):
                    await connection.ready()
                await connection.aclose()
            await until(lambda: listener.failed_handshake_count == 3)
            async with connecting(listener) as connection:
                await echoed(connection)
    records = [one for one in caplog.records if one.name == "tieline.listener"]
    assert len(records) == 3 and all(one.levelno == logging.DEBUG for one in records)
    assert all("handshake with 127.0.0.1:" in one.getMessage() for one in records)


async def test_clients_that_give_up_are_counted() -> None:
    async with listening(handshake_timeout=0.1).serving(echo_streams) as listener:
        for packet in first_packets(3):
            send_alone(packet, listener)
        await until(lambda: listener.failed_handshake_count == 3)
        assert not listener._side._handshakes


async def test_a_handler_that_raises_aborts_its_connection_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(connection: Any) -> None:
        failing = asyncio.Event()

        async def on_stream(stream: Any) -> None:
            content = await collect(stream)
            if content == b"fail":
                failing.set()
                await stream.receive(exactly=1)
            await stream.send(content, end_of_stream=True)

        tasks = [asyncio.create_task(work) for work in (connection.inbound_streams(on_stream), failing.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        connection.application_error = ApplicationError(77)
        for task in tasks:
            task.cancel()
        if failing.is_set():
            raise ValueError("of the handler")

    failures: list[Any] = []
    async with listening().serving(handler) as listener:
        listener.on_handler_error = lambda connection, error: failures.append(error)
        async with (
            connecting(listener) as good,
            connecting(listener) as bad,
        ):
            await echoed(good)
            with pytest.raises((ConnectionAbortedByPeerError, PeerResetError)):
                await echoed(bad, b"fail")
            await until(lambda: bad.state is State.FAILED)
            assert bad.error is not None and bad.error.code == 77 and isinstance(failures[0], ValueError)
            await echoed(good)
    assert [one.levelname for one in caplog.records if one.name == "tieline.listener"] == ["ERROR"]


# Stopping


async def test_stopping_gives_the_handlers_their_grace() -> None:
    finished: list[bool] = []
    leaving = asyncio.Event()

    async def handler(connection: Any) -> None:
        await leaving.wait()
        stream = await connection.open_stream()
        await stream.send(b"goodbye", end_of_stream=True)
        finished.append(True)

    received: list[bytes] = []

    async def on_stream(stream: Any) -> None:
        received.append(await collect(stream))

    async with listening().serving(handler) as listener:
        connection = connecting(listener)
        await connection.ready()
        await until(lambda: bool(listener._tasks))
        serving = asyncio.create_task(connection.inbound_streams(on_stream))
        late: list[asyncio.Task[None]] = []

        async def connect_late() -> None:
            async with connecting(listener) as other:
                with pytest.raises(ConnectionRefusedError):
                    await other.ready()
            leaving.set()

        asyncio.get_running_loop().call_soon(lambda: late.append(asyncio.create_task(connect_late())))
    await late[0]
    await serving
    assert finished == [True] and received == [b"goodbye"]
    assert connection.state is State.CANCELLED
    await connection.aclose()


async def test_handlers_that_do_not_end_are_cancelled() -> None:
    ended = asyncio.Event()

    async def handler(connection: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            connection.application_error = ApplicationError(8)
            ended.set()

    async with listening(parameters={"grace_period": 0.05}).serving(handler) as listener:
        connection = connecting(listener)
        await connection.ready()
        await until(lambda: bool(listener._tasks))
        await asyncio.sleep(0)
    assert ended.is_set()
    await until(lambda: connection.state is State.FAILED)
    assert connection.error is not None and connection.error.code == 8
    await connection.aclose()


async def test_handshakes_under_way_are_given_up() -> None:
    async def slow(*_: Any) -> bool:
        await asyncio.sleep(10)
        return True

    async with listening(parameters={"grace_period": 0.0}).serving(echo_streams) as listener:
        connection = NetworkConnection(listener.endpoint, client_of(certificate_validator=slow, trust=Trust.system()))
        waiting = asyncio.create_task(connection.ready())
        await until(lambda: bool(listener._tasks))
    with pytest.raises(NetworkError):
        await waiting
    await connection.aclose()


async def test_stopping_refuses_whose_validator_has_not_decided() -> None:
    """With a code of the transport, not with one of an application that has never seen the connection."""
    asked = asyncio.Event()

    async def never(*_: Any) -> bool:
        asked.set()
        await asyncio.Event().wait()
        return True

    options = {"peer_authentication": PeerAuthentication.REQUIRED, "certificate_validator": never}
    async with contextlib.AsyncExitStack() as stack:
        listener = await stack.enter_async_context(listening(**options).serving(echo_streams))
        connection = NetworkConnection(listener.endpoint, client_of(identity=CLIENT))
        stream = await connection.open_stream()
        await asked.wait()
        await stack.aclose()
        with pytest.raises(ConnectRefusedError, match="takes in no connection at present"):
            await stream.receive()
        await connection.aclose()


async def test_run_is_cancelled() -> None:
    listener = listening()
    running = asyncio.create_task(listener.run(echo_streams))
    await until(lambda: bool(listener.endpoints))
    async with connecting(listener) as connection:
        await echoed(connection)
        running.cancel()
        await asyncio.wait((running,))
        await until(lambda: connection.state.is_final)
    assert listener.state is ListenerState.CANCELLED


# Places


async def test_everywhere_and_answers_leave_from_the_address_that_was_spoken_to() -> None:
    seen: list[Any] = []

    async def handler(connection: Any) -> None:
        seen.append(connection.local_endpoint)
        await echo_streams(connection)

    async with listening(on=0).serving(handler) as listener:
        assert listener.endpoints == (HostPort("0.0.0.0", listener.port), HostPort("::", listener.port))
        for host in ("127.0.0.1", "127.0.0.5", "::1", "127.1.2.3"):
            async with NetworkConnection((host, listener.port), client_of()) as connection:
                await echoed(connection, bytes(50_000))
                assert connection.remote_endpoint == HostPort(host, listener.port) == seen[-1]


async def test_a_place_that_is_taken() -> None:
    async with listening().serving(echo_streams) as listener:
        with pytest.raises(ConnectError, match="in use"):
            await listening(on=listener.endpoint).run(echo_streams)


def test_a_server_needs_an_identity() -> None:
    with pytest.raises(ValueError, match="needs a certificate and a key"):
        listening(identity=None)
