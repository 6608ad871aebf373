"""What a simulated host notices of the network: its own interfaces, addresses and routes, as a real one does.

What happens further away is not announced to anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tieline.drivers.interfaces.policy import applied
from tieline.paths import Interface, InterfaceType, Network, Route

if TYPE_CHECKING:
    from tieline.drivers.simulated.host import Host
    from tieline.drivers.simulated.node import NetworkInterface

__all__ = ["HostNetwork", "HostWatch"]

LOOPBACK = Interface("lo", 1, InterfaceType.LOOPBACK, ("127.0.0.1", "::1"))
BLOCKS = ("0.0.0.0/0", "::/0")
BEYOND = 100  # the metric of what is behind routers: all are equally good
NOTICE = 0.001  # seconds from a change until the host's programs are told


def _routes(interface: NetworkInterface) -> Iterator[Route]:
    for link in interface.links:
        peer = link.other(interface)
        if not (link.is_up and peer.is_running):
            continue
        for address in peer.addresses:
            yield Route.to(address, interface.index)
        if peer.node.forwards:
            for block in BLOCKS:
                if any((":" in address) == (":" in block) for address in interface.addresses):
                    yield Route.to(block, interface.index, metric=BEYOND)


class HostWatch:
    """Somebody who wants to know of changes, until `cancel`."""

    def __init__(self, network: HostNetwork, changed: Callable[[Network], object]) -> None:
        self._network = network
        self.changed: Callable[[Network], object] | None = changed

    def cancel(self) -> None:
        """Want nothing more. Idempotent."""
        self.changed = None
        self._network.watches.pop(self, None)


class HostNetwork:
    """The network of one host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._known: Network | None = None
        self._noticing = False
        self.watches: dict[HostWatch, None] = {}

    def now(self) -> Network:
        """Interfaces that run and have an address; routes to what is at the other end of their links, and beyond routers."""
        running = [one for one in self._host.interfaces if one.is_running and one.addresses and self._host.is_up]
        interfaces = [
            Interface(one.name, one.index, one.type, tuple(one.addresses), is_expensive=one.type is InterfaceType.CELLULAR)
            for one in running
        ]
        routes = [route for one in running if one.has_route for route in _routes(one)]
        if self._noticing:
            self._known = None  # who is given this has seen more than was told: the notice is told in any case
        return applied(Network((LOOPBACK, *interfaces), tuple(routes)))

    def watch(self, changed: Callable[[Network], object]) -> HostWatch:
        """Call back with each network that is different from the one before."""
        if not self.watches:
            self._known = self.now()
        watch = HostWatch(self, changed)
        self.watches[watch] = None
        return watch

    def changed(self) -> None:
        """Something about the topology is different: what follows from it for this host is noticed a little later."""
        if self.watches and not self._noticing:
            self._noticing = True
            self._host.network.schedule(self._host.network.time + NOTICE, self._notice)

    def _notice(self) -> None:
        self._noticing = False
        network = self.now()
        if network != self._known:
            self._known = network
            for watch in tuple(self.watches):
                if watch.changed is not None:
                    watch.changed(network)
