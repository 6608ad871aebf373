"""A small certificate authority: whatever certificate a test wants to see accepted or refused, and for what reason."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tieline import Identity, Trust

__all__ = [
    "CLIENT",
    "EXPIRED",
    "FUTURE",
    "LOCALHOST",
    "OTHER_NAME",
    "ROOT",
    "RSA",
    "STRANGER",
    "TRUST",
    "Authority",
    "save",
]

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Authority:
    """A root that signs certificates of any age, for any name."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        may = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
        self.certificate = (
            self._builder(self._name, self._key, NOW - 90 * DAY, NOW + DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    key_cert_sign=True,
                    crl_sign=True,
                    encipher_only=False,
                    decipher_only=False,
                    **may,
                ),
                critical=True,
            )
            .sign(self._key, hashes.SHA256())
        )

    def issue(
        self,
        *names: str,
        start: datetime.datetime = NOW - 90 * DAY,
        end: datetime.datetime = NOW + DAY,
        key: Key | None = None,
    ) -> Identity:
        """A certificate for these names and addresses, with its key, that serves both roles."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = (
            self._builder(subject, key, start, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return Identity(
            (certificate.public_bytes(serialization.Encoding.DER),),
            key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        )

    def _builder(self, subject: x509.Name, key: Key, start: datetime.datetime, end: datetime.datetime) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number(), start, end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def save(folder: Path, name: str, identity: Identity) -> tuple[Path, Path]:
    """Write certificate and key as foreign programs read them; returns both paths."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    for path, text in zip((certificate, key), identity.pem(), strict=True):
        path.write_text(text)
    return certificate, key


ROOT = Authority("Tieline test root")
STRANGER = Authority("Nobody's root")
TRUST = Trust.certificates(ROOT.certificate)
LOCALHOST = ROOT.issue("localhost", "127.0.0.1", "::1")
RSA = ROOT.issue("localhost", key=rsa.generate_private_key(65537, 2048))
OTHER_NAME = ROOT.issue("other.example")
EXPIRED = ROOT.issue("localhost", end=NOW - DAY)
FUTURE = ROOT.issue("localhost", start=NOW + DAY / 2)
CLIENT = ROOT.issue("a client")
