"""TCP: options and per-connection metadata."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import ClassVar

from tieline.protocols.checks import require_flags, require_range, require_seconds
from tieline.protocols.ip import IP
from tieline.protocols.roles import StreamProtocol
from tieline.values import Value, value

__all__ = ["TCP", "Keepalive", "TCPMetadata"]


LONGEST_DROP_TIME = (2**31 - 1) // 1000
"""Seconds: the kernel counts milliseconds in an int."""


@value(kw_only=True)
class Keepalive(Value):
    """TCP keepalive probes (RFC 9293 section 3.8.4): seconds idle before the first, seconds between them, how many."""

    idle: int = 60
    interval: int = 10
    count: int = 6

    def __post_init__(self) -> None:
        require_range("Keepalive.idle", self.idle, 1, 32767)
        require_range("Keepalive.interval", self.interval, 1, 32767)
        require_range("Keepalive.count", self.count, 1, 127)


@value
class TCP(Value, StreamProtocol):
    """The Transmission Control Protocol. An option left at None or False means the system's default.

    - `no_delay`: small writes go out at once (Nagle's algorithm off). On by default, as Python programs expect.
    - `no_push`: hold partial segments back until they fill.
    - `no_options`: send no TCP options.
    - `keepalive`: probe an idle peer; None sends no probes.
    - `maximum_segment_size`: bytes, 88 to 32767.
    - `connection_timeout`: seconds for the TCP handshake of one address.
    - `persist_timeout`: seconds to put up with a peer that keeps its window closed (RFC 6429).
    - `retransmit_connection_drop_time`: seconds of unanswered retransmission, or with the peer's window closed, until
      the connection is dropped (RFC 5482).
    - `retransmit_fin_drop`: drop the connection after a run of unanswered FINs.
    - `ack_stretching_disabled`: acknowledge without delay.
    - `ecn_disabled`: do not negotiate ECN.
    - `fast_open_allowed`: the first flight may ride on the SYN (RFC 7413). With TCP on top it needs
      ``Parameters(fast_open_allowed=True)`` and `send_idempotent` too; below TLS it carries the ClientHello.

    What the system cannot do raises when the connection is started, with the option's name: on Linux that is
    `no_options`, `persist_timeout`, `retransmit_fin_drop` and `ecn_disabled`, which exist only for a whole network
    namespace.
    """

    name: ClassVar[str] = "TCP"
    stands_on: ClassVar[str] = "IP"

    below: IP = IP()
    _: KW_ONLY
    no_delay: bool = True
    no_push: bool = False
    no_options: bool = False
    keepalive: Keepalive | None = None
    maximum_segment_size: int | None = None
    connection_timeout: float = 30.0
    persist_timeout: float | None = None
    retransmit_connection_drop_time: float | None = None
    retransmit_fin_drop: bool = False
    ack_stretching_disabled: bool = False
    ecn_disabled: bool = False
    fast_open_allowed: bool = False

    def __post_init__(self) -> None:
        self._require_below(self.below, IP)
        if self.keepalive is not None and not isinstance(self.keepalive, Keepalive):
            raise TypeError(f"keepalive must be a Keepalive or None, got {self.keepalive!r}")
        require_flags(
            self,
            "no_delay",
            "no_push",
            "no_options",
            "retransmit_fin_drop",
            "ack_stretching_disabled",
            "ecn_disabled",
            "fast_open_allowed",
        )
        require_range("maximum_segment_size", self.maximum_segment_size, 88, 32767, optional=True)
        require_seconds("connection_timeout", self.connection_timeout)
        require_seconds("persist_timeout", self.persist_timeout, optional=True)
        drop_time = self.retransmit_connection_drop_time
        require_seconds("retransmit_connection_drop_time", drop_time, optional=True, at_most=LONGEST_DROP_TIME)


@value
class TCPMetadata(Value):
    """What the kernel holds of a TCP connection at this moment, in bytes.

    `receive_buffer_bytes` waits to be read; `unacknowledged_bytes` was sent or queued and not yet acknowledged;
    `maximum_segment_size` is what both sides agreed on; `fast_open` says whether data rode on the SYN,
    `multipath` whether both sides speak Multipath TCP (RFC 8684), for which ``Parameters(multipath=...)`` asks.
    """

    receive_buffer_bytes: int
    unacknowledged_bytes: int
    maximum_segment_size: int
    fast_open: bool
    multipath: bool = False
