"""TLS by the standard library, for programs that bring their own `ssl.SSLContext`.

    ciphertext ──▶ incoming ──▶ ┌───────────┐ ──▶ read() ───▶ plaintext
                                │ SSLObject │
    ciphertext ◀── outgoing ◀── └───────────┘ ◀── write() ◀── plaintext

`ssl` is imported here although machines do no I/O: a MemoryBIO does none. OpenSSL says "nothing to read" by an
exception, so we read only while the incoming side holds something.
"""

from __future__ import annotations

import re
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

from tieline.engines.tls import TLSLayer
from tieline.engines.tls_failures import ALERTS
from tieline.errors import TLSError
from tieline.protocols.security import TLSMetadata

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from tieline.protocols.tls import TLS

__all__ = ["ContextLayer"]

READ_SIZE = 16 * 1024
"""Bytes asked for at once: OpenSSL returns at most one record, and Python allocates what was asked for."""


class ContextLayer(TLSLayer):
    """TLS by an `ssl.SSLContext`, which brings trust, certificates and versions; a validator is asked last."""

    def __init__(self, options: TLS, server_side: bool, server_name: str | None, endpoint: object) -> None:
        super().__init__(options.certificate_validator, endpoint)
        context = options.ssl_context
        assert context is not None
        if context.check_hostname and not server_side and server_name is None:
            raise ValueError(
                f"{endpoint} has no host name to check the server's certificate against; set server_name=..., "
                "or check_hostname=False on the ssl_context"
            )
        self._server_name = server_name
        self._server_side = server_side
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        try:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side, server_name)
        except ssl.SSLError as error:  # a context for the other role
            raise ValueError(f"ssl_context={context!r} does not fit this side: {error.args[-1]}") from None
        self._shaking = True
        self._unsent = b""  # while the peer renegotiates (TLS 1.2), nothing can be encrypted
        self._error: TLSError | None = None

    def start(self) -> bytes:
        if not self._server_side:
            self._shake()
        return self.output()

    def receive(self, data: Buffer, /) -> bytes:
        if self._error is not None:
            raise self._error
        self._incoming.write(data)
        if self._shaking and not self._shake():
            return b""
        plaintext = self._read()
        if self._unsent:
            self._unsent = self._write(memoryview(self._unsent))
        return plaintext if self.ready else self._progress(plaintext)

    def _shake(self) -> bool:
        """Go on with the handshake; True once it is done."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            self._error = self._translated(error)
            raise self._error from None
        self._shaking = False
        return True

    def _shaken(self) -> bool:
        if not self._judged and not self._shaking:
            certificates = self._certificates()
            if certificates or not self._server_side:  # a client that was not asked for one has nothing to judge
                self._judge(certificates, self._server_name or "")
        return not self._shaking

    def _read(self) -> bytes:
        pieces: list[bytes] = []
        try:
            while not self.ended and (self._incoming.pending or self._tls.pending()):
                piece = self._tls.read(READ_SIZE)
                if piece:
                    pieces.append(piece)
                else:
                    self.ended = True  # close_notify: a truncated stream never gets here
        except ssl.SSLWantReadError:
            pass  # the last record is not complete yet, or it was not data
        except ssl.SSLZeroReturnError:
            self.ended = True  # the same, after we had ended our own direction
        except ssl.SSLError as error:
            self._error = self._translated(error)
            if not pieces:
                raise self._error from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def send(self, data: Buffer, /) -> bytes:
        if self._unsent:
            self._unsent += bytes(data)
        else:
            self._unsent = self._write(memoryview(data).cast("B"))
        return self._outgoing.read()

    def _write(self, view: memoryview) -> bytes:
        """Encrypt; returns what could not be. One call writes one record, whatever it is given."""
        try:
            while view:
                view = view[self._tls.write(view) :]
        except ssl.SSLWantReadError:
            return bytes(view)
        except ssl.SSLError as error:
            raise self._translated(error) from None
        return b""

    def send_early(self, data: Buffer, /) -> int:
        return 0  # the standard library has no early data

    def end(self) -> bytes:
        with suppress(ssl.SSLError):  # close_notify is written; what is missing is the peer's, for which we do not wait
            self._tls.unwrap()
        return self.output()

    def output(self) -> bytes:
        return self._outgoing.read() if self._outgoing.pending else b""

    def metadata(self) -> TLSMetadata:
        cipher = self._tls.cipher()
        if self._shaking or cipher is None:
            raise RuntimeError("the handshake is not done: wait for ready")
        return TLSMetadata(
            version=self._tls.version() or "",
            cipher_suite=cipher[0],
            negotiated_alpn=self._tls.selected_alpn_protocol(),
            server_name=self._server_name,
            peer_certificates=tuple(self._certificates()),
            resumed=bool(self._tls.session_reused),
        )

    def _certificates(self) -> list[bytes]:
        """The chain as the peer sent it, from Python 3.13 on; its own certificate alone before that."""
        chain = getattr(self._tls, "get_unverified_chain", None)
        if chain is not None:
            return list(chain() or ())
        leaf = self._tls.getpeercert(binary_form=True)
        return [] if leaf is None else [leaf]

    def _translated(self, error: ssl.SSLError) -> TLSError:
        slug = error.reason or ""
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = _VERIFY_CODES.get(error.verify_code, "bad_certificate")
            if reason == "wrong_name":
                return self._failed(reason, expected=self._server_name)
            return self._failed(reason, got=error.verify_message if reason == "unknown_authority" else None)
        if (match := _ALERT.fullmatch(slug)) and match[1].lower() in ALERTS:
            return self._failed("alert_received", alert=match[1].lower(), received=True)
        reason = _REASONS.get(slug, "protocol_violation")
        if reason == "not_tls" and not self._shaking:
            reason = "protocol_violation"
        words = slug.replace("_", " ").lower() or str(error)
        return self._failed(reason, detail=f"the peer broke the rules of TLS ({words})" if reason == "protocol_violation" else "")


_ALERT = re.compile(r"(?:SSLV3|TLSV1|TLSV13)_(?:ALERT_)?(\w+)")

# X509_V_ERR_… of OpenSSL's x509_vfy.h; all others are faults of form or signature.
_VERIFY_CODES = {
    9: "not_yet_valid",
    10: "expired",
    23: "revoked",
    26: "wrong_purpose",
    62: "wrong_name",
    64: "wrong_name",
    **dict.fromkeys((2, 18, 19, 20, 21, 24, 27, 28, 33), "unknown_authority"),
}

# OpenSSL's names of what went wrong here; all others are the peer's breach of the protocol.
_REASONS = {
    "WRONG_VERSION_NUMBER": "not_tls",
    "HTTP_REQUEST": "not_tls",
    "HTTPS_PROXY_REQUEST": "not_tls",
    "UNSUPPORTED_PROTOCOL": "no_common_version",
    "WRONG_SSL_VERSION": "no_common_version",
    "VERSION_TOO_LOW": "no_common_version",
    "NO_SHARED_CIPHER": "no_common_cipher",
    "NO_SHARED_GROUP": "no_common_cipher",
    "NO_SUITABLE_KEY_SHARE": "no_common_cipher",
    "WRONG_CIPHER_RETURNED": "no_common_cipher",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "certificate_required",
    "PACKET_LENGTH_TOO_LONG": "record_too_large",
    "DATA_LENGTH_TOO_LONG": "record_too_large",
    "ENCRYPTED_LENGTH_TOO_LONG": "record_too_large",
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": "decrypt_error",
    "BAD_SIGNATURE": "decrypt_error",
    "DIGEST_CHECK_FAILED": "decrypt_error",
    "INTERNAL_ERROR": "internal",
}
