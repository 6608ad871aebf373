"""What the kernel counts of a TCP connection: TCP_INFO, include/uapi/linux/tcp.h."""

from __future__ import annotations

import struct

from tieline.reports import TransportCounters

__all__ = ["transport_counters"]

NOTHING = TransportCounters()
# tcpi_rtt, tcpi_rttvar (µs) at 68; tcpi_bytes_received at 128; segs_out, segs_in, notsent, min_rtt at 136; bytes_sent,
# bytes_retrans at 200.
READ = struct.Struct("=68xII52xQII4xI48xQQ")
NO_RTT = 0xFFFFFFFF  # tcpi_min_rtt before the first measurement


def transport_counters(information: bytes) -> TransportCounters:
    """The totals of a TCP connection; all unknown where the system keeps none."""
    if len(information) < READ.size:  # before Linux 4.19
        return NOTHING
    rtt, variance, received, segments_out, segments_in, minimum, sent, retransmitted = READ.unpack_from(information)
    return TransportCounters(
        segments_in,
        segments_out,
        received,
        None,
        None,
        sent,
        retransmitted,
        rtt / 1e6 if rtt else None,
        None if minimum == NO_RTT else minimum / 1e6,
        variance / 1e6 if rtt else None,
    )
