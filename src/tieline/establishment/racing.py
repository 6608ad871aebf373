"""Happy Eyeballs as a machine: which address to try when, and which attempt wins.

Theory of operation
-------------------

A ``Race`` does nothing itself. It is told what happened and when, and answers with what to do::

    start, resolved, resolution_failed    ┌──────┐    Resolve, Attempt, Cancel
    progressed, failed, fatal, succeeded ─▶ Race ├──▶ Won, Lost
    expired, next_endpoint                └──────┘    timeout(): when to call expired()

After each input the caller carries out the actions in order and asks ``timeout()`` anew. Whatever comes too late (an
answer after the end, the failure of an attempt that was cancelled) is ignored, so the caller need not keep count.

The phases::

    idle ──start──▶ racing ──succeeded──▶ won ──next_endpoint──▶ racing
                      └──nothing left, or fatal──▶ lost

An address goes through::

    queue ──its turn──▶ running ──▶ failed, or won
      ▲                    │
      └──another one won───┘         so next_endpoint finds the losers in their old place

One instant, ``_next_start``, carries all the timing:

* No address yet: there is no such instant.
* The first address of a name: now, if IPv6 has answered (even negatively) or is not asked; else after the resolution
  delay, or as soon as IPv6 answers (RFC 8305 section 3).
* An attempt starts: one attempt delay later (section 5). Earlier attempts go on.
* An attempt fails: now. *Any* attempt: its place is free, and the delay may have been extended for its sake.
* An attempt has its transport up and begins a handshake: one attempt delay from now. It has shown life, and only a
  complete handshake wins.

Two starts are never nearer than 10 ms (section 5), so a host that refuses everything is not hit by all at once.

Late answers are placed as if they had been known from the start (section 3): the whole list is ordered again, what was
tried already keeps its place in that order, and what was not tried forms the queue.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Final, Generic, Literal, TypeAlias, TypeVar

from tieline.values import Value, value

A = TypeVar("A", bound=Hashable)
Family: TypeAlias = Literal[4, 6]

# RFC 8305 section 8, in seconds.
RESOLUTION_DELAY: Final = 0.050
ATTEMPT_DELAY: Final = 0.250
MINIMUM_ATTEMPT_DELAY: Final = 0.010
RECOMMENDED_MINIMUM_ATTEMPT_DELAY: Final = 0.100
MAXIMUM_ATTEMPT_DELAY: Final = 2.0

# RFC 8305 section 3: the family whose answer is worth the resolution delay.
PREFERRED_FAMILY: Final = 6


@value
class Resolve(Value):
    """Ask for the addresses of one family: 6 is AAAA, 4 is A."""

    family: Family


@value
class Attempt(Value, Generic[A]):
    """Begin to connect to an address, all handshakes included."""

    id: int
    address: A


@value
class Cancel(Value):
    """Close an attempt that lost."""

    id: int


@value
class Won(Value, Generic[A]):
    """The attempt that finished all its handshakes first."""

    id: int
    address: A
    started: float
    ended: float


@value
class Failure(Value, Generic[A]):
    """What became of an attempt that failed."""

    id: int
    address: A
    started: float
    ended: float
    error: Exception


@value
class Lost(Value, Generic[A]):
    """Nothing is left to try; no failures and no resolution errors mean that the name has no address.

    ``failures`` are in the order in which the attempts were started. ``resolution_errors`` has the families that could
    not be resolved; a family that resolved to nothing is not an error. ``fatal`` is the one among the failures that
    ended the race before its time.
    """

    failures: tuple[Failure[A], ...]
    resolution_errors: dict[Family, Exception]
    fatal: Failure[A] | None = None


Action: TypeAlias = Resolve | Attempt[A] | Cancel | Won[A] | Lost[A]


class _Phase(enum.Enum):
    IDLE = enum.auto()
    RACING = enum.auto()
    WON = enum.auto()
    LOST = enum.auto()


@value
class _Running(Value, Generic[A]):
    address: A
    started: float


class Race(Generic[A]):
    """Tries the addresses of one name, staggered, until one attempt succeeds.

    ``order`` gets all addresses found so far, without duplicates, IPv6 first, and returns them in the order in which
    they are to be tried; what it leaves out is not tried. ``families`` are those to ask for; none if all addresses are
    known at the start. All times are seconds of one monotonic clock.

    Raises ValueError if a delay is out of bounds.
    """

    preferred: A | None
    """The address that was tried first."""

    def __init__(
        self,
        *,
        order: Callable[[Sequence[A]], Sequence[A]],
        families: Collection[Family],
        resolution_delay: float = RESOLUTION_DELAY,
        attempt_delay: float = ATTEMPT_DELAY,
    ) -> None:
        if not 0 <= resolution_delay < math.inf:
            raise ValueError(f"resolution_delay must be 0 or more seconds, not {resolution_delay}")
        if not MINIMUM_ATTEMPT_DELAY <= attempt_delay <= MAXIMUM_ATTEMPT_DELAY:
            raise ValueError(
                f"attempt_delay must lie between {MINIMUM_ATTEMPT_DELAY} and {MAXIMUM_ATTEMPT_DELAY} seconds "
                f"({RECOMMENDED_MINIMUM_ATTEMPT_DELAY} or more is recommended), not {attempt_delay}"
            )
        self.preferred = None
        self._order = order
        self._resolution_delay = resolution_delay
        self._attempt_delay = attempt_delay
        self._phase = _Phase.IDLE
        # Resolution.
        self._given: tuple[A, ...] = ()
        self._unanswered: set[Family] = set(families)
        self._answers: dict[Family, tuple[A, ...]] = {}
        self._resolution_errors: dict[Family, Exception] = {}
        # Attempts.
        self._ids = itertools.count(1)
        self._queue: list[A] = []
        self._running: dict[int, _Running[A]] = {}
        self._tried: set[A] = set()  # running, failed or won: not for the queue
        self._failures: list[Failure[A]] = []
        # Time.
        self._next_start = math.inf
        self._latest_start = -math.inf

    # Facts for reports and errors.

    @property
    def failures(self) -> tuple[Failure[A], ...]:
        """The attempts that failed so far, in the order in which they were started."""
        return tuple(sorted(self._failures, key=lambda failure: failure.id))

    @property
    def address_counts(self) -> dict[Family, int]:
        """How many addresses each family that answered resolved to."""
        return {family: len(addresses) for family, addresses in self._answers.items()}

    # Inputs.

    def start(self, now: float, addresses: Sequence[A] = ()) -> list[Action[A]]:
        """Begin to race: ask for every family, and try the addresses that are known without asking."""
        if self._phase is not _Phase.IDLE:
            return []
        self._phase = _Phase.RACING
        self._given = tuple(addresses)
        return [*self._resolve(), *self._addresses_changed(now)]

    def resolved(self, now: float, family: Family, addresses: Sequence[A]) -> list[Action[A]]:
        """Take the answer for one family, empty if it has no address.

        A further answer for the same family replaces the first: running attempts go on, addresses that are gone and
        were not tried will not be.
        """
        if self._phase is not _Phase.RACING:
            return []
        self._unanswered.discard(family)
        self._resolution_errors.pop(family, None)
        self._answers[family] = tuple(dict.fromkeys(addresses))
        return self._addresses_changed(now)

    def resolution_failed(self, now: float, family: Family, error: Exception) -> list[Action[A]]:
        """Note that a family could not be resolved; for the race this is an answer without addresses."""
        if self._phase is not _Phase.RACING:
            return []
        self._unanswered.discard(family)
        self._resolution_errors[family] = error
        return self._addresses_changed(now)

    def progressed(self, now: float, attempt_id: int) -> list[Action[A]]:
        """Extend the timer to the next attempt: this one has its transport up, and a handshake is running."""
        # A start that is due and held back by the 10 ms alone replaces an attempt that failed, so it is not put off.
        due = bool(self._queue) and self._next_start <= now
        if attempt_id in self._running and not due:
            self._next_start = now + self._attempt_delay
        return []

    def failed(self, now: float, attempt_id: int, error: Exception) -> list[Action[A]]:
        """Note that an attempt failed and go on with the next address at once."""
        return self._advance(now) if self._fail(now, attempt_id, error) else []

    def fatal(self, now: float, attempt_id: int, error: Exception) -> list[Action[A]]:
        """End the race: an attempt failed in a way that no other address would mend, such as a refused certificate."""
        failure = self._fail(now, attempt_id, error)
        return self._lose(failure) if failure else []

    def succeeded(self, now: float, attempt_id: int) -> list[Action[A]]:
        """End the race: all handshakes of this attempt are complete, and the other attempts have lost."""
        winner = self._running.pop(attempt_id, None)
        if winner is None:
            return []
        self._phase = _Phase.WON
        return [Won(attempt_id, winner.address, winner.started, now), *self._cancel_running()]

    def expired(self, now: float) -> list[Action[A]]:
        """Do what has become due; harmless when called too early."""
        return self._advance(now) if self._phase is _Phase.RACING else []

    def next_endpoint(self, now: float) -> list[Action[A]]:
        """Leave the winner and race on without it: the losers and the addresses never tried, in order.

        A family that had not answered is asked again. With nothing left the answer is Lost. Without a winner there is
        nothing to leave, and nothing happens.
        """
        if self._phase is not _Phase.WON:
            return []
        self._phase = _Phase.RACING
        self._next_start = now
        return [*self._resolve(), *self._addresses_changed(now)]

    def timeout(self) -> float | None:
        """Return when to call ``expired()``, or None if only another input can change anything."""
        if self._phase is not _Phase.RACING or not self._queue:
            return None
        return self._earliest_start()

    # Transitions.

    def _resolve(self) -> list[Resolve]:
        # AAAA first, A right behind it (RFC 8305 section 3).
        return [Resolve(family) for family in sorted(self._unanswered, reverse=True)]

    def _addresses_changed(self, now: float) -> list[Action[A]]:
        """Order all addresses again and, if none was tried yet, decide when the first one is."""
        answers = (self._answers.get(family, ()) for family in sorted(self._answers, reverse=True))
        known = dict.fromkeys(itertools.chain(self._given, *answers))
        self._queue = [address for address in self._order(list(known)) if address not in self._tried]
        if self.preferred is None and self._queue:
            delay = self._resolution_delay if PREFERRED_FAMILY in self._unanswered else 0
            self._next_start = min(self._next_start, now + delay)
        return self._advance(now)

    def _advance(self, now: float) -> list[Action[A]]:
        """Start the attempt that is due, or end the race if there is nothing to wait for."""
        if self._queue and self._earliest_start() <= now:
            return [self._begin(now, self._queue.pop(0))]
        if not (self._queue or self._running or self._unanswered):
            return self._lose()
        return []

    def _earliest_start(self) -> float:
        return max(self._next_start, self._latest_start + MINIMUM_ATTEMPT_DELAY)

    def _begin(self, now: float, address: A) -> Attempt[A]:
        if self.preferred is None:
            self.preferred = address
        attempt = Attempt(next(self._ids), address)
        self._tried.add(address)
        self._running[attempt.id] = _Running(address, now)
        self._latest_start = now
        self._next_start = now + self._attempt_delay
        return attempt

    def _fail(self, now: float, attempt_id: int, error: Exception) -> Failure[A] | None:
        attempt = self._running.pop(attempt_id, None)
        if attempt is None:
            return None
        failure = Failure(attempt_id, attempt.address, attempt.started, now, error)
        self._failures.append(failure)
        self._next_start = now
        return failure

    def _cancel_running(self) -> list[Cancel]:
        """Cancel what is running; the addresses count as not tried, for they neither failed nor won."""
        cancels = [Cancel(attempt_id) for attempt_id in self._running]
        self._tried.difference_update(attempt.address for attempt in self._running.values())
        self._running.clear()
        return cancels

    def _lose(self, fatal: Failure[A] | None = None) -> list[Action[A]]:
        self._phase = _Phase.LOST
        return [*self._cancel_running(), Lost(self.failures, dict(self._resolution_errors), fatal)]
