"""Establishment where the transport is all there is to establish: one address of this machine, and no handshake.

It is its own only attempt: nothing is resolved, ordered, raced or agreed on, and no interface is chosen.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from tieline.endpoints import Endpoint, HostPort, is_loopback
from tieline.errors import Attempt as FailedAttempt
from tieline.errors import NetworkError, Phase
from tieline.establishment import failures
from tieline.establishment.attempt import Connecting
from tieline.establishment.guard import guarded
from tieline.establishment.stacks import is_bare, transport_endpoint

if TYPE_CHECKING:
    from tieline.drivers.port import Address, Driver
    from tieline.establishment.establishment import Establishment, EstablishmentOwner
    from tieline.parameters import Parameters
    from tieline.reports import Resolution

__all__ = ["Direct", "establishment_of"]


def establishment_of(
    driver: Driver, endpoint: Endpoint, parameters: Parameters[Any], owner: EstablishmentOwner
) -> Direct | Establishment:
    """What turns an endpoint into a connected socket."""
    target = endpoint if type(endpoint) is HostPort else transport_endpoint(endpoint)
    if parameters.kept(is_bare) and (not isinstance(target, HostPort) or is_loopback(target.host)):
        return Direct(driver, endpoint, target, parameters, owner)
    from tieline.establishment.establishment import Establishment  # takes in much that this needs not

    return Establishment(driver, endpoint, target, parameters, owner)


class Direct(Connecting):
    """Connects to one address, and is done."""

    __slots__ = ("_begun", "_cancelled", "_endpoint", "_owner", "_target", "started")

    def __init__(
        self, driver: Driver, endpoint: Endpoint, target: Address, parameters: Parameters[Any], owner: EstablishmentOwner
    ) -> None:
        super().__init__(driver, parameters)
        self._endpoint = endpoint
        self._target = target
        self._owner = weakref.ref(owner)
        self._begun = self._cancelled = False
        self.started = self.begun

    # For the connection

    def hurry(self) -> None:
        """A call waits: begin now and not with the loop's next turn, and the call finds the connection made."""
        if not self._begun:
            self._start(awaited=True)

    def start(self) -> None:
        """Begin."""
        if not self._begun:
            self._start()

    @guarded
    def _start(self, *, awaited: bool = False) -> None:
        self._begun = True
        self.begun = self._driver.time()
        try:
            self.connect(self._target, awaited=awaited)
        except (OSError, NetworkError) as error:
            self._driver.call_soon(self._failed, error)  # from the loop, not from inside the call

    def next_endpoint(self) -> None:
        """There is none."""
        self.started = self._driver.time()
        self._not_established(failures.nothing_left(self._endpoint))

    def cancel(self) -> None:
        self._begun = self._cancelled = True
        if self._socket is not None:
            super().cancel()

    def mistaken(self, error: Exception) -> None:
        """Nothing of this was expected, so nothing of it goes on."""
        super().cancel()
        self._not_established(failures.mistake(error, self._endpoint))

    def resolutions(self) -> tuple[Resolution, ...]:
        """Nothing was resolved."""
        return ()

    # Ending

    @guarded
    def _succeeded(self) -> None:
        owner = self._owner()
        if owner is None:
            self.cancel()
        else:
            owner.established(self)

    @guarded
    def _failed(self, error: Exception) -> None:
        if not isinstance(error, (OSError, NetworkError)):
            raise error
        attempt = FailedAttempt(self._target, Phase.CONNECTING, self._driver.time() - self.started, error)
        self._not_established(failures.not_connected((attempt,), error, self._endpoint))

    def _not_established(self, error: NetworkError) -> None:
        owner = None if self._cancelled else self._owner()
        if owner is not None:
            owner.not_established(error)
