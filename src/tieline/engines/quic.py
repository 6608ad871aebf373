"""QUIC's engine, made of options; and its reasons for an end, as errors."""

from __future__ import annotations

import secrets
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tieline._engine import quic as engine
from tieline.engines import tls
from tieline.engines.tls import client_config
from tieline.engines.tls_failures import translated
from tieline.errors import (
    ChannelClosedError,
    ConnectionAbortedByPeerError,
    ConnectRefusedError,
    IdleTimeoutError,
    NetworkError,
    PeerResetError,
    Phase,
    ProtocolViolationError,
)
from tieline.protocols.quic import RESET_KEY_LENGTH, QUICOptions

if TYPE_CHECKING:
    from tieline._engine.tls import TlsConfig

__all__ = [
    "BAD_CERTIFICATE",
    "CONNECTION_REFUSED",
    "client",
    "client_endpoint",
    "close_error",
    "server_config",
    "server_endpoint",
]

CONNECTION_REFUSED = 0x02  # RFC 9000 section 20.1
BAD_CERTIFICATE = 0x12A  # a CRYPTO_ERROR: the alert with this name (RFC 9001 section 4.8, RFC 8446 section 6)

CONFIGURATIONS = 128
SEND_WINDOW = 1024 * 1024  # bytes that the engine keeps of what was sent until it is acknowledged, for each connection
DATAGRAMS_KEPT = 1024 * 1024  # bytes of received datagrams that wait for a reader


@lru_cache(CONFIGURATIONS)
def _transport(options: QUICOptions) -> engine.QuicTransport:
    return engine.QuicTransport(
        idle_timeout=options.idle_timeout,
        keepalive=options.keepalive,
        maximum_bidirectional_streams=options.initial_max_bidirectional_streams,
        maximum_unidirectional_streams=options.initial_max_unidirectional_streams,
        stream_receive_window=options.initial_max_stream_data,
        receive_window=options.initial_max_data,
        send_window=SEND_WINDOW,
        max_datagram_frame_size=options.max_datagram_frame_size,
        datagram_receive_buffer=DATAGRAMS_KEPT,
        maximum_mtu=min(options.max_udp_payload_size, 1452),
        qlog=None if options.qlog is None else str(options.qlog),
    )


@lru_cache(CONFIGURATIONS)
def _client(options: QUICOptions) -> engine.QuicClient:
    return engine.QuicClient(client_config(options), _shared(_transport, options))


def client(options: QUICOptions) -> engine.QuicClient:
    """A client's configuration, with the tickets of its earlier connections; the same object for equal options."""
    made: engine.QuicClient = _shared(_client, options)
    return made


def client_endpoint(options: QUICOptions, seed: bytes | None = None) -> engine.QuicEndpoint:
    """The machine of one client's socket."""
    return engine.QuicEndpoint(maximum_udp_payload=options.max_udp_payload_size, seed=seed)


def server_config(options: QUICOptions) -> TlsConfig:
    """The TLS of a server. Raises ValueError without an identity.

    A client that comes back with early data relies on the limits that it was told the last time, and these may not have shrunk
    (RFC 9000 section 7.4.1). So a ticket is good only for a server with the same ones.
    """
    limits = (
        options.initial_max_data,
        options.initial_max_stream_data,
        options.initial_max_bidirectional_streams,
        options.initial_max_unidirectional_streams,
        options.max_datagram_frame_size,
    )
    return tls.server_config(options, limits if options.early_data else None)


def server_endpoint(options: QUICOptions, maximum_handshakes: int, seed: bytes | None = None) -> engine.QuicEndpoint:
    """The machine of one listening socket. Raises ValueError without an identity."""
    return engine.QuicEndpoint(
        reset_key=options.stateless_reset_key or (_process_reset_key() if seed is None else None),
        server_id=options.server_id,
        server_id_rotation=options.server_id_rotation,
        server=server_config(options),
        transport=_shared(_transport, options),
        maximum_connections=options.maximum_connections,
        maximum_handshakes=maximum_handshakes,
        retry_above=options.retry_above,
        maximum_udp_payload=options.max_udp_payload_size,
        seed=seed,
    )


@lru_cache(1)
def _process_reset_key() -> bytes:
    """What the listeners of this process share, so that each can speak for the others."""
    return secrets.token_bytes(RESET_KEY_LENGTH)


def _shared(make: Any, options: QUICOptions) -> Any:
    try:
        hash(options)
    except TypeError:  # of a validator: nobody can say whether it is equal to another one
        return make.__wrapped__(options)
    return make(options)


def close_error(close: engine.QuicClose, *, endpoint: object, phase: Phase) -> NetworkError:
    """Why a connection has ended, as the error that its calls raise."""
    where: dict[str, Any] = {"endpoint": endpoint, "phase": phase}
    reason = close.reason.decode("utf-8", "replace")
    said = f": {reason!r}" if reason else ""
    if close.kind == "tls" and close.tls is not None:
        return translated(close.tls, **where)
    if close.kind == "local":
        return ChannelClosedError("the connection was closed by this side", **where)
    if close.kind == "application":
        summary = f"the peer closed the connection with code {close.code}{said}"
        return ConnectionAbortedByPeerError(summary, reason=reason, code=close.code, **where)
    if close.kind == "idle_timeout":
        return IdleTimeoutError("nothing was heard from the peer for the idle timeout", **where)
    if close.kind == "stateless_reset":
        return PeerResetError("the peer has no such connection any more (stateless reset, RFC 9000 section 10.3)", **where)
    if close.kind == "version_mismatch":
        return ProtocolViolationError("the peer speaks no version of QUIC that we do (RFC 9000 section 6)", **where)
    if close.kind == "transport" and close.received:
        if close.name == "CONNECTION_REFUSED":
            return ConnectRefusedError(f"the server takes in no connection at present (CONNECTION_REFUSED){said}", **where)
        summary = f"the peer broke the connection off with {close.name or close.code}{said}"
        return ConnectionAbortedByPeerError(summary, reason=reason, code=close.code, **where)
    name = close.name or close.kind
    return ProtocolViolationError(f"the peer broke the rules of QUIC ({name}, RFC 9000 section 20.1): {close.message}", **where)
