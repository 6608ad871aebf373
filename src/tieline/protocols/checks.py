"""Checks of option values: each says which option, what is allowed, and what came."""

from __future__ import annotations

from math import inf

__all__ = ["require_at_least", "require_bytes", "require_flags", "require_range", "require_seconds"]


def require_flags(options: object, *names: str) -> None:
    """Options that are True or False: a text such as "no" would count as True."""
    for name in names:
        value = getattr(options, name)
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def require_range(option: str, value: int | None, low: int, high: int, *, optional: bool = False) -> None:
    """An integer option within bounds; if `optional`, None is the system's default."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{option} must be an int from {low} to {high}{_or_none(optional)}, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{option} must be from {low} to {high}, got {value}")


def require_bytes(option: str, value: bytes, shortest: int, longest: int) -> None:
    """Bytes of a length within bounds. What they are is not said: they may be a secret."""
    lengths = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
    if not isinstance(value, bytes):
        raise TypeError(f"{option} must be {lengths} bytes, got a {type(value).__name__}")
    if not shortest <= len(value) <= longest:
        raise ValueError(f"{option} must be {lengths} bytes, got {len(value)}")


def require_at_least(option: str, value: int, low: int) -> None:
    """An integer option with a lower bound."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{option} must be an int of at least {low}, got {value!r}")
    if value < low:
        raise ValueError(f"{option} must be at least {low}, got {value}")


def require_seconds(
    option: str, value: object, *, zero: bool = False, optional: bool = False, at_most: float | None = None
) -> None:
    """A finite, positive number of seconds; `zero` may be allowed, and None if the option is `optional`."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{option} must be a number of seconds{_or_none(optional)}, got {value!r}")
    if not (0 <= value < inf) or (value == 0 and not zero):
        raise ValueError(f"{option} must be a finite number of seconds {'of 0 or more' if zero else 'above 0'}, got {value}")
    if at_most is not None and value > at_most:
        raise ValueError(f"{option} must be at most {at_most:,.0f} seconds, got {value}")


def _or_none(optional: bool) -> str:
    return " or None" if optional else ""
