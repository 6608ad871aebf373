"""The sockets of a listener, which follow the network.

    unrestricted   one socket for each address, for good
    restricted     one for each address on each interface that the parameters allow, bound to it; opened when the interface comes,
                   and closed when it is gone and nobody is connected over it any more

Without any interface the listener waits. The port stays the same throughout.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from tieline.endpoints import HostPort, UnixEndpoint
from tieline.errors import ConnectError, NetworkError, Phase
from tieline.establishment.binding import Place, Spot, addresses_of, bind_all, spots
from tieline.establishment.routes import unusable
from tieline.inbound.side import logger
from tieline.paths import InterfaceType, Network
from tieline.watching import current_network

if TYPE_CHECKING:
    from tieline.drivers.port import Address, Driver, NetworkWatch, Waiter
    from tieline.inbound.side import Side
    from tieline.parameters import Parameters

__all__ = ["Places", "PlacesOwner"]

# What binding says where the interface or its address has gone since the network was looked at.
GONE = frozenset({errno.ENODEV, errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.ENXIO})
LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class PlacesOwner(Protocol):
    """The listener, as its places see it."""

    def listening(self) -> None:
        """There is a socket, the first one since the start or since there was none."""

    def nowhere(self, error: NetworkError) -> None:
        """There is no socket at present, and this is why; again if the reason is another one."""

    def failed(self, error: NetworkError) -> None:
        """A socket cannot be had, for a reason that no change of the network takes away."""


class Places:
    """Opens and closes the sockets of one listener."""

    def __init__(self, driver: Driver, place: Place, parameters: Parameters[Any], side: Side, owner: PlacesOwner) -> None:
        self._driver = driver
        self._place = place
        self._parameters = parameters
        self._side = side
        self._owner = owner
        self._restricted = parameters.restrictions is not None and not isinstance(place, UnixEndpoint)
        self._addresses: Sequence[Address] = ()
        self._bound: dict[Spot, Address] = {}
        self._network = Network()
        self._watch: NetworkWatch | None = None
        self._opening: Waiter | None = None
        self._reason = self._complaint = ""  # that the owner was told, and that was logged
        self.port: int | None = None

    async def open(self) -> None:
        """Listen; while no interface may be used, wait for one. Raises ConnectError and DNSError.

        Cancelling: what was opened stays until `close`.
        """
        self._addresses = await addresses_of(self._driver, self._place, self._parameters)
        if self._restricted or self._parameters.local_only:  # then each peer is looked up in it
            with contextlib.suppress(OSError):  # the system does not tell of changes
                self._watch = self._driver.watch_network(self._changed)
        if not self._restricted:
            self._bind(spots(self._addresses, self._network, self._parameters))
            self._owner.listening()
            return
        self._follow(current_network(self._driver) or Network())
        if not self._bound:
            self._opening = self._driver.waiter()
            await self._opening

    def close(self) -> None:
        """Follow the network no longer. The sockets are the side's to close."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    # Following

    def _changed(self, network: Network) -> None:
        if not self._restricted:
            return
        opening = None if self._opening is None or self._opening.done() else self._opening
        try:
            self._follow(network)
        except NetworkError as error:
            if opening is None:
                self._owner.failed(error)
            else:
                opening.set_exception(error)
        else:
            if opening is not None and self._bound:
                opening.set_result(None)

    def _follow(self, network: Network) -> None:
        """Have a socket wherever the parameters allow one. Raises ConnectError if none can be had."""
        self._network = network
        waited = not self._bound
        wanted = spots(self._addresses, network, self._parameters)
        for spot in [one for one in self._bound if one not in wanted]:
            del self._bound[spot]
            self._side.unbind(spot)
        missing = [one for one in wanted if one not in self._bound]
        refused: ConnectError | None = None
        if missing:
            try:
                self._bind(missing)
            except ConnectError as error:
                refused = error
        if self._bound:
            if waited:
                self._reason = ""
                self._owner.listening()
            if refused is not None and str(refused) != self._complaint:
                logger().warning("not listening on every interface: %s", refused)
            self._complaint = "" if refused is None else str(refused)
        elif refused is not None and not all(_is_gone(one.error) for one in refused.attempts):
            raise refused
        else:
            self._tell(refused or self._no_interface())

    def _bind(self, wanted: Sequence[Spot]) -> None:
        bound = bind_all(wanted, self._place, self._parameters, self._side.bind, self._side.unbind, self.port or 0)
        self._bound |= bound
        first = next(iter(bound.values()))
        if isinstance(first, HostPort):
            self.port = first.port

    def _tell(self, error: NetworkError) -> None:
        if str(error) != self._reason:
            self._reason = str(error)
            self._owner.nowhere(error)

    def _no_interface(self) -> ConnectError:
        reason = unusable(self._network, self._parameters)
        if reason is None:
            where = ", ".join(str(address) for address in self._addresses)
            reason = OSError(errno.EADDRNOTAVAIL, f"no interface that the parameters allow has an address for {where}")
        place = f"port {self._place}" if isinstance(self._place, int) else self._place
        error = ConnectError(reason.strerror or str(reason), endpoint=place, phase=Phase.LISTENING, code=reason.errno)
        error.__cause__ = reason
        return error

    # Inspecting

    @property
    def endpoints(self) -> tuple[Address, ...]:
        """Every address that is listened on."""
        return tuple(dict.fromkeys(self._bound.values()))

    @property
    def nearest(self) -> Address | None:
        """One that a client on this machine can connect to, or, where the loopback may not be used, one for other machines."""
        for spot, address in self._bound.items():
            if self._is_near(spot) or isinstance(address, UnixEndpoint):
                return replaced(address, LOCAL.get(address.host)) if isinstance(address, HostPort) else address
        for spot, address in self._bound.items():
            if isinstance(address, HostPort):
                return replaced(address, self._own(spot, address) if address.host in LOCAL else None)
        return None

    def _is_near(self, spot: Spot) -> bool:
        loopbacks = {one.index for one in self._network.interfaces if one.type is InterfaceType.LOOPBACK}
        return spot.index is None or spot.index in loopbacks

    def _own(self, spot: Spot, address: HostPort) -> str | None:
        own = [host for one in self._network.interfaces if one.index == spot.index for host in one.addresses]
        return next((host for host in own if (":" in host) == (":" in address.host)), None)


def replaced(address: HostPort, host: str | None) -> HostPort:
    """The address with another host, if that is given."""
    return address if host is None else HostPort(host, address.port)


def _is_gone(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in GONE
