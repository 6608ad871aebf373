"""``make bench`` runs every row, ``make bench ROW=tcp-pingpong`` those whose name begins so.

A row is one workload on one event loop. Tieline and its peers do it in turn, `--rounds` times, each with its server and its
client in processes of their own on a core of their own. What counts is the median of the rounds' ratios; more is better, but
for memory.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import platform
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import uvloop

from benchmarks import quic, websocket, workloads

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}
Side = tuple[workloads.Server, workloads.Client]


@dataclass(frozen=True)
class Row:
    """One workload: its two programs, what is sent, and the unit of the result."""

    name: str
    tls: bool
    size: int
    count: int
    unit: str
    programs: dict[str, Side]
    slower: dict[str, int] = field(default_factory=dict)
    """How many times less a slow peer does, so that a round ends in time: its figure is a rate all the same."""


ROWS = [
    Row("tcp-pingpong-64B", False, 64, 20_000, "round trips/s", workloads.ECHO),
    Row("tcp-pingpong-1KiB", False, 1024, 20_000, "round trips/s", workloads.ECHO),
    Row("tcp-bulk-64KiB", False, 65_536, 12_000, "MB/s", workloads.SINK),
    Row("tcp-bulk-1MiB", False, 1_048_576, 1_000, "MB/s", workloads.SINK),
    Row("tls-pingpong-64B", True, 64, 10_000, "round trips/s", workloads.ECHO),
    Row("tls-bulk-64KiB", True, 65_536, 6_000, "MB/s", workloads.SINK),
    Row("tls-bulk-1MiB", True, 1_048_576, 400, "MB/s", workloads.SINK),
    Row("quic-bulk", True, 65_536, 8_000, "MB/s", quic.programs("bulk"), {"aioquic": 50, "qh3": 10}),
    Row("quic-requests", True, 64, 50_000, "requests/s", quic.programs("requests"), {"aioquic": 5, "qh3": 2}),
    Row("quic-streams", True, 64, 20_000, "requests/s", quic.programs("streams"), {"aioquic": 5, "qh3": 2}),
    Row("quic-handshakes", True, 0, 400, "handshakes/s", quic.programs("handshakes"), {"aioquic": 4, "qh3": 4}),
    Row("quic-datagrams", True, 1000, 50_000, "round trips/s", quic.programs("datagrams"), {"aioquic": 10, "qh3": 5}),
    Row("websocket-echo-64B", False, 64, 20_000, "round trips/s", websocket.ECHO),
    Row("websocket-echo-8KiB", False, 8192, 10_000, "round trips/s", websocket.ECHO),
    Row("websocket-echo-1MiB", False, 2**20, 300, "round trips/s", websocket.ECHO),
    Row("websocket-oneway", False, 64, 200_000, "messages/s", websocket.ONE_WAY, {"websockets": 4, "aiohttp": 4}),
    Row("quic-memory", True, 0, 200, "kB/connection", quic.programs("memory")),
]


def serve(server: workloads.Server, tls: bool, loop: str, core: int, ready: Any) -> None:
    pin(core)
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(server(tls, ready.send))  # type: ignore[arg-type]


def pin(core: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def measure(row: Row, name: str, loop: str) -> float:
    """One run of one program: its figure."""
    server, client = row.programs[name]
    count = row.count // row.slower.get(name, 1)
    here, there = multiprocessing.Pipe()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0, 1]
    process = multiprocessing.Process(target=serve, args=(server, row.tls, loop, cores[0], there), daemon=True)
    process.start()
    try:
        port = here.recv()
        result: Any = multiprocessing.Queue()
        pour = multiprocessing.Process(target=use, args=(client, row, count, loop, cores[-1], port, result), daemon=True)
        pour.start()
        figure = float(result.get(timeout=120))
        pour.join()
        return figure
    finally:
        process.terminate()
        process.join()


def use(client: workloads.Client, row: Row, count: int, loop: str, core: int, port: int, result: Any) -> None:
    pin(core)
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        result.put(runner.run(client(row.tls, port, row.size, count)))  # type: ignore[arg-type]


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    arguments.add_argument("row", nargs="?", default="", help="rows whose name begins so")
    arguments.add_argument("--rounds", type=int, default=5)
    chosen = arguments.parse_args()
    multiprocessing.set_start_method("fork")
    workloads.identity()
    quic.identity()
    print(f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}, uvloop {uvloop.__version__}")
    print(f"medians of {chosen.rounds} rounds; the ratio is the median of the rounds' ratios, with their range\n")
    print(f"{'row':<20} {'loop':<8} {'tieline':>10} {'':<14} {'peer':<8} {'':>10} {'ratio':>6}  range")
    for row in (row for row in ROWS if row.name.startswith(chosen.row)):
        for loop in LOOPS:
            rounds = [{name: measure(row, name, loop) for name in row.programs} for _ in range(chosen.rounds)]
            for peer in (name for name in row.programs if name != "tieline"):
                ratios = sorted(one["tieline"] / one[peer] for one in rounds)
                ours, theirs = (statistics.median(one[name] for one in rounds) for name in ("tieline", peer))
                print(
                    f"{row.name:<20} {loop:<8} {ours:>10,.0f} {row.unit:<14} {peer:<8} {theirs:>10,.0f} "
                    f"{statistics.median(ratios):>6.2f}  {ratios[0]:.2f} to {ratios[-1]:.2f}"
                )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
