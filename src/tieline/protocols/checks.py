"""Checks of option values: each says which option, what is allowed, and what came."""

from __future__ import annotations

__all__ = ["require_at_least", "require_range", "require_seconds"]


def require_range(option: str, value: int | None, low: int, high: int) -> None:
    """An integer option within bounds, or None for the system's default."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{option} must be an int from {low} to {high}, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{option} must be from {low} to {high}, got {value}")


def require_at_least(option: str, value: int, low: int) -> None:
    """An integer option with a lower bound."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{option} must be an int of at least {low}, got {value!r}")
    if value < low:
        raise ValueError(f"{option} must be at least {low}, got {value}")


def require_seconds(option: str, value: float | None, *, zero: bool = False) -> None:
    """A finite, positive number of seconds, or None where the option may be left out."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{option} must be a number of seconds, got {value!r}")
    if not (0 <= value < float("inf")) or (value == 0 and not zero):
        raise ValueError(f"{option} must be a finite number of seconds {'of 0 or more' if zero else 'above 0'}, got {value}")
