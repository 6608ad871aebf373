"""TLS with `openssl s_server` and `openssl s_client`: data, certificates of every kind, resumption, early data, groups."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tieline import (
    TLS,
    HostPort,
    Identity,
    NetworkConnection,
    NetworkListener,
    Parameters,
    PeerAuthentication,
    TLSError,
    TLSVersion,
    Trust,
)

from ..authority import CLIENT, EXPIRED, FUTURE, LOCALHOST, OTHER_NAME, ROOT, RSA, STRANGER, TRUST, save
from .payload import FROM_CLIENT, FROM_SERVER, SIZE, digest, receive_payload
from .programs import Program, running

VERSIONS = {"TLSv1.2": "-tls1_2", "TLSv1.3": "-tls1_3"}
ONLY = {"TLSv1.2": TLSVersion.TLSv1_2, "TLSv1.3": TLSVersion.TLSv1_3}
FROM_STRANGER = STRANGER.identity("localhost")

both_versions = pytest.mark.parametrize("version", VERSIONS)


class OpenSSL:
    """The command, with the test authority's files at hand."""

    def __init__(self, command: str, folder: Path) -> None:
        self._command = command
        self._folder = folder
        self.root = folder / "root.crt"
        self.root.write_text(ROOT.pem)
        version = subprocess.run([command, "version"], capture_output=True, text=True, check=True).stdout
        major, minor = re.findall(r"OpenSSL (\d+)\.(\d+)", version)[0]
        self.version = int(major), int(minor)

    def identity(self, name: str, identity: Identity) -> list[str | Path]:
        certificate, key = save(self._folder, name, identity)
        return ["-cert", certificate, "-key", key]

    @asynccontextmanager
    async def server(self, identity: Identity, *options: str | Path) -> AsyncIterator[tuple[Program, HostPort]]:
        """`s_server` on a free port, listening."""
        command = [self._command, "s_server", "-accept", "127.0.0.1:0", *self.identity("server", identity), *options]
        async with running(*command) as program:
            found = await program.expect(rb"ACCEPT 127\.0\.0\.1:(\d+)")
            yield program, HostPort("127.0.0.1", int(found[1]))

    def client(self, to: Any, *options: str | Path) -> Any:
        """`s_client`, which must be able to verify localhost. What it reports goes to its standard error."""
        checks = ("-verify_return_error", "-verify_hostname", "localhost", "-servername", "localhost")
        command = (self._command, "s_client", "-brief", "-connect", str(to), "-CAfile", self.root, *checks)
        return running(*command, *options)


@pytest.fixture
def openssl(peer: Callable[[str], str], tmp_path: Path) -> OpenSSL:
    return OpenSSL(peer("openssl"), tmp_path)


def trusting(**options: Any) -> TLS:
    return TLS(trust=TRUST, server_name="localhost", **options)


# Our client


@both_versions
@pytest.mark.parametrize("identity", [LOCALHOST, RSA], ids=["ecdsa", "rsa"])
async def test_client_moves_data_both_ways(openssl: OpenSSL, identity: Identity, version: str) -> None:
    async with openssl.server(identity, VERSIONS[version], "-alpn", "two,one", "-naccept", "1") as (server, there):
        async with NetworkConnection(there, trusting(alpn=["one", "two"])) as connection:
            printed, received, *_ = await asyncio.gather(
                server.take_data(SIZE),
                receive_payload(connection, len(FROM_SERVER)),
                server.send(FROM_SERVER),
                connection.send(FROM_CLIENT),
            )
            assert digest(printed) == digest(FROM_CLIENT) and digest(received) == digest(FROM_SERVER)
            session = connection.metadata(TLS)
            assert (session.version, session.negotiated_alpn, session.resumed) == (version, "two", False)
            assert session.peer_certificates == identity.certificate_chain and session.server_name == "localhost"
            await connection.send(b"", end_of_stream=True)
            assert (await connection.receive()).metadata.end_of_stream  # s_server answers close_notify with its own
        assert await server.ended() == 0


@both_versions
async def test_client_gets_early_alpn_refusal(openssl: OpenSSL, version: str) -> None:
    async with (
        openssl.server(LOCALHOST, VERSIONS[version], "-alpn", "two") as (_, there),
        NetworkConnection(there, trusting(alpn=["one"])) as connection,
    ):
        with pytest.raises(TLSError) as caught:
            await connection.ready()
    assert (caught.value.reason, caught.value.alert) == ("no_common_alpn", "no_application_protocol")


async def test_group_falls_back_to_what_openssl_knows(openssl: OpenSSL) -> None:
    """OpenSSL has X25519MLKEM768 since 3.5; our client offers both, with a key share for each."""
    async with openssl.server(LOCALHOST) as (_, there), NetworkConnection(there, trusting()) as connection:
        await connection.ready()
        assert connection.metadata(TLS).group == ("X25519MLKEM768" if openssl.version >= (3, 5) else "X25519")


@pytest.mark.parametrize("group", ["P-256", "P-384"])
async def test_group_that_the_server_insists_on(openssl: OpenSSL, group: str) -> None:
    """Without a key share for it this takes a HelloRetryRequest."""
    async with openssl.server(LOCALHOST, "-groups", group) as (_, there), NetworkConnection(there, trusting()) as connection:
        await connection.send(b"\xffhello")
        assert connection.metadata(TLS).group == {"P-256": "secp256r1", "P-384": "secp384r1"}[group]


@pytest.mark.parametrize(
    ("version", "theirs", "suite"),
    [
        ("TLSv1.3", "TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
        ("TLSv1.3", "TLS_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
        ("TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
        ("TLSv1.2", "ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    ],
)
async def test_cipher_suites(openssl: OpenSSL, version: str, theirs: str, suite: str) -> None:
    option = "-ciphersuites" if version == "TLSv1.3" else "-cipher"
    async with (
        openssl.server(LOCALHOST, VERSIONS[version], option, theirs) as (server, there),
        NetworkConnection(there, trusting()) as connection,
    ):
        await connection.send(b"\xffhello")
        await server.expect(b"\xffhello")
        assert connection.metadata(TLS).cipher_suite == suite


@both_versions
@pytest.mark.parametrize(
    ("identity", "reason", "alert"),
    [
        (OTHER_NAME, "wrong_name", "bad_certificate"),
        (EXPIRED, "expired", "certificate_expired"),
        (FUTURE, "not_yet_valid", "certificate_expired"),
        (FROM_STRANGER, "unknown_authority", "unknown_ca"),
    ],
    ids=["wrong name", "expired", "not yet valid", "unknown authority"],
)
async def test_client_refuses(openssl: OpenSSL, identity: Identity, reason: str, alert: str, version: str) -> None:
    async with openssl.server(identity, VERSIONS[version], "-naccept", "1") as (server, there):
        async with NetworkConnection(there, trusting()) as connection:
            with pytest.raises(TLSError) as caught:
                await connection.ready()
        assert (caught.value.reason, caught.value.alert) == (reason, alert)
        assert caught.value.endpoint == there
        await server.ended()
        words = alert.replace("_ca", " ca").replace("_", " ")
        assert f"alert {words}" in server.errors  # it was told why


async def test_client_pins_a_certificate_that_nobody_else_would_accept(openssl: OpenSSL) -> None:
    async with (
        openssl.server(EXPIRED) as (server, there),
        NetworkConnection(there, TLS(trust=Trust.fingerprints(EXPIRED.fingerprint))) as connection,
    ):
        await connection.send(b"\xffhello")
        await server.expect(b"\xffhello")


@both_versions
async def test_client_shows_its_certificate(openssl: OpenSSL, version: str) -> None:
    asking = (VERSIONS[version], "-Verify", "1", "-verify_return_error", "-CAfile", openssl.root)
    async with (
        openssl.server(LOCALHOST, *asking) as (server, there),
        NetworkConnection(there, trusting(identity=CLIENT)) as connection,
    ):
        await connection.send(b"\xffhello")
        await server.expect(b"a client.*\xffhello")


@pytest.mark.parametrize(
    ("version", "identity", "reason", "alert"),
    [
        ("TLSv1.3", None, "certificate_required", "certificate_required"),
        ("TLSv1.2", None, "alert_received", "handshake_failure"),  # TLS 1.2 has no word of its own for it
        ("TLSv1.3", FROM_STRANGER, "alert_received", "unknown_ca"),
        ("TLSv1.2", FROM_STRANGER, "alert_received", "unknown_ca"),
        ("TLSv1.3", EXPIRED, "alert_received", "certificate_expired"),
    ],
)
async def test_client_is_refused(openssl: OpenSSL, version: str, identity: Identity | None, reason: str, alert: str) -> None:
    asking = (VERSIONS[version], "-Verify", "1", "-verify_return_error", "-CAfile", openssl.root)
    async with (
        openssl.server(LOCALHOST, *asking) as (_, there),
        NetworkConnection(there, trusting(identity=identity)) as connection,
    ):
        with pytest.raises(TLSError) as caught:
            await connection.receive()  # in TLS 1.3 the refusal comes after the client is done with its handshake
    assert (caught.value.reason, caught.value.alert) == (reason, alert)


@both_versions
async def test_client_resumes(openssl: OpenSSL, version: str) -> None:
    options = trusting(alpn=[f"resumed {version}"])  # no other test's sessions
    async with openssl.server(LOCALHOST, VERSIONS[version]) as (server, there):
        resumed = []
        for number in (b"\xff1", b"\xff2", b"\xff3"):
            async with NetworkConnection(there, options) as connection:
                await connection.send(number)
                await server.expect(number)
                await server.send(number)
                await connection.receive(exactly=2)  # the tickets came before
                resumed.append(connection.metadata(TLS).resumed)
                assert connection.metadata(TLS).peer_certificates == LOCALHOST.certificate_chain
        assert resumed == [False, True, True]


async def test_client_sends_early_data(openssl: OpenSSL) -> None:
    parameters = Parameters(trusting(early_data=True), fast_open_allowed=True)
    async with openssl.server(LOCALHOST, "-early_data", "-no_anti_replay") as (server, there):
        accepted = []
        for number in (b"\xff1", b"\xff2"):
            async with NetworkConnection(there, parameters) as connection:
                connection.send_idempotent(number + b"early")
                await connection.send(number + b"late")
                await server.expect(number + b"early")
                await server.expect(number + b"late")
                await server.send(number)
                await connection.receive(exactly=2)
                accepted.append(connection.metadata(TLS).early_data_accepted)
        assert accepted == [False, True]


async def test_client_follows_key_updates(openssl: OpenSSL) -> None:
    async with openssl.server(LOCALHOST, "-tls1_3") as (server, there), NetworkConnection(there, trusting()) as connection:
        for number in (b"\xff1", b"\xff2", b"\xff3"):
            await server.send(b"K\n")  # new keys for it, and it asks us for the same
            await connection.send(number)
            await server.expect(number)
            await server.send(number)
            assert (await connection.receive(exactly=2)).content == number


# Our listener


async def moves_payload(connection: NetworkConnection[TLS]) -> None:
    """What a handler in these tests does: the client's payload in, the server's out."""
    received = await receive_payload(connection, SIZE)
    await connection.send(FROM_SERVER if digest(received) == digest(FROM_CLIENT) else b"something else came")


@both_versions
@pytest.mark.parametrize("identity", [LOCALHOST, RSA], ids=["ecdsa", "rsa"])
async def test_listener_moves_data_both_ways(openssl: OpenSSL, identity: Identity, version: str) -> None:
    stack = TLS(identity=identity, alpn=["two", "one"])
    async with (
        NetworkListener(stack, on="127.0.0.1:0").serving(moves_payload) as listener,
        openssl.client(listener.endpoint, VERSIONS[version], "-alpn", "one,two") as client,
    ):
        sending = asyncio.create_task(client.send(FROM_CLIENT))
        assert digest(await client.rest()) == digest(FROM_SERVER)  # up to our close_notify
        await sending
        assert await client.ended() == 0
        for line in (f"Protocol version: {version}", "Verification: OK", "Verified peername: localhost"):
            assert line in client.errors


async def end_of(connection: NetworkConnection[TLS]) -> None:
    """A handler for clients that say goodbye first."""
    async for content, _ in connection:
        await connection.send(content)


@both_versions
async def test_listener_sees_a_clean_end(openssl: OpenSSL, version: str) -> None:
    ends: list[bool] = []
    done = asyncio.Event()

    async def receive(connection: NetworkConnection[TLS]) -> None:
        await connection.receive(exactly=6)
        ends.append((await connection.receive()).metadata.end_of_stream)
        done.set()

    async with NetworkListener(TLS(identity=LOCALHOST), on="127.0.0.1:0").serving(receive) as listener:
        async with openssl.client(listener.endpoint, VERSIONS[version]) as client:
            await client.send(b"\xffhello")
            client.end()
            assert await client.ended() == 0
        await done.wait()
    assert ends == [True]


@both_versions
@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (OTHER_NAME, "hostname mismatch"),
        (EXPIRED, "certificate has expired"),
        (FROM_STRANGER, "unable to get local issuer certificate|unable to verify the first certificate"),
    ],
    ids=["wrong name", "expired", "unknown authority"],
)
async def test_listener_is_refused_and_goes_on(openssl: OpenSSL, identity: Identity, words: str, version: str) -> None:
    async with NetworkListener(TLS(identity=identity), on="127.0.0.1:0").serving(end_of) as listener:
        async with openssl.client(listener.endpoint, VERSIONS[version]) as client:
            assert await client.ended() != 0
            assert re.search(words, client.errors), client.errors
        pinned = TLS(trust=Trust.fingerprints(identity.fingerprint))
        async with NetworkConnection(listener.endpoint, pinned) as connection:
            await connection.send(b"hello")
            assert (await connection.receive()).content == b"hello"
        assert listener.failed_handshake_count == 1


@both_versions
async def test_listener_asks_for_a_certificate(openssl: OpenSSL, version: str) -> None:
    shown: list[tuple[bytes, ...]] = []

    async def note(connection: NetworkConnection[TLS]) -> None:
        shown.append(connection.metadata(TLS).peer_certificates[:1])  # s_client adds the root
        await connection.send(b"\xffwelcome")

    stack = TLS(identity=LOCALHOST, trust=TRUST, peer_authentication=PeerAuthentication.REQUIRED)
    async with NetworkListener(stack, on="127.0.0.1:0").serving(note) as listener:
        for name, identity, welcome in (
            ("client", CLIENT, True),
            ("stranger", FROM_STRANGER, False),
            ("expired", EXPIRED, False),
        ):
            options = (VERSIONS[version], *openssl.identity(name, identity))
            async with openssl.client(listener.endpoint, *options) as client:
                assert await client.rest() == (b"\xffwelcome" if welcome else b"")
                assert (await client.ended() == 0) is welcome
        async with openssl.client(listener.endpoint, VERSIONS[version]) as client:
            assert await client.rest() == b""
            assert await client.ended() != 0
            if version == "TLSv1.3":
                assert "alert certificate required" in client.errors
        assert listener.failed_handshake_count == 3
    assert shown == [CLIENT.certificate_chain]


@both_versions
async def test_listener_with_optional_certificates(openssl: OpenSSL, version: str) -> None:
    shown: list[tuple[bytes, ...]] = []

    async def note(connection: NetworkConnection[TLS]) -> None:
        shown.append(connection.metadata(TLS).peer_certificates[:1])  # s_client adds the root

    stack = TLS(identity=LOCALHOST, trust=TRUST, peer_authentication=PeerAuthentication.OPTIONAL)
    async with NetworkListener(stack, on="127.0.0.1:0").serving(note) as listener:
        for options in ([], openssl.identity("client", CLIENT)):
            async with openssl.client(listener.endpoint, VERSIONS[version], *options) as client:
                assert await client.ended() == 0
    assert shown == [(), CLIENT.certificate_chain]


@both_versions
async def test_listener_resumes(openssl: OpenSSL, tmp_path: Path, version: str) -> None:
    resumed: list[bool] = []
    session = tmp_path / "session.pem"

    async def note(connection: NetworkConnection[TLS]) -> None:
        resumed.append(connection.metadata(TLS).resumed)
        await end_of(connection)

    async with NetworkListener(TLS(identity=LOCALHOST), on="127.0.0.1:0").serving(note) as listener:
        for option in ("-sess_out", "-sess_in", "-sess_in"):
            async with openssl.client(listener.endpoint, VERSIONS[version], option, session) as client:
                await client.send(b"\xffhello")
                await client.expect(b"\xffhello")  # its tickets came before
                client.end()
                assert await client.ended() == 0
    assert resumed == [False, True, True]


async def test_listener_takes_early_data(openssl: OpenSSL, tmp_path: Path) -> None:
    accepted: list[bool] = []
    session, early = tmp_path / "session.pem", tmp_path / "early"
    early.write_bytes(b"\xffearly")

    async def note(connection: NetworkConnection[TLS]) -> None:
        await end_of(connection)
        accepted.append(connection.metadata(TLS).early_data_accepted)

    stack = TLS(identity=LOCALHOST, early_data=True)
    async with NetworkListener(stack, on="127.0.0.1:0").serving(note) as listener:
        first: list[str | Path] = ["-sess_out", session]
        second: list[str | Path] = ["-sess_in", session, "-early_data", early]
        for options, expected in ((first, b"\xfflate"), (second, b"\xffearly\xfflate")):
            async with openssl.client(listener.endpoint, *options) as client:
                await client.send(b"\xfflate")
                await client.expect(re.escape(expected))
                client.end()
                assert await client.ended() == 0
    assert accepted == [False, True]


async def test_listener_group(openssl: OpenSSL) -> None:
    groups: list[str | None] = []

    async def note(connection: NetworkConnection[TLS]) -> None:
        groups.append(connection.metadata(TLS).group)

    async with NetworkListener(TLS(identity=LOCALHOST), on="127.0.0.1:0").serving(note) as listener:
        for options in ([], ["-groups", "P-384"]):
            async with openssl.client(listener.endpoint, *options) as client:
                assert await client.ended() == 0
    assert groups == ["X25519MLKEM768" if openssl.version >= (3, 5) else "X25519", "secp384r1"]


@pytest.mark.parametrize(
    ("minimum", "maximum", "offered"),
    [("TLSv1.3", None, "TLSv1.2"), (None, "TLSv1.2", "TLSv1.3")],
)
async def test_listener_has_no_version_in_common(
    openssl: OpenSSL, minimum: str | None, maximum: str | None, offered: str
) -> None:
    stack = TLS(
        identity=LOCALHOST,
        minimum_version=ONLY[minimum] if minimum else None,
        maximum_version=ONLY[maximum] if maximum else None,
    )
    async with NetworkListener(stack, on="127.0.0.1:0").serving(end_of) as listener:
        async with openssl.client(listener.endpoint, VERSIONS[offered]) as client:
            assert await client.ended() != 0
            assert "alert protocol version" in client.errors
        assert listener.failed_handshake_count == 1
