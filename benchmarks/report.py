"""What the rounds say: a line on the terminal for each comparison, `results.md` with all of them, and a chart for the README.

`results.json` keeps the comparisons, so that a run of some rows leaves the others as they were.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.measuring import LOOPS, Figure, Row

HERE = Path(__file__).parent
LIBRARIES = ("uvloop", "aioquic", "qh3", "picows", "websockets", "msgspec")
Round = dict[tuple[str, str, str], Figure]
"""By program, loop and allocator."""


@dataclass(frozen=True)
class Comparison:
    """Tieline beside one peer on one loop."""

    row: str
    loop: str
    allocator: str
    unit: str
    peer: str
    ours: float
    theirs: float
    ratio: float
    lowest: float
    highest: float
    cpu: float
    """How many times the processor time the peer takes."""
    bar: float | None
    reached: bool | None


def compare(row: Row, rounds: list[Round]) -> list[Comparison]:
    return [
        comparison(row, rounds, loop, allocator, peer)
        for allocator in row.allocators
        for loop in LOOPS
        for peer in row.programs
        if peer != "tieline"
    ] or [alone(row, rounds)]


def comparison(row: Row, rounds: list[Round], loop: str, allocator: str, peer: str) -> Comparison:
    def theirs(one: Round) -> float:
        if peer in row.best:
            return (min if row.less else max)(one[peer, other, allocator].rate for other in LOOPS)
        return one[peer, loop, allocator].rate

    ratios = sorted(one["tieline", loop, allocator].rate / theirs(one) for one in rounds)
    ratio, bar = statistics.median(ratios), row.bar(peer, loop)
    reached = None if bar is None else (ratio <= bar if row.less else ratio >= bar)
    cpu = statistics.median(one[peer, loop, allocator].cpu / one["tieline", loop, allocator].cpu for one in rounds)
    return Comparison(
        row=row.name,
        loop=loop,
        allocator=allocator,
        unit=row.unit,
        peer=peer,
        ours=statistics.median(one["tieline", loop, allocator].rate for one in rounds),
        theirs=statistics.median(theirs(one) for one in rounds),
        ratio=ratio,
        lowest=ratios[0],
        highest=ratios[-1],
        cpu=cpu,
        bar=bar,
        reached=reached,
    )


def alone(row: Row, rounds: list[Round]) -> Comparison:
    """A row without peers: its own figure, and its limit."""
    figures = sorted(figure.rate for one in rounds for figure in one.values())
    figure = statistics.median(figures)
    reached = None if row.limit is None else figure < row.limit
    limit = row.limit or figure
    return Comparison(
        row.name, "–", row.allocators[0], row.unit, "limit", figure, limit, figure / limit, figures[0] / limit,
        figures[-1] / limit, 1.0, 1.0, reached,
    )  # fmt: skip


HEAD = f"{'row':<22} {'loop':<8} {'':<5} {'tieline':>10} {'':<14} {'peer':<10} {'':>10} {'ratio':>6}  {'range':<14} {'bar':>5}"


def line(one: Comparison) -> str:
    mark = {None: "", True: "reached", False: "MISSED"}[one.reached]
    bar = "" if one.bar is None else f"{one.bar:.2f}"
    spread = f"{one.lowest:.2f} to {one.highest:.2f}"
    return (
        f"{one.row:<22} {one.loop:<8} {one.allocator:<5} {number(one.ours):>10} {one.unit:<14} {one.peer:<10} "
        f"{number(one.theirs):>10} {one.ratio:>6.2f}  {spread:<14} {bar:>5} {mark:<8} cpu {one.cpu:.2f}"
    )


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def machine() -> str:
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [entry.partition(":")[2].strip() for entry in cpuinfo.read_text().splitlines() if entry.startswith("model name")]
        model = f"{len(names)} × {names[0]}" if names else model
    libraries = ", ".join(f"{library} {installed}" for library in LIBRARIES if (installed := found(library)))
    return f"{model}, {platform.system()} {platform.release()}, Python {platform.python_version()}, {libraries}"


def found(library: str) -> str | None:
    try:
        return version(library)
    except ModuleNotFoundError:
        return None


def write(comparisons: Iterable[Comparison], names: list[str]) -> None:
    """Put new comparisons in the place of the old ones of the same rows, and draw everything anew."""
    kept = HERE / "results.json"
    table: dict[str, list[Comparison]] = {}
    if kept.exists():
        for entry in json.loads(kept.read_text(encoding="utf-8"))["comparisons"]:
            table.setdefault(entry["row"], []).append(Comparison(**entry))
    fresh: dict[str, list[Comparison]] = {}
    for one in comparisons:
        fresh.setdefault(one.row, []).append(one)
    table.update(fresh)
    known = [one for name in names for one in table.get(name, [])]
    text = json.dumps({"machine": machine(), "comparisons": [rounded(one) for one in known]}, indent=1, ensure_ascii=False)
    kept.write_text(text + "\n", encoding="utf-8")
    (HERE / "results.md").write_text(markdown(known), encoding="utf-8")
    from benchmarks import chart

    (HERE / "results.svg").write_text(chart.draw(known), encoding="utf-8")


def rounded(one: Comparison) -> dict[str, object]:
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in asdict(one).items()}


def markdown(comparisons: list[Comparison]) -> str:
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; what stands behind each row is in [docs/performance.md](../docs/performance.md).",
        "",
        f"Machine: {machine()}.",
        f"Its load average over 15 minutes when this was written: {os.getloadavg()[2]:.1f}. These benchmarks alone make about 1;",
        "with more the figures scatter, and the processor time says more than the rate.",
        "",
        "Tieline and its peers do a row's work in turn, server and client each on a core of its own. *Ratio* is the median of",
        "the rounds' ratios (with their range), more is better but for memory and the import. *CPU* is how many times Tieline's",
        "processor time the peer takes for the same work, both processes together. *cold* is a process that starts afresh,",
        "*warm* one whose allocator has adapted. A peer without a bar is there to look at: blocking",
        "sockets are the physical limit.",
        "",
        "| Row | Loop | Allocator | Tieline | Peer | Its figure | Ratio | Range | CPU | Bar | |",
        "|---|---|---|---:|---|---:|---:|---|---:|---:|---|",
    ]
    for one in comparisons:
        bar = "" if one.bar is None else f"{one.bar:g}"
        mark = {None: "", True: "reached", False: "**missed**"}[one.reached]
        lines.append(
            f"| {one.row} | {one.loop} | {one.allocator} | {number(one.ours)} {one.unit} | {one.peer} | {number(one.theirs)} | "
            f"{one.ratio:.2f} | {one.lowest:.2f} – {one.highest:.2f} | {one.cpu:.2f} | {bar} | {mark} |"
        )
    return "\n".join(lines) + "\n"
