"""Who we are and whom we believe: a certificate chain with its key, and what makes a peer's certificate good."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from tieline.values import Value, value

if TYPE_CHECKING:
    import datetime

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate, GeneralName

__all__ = ["Identity", "Trust"]

_PRIVATE_KEY = re.compile(rb"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)


@value
class Identity(Value):
    """A certificate and its private key: what a server, or a client that is asked for one, presents.

    - `certificate_chain`: DER, our own certificate first, then the ones that lead to a root.
    - `private_key`: DER, PKCS#8, not encrypted. It never shows in the repr.

    Raises `ValueError` if the key does not belong to the first certificate.
    """

    certificate_chain: tuple[bytes, ...]
    private_key: bytes

    def __post_init__(self) -> None:
        object.__setattr__(self, "certificate_chain", tuple(bytes(der) for der in self.certificate_chain))
        object.__setattr__(self, "private_key", bytes(self.private_key))
        if not self.certificate_chain:
            raise ValueError("an Identity needs at least one certificate, got none")
        leaf, *_ = [_parse_der(der) for der in self.certificate_chain]
        _check_pair(leaf, self.private_key)

    def __repr__(self) -> str:
        return f"Identity(fingerprint={self.fingerprint!r}, certificates={len(self.certificate_chain)})"

    @property
    def certificate(self) -> bytes:
        """Our own certificate, DER: what a peer puts into `Trust.certificates`."""
        return self.certificate_chain[0]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of our own certificate in hex: what a peer puts into `Trust.fingerprints`."""
        return _fingerprint(self.certificate).hex()

    @classmethod
    def from_files(
        cls,
        cert: str | os.PathLike[str],
        key: str | os.PathLike[str] | None = None,
        password: str | bytes | None = None,
    ) -> Identity:
        """Read PEM files: `cert` holds the chain, leaf first, and the private key too if `key` is None."""
        cert_pem = _read(cert)
        return cls._load(cert_pem, str(cert), *((cert_pem, str(cert)) if key is None else (_read(key), str(key))), password)

    @classmethod
    def from_pem(cls, cert: str | bytes, key: str | bytes | None = None, password: str | bytes | None = None) -> Identity:
        """From PEM text: `cert` holds the chain, leaf first, and the private key too if `key` is None."""
        return cls._load(_octets(cert), "cert", *((_octets(cert), "cert") if key is None else (_octets(key), "key")), password)

    @classmethod
    def _load(cls, cert: bytes, cert_source: str, key: bytes, key_source: str, password: str | bytes | None) -> Identity:
        from cryptography.hazmat.primitives import serialization

        chain = tuple(_parse_pem(cert, cert_source))
        block = _PRIVATE_KEY.search(key)
        if block is None:
            raise ValueError(f"{key_source} holds no private key in PEM form (-----BEGIN … PRIVATE KEY-----)")
        if b"ENCRYPTED" in block[0] and password is None:
            raise ValueError(f"the private key in {key_source} is encrypted: password must be given, got None")
        secret = _octets(password) if password is not None and b"ENCRYPTED" in block[0] else None
        try:
            private_key = serialization.load_pem_private_key(block[0], secret)
        except (ValueError, TypeError) as error:
            raise ValueError(f"the private key in {key_source} cannot be read: {error}") from None
        return cls(chain, _pkcs8(private_key))

    @classmethod
    def self_signed(cls, *names: str, valid_for: datetime.timedelta | None = None) -> Identity:
        """Make a key and a certificate for these host names and IP addresses, good for servers and clients alike.

        A fresh ECDSA P-256 key each time, valid from an hour ago (clocks differ) until `valid_for` from now, a year by default.
        """
        import datetime

        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

        if not names:
            raise ValueError("self_signed needs at least one host name or IP address, got none")
        if valid_for is None:
            valid_for = datetime.timedelta(days=365)
        if valid_for <= datetime.timedelta(0):
            raise ValueError(f"valid_for must be above 0, got {valid_for}")
        alternatives = [_general_name(name) for name in names]
        # A common name has at most 64 characters (RFC 5280 appendix A.1); only people read it.
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        key = ec.generate_private_key(ec.SECP256R1())
        signing_only = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=False,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            x509.CertificateBuilder(issuer_name=subject, subject_name=subject, public_key=key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + valid_for)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(signing_only, critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls((_der(certificate),), _pkcs8(key))

    def pem(self) -> tuple[str, str]:
        """The chain and the unencrypted key as PEM text, in the form that `from_pem` takes."""
        from cryptography.hazmat.primitives import serialization

        chain = "".join(_parse_der(der).public_bytes(serialization.Encoding.PEM).decode() for der in self.certificate_chain)
        key = serialization.load_der_private_key(self.private_key, None).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return chain, key.decode()


@value
class Trust(Value):
    """What makes a peer's certificate good: `Trust.system()`, `Trust.certificates(...)` or `Trust.fingerprints(...)`.

    `values` are the DER certificates or the SHA-256 digests, sorted: the order in which they were given means nothing.
    """

    kind: Literal["system", "certificates", "fingerprints"] = "system"
    values: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(sorted(set(self.values))))
        if self.kind not in ("system", "certificates", "fingerprints"):
            raise ValueError(f"kind must be 'system', 'certificates' or 'fingerprints', got {self.kind!r}")
        if bool(self.values) == (self.kind == "system"):
            needs = "takes no values" if self.kind == "system" else "needs at least one"
            raise ValueError(f"Trust.{self.kind} {needs}, got {len(self.values)}")

    def __repr__(self) -> str:
        # A certificate is shown by its fingerprint: that is what people compare.
        digests = self.values if self.kind == "fingerprints" else [_fingerprint(der) for der in self.values]
        return f"Trust.{self.kind}({', '.join(digest.hex() for digest in digests)})"

    @classmethod
    def system(cls) -> Trust:
        """The roots that this system trusts; the certificate must be for the server's name and valid now."""
        return cls("system")

    @classmethod
    def certificates(cls, *certificates: bytes | bytearray | str | Certificate | Identity) -> Trust:
        """Only these roots, or exactly these peers' certificates; name and dates are checked as well.

        Each is DER bytes, PEM text or bytes (one or a bundle), an `Identity` or a certificate object of `cryptography`.
        """
        return cls("certificates", tuple(der for one in certificates for der in _certificates_in(one)))

    @classmethod
    def fingerprints(cls, *sha256: str) -> Trust:
        """Only a peer whose own certificate has one of these SHA-256 digests; names and dates are not looked at.

        Each is 64 hex digits in either case, with or without colons.
        """
        return cls("fingerprints", tuple(_digest(one) for one in sha256))


def _fingerprint(certificate: bytes) -> bytes:
    from hashlib import sha256  # which takes in all of OpenSSL

    return sha256(certificate).digest()


def _digest(text: object) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"a fingerprint must be text in hex, got {text!r}")
    try:
        digest = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        raise ValueError(f"a fingerprint must be 64 hex digits (SHA-256), got {text!r}") from None
    if len(digest) != 32:
        raise ValueError(f"a fingerprint must be 64 hex digits (SHA-256), got {len(digest) * 2}: {text!r}")
    return digest


def _certificates_in(source: bytes | bytearray | str | Certificate | Identity) -> Iterator[bytes]:
    if isinstance(source, Identity):
        yield source.certificate
    elif isinstance(source, str):
        yield from _parse_pem(source.encode(), "the text")
    elif isinstance(source, (bytes, bytearray)):
        data = bytes(source)
        if b"-----BEGIN" in data:
            yield from _parse_pem(data, "the text")
        else:
            yield _der(_parse_der(data))
    elif (public_bytes := getattr(source, "public_bytes", None)) is not None:
        from cryptography.hazmat.primitives.serialization import Encoding

        yield public_bytes(Encoding.DER)
    else:
        raise TypeError(f"a certificate must be DER bytes, PEM text or an Identity, got {type(source).__name__}")


def _parse_pem(data: bytes, source: str) -> list[bytes]:
    from cryptography import x509

    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise ValueError(f"{source} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")
    try:
        return [_der(certificate) for certificate in x509.load_pem_x509_certificates(data)]
    except ValueError as error:
        raise ValueError(f"a certificate in {source} cannot be read: {error}") from None


def _parse_der(data: bytes) -> Certificate:
    from cryptography import x509

    try:
        return x509.load_der_x509_certificate(data)
    except ValueError as error:
        raise ValueError(f"{len(data)} bytes are neither a certificate in DER form nor PEM text: {error}") from None


def _check_pair(leaf: Certificate, private_key: bytes) -> None:
    from cryptography.hazmat.primitives import serialization

    try:
        public = serialization.load_der_private_key(private_key, None).public_key()
    except (ValueError, TypeError) as error:
        raise ValueError(f"the private key must be unencrypted PKCS#8 in DER form: {error}") from None
    spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if public.public_bytes(*spki) != leaf.public_key().public_bytes(*spki):
        raise ValueError(
            "the private key does not belong to the certificate: its public key differs from that of "
            f"{leaf.subject.rfc4514_string() or 'the first certificate'}; the first certificate must be our own"
        )


def _general_name(name: str) -> GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name if name.isascii() else name.encode("idna").decode())


def _der(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def _pkcs8(key: PrivateKeyTypes) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _read(path: str | os.PathLike[str]) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _octets(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else bytes(text)
