"""A certificate authority in memory: whatever certificate a test wants to see accepted or refused.

    authority = certificates()
    server = TLS(identity=authority.identity("localhost", "127.0.0.1"))
    client = TLS(trust=authority.trust)

Keys are Ed25519 unless said otherwise, and serial numbers have one length, so that a handshake has messages of the same
lengths every time: an ECDSA signature is a byte or two longer or shorter by chance (its two numbers are written without leading
zeros), and a trace of the packets would differ from run to run. What also changes a handshake is a session that is resumed: it
belongs to equal options, so another authority, or ``tickets=False``, makes each one full.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from typing import TYPE_CHECKING, Any, Literal

from tieline.identity import Identity, Trust

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

__all__ = ["CertificateAuthority", "KeyKind", "certificates"]

KeyKind = Literal["ed25519", "ecdsa", "rsa"]

LONG_AGO, TOMORROW = datetime.timedelta(days=-90), datetime.timedelta(days=1)


def certificates(name: str = "tieline test authority", *, key: KeyKind = "ed25519") -> CertificateAuthority:
    """A new authority, which nobody trusts yet, with a key of this kind: ``"ed25519"``, ``"ecdsa"`` (P-256) or ``"rsa"``."""
    return CertificateAuthority(name, key)


class CertificateAuthority:
    """A root that signs certificates for any name, of any age. `certificates` makes one."""

    def __init__(self, name: str, key: KeyKind) -> None:
        from cryptography import x509

        self._name = _common_name(name)
        self._kind: KeyKind = key
        self._key = _new_key(key)
        uses = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False, **uses
        )
        self._certificate = self._signed(
            self._builder(self._name, self._key, LONG_AGO, TOMORROW)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
        )

    @property
    def certificate(self) -> bytes:
        """The root's own certificate, DER."""
        from cryptography.hazmat.primitives.serialization import Encoding

        return self._certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> str:
        """The same as text, as programs read it."""
        from cryptography.hazmat.primitives.serialization import Encoding

        return self._certificate.public_bytes(Encoding.PEM).decode()

    @property
    def trust(self) -> Trust:
        """For whoever is to trust this authority, and nobody else."""
        return Trust.certificates(self.certificate)

    def identity(
        self,
        *names: str,
        valid_from: datetime.timedelta = LONG_AGO,
        valid_until: datetime.timedelta = TOMORROW,
        key: KeyKind | None = None,
    ) -> Identity:
        """A certificate for these names and addresses, with its key; it serves both roles.

        Its dates count from now: ``valid_until=timedelta(days=-1)`` has expired, ``valid_from=timedelta(hours=12)`` is not
        valid yet. `key` is of the authority's kind by default.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.x509.oid import ExtendedKeyUsageOID

        if not names:
            raise ValueError("identity() needs at least one host name or IP address, got none")
        if valid_from >= valid_until:
            raise ValueError(f"valid_from must be before valid_until, got {valid_from} and {valid_until}")
        own = _new_key(key or self._kind)
        roles = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = self._signed(
            self._builder(_common_name(names[0]), own, valid_from, valid_until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(roles), critical=False)
        )
        return Identity(
            (certificate.public_bytes(serialization.Encoding.DER),),
            own.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        )

    def _builder(
        self,
        subject: x509.Name,
        key: CertificateIssuerPrivateKeyTypes,
        valid_from: datetime.timedelta,
        valid_until: datetime.timedelta,
    ) -> x509.CertificateBuilder:
        from cryptography import x509

        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        public, ours = key.public_key(), self._key.public_key()
        return (
            x509.CertificateBuilder(self._name, subject, public, _serial_number(), now + valid_from, now + valid_until)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ours), critical=False)
        )

    def _signed(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        from cryptography.hazmat.primitives import hashes

        return builder.sign(self._key, None if self._kind == "ed25519" else hashes.SHA256())


def _new_key(kind: KeyKind) -> CertificateIssuerPrivateKeyTypes:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    makers: dict[str, Any] = {
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
    }
    if kind not in makers:
        raise ValueError(f"key must be one of {', '.join(makers)}, got {kind!r}")
    made: CertificateIssuerPrivateKeyTypes = makers[kind]()
    return made


def _serial_number() -> int:
    """Random, and always 16 bytes in DER: the first bits are 01, for which no byte is saved and none is put before."""
    return 1 << 126 | int.from_bytes(os.urandom(16), "big") >> 2


def _common_name(name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    # At most 64 characters (RFC 5280 appendix A.1); only people read it.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name if name.isascii() else name.encode("idna").decode())
