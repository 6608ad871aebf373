"""What can be sent as bytes, and what is said of what cannot."""

from __future__ import annotations

from typing import Any

from tieline.protocols.integers import FixedWidthInteger
from tieline.protocols.ip import IPMetadata

__all__ = ["misuse", "octets", "sendable"]


def octets(content: Any, flow: Any) -> bytes | memoryview:
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
        kind = type(content).__name__
        raise misuse(flow, f"bytes, a buffer or a fixed-width integer can be sent, got {kind}{hint}") from None
    if not view.contiguous:
        raise misuse(flow, f"a buffer that is sent must be contiguous, got one with strides {view.strides}")
    return view.cast("B") if view.format != "B" or view.ndim != 1 else view


def sendable(metadata: object, flow: Any) -> IPMetadata | None:
    """What a program says of the packet of a datagram. Raises TypeError and ValueError."""
    if metadata is None:
        return None
    if not isinstance(metadata, IPMetadata):
        raise misuse(flow, f"metadata must be an IPMetadata, got {metadata!r}")
    if not flow.has_packets:
        raise misuse(flow, "its datagrams share packets with other data, so nothing can be said of the packet of one")
    if metadata.receive_time is not None:
        raise ValueError(f"receive_time is of datagrams that were received, got {metadata.receive_time} for one to send")
    if metadata.hop_limit == 0:
        raise ValueError("hop_limit must be at least 1 for a datagram to leave, got 0")
    return metadata


class MisuseError(TypeError):
    """A TypeError that already says which calls there are."""


def misuse(flow: Any, reason: str) -> MisuseError:
    """The error for a call that this protocol does not have in this form: it says which calls there are."""
    return MisuseError(f"{flow.name}: {reason}. Its calls: {flow.calls}")
