"""TLS: a secure stream over TCP."""

from __future__ import annotations

from dataclasses import KW_ONLY, fields
from typing import TYPE_CHECKING, ClassVar

from tieline.protocols.roles import StreamProtocol
from tieline.protocols.security import SecurityOptions
from tieline.protocols.tcp import TCP
from tieline.values import value

if TYPE_CHECKING:
    import ssl

__all__ = ["TLS"]


@value
class TLS(StreamProtocol, SecurityOptions):
    """Transport Layer Security 1.2 and 1.3 over TCP: all of `SecurityOptions`, and

    - `ssl_context`: a context of the standard library that replaces Tieline's own engine. It brings its own
      certificates, ALPN and versions, so only `server_name`, `certificate_validator` (asked after the context has
      agreed) and `handshake_timeout` may be set beside it.
    """

    name: ClassVar[str] = "TLS"
    stands_on: ClassVar[str] = "TCP"

    below: TCP = TCP()
    _: KW_ONLY
    ssl_context: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        self._require_below(self.below, TCP)
        SecurityOptions.__post_init__(self)
        if self.ssl_context is not None:
            self._check_ssl_context()

    def _check_ssl_context(self) -> None:
        if not hasattr(self.ssl_context, "wrap_bio"):  # only drivers and the engine for it import ssl
            raise TypeError(f"ssl_context must be an ssl.SSLContext or None, got {self.ssl_context!r}")
        for option in fields(SecurityOptions):
            value = getattr(self, option.name)
            if option.name not in _BESIDE_SSL_CONTEXT and value != option.default:
                raise ValueError(
                    f"ssl_context={self.ssl_context!r} and {option.name}={value!r} exclude each other: "
                    f"{_IN_SSL_CONTEXT.get(option.name, 'set it on the context')}"
                )


_BESIDE_SSL_CONTEXT = ("server_name", "certificate_validator", "handshake_timeout")
_IN_SSL_CONTEXT = {
    "alpn": "call its set_alpn_protocols",
    "identity": "call its load_cert_chain",
    "trust": "call its load_verify_locations",
    "peer_authentication": "set its verify_mode",
    "minimum_version": "set its minimum_version",
    "maximum_version": "set its maximum_version",
    "cipher_suites": "call its set_ciphers",
    "tickets": "set its num_tickets",
    "early_data": "the standard library has none",
    "keylog_file": "set its keylog_filename",
}
