"""TLS as a sans-I/O machine (rustls with aws-lc-rs). Mirrors rust/python/src/tls.rs."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, final

from typing_extensions import Buffer

__all__ = ["TlsConfig", "TlsEngine", "TlsFailure", "TlsInfo"]

# (certificates as DER, leaf first; server name) -> accepted, or an awaitable of that.
_Validator: TypeAlias = Callable[[list[bytes], str], bool | Awaitable[bool]]

class TlsFailure(Exception):
    """The handshake or a record failed. The alert for the peer, if any, is in `TlsEngine.output()`."""

    reason: str
    """A stable slug: expired, not_yet_valid, wrong_name, unknown_authority, revoked, wrong_purpose, bad_certificate,
    wrong_fingerprint, refused_by_validator, certificate_required, no_common_alpn, no_common_version, no_common_cipher,
    alert_received, not_tls, protocol_violation, record_too_large, decrypt_error, internal."""
    alert: str | None
    """Name of the TLS alert that was received, or that is sent to the peer because of this."""
    received: bool
    """True if the peer sent the alert; False if we found the fault."""
    expected: str | None
    got: str | None

@final
class TlsConfig:
    """The settings of one side, checked once and then shared by its connections (and so is its session cache)."""

    @staticmethod
    def client(
        *,
        alpn: Sequence[bytes],
        trust: str,  # "system", "certificates", "fingerprints", "validator" or "none"
        certificates: Sequence[bytes] = (),  # DER, for "certificates"
        fingerprints: Sequence[bytes] = (),  # SHA-256 of a DER certificate, 32 bytes each, for "fingerprints"
        validator: _Validator | None = None,
        certificate_chain: Sequence[bytes] = (),  # DER, our own, leaf first
        private_key: bytes | None = None,  # DER: PKCS#8, PKCS#1 or SEC1
        minimum_version: str | None = None,  # "TLSv1.2" or "TLSv1.3"
        maximum_version: str | None = None,
        cipher_suites: Sequence[str] = (),  # IANA names; empty: the engine's own
        tickets: bool = True,
        early_data: bool = False,
        keylog_file: str | None = None,
    ) -> TlsConfig: ...
    def forget_tickets(self, server_name: str, /) -> bool:
        """Client: begin the next connection to this server without a ticket. False if no connection has one."""

    @staticmethod
    def server(
        *,
        alpn: Sequence[bytes],
        certificate_chain: Sequence[bytes],
        private_key: bytes,
        client_authentication: str = "none",  # "none", "optional", "required"
        trust: str = "none",  # how client certificates are judged, as above
        certificates: Sequence[bytes] = (),
        fingerprints: Sequence[bytes] = (),
        validator: _Validator | None = None,
        minimum_version: str | None = None,
        maximum_version: str | None = None,
        cipher_suites: Sequence[str] = (),
        tickets: bool = True,
        early_data: bool = False,
        keylog_file: str | None = None,
    ) -> TlsConfig: ...

@final
class TlsInfo:
    """What the handshake agreed on."""

    version: str  # "TLSv1.3"
    cipher_suite: str  # IANA name
    group: str | None  # "X25519MLKEM768", "X25519", ...
    alpn: str | None
    server_name: str | None
    peer_certificates: list[bytes]
    resumed: bool
    early_data_accepted: bool

@final
class TlsEngine:
    """One connection's TLS: ciphertext in and out on one side, plaintext on the other.

    ciphertext ──▶ receive() ──▶ plaintext
    ciphertext ◀── send()    ◀── plaintext
               ◀── output()      (handshake, alerts, key updates: take it after every call)
    """

    def __new__(cls, config: TlsConfig, server_name: str | None = None) -> TlsEngine:
        """`server_name` makes a client (an IP address is allowed, and then not sent as SNI)."""

    def receive(self, data: Buffer, /) -> bytes:
        """Take ciphertext; return the plaintext that it completes, perhaps none. Raises TlsFailure."""

    def send(self, data: Buffer, /) -> bytes:
        """Encrypt all of `data` and return the records, after whatever `output()` still held.

        The handshake must be done.
        """

    def output(self) -> bytes:
        """Take the bytes that wait for the peer without having been asked for by `send`."""

    def send_early(self, data: Buffer, /) -> int:
        """Clients, before the handshake is done: queue 0-RTT data in `output()`.

        Returns how many bytes were taken: 0 if there is no ticket, or if a validator is to judge the peer (early data
        would be gone before it is asked).
        """

    def close_notify(self) -> bytes:
        """End our direction; returns everything that is left to send. After a failure that is its alert."""

    @property
    def handshaking(self) -> bool: ...
    @property
    def peer_closed(self) -> bool:
        """The peer sent close_notify: its direction ended cleanly."""

    @property
    def failed(self) -> bool:
        """The connection has failed: the next call of `receive` or `send` raises.

        `receive` returns what was decrypted before a fault and leaves the fault to the next call;
        where this is True, `receive(b"")` raises it now.
        """

    @property
    def decision(self) -> Awaitable[bool] | None:
        """What an asynchronous validator returned and the engine has provisionally accepted.

        None when nothing is left to decide.
        """

    @property
    def needs_validation(self) -> bool:
        """The handshake resumed a session, so the validator has not seen this connection's peer yet."""

    @property
    def validator_error(self) -> BaseException | None:
        """What the validator raised, if that is why the handshake failed."""

    def info(self) -> TlsInfo:
        """Raises RuntimeError while handshaking."""
