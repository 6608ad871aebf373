"""The authority in memory: what it signs is accepted or refused for the reason that was asked for, and lengths do not vary."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tieline import TLS, Identity, PeerAuthentication, TLSError, TLSVersion, Trust
from tieline.engines.tls import client_layer, server_layer
from tieline.testing.certificates import CertificateAuthority, certificates
from tieline.testing.memory import memory_pair

RUNS = 50  # an ECDSA signature has its usual length only every other time

KINDS: Any = {"ed25519": ed25519.Ed25519PublicKey, "ecdsa": ec.EllipticCurvePublicKey, "rsa": rsa.RSAPublicKey}


def layers(authority: CertificateAuthority, version: TLSVersion) -> tuple[Any, Any]:
    """A client and a server that both show a certificate."""
    versions = {"minimum_version": version, "maximum_version": version}
    client = TLS(trust=authority.trust, identity=authority.identity("a client"), **versions)
    server = TLS(
        identity=authority.identity("localhost", "127.0.0.1"),
        trust=authority.trust,
        peer_authentication=PeerAuthentication.REQUIRED,
        **versions,
    )
    return client_layer(client, endpoint_name="localhost", endpoint=None), server_layer(server, endpoint=None)


def record_lengths(flight: bytes) -> list[int]:
    """Of the TLS records in there."""
    lengths: list[int] = []
    while flight:
        length = 5 + int.from_bytes(flight[3:5], "big")
        lengths.append(length)
        flight = flight[length:]
    return lengths


def conversation(client: Any, server: Any) -> list[list[int]]:
    """The lengths of all records, flight by flight: handshake, data and end."""
    flights = [client.start()]
    while flights[-1] or len(flights) < 4:
        side = (client, server)[len(flights) % 2]
        side.receive(flights[-1])
        flights.append(side.output())
    assert client.ready and server.ready
    flights += [client.send(b"hello"), client.end(), server.send(b"hello"), server.end()]
    return [record_lengths(flight) for flight in flights]


@pytest.mark.parametrize("version", [TLSVersion.TLSv1_2, TLSVersion.TLSv1_3])
def test_every_handshake_has_messages_of_the_same_lengths(version: TLSVersion) -> None:
    first = conversation(*layers(certificates(), version))
    assert sum(map(len, first)) > 5
    for _ in range(RUNS):
        assert conversation(*layers(certificates(), version)) == first


def test_serial_numbers_have_one_length() -> None:
    authority = certificates()
    for _ in range(RUNS):
        serial = x509.load_der_x509_certificate(authority.identity("localhost").certificate).serial_number
        assert serial.bit_length() == 127  # 16 bytes in DER, without one put before as a sign
    assert len(certificates().certificate) == len(authority.certificate)


@pytest.mark.parametrize("kind", KINDS)
async def test_kinds_of_keys(kind: Any) -> None:
    for authority, identity in (
        (certificates(key=kind), None),
        (by_default := certificates(), by_default.identity("localhost", key=kind)),
    ):
        identity = identity or authority.identity("localhost")
        assert isinstance(x509.load_der_x509_certificate(identity.certificate).public_key(), KINDS[kind])
        near, far = await memory_pair(TLS(trust=authority.trust), TLS(identity=identity))
        async with near, far:
            assert near.metadata(TLS).peer_certificates == (identity.certificate,)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"valid_until": timedelta(days=-1)}, "expired"),
        ({"valid_from": timedelta(hours=12)}, "not_yet_valid"),
        ({}, None),
    ],
)
async def test_ages(options: dict[str, Any], reason: str | None) -> None:
    authority = certificates()
    stacks = TLS(trust=authority.trust), TLS(identity=authority.identity("localhost", **options))
    if reason is None:
        near, far = await memory_pair(*stacks)
        async with near, far:
            return
    with pytest.raises(TLSError) as caught:
        await memory_pair(*stacks)
    assert caught.value.reason == reason


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "bücher.example", "x" * 63 + ".example"])
async def test_names_and_addresses(name: str) -> None:
    authority = certificates()
    client = TLS(trust=authority.trust, server_name=name)
    near, far = await memory_pair(client, TLS(identity=authority.identity(name, "other.example")))
    near.abort()
    far.abort()
    with pytest.raises(TLSError) as caught:
        await memory_pair(client, TLS(identity=authority.identity("other.example")))
    assert caught.value.reason == "wrong_name"


def test_the_root_in_every_form() -> None:
    authority = certificates("A root of mine")
    root = x509.load_pem_x509_certificate(authority.pem.encode())
    assert authority.trust == Trust.certificates(authority.certificate) == Trust.certificates(authority.pem)
    assert root.subject.rfc4514_string() == "CN=A root of mine"
    assert certificates().trust != certificates().trust
    assert Identity.from_pem(*authority.identity("localhost").pem()).certificate_chain


def test_openssl_accepts_them(tmp_path: Path) -> None:
    authority = certificates()
    file = tmp_path / "both.pem"
    file.write_text("".join(authority.identity("localhost").pem()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    client = client_layer(TLS(trust=authority.trust), endpoint_name="localhost", endpoint=None)
    assert conversation(client, server_layer(TLS(ssl_context=context), endpoint=None))
    verifying = TLS(ssl_context=ssl.create_default_context(cadata=authority.pem))
    client = client_layer(verifying, endpoint_name="localhost", endpoint=None)
    assert conversation(client, server_layer(TLS(identity=authority.identity("localhost")), endpoint=None))


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="needs at least one host name or IP address, got none"):
        certificates().identity()
    with pytest.raises(ValueError, match="valid_from must be before valid_until, got 2 days, 0:00:00 and 1 day, 0:00:00"):
        certificates().identity("localhost", valid_from=timedelta(days=2))
    with pytest.raises(ValueError, match="key must be one of ed25519, ecdsa, rsa, got 'dsa'"):
        certificates(key="dsa")  # type: ignore[arg-type]
