"""One run of one program: a server and a client in processes of their own, each on a core of its own."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import workloads

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}
Side = tuple[workloads.Server, workloads.Client]
WARM, COLD = "warm", "cold"
ADAPTED = 32 * 1024 * 1024  # bytes: glibc's largest threshold, mallopt(3)


@dataclass(frozen=True)
class Row:
    """One workload: its programs, what is sent, the unit of the result, and what Tieline wants to reach."""

    name: str
    tls: bool
    size: int
    count: int
    unit: str
    programs: dict[str, Side]
    slower: dict[str, int] = field(default_factory=dict)
    """How many times less a slow peer does, so that a round ends in time: its figure is a rate all the same."""
    bars: dict[str, float | dict[str, float]] = field(default_factory=dict)
    """By peer: the ratio to reach, perhaps by loop. A peer without a bar is there to look at."""
    less: bool = False
    """Less is better, and the bars are upper ones."""
    best: frozenset[str] = frozenset()
    """Peers that are compared by the better of their two loops."""
    allocators: tuple[str, ...] = (WARM,)
    """Also with a cold one: processes that start afresh, where glibc gives each larger buffer back at once."""
    limit: float | None = None
    """What Tieline's own figure must stay under."""
    rounds: int | None = None
    """For figures that do not scatter, and take long."""

    def bar(self, peer: str, loop: str) -> float | None:
        bar = self.bars.get(peer)
        return bar.get(loop) if isinstance(bar, dict) else bar


@dataclass(frozen=True)
class Figure:
    rate: float
    cpu: float
    """Seconds of processor time that both processes took for one of what is counted."""


def measure(row: Row, name: str, loop: str, allocator: str) -> Figure:
    server, client = row.programs[name]
    count = row.count // row.slower.get(name, 1)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0, 1]
    start: Any = multiprocessing.get_context("fork" if allocator == WARM else "spawn")
    identity = workloads.identity()
    here, there = start.Pipe()
    serving = start.Process(target=serve, args=(server, row.tls, loop, cores[0], identity, allocator, there), daemon=True)
    serving.start()
    try:
        port = received(here, serving)
        result, end = start.Pipe()
        using = start.Process(
            target=use,
            args=(client, row.tls, row.size, count, loop, cores[-1], identity, allocator, port, end),
            daemon=True,
        )
        before = processor_time(serving.pid)
        using.start()
        rate, cpu = received(result, using)
        cpu += processor_time(serving.pid) - before
        using.join()
        return Figure(rate, cpu / count)
    finally:
        serving.terminate()
        serving.join()


def received(pipe: Any, process: Any) -> Any:
    """What the process says. Raises RuntimeError when it ends or takes too long."""
    for _ in range(600):
        if pipe.poll(0.5):
            return pipe.recv()
        if not process.is_alive():
            raise RuntimeError(f"a program of the benchmark ended with {process.exitcode}: see above")
    raise RuntimeError("a program of the benchmark hangs")


def processor_time(pid: int) -> float:
    """Seconds; of a process that is alive, as its threads have them."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9 if tasks.exists() else 0.0


def serve(server: Any, tls: bool, loop: str, core: int, identity: Any, allocator: str, ready: Any) -> None:
    prepare(core, identity, allocator)
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(server(tls, ready.send))


def use(
    client: Any, tls: bool, size: int, count: int, loop: str, core: int, identity: Any, allocator: str, port: int, result: Any
) -> None:
    prepare(core, identity, allocator)
    begun = time.process_time()
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        rate = runner.run(client(tls, port, size, count))
        result.send((rate, time.process_time() - begun))


def prepare(core: int, identity: Any, allocator: str) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    workloads.adopt(identity)
    if allocator == WARM:
        bytearray(ADAPTED - 64 * 1024)  # made and freed at once: glibc's threshold rises to it, and stays there
