"""QUIC: the connection's options, and the two protocols that it carries."""

from __future__ import annotations

import enum
import os
from dataclasses import KW_ONLY, field
from typing import ClassVar

from tieline.protocols.checks import require_bytes, require_range, require_seconds
from tieline.protocols.roles import DatagramProtocol, MultiplexProtocol, StreamProtocol
from tieline.protocols.security import SecurityOptions, TLSVersion
from tieline.protocols.udp import UDP
from tieline.values import Value, value

__all__ = ["ApplicationError", "Directionality", "Initiator", "QUICDatagram", "QUICOptions", "QUICStream"]

LARGEST_INTEGER = 2**62 - 1  # RFC 9000 section 16
LARGEST_STREAM_COUNT = 2**60  # RFC 9000 section 4.6
RESET_KEY_LENGTH = 32  # bytes: as long as the hash that it keys
LONGEST_SERVER_ID = 13  # bytes: a connection ID has 20, of which one is for the balancer's configuration, and six are a nonce


class Directionality(enum.Enum):
    """Who may send on a stream."""

    BIDIRECTIONAL = "bidirectional"
    UNIDIRECTIONAL = "unidirectional"


class Initiator(enum.Enum):
    """Who opened a stream."""

    CLIENT = "client"
    SERVER = "server"


@value
class ApplicationError(Value):
    """What an application says when it closes a connection: a code of its protocol's, and a text for people."""

    code: int
    reason: str = ""

    def __post_init__(self) -> None:
        require_range("ApplicationError.code", self.code, 0, LARGEST_INTEGER)
        if not isinstance(self.reason, str):
            raise TypeError(f"ApplicationError.reason must be a str, got {self.reason!r}")


@value
class QUICStream(Value, StreamProtocol):
    """One stream of a QUIC connection: ordered bytes. What stands on a stream is given to `open_stream(using=...)`."""

    name: ClassVar[str] = "QUIC stream"
    stands_on: ClassVar[str] = "a QUIC connection"


@value
class QUICDatagram(Value, DatagramProtocol):
    """The datagrams of a QUIC connection (RFC 9221)."""

    name: ClassVar[str] = "QUIC datagrams"
    stands_on: ClassVar[str] = "a QUIC connection"


@value
class QUICOptions(MultiplexProtocol, SecurityOptions):
    """QUIC version 1 (RFC 9000) over UDP: all of `SecurityOptions`, of which `alpn` is required, and

    - `idle_timeout`: seconds of silence after which the connection is lost; the smaller one of both sides counts. None is none.
    - `keepalive`: seconds of silence after which the peer is asked for a sign of life; None never asks.
    - `initial_max_data`, `initial_max_stream_data`: bytes that the peer may send and we have not read, in all and per stream.
    - `initial_max_bidirectional_streams`, `initial_max_unidirectional_streams`: that the peer may have open.
    - `max_datagram_frame_size`: bytes, up to 65535, of the largest datagram frame that is accepted; 0 is no datagrams.
    - `max_udp_payload_size`: bytes of the largest UDP datagram that is accepted and sent.
    - `maximum_connections`: of a listener, at one address.
    - `retry_above`: so many handshakes under way make a listener ask clients to show their address (RFC 9000 section 8.1.2).
    - `stateless_reset_key`: of a listener, 32 secret bytes; a server that starts again with the same ones tells clients at once
      that it has forgotten them (RFC 9000 section 10.3). By default all listeners of a process share random ones.
    - `server_id`, `server_id_rotation`: of a listener, 1 to 13 bytes in its connection IDs, in plain text, for load balancers
      (draft-ietf-quic-load-balancers section 5.2), and the number 0 to 6 of the balancer's configuration that they belong to.
    - `qlog`: a folder, which gets a file for each connection, or a file.
    """

    name: ClassVar[str] = "QUIC"
    stands_on: ClassVar[str] = "UDP"

    below: UDP = UDP()
    _: KW_ONLY
    idle_timeout: float | None = 30.0
    keepalive: float | None = None
    initial_max_data: int = 16 * 1024 * 1024
    initial_max_stream_data: int = 1024 * 1024
    initial_max_bidirectional_streams: int = 100
    initial_max_unidirectional_streams: int = 100
    max_datagram_frame_size: int = 0
    max_udp_payload_size: int = 1472
    maximum_connections: int = 10_000
    retry_above: int = 100
    stateless_reset_key: bytes | None = field(default=None, repr=False)
    server_id: bytes | None = None
    server_id_rotation: int = 0
    qlog: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        self._require_below(self.below, UDP)
        SecurityOptions.__post_init__(self)
        if not self.alpn:
            raise ValueError("QUIC needs an application protocol (RFC 9001 section 8.1), got alpn=[]; write QUIC(alpn=['name'])")
        if TLSVersion.TLSv1_2 in (self.minimum_version, self.maximum_version):
            raise ValueError("QUIC has TLS 1.3 only (RFC 9001 section 4.2): leave minimum_version and maximum_version out")
        require_seconds("idle_timeout", self.idle_timeout, optional=True)
        require_seconds("keepalive", self.keepalive, optional=True)
        require_range("initial_max_data", self.initial_max_data, 1, LARGEST_INTEGER)
        require_range("initial_max_stream_data", self.initial_max_stream_data, 1, LARGEST_INTEGER)
        for option in ("initial_max_bidirectional_streams", "initial_max_unidirectional_streams"):
            require_range(option, getattr(self, option), 0, LARGEST_STREAM_COUNT)
        require_range("max_datagram_frame_size", self.max_datagram_frame_size, 0, 65535)
        require_range("max_udp_payload_size", self.max_udp_payload_size, 1200, 65527)  # RFC 9000 section 18.2
        require_range("maximum_connections", self.maximum_connections, 1, 2**31)
        require_range("retry_above", self.retry_above, 0, 2**31)
        if self.stateless_reset_key is not None:
            require_bytes("stateless_reset_key", self.stateless_reset_key, RESET_KEY_LENGTH, RESET_KEY_LENGTH)
        if self.server_id is not None:
            require_bytes("server_id", self.server_id, 1, LONGEST_SERVER_ID)
        require_range("server_id_rotation", self.server_id_rotation, 0, 6)
        if self.qlog is not None:
            object.__setattr__(self, "qlog", os.fspath(self.qlog))
