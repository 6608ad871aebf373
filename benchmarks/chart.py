"""The chart: for each row how Tieline's figure stands to its peers', on a logarithmic scale. It reads on light and dark pages."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.report import Comparison

WIDTH, LEFT, RIGHT, TOP = 900, 210, 40, 86
BAR, GAP = 13, 12
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-size: 17px; font-weight: 600 } .small { font-size: 11px; fill: #59636e } .row { text-anchor: end }
  .grid { stroke: #d1d9e0 } .even { stroke: #59636e; stroke-width: 1.5 }
  .asyncio { fill: #2f6fb3 } .uvloop { fill: #e08a2e }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9198a1 } .grid { stroke: #3d444d } .even { stroke: #9198a1 }
    .asyncio { fill: #5b9ee6 } .uvloop { fill: #f0a757 }
  }
"""


def draw(comparisons: list[Comparison]) -> str:
    """Only those that have a bar, and warm: the others are in the table."""
    bars: dict[tuple[str, str], dict[str, float]] = {}
    for one in comparisons:
        if one.bar is not None and one.allocator == "warm" and one.loop in ("asyncio", "uvloop") and one.ratio > 0:
            ratio = 1 / one.ratio if one.unit.startswith(("KiB", "kB")) else one.ratio  # upwards is better in the chart
            bars.setdefault((one.row, one.peer), {})[one.loop] = ratio
    ratios = [ratio for loops in bars.values() for ratio in loops.values()] or [1.0]
    low, high = math.floor(math.log2(min(*ratios, 0.5))), math.ceil(math.log2(max(*ratios, 2.0)))
    scale = (WIDTH - LEFT - RIGHT) / (high - low)
    height = TOP + len(bars) * (2 * BAR + GAP) + 24

    def place(ratio: float) -> float:
        return LEFT + (math.log2(ratio) - low) * scale

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
        "<title>Tieline beside its peers</title>",
        f"<style>{STYLE}</style>",
        '<text class="title" x="16" y="28">Tieline beside its peers: how many times as fast (memory: as small)</text>',
        '<rect class="asyncio" x="16" y="42" width="12" height="12" rx="2"/><text x="34" y="53">asyncio’s loop</text>',
        '<rect class="uvloop" x="136" y="42" width="12" height="12" rx="2"/><text x="154" y="53">uvloop</text>',
    ]
    for power in range(low, high + 1):
        x = place(2.0**power)
        kind = "even" if power == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - 18}"/>')
        parts.append(f'<text class="small" text-anchor="middle" x="{x:.1f}" y="{TOP - 12}">{2.0**power:g}×</text>')
    y = TOP
    for (row, peer), loops in bars.items():
        parts.append(f'<text class="row" x="{LEFT - 10}" y="{y + BAR - 1}">{escape(row)}</text>')
        parts.append(f'<text class="row small" x="{LEFT - 10}" y="{y + 2 * BAR}">to {escape(peer)}</text>')
        for number, loop in enumerate(("asyncio", "uvloop")):
            if loop in loops:
                start, end = sorted((place(1.0), place(loops[loop])))
                top = y + number * BAR
                size = f'width="{max(end - start, 1.5):.1f}" height="{BAR - 2}" rx="2"'
                parts.append(f'<rect class="{loop}" x="{start:.1f}" y="{top}" {size}/>')
                parts.append(f'<text class="small" x="{end + 4:.1f}" y="{top + BAR - 3}">{loops[loop]:.3g}</text>')
        y += 2 * BAR + GAP
    return "\n".join([*parts, "</svg>"]) + "\n"
