"""A link between two TAP devices, run by a process of its own: delay, loss, reordering, copies (in place of netem).

Started with the numbers of two descriptors, and what happens to frames in each direction: seconds of delay, and the chance that
one is lost, that it is late by a third of that delay more, and that it comes twice. The same each time. Ends with its parent.
"""

from __future__ import annotations

import heapq
import os
import random
import select
import sys
import time

FRAME = 65600
LATE = 0.005  # seconds at least by which a late one is late


def carry(ends: tuple[int, int], delay: float, loss: float, reorder: float, twice: float) -> None:
    chance = random.Random(4)
    waiting: list[tuple[float, int, int, bytes]] = []
    number = 0
    parent = os.getppid()
    while os.getppid() == parent:
        wait = 1.0 if not waiting else max(0.0, waiting[0][0] - time.monotonic())
        ready, _, _ = select.select(ends, (), (), wait)
        for end in ready:
            other = ends[1 - ends.index(end)]
            for _ in range(64):
                try:
                    frame = os.read(end, FRAME)
                except BlockingIOError:
                    break
                except OSError:  # its device is down
                    break
                if chance.random() < loss:
                    continue
                due = time.monotonic() + delay
                if chance.random() < reorder:
                    due += max(LATE, delay / 3)
                for _ in range(2 if chance.random() < twice else 1):
                    heapq.heappush(waiting, (due, number, other, frame))
                    number += 1
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, other, frame = heapq.heappop(waiting)
            try:
                os.write(other, frame)
            except OSError:
                continue  # full, or down: it is lost


if __name__ == "__main__":
    first, second, *rest = sys.argv[1:]
    carry((int(first), int(second)), *map(float, rest))
