"""The security options that TLS and QUIC share, and what a handshake agreed on."""

from __future__ import annotations

import enum
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from tieline.identity import Identity, Trust
from tieline.protocols.checks import require_seconds
from tieline.values import Value, value

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

__all__ = ["CertificateValidator", "PeerAuthentication", "SecurityOptions", "TLSMetadata", "TLSVersion"]

CertificateValidator = Callable[[list[bytes], str], "bool | Awaitable[bool]"]
"""Takes the peer's certificates (DER, its own first) and the server's name; True accepts."""

CIPHER_SUITES = {
    "TLSv1.3": ("TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
    "TLSv1.2": (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    ),
}
"""What the engine implements, by version, the preferred one first."""


class PeerAuthentication(enum.Enum):
    """How far the peer must prove who it is."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"


class TLSVersion(enum.StrEnum):
    """Versions of TLS. The first two are obsolete (RFC 8996): they name what is refused."""

    TLSv1_0 = "TLSv1.0"
    TLSv1_1 = "TLSv1.1"
    TLSv1_2 = "TLSv1.2"
    TLSv1_3 = "TLSv1.3"


@value(kw_only=True)
class SecurityOptions(Value):
    """The security of a connection, with the same names on every protocol that has one.

    - `alpn`: application protocols, the preferred one first; 1 to 255 bytes each.
    - `identity`: our certificate and key. A server needs one; a client presents it if it is asked to.
    - `trust`: what makes a peer's certificate good. A server looks at it only if `peer_authentication` asks for one.
    - `server_name`: what the server is called in its certificate; None takes the endpoint's host.
    - `peer_authentication`: None is the role's default: clients verify servers, servers ask clients for nothing.
      ``NONE`` accepts any server unseen; ``OPTIONAL`` is for servers, a client verifies as by default.
    - `certificate_validator`: decides in place of `trust`, for each handshake, also a resumed one. Called with the
      peer's certificates and the server's name; an exception refuses. With an awaitable no data moves until it decided.
    - `minimum_version`, `maximum_version`: None leaves it to the engine, which knows TLS 1.2 and 1.3.
    - `cipher_suites`: allowed suites by their IANA names; empty allows all that the engine has.
    - `tickets`: sessions may be resumed, but only between connections with equal security options.
    - `early_data`: 0-RTT. What is sent that way can be replayed by an attacker, so it goes only with `send_idempotent`.
    - `keylog_file`: path of a file to which the secrets of all connections are appended, for Wireshark.
    - `handshake_timeout`: seconds; None waits as long as the transport does.
    """

    alpn: Sequence[str] = ()
    identity: Identity | None = None
    trust: Trust = Trust.system()
    server_name: str | None = None
    peer_authentication: PeerAuthentication | None = None
    certificate_validator: CertificateValidator | None = None
    minimum_version: TLSVersion | None = None
    maximum_version: TLSVersion | None = None
    cipher_suites: Sequence[str] = ()
    tickets: bool = True
    early_data: bool = False
    keylog_file: str | os.PathLike[str] | None = None
    handshake_timeout: float | None = 30.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpn", _names("alpn", self.alpn))
        object.__setattr__(self, "cipher_suites", _names("cipher_suites", self.cipher_suites))
        for name in self.alpn:
            if not 1 <= len(name.encode()) <= 255:  # RFC 7301 section 3.1
                raise ValueError(f"alpn names must be 1 to 255 bytes long, got {len(name.encode())}: {name[:40]!r}")
        if self.keylog_file is not None:
            object.__setattr__(self, "keylog_file", os.fspath(self.keylog_file))
        _require_type("identity", self.identity, Identity, optional=True)
        _require_type("trust", self.trust, Trust)
        _require_type("server_name", self.server_name, str, optional=True)
        _require_type("peer_authentication", self.peer_authentication, PeerAuthentication, optional=True)
        if self.server_name == "":
            raise ValueError("server_name must be a host name or IP address, got ''")
        if self.certificate_validator is not None and not callable(self.certificate_validator):
            raise TypeError(f"certificate_validator must be callable, got {self.certificate_validator!r}")
        require_seconds("handshake_timeout", self.handshake_timeout, optional=True)
        self._check_versions()
        self._check_judge()

    def _check_versions(self) -> None:
        low, high = self.minimum_version, self.maximum_version
        for option, version in (("minimum_version", low), ("maximum_version", high)):
            _require_type(option, version, TLSVersion, optional=True)
            if version in (TLSVersion.TLSv1_0, TLSVersion.TLSv1_1):
                raise ValueError(f"{option}={version} is obsolete (RFC 8996); a peer that needs it is reached with ssl_context")
        if low is not None and high is not None and low > high:
            raise ValueError(f"minimum_version={low} is above maximum_version={high}")
        allowed = [version for version in CIPHER_SUITES if (low or version) <= version <= (high or version)]
        known = [suite for suites in CIPHER_SUITES.values() for suite in suites]
        for suite in self.cipher_suites:
            if suite not in known:
                raise ValueError(f"cipher_suites must be among {', '.join(known)}, got {suite!r}")
        usable = {suite for version in allowed for suite in CIPHER_SUITES[version]}
        if self.cipher_suites and usable.isdisjoint(self.cipher_suites):
            raise ValueError(f"none of cipher_suites={list(self.cipher_suites)} belongs to {' or '.join(allowed)}")
        if self.early_data and high == TLSVersion.TLSv1_2:
            raise ValueError(f"early_data=True needs TLSv1.3, got maximum_version={high}")
        if self.early_data and not self.tickets:
            raise ValueError("early_data=True needs tickets=True, got tickets=False: it resumes an earlier session")

    def _check_judge(self) -> None:
        """Only one may judge the peer: what would be silently ignored is refused instead."""
        validator = self.certificate_validator
        if validator is not None and self.trust != Trust.system():
            raise ValueError(
                f"certificate_validator={validator!r} decides in place of trust, which was given too: {self.trust!r}"
            )
        if self.peer_authentication is PeerAuthentication.NONE:
            if validator is not None:
                raise ValueError(f"certificate_validator={validator!r} is never asked with peer_authentication=NONE")
            if self.trust != Trust.system():
                raise ValueError(f"trust={self.trust!r} is never looked at with peer_authentication=NONE")
        if self.early_data and validator is not None:
            raise ValueError(f"early_data=True would move data before certificate_validator={validator!r} has seen the peer")


@value(kw_only=True)
class TLSMetadata(Value):
    """What the handshake agreed on.

    `version` is ``"TLSv1.3"`` or ``"TLSv1.2"``; `cipher_suite` an IANA name (with `ssl_context` that of OpenSSL);
    `group` the key exchange, such as ``"X25519MLKEM768"``; `peer_certificates` DER, the peer's own first.
    """

    version: str
    cipher_suite: str
    group: str | None = None
    negotiated_alpn: str | None = None
    server_name: str | None = None
    peer_certificates: tuple[bytes, ...] = ()
    resumed: bool = False
    early_data_accepted: bool = False

    def certificates(self) -> list[Certificate]:
        """The peer's certificates as objects of `cryptography`."""
        from cryptography import x509

        return [x509.load_der_x509_certificate(der) for der in self.peer_certificates]


def _names(option: str, value: Sequence[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        raise TypeError(f"{option} must be a sequence of names, got {value!r}; write [{value!r}]")
    names = tuple(value)
    for name in names:
        _require_type(f"each of {option}", name, str)
    return names


def _require_type(option: str, value: object, kind: type, *, optional: bool = False) -> None:
    if not isinstance(value, kind) and not (optional and value is None):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise TypeError(f"{option} must be {article} {kind.__name__}{' or None' if optional else ''}, got {value!r}")
