"""One place for mistakes of our own: what an event loop calls must end in an outcome, not in a log while somebody waits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

__all__ = ["guarded"]


class Guarded(Protocol):
    """What the event loop calls steps of."""

    def mistaken(self, error: Exception) -> None:
        """A step raised what it should not: end, and tell whoever waits for the outcome."""


G = TypeVar("G", bound=Guarded)
P = ParamSpec("P")


def guarded(step: Callable[Concatenate[G, P], None]) -> Callable[Concatenate[G, P], None]:
    """A step whose exceptions become the outcome."""

    @functools.wraps(step)
    def run(self: G, /, *arguments: P.args, **options: P.kwargs) -> None:
        try:
            step(self, *arguments, **options)
        except Exception as error:
            self.mistaken(error)

    return run
