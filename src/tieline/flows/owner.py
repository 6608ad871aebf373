"""The connection, as its flow sees it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tieline.drivers.port import Driver
    from tieline.errors import NetworkError

__all__ = ["FlowOwner", "present"]


class FlowOwner(Protocol):
    """The connection, as its flow sees it. The flow does not keep it alive."""

    driver: Driver

    def needed(self) -> None:
        """A call waits: start, or try again. Raises what makes waiting pointless."""

    def flow_failed(self, error: NetworkError | None) -> None: ...


def present(reference: weakref.ref[FlowOwner]) -> FlowOwner:
    """The connection. Raises RuntimeError if the program has dropped it: nobody else keeps it."""
    owner = reference()
    if owner is None:
        raise RuntimeError("the connection was dropped before its call ran: keep a reference to it, best by `async with`")
    return owner
