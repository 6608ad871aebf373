"""``make bench`` runs every row and writes the results down, ``make bench ROW=tcp-pingpong`` those whose name begins so.

A row is one workload. Tieline and its peers do it in turn, `--rounds` times and on each event loop, each with its server and its
client in processes of their own on a core of their own. What counts is the median of the rounds' ratios; more is better, but
for memory.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks import connecting, datagrams, framed, idle, peers, quic, report, websocket, workloads
from benchmarks.measuring import COLD, LOOPS, WARM, Row, Side, measure

PINGPONG: dict[str, Side] = {
    "tieline": (workloads.tieline_echo, workloads.tieline_ping),
    "streams": (workloads.streams_echo, workloads.streams_ping),
    "protocol": (peers.protocol_echo, peers.protocol_ping),
    "blocking": (peers.blocking_echo, peers.blocking_ping),
    "sleeping": (workloads.sleeping_echo, workloads.sleeping_ping),  # Tieline with busy_poll=0: what looking is worth
}
BULK: dict[str, Side] = {
    "tieline": (workloads.tieline_sink, workloads.tieline_pour),
    "streams": (workloads.streams_sink, workloads.streams_pour),
    "blocking": (peers.blocking_sink, peers.blocking_pour),
}
ONE_BY_ONE: dict[str, Side] = {
    "tieline": (workloads.tieline_echo, connecting.tieline_connect(1)),
    "streams": (workloads.streams_echo, connecting.streams_connect(1)),
    "blocking": (peers.blocking_echo, peers.blocking_connect),
}
AT_ONCE: dict[str, Side] = {
    "tieline": (workloads.tieline_echo, connecting.tieline_connect(100)),
    "streams": (workloads.streams_echo, connecting.streams_connect(100)),
}
ONE_WAY: dict[str, Side] = {
    "tieline": (datagrams.tieline_datagram_sink, datagrams.tieline_datagram_pour),
    "asyncio": (datagrams.datagrams_sink, datagrams.datagrams_pour),
    "blocking": (datagrams.blocking_datagram_sink, datagrams.blocking_datagram_pour),
}
BACK_AND_FORTH: dict[str, Side] = {
    "tieline": (datagrams.tieline_datagram_echo, datagrams.tieline_datagram_ping),
    "asyncio": (datagrams.datagrams_echo, datagrams.datagrams_ping),
    "blocking": (datagrams.blocking_datagram_echo, datagrams.blocking_datagram_ping),
}
IDLE: dict[str, Side] = {
    "tieline": (idle.tieline_idle, idle.hold),
    "streams": (idle.streams_idle, idle.hold),
}
FRAMED: dict[str, Side] = {
    "tieline": (framed.tieline_framed, framed.tieline_orders),
    "streams": (framed.streams_framed, framed.streams_orders),
}
STREAMS = frozenset({"streams"})
BOTH = (WARM, COLD)
PINGPONG_BARS: dict[str, float | dict[str, float]] = {
    "streams": {"asyncio": 1.5, "uvloop": 1.4},
    "protocol": {"asyncio": 1.0, "uvloop": 0.9},
}
TLS_PINGPONG_BARS: dict[str, float | dict[str, float]] = {"streams": {"asyncio": 1.8, "uvloop": 1.4}}
BULK_BARS: dict[str, float | dict[str, float]] = {"streams": {"asyncio": 3.0}, "blocking": 0.9}
TLS_BULK_BARS: dict[str, float | dict[str, float]] = {"streams": 1.7, "blocking": 1.0}
WEBSOCKET_BARS: dict[str, float | dict[str, float]] = {"picows": 1.0, "websockets": 3.0}

FOURTH = {"websockets": 4, "aiohttp": 4}
QUIC: dict[str, dict[str, float | dict[str, float]]] = {
    "bulk": {"aioquic": 30.0, "qh3": 5.0},
    "requests": {"aioquic": 5.0, "qh3": 2.0},
    "handshakes": {"aioquic": 4.0},
    "datagrams": {"aioquic": 10.0, "qh3": 3.0},
    "memory": {"aioquic": 0.5, "qh3": 0.9},
}

ROWS = [
    Row("tcp-pingpong-64B", False, 64, 20_000, "round trips/s", PINGPONG, bars=PINGPONG_BARS, allocators=BOTH),
    Row("tcp-pingpong-1KiB", False, 1024, 20_000, "round trips/s", PINGPONG, bars=PINGPONG_BARS),
    Row("tcp-bulk-64KiB", False, 65_536, 30_000, "MB/s", BULK, bars=BULK_BARS, allocators=BOTH),
    Row("tcp-bulk-1MiB", False, 1_048_576, 2_000, "MB/s", BULK, bars=BULK_BARS, allocators=BOTH),
    Row("tcp-connect", False, 64, 3_000, "connections/s", ONE_BY_ONE, bars={"streams": 1.0}),
    Row("tcp-connect-100", False, 64, 4_000, "connections/s", AT_ONCE, bars={"streams": 1.0}),
    Row("tls-pingpong-64B", True, 64, 10_000, "round trips/s", PINGPONG, bars=TLS_PINGPONG_BARS, allocators=BOTH),
    Row("tls-bulk-64KiB", True, 65_536, 12_000, "MB/s", BULK, bars=TLS_BULK_BARS, best=STREAMS, allocators=BOTH),
    Row("tls-bulk-1MiB", True, 1_048_576, 800, "MB/s", BULK, bars=TLS_BULK_BARS, best=STREAMS, allocators=BOTH),
    Row("tls-connect", True, 64, 400, "connections/s", ONE_BY_ONE, bars={"streams": 1.3}),
    Row("tls-connect-100", True, 64, 800, "connections/s", AT_ONCE, bars={"streams": 1.3}),
    Row("udp-one-way", False, 1200, 640_000, "datagrams/s", ONE_WAY, {"asyncio": 8}, bars={"asyncio": 8.0}),
    Row("udp-pingpong", False, 64, 20_000, "round trips/s", BACK_AND_FORTH, bars={"asyncio": 1.2}, allocators=BOTH),
    Row("framed-json-1", False, 1, 15_000, "round trips/s", FRAMED, bars={"streams": 1.5}),
    Row("framed-json-32", False, 32, 60_000, "round trips/s", FRAMED, bars={"streams": 1.5}),
    Row("websocket-echo-64B", False, 64, 20_000, "round trips/s", websocket.ECHO, bars=WEBSOCKET_BARS),
    Row("websocket-echo-8KiB", False, 8192, 10_000, "round trips/s", websocket.ECHO, bars=WEBSOCKET_BARS),
    Row("websocket-echo-1MiB", False, 2**20, 300, "round trips/s", websocket.ECHO, bars={"picows": 1.0}),
    Row("websocket-oneway", False, 64, 200_000, "messages/s", websocket.ONE_WAY, FOURTH, bars=WEBSOCKET_BARS),
    Row("tcp-memory", False, 0, 5_000, "KiB/connection", IDLE, bars={"streams": 1.0}, less=True, best=STREAMS, rounds=3),
    Row("tls-memory", True, 0, 5_000, "KiB/connection", IDLE, bars={"streams": 1.0}, less=True, best=STREAMS, rounds=1),
    Row("import", False, 0, 11, "ms", {"tieline": (idle.nobody, idle.imports)}, less=True, limit=100.0, rounds=1),
    Row("quic-bulk", True, 65_536, 8_000, "MB/s", quic.programs("bulk"), {"aioquic": 50, "qh3": 10}, QUIC["bulk"]),
    Row("quic-requests", True, 64, 50_000, "requests/s", quic.programs("requests"), {"aioquic": 5, "qh3": 2}, QUIC["requests"]),
    Row("quic-streams", True, 64, 20_000, "requests/s", quic.programs("streams"), {"aioquic": 5, "qh3": 2}),
    Row(
        "quic-handshakes", True, 0, 400, "handshakes/s", quic.programs("handshakes"), {"aioquic": 4, "qh3": 4}, QUIC["handshakes"]
    ),
    Row(
        "quic-datagrams",
        True,
        1000,
        50_000,
        "round trips/s",
        quic.programs("datagrams"),
        {"aioquic": 10, "qh3": 5},
        QUIC["datagrams"],
    ),
    Row("quic-memory", True, 0, 200, "kB/connection", quic.programs("memory"), bars=QUIC["memory"], less=True),
]


def run(row: Row, rounds: int) -> list[report.Comparison]:
    """All programs in turn, on both loops: what slows the machine down for a while slows them all."""
    return report.compare(
        row,
        [
            {
                (name, loop, allocator): measure(row, name, loop, allocator)
                for allocator in row.allocators
                for loop in LOOPS
                for name in row.programs
            }
            for _ in range(min(rounds, row.rounds or rounds))
        ],
    )


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    arguments.add_argument("row", nargs="?", default="", help="rows whose name begins so")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--write", action="store_true", help="put what was measured into results.md and the chart")
    chosen = arguments.parse_args()
    workloads.identity()
    quic.identity()
    print(report.machine())
    print(f"medians of {chosen.rounds} rounds; the ratio is the median of the rounds' ratios, with their range\n")
    print(report.HEAD)
    for row in (row for row in ROWS if row.name.startswith(chosen.row)):
        comparisons = run(row, chosen.rounds)
        print(*map(report.line, comparisons), sep="\n")
        sys.stdout.flush()
        if chosen.write:
            report.write(comparisons, [row.name for row in ROWS])


if __name__ == "__main__":
    main()
