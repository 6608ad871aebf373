"""What is known of several transfers, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.table import Table

from tieline.reports import DataTransferReport, EstablishmentReport, PathReport
from tieline.values import Value, value

__all__ = ["Transfer", "comparison"]

UNKNOWN = "–"
MEBIBYTE = 1024 * 1024


@value(kw_only=True)
class Transfer(Value):
    """One of them: `size` MiB in `seconds`, of which `hashing` went into digests."""

    name: str
    size: int
    seconds: float
    hashing: float
    sent: bytes
    received: bytes
    establishment: EstablishmentReport
    report: DataTransferReport

    @property
    def path(self) -> PathReport:
        """What went over the network."""
        return self.report.aggregate


def comparison(transfers: Sequence[Transfer]) -> Table:
    """A row for each fact, a column for each transfer."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column()
    for one in transfers:
        table.add_column(one.name, justify="right")

    def row(title: str, fact: Callable[[Transfer], str]) -> None:
        table.add_row(title, *map(fact, transfers))

    row("established in", lambda one: milliseconds(one.establishment.duration))
    for protocol in dict.fromkeys(step.protocol for one in transfers for step in one.establishment.handshakes):
        table.add_row(f"  handshake of {protocol}", *(handshake(one, protocol) for one in transfers))
    row("sent", lambda one: f"{one.size} MiB in {one.seconds:.2f} s")
    row("  rate", lambda one: rate(one.size, one.seconds))
    row("  of that, SHA-256 at both ends", lambda one: f"{one.hashing:.2f} s")
    row("  rate without", lambda one: rate(one.size, one.seconds - one.hashing))
    row("bytes on the transport", lambda one: size(one.path.sent_transport_byte_count))
    row("  sent again", lambda one: size(one.path.retransmitted_transport_byte_count))
    row("packets sent", lambda one: count(one.path.sent_ip_packet_count))
    row("  received", lambda one: count(one.path.received_ip_packet_count))
    row("round trip, smoothed", lambda one: milliseconds(one.path.transport_smoothed_rtt))
    row("  minimum", lambda one: milliseconds(one.path.transport_minimum_rtt))
    return table


def handshake(transfer: Transfer, protocol: str) -> str:
    step = next((one for one in transfer.establishment.handshakes if one.protocol == protocol), None)
    return UNKNOWN if step is None else milliseconds(step.duration)


def rate(mebibytes: int, seconds: float) -> str:
    return f"{mebibytes / seconds:,.0f} MiB/s" if seconds > 0 else UNKNOWN


def milliseconds(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else f"{seconds * 1000:.2f} ms"


def size(number: int | None) -> str:
    if number is None:
        return UNKNOWN
    return f"{number:,} B" if number < MEBIBYTE // 10 else f"{number / MEBIBYTE:.1f} MiB"


def count(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number:,}"
