"""A thousand of anything: when they have gone, nothing of them is left."""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

__all__ = ["MANY", "WARM_UP", "nothing_stays"]

WARM_UP, MANY, SIDE_BY_SIDE = 200, 1000, 20
BLOCKS = 6 * MANY  # of Python, which caches may take: a connection that leaks has dozens
RESIDENT = 12 << 20  # bytes: the engine's memory is not Python's, and a leaked TLS session has some 20 KiB


async def nothing_stays(
    visit: Callable[[int], Awaitable[object]], all_gone: Callable[[], Awaitable[object]] | None = None
) -> None:
    """Do this a thousand times: no task stays, no descriptor, no Python object, and no memory of the engine's.

    `all_gone` waits until the other side, too, is done with them.
    """
    numbers = itertools.count()

    async def visits(count: int) -> None:
        for _ in range(count // SIDE_BY_SIDE):
            await asyncio.gather(*(visit(next(numbers)) for _ in range(SIDE_BY_SIDE)))
        for _ in range(5):
            await asyncio.sleep(0)

    await visits(WARM_UP)
    if all_gone is not None:
        await all_gone()
    before = usage()
    await visits(MANY)
    if all_gone is not None:
        await all_gone()
    after = usage()
    assert after["tasks"] <= before["tasks"] and after["descriptors"] <= before["descriptors"], (before, after)
    assert after["blocks"] - before["blocks"] < BLOCKS, (before, after)
    assert after["resident"] - before["resident"] < RESIDENT, (before, after)


def usage() -> dict[str, int]:
    gc.collect()
    return {
        "tasks": len(asyncio.all_tasks()),
        "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "blocks": sys.getallocatedblocks(),
        "resident": int(Path("/proc/self/statm").read_text().split()[1]) * 4096,
    }
