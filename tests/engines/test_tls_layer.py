"""TLS layers against each other in memory: both engines in both roles, every failure's words, no sockets."""

import asyncio
import datetime
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from tieline.engines.pipeline import Layer
from tieline.engines.tls import check_server, client_config, client_layer, server_layer
from tieline.errors import NetworkError, PeerResetError, Phase, TLSError
from tieline.identity import Identity, Trust
from tieline.protocols.security import PeerAuthentication, TLSMetadata, TLSVersion
from tieline.protocols.tls import TLS

ENGINES = ["rustls", "openssl"]
NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)


# Certificates for every failure.


@dataclass(frozen=True)
class Authority:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def certificate(
    name: str,
    issuer: Authority | None = None,
    *,
    start: datetime.datetime = NOW - DAY,
    end: datetime.datetime = NOW + DAY,
    ca: bool = False,
    usage: x509.ObjectIdentifier | None = None,
) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = issuer.key if issuer else key
    by = issuer.certificate.subject if issuer else subject
    builder = (
        x509.CertificateBuilder(by, subject, key.public_key(), x509.random_serial_number(), start, end)
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if ca:
        every_use = dict.fromkeys(
            (
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "encipher_only",
                "decipher_only",
            ),
            False,
        )
        builder = builder.add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **every_use), critical=True
        )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return Authority(key, builder.sign(signer, hashes.SHA256()))


def identity_of(*chain: Authority) -> Identity:
    return Identity(
        tuple(one.certificate.public_bytes(serialization.Encoding.DER) for one in chain),
        chain[0].key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


ROOT = certificate("Root", ca=True)
STRANGER = certificate("Stranger", ca=True)
LOCALHOST = identity_of(certificate("localhost", ROOT))
CLIENT = identity_of(certificate("client", ROOT))
EXPIRED = identity_of(certificate("localhost", ROOT, end=NOW - DAY / 2))
FUTURE = identity_of(certificate("localhost", ROOT, start=NOW + DAY / 2))
CLIENTS_ONLY = identity_of(certificate("localhost", ROOT, usage=ExtendedKeyUsageOID.CLIENT_AUTH))
SELF_SIGNED = Identity.self_signed("localhost")
TRUST = Trust.certificates(ROOT.certificate)


# The same wishes for either engine.


def with_pem(identity: Identity, use: Callable[[str], Any]) -> None:
    with NamedTemporaryFile("w", suffix=".pem") as file:
        file.write("".join(identity.pem()))
        file.flush()
        use(file.name)


@cache
def as_context(options: TLS, server_side: bool) -> ssl.SSLContext:
    """The standard library's context that means the same as our options."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    if options.minimum_version:
        context.minimum_version = ssl.TLSVersion[options.minimum_version.name]
    if options.maximum_version:
        context.maximum_version = ssl.TLSVersion[options.maximum_version.name]
    if options.identity is not None:
        with_pem(options.identity, context.load_cert_chain)
    if options.alpn:
        context.set_alpn_protocols(list(options.alpn))
    if options.trust.kind == "certificates":
        context.load_verify_locations(cadata=b"".join(options.trust.values))
    if options.peer_authentication is PeerAuthentication.NONE or options.certificate_validator is not None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif options.peer_authentication is PeerAuthentication.REQUIRED:
        context.verify_mode = ssl.CERT_REQUIRED
    elif options.peer_authentication is PeerAuthentication.OPTIONAL:
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def fit(engine: str, options: TLS, server_side: bool) -> TLS:
    if engine == "rustls":
        return options
    return TLS(
        ssl_context=as_context(options, server_side),
        server_name=options.server_name,
        certificate_validator=options.certificate_validator,
    )


@dataclass
class Side:
    """One end: a layer, what came out of it, and how it failed."""

    layer: Any
    received: bytearray = field(default_factory=bytearray)
    error: NetworkError | None = None

    def take(self, data: bytes, step: int | None) -> None:
        for start in range(0, len(data), step or len(data) or 1):
            if self.error is None:
                try:
                    self.received += self.layer.receive(data[start : start + (step or len(data))])
                except NetworkError as error:
                    self.error = error
        if self.error is None and self.layer.decision is not None:
            self.decide()

    def decide(self) -> None:
        async def verdict(decision: Awaitable[bool]) -> bool:
            return await decision

        try:
            try:
                accepted, cause = asyncio.run(verdict(self.layer.decision)), None
            except Exception as error:
                accepted, cause = False, error
            self.received += self.layer.decided(accepted, cause)
        except NetworkError as error:
            self.error = error


def exchange(client: Side, server: Side, up: bytes = b"", down: bytes = b"", step: int | None = None) -> None:
    """Carry bytes between the two until neither has anything to say."""
    while up or down:
        server.take(up, step)
        down += server.layer.output()
        up = b""
        client.take(down, step)
        up += client.layer.output()
        down = b""


def pair(client: TLS, server: TLS, *, name: str | None = "localhost") -> tuple[Side, Side]:
    return (
        Side(client_layer(client, endpoint_name=name, endpoint="localhost:443")),
        Side(server_layer(server, endpoint="10.0.0.7:50000")),
    )


def shake(client: TLS, server: TLS, *, step: int | None = None, name: str | None = "localhost") -> tuple[Side, Side]:
    left, right = pair(client, server, name=name)
    exchange(left, right, left.layer.start(), right.layer.start(), step)
    return left, right


def works(client: Side, server: Side) -> bool:
    """Data pass in both directions."""
    if not (client.layer.ready and server.layer.ready):
        return False
    exchange(client, server, client.layer.send(b"ping"), server.layer.send(b"pong"))
    return bytes(server.received) == b"ping" and bytes(client.received) == b"pong"


SERVER = TLS(identity=LOCALHOST, alpn=["b", "a"])
PLAIN = TLS(trust=TRUST, alpn=["a", "b"])


# What works.


@pytest.mark.parametrize("server_engine", ENGINES)
@pytest.mark.parametrize("client_engine", ENGINES)
@pytest.mark.parametrize("version", [TLSVersion.TLSv1_2, TLSVersion.TLSv1_3])
def test_every_engine_with_every_other(client_engine: str, server_engine: str, version: TLSVersion) -> None:
    client = replace(PLAIN, minimum_version=version, maximum_version=version)
    left, right = shake(fit(client_engine, client, False), fit(server_engine, SERVER, True))
    assert (left.error, right.error) == (None, None) and works(left, right)
    for side in (left, right):
        metadata = side.layer.metadata()
        assert isinstance(metadata, TLSMetadata)
        assert metadata.version == version and metadata.negotiated_alpn in ("a", "b")
        assert "AES" in metadata.cipher_suite or "CHACHA" in metadata.cipher_suite
    assert left.layer.metadata().peer_certificates[0] == LOCALHOST.certificate
    assert left.layer.metadata().server_name == "localhost" and left.layer.metadata().certificates()
    assert right.layer.metadata().peer_certificates == ()
    if "rustls" in (client_engine, server_engine) and client_engine == server_engine:
        assert left.layer.metadata().group and right.layer.metadata().server_name == "localhost"


@pytest.mark.parametrize("server_engine", ENGINES)
@pytest.mark.parametrize("client_engine", ENGINES)
def test_both_directions_end_on_their_own(client_engine: str, server_engine: str) -> None:
    left, right = shake(fit(client_engine, PLAIN, False), fit(server_engine, SERVER, True))
    exchange(left, right, left.layer.send(b"question") + left.layer.end())
    assert right.layer.ended and not left.layer.ended and bytes(right.received) == b"question"
    right.layer.receive_end()
    exchange(left, right, b"", right.layer.send(b"answer" * 10_000) + right.layer.end())
    assert left.layer.ended and bytes(left.received) == b"answer" * 10_000
    left.layer.receive_end()


@pytest.mark.parametrize("server_engine", ENGINES)
@pytest.mark.parametrize("client_engine", ENGINES)
def test_one_byte_at_a_time(client_engine: str, server_engine: str) -> None:
    left, right = shake(fit(client_engine, PLAIN, False), fit(server_engine, SERVER, True), step=1)
    exchange(left, right, left.layer.send(b"x" * 20_000) + left.layer.end(), step=1)
    assert bytes(right.received) == b"x" * 20_000 and right.layer.ended


@pytest.mark.parametrize("server_engine", ENGINES)
@pytest.mark.parametrize("client_engine", ENGINES)
@given(
    pieces=st.lists(st.binary(max_size=40_000), max_size=4),
    cuts=st.lists(st.integers(1, 20_000), min_size=1, max_size=20),
)
@settings(max_examples=40, deadline=None)
def test_any_split_gives_the_same_plaintext(client_engine: str, server_engine: str, pieces: list[bytes], cuts: list[int]) -> None:
    left, right = shake(fit(client_engine, PLAIN, False), fit(server_engine, SERVER, True))
    wire = b"".join(left.layer.send(piece) for piece in pieces) + left.layer.end()
    while wire:
        cut = cuts.pop() if cuts else len(wire)
        right.take(wire[:cut], None)
        wire = wire[cut:]
    assert right.error is None and bytes(right.received) == b"".join(pieces) and right.layer.ended


@pytest.mark.parametrize("engine", ENGINES)
def test_large_sends_and_all_kinds_of_buffers(engine: str) -> None:
    left, right = shake(fit(engine, PLAIN, False), fit(engine, SERVER, True))
    data = bytes(range(256)) * 16_384
    for buffer in (data, bytearray(data), memoryview(data)):
        right.received.clear()
        exchange(left, right, left.layer.send(buffer))
        assert bytes(right.received) == data
    exchange(left, right, left.layer.send(b""))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["localhost", "localhost.", "LOCALHOST"])
def test_names_are_compared_as_certificates_have_them(engine: str, name: str) -> None:
    assert works(*shake(fit(engine, PLAIN, False), SERVER, name=name))


def test_addresses_and_zones() -> None:
    server = TLS(identity=Identity.self_signed("127.0.0.1", "fe80::1", "xn--bcher-kva.example"))
    assert server.identity is not None
    client = TLS(trust=Trust.certificates(server.identity))
    for name in ("127.0.0.1", "fe80::1%eth0", "bücher.example"):
        left, right = shake(client, server, name=name)
        assert left.error is None and works(left, right)


def test_server_name_overrides_the_endpoint() -> None:
    assert works(*shake(replace(PLAIN, server_name="localhost"), SERVER, name="127.0.0.1"))
    assert works(*shake(replace(PLAIN, server_name="localhost"), SERVER, name=None))


def test_without_a_name_only_where_nobody_looks_at_it() -> None:
    for options in (
        TLS(trust=Trust.fingerprints(LOCALHOST.fingerprint)),
        TLS(peer_authentication=PeerAuthentication.NONE),
    ):
        left, right = shake(options, SERVER, name=None)
        assert works(left, right) and left.layer.metadata().server_name is None
        assert right.layer.metadata().server_name is None
    for options in (TLS(), PLAIN, TLS(certificate_validator=lambda _, __: True)):
        with pytest.raises(ValueError, match=r"localhost:443 has no host name.*set server_name=\.\.\."):
            pair(options, SERVER, name=None)
    with pytest.raises(ValueError, match=r"no host name.*set server_name=\.\.\."):
        pair(fit("openssl", PLAIN, False), SERVER, name=None)


def test_a_self_signed_certificate_is_trusted_by_itself_and_by_its_fingerprint() -> None:
    server = TLS(identity=SELF_SIGNED)
    for engine in ENGINES:
        assert works(*shake(fit(engine, TLS(trust=Trust.certificates(SELF_SIGNED)), False), server))
    assert works(*shake(TLS(trust=Trust.fingerprints(SELF_SIGNED.fingerprint)), server, name="any.example"))


def test_a_server_needs_an_identity() -> None:
    for call in (lambda: check_server(TLS()), lambda: server_layer(TLS(), endpoint="x")):
        with pytest.raises(ValueError, match="a server needs a certificate and a key, got identity=None"):
            call()
    check_server(SERVER)
    check_server(fit("openssl", SERVER, True))


def test_a_context_for_the_other_role_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit this side"):
        server_layer(fit("openssl", PLAIN, False), endpoint="x")
    with pytest.raises(ValueError, match="does not fit this side"):
        client_layer(fit("openssl", SERVER, True), endpoint_name="localhost", endpoint="x")


def test_key_log(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    left, right = shake(replace(PLAIN, keylog_file=path), SERVER)
    assert works(left, right)
    labels = {line.split()[0] for line in path.read_text().splitlines()}
    assert {"CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_TRAFFIC_SECRET_0", "CLIENT_TRAFFIC_SECRET_0"} <= labels
    assert all(len(bytes.fromhex(line.split()[1])) == 32 for line in path.read_text().splitlines())


# Validators.


def validators(result: bool | Exception) -> list[Callable[[list[bytes], str], bool | Awaitable[bool]]]:
    def answer() -> bool:
        if isinstance(result, Exception):
            raise result
        return result

    def now(certificates: list[bytes], server_name: str) -> bool:
        assert certificates[0] == LOCALHOST.certificate and server_name == "localhost"
        return answer()

    async def later(certificates: list[bytes], server_name: str) -> bool:
        await asyncio.sleep(0)
        return now(certificates, server_name)

    return [now, later]


@pytest.mark.parametrize("server_engine", ENGINES)
@pytest.mark.parametrize("client_engine", ENGINES)
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("version", [TLSVersion.TLSv1_2, TLSVersion.TLSv1_3])
def test_validator_decides(client_engine: str, server_engine: str, asynchronous: bool, version: TLSVersion) -> None:
    server = fit(server_engine, replace(SERVER, maximum_version=version), True)
    for result in (True, False, KeyError("database")):
        options = TLS(certificate_validator=validators(result)[asynchronous])
        for _ in range(3):  # later ones may be resumed, and are asked as well
            left, right = shake(fit(client_engine, options, False), server)
            if result is True:
                assert left.error is None and works(left, right)
                continue
            assert isinstance(left.error, TLSError) and left.error.reason == "refused_by_validator"
            assert str(left.error) == "localhost:443, handshake: certificate_validator refused the peer's certificate"
            assert left.error.__cause__ is (None if result is False else result)
            assert not left.layer.ready and not left.received
            with pytest.raises(TLSError):
                left.layer.receive(b"")


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_moves_before_an_asynchronous_validator_has_decided(engine: str) -> None:
    options = TLS(certificate_validator=validators(True)[1])
    left, right = pair(fit(engine, options, False), SERVER)
    right.take(left.layer.start(), None)
    assert left.layer.receive(right.layer.output()) == b""
    assert left.layer.decision is not None and not left.layer.ready
    right.take(left.layer.output(), None)
    assert right.layer.ready
    # A server that answers at once and ends: everything is kept for after the decision, and its end is no truncation.
    assert left.layer.receive(right.layer.output() + right.layer.send(b"hello") + right.layer.end()) == b""
    left.layer.receive_end()
    left.decide()
    assert left.layer.ready and bytes(left.received) == b"hello" and left.layer.ended and left.layer.decision is None


@pytest.mark.parametrize("engine", ENGINES)
def test_a_server_asks_its_validator_about_clients(engine: str) -> None:
    seen: list[bytes] = []

    def accept_client(certificates: list[bytes], server_name: str) -> bool:
        seen.append(certificates[0])
        return certificates[0] == CLIENT.certificate

    server = replace(SERVER, peer_authentication=PeerAuthentication.REQUIRED, certificate_validator=accept_client)
    assert works(*shake(fit(engine, replace(PLAIN, identity=CLIENT), False), server)) and seen
    _, right = shake(fit(engine, replace(PLAIN, identity=LOCALHOST), False), server)
    assert right.error is not None and "certificate_validator refused" in str(right.error)


# Client certificates.


@pytest.mark.parametrize("server_engine", ENGINES)
@pytest.mark.parametrize("client_engine", ENGINES)
@pytest.mark.parametrize("version", [TLSVersion.TLSv1_2, TLSVersion.TLSv1_3])
def test_client_certificates(client_engine: str, server_engine: str, version: TLSVersion) -> None:
    def attempt(asked: PeerAuthentication, identity: Identity | None) -> tuple[Side, Side]:
        server = replace(SERVER, peer_authentication=asked, trust=TRUST, maximum_version=version)
        client = replace(PLAIN, identity=identity)
        return shake(fit(client_engine, client, False), fit(server_engine, server, True))

    for asked in (PeerAuthentication.OPTIONAL, PeerAuthentication.REQUIRED):
        left, right = attempt(asked, CLIENT)
        assert works(left, right) and right.layer.metadata().peer_certificates[0] == CLIENT.certificate
        left, right = attempt(asked, Identity.self_signed("client"))
        assert isinstance(right.error, TLSError) and right.error.reason == "unknown_authority"
        assert isinstance(left.error, TLSError) and "the peer refused our certificate" in str(left.error)
        assert left.error.alert == "unknown_ca" and left.error.code == 48
        # With TLS 1.3 the client had been ready by then.
        assert left.error.phase is (Phase.TRANSFER if version == TLSVersion.TLSv1_3 else Phase.HANDSHAKE)
    assert works(*attempt(PeerAuthentication.OPTIONAL, None))
    left, right = attempt(PeerAuthentication.REQUIRED, None)
    assert isinstance(right.error, TLSError) and right.error.reason == "certificate_required"
    assert isinstance(left.error, TLSError) and "certificate" in str(left.error)
    if version == TLSVersion.TLSv1_3:
        assert left.error.reason == "certificate_required" and "Set identity=..." in str(left.error)


# Resumption.


def resumed(client: TLS, server: TLS) -> bool:
    left, right = shake(client, server)
    assert works(left, right)
    exchange(left, right, left.layer.end(), right.layer.end())
    return bool(left.layer.metadata().resumed)


@pytest.mark.parametrize("version", [TLSVersion.TLSv1_2, TLSVersion.TLSv1_3])
def test_sessions_are_resumed_between_equal_options_only(version: TLSVersion) -> None:
    server = TLS(identity=identity_of(certificate("localhost", ROOT)), maximum_version=version, peer_authentication=None)
    assert server.identity is not None
    client = TLS(trust=TRUST, maximum_version=version, alpn=[str(version)])
    assert not resumed(client, server) and resumed(client, server)
    assert resumed(replace(client, handshake_timeout=5.0), server)  # not a matter of security
    others = [
        replace(client, trust=Trust.certificates(ROOT.certificate, STRANGER.certificate)),
        replace(client, trust=Trust.fingerprints(server.identity.fingerprint)),
        replace(client, trust=Trust.system(), certificate_validator=lambda _, __: True),
        replace(client, trust=Trust.system(), certificate_validator=lambda _, __: True),
        replace(client, trust=Trust.system(), peer_authentication=PeerAuthentication.NONE),
        replace(client, identity=CLIENT),
        replace(client, alpn=["other"]),
    ]
    for other in others:
        assert not resumed(other, server)
        assert resumed(other, server)
    assert not resumed(replace(client, tickets=False), server) and not resumed(replace(client, tickets=False), server)


def test_a_session_made_unverified_does_not_let_a_bad_certificate_in() -> None:
    server = TLS(identity=SELF_SIGNED)
    unverified = TLS(peer_authentication=PeerAuthentication.NONE)
    assert not resumed(unverified, server) and resumed(unverified, server)
    left, _ = shake(TLS(trust=TRUST), server)
    assert isinstance(left.error, TLSError) and left.error.reason == "unknown_authority"


def test_configurations_are_shared_between_equal_options() -> None:
    assert client_config(TLS(trust=TRUST)) is client_config(TLS(trust=TRUST, server_name="other"))
    assert client_config(TLS(trust=TRUST)) is not client_config(TLS())

    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, certificates: list[bytes], server_name: str) -> bool:
            return True

    options = TLS(certificate_validator=Unhashable())
    assert client_config(options) is not client_config(options)
    assert works(*shake(options, SERVER))


def test_a_validator_is_asked_again_when_the_session_is_resumed() -> None:
    answers = [True, True, False]
    server = TLS(identity=identity_of(certificate("localhost", ROOT)))
    client = TLS(certificate_validator=lambda _, __: answers.pop(0))
    assert not resumed(client, server) and resumed(client, server)
    left, _ = shake(client, server)
    assert answers == [] and isinstance(left.error, TLSError) and left.error.reason == "refused_by_validator"


# Early data.


def test_early_data_accepted() -> None:
    server = TLS(identity=identity_of(certificate("localhost", ROOT)), early_data=True)
    client = TLS(trust=TRUST, early_data=True)
    left, right = pair(client, server)
    assert left.layer.send_early(b"first") == 0  # no ticket yet
    exchange(left, right, left.layer.start(), b"")
    assert works(left, right) and not left.layer.early_data_accepted
    left, right = pair(client, server)
    first = left.layer.start()
    assert left.layer.send_early(b"GET /") == 5
    right.take(first + left.layer.output(), None)
    assert bytes(right.received) == b"GET /" and not right.layer.ready
    exchange(left, right, b"", right.layer.output())
    assert left.layer.early_data_accepted and left.layer.metadata().early_data_accepted
    assert right.layer.ready and right.layer.metadata().early_data_accepted
    exchange(left, right, left.layer.send(b" HTTP/1.1"))
    assert bytes(right.received) == b"GET / HTTP/1.1"


def test_early_data_rejected() -> None:
    identity = identity_of(certificate("localhost", ROOT))
    client = TLS(trust=TRUST, early_data=True)
    left, right = shake(client, TLS(identity=identity, early_data=True))
    assert works(left, right)
    left, right = pair(client, TLS(identity=identity))  # the same server after a restart, without early data
    first = left.layer.start()
    assert left.layer.send_early(b"GET /") == 5
    exchange(left, right, first + left.layer.output())
    assert left.layer.ready and right.layer.ready and not left.layer.early_data_accepted and not right.received
    assert works(left, right)


# What fails, and with which words.


@dataclass
class Case:
    client: TLS = PLAIN
    server: TLS = SERVER
    by: str = "client"
    """Which side finds the fault."""
    reason: str = ""
    text: str = ""
    """What the message of that side contains."""
    peer: str = ""
    """What the message of the other side contains."""
    name: str = "localhost"
    engines: tuple[str, ...] = tuple(ENGINES)


ONLY_12 = TLSVersion.TLSv1_2
ONLY_13 = TLSVersion.TLSv1_3
FAILURES = {
    "unknown authority": Case(
        server=TLS(identity=SELF_SIGNED),
        reason="unknown_authority",
        text="localhost:443, handshake: the peer's certificate is not signed by a known authority",
        peer="10.0.0.7:50000, handshake: the peer refused our certificate: it does not know who signed it",
    ),
    "expired": Case(
        server=TLS(identity=EXPIRED),
        reason="expired",
        text="the peer's certificate has expired",
        peer="the peer refused our certificate: it is expired or not valid yet (alert certificate_expired)",
    ),
    "not yet valid": Case(
        server=TLS(identity=FUTURE),
        reason="not_yet_valid",
        text="the peer's certificate is not valid yet",
        peer="the peer refused our certificate",
    ),
    "wrong name": Case(
        name="example.com",
        reason="wrong_name",
        text="the peer's certificate is for another name; expected example.com",
        peer="the peer refused our certificate",
    ),
    "wrong purpose": Case(
        server=TLS(identity=CLIENTS_ONLY),
        reason="wrong_purpose",
        text="the peer's certificate is not meant for this purpose",
        peer="the peer refused our certificate",
    ),
    "wrong fingerprint": Case(
        client=TLS(trust=Trust.fingerprints("00" * 32)),
        reason="wrong_fingerprint",
        text="the peer's certificate is not one of those pinned",
        peer="the peer refused our certificate",
        engines=("rustls",),
    ),
    "no common protocol": Case(
        client=replace(PLAIN, alpn=["c"]),
        by="server",
        reason="no_common_alpn",
        text="10.0.0.7:50000, handshake: no application protocol in common (ALPN)",
        peer="no application protocol in common (ALPN) (alert no_application_protocol)",
        engines=("rustls",),
    ),
    "no common version": Case(
        client=replace(PLAIN, minimum_version=ONLY_13),
        server=replace(SERVER, maximum_version=ONLY_12),
        by="server",
        reason="no_common_version",
        text="no TLS version in common",
        peer="no TLS version in common (alert protocol_version). Compare minimum_version and maximum_version on both",
    ),
    "no common cipher": Case(
        client=replace(PLAIN, cipher_suites=["TLS_AES_128_GCM_SHA256"], minimum_version=ONLY_13),
        server=replace(SERVER, cipher_suites=["TLS_AES_256_GCM_SHA384"], minimum_version=ONLY_13),
        by="server",
        reason="no_common_cipher",
        text="no cipher suite or key exchange group in common",
        peer="the peer refused the handshake (alert handshake_failure)",
        engines=("rustls",),
    ),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("server_engine", ENGINES)
@pytest.mark.parametrize("client_engine", ENGINES)
def test_failures_say_what_is_wrong(name: str, client_engine: str, server_engine: str) -> None:
    case = FAILURES[name]
    if client_engine not in case.engines or server_engine not in case.engines:
        pytest.skip("the standard library does not have this check")
    client = fit(client_engine, case.client, False)
    server = fit(server_engine, case.server, True)
    left, right = shake(client, server, name=case.name)
    finder, other = (left, right) if case.by == "client" else (right, left)
    assert isinstance(finder.error, TLSError) and finder.error.reason == case.reason, finder.error
    assert case.text in str(finder.error) and finder.error.phase is Phase.HANDSHAKE
    assert isinstance(other.error, TLSError), other.error
    if name not in ("not yet valid", "wrong name", "wrong purpose") or client_engine == "rustls":
        assert case.peer in str(other.error)
    assert not left.layer.ready or not right.layer.ready
    for side in (left, right):
        assert side.layer.receive is not None and not side.received


@pytest.mark.parametrize("engine", ENGINES)
def test_the_system_does_not_know_our_own_root(engine: str) -> None:
    client = TLS() if engine == "rustls" else TLS(ssl_context=ssl.create_default_context())
    left, _ = shake(client, SERVER)
    assert isinstance(left.error, TLSError) and left.error.reason == "unknown_authority"
    assert str(left.error).endswith("Trust it with Trust.certificates(...) or pin it with Trust.fingerprints(...)")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n", b"220 mail ESMTP\r\n"])
def test_a_peer_that_does_not_speak_tls(engine: str, answer: bytes) -> None:
    left, _ = pair(fit(engine, PLAIN, False), SERVER)
    left.layer.start()
    left.take(answer, None)
    assert isinstance(left.error, TLSError) and left.error.reason == "not_tls"
    assert "localhost:443, handshake: the peer does not speak TLS" in str(left.error)
    assert "Check the port" in str(left.error)


@pytest.mark.parametrize("engine", ENGINES)
def test_plain_http_to_a_tls_server(engine: str) -> None:
    right = Side(server_layer(fit(engine, SERVER, True), endpoint="10.0.0.7:50000"))
    right.take(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", None)
    assert isinstance(right.error, TLSError) and right.error.reason == "not_tls"


@pytest.mark.parametrize("engine", ENGINES)
def test_the_stream_ends_during_the_handshake(engine: str) -> None:
    left, right = pair(fit(engine, PLAIN, False), fit(engine, SERVER, True))
    right.take(left.layer.start()[:50], None)
    for side, where in ((left, "localhost:443"), (right, "10.0.0.7:50000")):
        with pytest.raises(PeerResetError) as caught:
            side.layer.receive_end()
        assert str(caught.value) == (
            f"{where}, handshake: the peer broke off; expected a TLS handshake, got the end of the stream"
        )


@pytest.mark.parametrize("engine", ENGINES)
def test_truncation_is_not_an_end(engine: str) -> None:
    left, right = shake(fit(engine, PLAIN, False), fit(engine, SERVER, True))
    assert works(left, right)
    right.take(left.layer.end()[:10], None)
    with pytest.raises(PeerResetError, match=r"transfer: TLS cut short: the stream ended without close_notify \(RFC 8446"):
        right.layer.receive_end()
    assert not right.layer.ended


@pytest.mark.parametrize("engine", ENGINES)
def test_a_damaged_record(engine: str) -> None:
    left, right = shake(fit(engine, PLAIN, False), fit(engine, SERVER, True))
    wire = bytearray(left.layer.send(b"transfer 100 to Bob"))
    wire[-1] ^= 1
    right.take(bytes(wire), None)
    assert isinstance(right.error, TLSError) and right.error.reason == "decrypt_error"
    assert str(right.error).startswith("10.0.0.7:50000, transfer: a TLS record or signature failed its check")
    left.take(right.layer.output(), None)
    assert isinstance(left.error, TLSError) and left.error.alert == "bad_record_mac" and left.error.code == 20


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("server_side", [False, True])
@given(noise=st.binary(max_size=200), tls_like=st.booleans())
@settings(max_examples=80, deadline=None)
def test_hostile_bytes_raise_network_errors_only(engine: str, server_side: bool, noise: bytes, tls_like: bool) -> None:
    left, right = pair(fit(engine, PLAIN, False), fit(engine, SERVER, True))
    side: Layer = right.layer if server_side else left.layer
    side.start()
    if tls_like:
        noise = b"\x16\x03\x03" + len(noise).to_bytes(2, "big") + noise
    for _ in range(2):
        try:
            assert side.receive(noise) == b""
        except TLSError as error:
            told = str(error)
        else:
            told = "handshake: not yet complete"
    assert "handshake: " in told
    side.output()
    assert not side.ready


@pytest.mark.parametrize("engine", ENGINES)
def test_what_came_before_a_fault_is_not_lost(engine: str) -> None:
    finders: list[Callable[[Layer], object]] = [lambda layer: layer.receive(b""), lambda layer: layer.receive_end()]
    for find in finders:
        left, right = shake(fit(engine, PLAIN, False), fit(engine, SERVER, True))
        good, bad = left.layer.send(b"good"), bytearray(left.layer.send(b"bad"))
        bad[-1] ^= 1
        assert right.layer.receive(good + bad) == b"good"
        with pytest.raises(TLSError, match="failed its check"):
            find(right.layer)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_validator_that_forgets_to_answer_refuses(engine: str) -> None:
    async def later(certificates: list[bytes], server_name: str) -> None: ...
    def now(certificates: list[bytes], server_name: str) -> None: ...

    forgetful: Any
    for forgetful in (now, later):
        left, _ = shake(fit(engine, TLS(certificate_validator=forgetful), False), SERVER)
        assert isinstance(left.error, TLSError) and left.error.reason == "refused_by_validator"
        assert isinstance(left.error.__cause__, TypeError) == (forgetful is now)
