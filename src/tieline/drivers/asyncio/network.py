"""The network as one event loop sees it, and its changes.

    the system says that something has changed ──▶ a moment, for the rest of it ──▶ look ──▶ different? ──▶ everybody who watches

What was said is only the reason to look: a notice may be lost, and some changes are told in part. One change (a link that goes
down with its addresses and routes) is many notices, which come within a millisecond or two; they are one change for us.
Where not everything is said, the loop looks again and again as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Sequence

from tieline.drivers import interfaces
from tieline.drivers.interfaces.policy import applied
from tieline.paths import Network

__all__ = ["NetworkWatch", "SystemNetwork"]

SETTLING = 0.02  # seconds from a notice until the network is looked at
SHARE = 9  # times as long as looking took is not spent with looking, however often something changes
SOON = 5.0  # seconds between two looks of somebody who looks again and again
POLLING = 1.0  # seconds between looks where nobody tells of changes

logger = logging.getLogger("tieline")


class NetworkWatch:
    """Somebody who wants to know of changes, until `cancel`."""

    __slots__ = ("__weakref__", "_changed", "_network")

    def __init__(self, network: SystemNetwork, changed: Callable[[Network], object]) -> None:
        self._network = network
        self._changed: Callable[[Network], object] | None = changed

    def cancel(self) -> None:
        """Want nothing more. Idempotent."""
        if self._changed is not None:
            self._changed = None
            self._network.forget(self)

    def tell(self, network: Network) -> None:
        """There is another network."""
        if self._changed is not None:
            self._changed(network)


class Glances:
    """Looks for who does not watch.

    To look is dear, and who looks again soon is mostly somebody who makes one connection after the other. For him a source is
    kept, and looked at again when it has heard of a change.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, source: Callable[[], interfaces.Source]) -> None:
        self._loop = loop
        self._make_source = source
        self._kept: tuple[interfaces.Source, Network] | None = None
        self._lifetime = 0.0  # of a look, while nothing is heard
        self._asked = self._looked = -SOON
        self._timer: asyncio.TimerHandle | None = None
        self._ending: AsyncGenerator[None, None] | None = None

    def look(self) -> Network:
        """The network as it is now. Raises OSError if the system does not tell."""
        now = self._loop.time()
        before, self._asked = self._asked, now
        if self._kept is not None:
            source, network = self._kept
            try:
                if source.hear() or now - self._looked >= self._lifetime:
                    network, self._looked = source.look(), now
                    self._kept = source, network
                return network
            except OSError:  # who told is gone
                self.end()
        source = self._make_source()
        try:
            # Without a running loop, nobody would tell us of its end.
            again = now - before < SOON and self._loop.is_running()
            self._lifetime = source.linger() if again else 0.0
            network, self._looked = source.look(), now
        except BaseException:
            source.close()
            raise
        if self._lifetime:
            self._kept = source, network
            self._timer = self._loop.call_later(SOON, self._expired)
            if self._ending is None:
                self._ending = ending(self._ended)
                with contextlib.suppress(StopIteration):  # it has begun
                    self._ending.asend(None).send(None)
        else:
            source.close()
        return network

    def _expired(self) -> None:
        left = self._asked + SOON - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._expired)
        else:
            self.end()

    def _ended(self) -> None:
        """The loop does, for now."""
        self._ending = None
        self.end()

    def end(self) -> None:
        """Keep nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._kept is not None:
            self._kept[0].close()
            self._kept = None


async def ending(end: Callable[[], None]) -> AsyncGenerator[None, None]:
    """Begun once, it calls `end` before its event loop ends: a loop closes what generators it has, and tells nobody else."""
    try:
        yield
    finally:
        end()


class SystemNetwork:
    """Looks for one event loop. There is a subscription while somebody watches, and only then."""

    def __init__(self, loop: asyncio.AbstractEventLoop, source: Callable[[], interfaces.Source] = interfaces.source) -> None:
        self._loop = loop
        self._make_source = source
        self._glances = Glances(loop, source)
        self._source: interfaces.Source | None = None
        self._watches: dict[NetworkWatch, None] = {}
        self._known: Network | None = None  # what everybody was told of
        self._events: Sequence[int] = ()
        self._timer: asyncio.TimerHandle | None = None
        self._polling: asyncio.TimerHandle | None = None
        self._rested = 0.0  # when looking again is in order

    def now(self) -> Network:
        """The network as it is now. Raises OSError if the system does not tell."""
        if self._hear():
            self._settle()
        if self._source is None:
            return applied(self._glances.look())
        if self._timer is None and self._polling is None and self._known is not None:
            return self._known
        self._known = None  # who is given this has seen more than was told: the next look is told in any case
        return self._look()

    def watch(self, changed: Callable[[Network], object]) -> NetworkWatch:
        """Call back with each network that is different from the one before. Raises OSError if the system does not tell."""
        if self._source is None:
            self._known = self._open()
        watch = NetworkWatch(self, changed)
        self._watches[watch] = None
        return watch

    def forget(self, watch: NetworkWatch) -> None:
        """Somebody watches no more."""
        self._watches.pop(watch, None)
        if not self._watches:
            self._close()

    def _open(self) -> Network:
        source = self._make_source()
        try:
            events = source.subscribe()
            network = applied(source.look())
        except BaseException:
            source.close()
            raise
        self._source, self._events = source, events
        for descriptor in events:
            self._loop.add_reader(descriptor, self._heard)
        if not source.tells_all:
            self._polling = self._loop.call_later(POLLING, self._poll)
        return network

    def _close(self) -> None:
        source, self._source = self._source, None
        for timer in (self._timer, self._polling):
            if timer is not None:
                timer.cancel()
        self._timer = self._polling = None
        for descriptor in () if self._loop.is_closed() else self._events:
            self._loop.remove_reader(descriptor)
        self._events = ()
        if source is not None:
            source.close()

    def _heard(self) -> None:
        if self._hear():
            self._settle()

    def _hear(self) -> bool:
        """Take in what was said; whether it was anything."""
        if self._source is None:
            return False
        try:
            return self._source.hear()
        except OSError:  # somebody who told the source is gone: go on without
            self._close()
        try:
            self._open()
        except OSError:
            logger.exception("the system does not tell of its network any more")
            return False
        return True

    def _settle(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(max(SETTLING, self._rested - self._loop.time()), self._expired)

    def _poll(self) -> None:
        self._polling = self._loop.call_later(POLLING, self._poll)
        self._tell()

    def _expired(self) -> None:
        self._timer = None
        self._tell()

    def _tell(self) -> None:
        try:
            network = self._look()
        except OSError:
            logger.exception("the system does not tell of its network any more")
            return
        if network != self._known:
            self._known = network
            for watch in tuple(self._watches):
                watch.tell(network)

    def _look(self) -> Network:
        assert self._source is not None  # somebody watches
        begun = self._loop.time()
        network = applied(self._source.look())
        ended = self._loop.time()
        self._rested = ended + SHARE * (ended - begun)
        return network
