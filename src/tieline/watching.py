"""What a connection does with news of the network.

    Network ──▶ the path between its addresses ──▶ on_path_update
            ──▶ can data pass at present?       ──▶ on_viability_update ──▶ hand over to another interface, over QUIC
            ──▶ is another interface preferred? ──▶ on_better_path_update
            ──▶ while WAITING: is something different for what it wants? ──▶ try again

The network is watched only while somebody wants to know: a handler, a connection that waits, or one that moves by itself. Most
connections have none of these, and then nothing of this either: `Watching` is made when it is first needed.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

from tieline.endpoints import Endpoint, HostPort, URLEndpoint, ip_of
from tieline.engines.states import State
from tieline.parameters import Multipath
from tieline.paths import Interface, InterfaceType, Network, Path, PathStatus, UnsatisfiedReason, evaluate
from tieline.protocols.roles import MultiplexProtocol
from tieline.updates import Updates

if TYPE_CHECKING:
    from tieline.drivers.port import Address, Driver, NetworkWatch
    from tieline.parameters import Parameters

__all__ = ["ONE_PATH", "Watched", "Watching", "WatchingOwner", "connected_path", "current_network", "is_viable"]

GONE = UnsatisfiedReason.NOT_AVAILABLE
ONE_PATH = Multipath.DISABLED  # before Python 3.12, to look it up there takes longer than what is done with it


class WatchingOwner(Protocol):
    """The connection, as the watching sees it."""

    driver: Driver

    @property
    def state(self) -> State: ...
    @property
    def local_endpoint(self) -> Address | None: ...
    @property
    def remote_endpoint(self) -> Address | None: ...
    def retry(self) -> None:
        """Try again, if it is still waiting."""

    def move_to(self, interface: str) -> None:
        """Go on over another interface. Raises OSError."""


class Watching:
    """What the network is to the addresses of one connection."""

    __slots__ = (
        "__weakref__", "_is_better", "_is_viable", "_moved_for", "_moves", "_owner", "_parameters", "_path", "_prospects",
        "_restrictions", "_target", "_watch", "better_paths", "paths", "viability",
    )  # fmt: skip

    def __init__(self, owner: WatchingOwner, parameters: Parameters[Any], target: Endpoint | None, *, multiplexed: bool) -> None:
        self._owner = weakref.ref(owner)
        self._parameters = parameters
        self._restrictions = parameters.restrictions
        self._target = target.host_port if isinstance(target, URLEndpoint) else target  # of the side that connects
        self._moves = multiplexed and target is not None and parameters.multipath is Multipath.HANDOVER
        self._watch: NetworkWatch | None = None
        self._path: Path | None = None
        self._prospects: object = None  # at the last attempt
        self._moved_for: object = None  # what the network was when it moved the last time
        self._is_viable, self._is_better = True, False
        self.paths: Updates[Any, Path] = Updates()
        self.viability: Updates[Any, bool] = Updates()
        self.better_paths: Updates[Any, bool] = Updates()

    # Told by the connection

    def wanted(self) -> None:
        """Somebody wants to know of something: begin, if there is a connection to watch."""
        owner = self._owner()
        if owner is not None and owner.state is State.READY:
            self._begin(owner)

    def ready(self) -> None:
        """Data can flow between the connection's addresses."""
        self._path = None
        self._is_viable, self._is_better = True, False
        owner = self._owner()
        assert owner is not None  # it calls
        if self._moves or any(updates.watched for updates in (self.paths, self.viability, self.better_paths)):
            if self.paths.watched:
                self.paths.publish(owner, self.current_path)
            if owner.state is State.READY:
                self.viability.publish(owner, True)
            if owner.state is State.READY:
                self._begin(owner)
        else:
            self._end()

    def moved(self) -> None:
        """The connection goes on between other addresses."""
        self._path = None
        owner = self._owner()
        if owner is not None:
            self._assess(owner, current_network(owner.driver))

    def unconnected(self) -> None:
        """It has no addresses any more, and looks for others."""
        self._path = None

    def waiting(self) -> None:
        """The connection waits: from now on a change is a reason to try again, also one that has come during the attempt."""
        owner = self._owner()
        assert owner is not None
        if self._watch is None:
            self._begin(owner)
            self._prospects = self._prospects_in(current_network(owner.driver))
        else:
            self._look_for_prospects(owner, current_network(owner.driver))

    def end(self) -> None:
        """The connection is over: nobody is told any more."""
        for updates in (self.paths, self.viability, self.better_paths):
            updates.handler = None
        self._end()

    @property
    def current_path(self) -> Path:
        """The path between the addresses, as it is now."""
        owner = self._owner()
        assert owner is not None
        return self._path_in(owner, current_network(owner.driver))

    @property
    def last_path(self) -> Path | None:
        """As it was when somebody last asked or was told."""
        return self._path

    # The network

    def _begin(self, owner: WatchingOwner) -> None:
        if self._watch is None and not isinstance(owner.local_endpoint or HostPort("::", 0), HostPort):
            return  # a Unix socket needs no network
        if self._watch is None:
            reference: weakref.ref[Watching] = weakref.ref(self)
            with contextlib.suppress(OSError):  # nobody tells of changes here, so there are none to tell on
                self._watch = owner.driver.watch_network(lambda network: _changed(reference, network))
        if owner.state is State.READY:
            if self._path is None:  # who begins to watch is told of what changes from now on
                self._path_in(owner, current_network(owner.driver))
            owner.driver.call_soon(_assess, weakref.ref(self))

    def _end(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def changed(self, network: Network) -> None:
        """There is another network."""
        owner = self._owner()
        if owner is None:
            self._end()
        elif owner.state is State.READY:
            self._assess(owner, network)
        elif owner.state is State.WAITING:
            self._look_for_prospects(owner, network)

    def assess(self) -> None:
        """Compare what was told with what is."""
        owner = self._owner()
        if owner is not None and owner.state is State.READY:
            self._assess(owner, current_network(owner.driver))

    def _assess(self, owner: WatchingOwner, network: Network | None) -> None:
        before, path = self._path, self._path_in(owner, network)
        if path != before:
            self.paths.publish(owner, path)
        if owner.state is State.READY and path.is_satisfied != self._is_viable:
            self._is_viable = path.is_satisfied
            self.viability.publish(owner, self._is_viable)
        better = None if network is None else self._better_interface(owner, network)
        if owner.state is State.READY and (better is not None) != self._is_better:
            self._is_better = better is not None
            self.better_paths.publish(owner, self._is_better)
        if owner.state is State.READY and self._moves and better is not None:
            self._move(owner, better, network)

    def _path_in(self, owner: WatchingOwner, network: Network | None) -> Path:
        local, remote = owner.local_endpoint, owner.remote_endpoint
        viable = network is None or is_viable(network, local, remote, bound=self._is_bound)
        self._path = connected_path(network, local, remote, viable=viable)
        return self._path

    @property
    def _is_bound(self) -> bool:
        """Whether packets have to leave through the interface of our address: others' routers would drop them."""
        return self._target is not None or self._restrictions is not None

    def _better_interface(self, owner: WatchingOwner, network: Network) -> Interface | None:
        """The interface that the same parameters would choose now, if it is another one."""
        local, remote = owner.local_endpoint, owner.remote_endpoint
        if not isinstance(local, HostPort) or not isinstance(remote, HostPort):
            return None
        ways = self._ways(remote, network)
        if not ways:
            return None
        own = network.owner(local.host)
        return None if own is not None and own.index == ways[0].index else ways[0]

    def _ways(self, remote: HostPort, network: Network) -> list[Interface]:
        if self._target is None or self._parameters.have_address or network.owner(remote.host) is not None:
            return []
        if ip_of(remote).is_loopback:
            return []
        version = ip_of(remote).version
        allowed = network.allowed_ways(remote.host, self._restrictions, local_only=self._parameters.local_only)
        return [one for one in allowed if any(ip_address(address).version == version for address in one.addresses)]

    def _move(self, owner: WatchingOwner, better: Interface, network: Network | None) -> None:
        if self._moved_for == network:
            return  # it came back: that way is dead, whatever the system thinks of it
        self._moved_for = network
        with contextlib.suppress(OSError):  # it goes on where it is, until the network changes again
            owner.move_to(better.name)

    # Waiting

    def _look_for_prospects(self, owner: WatchingOwner, network: Network | None) -> None:
        before, self._prospects = self._prospects, self._prospects_in(network)
        if self._prospects != before and owner.state is State.WAITING:
            owner.retry()

    def _prospects_in(self, network: Network | None) -> object:
        """What of the network is of any interest to an attempt: addresses and routes beyond a link; for a name, DNS servers."""
        if network is None:
            return None
        allowed = [one for one in network.interfaces if self._restrictions is None or self._restrictions.allow(one)]
        reaching = {
            one.index: tuple(address for address in one.addresses if not ip_address(address).is_link_local) for one in allowed
        }
        target = self._target
        routes = network.routes or ()
        if isinstance(target, HostPort) and target.is_literal:
            host = target.host.partition("%")[0]
            routes = network.routes_to(target.host)
            if ip_address(host).is_link_local:
                reaching = {one.index: one.addresses for one in allowed}
        indexes = {index for index, addresses in reaching.items() if addresses} | {None}
        servers = network.dns_servers if isinstance(target, HostPort) and not target.is_literal else None
        own = {index: one for index, one in reaching.items() if one}
        return own, {one for one in routes if one.interface in indexes}, servers


class Watched:
    """The addresses and the path of a connection, and the calls that are about them."""

    driver: Driver
    _parameters: Parameters[Any]
    _endpoint: Endpoint | None
    _state: State
    _local: Address | None = None
    _remote: Address | None = None
    _watch: Watching | None = None

    def on_path_update(self, handler: Callable[[Self, Path], object]) -> Self:
        """Call ``handler(connection, path)`` when the connection gets a path, and when that changes. Returns the connection."""
        self._watching.paths.handler = handler
        self._watching.wanted()
        return self

    def on_viability_update(self, handler: Callable[[Self, bool], object]) -> Self:
        """Call ``handler(connection, viable)`` when data can pass, or cannot at present. Returns the connection."""
        self._watching.viability.handler = handler
        self._watching.wanted()
        return self

    def on_better_path_update(self, handler: Callable[[Self, bool], object]) -> Self:
        """Call ``handler(connection, better)`` when a preferable interface comes or goes. Returns the connection."""
        self._watching.better_paths.handler = handler
        self._watching.wanted()
        return self

    def moved(self, local: Address | None, remote: Address | None) -> None:
        self._local, self._remote = local or self._local, remote or self._remote
        if self._watch is not None:
            self._watch.moved()

    @property
    def local_endpoint(self) -> Address | None:
        """Our address and port, None until they are known."""
        return self._local

    @property
    def remote_endpoint(self) -> Address | None:
        """The peer's address and port, None until they are known."""
        return self._remote

    @property
    def current_path(self) -> Path | None:
        """The interface in use and the effective endpoints, None before ready. After the end, the last one that was asked for."""
        if self._state is State.READY:
            return self._watching.current_path
        return None if self._watch is None else self._watch.last_path

    @property
    def _watching(self) -> Watching:
        if self._watch is None:
            multiplexed = isinstance(self._parameters.stack, MultiplexProtocol)
            self._watch = Watching(cast("Any", self), self._parameters, self._endpoint, multiplexed=multiplexed)
        return self._watch


def _changed(reference: weakref.ref[Watching], network: Network) -> None:
    """For the subscription: it does not keep a connection that has been dropped."""
    watching = reference()
    if watching is not None:
        watching.changed(network)


def _assess(reference: weakref.ref[Watching]) -> None:
    watching = reference()
    if watching is not None:
        watching.assess()


def current_network(driver: Driver) -> Network | None:
    """The network as it is now, None where the system does not tell."""
    try:
        return driver.network()
    except OSError:
        return None


def is_viable(network: Network, local: Address | None, remote: Address | None, *, bound: bool) -> bool:
    """Whether packets between these addresses can leave at present. `bound`: only through the interface of the local one."""
    if not isinstance(local, HostPort) or not isinstance(remote, HostPort):
        return True
    address = ip_of(local)
    if address.is_loopback:
        return True
    own = network.owner(local.host)
    if own is None and not address.is_unspecified:
        return False
    if network.routes is None or network.owner(remote.host) is not None:
        return True
    routes = network.routes_to(remote.host)
    if any(route.by_policy for route in routes):
        return True  # only the system knows
    if not routes or routes[0].interface is None:
        return False
    if not bound or own is None or own.type is InterfaceType.LOOPBACK:  # an address of no link in particular
        return True
    return any(route.interface == own.index for route in routes)


def connected_path(network: Network | None, local: Address | None, remote: Address | None, *, viable: bool = True) -> Path:
    """The path of a connection between these addresses: the interface that has the local one."""
    if network is None or not isinstance(local, HostPort):  # the system does not tell, or a Unix socket leads over no interface
        path = Path(PathStatus.SATISFIED)
    elif viable:
        used = network.owner(local.host)
        path = evaluate(network if used is None else replace(network, interfaces=(used,)))
    else:
        path = Path(PathStatus.UNSATISFIED, GONE)
    return replace(path, local_endpoint=local, remote_endpoint=remote)
