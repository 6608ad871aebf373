"""Partitions: groups of nodes that do not hear each other."""

from __future__ import annotations

from collections.abc import Collection
from types import TracebackType
from typing import Self

from tieline.drivers.simulated.node import Node

__all__ = ["Partition"]


class Partition:
    """Groups between which nothing passes. Made by `SimulatedNetwork.partition`."""

    def __init__(self, groups: Collection[Collection[Node]], present: list[Partition]) -> None:
        if len(groups) < 2:
            raise ValueError(f"a partition separates two groups of nodes or more, got {len(groups)}")
        self._group: dict[Node, int] = {}
        for number, group in enumerate(groups):
            for node in group:
                if node in self._group:
                    raise ValueError(f"{node.name} cannot be in two groups of a partition")
                self._group[node] = number
        self._present = present

    def separates(self, one: Node | None, other: Node | None) -> bool:
        """Whether nothing passes between these."""
        groups = [self._group.get(node) for node in (one, other) if node is not None]
        return None not in groups and len({*groups}) > 1

    def heal(self) -> None:
        """Let everything pass again. Idempotent."""
        if self in self._present:
            self._present.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.heal()
