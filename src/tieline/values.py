"""Values: frozen dataclasses which are compared and shown by what is written once, here.

A dataclass writes and compiles these methods for each class anew. For some fifty classes that was a tenth of the time which
`import tieline` takes, for methods that most programs never call.
"""

from __future__ import annotations

from dataclasses import fields
from reprlib import recursive_repr
from typing import Any

__all__ = ["Value"]


class Value:
    """The base of ``@dataclass(frozen=True, eq=False, repr=False)``: it compares and shows as one with both does."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return compared(self) == compared(other)

    def __hash__(self) -> int:
        return hash(compared(self))

    @recursive_repr()
    def __repr__(self) -> str:
        shown = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self) if field.repr)  # type: ignore[arg-type]
        return f"{self.__class__.__qualname__}({shown})"


def compared(value: object) -> tuple[Any, ...]:
    """What makes two values of a class different."""
    cls: Any = value.__class__
    names = _NAMES.get(cls)
    if names is None:
        names = _NAMES[cls] = tuple(field.name for field in fields(cls) if field.compare)
    return tuple([getattr(value, name) for name in names])


_NAMES: dict[type[Any], tuple[str, ...]] = {}
