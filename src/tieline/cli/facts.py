"""What a handshake agreed on, in words."""

from __future__ import annotations

from typing import Any

from tieline.connection import NetworkConnection
from tieline.protocols.quic import QUICOptions
from tieline.protocols.security import TLSMetadata
from tieline.protocols.tls import TLS

__all__ = ["agreement", "allowances"]


def agreement(connection: NetworkConnection[Any]) -> str:
    """What the two sides use, of a connection that is ready; empty without security."""
    stack = connection.parameters.stack
    if isinstance(stack, QUICOptions):
        return listed(connection.security_metadata)
    return "" if stack.find(TLS) is None else listed(connection.metadata(TLS))


def listed(session: TLSMetadata) -> str:
    alpn = session.negotiated_alpn
    facts = (session.version, session.group, session.cipher_suite, f"ALPN {alpn}" if alpn else None)
    return ", ".join(fact for fact in facts if fact)


def allowances(connection: NetworkConnection[Any]) -> str:
    """What the peer of a QUIC connection lets us do, empty on any other."""
    if not isinstance(connection.parameters.stack, QUICOptions):
        return ""
    both, one_way = connection.remote_max_streams_bidirectional, connection.remote_max_streams_unidirectional
    size, idle = connection.usable_datagram_frame_size, connection.remote_idle_timeout
    datagrams = f"datagrams to {size:,} B" if size else "no datagrams"
    silence = "no idle timeout" if idle is None else f"idle {idle:g} s"
    return f"peer allows {both} two-way, {one_way} one-way streams; {datagrams}; {silence}"
