"""Which interfaces the parameters leave, and through which of them an address is tried.

With several ways to an address, each interface is a candidate of its own, the system's choice first, and its socket is bound to
it: an unbound one would leave through another interface as soon as the system prefers that, with a source address that the
routers there do not know. With one way, and to addresses of this machine, there is nothing to choose, and nothing is bound.
Where the system lets nobody bind, its own choice is left.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from tieline.endpoints import HostPort, ip_of, is_loopback
from tieline.paths import Network, UnsatisfiedReason, evaluate

if TYPE_CHECKING:
    from tieline.drivers.port import Address, Driver
    from tieline.parameters import Parameters

__all__ = ["Candidate", "Routes", "unusable"]

# The option that speaks in each reason, for the error's text.
OPTIONS = {
    UnsatisfiedReason.INTERFACE_PROHIBITED: "prohibited_interfaces",
    UnsatisfiedReason.INTERFACE_TYPE_PROHIBITED: "prohibited_interface_types",
    UnsatisfiedReason.EXPENSIVE_PROHIBITED: "expensive_paths_prohibited",
    UnsatisfiedReason.CONSTRAINED_PROHIBITED: "constrained_paths_prohibited",
    UnsatisfiedReason.INTERFACE_REQUIRED: "required_interface",
    UnsatisfiedReason.INTERFACE_TYPE_REQUIRED: "required_interface_type",
}


ONE_WAY = (None,)  # the system's


class Candidate(NamedTuple):
    """An address, and the interface that its socket is bound to; None leaves that to the system."""

    address: Address
    interface: str | None = None


class Routes:
    """The network as one attempt sees it. It is looked up when it first matters."""

    def __init__(self, driver: Driver, parameters: Parameters[Any]) -> None:
        self._driver = driver
        self._parameters = parameters
        self._restrictions = parameters.restrictions
        self._network: Network | None = None

    @property
    def network(self) -> Network:
        """Without anything in it where the system does not tell."""
        if self._network is None:
            try:
                self._network = self._driver.network()
            except OSError:
                self._network = Network()
        return self._network

    def unusable(self) -> OSError | None:
        """Why no interface may be used at present, or None if one may (or nobody restricts them)."""
        if self._restrictions is None:
            return None
        return unusable(self.network, self._parameters)

    def candidates(self, addresses: Sequence[Address]) -> list[Candidate]:
        """Each address over each interface: first all of them over the best one for each, then over the next (RFC 9623, 4.2)."""
        if len(addresses) == 1:
            return [Candidate(addresses[0], name) for name in self._interfaces(addresses[0])]
        ways = [[Candidate(address, name) for name in self._interfaces(address)] for address in addresses]
        return [one for one in chain.from_iterable(zip_longest(*ways)) if one is not None]

    def _interfaces(self, address: Address) -> Sequence[str | None]:
        if not isinstance(address, HostPort) or is_loopback(address.host):
            return ONE_WAY
        if self._parameters.required_interface is not None or self._parameters.have_address:
            return ONE_WAY  # a required interface is bound anyway
        if self.network.owner(address.host) is not None:
            return ONE_WAY
        ways = self.network.ways(address.host)
        if not ways or len(ways) == 1:
            return ONE_WAY
        allowed = self.network.allowed_ways(address.host, self._restrictions, local_only=self._parameters.local_only)
        return [one.name for one in allowed] or ONE_WAY

    def is_first_choice(self, candidate: Candidate) -> bool:
        """Whether the system would send over the candidate's interface also if the socket were not bound to it."""
        source = self._driver.source_of(candidate.address)
        leaving = None if source is None else self.network.owner(source)
        return leaving is not None and leaving.name == candidate.interface

    def refusal(self, candidate: Candidate) -> OSError | None:
        """Why it may not be tried: its packets would leave through an interface, or go farther, than the parameters allow."""
        address, restrictions = candidate.address, self._restrictions
        if not isinstance(address, HostPort):
            return None
        if self._parameters.local_only and not self.network.is_on_link(address.host):
            return OSError(errno.ENETUNREACH, "it is on no link of this machine (local_only=True)")
        if not is_loopback(address.host) and self._leads_nowhere(address):
            return OSError(errno.ENETDOWN, "the link that leads there is down")
        if restrictions is None:
            return None
        if candidate.interface is not None or restrictions.required_interface is not None:
            return None  # it is bound to its socket, so that the kernel sees to it
        source = self._driver.source_of(address)
        leaving = None if source is None else self.network.owner(source)
        if leaving is None:
            return OSError(errno.ENETUNREACH, "no route through an interface that the parameters allow")
        if restrictions.allow(leaving):
            return None
        return OSError(errno.ENETUNREACH, f"the route leads through {leaving.name}, which the parameters rule out")

    def _leads_nowhere(self, address: HostPort) -> bool:
        """Whether the system has a route over a link without carrier: it would send into that, and never say so."""
        if ip_of(address).is_multicast:
            return False
        network = self.network
        if network.routes is None or network.owner(address.host) is not None:
            return False
        if network.routes_to(address.host):
            return False
        source = self._driver.source_of(address)
        return source is not None and network.owner(source) is None  # that interface does not run


def unusable(network: Network, parameters: Parameters[Any]) -> OSError | None:
    """Why these parameters leave no interface of a network, or None if they leave one."""
    reason = evaluate(network, parameters.restrictions).unsatisfied_reason
    if reason is None:
        return None
    option = OPTIONS.get(reason)
    setting = "" if option is None else f" ({option}={getattr(parameters, option)!r})"
    return OSError(errno.ENETDOWN, f"no usable network: {reason.value}{setting}")
