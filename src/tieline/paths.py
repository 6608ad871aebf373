"""What the network looks like at one moment: interfaces, and paths made of them.

A path is a snapshot: a change of the network makes a new one that differs from the old, never a changed one. `evaluate`
is the whole rule of how interfaces become a path; which ones there are, `tieline.drivers.interfaces` says.
"""

import enum
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from tieline.endpoints import Endpoint, HostPort


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


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface with the IP addresses that it has now.

    `index` is the system's number of it. Addresses are canonical text without scope; they count in comparisons, since
    another address means another path.
    """

    name: str
    index: int
    type: InterfaceType
    addresses: tuple[str, ...] = ()


class PathStatus(enum.Enum):
    """Whether a path can be used."""

    SATISFIED = "satisfied"
    UNSATISFIED = "unsatisfied"
    REQUIRES_CONNECTION = "requires connection"
    """Not up, but connecting may bring it up; the Linux kernel has no such state, so `evaluate` never says it."""


class UnsatisfiedReason(enum.Enum):
    """Why a path is not satisfied: what removed the last interface.

    `evaluate` gives the first five; the others are for platforms and policies that deny a medium.
    """

    NOT_AVAILABLE = "no interface is up with an address"
    INTERFACE_PROHIBITED = "every remaining interface is prohibited"
    INTERFACE_TYPE_PROHIBITED = "every remaining interface is of a prohibited type"
    INTERFACE_REQUIRED = "the required interface is not available"
    INTERFACE_TYPE_REQUIRED = "no remaining interface is of the required type"
    CELLULAR_DENIED = "cellular is denied"
    WIFI_DENIED = "Wi-Fi is denied"
    LOCAL_NETWORK_DENIED = "the local network is denied"
    VPN_INACTIVE = "the VPN is not active"


class LinkQuality(enum.Enum):
    """A hint for first guesses such as a bit rate; not a reason to connect or not to."""

    UNKNOWN = "unknown"
    MINIMAL = "minimal"
    MODERATE = "moderate"
    GOOD = "good"


@dataclass(frozen=True, slots=True)
class Path:
    """The network as a monitor's filter or a connection's parameters allow it to be used, at one moment.

    - `available_interfaces`: best first; loopback is one of them, so look at `supports_ipv4` and `supports_ipv6` for
      whether other machines can be reached: an interface has an address of that family beyond its own link.
    - `local_endpoint`, `remote_endpoint`: the addresses of a connection; `None` in a monitor's path.
    - `is_constrained`, `is_ultra_constrained`: settings of the user, `False` until made.

    These need further sources, and say that they do not know until those are read:

    - `gateways`: empty; default routes (rtnetlink) will fill it. Addresses with port 0.
    - `supports_dns`: `None`; systemd-resolved or resolv.conf will tell.
    - `is_expensive`: `None`; NetworkManager's metered state will tell.
    - `link_quality`: `UNKNOWN`; nl80211 and ModemManager will tell.
    """

    status: PathStatus
    unsatisfied_reason: UnsatisfiedReason | None = None
    available_interfaces: tuple[Interface, ...] = ()
    supports_ipv4: bool = False
    supports_ipv6: bool = False
    supports_dns: bool | None = None
    is_expensive: bool | None = None
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
        address, _, scope = self.local_endpoint.host.partition("%")
        for interface in self.available_interfaces:
            # One link-local address may exist on several interfaces: then the scope decides.
            if address in interface.addresses and scope in ("", interface.name, str(interface.index)):
                return interface
        return None

    def uses_interface_type(self, type: InterfaceType) -> bool:
        """Whether traffic goes over that type, or, if the path is not of a connection, may go over it."""
        candidates = self.available_interfaces if self.interface is None else (self.interface,)
        return any(interface.type is type for interface in candidates)


def evaluate(
    interfaces: Iterable[Interface],
    *,
    required_interface_type: InterfaceType | None = None,
    prohibited_interface_types: Collection[InterfaceType] = (),
    required_interface: str | None = None,
    prohibited_interfaces: Collection[str] = (),
) -> Path:
    """The path over `interfaces` (up, each with an address) that the restrictions leave; interfaces are given by name.

    Prohibitions prune before requirements; the rule that removed the last interface becomes the reason. What is left is
    ordered by type (wired, Wi-Fi, cellular, other, loopback), then by index.
    """
    rules: tuple[tuple[UnsatisfiedReason, Callable[[Interface], bool]], ...] = (
        (UnsatisfiedReason.NOT_AVAILABLE, lambda one: bool(one.addresses)),
        (UnsatisfiedReason.INTERFACE_PROHIBITED, lambda one: one.name not in prohibited_interfaces),
        (UnsatisfiedReason.INTERFACE_TYPE_PROHIBITED, lambda one: one.type not in prohibited_interface_types),
        (UnsatisfiedReason.INTERFACE_REQUIRED, lambda one: required_interface in (None, one.name)),
        (UnsatisfiedReason.INTERFACE_TYPE_REQUIRED, lambda one: required_interface_type in (None, one.type)),
    )
    left = list(interfaces)
    for reason, allows in rules:
        left = [one for one in left if allows(one)]
        if not left:
            return Path(PathStatus.UNSATISFIED, reason)
    left.sort(key=lambda one: (_PREFERENCE.index(one.type), one.index))
    versions = {version for one in left for version in _reaching_versions(one)}
    return Path(
        PathStatus.SATISFIED,
        available_interfaces=tuple(left),
        supports_ipv4=4 in versions,
        supports_ipv6=6 in versions,
    )


def _reaching_versions(interface: Interface) -> set[int]:
    """The IP versions of which the interface has an address that other links can answer to."""
    addresses = (ip_address(address) for address in interface.addresses)
    return {address.version for address in addresses if not (address.is_loopback or address.is_link_local)}
