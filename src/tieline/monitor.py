"""PathMonitor: which network there is."""

from __future__ import annotations

import weakref
from collections.abc import Collection

from tieline import drivers
from tieline.drivers.interfaces.policy import set_interface_policy
from tieline.paths import InterfaceType, Network, Path, Restrictions, evaluate
from tieline.updates import UpdateIterator, Updates

__all__ = ["PathMonitor", "set_interface_policy"]


class PathMonitor:
    """The path that this machine has now, and its changes; optionally for one type of interface, or without some.

    ``async for path in PathMonitor():`` yields the present path at once, and then each that is different from the one before,
    about 20 ms after the system has told of the change; what changes at the same time is one change. On systems that tell of
    nothing, the network is looked at every second. Leaving the loop leaves nothing open.

    - `required_interface_type`, `prohibited_interface_types`, `prohibited_interfaces`: restrict the path to some interfaces.
    - `expensive_paths_prohibited`, `constrained_paths_prohibited`: leave out interfaces of that kind.
    """

    def __init__(
        self,
        *,
        required_interface_type: InterfaceType | None = None,
        prohibited_interface_types: Collection[InterfaceType] = (),
        prohibited_interfaces: Collection[str] = (),
        expensive_paths_prohibited: bool = False,
        constrained_paths_prohibited: bool = False,
    ) -> None:
        self._restrictions = Restrictions(
            required_interface_type=required_interface_type,
            prohibited_interface_types=tuple(prohibited_interface_types),
            prohibited_interfaces=tuple(prohibited_interfaces),
            expensive_paths_prohibited=expensive_paths_prohibited,
            constrained_paths_prohibited=constrained_paths_prohibited,
        )

    @property
    def current_path(self) -> Path:
        """The path now. Raises `OSError` if the system does not tell, and `RuntimeError` outside a running event loop."""
        return evaluate(drivers.current().network(), self._restrictions)

    def __aiter__(self) -> UpdateIterator[Path]:
        driver, restrictions = drivers.current(), self._restrictions
        updates: Updates[PathMonitor, Path] = Updates()
        last: Path | None = None

        def changed(network: Network) -> None:
            nonlocal last
            path = evaluate(network, restrictions)
            if path != last:
                last = path
                updates.publish(self, path)

        watch = driver.watch_network(changed)
        last = evaluate(driver.network(), restrictions)
        iterator = updates.iterate(last)
        weakref.finalize(iterator, watch.cancel).atexit = False
        return iterator
