"""Links: a wire between two interfaces, with everything that happens to packets on one.

    interface ──▶ queue ──rate──▶ latency, jitter, loss, reordering, duplication ──▶ interface
              ◀── the same for the other direction ───────────────────────────────

What a direction decides by chance comes from the network's one random generator, which its seed determines.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

from tieline.drivers.simulated.packets import Fate
from tieline.protocols.checks import require_at_least, require_seconds
from tieline.protocols.ip import ECN
from tieline.values import Value, value

if TYPE_CHECKING:
    from tieline.drivers.simulated.node import NetworkInterface, Node
    from tieline.drivers.simulated.packets import Packet

__all__ = ["Conditions", "Link"]

LOOPBACK_LATENCY = 0.00001  # seconds
LEAST_MTU = 576  # RFC 1122 section 3.3.3: what every IPv4 host takes


@value(kw_only=True)
class Conditions(Value):
    """How a link treats packets in one direction. Seconds, bytes, and probabilities from 0 to 1.

    - `latency`: seconds from one end to the other, more than 0.
    - `jitter`: up to this many seconds more, evenly distributed; packets keep their order.
    - `loss`: how probably a packet is lost.
    - `reorder`: how probably a packet is held back by another `latency`, so that later ones overtake it.
    - `duplicate`: how probably a packet arrives twice.
    - `rate`: bytes per second; None is no limit.
    - `queue`: bytes that may wait for the rate; what does not fit is dropped.
    - `marking`: bytes that may wait before packets whose sender reacts to it are marked instead (`ECN.CE`, RFC 3168 section 5);
      None never marks.
    - `mtu`: the largest packet in bytes, headers included.
    """

    latency: float = 0.001
    jitter: float = 0.0
    loss: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    rate: float | None = None
    queue: int = 128 * 1024
    marking: int | None = None
    mtu: int = 1500

    def __post_init__(self) -> None:
        require_seconds("latency", self.latency)
        require_seconds("jitter", self.jitter, zero=True)
        for option in ("loss", "reorder", "duplicate"):
            value = getattr(self, option)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{option} must be a probability from 0 to 1, got {value!r}")
            if not 0 <= value <= 1:
                raise ValueError(f"{option} must be a probability from 0 to 1, got {value}")
        if self.rate is not None:
            if isinstance(self.rate, bool) or not isinstance(self.rate, (int, float)):
                raise TypeError(f"rate must be a number of bytes per second above 0 or None, got {self.rate!r}")
            if not 0 < self.rate < inf:
                raise ValueError(f"rate must be a number of bytes per second above 0 or None, got {self.rate}")
        require_at_least("mtu", self.mtu, LEAST_MTU)
        require_at_least("queue", self.queue, self.mtu)
        if self.marking is not None:
            require_at_least("marking", self.marking, 0)


class Direction:
    """One way over a link."""

    def __init__(self, conditions: Conditions, towards: NetworkInterface) -> None:
        self.conditions = conditions
        self.towards = towards
        self._free_at = 0.0  # when the last byte of the queue will have left
        self._last_arrival = 0.0

    def clear(self) -> None:
        """Nothing is on its way any more."""
        self._free_at = self._last_arrival = 0.0

    def room_at(self, now: float, size: int) -> float:
        """When the queue will have room for a packet of this size."""
        rate = self.conditions.rate
        if rate is None:
            return now
        return max(now, self._free_at - (self.conditions.queue - size) / rate)

    def marked(self, packet: Packet, now: float) -> Packet:
        """The packet as it joins the queue: marked if that is long, and its sender said that it reacts to marks."""
        conditions = self.conditions
        if conditions.marking is None or conditions.rate is None or not packet.ecn:
            return packet
        waiting = (self._free_at - now) * conditions.rate
        return packet._replace(ecn=ECN.CE) if waiting > conditions.marking else packet

    def carry(self, size: int, now: float, chance: random.Random) -> tuple[list[float], Fate | None]:
        """When the packet arrives, twice if it is duplicated, or why it does not."""
        conditions = self.conditions
        if size > conditions.mtu:
            return [], Fate.TOO_LARGE
        leaves = now
        if conditions.rate is not None:
            if self.room_at(now, size) > now:  # the same sum that a sender waited for: it rounds alike
                return [], Fate.QUEUE_FULL
            leaves = self._free_at = max(now, self._free_at) + size / conditions.rate
        if conditions.loss and chance.random() < conditions.loss:
            return [], Fate.LOST
        arrives = leaves + conditions.latency
        if conditions.jitter:
            arrives += chance.random() * conditions.jitter
        if conditions.reorder and chance.random() < conditions.reorder:
            arrives += conditions.latency
        else:
            arrives = self._last_arrival = max(arrives, self._last_arrival)
        if conditions.duplicate and chance.random() < conditions.duplicate:
            return [arrives, arrives + conditions.latency], Fate.DUPLICATED
        return [arrives], None


class Link:
    """A wire between two interfaces. Made by `SimulatedNetwork.link`."""

    def __init__(
        self, changed: Callable[[], None], ends: tuple[NetworkInterface, NetworkInterface], conditions: Conditions
    ) -> None:
        self._changed = changed
        self.ends = ends
        self._up = True
        self.losses = 0  # how often it went down: what was on its way then is lost
        self._directions = {ends[1]: Direction(conditions, ends[1]), ends[0]: Direction(conditions, ends[0])}
        for end in ends:
            end.links.append(self)

    def __repr__(self) -> str:
        state = "up" if self._up else "down"
        return f"<Link {self.ends[0].node.name} – {self.ends[1].node.name}, {state}>"

    @property
    def is_up(self) -> bool:
        """Whether it carries packets."""
        return self._up

    def down(self) -> None:
        """Take the link down: both ends notice, and what is on its way is lost."""
        if self._up:
            self._up = False
            self.losses += 1
            for direction in self._directions.values():
                direction.clear()
            self._changed()

    def up(self) -> None:
        """Bring the link up again."""
        if not self._up:
            self._up = True
            self._changed()

    def change(self, *, towards: Node | None = None, **conditions: Any) -> None:
        """Change conditions from now on: in both directions, or only in the one that leads to `towards`.

        Raises `TypeError` and `ValueError` as `Conditions` does, and `ValueError` if the link does not lead there.
        """
        ends = self.ends if towards is None else self._leading(towards)
        changed = [replace(self._directions[end].conditions, **conditions) for end in ends]
        for end, one in zip(ends, changed, strict=True):
            self._directions[end].conditions = one
        self._changed()

    def conditions(self, towards: Node) -> Conditions:
        """The conditions of the direction that leads to `towards`. Raises `ValueError` if the link does not lead there."""
        return self._directions[self._leading(towards)[0]].conditions

    def _leading(self, towards: Node) -> list[NetworkInterface]:
        ends = [end for end in self.ends if end.node is towards]
        if not ends:
            raise ValueError(f"{self!r} does not lead to {towards!r}")
        return ends

    def other(self, end: NetworkInterface) -> NetworkInterface:
        """The end across from this one."""
        return self.ends[1] if end is self.ends[0] else self.ends[0]

    def direction(self, source: NetworkInterface) -> Direction:
        """The direction that begins at this end."""
        return self._directions[self.other(source)]
