"""QUIC with other people's implementations in Python, in both roles."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tieline import (
    QUIC,
    ApplicationError,
    ConnectionAbortedByPeerError,
    Directionality,
    HostPort,
    NetworkConnection,
    NetworkListener,
    Parameters,
    PeerResetError,
    ProtocolViolationError,
    State,
    TLSError,
)
from tieline.errors import IdleTimeoutError
from tieline.protocols.security import PeerAuthentication

from ..authority import CLIENT, EXPIRED, LOCALHOST, OTHER_NAME, STRANGER, TRUST, save
from .payload import digest
from .quic_libraries import ALPN, LIBRARIES, Library, connected, connecting, serving

THOROUGH = settings().max_examples > 1000
SIZE = 100_000_000 if THOROUGH else 5_000_000
MEGABYTE = random.Random(5).randbytes(1_000_000)
LOCAL = HostPort("127.0.0.1", 0)
BAD_CERTIFICATE, UNKNOWN_CA, CERTIFICATE_REQUIRED, NO_APPLICATION_PROTOCOL = 42, 48, 116, 120
CRYPTO_ERROR = 0x100  # RFC 9001 section 4.8: and the alert


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Library:
    return LIBRARIES[request.param]


# Our side


def client(**options: Any) -> QUIC:
    return QUIC(**{"alpn": [ALPN], "trust": TRUST, "server_name": "localhost", "max_datagram_frame_size": 65535, **options})


def server(**options: Any) -> QUIC:
    return QUIC(**{"alpn": [ALPN], "identity": LOCALHOST, "max_datagram_frame_size": 65535, **options})


async def everything(stream: Any) -> bytes:
    return b"".join([content async for content, _ in stream])


async def echo(stream: Any) -> None:
    """What comes goes back: on the stream itself, and for those of one direction on one of ours."""
    content = await everything(stream)
    if stream.directionality is Directionality.UNIDIRECTIONAL:
        stream = await stream.parent.open_stream(directionality=Directionality.UNIDIRECTIONAL)
    await stream.send(content, end_of_stream=True)


@asynccontextmanager
async def listening(handler: Callable[[Any], Awaitable[object]] = echo, **options: Any) -> AsyncIterator[Any]:
    """Our listener; its `connections` are what was handed out, and live until their peers end them."""
    connections: asyncio.Queue[NetworkConnection[QUIC]] = asyncio.Queue()

    async def handle(connection: NetworkConnection[QUIC]) -> None:
        connections.put_nowait(connection)
        await connection.inbound_streams(handler)

    listener: Any = NetworkListener(server(**options), on=LOCAL)
    listener.connections = connections
    async with listener.serving(handle):
        yield listener


def to(port: int, **options: Any) -> NetworkConnection[QUIC]:
    return NetworkConnection(HostPort("127.0.0.1", port), client(**options))


async def exchange(connection: NetworkConnection[QUIC], data: bytes) -> bytes:
    """Send it on a new stream, and receive what comes back up to the end."""
    stream = await connection.open_stream()
    received, _ = await asyncio.gather(everything(stream), stream.send(data, end_of_stream=True))
    return received


# Streams


async def test_listener_echoes(library: Library) -> None:
    """A megabyte on one stream, many streams side by side, and streams of one direction each way."""
    async with listening() as listener, connected(library, listener.port) as peer:
        many = {peer.open(MEGABYTE[: 200 * n], end=True): 200 * n for n in range(50)}
        stream = peer.open(MEGABYTE, end=True)
        assert digest(await peer.received(stream)) == digest(MEGABYTE)
        for stream, count in many.items():
            assert await peer.received(stream) == MEGABYTE[:count]
        peer.open(MEGABYTE[:50_000], end=True, unidirectional=True)
        assert await peer.received(3) == MEGABYTE[:50_000]
        connection = await listener.connections.get()
        assert connection.negotiated_alpn == ALPN
        assert connection.security_metadata.version == "TLSv1.3"


async def test_client_is_echoed(library: Library, tmp_path: Path) -> None:
    async with serving(library, tmp_path) as there, to(there.port) as connection:
        results = await asyncio.gather(
            exchange(connection, MEGABYTE), *(exchange(connection, MEGABYTE[: 200 * n]) for n in range(50))
        )
        assert digest(results[0]) == digest(MEGABYTE)
        assert results[1:] == [MEGABYTE[: 200 * n] for n in range(50)]
        assert connection.negotiated_alpn == ALPN
        assert connection.security_metadata.peer_certificates[0] == LOCALHOST.certificate

        stream = await connection.open_stream(directionality=Directionality.UNIDIRECTIONAL)
        await stream.send(MEGABYTE[:50_000], end_of_stream=True)
        assert await there.connection.received(stream.stream_id) == MEGABYTE[:50_000]

        arrived = asyncio.get_running_loop().create_future()

        async def take(stream: Any) -> None:
            arrived.set_result((stream.directionality, await everything(stream)))

        inbound = asyncio.create_task(connection.inbound_streams(take))
        await asyncio.sleep(0)
        there.connection.open(MEGABYTE[:50_000], end=True, unidirectional=True)
        assert await arrived == (Directionality.UNIDIRECTIONAL, MEGABYTE[:50_000])
        inbound.cancel()


async def test_more_streams_than_the_peer_allows(library: Library, tmp_path: Path) -> None:
    """Ours wait for their turn, and theirs are let in as ours end."""
    async with serving(library, tmp_path) as there, to(there.port) as connection:
        results = await asyncio.gather(*(exchange(connection, b"%d" % n) for n in range(300)))
        assert results == [b"%d" % n for n in range(300)]
        assert connection.remote_max_streams_bidirectional >= 300
    async with (
        listening(initial_max_bidirectional_streams=8) as listener,
        connected(library, listener.port) as peer,
    ):
        streams = [await peer.open_when_allowed(b"%d" % n) for n in range(100)]
        assert [await peer.received(stream) for stream in streams] == [b"%d" % n for n in range(100)]


async def test_half_close(library: Library, tmp_path: Path) -> None:
    """The end of one direction leaves the other one open, whoever comes first."""

    async def speak_first(stream: Any) -> None:
        await stream.receive(exactly=2)
        await stream.send(b"before the end", end_of_stream=True)
        content = await everything(stream)
        await (await stream.parent.open_stream(directionality=Directionality.UNIDIRECTIONAL)).send(content, end_of_stream=True)

    async with listening(speak_first) as listener, connected(library, listener.port) as peer:
        stream = peer.open(b"hi")
        assert await peer.received(stream) == b"before the end"
        peer.send(stream, b"after it", end=True)
        assert await peer.received(3) == b"after it"
    async with serving(library, tmp_path, echoes=False) as there, to(there.port) as connection:
        ours = await connection.open_stream()
        await ours.send(b"all", end_of_stream=True)
        assert await there.connection.received(ours.stream_id) == b"all"
        there.connection.send(ours.stream_id, b"later", end=True)
        assert await everything(ours) == b"later"


async def send_for_ever(stream: Any) -> None:
    while True:
        await stream.send(bytes(1000))
        await asyncio.sleep(0)


@pytest.mark.parametrize("code", [0, 77, 2**62 - 1])
async def test_resets_and_refusals_have_codes(library: Library, tmp_path: Path, code: int) -> None:
    async with serving(library, tmp_path, echoes=False) as there, to(there.port) as connection:
        reset, stopping, theirs, stopped = [await connection.open_stream() for _ in range(4)]
        for stream in (reset, stopping, theirs, stopped):
            await stream.send(b"x")
        peer = await there.wait_for(lambda: there.connections and len(there.connection.streams) == 4)
        await reset.reset(code)
        event = await peer.event("StreamReset")
        assert (event.stream_id, event.error_code) == (reset.stream_id, code)

        stopping.stop_sending(code)
        event = await peer.event("StopSendingReceived")
        assert (event.stream_id, event.error_code) == (stopping.stream_id, code)

        peer.reset(theirs.stream_id, code)
        with pytest.raises(PeerResetError, match=f"the peer reset the stream with code {code}") as caught:
            await theirs.receive()
        assert caught.value.code == code

        peer.stop(stopped.stream_id, code)
        with pytest.raises(PeerResetError, match=f"STOP_SENDING with code {code}") as caught:
            await send_for_ever(stopped)
        assert caught.value.code == code
        assert stopped.application_error_code == code


# Datagrams


async def test_datagrams(library: Library, tmp_path: Path) -> None:
    sizes = [0, 1, 500, 1100]
    async with serving(library, tmp_path) as there, to(there.port) as connection:
        datagrams = await connection.datagrams()
        assert connection.usable_datagram_frame_size > 1100
        for size in sizes:
            await datagrams.send(bytes(size))
            assert (await there.connection.event("DatagramFrameReceived")).data == bytes(size)
            there.connection.datagram(bytes(size))
            assert (await datagrams.receive()).content == bytes(size)
    async with listening() as listener, connected(library, listener.port) as peer:
        datagrams = await (await listener.connections.get()).datagrams()
        for size in sizes:
            peer.datagram(bytes(size))
            assert (await datagrams.receive()).content == bytes(size)
            await datagrams.send(bytes(size))
            assert (await peer.event("DatagramFrameReceived")).data == bytes(size)


async def test_a_peer_without_datagrams(library: Library, tmp_path: Path) -> None:
    async with serving(library, tmp_path, max_datagram_frame_size=None) as there, to(there.port) as connection:
        with pytest.raises(RuntimeError, match="the peer accepts no datagrams"):
            await connection.datagrams()
        assert connection.usable_datagram_frame_size == 0


# Ends


async def test_we_close_with_code_and_reason(library: Library, tmp_path: Path) -> None:
    async with serving(library, tmp_path) as there:
        async with to(there.port) as connection:
            assert await exchange(connection, b"x") == b"x"
            connection.application_error = ApplicationError(99, "enough, merci à tous")
        event = await there.connection.event("ConnectionTerminated")
        assert (event.error_code, event.reason_phrase) == (99, "enough, merci à tous") and event.frame_type is None

    async def leave(connection: NetworkConnection[QUIC]) -> None:
        connection.application_error = ApplicationError(2**62 - 1, "bye")

    async with (
        NetworkListener(server(), on=LOCAL).serving(leave) as listener,
        connected(library, listener.port) as peer,
    ):
        event = await peer.event("ConnectionTerminated")
        assert (event.error_code, event.reason_phrase) == (2**62 - 1, "bye")


@pytest.mark.parametrize("code", [0, 1234])
async def test_they_close_with_code_and_reason(library: Library, tmp_path: Path, code: int) -> None:
    async with serving(library, tmp_path, echoes=False) as there, to(there.port) as connection:
        stream = await connection.open_stream()
        await stream.send(b"x")
        await there.wait_for(lambda: there.connections and there.connection.streams)
        receiving = asyncio.create_task(stream.receive())
        await asyncio.sleep(0)
        there.connection.end(code, "not today")
        with pytest.raises(ConnectionAbortedByPeerError, match=f"closed the connection with code {code}: 'not today'") as caught:
            await receiving
        assert (caught.value.code, caught.value.reason) == (code, "not today")
        assert connection.application_error == ApplicationError(code, "not today")
        assert connection.state is (State.FAILED if code else State.CANCELLED)
    async with listening() as listener, connected(library, listener.port) as peer:
        ours = await listener.connections.get()
        peer.end(code, "not today")
        async with asyncio.timeout(5):
            while not ours.state.is_final:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert ours.application_error == ApplicationError(code, "not today")


async def test_idle_timeout(library: Library, tmp_path: Path) -> None:
    """The smaller one counts, whoever asked for it."""
    async with serving(library, tmp_path, idle_timeout=0.4) as there, to(there.port) as connection:
        assert await exchange(connection, b"x") == b"x"
        assert connection.remote_idle_timeout == pytest.approx(0.4)
        stream = await connection.open_stream()
        with pytest.raises(IdleTimeoutError):
            await stream.receive()
        assert isinstance(connection.error, IdleTimeoutError) and connection.state is State.FAILED
    async with listening(idle_timeout=0.4) as listener, connected(library, listener.port) as peer:
        event = await peer.event("ConnectionTerminated")
        assert "dle" in event.reason_phrase
        ours = await listener.connections.get()
        async with asyncio.timeout(5):
            while not ours.state.is_final:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert isinstance(ours.error, IdleTimeoutError)


async def test_keepalive_keeps_it(library: Library, tmp_path: Path) -> None:
    async with serving(library, tmp_path, idle_timeout=0.6) as there, to(there.port, keepalive=0.15) as connection:
        await connection.ready()
        await asyncio.sleep(1.3)  # silence is what it is about
        assert connection.state is State.READY
        connection.keepalive = None
        stream = await connection.open_stream()
        with pytest.raises(IdleTimeoutError):
            await stream.receive()


# The handshake


async def test_retry(library: Library, tmp_path: Path) -> None:
    async with listening(retry_above=0) as listener, connected(library, listener.port) as peer:
        assert peer._quic._retry_count == 1
        stream = peer.open(b"x", end=True)
        assert await peer.received(stream) == b"x"
    async with serving(library, tmp_path, retry=True) as there, to(there.port) as connection:
        assert await exchange(connection, MEGABYTE) == MEGABYTE
        assert there.connection._quic._retry_source_connection_id is not None
        assert len(there.connections) == 1


async def test_version_negotiation(library: Library) -> None:
    """A client that begins with a version that nobody knows is told ours."""
    unknown = 0x1A2A3A4A  # RFC 9000 section 15: reserved to be unknown
    async with (
        listening() as listener,
        connected(library, listener.port, original_version=unknown, supported_versions=[unknown, 1]) as peer,
    ):
        assert peer._quic._version == 1 and peer.was_told_versions
        stream = peer.open(MEGABYTE, end=True)
        assert await peer.received(stream) == MEGABYTE


async def test_resumption_and_early_data_here(library: Library) -> None:
    """A client of theirs comes back with our ticket; the third time it speaks before the handshake."""
    tickets: list[Any] = []
    async with listening(early_data=True) as listener:
        async with connected(library, listener.port, tickets=tickets) as peer:
            assert not (await peer.event("HandshakeCompleted")).session_resumed
            await peer.received(peer.open(b"x", end=True))
            assert not (await listener.connections.get()).security_metadata.resumed
            await peer.until(lambda: tickets)
        async with connected(library, listener.port, tickets=tickets, session_ticket=tickets.pop(0)) as peer:
            assert (await peer.event("HandshakeCompleted")).session_resumed
            await peer.received(peer.open(b"x", end=True))
            assert (await listener.connections.get()).security_metadata.resumed
        async with connected(library, listener.port, session_ticket=tickets.pop(), early=b"early") as peer:
            assert (await peer.event("HandshakeCompleted")).early_data_accepted
            assert await peer.received(0) == b"early"
            metadata = (await listener.connections.get()).security_metadata
            assert metadata.resumed and metadata.early_data_accepted


async def test_early_data_is_refused_and_comes_again(library: Library) -> None:
    """Our listener does not want it: the client's handshake goes on, and what it said first comes after it."""
    tickets: list[Any] = []
    async with listening(early_data=True) as listener, connected(library, listener.port, tickets=tickets) as peer:
        await peer.until(lambda: tickets)
    async with listening() as listener, connected(library, listener.port, session_ticket=tickets[0], early=b"early") as peer:
        assert not (await peer.event("HandshakeCompleted")).early_data_accepted
        assert await peer.received(0) == b"early"


async def test_resumption_there(library: Library, tmp_path: Path) -> None:
    async with serving(library, tmp_path) as there:
        for resumed in (False, True, True):
            async with to(there.port, tickets=True) as connection:
                assert await exchange(connection, b"x") == b"x"
                assert connection.security_metadata.resumed is resumed
                assert (await there.connection.event("HandshakeCompleted")).session_resumed is resumed


def to_early(port: int, alpn: str) -> NetworkConnection[QUIC]:
    using = client(alpn=[alpn], early_data=True)
    return NetworkConnection(HostPort("127.0.0.1", port), Parameters(using, fast_open_allowed=True))


async def exchange_early(connection: NetworkConnection[QUIC], *contents: bytes) -> bool:
    """Open streams before ready, send all that is idempotent; what comes back is the same. Whether it went early."""
    streams = [await connection.open_stream() for _ in contents]
    for stream, content in zip(streams, contents, strict=True):
        stream.send_idempotent(content, end_of_stream=True)
    assert connection.state is State.PREPARING
    assert [await everything(stream) for stream in streams] == list(contents)
    return bool(connection.security_metadata.early_data_accepted)


@pytest.mark.parametrize("retry", [False, True])
async def test_early_data_there(library: Library, tmp_path: Path, retry: bool) -> None:
    """From the second time on we speak before the handshake; what does not fit in the first flight follows."""
    contents = b"small", b"", MEGABYTE[:50_000], b"another"
    alpn = f"early {library.name} {retry}"  # no other test's tickets
    async with serving(library, tmp_path, retry=retry, alpn_protocols=[alpn]) as there:
        for early in (False, True, True):
            async with to_early(there.port, alpn) as connection:
                assert await exchange_early(connection, *contents) is early
                assert (await there.connection.event("HandshakeCompleted")).early_data_accepted is early


async def test_early_data_is_refused_there(library: Library, tmp_path: Path) -> None:
    """It has forgotten its tickets: everything is said again, on the same streams, and nobody notices."""
    alpn = f"refused {library.name}"
    async with serving(library, tmp_path, alpn_protocols=[alpn]) as there:
        async with to_early(there.port, alpn) as connection:
            await exchange_early(connection, b"x")
        there.tickets.clear()
        async with to_early(there.port, alpn) as connection:
            contents = b"small", b"", MEGABYTE[:50_000], b"another"
            assert await exchange_early(connection, *contents) is False
            assert not (await there.connection.event("HandshakeCompleted")).session_resumed


async def test_a_server_breaks_its_promise(library: Library, tmp_path: Path) -> None:
    """It takes early data and allows less than its ticket did, which is an error (RFC 9000 section 7.4.1)."""
    if library.name == "qh3":
        pytest.skip("its machine in Rust does not offer less")
    alpn = "promise"
    async with serving(library, tmp_path, alpn_protocols=[alpn]) as there:
        async with to_early(there.port, alpn) as connection:
            await exchange_early(connection, b"x")
        there.configuration.max_stream_data //= 2
        connection = to_early(there.port, alpn)
        stream = await connection.open_stream()
        stream.send_idempotent(b"x", end_of_stream=True)
        with pytest.raises(ProtocolViolationError, match="0-RTT accepted with incompatible transport parameters"):
            await stream.receive()
        assert connection.state is State.FAILED and stream.state is State.FAILED


async def test_a_ticket_that_is_in_the_way(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses the first one, as rustls does after a HelloRetryRequest: we come again at once, without a ticket."""
    if library.name == "qh3":
        pytest.skip("its machine in Rust cannot be made to refuse")
    alpn = "in the way"
    async with serving(library, tmp_path, alpn_protocols=[alpn]) as there:
        async with to_early(there.port, alpn) as connection:
            await exchange_early(connection, b"x")
        handle, refused = library.tls.Context.handle_message, []

        def refuse(self: Any, *arguments: Any) -> None:
            if not self._is_client and not refused:
                refused.append(self)
                raise MissingExtension
            handle(self, *arguments)

        class MissingExtension(library.tls.Alert):  # type: ignore[name-defined,misc]
            description = 109

        monkeypatch.setattr(library.tls.Context, "handle_message", refuse)
        async with to_early(there.port, alpn) as connection:
            assert await exchange_early(connection, b"one", b"two") is False
            assert refused and not connection.security_metadata.resumed


async def test_key_updates(library: Library, tmp_path: Path) -> None:
    """From both sides in turn, in mid-transfer."""
    async with serving(library, tmp_path) as there, to(there.port) as connection:
        await exchange(connection, b"x")
        await check_key_updates(connection, there.connection, lambda data: exchange(connection, data))
    async with listening() as listener, connected(library, listener.port) as peer:
        ours = await listener.connections.get()
        await check_key_updates(ours, peer, lambda data: peer.received(peer.open(data, end=True)))


async def check_key_updates(ours: Any, peer: Any, echo: Callable[[bytes], Awaitable[bytes]]) -> None:
    for _ in range(2):  # quinn-proto changes keys of its own accord within its first thousand packets
        await echo(MEGABYTE)
    for _ in range(3):
        phase = peer.key_phase
        transfer = asyncio.create_task(echo(MEGABYTE))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        ours.update_keys()
        while peer.key_phase == phase:  # ours waits three probe timeouts after the last change (RFC 9001 section 6.5)
            assert await echo(b"x") == b"x"
        assert digest(await transfer) == digest(MEGABYTE)
        for _ in range(2):  # theirs must have an acknowledgement in the present phase before it begins the next one
            assert await echo(b"x") == b"x"
        peer.update_keys()
        assert digest(await echo(MEGABYTE)) == digest(MEGABYTE)
        assert peer.key_phase == phase


# Addresses


async def test_a_nat_forgets_the_client(library: Library) -> None:
    """Their client's packets come from another port in mid-transfer: ours goes on there when it has validated it."""
    async with listening() as listener, connected(library, listener.port) as peer:
        stream = peer.open(MEGABYTE)
        await asyncio.sleep(0.02)
        await peer.move()
        peer.send(stream, MEGABYTE, end=True)
        assert digest(await peer.received(stream)) == digest(MEGABYTE * 2)
        peer._quic.change_connection_id()
        await peer.move()
        assert await peer.received(peer.open(b"again", end=True)) == b"again"


async def test_our_client_moves(library: Library, tmp_path: Path) -> None:
    async with serving(library, tmp_path) as there, to(there.port) as connection:
        assert await exchange(connection, b"before") == b"before"
        addresses = {there.connection.heard_from}
        for _ in range(2):
            transfer = asyncio.create_task(exchange(connection, MEGABYTE))
            await asyncio.sleep(0.02)
            await connection.migrate()
            assert digest(await transfer) == digest(MEGABYTE)
            local = connection.local_endpoint
            assert isinstance(local, HostPort) and local.port not in addresses
            addresses.add(local.port)
            assert there.connection.heard_from == local.port
        assert len(there.connections) == 1


# Security


async def test_client_certificates(library: Library, tmp_path: Path) -> None:
    certificate, key = save(tmp_path, "client", CLIENT)
    async with listening(peer_authentication=PeerAuthentication.REQUIRED, trust=TRUST) as listener:
        quic_options = library.configured(is_client=True)
        quic_options.load_cert_chain(str(certificate), str(key))
        own = {name: getattr(quic_options, name) for name in ("certificate", "certificate_chain", "private_key")}
        async with connected(library, listener.port, **own) as peer:
            assert await peer.received(peer.open(b"x", end=True)) == b"x"
            ours = await listener.connections.get()
            assert ours.security_metadata.peer_certificates[0] == CLIENT.certificate
    if library.name == "qh3":
        return  # its server cannot ask for one
    async with serving(library, tmp_path, asks_for_certificate=True) as there, to(there.port, identity=CLIENT) as connection:
        assert await exchange(connection, b"x") == b"x"
        assert there.connection._quic.tls._peer_certificate is not None


async def test_no_client_certificate(library: Library) -> None:
    """With TLS 1.3 the client hears of it after its handshake."""
    async with (
        listening(peer_authentication=PeerAuthentication.REQUIRED, trust=TRUST) as listener,
        connecting(library, listener.port) as peer,
    ):
        event = await peer.event("ConnectionTerminated")
        assert event.error_code == CRYPTO_ERROR + CERTIFICATE_REQUIRED
        assert listener.connections.empty()


async def test_no_common_application_protocol(library: Library, tmp_path: Path) -> None:
    async with listening() as listener, connecting(library, listener.port, alpn_protocols=["other"]) as peer:
        event = await peer.event("ConnectionTerminated")
        assert event.error_code == CRYPTO_ERROR + NO_APPLICATION_PROTOCOL
        assert listener.connections.empty()
    async with serving(library, tmp_path, alpn_protocols=["other"]) as there, to(there.port) as connection:
        with pytest.raises(TLSError) as caught:
            await connection.ready()
        if library.name == "aioquic":
            assert (caught.value.reason, caught.value.alert) == ("no_common_alpn", "no_application_protocol")
        else:  # its server gives no better reason
            assert (caught.value.reason, caught.value.alert) == ("alert_received", "handshake_failure")
        assert connection.state is State.FAILED


REFUSED: dict[str, tuple[Any, str, str, int]] = {
    "a stranger's": (STRANGER.identity("localhost"), "unknown_authority", "unknown_ca", 48),
    "expired": (EXPIRED, "expired", "certificate_expired", 45),
    "another name": (OTHER_NAME, "wrong_name", "bad_certificate", 42),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_server_certificates_are_refused(library: Library, tmp_path: Path, kind: str) -> None:
    """Whoever refuses says which alert, and the other side sees that one."""
    identity, reason, alert, number = REFUSED[kind]
    async with serving(library, tmp_path, identity=identity) as there, to(there.port) as connection:
        with pytest.raises(TLSError) as caught:
            await connection.ready()
        assert (caught.value.reason, caught.value.alert) == (reason, alert)
        peer = await there.wait_for(lambda: there.connections)
        assert (await peer.event("ConnectionTerminated")).error_code == CRYPTO_ERROR + number
    async with listening(identity=identity) as listener, connecting(library, listener.port) as peer:
        exact = library.name == "aioquic" and kind != "a stranger's"  # otherwise they say no more than that it is bad
        code = (await peer.event("ConnectionTerminated")).error_code
        assert code == CRYPTO_ERROR + (number if exact else BAD_CERTIFICATE)
        assert listener.connections.empty()


async def test_client_certificates_are_refused(library: Library, tmp_path: Path) -> None:
    """A stranger's: with TLS 1.3 the client hears of it after its handshake."""
    own = library.configured(is_client=True)
    own.load_cert_chain(*map(str, save(tmp_path, "client", STRANGER.identity("a client"))))
    own = {name: getattr(own, name) for name in ("certificate", "certificate_chain", "private_key")}
    async with (
        listening(peer_authentication=PeerAuthentication.REQUIRED, trust=TRUST) as listener,
        connecting(library, listener.port, **own) as peer,
    ):
        assert (await peer.event("ConnectionTerminated")).error_code == CRYPTO_ERROR + UNKNOWN_CA
        assert listener.connections.empty()


# A large transfer


@pytest.mark.timeout(120 if THOROUGH else 60)
async def test_large_transfers(library: Library, tmp_path: Path) -> None:
    """Compared by hash, each way."""
    data = random.Random(6).randbytes(SIZE)

    async def take(stream: Any) -> None:
        got = digest(await everything(stream))
        await stream.send(got.encode(), end_of_stream=True)

    async with listening(take) as listener, connected(library, listener.port) as peer:
        assert await peer.received(peer.open(data, end=True)) == digest(data).encode()
    async with serving(library, tmp_path, echoes=False) as there, to(there.port) as connection:
        stream = await connection.open_stream()
        await stream.send(b"please")
        peer = await there.wait_for(lambda: there.connections and there.connection.streams)
        peer.send(stream.stream_id, data, end=True)
        assert digest(await everything(stream)) == digest(data)
        stream = await connection.open_stream(directionality=Directionality.UNIDIRECTIONAL)
        await stream.send(data, end_of_stream=True)
        assert digest(await peer.received(stream.stream_id)) == digest(data)
