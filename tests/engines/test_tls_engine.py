"""The TLS engine as Python sees it: its contract, and OpenSSL as a foreign peer."""

import contextlib
import datetime
import hashlib
import ipaddress
import random
import ssl
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tieline._engine.tls import TlsConfig, TlsEngine, TlsFailure, TlsInfo


@dataclass
class Identity:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def key_der(self) -> bytes:
        return self.key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    def save(self, folder: Path) -> tuple[Path, Path]:
        certificate, key = folder / "certificate.pem", folder / "key.pem"
        certificate.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        key.write_bytes(
            self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return certificate, key


def make_identity(name: str = "localhost", *, days: int = 30) -> Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=90))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return Identity(certificate, key)


IDENTITY = make_identity()
OTHER = make_identity("other.example")


def server(identity: Identity = IDENTITY, **options: Any) -> TlsConfig:
    options.setdefault("alpn", [])
    return TlsConfig.server(certificate_chain=[identity.der], private_key=identity.key_der, **options)


def client(**options: Any) -> TlsConfig:
    options.setdefault("alpn", [])
    if "trust" not in options:
        options |= {"trust": "certificates", "certificates": [IDENTITY.der]}
    return TlsConfig.client(**options)


def shake(client: TlsEngine, server: TlsEngine) -> None:
    """Carry bytes until nothing moves; the first failure of either side is raised."""
    failure = None
    while True:
        up, down = client.output(), server.output()
        if not up and not down:
            break
        for engine, data in ((server, up), (client, down)):
            try:
                engine.receive(data)
            except TlsFailure as error:
                failure = failure or error
    if failure:
        raise failure


def connect(client: TlsConfig, server: TlsConfig, name: str = "localhost") -> tuple[TlsEngine, TlsEngine]:
    pair = TlsEngine(client, name), TlsEngine(server)
    shake(*pair)
    return pair


def assert_works(client: TlsEngine, server: TlsEngine) -> None:
    assert server.receive(client.send(b"up")) == b"up"
    assert client.receive(server.send(b"down")) == b"down"


def test_a_conversation() -> None:
    a, b = TlsEngine(client(alpn=[b"x", b"y"]), "localhost"), TlsEngine(server(alpn=[b"y"]))
    assert (a.handshaking, b.handshaking) == (True, True)
    with pytest.raises(RuntimeError, match="handshake"):
        a.info()
    with pytest.raises(RuntimeError, match="handshake"):
        a.send(b"too early")
    shake(a, b)
    assert (a.handshaking, b.handshaking, a.failed) == (False, False, False)
    info = a.info()
    assert isinstance(info, TlsInfo)
    assert (info.version, info.cipher_suite) == ("TLSv1.3", "TLS_AES_256_GCM_SHA384")
    assert (info.group, info.alpn, info.server_name) == ("X25519MLKEM768", "y", "localhost")
    assert (info.peer_certificates, info.resumed) == ([IDENTITY.der], False)
    assert b.info().server_name == "localhost"
    assert b.info().peer_certificates == []
    assert (a.decision, a.needs_validation, a.validator_error) == (None, False, None)
    assert_works(a, b)
    last = a.send(b"last") + a.close_notify()
    assert b.receive(last) == b"last"
    assert b.peer_closed and not a.peer_closed
    assert b.receive(b"ignored") == b""
    assert a.receive(b.send(b"still open")) == b"still open"
    with pytest.raises(RuntimeError, match="close_notify"):
        a.send(b"x")


@pytest.mark.parametrize("size", [0, 1, 64, 16384, 16385, 300_000])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_sizes_and_buffers(size: int, kind: type) -> None:
    a, b = connect(client(), server())
    data = random.Random(size).randbytes(size)
    sealed = a.send(kind(data))
    assert b.receive(kind(sealed)) == data
    if kind is memoryview:  # also one that is not contiguous
        strided = bytearray(2 * size)
        strided[::2] = data
        assert b.receive(a.send(memoryview(strided)[::2])) == data
    with pytest.raises(TypeError):
        a.send("text")  # type: ignore[arg-type]


def test_wrong_name_expired_and_stranger() -> None:
    for identity, name, reason, alert in [
        (OTHER, "localhost", "wrong_name", "bad_certificate"),
        (make_identity(days=-1), "localhost", "expired", "certificate_expired"),
    ]:
        config = client(trust="certificates", certificates=[identity.der])
        with pytest.raises(TlsFailure) as caught:
            connect(config, server(identity), name)
        assert (caught.value.reason, caught.value.alert, caught.value.received) == (reason, alert, False)
        assert caught.value.expected and caught.value.got
    with pytest.raises(TlsFailure, match="authority") as caught:
        connect(client(), server(OTHER), "other.example")
    assert caught.value.reason == "unknown_authority"
    connect(client(), server(), "127.0.0.1")


def test_the_failure_is_raised_again_and_the_alert_goes_out() -> None:
    a, b = TlsEngine(client(), "localhost"), TlsEngine(server(OTHER))
    b.receive(a.output())
    flight = b.output()
    for _ in range(2):
        with pytest.raises(TlsFailure) as caught:
            a.receive(flight)
        assert caught.value.reason == "unknown_authority"
    assert a.failed
    with pytest.raises(TlsFailure) as caught:
        b.receive(a.output())
    assert (caught.value.reason, caught.value.alert, caught.value.received) == ("alert_received", "unknown_ca", True)


def test_fingerprints() -> None:
    pin = hashlib.sha256(OTHER.der).digest()
    assert_works(*connect(client(trust="fingerprints", fingerprints=[pin]), server(OTHER)))
    with pytest.raises(TlsFailure) as caught:
        connect(client(trust="fingerprints", fingerprints=[pin]), server())
    assert (caught.value.reason, caught.value.expected) == ("wrong_fingerprint", pin.hex())


def test_client_certificates() -> None:
    config = server(client_authentication="required", trust="certificates", certificates=[OTHER.der])
    own = client(certificate_chain=[OTHER.der], private_key=OTHER.key_der)
    _, b = connect(own, config)
    assert b.info().peer_certificates == [OTHER.der]
    with pytest.raises(TlsFailure) as caught:
        connect(client(), config)
    assert caught.value.reason == "certificate_required"


def test_validator_is_asked_about_the_whole_chain() -> None:
    calls = []

    def validator(chain: list[bytes], name: str) -> bool:
        calls.append((chain, name))
        return True

    a, b = connect(client(trust="validator", validator=validator), server(OTHER))
    assert_works(a, b)
    assert calls == [([OTHER.der], "localhost")]
    assert a.decision is None and not a.needs_validation


def test_validator_that_refuses_or_raises() -> None:
    for answer, kind in [(False, None), (None, TypeError), (KeyError("lost"), KeyError)]:
        validator = Mock(side_effect=[answer])  # raises it, if it is an exception
        a, b = TlsEngine(client(trust="validator", validator=validator), "localhost"), TlsEngine(server())
        with pytest.raises(TlsFailure) as caught:
            shake(a, b)
        assert (caught.value.reason, caught.value.alert) == ("refused_by_validator", "access_denied")
        assert type(a.validator_error) is (kind or type(None))
        assert b.failed


def test_resumed_sessions_need_validation() -> None:
    config, other = client(trust="validator", validator=lambda chain, name: True), server()
    assert not connect(config, other)[0].needs_validation
    a, _ = connect(config, other)
    assert a.info().resumed and a.needs_validation
    assert a.info().peer_certificates == [IDENTITY.der]


def test_asynchronous_validator() -> None:
    async def decide(name: str) -> bool:
        return name == "localhost"

    def validator(chain: list[bytes], name: str) -> Awaitable[bool]:
        return decide(name)

    a, b = connect(client(trust="validator", validator=validator), server())
    assert_works(a, b)
    decision = a.decision
    assert isinstance(decision, Coroutine) and decision is a.decision
    with pytest.raises(StopIteration) as stop:
        decision.send(None)
    assert stop.value.value is True


def test_a_validator_cannot_call_its_engine_but_may_use_another() -> None:
    errors: list[RuntimeError] = []

    def validator(chain: list[bytes], name: str) -> bool:
        assert_works(*connect(client(), server()))
        for call in (a.output, lambda: a.receive(b""), lambda: a.handshaking):
            with pytest.raises(RuntimeError, match="in use") as caught:
                call()
            errors.append(caught.value)
        return True

    a, b = TlsEngine(client(trust="validator", validator=validator), "localhost"), TlsEngine(server())
    shake(a, b)
    assert len(errors) == 3
    assert_works(a, b)


def test_early_data() -> None:
    a_config, b_config = client(early_data=True), server(early_data=True)
    assert_works(*connect(a_config, b_config))
    a, b = TlsEngine(a_config, "localhost"), TlsEngine(b_config)
    assert a.send_early(b"early") == 5
    assert b.receive(a.output()) == b"early" and b.handshaking
    shake(a, b)
    assert a.info().early_data_accepted and b.info().early_data_accepted
    assert_works(a, b)


def test_plaintext_before_a_fault_is_returned_first() -> None:
    a, b = connect(client(), server())
    assert b.receive(a.send(b"good") + b"\x17\x03\x03\x00\x20" + bytes(32)) == b"good"
    assert b.failed
    with pytest.raises(TlsFailure) as caught:
        b.receive(b"")
    assert caught.value.reason == "decrypt_error"


def test_key_log(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    connect(client(keylog_file=str(path)), server())
    labels = [line.split()[0] for line in path.read_text().splitlines()]
    assert "CLIENT_TRAFFIC_SECRET_0" in labels
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileNotFoundError) as caught:
        client(keylog_file=str(tmp_path / "no" / "keys"))
    assert caught.value.filename == str(tmp_path / "no" / "keys")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"trust": "certificates", "certificates": []}, "at least one"),
        ({"trust": "certificates", "certificates": [b"junk"]}, "not a DER certificate"),
        ({"trust": "fingerprints", "fingerprints": [b"short"]}, "32 bytes"),
        ({"trust": "validator"}, "needs a validator"),
        ({"trust": "everybody"}, "everybody"),
        ({"cipher_suites": ["TLS_ROT13"]}, "TLS_AES_128_GCM_SHA256"),
        ({"minimum_version": "TLSv1.3", "maximum_version": "TLSv1.2"}, "above"),
        ({"minimum_version": "TLSv1.1"}, "known are TLSv1.2 and TLSv1.3"),
        ({"certificate_chain": [IDENTITY.der], "private_key": OTHER.key_der}, "does not belong"),
        ({"certificate_chain": [IDENTITY.der]}, "private key"),
        ({"alpn": [b""]}, "1 to 255"),
    ],
)
def test_bad_settings(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        client(**options)


def test_sides() -> None:
    with pytest.raises(ValueError, match="server name"):
        TlsEngine(client())
    with pytest.raises(ValueError, match="server name"):
        TlsEngine(server(), "localhost")
    with pytest.raises(ValueError, match="host name"):
        TlsEngine(client(), "not a name")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("role", ["client", "server"])
def test_openssl(version: ssl.TLSVersion, role: str, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if role == "client" else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["y", "z"])
    certificate, key = IDENTITY.save(tmp_path)
    if role == "client":
        context.load_cert_chain(certificate, key)
        engine = TlsEngine(client(alpn=[b"z"]), "localhost")
    else:
        context.load_verify_locations(certificate)
        engine = TlsEngine(server(alpn=[b"z"]))
    to_peer, from_peer = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = context.wrap_bio(
        to_peer, from_peer, server_side=role == "client", server_hostname=None if role == "client" else "localhost"
    )
    while True:
        try:
            peer.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        engine.receive(from_peer.read())
        to_peer.write(engine.output())
        if done and not engine.handshaking:
            break
    assert engine.info().version == peer.version()
    assert engine.info().alpn == peer.selected_alpn_protocol() == "z"
    data = random.Random(1).randbytes(200_000)
    to_peer.write(engine.send(data))
    got = b""
    while len(got) < len(data):
        got += peer.read(65536)
    assert got == data
    peer.write(data)
    assert engine.receive(from_peer.read()) == data
    to_peer.write(engine.close_notify())
    peer.unwrap()
    engine.receive(from_peer.read())
    assert engine.peer_closed


def test_hostile_bytes() -> None:
    with pytest.raises(TlsFailure, match=r"HTTP/1\.1 400") as caught:
        TlsEngine(client(), "localhost").receive(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert caught.value.reason == "not_tls"
    configs = client(), server()
    source = random.Random(2)
    for _ in range(500):
        for engine in (TlsEngine(configs[0], "localhost"), TlsEngine(configs[1])):
            for _ in range(3):
                noise = source.randbytes(source.randrange(200))
                if source.random() < 0.7:
                    noise = bytes([source.randrange(20, 24), 3, 3]) + len(noise).to_bytes(2) + noise
                with contextlib.suppress(TlsFailure):
                    engine.receive(noise)
                if engine.failed:
                    with pytest.raises(TlsFailure, match=r"^[^{}]+$") as caught:
                        engine.receive(b"")
                    assert caught.value.reason != "internal"
                engine.output()
