"""TLS as a layer: options become an engine, and the engine's failures become sentences.

    options ──▶ client_layer / server_layer ──▶ EngineLayer (rustls)  or  ContextLayer (ssl_context: tls_stdlib.py)

Both are a `TLSLayer`, which knows when the handshake counts as done. That is later than the engine thinks if the
application decides about the certificate: a validator that returned an awaitable, or one that has not seen the peer
because the session was resumed. Until then nothing is sent, and what came is held back.

Configurations are shared between connections whose settings are equal, and only between those. Each owns its session
cache, so a session can never be resumed under another trust, validator or identity than it was made under.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Hashable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from tieline._engine import tls as engine
from tieline.engines.tls_failures import tls_error, translated
from tieline.errors import PeerResetError, Phase, TLSError
from tieline.protocols.security import CertificateValidator, PeerAuthentication, SecurityOptions, TLSMetadata
from tieline.protocols.tls import TLS

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from tieline.engines.pipeline import Layer

__all__ = [
    "TLSLayer", "check_server", "checked_name", "client_config", "client_layer", "server_config", "server_layer", "tls_metadata",
]  # fmt: skip

CONFIGURATIONS = 128
"""How many of each role are kept; the least recently used is dropped. A program has few, each with its sessions."""

NO_NAME = "0.0.0.0"
"""Stands for the server's name where nobody looks at it: an address is not sent as SNI (RFC 6066 section 3)."""


def client_layer(options: TLS, *, endpoint_name: str | None, endpoint: object) -> Layer:
    """For a client of `endpoint`, whose host is `endpoint_name`. Raises ValueError without a name to check."""
    if options.ssl_context is not None:
        return _context_layer(options, False, _plain_name(options.server_name or endpoint_name), endpoint)
    return EngineLayer(client_config(options), checked_name(options, endpoint_name, endpoint), options, endpoint)


def server_layer(options: TLS, *, endpoint: object) -> Layer:
    """For a server and its client at `endpoint`. Raises ValueError without an identity."""
    if options.ssl_context is not None:
        return _context_layer(options, True, None, endpoint)
    return EngineLayer(server_config(options), None, options, endpoint)


def _context_layer(options: TLS, server_side: bool, server_name: str | None, endpoint: object) -> Layer:
    from tieline.engines.tls_stdlib import ContextLayer  # imports ssl, which only this case needs

    return ContextLayer(options, server_side, server_name, endpoint)


def check_server(options: SecurityOptions) -> None:
    """Raise ValueError if no server can be made with these options: a listener's constructor asks."""
    if getattr(options, "ssl_context", None) is None and options.identity is None:
        raise ValueError("a server needs a certificate and a key, got identity=None; try Identity.from_files(cert, key)")


def client_config(options: SecurityOptions) -> engine.TlsConfig:
    """The engine's configuration for a client; the same object for equal settings."""
    settings = _settings(options, judges=options.peer_authentication is not PeerAuthentication.NONE)
    return _shared(_client_config, options.name, settings)  # type: ignore[attr-defined]  # every bearer is a protocol


def server_config(options: SecurityOptions, promised: Hashable = None) -> engine.TlsConfig:
    """The engine's configuration for a server; the same object for equal settings.

    `promised` is what else a client may rely on when it sends early data: with other promises its ticket is no good.
    """
    check_server(options)
    asked = options.peer_authentication or PeerAuthentication.NONE
    settings = _settings(options, judges=asked is not PeerAuthentication.NONE)
    settings |= {"promised": promised, "client_authentication": asked.value}
    return _shared(_server_config, options.name, settings)  # type: ignore[attr-defined]


def checked_name(options: SecurityOptions, endpoint_name: str | None, endpoint: object) -> str:
    """What a client gives the engine as the server's name. Raises ValueError if there is none and somebody needs it."""
    name = _plain_name(options.server_name or endpoint_name)
    if name is not None:
        return name
    if options.peer_authentication is PeerAuthentication.NONE or options.trust.kind == "fingerprints":
        return NO_NAME
    raise ValueError(
        f"{endpoint} has no host name to check the server's certificate against; "
        "set server_name=..., or pin the certificate with Trust.fingerprints(...)"
    )


def _plain_name(name: str | None) -> str | None:
    """A host as certificates and SNI have it: no zone, no final dot, international names in ASCII."""
    if name is None:
        return None
    name = name.partition("%")[0].rstrip(".")
    return name if name.isascii() else name.encode("idna").decode()


def _settings(options: SecurityOptions, *, judges: bool) -> dict[str, Any]:
    """What both roles have in common, every value hashable. `judges`: the peer's certificate is looked at."""
    validator = options.certificate_validator if judges else None
    trust = "none" if not judges else "validator" if validator is not None else options.trust.kind
    identity, low, high = options.identity, options.minimum_version, options.maximum_version
    return {
        "alpn": tuple(name.encode() for name in options.alpn),
        "trust": trust,
        "certificates": options.trust.values if trust == "certificates" else (),
        "fingerprints": options.trust.values if trust == "fingerprints" else (),
        "validator": validator,
        "certificate_chain": () if identity is None else identity.certificate_chain,
        "private_key": None if identity is None else identity.private_key,
        "minimum_version": None if low is None else low.value,
        "maximum_version": None if high is None else high.value,
        "cipher_suites": tuple(options.cipher_suites),
        "tickets": options.tickets,
        "early_data": options.early_data,
        "keylog_file": options.keylog_file,
    }


# By protocol, too: a ticket of TLS is no good for QUIC.


@lru_cache(CONFIGURATIONS)
def _client_config(protocol: str, **settings: Any) -> engine.TlsConfig:
    return engine.TlsConfig.client(**settings)


@lru_cache(CONFIGURATIONS)
def _server_config(protocol: str, promised: Hashable, **settings: Any) -> engine.TlsConfig:
    return engine.TlsConfig.server(**settings)


def _shared(make: Any, protocol: str, settings: dict[str, Any]) -> engine.TlsConfig:
    try:
        hash(settings["validator"])
    except TypeError:  # then nobody can say whether it is equal to another one
        return make.__wrapped__(protocol, **settings)  # type: ignore[no-any-return]
    return make(protocol, **settings)  # type: ignore[no-any-return]


class TLSLayer:
    """What every TLS layer has, whichever engine does the work: when it is ready, and how it fails."""

    name = "TLS"
    early_data_accepted = False
    ended = False

    def __init__(self, validator: CertificateValidator | None, endpoint: object) -> None:
        self.ready = False
        self.decision: Awaitable[bool] | None = None
        self._validator = validator
        self._endpoint = endpoint
        self._judged = validator is None
        self._refusal: TLSError | None = None
        self._held = b""  # what came while the application was deciding

    def receive(self, data: Buffer, /) -> bytes:
        """If something good came before a fault, it is returned, and the next call raises."""
        raise NotImplementedError

    def _shaken(self) -> bool:
        """The engine's handshake is done. Also asks for the validator's judgement when it is time."""
        raise NotImplementedError

    def _progress(self, plaintext: bytes) -> bytes:
        """What came before this layer was ready: returns what may be given up already, and sets `ready`."""
        if self._refusal is not None:  # it stays refused
            raise self._refusal
        if not self._shaken():
            return plaintext  # early data
        if self.decision is not None:
            self._held += plaintext
            return b""
        self.ready = True
        return plaintext

    def _judge(self, certificates: list[bytes], server_name: str) -> None:
        """Ask the validator where the engine did not."""
        assert self._validator is not None
        self._judged = True
        try:
            verdict: object = self._validator(certificates, server_name)
        except Exception as error:
            self._refuse(error)
        if inspect.isawaitable(verdict):
            self.decision = verdict
        elif verdict is False:
            self._refuse(None)
        elif verdict is not True:  # None, from a forgotten return, must not be a guess
            self._refuse(TypeError(f"a validator returns a bool or an awaitable of one, got {verdict!r}"))

    def decided(self, accepted: bool, error: BaseException | None = None) -> bytes:
        self.decision = None
        if accepted is not True:
            self._refuse(error)
        held, self._held = self._held, b""
        return self._progress(held)

    def _refuse(self, error: BaseException | None) -> NoReturn:
        self._refusal = self._failed("refused_by_validator")
        self._refusal.__cause__ = error
        raise self._refusal

    def receive_end(self) -> None:
        self.receive(b"")  # raises what was found behind the last data
        if self.ended:
            return
        if self.ready or self.decision is not None:
            raise PeerResetError(
                "TLS cut short: the stream ended without close_notify (RFC 8446 section 6.1)",
                endpoint=self._endpoint,
                phase=Phase.TRANSFER,
                hint="What has been received may be incomplete.",
            )
        raise PeerResetError(
            "the peer broke off",
            endpoint=self._endpoint,
            phase=Phase.HANDSHAKE,
            expected="a TLS handshake",
            got="the end of the stream",
        )

    def _failed(self, reason: str, **what: Any) -> TLSError:
        phase = Phase.TRANSFER if self.ready else Phase.HANDSHAKE
        return tls_error(reason, endpoint=self._endpoint, phase=phase, **what)


class EngineLayer(TLSLayer):
    """TLS by the compiled engine."""

    def __init__(self, config: engine.TlsConfig, server_name: str | None, options: SecurityOptions, endpoint: object) -> None:
        super().__init__(options.certificate_validator, endpoint)
        self._server_name = server_name
        self.cipher = self._engine = engine.TlsEngine(config, server_name)
        # Bound once: these are called for every piece of data.
        self.output = self._engine.output
        self.end = self._engine.close_notify

    @property
    def early_data_accepted(self) -> bool:  # type: ignore[override]
        return not self._engine.handshaking and self._engine.info().early_data_accepted

    @property
    def ended(self) -> bool:  # type: ignore[override]
        return self._engine.peer_closed

    def start(self) -> bytes:
        return self._engine.output()

    def receive(self, data: Buffer, /) -> bytes:
        try:
            plaintext = self._engine.receive(data)
        except engine.TlsFailure as failure:
            raise self._translated(failure) from self._engine.validator_error
        return plaintext if self.ready else self._progress(plaintext)

    def _shaken(self) -> bool:
        if not self._judged and (decision := self._engine.decision) is not None:
            self._judged, self.decision = True, decision
        if self._engine.handshaking:
            return False
        if not self._judged and self._engine.needs_validation:
            info = self._engine.info()
            self._judge(info.peer_certificates, self._server_name or info.server_name or "")
        return True

    def send(self, data: Buffer, /) -> bytes:
        try:
            return self._engine.send(data)
        except engine.TlsFailure as failure:
            raise self._translated(failure) from None

    def send_early(self, data: Buffer, /) -> int:
        return self._engine.send_early(data)

    def metadata(self) -> TLSMetadata:
        return tls_metadata(self._engine.info(), self._server_name)

    def _translated(self, failure: engine.TlsFailure) -> TLSError:
        return translated(failure, endpoint=self._endpoint, phase=Phase.TRANSFER if self.ready else Phase.HANDSHAKE)


def tls_metadata(info: engine.TlsInfo, server_name: str | None) -> TLSMetadata:
    """What a handshake agreed on; `server_name` is what a client asked for."""
    return TLSMetadata(
        version=info.version,
        cipher_suite=info.cipher_suite,
        group=info.group,
        negotiated_alpn=info.alpn,
        server_name=None if server_name == NO_NAME else server_name or info.server_name,
        peer_certificates=tuple(info.peer_certificates),
        resumed=info.resumed,
        early_data_accepted=info.early_data_accepted,
    )
