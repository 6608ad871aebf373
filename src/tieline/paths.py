"""What the network looks like at one moment: interfaces and routes, and paths made of them.

    Network (interfaces, routes, DNS servers) ──Restrictions──▶ Path        `evaluate`: what a program may use
                                              ──an address───▶ Route, …     `Network.ways`: how packets get there

All of it are snapshots: a change of the network makes a new one that differs from the old, never a changed one. The rules of how
interfaces become a path are here; which interfaces and routes there are, `tieline.drivers.interfaces` says.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection
from ipaddress import ip_address, ip_network
from math import inf

from tieline.endpoints import Endpoint, HostPort
from tieline.values import Value, value


class InterfaceType(enum.Enum):
    """An interface's own medium: a tunnel over Wi-Fi is `OTHER`, not `WIFI`."""

    OTHER = "other"
    WIFI = "Wi-Fi"
    CELLULAR = "cellular"
    WIRED = "wired"
    LOOPBACK = "loopback"


# Cheap and steady before dear and shaky; loopback reaches nobody else.
_PREFERENCE = (
    InterfaceType.WIRED, InterfaceType.WIFI, InterfaceType.CELLULAR, InterfaceType.OTHER, InterfaceType.LOOPBACK,
)  # fmt: skip


class LinkQuality(enum.Enum):
    """A hint for first guesses such as a bit rate; not a reason to connect or not to."""

    UNKNOWN = "unknown"
    MINIMAL = "minimal"
    MODERATE = "moderate"
    GOOD = "good"


@value
class Interface(Value):
    """A network interface with the IP addresses that it has now.

    `index` is the system's number of it. Addresses are canonical text without scope; they count in comparisons, since
    another address means another path. `is_expensive`: traffic costs money or is metered; cellular is taken for it.
    `is_constrained`: the user wants little traffic. `set_interface_policy` has the last word on type, expense and constraint.
    """

    name: str
    index: int
    type: InterfaceType
    addresses: tuple[str, ...] = ()
    is_expensive: bool = False
    is_constrained: bool = False
    link_quality: LinkQuality = LinkQuality.UNKNOWN


@value
class Route(Value):
    """Packets to a block of addresses leave through one interface, perhaps to a router there.

    - `prefix`, `length`: the block, as the number of its first address and how many leading bits all have in common.
    - `interface`: the index; None where the system refuses to send (an unreachable, prohibited or black hole route).
    - `gateway`: the router's address, None on the interface's own link.
    - `metric`: the lower is preferred among equally long ones.
    - `by_policy`: from a table that only rules of the system's administrator, or of a VPN, lead to.
    """

    version: int
    prefix: int
    length: int
    interface: int | None
    gateway: str | None = None
    metric: int = 0
    by_policy: bool = False

    @classmethod
    def to(cls, block: str, interface: int | None, gateway: str | None = None, metric: int = 0) -> Route:
        """To a block as text: ``Route.to("10.0.0.0/8", 2)``. Raises `ValueError`."""
        network = ip_network(block)
        return cls(network.version, int(network.network_address), network.prefixlen, interface, gateway, metric)

    def covers(self, version: int, address: int) -> bool:
        """Whether an address is in the block."""
        bits = (32 if self.version == 4 else 128) - self.length
        return version == self.version and address >> bits == self.prefix >> bits

    @property
    def is_default(self) -> bool:
        """Whether it leads everywhere."""
        return self.length == 0


@value
class Network(Value):
    """Everything that this machine knows of its network at one moment.

    - `interfaces`: those that are up and have an address, by index.
    - `routes`: None where the system does not tell.
    - `dns_servers`: addresses, None where the system does not tell.
    """

    interfaces: tuple[Interface, ...] = ()
    routes: tuple[Route, ...] | None = None
    dns_servers: tuple[str, ...] | None = None

    def owner(self, host: str) -> Interface | None:
        """The interface that has a local address, which may have a scope."""
        address, _, scope = host.partition("%")
        for interface in self.interfaces:
            # One link-local address may exist on several interfaces: then the scope decides.
            if address in interface.addresses and scope in ("", interface.name, str(interface.index)):
                return interface
        return None

    def routes_to(self, host: str) -> tuple[Route, ...]:
        """Every route that covers an address, the preferred first. Empty where the system does not tell."""
        text, _, scope = host.partition("%")
        address = ip_address(text)
        found = [route for route in self.routes or () if route.covers(address.version, int(address))]
        if scope:
            index = next((one.index for one in self.interfaces if scope in (one.name, str(one.index))), None)
            found = [route for route in found if route.interface == index]
        order = {one.index: (_PREFERENCE.index(one.type), one.index) for one in self.interfaces}
        nowhere = len(_PREFERENCE), 0
        return tuple(sorted(found, key=lambda one: (-one.length, one.metric, order.get(one.interface or 0, nowhere))))

    def is_on_link(self, host: str) -> bool:
        """Whether packets to an address reach its machine without a router, or stay on this one.

        A default route never says so, with a router or not: what is at the other end of a modem is the whole Internet. Without
        routes, only link-local addresses and our own are known to be so.
        """
        address = ip_address(host.partition("%")[0])
        if address.is_loopback or address.is_link_local or self.owner(host) is not None:
            return True
        route = next((one for one in self.routes_to(host) if not one.by_policy), None)
        return route is not None and route.interface is not None and route.gateway is None and not route.is_default

    def ways(self, host: str) -> tuple[tuple[Interface, Route], ...] | None:
        """The interfaces that packets to an address may leave through, the system's choice first; None if only the system knows.

        Only the longest prefix counts: a route to a smaller block is somebody's decision for it, such as a VPN's. Where rules of
        policy have a say, the system alone decides.
        """
        if self.routes is None:
            return None
        covering = self.routes_to(host)
        if any(route.by_policy for route in covering):
            return None
        longest = [route for route in covering if route.length == covering[0].length]
        if longest and longest[0].interface is None:
            return ()
        interfaces = {one.index: one for one in self.interfaces}
        ways: dict[int, tuple[Interface, Route]] = {}
        for route in longest:
            if (interface := interfaces.get(route.interface or 0)) is not None:
                ways.setdefault(interface.index, (interface, route))
        return tuple(ways.values())

    def allowed_ways(self, host: str, restrictions: Restrictions | None, *, local_only: bool = False) -> list[Interface]:
        """Those of the `ways` to an address that may be used, the system's choice first. Empty also if only the system knows."""
        return [
            interface
            for interface, route in self.ways(host) or ()
            if (restrictions is None or restrictions.allow(interface)) and not (local_only and route.gateway is not None)
        ]


@value(kw_only=True)
class Restrictions(Value):
    """Which interfaces may be used; named as in `Parameters`, where they are explained."""

    required_interface: str | None = None
    required_interface_type: InterfaceType | None = None
    prohibited_interfaces: Collection[str] = ()
    prohibited_interface_types: Collection[InterfaceType] = ()
    expensive_paths_prohibited: bool = False
    constrained_paths_prohibited: bool = False

    def allow(self, interface: Interface) -> bool:
        """Whether this one may be used."""
        return all(allows(interface) for _, allows in self.rules())

    def rules(self) -> tuple[tuple[UnsatisfiedReason, Callable[[Interface], bool]], ...]:
        """Prohibitions, then requirements; each with the reason that it gives if nothing is left."""
        name, type = self.required_interface, self.required_interface_type
        expense, constraint = self.expensive_paths_prohibited, self.constrained_paths_prohibited
        return (
            (UnsatisfiedReason.INTERFACE_PROHIBITED, lambda one: one.name not in self.prohibited_interfaces),
            (UnsatisfiedReason.INTERFACE_TYPE_PROHIBITED, lambda one: one.type not in self.prohibited_interface_types),
            (UnsatisfiedReason.EXPENSIVE_PROHIBITED, lambda one: not (expense and one.is_expensive)),
            (UnsatisfiedReason.CONSTRAINED_PROHIBITED, lambda one: not (constraint and one.is_constrained)),
            (UnsatisfiedReason.INTERFACE_REQUIRED, lambda one: name in (None, one.name)),
            (UnsatisfiedReason.INTERFACE_TYPE_REQUIRED, lambda one: type in (None, one.type)),
        )


class PathStatus(enum.Enum):
    """Whether a path can be used."""

    SATISFIED = "satisfied"
    UNSATISFIED = "unsatisfied"
    REQUIRES_CONNECTION = "requires connection"
    """Not up, but connecting may bring it up; the Linux kernel has no such state, so `evaluate` never says it."""


class UnsatisfiedReason(enum.Enum):
    """Why a path is not satisfied: what removed the last interface.

    `evaluate` gives those about availability, prohibitions and requirements; the others are for platforms that deny a medium.
    """

    NOT_AVAILABLE = "no interface is up with an address"
    INTERFACE_PROHIBITED = "every remaining interface is prohibited"
    INTERFACE_TYPE_PROHIBITED = "every remaining interface is of a prohibited type"
    EXPENSIVE_PROHIBITED = "every remaining interface is expensive, and such paths are prohibited"
    CONSTRAINED_PROHIBITED = "every remaining interface is constrained, and such paths are prohibited"
    INTERFACE_REQUIRED = "the required interface is not available"
    INTERFACE_TYPE_REQUIRED = "no remaining interface is of the required type"
    CELLULAR_DENIED = "cellular is denied"
    WIFI_DENIED = "Wi-Fi is denied"
    LOCAL_NETWORK_DENIED = "the local network is denied"
    VPN_INACTIVE = "the VPN is not active"


@value
class Path(Value):
    """The network as a monitor's filter or a connection's parameters allow it to be used, at one moment.

    - `available_interfaces`: best first; loopback is one of them, so look at `supports_ipv4` and `supports_ipv6` for
      whether other machines can be reached: an interface has an address of that family beyond its own link.
    - `local_endpoint`, `remote_endpoint`: the addresses of a connection; `None` in a monitor's path.
    - `supports_dns`: whether the system knows a DNS server, `None` where it does not tell.
    - `is_expensive`, `is_constrained`, `link_quality`: of the best interface, which is the one that a connection uses.
    - `is_ultra_constrained`: no system that this runs on has such interfaces.
    - `gateways`: the routers of the default routes, in the interfaces' order; addresses with port 0.
    """

    status: PathStatus
    unsatisfied_reason: UnsatisfiedReason | None = None
    available_interfaces: tuple[Interface, ...] = ()
    supports_ipv4: bool = False
    supports_ipv6: bool = False
    supports_dns: bool | None = None
    is_expensive: bool = False
    is_constrained: bool = False
    is_ultra_constrained: bool = False
    gateways: tuple[HostPort, ...] = ()
    link_quality: LinkQuality = LinkQuality.UNKNOWN
    local_endpoint: Endpoint | None = None
    remote_endpoint: Endpoint | None = None

    @property
    def is_satisfied(self) -> bool:
        """Whether the path can be used now."""
        return self.status is PathStatus.SATISFIED

    @property
    def interface(self) -> Interface | None:
        """The interface that a connection's local address belongs to; `None` in a monitor's path or if it is gone."""
        if not isinstance(self.local_endpoint, HostPort):
            return None
        return Network(self.available_interfaces).owner(self.local_endpoint.host)

    def uses_interface_type(self, type: InterfaceType) -> bool:
        """Whether traffic goes over that type, or, if the path is not of a connection, may go over it."""
        candidates = self.available_interfaces if self.interface is None else (self.interface,)
        return any(interface.type is type for interface in candidates)


def evaluate(network: Network, restrictions: Restrictions | None = None) -> Path:
    """The path over a network that the restrictions leave.

    The rule that removed the last interface becomes the reason. What is left is ordered as the system prefers their default
    routes, then by type (wired, Wi-Fi, cellular, other, loopback), then by index.
    """
    left = [one for one in network.interfaces if one.addresses]
    if not left:
        return Path(PathStatus.UNSATISFIED, UnsatisfiedReason.NOT_AVAILABLE)
    for reason, allows in () if restrictions is None else restrictions.rules():
        left = [one for one in left if allows(one)]
        if not left:
            return Path(PathStatus.UNSATISFIED, reason)
    routes = [route for route in network.routes or () if not route.by_policy and route.interface is not None]
    defaults: dict[int, list[Route]] = {}
    for route in routes:
        if route.is_default:
            defaults.setdefault(route.interface or 0, []).append(route)
    left.sort(
        key=lambda one: (
            min((route.metric for route in defaults.get(one.index, ())), default=inf),
            _PREFERENCE.index(one.type),
            one.index,
        )
    )
    versions = {version for one in left for version in _reaching_versions(one, None if network.routes is None else routes)}
    gateways = [
        HostPort(f"{route.gateway}%{one.name}" if route.gateway.startswith("fe80:") else route.gateway, 0)
        for one in left
        for route in sorted(defaults.get(one.index, ()), key=lambda route: (route.metric, route.version))
        if route.gateway is not None
    ]
    best = left[0]
    return Path(
        PathStatus.SATISFIED,
        available_interfaces=tuple(left),
        supports_ipv4=4 in versions,
        supports_ipv6=6 in versions,
        supports_dns=None if network.dns_servers is None else bool(network.dns_servers),
        is_expensive=best.is_expensive,
        is_constrained=best.is_constrained,
        gateways=tuple(dict.fromkeys(gateways)),
        link_quality=best.link_quality,
    )


def _reaching_versions(interface: Interface, routes: Collection[Route] | None) -> set[int]:
    """The IP versions of which the interface has an address that other links can answer to, and a route beyond its own link."""
    addresses = (ip_address(address) for address in interface.addresses)
    versions: set[int] = {address.version for address in addresses if not (address.is_loopback or address.is_link_local)}
    if routes is None:
        return versions
    own = [route for route in routes if route.interface == interface.index]
    return {version for version in versions if any(route.version == version and not _is_link_local(route) for route in own)}


def _is_link_local(route: Route) -> bool:
    return (route.version, route.prefix >> 112, route.length >= 10) == (6, 0xFE80, True) or (
        route.version == 4 and route.prefix >> 16 == 0xA9FE and route.length >= 16
    )
