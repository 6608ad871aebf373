"""What a connection measured: how it was established, and what it moved. `str()` of a report is a table to read."""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any, Final, NamedTuple

from tieline.endpoints import Endpoint
from tieline.paths import Interface
from tieline.values import Value, value

_UNKNOWN: Final = "–"
_WIDTH: Final = 80


class ResolutionSource(enum.Enum):
    """Where the answer came from."""

    QUERY = "query"
    CACHE = "cache"
    EXPIRED_CACHE = "expired cache"


class DNSProtocol(enum.Enum):
    """What carried the query; `UNKNOWN` if the system's resolver made it."""

    UNKNOWN = "unknown"
    UDP = "UDP"
    TCP = "TCP"
    TLS = "TLS"
    HTTPS = "HTTPS"


class RadioType(enum.Enum):
    """The radio technology of a Wi-Fi or cellular interface."""

    WIFI_B = "Wi-Fi b"
    WIFI_A = "Wi-Fi a"
    WIFI_G = "Wi-Fi g"
    WIFI_N = "Wi-Fi n"
    WIFI_AC = "Wi-Fi ac"
    WIFI_AX = "Wi-Fi ax"
    CELLULAR_LTE = "LTE"
    CELLULAR_ENDC_SUB6 = "EN-DC sub-6"
    CELLULAR_ENDC_MMWAVE = "EN-DC mmWave"
    CELLULAR_NR_SA_SUB6 = "NR SA sub-6"
    CELLULAR_NR_SA_MMWAVE = "NR SA mmWave"
    CELLULAR_WCDMA = "WCDMA"
    CELLULAR_GSM = "GSM"
    CELLULAR_CDMA = "CDMA"
    CELLULAR_EVDO = "EV-DO"


@value
class Resolution(Value):
    """One step of name resolution; `duration` in seconds. `preferred_endpoint` was tried first."""

    source: ResolutionSource
    duration: float
    endpoint_count: int
    preferred_endpoint: Endpoint | None
    successful_endpoint: Endpoint | None
    dns_protocol: DNSProtocol = DNSProtocol.UNKNOWN


@value
class Handshake(Value):
    """One protocol's handshake; `duration` and the round trip that it measured, `rtt`, in seconds."""

    protocol: str
    duration: float
    rtt: float | None = None


@value
class EstablishmentReport(Value):
    """How the attempt that succeeded went, in seconds, from preparing to ready.

    `attempt_started_after` counts from the start of the connection and is 0 if the first attempt succeeded;
    `previous_attempt_count` is of attempts that ended in waiting (a race between addresses is one attempt).
    Handshakes stand in order of completion, lowest protocol first.
    """

    duration: float
    attempt_started_after: float
    previous_attempt_count: int
    resolutions: tuple[Resolution, ...]
    handshakes: tuple[Handshake, ...]
    used_proxy: bool = False
    proxy_configured: bool = False
    proxy_endpoint: Endpoint | None = None

    def __str__(self) -> str:
        rows = [row for resolution in self.resolutions for row in _resolution_rows(resolution)]
        rows += [(one.protocol, _time(one.duration), f"round trip {_time(one.rtt)}") for one in self.handshakes]
        if self.proxy_configured:
            rows.append(("proxy", "used" if self.used_proxy else "not used", str(self.proxy_endpoint or _UNKNOWN)))
        attempt = "at the first attempt"
        if self.previous_attempt_count:
            attempts = _counted(self.previous_attempt_count, "attempt")
            attempt = f"after {attempts} in {_time(self.attempt_started_after)}"
        return _lines(f"Established in {_time(self.duration)}, {attempt}", *_table("<><", rows))


class TransportCounters(NamedTuple):
    """A transport's totals since its beginning, as the system keeps them; `None` where it does not.

    `sent_bytes` includes what was retransmitted. Round-trip times are in seconds.
    """

    received_packets: int | None = None
    sent_packets: int | None = None
    received_bytes: int | None = None
    received_duplicate_bytes: int | None = None
    received_out_of_order_bytes: int | None = None
    sent_bytes: int | None = None
    retransmitted_bytes: int | None = None
    smoothed_rtt: float | None = None
    minimum_rtt: float | None = None
    rtt_variance: float | None = None


@value(kw_only=True)
class PathReport(Value):
    """What went over one path while the report ran; `None` where the system cannot tell. Times in seconds.

    Transport bytes are those of the stream or the datagrams, each counted once when sent; what was sent again is
    `retransmitted_transport_byte_count`. Application bytes are above TLS and the like. Round-trip times are those at
    the report's end; the minimum is of the system's own window (5 minutes on Linux).
    """

    interface: Interface | None = None
    radio_type: RadioType | None = None
    received_ip_packet_count: int | None = None
    sent_ip_packet_count: int | None = None
    received_transport_byte_count: int | None = None
    received_transport_duplicate_byte_count: int | None = None
    received_transport_out_of_order_byte_count: int | None = None
    sent_transport_byte_count: int | None = None
    retransmitted_transport_byte_count: int | None = None
    transport_smoothed_rtt: float | None = None
    transport_minimum_rtt: float | None = None
    transport_rtt_variance: float | None = None
    received_application_byte_count: int
    sent_application_byte_count: int

    @classmethod
    def between(
        cls,
        start: TransportCounters,
        end: TransportCounters,
        *,
        interface: Interface | None,
        received_application_byte_count: int,
        sent_application_byte_count: int,
    ) -> "PathReport":
        """The report of what happened between two readings of one transport's counters.

        Where retransmissions are not counted, the bytes sent include them.
        """
        sent = _difference(start.sent_bytes, end.sent_bytes)
        again = _difference(start.retransmitted_bytes, end.retransmitted_bytes)
        return cls(
            interface=interface,
            received_ip_packet_count=_difference(start.received_packets, end.received_packets),
            sent_ip_packet_count=_difference(start.sent_packets, end.sent_packets),
            received_transport_byte_count=_difference(start.received_bytes, end.received_bytes),
            received_transport_duplicate_byte_count=_difference(start.received_duplicate_bytes, end.received_duplicate_bytes),
            received_transport_out_of_order_byte_count=_difference(
                start.received_out_of_order_bytes, end.received_out_of_order_bytes
            ),
            sent_transport_byte_count=sent if sent is None or again is None else sent - again,
            retransmitted_transport_byte_count=again,
            transport_smoothed_rtt=end.smoothed_rtt,
            transport_minimum_rtt=end.minimum_rtt,
            transport_rtt_variance=end.rtt_variance,
            received_application_byte_count=received_application_byte_count,
            sent_application_byte_count=sent_application_byte_count,
        )

    @staticmethod
    def aggregate(reports: "Sequence[PathReport]") -> "PathReport":
        """The sums over all paths; what cannot be summed comes from the first, the primary path.

        A sum with an unknown part is unknown. Raises `ValueError` without reports.
        """
        if not reports:
            raise ValueError("expected at least one path report to aggregate, got none")
        sums: dict[str, Any] = {
            field.name: _sum(getattr(report, field.name) for report in reports)
            for field in fields(PathReport)
            if field.name.endswith("_count")
        }
        return replace(reports[0], **sums)

    def __str__(self) -> str:
        return _lines(*_path_table(self))


@value
class DataTransferReport(Value):
    """What a connection moved during `duration` seconds: one report per path used, and all of them together."""

    duration: float
    path_reports: tuple[PathReport, ...]
    aggregate: PathReport

    def __str__(self) -> str:
        ways = " and ".join(_way(report) for report in self.path_reports)
        lines = [f"Data transfer during {_time(self.duration)} over {ways or _UNKNOWN}", *_path_table(self.aggregate)]
        if len(self.path_reports) > 1:
            for report in self.path_reports:
                lines += ["", f"of which over {_way(report)}", *_path_table(report)]
        return _lines(*lines)


def _resolution_rows(one: Resolution) -> list[tuple[str, str, str]]:
    carrier = "" if one.dns_protocol is DNSProtocol.UNKNOWN else f" over {one.dns_protocol.value}"
    found = f"{_counted(one.endpoint_count, 'endpoint')} from {one.source.value}{carrier}"
    return [
        ("resolution", _time(one.duration), found),
        ("  tried first", "", str(one.preferred_endpoint or _UNKNOWN)),
        ("  succeeded", "", str(one.successful_endpoint or _UNKNOWN)),
    ]


def _path_table(report: PathReport) -> list[str]:
    counts: list[tuple[str, ...]] = [
        ("", "received", "sent"),
        ("application", _size(report.received_application_byte_count), _size(report.sent_application_byte_count)),
        ("transport", _size(report.received_transport_byte_count), _size(report.sent_transport_byte_count)),
        ("  out of order", _size(report.received_transport_out_of_order_byte_count), ""),
        ("  duplicate", _size(report.received_transport_duplicate_byte_count), ""),
        ("  retransmitted", "", _size(report.retransmitted_transport_byte_count)),
        ("IP packets", _count(report.received_ip_packet_count), _count(report.sent_ip_packet_count)),
    ]
    times = [
        ("round trip", _time(report.transport_smoothed_rtt), "smoothed"),
        ("", _time(report.transport_minimum_rtt), "minimum"),
        ("", _time(report.transport_rtt_variance), "variance"),
    ]
    return [*_table("<>>", counts), *_table("<><", times)]


def _way(report: PathReport) -> str:
    if report.interface is None:
        return _UNKNOWN
    return f"{report.interface.name} ({(report.radio_type or report.interface.type).value})"


def _difference(start: int | None, end: int | None) -> int | None:
    if start is None or end is None:
        return None
    # Linux counts segments in 32 bits, which a fast connection wraps within hours.
    return end - start if end >= start else end - start + 2**32


def _sum(counts: Iterable[int | None]) -> int | None:
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total


def _table(alignments: str, rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Indented lines of cells aligned ``<`` or ``>``, in columns at least as wide as in the other tables."""
    widths = [max(minimum, *(len(row[number]) for row in rows)) for number, minimum in enumerate((15, 10, 10)) if rows]
    return [
        "  " + "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, alignments, widths, strict=True))
        for row in rows
    ]


def _lines(*lines: str) -> str:
    """The lines as a terminal shows them best: without what is not printable, none wider than 80 columns."""
    shown = ("".join(one if one.isprintable() else "�" for one in line).rstrip() for line in lines)
    return "\n".join(line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…" for line in shown)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return _UNKNOWN
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.1f} ms" if seconds >= 0.01 else f"{seconds * 1000:.2f} ms"


def _size(count: int | None) -> str:
    if count is None:
        return _UNKNOWN
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, 4)
    return f"{count / 1024**power:.1f} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"


def _count(count: int | None) -> str:
    return _UNKNOWN if count is None else f"{count:,}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
