"""QUIC with ngtcp2, by the client and the server that come with it. They speak HTTP/3 on it, and can lose packets themselves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tieline import QUIC, ConnectionAbortedByPeerError, HostPort, NetworkConnection, NetworkListener, Parameters, State, TLSError
from tieline.protocols.security import PeerAuthentication

from ..authority import CLIENT, LOCALHOST, OTHER_NAME, TRUST, save
from ..peers import free_port
from .http3 import H3_NO_ERROR, requested, requested_early, serve_http3, start_http3
from .payload import digest
from .programs import Program, running
from .test_quic_peers import THOROUGH

Find = Callable[[str], str]
BODY = random.Random(7).randbytes(3_000_000)
SIZE = 100_000_000 if THOROUGH else 3_000_000


# Their client


class Ours:
    """Our listener, which answers with `BODY`, or with what was sent to it."""

    def __init__(self) -> None:
        self.connections: list[NetworkConnection[QUIC]] = []
        self.resumed: list[tuple[bool, bool]] = []
        self.certificates: list[Any] = []
        self.addresses: set[Any] = set()  # of clients
        self.body = BODY

    async def handle(self, connection: NetworkConnection[QUIC]) -> None:
        self.connections.append(connection)
        metadata = connection.security_metadata
        self.resumed.append((metadata.resumed, bool(metadata.early_data_accepted)))
        self.certificates += metadata.peer_certificates[:1]
        watching = asyncio.create_task(self._watch(connection))
        try:
            await serve_http3(connection, lambda body: body or self.body)
        finally:
            watching.cancel()

    async def _watch(self, connection: Any) -> None:
        engine = connection._flow.session.connection
        while not connection.state.is_final:
            self.addresses.add(engine.remote_address)
            await asyncio.sleep(0.005)

    @asynccontextmanager
    async def listening(self, **options: Any) -> AsyncIterator[int]:
        using = QUIC(**{"alpn": ["h3"], "identity": LOCALHOST, **options})
        async with NetworkListener(using, on=HostPort("127.0.0.1", 0)).serving(self.handle) as listener:
            yield listener.port


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def fetch(peer: Find, port: int, folder: Path, *options: str, count: int = 1) -> list[bytes]:
    """Let gtlsclient make so many requests; returns the bodies that it got."""
    base = f"https://localhost:{port}"
    common = ("-q", "--exit-on-all-streams-close", "--sni=localhost", f"--download={made(folder)}", "--timeout=10s")
    places = [f"{base}/{n}" for n in range(count)]
    async with running(peer("gtlsclient"), *common, *options, "127.0.0.1", str(port), *places) as program:
        said = await program.rest()
        assert await program.ended() == 0, (said, program.errors)
    return [(folder / str(n)).read_bytes() for n in range(count)]


CLIENTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "as it is": ({}, []),
    "Retry": ({"retry_above": 0}, []),
    "version negotiation": ({}, ["--version=0x1a2a3a4a", "--preferred-versions=v1"]),
    "ChaCha20": ({}, ["--ciphers=NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+CHACHA20-POLY1305"]),
    "P-384": ({}, ["--groups=-GROUP-ALL:+GROUP-SECP384R1"]),
    "key update": ({}, ["--key-update=1ms"]),
    "another address": ({}, ["--change-local-addr=30ms"]),
    "no connection IDs": ({}, ["--scid="]),
    "1 % loss": ({}, ["--tx-loss=0.01", "--rx-loss=0.01"]),
    "5 % loss": ({}, ["--tx-loss=0.05", "--rx-loss=0.05"]),
    "small windows": (
        {"initial_max_data": 5000, "initial_max_stream_data": 2000},
        ["--max-data=20K", "--max-stream-data-bidi-local=5K"],
    ),
}


@pytest.mark.parametrize("kind", CLIENTS)
async def test_their_client(peer: Find, tmp_path: Path, kind: str) -> None:
    """Several downloads at once, and an upload, are the same at the other end."""
    ours_options, theirs = CLIENTS[kind]
    upload = tmp_path / "upload"
    upload.write_bytes(BODY[:1_000_000])
    ours = Ours()
    async with ours.listening(**ours_options) as port:
        for got in await fetch(peer, port, tmp_path / "down", *theirs, count=3):
            assert digest(got) == digest(BODY)
        (got,) = await fetch(peer, port, tmp_path / "echo", *theirs, f"--data={upload}", "--http-method=POST")
        assert digest(got) == digest(BODY[:1_000_000])
        if "loss" not in kind:  # what they say last may be lost
            for connection in ours.connections:
                assert connection.application_error.code == H3_NO_ERROR
        assert len(ours.addresses) >= (3 if kind == "another address" else 2)  # the upload may be over before


async def test_their_nat_forgets(peer: Find, tmp_path: Path) -> None:
    """While it sends. One that only receives has nothing to say from the new address that moves a connection: its client
    repeats a NEW_CONNECTION_ID there, which is probing (RFC 9000 section 9.1)."""
    upload = tmp_path / "upload"
    upload.write_bytes(BODY)
    ours = Ours()
    options = ["--change-local-addr=5ms", "--nat-rebinding", f"--data={upload}", "--http-method=POST"]
    async with ours.listening() as port:
        (got,) = await fetch(peer, port, tmp_path / "echo", *options)
    assert digest(got) == digest(BODY) and len(ours.addresses) == 2


async def test_many_requests(peer: Find, tmp_path: Path) -> None:
    ours = Ours()
    ours.body = BODY[:2000]
    async with ours.listening(initial_max_bidirectional_streams=10) as port:
        assert await fetch(peer, port, tmp_path / "down", count=150) == [BODY[:2000]] * 150


async def test_their_client_comes_back(peer: Find, tmp_path: Path) -> None:
    """With a ticket, with early data, and with a token for its address."""
    ours = Ours()
    ours.body = b"small"
    kept = [
        f"--session-file={tmp_path / 'session'}",
        f"--tp-file={tmp_path / 'parameters'}",
        f"--token-file={tmp_path / 'token'}",
    ]
    async with ours.listening(early_data=True) as port:
        for n in range(3):
            assert await fetch(peer, port, tmp_path / f"{n}", *kept) == [b"small"]
    assert ours.resumed == [(False, False), (True, True), (True, True)]
    assert (tmp_path / "token").exists()


async def test_early_data_that_we_do_not_want(peer: Find, tmp_path: Path) -> None:
    """Their client says it again after the handshake."""
    ours = Ours()
    ours.body = b"small"
    kept = [f"--session-file={tmp_path / 'session'}", f"--tp-file={tmp_path / 'parameters'}"]
    async with ours.listening(early_data=True) as port:
        assert await fetch(peer, port, tmp_path / "0", *kept) == [b"small"]
    async with ours.listening() as port:
        assert await fetch(peer, port, tmp_path / "1", *kept) == [b"small"]
    assert ours.resumed == [(False, False), (False, False)]


async def test_their_certificate(peer: Find, tmp_path: Path) -> None:
    certificate, key = save(tmp_path, "client", CLIENT)
    ours = Ours()
    async with ours.listening(peer_authentication=PeerAuthentication.REQUIRED, trust=TRUST) as port:
        (got,) = await fetch(peer, port, tmp_path / "down", f"--cert={certificate}", f"--key={key}")
        assert got == BODY
        assert ours.certificates == [CLIENT.certificate]


@pytest.mark.timeout(120 if THOROUGH else 60)
@pytest.mark.parametrize("loss", ["0.01", "0.05"])
async def test_a_large_download_with_loss(peer: Find, tmp_path: Path, loss: str) -> None:
    ours = Ours()
    ours.body = random.Random(8).randbytes(SIZE)
    async with ours.listening() as port:
        (got,) = await fetch(peer, port, tmp_path / "down", f"--tx-loss={loss}", f"--rx-loss={loss}")
    assert digest(got) == digest(ours.body)


# Their server


@asynccontextmanager
async def theirs(peer: Find, folder: Path, *options: str, identity: Any = LOCALHOST) -> AsyncIterator[tuple[int, Program]]:
    """gtlsserver, which has a file ``body``."""
    certificate, key = save(folder, "server", identity)
    (folder / "www").mkdir(exist_ok=True)
    (folder / "www" / "body").write_bytes(BODY)
    port = free_port()
    command = (peer("gtlsserver"), "-q", "-d", folder / "www", *options, "127.0.0.1", str(port), key, certificate)
    async with running(*map(str, command)) as program:
        yield port, program


def to(port: int, **options: Any) -> NetworkConnection[QUIC]:
    using = QUIC(**{"alpn": ["h3"], "trust": TRUST, "server_name": "localhost", **options})
    return NetworkConnection(HostPort("127.0.0.1", port), Parameters(using, fast_open_allowed=using.early_data))


async def connected(port: int, program: Program, **options: Any) -> NetworkConnection[QUIC]:
    """A connection to it, as soon as it is up."""
    while program.process.poll() is None:
        connection = to(port, **options).start()
        try:
            await connection.ready()
        except ConnectionRefusedError:
            connection.abort()
            await asyncio.sleep(0.01)
        except BaseException:
            connection.abort()
            raise
        else:
            return connection
    raise AssertionError(f"the server has ended: {program.errors}")


SERVERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "as it is": ({}, []),
    "Retry": ({}, ["--validate-addr"]),
    "ChaCha20": ({"cipher_suites": ["TLS_CHACHA20_POLY1305_SHA256"]}, []),
    "a client certificate": ({"identity": CLIENT}, ["--verify-client"]),
    "1 % loss": ({}, ["--tx-loss=0.01", "--rx-loss=0.01"]),
    "5 % loss": ({}, ["--tx-loss=0.05", "--rx-loss=0.05"]),
    "small windows": ({"initial_max_data": 5000, "initial_max_stream_data": 2000}, ["--max-data=20K"]),
}


@pytest.mark.parametrize("kind", SERVERS)
async def test_their_server(peer: Find, tmp_path: Path, kind: str) -> None:
    ours, options = SERVERS[kind]
    async with theirs(peer, tmp_path, *options) as (port, program), await connected(port, program, **ours) as connection:
        control = await start_http3(connection)
        results = await asyncio.gather(*(requested(connection, "/body") for _ in range(3)))
        assert [digest(one) for one in results] == [digest(BODY)] * 3
        await requested(connection, "/body", BODY[:1_000_000])  # it answers with a page of its own
        del control


async def test_our_client_updates_keys_and_moves(peer: Find, tmp_path: Path) -> None:
    async with theirs(peer, tmp_path) as (port, program), await connected(port, program) as connection:
        control = await start_http3(connection)
        for _ in range(3):
            transfer = asyncio.create_task(requested(connection, "/body"))
            await asyncio.sleep(0.005)
            connection.update_keys()
            assert digest(await transfer) == digest(BODY)
            before = connection.local_endpoint
            transfer = asyncio.create_task(requested(connection, "/body"))
            await asyncio.sleep(0.005)
            await connection.migrate()
            assert digest(await transfer) == digest(BODY)
            assert connection.local_endpoint != before
        del control


async def test_our_client_comes_back(peer: Find, tmp_path: Path) -> None:
    async with theirs(peer, tmp_path) as (port, program):
        for resumed in (False, True, True):
            async with await connected(port, program) as connection:
                assert connection.security_metadata.resumed is resumed
                control = await start_http3(connection)
                assert digest(await requested(connection, "/body")) == digest(BODY)
                del control


EARLY: dict[str, list[str]] = {
    "as it is": [],
    "Retry": ["--validate-addr"],
    "5 % loss": ["--tx-loss=0.05", "--rx-loss=0.05"],
}


@pytest.mark.parametrize("kind", EARLY)
async def test_our_client_speaks_early(peer: Find, tmp_path: Path, kind: str) -> None:
    """The requests are in the first flight."""
    ours = {"early_data": True, "alpn": ["h3", kind]}  # so that no other server's tickets are tried
    async with theirs(peer, tmp_path, *EARLY[kind]) as (port, program):
        await visited(port, program, **ours)
        accepted = False
        for _ in range(4):  # rustls knows a ticket's age in seconds only, and GnuTLS refuses one that seems to be from the future
            async with to(port, **ours) as connection:
                for body in await requested_early(connection, "/body", "/body"):
                    assert digest(body) == digest(BODY)
                accepted |= connection.security_metadata.early_data_accepted
        assert accepted


async def visited(port: int, program: Program, **options: Any) -> None:
    """We were there before, and have tickets."""
    async with await connected(port, program, **options) as connection:
        control = await start_http3(connection)
        assert digest(await requested(connection, "/body")) == digest(BODY)
        del control


async def test_our_client_speaks_early_and_is_asked_for_another_group(peer: Find, tmp_path: Path) -> None:
    """A HelloRetryRequest refuses early data (RFC 8446 section 4.2.10), so what was in the first flight comes again."""
    ours = {"early_data": True, "alpn": ["h3", "HelloRetryRequest"]}
    async with theirs(peer, tmp_path) as (port, program):
        await visited(port, program, **ours)
    async with theirs(peer, tmp_path, "--groups=-GROUP-ALL:+GROUP-SECP384R1") as (port, program):
        (await connected(port, program)).abort()  # it is up
        async with to(port, **ours) as connection:
            for body in await requested_early(connection, "/body", "/body"):
                assert digest(body) == digest(BODY)
            assert connection.security_metadata.group == "secp384r1"
            assert not connection.security_metadata.early_data_accepted


async def test_our_client_refuses(peer: Find, tmp_path: Path) -> None:
    async with theirs(peer, tmp_path, identity=OTHER_NAME) as (port, program):
        with pytest.raises(TLSError, match="the peer's certificate is for another name"):
            await connected(port, program)
    (tmp_path / "b").mkdir()
    async with theirs(peer, tmp_path / "b") as (port, program):
        with pytest.raises(TLSError) as caught:
            await connected(port, program, alpn=["other"])
        assert caught.value.alert == "no_application_protocol"


async def test_their_server_breaks_off(peer: Find, tmp_path: Path) -> None:
    """A stream that HTTP/3 does not allow is its error, with its code."""
    async with theirs(peer, tmp_path) as (port, program), await connected(port, program) as connection:
        first, second = await start_http3(connection), await start_http3(connection)
        with pytest.raises(ConnectionAbortedByPeerError) as caught:
            await asyncio.gather(*(requested(connection, "/body") for _ in range(10)))
        assert caught.value.code == 0x103  # H3_STREAM_CREATION_ERROR
        assert connection.state is State.FAILED and connection.application_error.code == 0x103
        del first, second
