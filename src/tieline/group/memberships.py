"""Where a group is joined: on every interface that the parameters allow, and that the network has at present.

    Network ──Restrictions──▶ interfaces ──members──▶ what is to be joined ──▶ join what is new, leave what is gone

Each port of each IP version has a socket, opened as soon as something can be joined there. The loopback counts only if it is
required: what is sent over any other interface comes back to this machine as well, and would come twice.
"""

from __future__ import annotations

import errno
import logging
import weakref
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Protocol

from tieline.endpoints import HostPort
from tieline.errors import ConnectError, Phase
from tieline.establishment.routes import unusable
from tieline.flows.group import Way
from tieline.group.multicast import MulticastGroup, bare, is_same
from tieline.parameters import Multipath, Parameters
from tieline.paths import Interface, InterfaceType, Network
from tieline.protocols.coder import Coder
from tieline.protocols.ip import IP, IPVersion
from tieline.protocols.udp import UDP

if TYPE_CHECKING:
    from tieline.drivers.port import Arrival, Driver, MulticastSocket, NetworkWatch
    from tieline.group.sources import Sources

__all__ = ["Memberships", "MembershipsOwner", "require_joinable"]

WILDCARDS = {4: "0.0.0.0", 6: "::"}

logger = logging.getLogger("tieline")

Membership = tuple[HostPort, int]
"""A member, and the index of an interface."""


class MembershipsOwner(Protocol):
    """The group, as its memberships see it. They do not keep it alive."""

    def joined(self, interfaces: tuple[Interface, ...]) -> None:
        """These are the interfaces now on which something is joined: one or more, and others than before."""

    def not_joined(self, error: ConnectError, *, final: bool) -> None:
        """There is none, for this reason; if it is `final`, another network would not mend it."""


class Memberships:
    """The sockets of one group and what they have joined."""

    def __init__(
        self,
        driver: Driver,
        group: MulticastGroup,
        parameters: Parameters[Any],
        owner: MembershipsOwner,
        sources: Sources,
    ) -> None:
        self._driver = driver
        self._group = group
        self._parameters = parameters
        self._restrictions = parameters.restrictions
        self._owner = weakref.ref(owner)
        self._sources = sources
        self._watch: NetworkWatch | None = None
        self._network = Network()
        self._allowed: dict[int, Interface] = {}
        self._sockets: dict[tuple[int, int], MulticastSocket] = {}  # by IP version and port of a member
        self._senders: dict[int, MulticastSocket] = {}  # by IP version, if what is sent comes from a port of its own
        self._joined: dict[Membership, None] = {}
        self._heard: frozenset[tuple[str, int, int]] = frozenset()  # address, port and interface of what is joined
        self._failures: dict[Membership, int | None] = {}  # what was complained of: errors by number
        self._closed = False

    def start(self) -> None:
        """Join what can be joined now, and follow the network from now on."""
        reference: weakref.ref[Memberships] = weakref.ref(self)
        try:
            self._watch = self._driver.watch_network(lambda network: _changed(reference, network))
            network = self._driver.network()
        except OSError as error:
            self._tell(self._failure(f"the system does not tell of its network: {error}", error), final=True)
            return
        self.follow(network)

    def close(self) -> None:
        """Leave everything."""
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
        for socket in (*self._sockets.values(), *self._senders.values()):
            socket.close()
        self._joined.clear()

    # Joining

    def follow(self, network: Network) -> None:
        """The network is this now."""
        if self._closed:
            return
        before = self.interfaces
        self._network = network
        self._allowed = {one.index: one for one in network.interfaces if self._may_be_joined(one)}
        wanted = dict.fromkeys((member, index) for member in self._group.members for index in self._places(member))
        for membership in [one for one in self._joined if one not in wanted]:
            self._leave(membership)
        refusals = [refusal for one in wanted if one not in self._joined and (refusal := self._join(one)) is not None]
        self._failures = {one: number for one, number in self._failures.items() if one in wanted}
        self._heard = frozenset((bare(member.host), member.port, index) for member, index in self._joined)
        if not self._joined:
            self._tell_why(refusals)
        elif self.interfaces != before and (owner := self._owner()) is not None:
            owner.joined(self.interfaces)

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """On which something is joined, as the network has them now."""
        indexes = {index for _, index in self._joined}
        return tuple(one for index, one in self._allowed.items() if index in indexes)

    def _may_be_joined(self, interface: Interface) -> bool:
        rules = self._restrictions
        if rules is not None and not rules.allow(interface):
            return False
        required = rules is not None and (rules.required_interface, rules.required_interface_type) != (None, None)
        return required or interface.type is not InterfaceType.LOOPBACK

    def _places(self, member: HostPort) -> list[int]:
        """The interfaces on which a member is to be joined: they have an address that it can be reached from."""
        return [
            one.index
            for one in self._allowed.values()
            if member.interface in (None, one.name, str(one.index)) and address_of(one, member) is not None
        ]

    def _join(self, membership: Membership) -> OSError | None:
        """Join it; why not."""
        member, interface = membership
        try:
            self._socket(member).join(bare(member.host), interface, self._group.source)
        except OSError as error:
            if self._failures.get(membership, 0) != error.errno:
                self._failures[membership] = error.errno
                name = self._allowed[interface].name
                logger.warning("%s is not joined on %s: %s", member, name, error.strerror or error)
            return error
        self._failures.pop(membership, None)
        self._joined[membership] = None
        return None

    def _leave(self, membership: Membership) -> None:
        member, interface = membership
        del self._joined[membership]
        self._sockets[version_of(member), member.port].leave(bare(member.host), interface)

    def _socket(self, member: HostPort) -> MulticastSocket:
        version = version_of(member)
        key = version, member.port
        if key not in self._sockets:
            self._open_sender(version)
            at = HostPort(WILDCARDS[version], member.port)
            # Whoever speaks to a group has its port: other programs of this machine, too.
            parameters = replace(self._parameters, required_interface=None, local_port=None, local_endpoint_reuse_allowed=True)
            self._sockets[key] = self._driver.multicast(at, parameters, self, unicast=not self._group.unicast_disabled)
        return self._sockets[key]

    def _open_sender(self, version: int) -> None:
        port = self._parameters.local_port
        if port is not None and version not in self._senders:
            parameters = replace(self._parameters, required_interface=None, local_port=None)
            self._senders[version] = self._driver.multicast(HostPort(WILDCARDS[version], port), parameters, self)

    def _tell_why(self, refusals: list[OSError]) -> None:
        """Nothing is joined."""
        if refusals:
            (error, *_) = refusals
            in_use = error.errno == errno.EADDRINUSE
            failure = self._failure(f"nothing could be joined: {error.strerror or error}", error)
            if in_use:
                failure.hint = "Another socket has this port and does not share it; `ss -lunp` shows which."
            self._tell(failure, final=not self._sockets)
            return
        failure = self._failure(*self._no_network())
        self._tell(failure, final=False)

    def _no_network(self) -> tuple[str, OSError]:
        error = unusable(self._network, self._parameters)
        if error is not None:
            return str(error.strerror), error
        versions = " or ".join(f"IPv{version}" for version in sorted({version_of(one) for one in self._group.members}))
        reason = f"no usable network: no interface but the loopback is up with an {versions} address"
        return reason, OSError(errno.ENETDOWN, reason)

    def _tell(self, error: ConnectError, *, final: bool) -> None:
        owner = self._owner()
        if owner is not None:
            owner.not_joined(error, final=final)

    def _failure(self, summary: str, error: OSError) -> ConnectError:
        failure = ConnectError(summary, endpoint=self._group, phase=Phase.LISTENING, code=error.errno)
        failure.__cause__ = error
        return failure

    # Ways out

    @property
    def local_endpoints(self) -> tuple[HostPort, ...]:
        """Where its sockets are bound."""
        return tuple(one.local_address for one in (*self._sockets.values(), *self._senders.values()))

    def ways(self, to: HostPort | None) -> list[Way]:
        """How to get to every member, to one of them, or to another address. Raises OSError."""
        if to is not None and not to.is_multicast:
            return [self._way_to(to)]
        ways = [
            Way(self._sending(member), member, index, self._source_on(index, member))
            for member, index in self._joined
            if to is None or (is_same(to, member) and to.interface in (None, self._allowed[index].name, str(index)))
        ]
        if not ways:
            raise OSError(errno.ENETUNREACH, "it is joined on no interface at present")
        return ways

    def _source_on(self, index: int, member: HostPort) -> str | None:
        """The system's choice, except on the loopback: there Linux would take the address of another interface."""
        interface = self._allowed[index]
        return address_of(interface, member) if interface.type is InterfaceType.LOOPBACK else None

    def _sending(self, member: HostPort) -> MulticastSocket:
        version = version_of(member)
        return self._senders.get(version) or self._sockets[version, member.port]

    def _way_to(self, to: HostPort) -> Way:
        """To an address that is no group: as the system would go, if the parameters allow that."""
        version = version_of(to)
        member = next((one for one in self._group.members if (version, one.port) in self._sockets), None)
        if member is None:
            raise OSError(errno.EAFNOSUPPORT, f"no member is joined over IPv{version}, so there is no socket for it")
        socket = self._sending(member)
        if self._parameters.local_only and not self._network.is_on_link(to.host):
            raise OSError(errno.ENETUNREACH, "it is on no link of this machine (local_only=True)")
        if self._restrictions is None or self._network.owner(to.host) is not None:
            return Way(socket, to, 0)
        for index in self._leading_to(to):
            if index in self._allowed:
                return Way(socket, to, index)
        raise OSError(errno.ENETUNREACH, "no route through an interface that the parameters allow")

    def _leading_to(self, to: HostPort) -> list[int]:
        """The interfaces that the system knows a way through, its choice first."""
        ways = self._network.ways(to.host)
        if ways is not None:
            return [one.index for one, _ in ways]
        source = self._driver.source_of(to)  # only the system knows
        leaving = None if source is None else self._network.owner(source)
        return [] if leaving is None else [leaving.index]

    def way_back(self, arrival: Arrival) -> Way:
        """To the sender of a datagram, over the interface that it came in by, from the address that it was sent to."""
        remote, local = arrival.remote, arrival.local
        version = version_of(remote)
        if local.is_multicast:
            socket, source = self._sending(local), None
        else:
            sender = self._senders.get(version)
            own = sender is not None and sender.local_address.port == local.port
            socket = sender if sender is not None and own else self._sockets[version, local.port]
            source = local.host if self._is_own(local.host) else None  # which a broadcast address is not
        here = self._network.owner(remote.host) is not None  # then the loopback leads there, whatever it came in by
        return Way(socket, remote, 0 if here else arrival.interface, source)

    def _is_own(self, host: str) -> bool:
        return self._network.owner(host) is not None or ip_address(bare(host)).is_loopback

    def interface_of(self, arrival: Arrival) -> Interface | None:
        """The interface that a datagram came in by; one of a program of this machine, that of the address it was sent to."""
        came = next((one for one in self._network.interfaces if one.index == arrival.interface), None)
        if came is not None and came.type is InterfaceType.LOOPBACK and not arrival.local.is_multicast:
            return self._network.owner(arrival.local.host) or came
        return came

    def local_of(self, way: Way) -> HostPort:
        """The address that what is sent that way comes from."""
        port = way.socket.local_address.port
        if way.source is not None:
            return HostPort(way.source, port)
        interface = self._allowed.get(way.interface)
        address = None if interface is None else address_of(interface, way.to)
        if address is None:
            address = self._driver.source_of(way.to) or way.socket.local_address.host
        return HostPort(address, port)

    @property
    def network(self) -> Network:
        """As it was told last."""
        return self._network

    # The sockets' handler

    def received(self, arrivals: list[Arrival]) -> None:
        for arrival in arrivals:
            if not self._closed and self._accepts(arrival):
                self._sources.received(arrival)

    def _accepts(self, arrival: Arrival) -> bool:
        local = arrival.local
        if self._group.source is not None and bare(arrival.remote.host) != self._group.source:
            return False
        if self._parameters.local_only and not self._network.is_on_link(arrival.remote.host):
            return False
        if local.is_multicast:
            return (local.host, local.port, arrival.interface) in self._heard
        if self._group.unicast_disabled:
            return False
        if self._restrictions is None:
            return True
        interface = self.interface_of(arrival)
        return interface is not None and interface.index in self._allowed

    def writable(self) -> None:
        self._sources.writable()

    def failed(self, error: OSError) -> None:
        """Of a socket that is not connected: one peer's matter, if anybody's."""
        logger.debug("a datagram of %s could not be received or delivered: %s", self._group, error)


def require_joinable(group: MulticastGroup, parameters: Parameters[Any]) -> None:
    """Raise for what can never be joined with these parameters."""
    stack: Any = parameters.stack
    if not isinstance(stack, UDP) and not (issubclass(type(stack), Coder) and isinstance(stack.below, UDP)):
        raise TypeError(f"a group wants UDP(), or a Coder on it, got {stack.name}")
    if parameters.local_endpoint is not None:
        raise ValueError(
            f"local_endpoint={parameters.local_endpoint}: a group's addresses are those of its interfaces; give local_port"
        )
    if parameters.local_port in [member.port for member in group.members]:
        raise ValueError(f"local_port={parameters.local_port} is the port of a member: without it, what is sent comes from there")
    if parameters.multipath is not Multipath.DISABLED:
        raise ValueError(f"multipath={parameters.multipath!r} is of no use to a group, which uses every interface")
    wanted = (stack.find(IP) or IP()).version
    for member in group.members:
        if wanted is not IPVersion.ANY and member.version != wanted.value:
            raise ValueError(f"IP(version={wanted}) never reaches the member {member}")


def _changed(reference: weakref.ref[Memberships], network: Network) -> None:
    """For the subscription: it does not keep a group that has been dropped."""
    memberships = reference()
    if memberships is not None:
        memberships.follow(network)


def version_of(address: HostPort) -> int:
    return 6 if ":" in address.host else 4


def address_of(interface: Interface, towards: HostPort) -> str | None:
    """The interface's address from which it speaks to another: of the same IP version, link-local to link-local ones."""
    version = version_of(towards)
    own = [one for one in interface.addresses if (6 if ":" in one else 4) == version]
    local = [one for one in own if one.startswith("fe80:")] if towards.host.startswith("fe80:") else []
    return next(iter((*local, *own)), None)
