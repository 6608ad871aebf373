"""PathMonitor: which network there is."""

from __future__ import annotations

from collections.abc import Collection

from tieline import drivers
from tieline.paths import InterfaceType, Path, evaluate
from tieline.updates import UpdateIterator, Updates

__all__ = ["PathMonitor"]


class PathMonitor:
    """The path that this machine has now, optionally for one type of interface or without some.

    ``async for path in PathMonitor():`` yields the present path at once. Changes of the network are not watched yet: after the
    first path the iteration waits.
    """

    def __init__(
        self,
        *,
        required_interface_type: InterfaceType | None = None,
        prohibited_interface_types: Collection[InterfaceType] = (),
    ) -> None:
        self._required = required_interface_type
        self._prohibited = tuple(prohibited_interface_types)
        self._updates: Updates[PathMonitor, Path] = Updates()

    @property
    def current_path(self) -> Path:
        """The path now. Raises `RuntimeError` outside a running event loop."""
        return evaluate(
            drivers.current().interfaces(),
            required_interface_type=self._required,
            prohibited_interface_types=self._prohibited,
        )

    def __aiter__(self) -> UpdateIterator[Path]:
        return self._updates.iterate(self.current_path)
