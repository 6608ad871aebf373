"""QUIC connections on real sockets: how they begin, what they know, and how they end."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tieline import (
    QUIC,
    ApplicationError,
    ChannelClosedError,
    CloseTimeoutError,
    ConnectError,
    ConnectionAbortedByPeerError,
    Directionality,
    EndOfStreamError,
    HandshakeTimeoutError,
    HostPort,
    IdleTimeoutError,
    NetworkConnection,
    NetworkError,
    NetworkListener,
    PeerAuthentication,
    State,
    TLSError,
    Trust,
    UnexpectedEndpointTypeError,
)
from tieline.drivers.asyncio import AsyncioDriver

from ..authority import CLIENT, EXPIRED, LOCALHOST, OTHER_NAME, STRANGER, TRUST
from ..peers import until
from ..quic import IDENTITY, client_of, collect, connected, echo_streams, gather, receive_for_ever, send_for_ever, server_of, take

ONE_WAY = Directionality.UNIDIRECTIONAL
numbers = itertools.count()
DATAGRAMS = {"max_datagram_frame_size": 65535}


async def forever(_: object) -> None:
    await asyncio.Event().wait()


async def idle(connection: Any) -> None:
    """Until the peer closes."""
    await connection.inbound_streams(forever)


# States and properties


async def test_states_in_their_order() -> None:
    async with NetworkListener(server_of(), on="127.0.0.1:0").serving(echo_streams) as listener:
        connection = NetworkConnection(listener.endpoint, client_of())
        seen: list[State] = []
        connection.on_state_update(lambda _, state: seen.append(state))
        updates = connection.state_updates()
        assert connection.state is State.SETUP
        async with connection:
            assert connection.state is State.PREPARING
            await connection.ready()
            assert connection.state is State.READY and connection.error is None
            assert connection.remote_endpoint == listener.endpoint and connection.local_endpoint.host == "127.0.0.1"
            assert connection.current_path is not None and connection.current_path.remote_endpoint == listener.endpoint
        assert connection.state is State.CANCELLED
        assert seen == [State.PREPARING, State.READY, State.CANCELLED] == [state async for state in updates]


KNOWN_WHEN_READY = (
    "negotiated_alpn", "remote_idle_timeout", "remote_max_streams_bidirectional", "remote_max_streams_unidirectional",
    "usable_datagram_frame_size", "security_metadata",
)  # fmt: skip


async def test_every_property_before_at_and_after_ready() -> None:
    serving: dict[str, Any] = {
        **DATAGRAMS, "idle_timeout": 17.0, "initial_max_bidirectional_streams": 11, "initial_max_unidirectional_streams": 13,
    }  # fmt: skip
    async with NetworkListener(server_of(**serving), on="127.0.0.1:0").serving(idle) as listener:
        connection = NetworkConnection(listener.endpoint, client_of(**DATAGRAMS, keepalive=7.0, alpn=["other", "test"]))
        for name in KNOWN_WHEN_READY:
            with pytest.raises(RuntimeError, match=f"{name} is not known: the connection is setup"):
                getattr(connection, name)
        for call in (connection.update_keys, connection.migrate):
            with pytest.raises(RuntimeError, match="is not known"):
                await call()
        assert connection.keepalive == 7.0 and connection.application_error == ApplicationError(0)
        assert connection.maximum_datagram_size == 0
        async with connection:
            await connection.ready()
            assert connection.negotiated_alpn == "test" and connection.remote_idle_timeout == 17.0
            assert connection.remote_max_streams_bidirectional == 11 and connection.remote_max_streams_unidirectional == 13
            assert 1000 < connection.usable_datagram_frame_size < 1500
            metadata = connection.security_metadata
            assert (metadata.version, metadata.negotiated_alpn, metadata.server_name) == ("TLSv1.3", "test", "localhost")
            assert metadata.peer_certificates == (IDENTITY.certificate,)
            assert connection.keepalive == 7.0
        assert connection.keepalive == 7.0 and connection.application_error == ApplicationError(0)
        for name in KNOWN_WHEN_READY:
            with pytest.raises(RuntimeError, match="is not known: the connection is cancelled"):
                getattr(connection, name)


async def test_both_sides_know_the_same() -> None:
    async with connected(client={"idle_timeout": 5.0}) as (client, server, _):
        assert server.remote_idle_timeout == 5.0 and client.remote_idle_timeout == 30.0
        assert server.negotiated_alpn == "test" and server.security_metadata.peer_certificates == ()
        assert server.local_endpoint == client.remote_endpoint and server.remote_endpoint == client.local_endpoint
        assert client.usable_datagram_frame_size == server.usable_datagram_frame_size == 0
        assert client.keepalive is None


async def test_no_idle_timeout() -> None:
    async with connected({"idle_timeout": None}) as (client, _, _):
        assert client.remote_idle_timeout is None


async def test_options_that_are_set_are_checked() -> None:
    connection = NetworkConnection("127.0.0.1:9", client_of())
    connection.application_error = ApplicationError(2**62 - 1, "text")
    for wrong in (7, None):
        with pytest.raises(TypeError, match="application_error must be an ApplicationError"):
            connection.application_error = wrong  # type: ignore[assignment]
    for wrong in (0, -1, "1"):
        with pytest.raises((ValueError, TypeError), match="keepalive"):
            connection.keepalive = wrong  # type: ignore[assignment]
    connection.keepalive = 3
    assert connection.keepalive == 3


async def test_keepalive_set_before_ready_holds() -> None:
    async with connected() as (_, _, listener), NetworkConnection(listener.endpoint, client_of(keepalive=5)) as connection:
        connection.keepalive = 9
        await connection.ready()
        assert connection.keepalive == connection._flow.session.connection.keepalive == 9
        connection.keepalive = None
        assert connection.keepalive is connection._flow.session.connection.keepalive is None


async def test_keepalive_at_run_time_keeps_a_connection_alive() -> None:
    async with connected(idle_timeout=0.4) as (client, server, _):
        server.keepalive = 0.1
        await asyncio.sleep(1)
        assert client.state is server.state is State.READY
        server.keepalive = None
        await until(lambda: client.state is server.state is State.FAILED)
        assert isinstance(client.error, IdleTimeoutError) and isinstance(server.error, IdleTimeoutError)


# The application's close


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("code", [0, 42])
async def test_an_application_close(side: str, code: int) -> None:
    async with connected(**DATAGRAMS) as (client, server, _):
        ours, theirs = (client, server) if side == "client" else (server, client)
        stream = await theirs.open_stream()
        await stream.send(b"x")
        datagrams = await theirs.datagrams()
        iterating = asyncio.create_task(datagram_count(datagrams))
        waiting = asyncio.create_task(datagrams.receive())
        serving = asyncio.create_task(theirs.inbound_streams(forever_until_lost))
        other = await ours.open_stream()
        await other.send(b"x")
        receiving = asyncio.create_task(stream.receive())
        sending = asyncio.create_task(send_for_ever(stream))
        await until(lambda: len(theirs._flow.session.streams) == 2)
        ours.application_error = ApplicationError(code, "because – so")
        await ours.aclose()
        assert await iterating == 0
        with pytest.raises(EndOfStreamError):
            await waiting
        await serving  # ends normally
        for task in (receiving, sending):
            with pytest.raises(ConnectionAbortedByPeerError, match=f"with code {code}: 'because – so'") as raised:
                await task
            assert (raised.value.code, raised.value.reason) == (code, "because – so")
        assert theirs.application_error == ApplicationError(code, "because – so")
        assert ours.state is State.CANCELLED and ours.error is None
        if code:
            assert theirs.state is State.FAILED and isinstance(theirs.error, ConnectionAbortedByPeerError)
            assert theirs.error.code == code
        else:
            assert theirs.state is State.CANCELLED and theirs.error is None
        for call in (theirs.open_stream, theirs.ready):
            with pytest.raises(ConnectionAbortedByPeerError, match="because – so"):
                await call()
        with pytest.raises(ConnectionAbortedByPeerError):
            await datagrams.send(b"x")
        with pytest.raises(EndOfStreamError):
            await datagrams.receive()
        with pytest.raises(ChannelClosedError):
            await ours.open_stream()
        await theirs.aclose()


async def datagram_count(datagrams: Any) -> int:
    return len([content async for content, _ in datagrams])


async def forever_until_lost(stream: Any) -> None:
    with pytest.raises(ConnectionAbortedByPeerError):
        await receive_for_ever(stream)


async def test_what_the_peer_said_last_is_what_closing_says() -> None:
    async with connected() as (client, server, _):
        client.application_error = ApplicationError(1, "mine")
        client.abort()
        await until(lambda: server.state is State.FAILED)
        assert server.application_error == ApplicationError(1, "mine")


# Closing gracefully


async def test_finished_streams_arrive_before_the_close() -> None:
    content = bytes(range(256)) * 400
    async with connected() as (client, server, _):
        received: list[bytes] = []

        async def handler(stream: Any) -> None:
            received.append(await collect(stream))

        serving = asyncio.create_task(server.inbound_streams(handler))
        for _ in range(100):
            stream = await client.open_stream(directionality=ONE_WAY)
            await stream.send(content, end_of_stream=True)
        client.application_error = ApplicationError(5)
        await client.aclose()
        await serving
        assert received == [content] * 100


async def test_a_slow_reader_is_waited_for_as_long_as_it_reads() -> None:
    """More than `close_timeout` in all, but never without progress for so long."""
    parameters = {"close_timeout": 0.3, "receive_limit": 1000}
    async with connected({"initial_max_stream_data": 20_000}, parameters=parameters) as (client, server, _):
        stream = await client.open_stream(directionality=ONE_WAY)
        await stream.send(bytes(250_000), end_of_stream=True)
        other, over = await take(server)
        began = asyncio.get_running_loop().time()
        closing = asyncio.create_task(client.aclose())
        received = 0
        while not (piece := await other.receive(at_most=25_000)).metadata.end_of_stream:
            received += len(piece.content)
            await asyncio.sleep(0.06)
        await closing
        assert received == 250_000 and asyncio.get_running_loop().time() - began > 0.5
        over.set()


async def test_a_reader_that_stands_still_is_given_up() -> None:
    async with connected({"initial_max_stream_data": 10_000}, parameters={"close_timeout": 0.2}) as (client, server, _):
        stream = await client.open_stream()
        await stream.send(bytes(200_000), end_of_stream=True)
        with pytest.raises(CloseTimeoutError, match=r"everything of 1 streams.*close_timeout=0\.2 s"):
            await client.aclose()
        assert client.state is State.CANCELLED
        await until(lambda: server.state is State.CANCELLED)


async def test_streams_that_were_not_ended_are_not_waited_for() -> None:
    async with connected({"initial_max_stream_data": 10_000}) as (client, _, _):
        stream = await client.open_stream()
        await stream.send(bytes(200_000))
        async with asyncio.timeout(1):
            await client.aclose()


async def test_a_peer_that_breaks_off_while_we_close() -> None:
    for code in (0, 9):
        async with connected({"initial_max_stream_data": 10_000}) as (client, server, _):
            stream = await client.open_stream()
            await stream.send(bytes(200_000), end_of_stream=True)
            closing = asyncio.create_task(client.aclose())
            await asyncio.sleep(0.02)
            assert not closing.done()
            with pytest.raises(ChannelClosedError):
                await client.open_stream()
            server.application_error = ApplicationError(code)
            server.abort()
            if code:
                with pytest.raises(ConnectionAbortedByPeerError):
                    await closing
            else:
                await closing  # it wants no more


async def test_a_cancelled_close_aborts() -> None:
    async with connected({"initial_max_stream_data": 10_000}) as (client, server, _):
        stream = await client.open_stream()
        await stream.send(bytes(200_000), end_of_stream=True)
        closing = asyncio.create_task(client.aclose())
        await asyncio.sleep(0.02)
        again = asyncio.create_task(client.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await again
        assert client.state is State.CANCELLED and closing.cancelled()
        await until(lambda: server.state.is_final)


async def test_closing_twice_and_early() -> None:
    async with connected() as (client, _, listener):
        await client.aclose()
        await client.aclose()
        client.abort()
        assert client.state is State.CANCELLED
        early = NetworkConnection(listener.endpoint, client_of())
        await early.aclose()
        assert early.state is State.CANCELLED
        with pytest.raises(ChannelClosedError):
            await early.open_stream()


async def test_closing_while_handshaking() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        for how in ("close", "abort"):
            connection = NetworkConnection(("127.0.0.1", silent.getsockname()[1]), client_of())
            waiting = [asyncio.create_task(call()) for call in (connection.ready, connection.open_stream)]
            await asyncio.sleep(0.01)
            assert connection.state is State.PREPARING
            if how == "close":
                await connection.aclose()
            else:
                connection.abort()
            for task in waiting:
                with pytest.raises(ChannelClosedError):
                    await task
            assert connection.state is State.CANCELLED


async def test_cancelling_ready_goes_on_establishing() -> None:
    async with NetworkListener(server_of(), on="127.0.0.1:0").serving(idle) as listener:
        connection = NetworkConnection(listener.endpoint, client_of())
        waiting = asyncio.create_task(connection.ready())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait((waiting,))
        await until(lambda: connection.state is State.READY)
        await connection.aclose()


async def test_abort_tells_the_peer_at_once() -> None:
    async with connected() as (client, server, _):
        stream = await client.open_stream()
        await stream.send(bytes(1000), end_of_stream=True)
        client.application_error = ApplicationError(3, "enough")
        client.abort()
        await until(lambda: server.state is State.FAILED)
        assert server.error is not None and server.error.code == 3


async def test_leaving_by_an_exception_aborts() -> None:
    async with connected() as (_, server, listener):
        connection = NetworkConnection(listener.endpoint, client_of())
        with pytest.raises(KeyError):
            await raising(connection)
        assert connection.state is State.CANCELLED and server.state is State.READY


async def raising(connection: Any) -> None:
    async with connection:
        await connection.ready()
        raise KeyError


async def test_dropping_a_connection_warns_and_closes_it() -> None:
    async with connected() as (_, _, listener):
        connection: Any = NetworkConnection(listener.endpoint, client_of())
        stream = await connection.open_stream()
        await stream.send(b"x")
        del stream
        with pytest.warns(ResourceWarning, match=r"unclosed <NetworkConnection .* over QUIC, ready>"):  # noqa: PT031
            del connection
            gc.collect()


async def test_the_connection_lives_as_long_as_a_stream_is_held() -> None:
    async with NetworkListener(server_of(), on="127.0.0.1:0").serving(echo_streams) as listener:
        stream = await NetworkConnection(listener.endpoint, client_of()).open_stream()
        gc.collect()
        await stream.send(b"x", end_of_stream=True)
        assert await collect(stream) == b"x"
        await stream.parent.aclose()


# Silence


async def test_idle_timeout() -> None:
    async with connected(client={"idle_timeout": 0.3}) as (client, server, _):
        stream = await client.open_stream()
        await stream.send(b"x")
        serving = asyncio.create_task(server.inbound_streams(forever_until_idle))
        began = asyncio.get_running_loop().time()
        with pytest.raises(IdleTimeoutError, match="idle timeout") as raised:
            await stream.receive()
        assert isinstance(raised.value, TimeoutError) and 0.2 < asyncio.get_running_loop().time() - began < 2
        with pytest.raises(IdleTimeoutError):
            await serving
        assert client.state is server.state is State.FAILED
        with pytest.raises(IdleTimeoutError):
            await client.open_stream()
        await client.aclose()


async def forever_until_idle(stream: Any) -> None:
    with pytest.raises(IdleTimeoutError):
        await receive_for_ever(stream)


async def test_a_refused_port_is_quick() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    for host in ("127.0.0.1", "::1"):
        async with NetworkConnection((host, port), client_of()) as connection, asyncio.timeout(1):
            with pytest.raises(ConnectError, match="connection refused: nobody listens there") as raised:
                await connection.ready()
            assert isinstance(raised.value, ConnectionRefusedError) and len(raised.value.attempts) == 1
            assert connection.state is State.WAITING and connection.error is not None
            with pytest.raises(ConnectionRefusedError):
                await connection.open_stream()


async def test_silence_times_out() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        async with NetworkConnection(("127.0.0.1", silent.getsockname()[1]), client_of(handshake_timeout=0.2)) as connection:
            with pytest.raises(TimeoutError, match=r"handshake_timeout=0\.2 s") as raised:
                await connection.ready()
            assert isinstance(raised.value, ConnectError)
            [attempt] = raised.value.attempts
            assert isinstance(attempt.error, HandshakeTimeoutError) and attempt.phase.value == "handshake"


async def test_garbage_instead_of_a_server() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as garbage:
        garbage.bind(("127.0.0.1", 0))
        garbage.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.add_reader(garbage, lambda: garbage.sendto(bytes(100), garbage.recvfrom(2000)[1]))
        async with NetworkConnection(("127.0.0.1", garbage.getsockname()[1]), client_of(handshake_timeout=0.3)) as connection:
            with pytest.raises(TimeoutError):
                await connection.ready()
        loop.remove_reader(garbage)


async def test_addresses_race(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        async with NetworkListener(server_of(), on="127.0.0.1:0").serving(echo_streams) as listener:
            silent.bind(("127.0.0.2", listener.port))

            async def resolve(_: object, host: str, port: int, version: int) -> list[HostPort]:
                return [] if version == 6 else [HostPort("127.0.0.2", port), HostPort("127.0.0.1", port)]

            monkeypatch.setattr(AsyncioDriver, "resolve", resolve)
            async with NetworkConnection(("two.test", listener.port), client_of()) as connection:
                stream = await connection.open_stream()
                await stream.send(b"x", end_of_stream=True)
                assert await collect(stream) == b"x"
                assert connection.remote_endpoint == HostPort("127.0.0.1", listener.port)
                report = await connection.establishment_report()
                assert [one.protocol for one in report.handshakes] == ["QUIC"] and report.handshakes[0].rtt is not None
                assert report.duration >= 0.2 and report.resolutions[0].successful_endpoint == connection.remote_endpoint


async def test_try_next_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for streams goes on to wait; those that there were are over."""

    async def greet(connection: Any) -> None:
        with pytest.raises(RuntimeError, match="an accepted connection"):
            connection.try_next_endpoint()
        stream = await connection.open_stream(directionality=ONE_WAY)
        await stream.send(b"welcome", end_of_stream=True)
        await connection.inbound_streams(forever)

    async def resolve(_: object, host: str, port: int, version: int) -> list[HostPort]:
        return [] if version == 6 else [HostPort("127.0.0.1", port), HostPort("127.0.0.2", port)]

    received: list[bytes] = []

    async def handler(stream: Any) -> None:
        received.append(await collect(stream))

    monkeypatch.setattr(AsyncioDriver, "resolve", resolve)
    one = NetworkListener(server_of(initial_max_bidirectional_streams=1), on="127.0.0.1:0")
    async with one.serving(idle):
        other = NetworkListener(server_of(), on=("127.0.0.2", one.port))
        async with (
            other.serving(greet),
            NetworkConnection(("two.test", one.port), client_of()) as connection,
            gather(connection, handler),
        ):
            stream = await connection.open_stream()
            assert connection.remote_endpoint == one.endpoint
            opening = asyncio.create_task(connection.open_stream())
            await asyncio.sleep(0.01)
            connection.try_next_endpoint()
            with pytest.raises(ChannelClosedError):
                await stream.send(b"x")
            assert (await opening).stream_id == 0
            assert connection.remote_endpoint == other.endpoint
            await until(lambda: received == [b"welcome"])


# Security


async def refusal(client: QUIC, server: QUIC, *, after_ready: bool = False) -> tuple[Any, int]:
    """What the client is told, and how many handshakes the listener counts as failed."""
    async with NetworkListener(server, on="127.0.0.1:0").serving(echo_streams) as listener:
        connection = NetworkConnection(listener.endpoint, client)
        if after_ready:
            stream = await connection.open_stream()
        with pytest.raises(NetworkError) as raised:
            await (receive_for_ever(stream) if after_ready else connection.ready())
        assert connection.state is State.FAILED, raised.value
        assert type(connection.error) is type(raised.value)
        await until(lambda: listener.failed_handshake_count > 0)
        count = listener.failed_handshake_count
        await connection.aclose()
        return raised.value, count


@pytest.mark.parametrize(
    ("client", "server", "reason", "words"),
    [
        ({"alpn": ["other"]}, {}, "no_common_alpn", "no application protocol in common"),
        ({"trust": STRANGER.trust}, {}, "unknown_authority", "not signed by a known authority"),
        ({}, {"identity": EXPIRED}, "expired", "has expired"),
        ({}, {"identity": OTHER_NAME}, "wrong_name", "is for another name"),
        ({"trust": Trust.fingerprints("00" * 32)}, {}, "wrong_fingerprint", "not one of those pinned"),
        ({"trust": Trust.system(), "certificate_validator": lambda *_: False}, {}, "refused_by_validator", "refused"),
    ],
)
async def test_refused_by_the_client(client: dict[str, Any], server: dict[str, Any], reason: str, words: str) -> None:
    error, count = await refusal(client_of(**{"trust": TRUST, **client}), server_of(**{"identity": LOCALHOST, **server}))
    assert isinstance(error, TLSError) and error.reason == reason and words in str(error) and count == 1
    assert len(error.attempts) == 1


async def test_an_asynchronous_validator() -> None:
    asked: list[Any] = []

    async def validate(certificates: list[bytes], name: str) -> bool:
        asked.append((len(certificates), name))
        await asyncio.sleep(0.01)
        return verdict

    verdict = True
    client = client_of(trust=Trust.system(), certificate_validator=validate)
    async with NetworkListener(server_of(), on="127.0.0.1:0").serving(echo_streams) as listener:
        for _ in range(2):  # the second one is resumed, and asked about, too
            async with NetworkConnection(listener.endpoint, client) as connection:
                stream = await connection.open_stream()
                await stream.send(b"x", end_of_stream=True)
                assert await collect(stream) == b"x"
        assert asked == [(1, "localhost")] * 2
        verdict = False
        connection = NetworkConnection(listener.endpoint, client)
        with pytest.raises(TLSError, match="certificate_validator refused") as raised:
            await connection.ready()
        assert raised.value.reason == "refused_by_validator" and connection.state is State.FAILED
        await connection.aclose()


async def test_a_validator_that_raises_or_gives_nonsense() -> None:
    async def nonsense(*_: Any) -> Any:
        return "yes"

    async def failing(*_: Any) -> bool:
        raise ValueError("in the validator")

    def failing_at_once(*_: Any) -> bool:
        raise ValueError("in the validator")

    for validator, cause in ((nonsense, "gives a bool"), (failing, "in the validator"), (failing_at_once, "in the validator")):
        async with NetworkListener(server_of(), on="127.0.0.1:0").serving(idle) as listener:
            connection = NetworkConnection(listener.endpoint, client_of(trust=Trust.system(), certificate_validator=validator))
            with pytest.raises(TLSError, match="certificate_validator refused") as raised:
                await connection.ready()
            assert cause in str(raised.value.__cause__)
            await connection.aclose()


REQUIRED = {"peer_authentication": PeerAuthentication.REQUIRED, "trust": TRUST}


async def test_client_certificates() -> None:
    async with connected(REQUIRED, {"identity": CLIENT}) as (client, server, _):
        assert server.security_metadata.peer_certificates == (CLIENT.certificate,)
        assert client.negotiated_alpn == "test"
    async with connected({"peer_authentication": PeerAuthentication.OPTIONAL, "trust": TRUST}) as (_, server, _):
        assert server.security_metadata.peer_certificates == ()


@pytest.mark.parametrize(
    ("identity", "reason"), [(None, "certificate_required"), (STRANGER.identity("client"), "alert_received")]
)
async def test_refused_by_the_server(identity: Any, reason: str) -> None:
    """Which is told after ready: a client of TLS 1.3 is done first."""
    error, count = await refusal(client_of(identity=identity), server_of(**REQUIRED), after_ready=True)
    assert isinstance(error, TLSError) and error.reason == reason and count == 1
    assert "certificate" in str(error)


async def test_refused_by_the_servers_validator() -> None:
    async def refuse(*_: Any) -> bool:
        return False

    async with NetworkListener(
        server_of(peer_authentication=PeerAuthentication.REQUIRED, certificate_validator=refuse), on="127.0.0.1:0"
    ).serving(idle) as listener:
        connection = NetworkConnection(listener.endpoint, client_of(identity=CLIENT))
        stream = await connection.open_stream()
        with pytest.raises(TLSError, match="certificate") as refused:
            await stream.receive()
        assert refused.value.reason == "alert_received" and refused.value.alert == "bad_certificate"
        assert listener.failed_handshake_count == 1
        await connection.aclose()


async def test_sessions_are_resumed() -> None:
    alpn = [f"test {next(numbers)}"]  # equal options share their tickets, in other tests too
    client = client_of(alpn=alpn)
    async with NetworkListener(server_of(alpn=alpn), on="127.0.0.1:0").serving(echo_streams) as listener:
        for resumed in (False, True):
            async with NetworkConnection(listener.endpoint, client) as connection:
                stream = await connection.open_stream()
                await stream.send(b"x", end_of_stream=True)
                assert await collect(stream) == b"x"  # a ticket has come with that, or before
                assert connection.security_metadata.resumed is resumed
        async with NetworkConnection(listener.endpoint, client_of(alpn=alpn, tickets=False)) as connection:
            await connection.ready()
            assert connection.security_metadata.resumed is False


async def test_key_update() -> None:
    async with connected() as (client, server, _), gather(server, echo_all):
        for connection in (client, server, client):
            connection.update_keys()
            stream = await client.open_stream()
            await stream.send(bytes(100_000), end_of_stream=True)
            assert len(await collect(stream)) == 100_000


async def echo_all(stream: Any) -> None:
    await stream.send(await collect(stream), end_of_stream=True)


def test_logs(tmp_path: Path, loop_factory: Any) -> None:
    """The file of keys stays open, for connections to come with the same options."""
    keys, logs = tmp_path / "keys", tmp_path / "logs"
    logs.mkdir()

    async def main() -> None:
        options = {"keylog_file": keys, "qlog": tmp_path / "one.sqlog"}
        async with connected({"qlog": logs}, options) as (client, server, _), gather(server, echo_all):
            stream = await client.open_stream()
            await stream.send(b"x", end_of_stream=True)
            await collect(stream)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    gc.collect()
    labels = {line.split()[0] for line in keys.read_text().splitlines()}
    assert {"CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"} <= labels
    (of_the_server,) = logs.iterdir()
    for log in (tmp_path / "one.sqlog", of_the_server):
        records = [json.loads(record) for record in log.read_text().split("\x1e")[1:]]  # RFC 7464
        assert "qlog_version" in records[0] and any(one["name"] == "transport:packet_sent" for one in records[1:])


# Reports


async def test_reports() -> None:
    async with connected() as (client, server, _), gather(server, echo_all):
        establishment = await client.establishment_report()
        assert [one.protocol for one in establishment.handshakes] == ["QUIC"]
        assert establishment.duration > 0 and establishment.previous_attempt_count == 0
        assert [one.protocol for one in (await server.establishment_report()).handshakes] == ["QUIC"]
        pending = client.start_data_transfer_report()
        stream = await client.open_stream()
        await stream.send(bytes(50_000), end_of_stream=True)
        await collect(stream)
        for report in (await pending.collect(), await client.data_transfer_report()):
            path = report.aggregate
            assert path.sent_application_byte_count == path.received_application_byte_count == 50_000
            assert path.sent_transport_byte_count is not None and path.sent_transport_byte_count > 50_000
            assert path.received_transport_byte_count is not None and path.received_transport_byte_count > 50_000
            assert path.transport_smoothed_rtt is not None and 0 < path.transport_smoothed_rtt < 1
        before = await server.data_transfer_report()
        await client.aclose()
        await until(lambda: server.state is State.CANCELLED)
        for connection in (client, server):
            after = (await connection.data_transfer_report()).aggregate
            assert after.sent_application_byte_count == after.received_application_byte_count == 50_000
            assert (after.sent_transport_byte_count or 0) > 50_000
        assert before.duration > 0


# Moving


async def test_migrating_to_another_port_and_address() -> None:
    async with connected() as (client, server, _), gather(server, echo_all):
        paths: list[Any] = []
        client.on_path_update(lambda _, path: paths.append(path.local_endpoint))
        moves: list[Any] = []
        server.on_path_update(lambda _, path: moves.append(path.remote_endpoint))
        for local in (None, "127.0.0.9:0", ("127.0.0.1", 0)):
            before = client.local_endpoint
            stream = await client.open_stream()
            await stream.send(bytes(30_000))
            await client.migrate(local)
            assert client.local_endpoint != before
            await stream.send(bytes(30_000), end_of_stream=True)
            assert len(await collect(stream)) == 60_000
            await until(lambda: server.remote_endpoint == client.local_endpoint)
        assert len(paths) == len(moves) == 3 and paths == moves and paths[1].host == "127.0.0.9"


async def test_migrations_that_cannot_be() -> None:
    async with connected() as (client, server, _), gather(server, echo_all):
        before = client.local_endpoint
        with pytest.raises(RuntimeError, match="only the side that connected"):
            await server.migrate()
        with pytest.raises(OSError, match=r"assign|available"):
            await client.migrate("203.0.113.7:0")
        with pytest.raises(ValueError, match="IPv6"):
            await client.migrate("[::1]:0")
        with pytest.raises(UnexpectedEndpointTypeError, match="address of this machine"):
            await client.migrate("localhost:0")
        assert client.local_endpoint == before
        stream = await client.open_stream()
        await stream.send(b"x", end_of_stream=True)
        assert await collect(stream) == b"x"
