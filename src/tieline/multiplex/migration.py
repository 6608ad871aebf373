"""Where a client's connection leaves from: it moves when it is told to, and when its local address is gone (RFC 9000 section 9).

Moving is break before make: the old socket is closed as soon as there is a new one, and the peer proves the new path by answering
on it. One that nothing comes on is given up for the old address, if that is still there.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from tieline.endpoints import HostPort

if TYPE_CHECKING:
    from tieline.drivers.port import Timer
    from tieline.multiplex.session import Session

__all__ = ["Migration"]

SHORTEST_TRIAL = (
    1.0  # seconds that a new path gets, at least: three times the first round trip that RFC 9002 section 6.2.2 assumes
)
TRIAL_ROUND_TRIPS = 6
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0  # seconds between two looks for a local address


class Migration:
    """Moves one session of a client."""

    def __init__(self, session: Session, moved: Callable[[HostPort], None]) -> None:
        self._session = session
        self._moved = moved
        self._trial: Timer | None = None
        self._search: Timer | None = None

    def move(self, local: HostPort | None, interface: str | None = None) -> None:
        """Go on from another local address or interface, or from what the parameters choose.

        Raises OSError, and nothing has changed.
        """
        session = self._session
        if local is None and interface is None:
            interface = self._allowed_interface()
        before = session.endpoint.local_address, session.endpoint.interface or (interface and self._interface_of_address())
        self._rebind(local, interface)
        received, rtt = session.progress()[0], session.connection.statistics().rtt
        session.connection.ping()  # so that something is to be heard
        patience = max(SHORTEST_TRIAL, TRIAL_ROUND_TRIPS * rtt)
        self._trial = session.endpoint.driver.call_later(patience, self._look_back, *before, received)

    def _interface_of_address(self) -> str | None:
        """Back from one interface to another means through that one: the system would choose as it did for the new path."""
        endpoint = self._session.endpoint
        try:
            owner = endpoint.driver.network().owner(endpoint.local_address.host)
        except OSError:
            return None
        return None if owner is None else owner.name

    def _allowed_interface(self) -> str | None:
        """Which one the parameters leave; None for the system's choice. Raises OSError if they leave none."""
        endpoint, remote = self._session.endpoint, self._session.remote
        parameters, driver = endpoint.parameters, endpoint.driver
        restrictions = parameters.restrictions
        if restrictions is None or restrictions.required_interface is not None or parameters.have_address:
            return None  # what they say the socket is bound to anyway
        network = driver.network()
        ways = network.allowed_ways(remote.host, restrictions, local_only=parameters.local_only)
        if ways:
            return ways[0].name
        source = driver.source_of(remote)
        leaving = None if source is None else network.owner(source)
        if leaving is None or not restrictions.allow(leaving):
            raise OSError(errno.ENETUNREACH, "no route through an interface that the parameters allow")
        return None

    def local_address_gone(self) -> None:
        """Nothing can leave from the local address: go on from another one, now or as soon as there is one.

        Meanwhile the connection stays; how long that may last is for its idle timeout to say. May be called at any time, and
        again. A peer that forbids migration is not moved away from: the address may come back.
        """
        if self._search is None and self._session.connection.parameters().migration:
            just_moved = self._trial is not None
            self._search_after(FIRST_PAUSE if just_moved else 0.0, FIRST_PAUSE)

    def cancel(self) -> None:
        """The session is over, or has moved: what was begun to move it is pointless now."""
        for timer in (self._trial, self._search):
            if timer is not None:
                timer.cancel()
        self._trial = self._search = None

    def _search_after(self, pause: float, following: float) -> None:
        self._search = self._session.endpoint.driver.call_later(pause, self._look_for_another, following)

    def _look_for_another(self, pause: float) -> None:
        self._search = None
        try:
            self.move(None)
        except OSError:  # no way leads to the peer at present
            self._search_after(pause, min(2 * pause, LONGEST_PAUSE))

    def _rebind(self, local: HostPort | None, interface: str | None) -> None:
        endpoint = self._session.endpoint
        endpoint.rebind(local, interface)
        self.cancel()
        self._session.connection.migrate(endpoint.now)
        endpoint.touched()
        self._moved(endpoint.local_address)

    def _look_back(self, before: HostPort, interface: str | None, received: int) -> None:
        """The new path has had its time: if nothing has come on it, try the old address again, if it is still there."""
        self._trial = None
        if self._session.progress()[0] == received:
            with contextlib.suppress(OSError):
                self._rebind(before, interface)
