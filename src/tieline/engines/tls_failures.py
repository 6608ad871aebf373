"""What a TLS engine says of a failure, as sentences."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tieline.errors import TLSError

if TYPE_CHECKING:
    from tieline._engine.tls import TlsFailure

__all__ = ["ALERTS", "tls_error", "translated"]


def translated(failure: TlsFailure, **where: Any) -> TLSError:
    """The engine's failure as a sentence; `where` goes to TLSError."""
    return tls_error(
        failure.reason,
        alert=failure.alert,
        received=failure.received,
        expected=failure.expected,
        got=failure.got and _GOT.get(failure.reason, "{}").format(failure.got),
        detail=str(failure),
        **where,
    )


def tls_error(reason: str, *, alert: str | None = None, received: bool = False, detail: str = "", **where: Any) -> TLSError:
    """The error for an engine's `reason`; `where` goes to TLSError.

    `received`: the peer found the fault and sent `alert`. `detail`: the engine's own sentence, for what has none here.
    """
    if received:
        reason = _SAME_FOR_BOTH.get(alert or "", reason)
        summary, hint = _PEER_SAYS.get(alert or "", ("the peer broke off", None))
        summary += f" (alert {alert})"
    else:
        summary, hint = _SENTENCES.get(reason, _SENTENCES["internal"])
        if detail and reason in ("bad_certificate", "protocol_violation", "internal"):
            summary = detail[0].lower() + detail[1:].rstrip(".")
    return TLSError(summary, reason=reason, alert=alert, code=ALERTS.get(alert or ""), hint=hint, **where)


_TRUST = "Trust it with Trust.certificates(...) or pin it with Trust.fingerprints(...)"

_SENTENCES: dict[str, tuple[str, str | None]] = {
    "expired": ("the peer's certificate has expired", "It must be renewed; or the clock of this machine is wrong"),
    "not_yet_valid": (
        "the peer's certificate is not valid yet",
        "Check the clock of this machine and that of the peer",
    ),
    "wrong_name": (
        "the peer's certificate is for another name",
        "Connect by a name that is in it, or set server_name=...",
    ),
    "unknown_authority": ("the peer's certificate is not signed by a known authority", _TRUST),
    "revoked": ("the peer's certificate has been revoked", None),
    "wrong_purpose": ("the peer's certificate is not meant for this purpose (extended key usage)", None),
    "bad_certificate": ("the peer's certificate is malformed or badly signed", None),
    "wrong_fingerprint": (
        "the peer's certificate is not one of those pinned",
        "If it was renewed, pin its new SHA-256",
    ),
    "refused_by_validator": ("certificate_validator refused the peer's certificate", None),
    "certificate_required": ("the client presented no certificate", "It must set identity=..."),
    "no_common_alpn": ("no application protocol in common (ALPN)", "Compare alpn=... on both sides"),
    "no_common_version": ("no TLS version in common", "Compare minimum_version and maximum_version on both sides"),
    "no_common_cipher": ("no cipher suite or key exchange group in common", "Compare cipher_suites on both sides"),
    "not_tls": ("the peer does not speak TLS", "Check the port, and whether the peer expects plain text first"),
    "protocol_violation": ("the peer broke the rules of TLS", None),
    "record_too_large": ("the peer sent a TLS record above the limit of 16 KiB (RFC 8446 section 5.2)", None),
    "decrypt_error": ("a TLS record or signature failed its check: it was damaged or forged on the way", None),
    "internal": ("the TLS engine failed", None),
}

_GOT = {"expired": "valid until {}", "not_yet_valid": "valid from {}"}  # what the engine's `got` is

_OURS = "the peer refused our certificate: "

_PEER_SAYS: dict[str, tuple[str, str | None]] = {
    "bad_certificate": (_OURS + "it could not be verified, or is for another name", None),
    "unsupported_certificate": (_OURS + "it does not support this kind, or not for this purpose", None),
    "certificate_revoked": (_OURS + "it has been revoked", None),
    "certificate_expired": (_OURS + "it is expired or not valid yet", None),
    "certificate_unknown": (_OURS + "it gave no reason", None),
    "unknown_ca": (_OURS + "it does not know who signed it", None),
    "access_denied": (_OURS + "it is valid but not let in", None),
    "certificate_required": ("the peer requires a client certificate, and it got none", "Set identity=..."),
    "no_application_protocol": _SENTENCES["no_common_alpn"],
    "protocol_version": _SENTENCES["no_common_version"],
    "unrecognized_name": ("the peer has no server of this name", "Check server_name"),
    "handshake_failure": (
        "the peer refused the handshake",
        "It gave no reason; often no cipher suite is in common, or it wants a client certificate (identity=...)",
    ),
}

_SAME_FOR_BOTH = {
    "certificate_required": "certificate_required",
    "no_application_protocol": "no_common_alpn",
    "protocol_version": "no_common_version",
}
"""Alerts that say what our own engine would have called by this name."""

# RFC 8446 section 6, RFC 5246 section 7.2, and RFC 7301 for the last one.
_NUMBERED = """
    0 close_notify 10 unexpected_message 20 bad_record_mac 22 record_overflow 40 handshake_failure 42 bad_certificate
    43 unsupported_certificate 44 certificate_revoked 45 certificate_expired 46 certificate_unknown 47 illegal_parameter
    48 unknown_ca 49 access_denied 50 decode_error 51 decrypt_error 70 protocol_version 71 insufficient_security
    80 internal_error 86 inappropriate_fallback 90 user_canceled 100 no_renegotiation 109 missing_extension
    110 unsupported_extension 112 unrecognized_name 113 bad_certificate_status_response 115 unknown_psk_identity
    116 certificate_required 120 no_application_protocol
"""
ALERTS = {name: int(number) for number, name in re.findall(r"(\d+) (\w+)", _NUMBERED)}
