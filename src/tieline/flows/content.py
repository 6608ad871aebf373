"""What can be sent as bytes."""

from __future__ import annotations

from typing import Any

from tieline.protocols.integers import FixedWidthInteger

__all__ = ["octets"]


def octets(content: Any) -> bytes | memoryview:
    """Anything with the buffer protocol, uncopied, or a fixed-width integer. Raises TypeError for the rest."""
    if isinstance(content, FixedWidthInteger):
        return bytes(content)
    if isinstance(content, bytes):
        return content
    try:
        view = memoryview(content)
    except TypeError:
        hint = ": encode it first" if isinstance(content, str) else ""
        if isinstance(content, int):
            hint = ": give it a width, such as UInt32(...)"
        raise TypeError(f"bytes, a buffer or a fixed-width integer can be sent, got {type(content).__name__}{hint}") from None
    if not view.contiguous:
        raise TypeError("a buffer that is sent must be contiguous")
    return view.cast("B") if view.format != "B" or view.ndim != 1 else view
