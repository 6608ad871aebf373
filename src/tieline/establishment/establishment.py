"""One pass through preparing: resolve, order, race, shake hands; it ends in one established flow or in one error.

    endpoint ──▶ resolver (A, AAAA) ──▶ Race ──▶ Attempt, Attempt, … ──▶ the winner's socket
       │                                  ▲ what happened, when │
       │                                  └─────────────────────┘
       └─ one address, over one interface ─────▶ Attempt ──▶ its socket

The race decides and this file carries out: it owns the timers, the sockets and the resolver's tasks, and closes all of them.
Where there is one way and no other, nothing has to be decided, and the attempt is all there is to it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from tieline.endpoints import Endpoint, HostPort
from tieline.errors import Attempt as FailedAttempt
from tieline.errors import DNSError, NetworkError, Phase, TLSError
from tieline.establishment import failures, stacks
from tieline.establishment.attempt import Attempt, Shaken, TransportAttempt
from tieline.establishment.guard import guarded
from tieline.establishment.ordering import interleave, sort_destinations
from tieline.establishment.routes import Candidate, Routes
from tieline.protocols.ip import IP, IPVersion
from tieline.protocols.roles import MultiplexProtocol
from tieline.protocols.tcp import TCP
from tieline.reports import DNSProtocol, Resolution, ResolutionSource

if TYPE_CHECKING:
    from tieline.drivers.port import Address, Driver, Task, Timer
    from tieline.establishment import racing
    from tieline.parameters import Parameters

__all__ = ["Establishment", "EstablishmentOwner"]

# The alert with which rustls, as a server, refuses a client that took its ticket back after a HelloRetryRequest, because the
# ticket is for another cipher suite. RFC 8446 section 4.1.2 lets the client do so. Without a ticket the same server is content.
NO_TICKET = "missing_extension"

ONLY = 0  # the number of an attempt without a race, which counts its own from 1


Succeeded = Callable[[], None]
Failed = Callable[[Exception], None]


class EstablishmentOwner(Protocol):
    """The connection, as its establishment sees it."""

    def established(self, won: Attempt) -> None: ...
    def not_established(self, error: NetworkError) -> None: ...
    @property
    def accepted_early(self) -> Any:
        """What may ride on the first flight: bytes, or streams of QUIC."""
        ...


class Establishment:
    """Turns an endpoint into a connected socket."""

    def __init__(
        self, driver: Driver, endpoint: Endpoint, target: Address, parameters: Parameters[Any], owner: EstablishmentOwner
    ) -> None:
        self._driver = driver
        self._endpoint = endpoint
        self._target = target
        self._parameters = parameters
        self._is_bare = parameters.kept(stacks.is_bare)
        self._owner = weakref.ref(owner)
        self._routes = Routes(driver, parameters)
        self._named = isinstance(target, HostPort) and not target.is_literal
        self._race: racing.Race[Candidate] | None = None  # where there is, or may be, more than one way
        self._attempts: dict[int, Attempt] = {}
        self._phases: dict[int, Phase] = {}
        self._again: set[int] = set()  # attempts whose ticket was in the way
        self._resolving: dict[int, tuple[Task, Timer]] = {}
        self._timer: Timer | None = None
        self._begun = self._awaited = self._ended = self._cancelled = False
        self._resolved_after: float | None = None
        self._winner: Candidate | None = None
        self._left_one = False  # somebody did not want the winner
        self.handshakes: Sequence[Shaken] = ()
        self.started = driver.time()

    # For the connection

    def hurry(self) -> None:
        """A call waits. Where no name has to be looked up and nothing agreed on, begin now and not with the loop's next turn."""
        if self._is_bare and not self._begun and not self._named:
            self._awaited = True
            self.start()
            self._awaited = False

    @guarded
    def start(self) -> None:
        if self._begun or self._cancelled:
            return
        self._begun = True
        unusable = stacks.prepare_client(self._parameters.stack) or self._routes.unusable()
        if unusable is not None:
            self._not_established(failures.unusable(unusable, self._endpoint))
            return
        ways = () if self._named else self._routes.candidates((self._target,))
        if len(ways) == 1:
            self._begin(ONLY, ways[0])
            return
        from tieline.establishment import racing

        race = self._race = racing.Race(
            order=self._order,
            families=self._families() if self._named else (),
            resolution_delay=self._parameters.resolution_delay,
            attempt_delay=self._parameters.attempt_delay,
        )
        self._do(race, race.start(self._driver.time(), () if self._named else (Candidate(self._target),)))

    @guarded
    def next_endpoint(self) -> None:
        """Race on without the winner."""
        if self._cancelled:
            return
        self._ended = False
        self._left_one = True
        self._winner = None
        self.started = self._driver.time()
        if self._race is None:
            self._lost((), None)
        else:
            self._do(self._race, self._race.next_endpoint(self.started))

    def cancel(self) -> None:
        """Close everything and tell nobody."""
        self._cancelled = True
        if not self._ended:
            self._end()
        if self._attempts:
            for attempt in self._attempts.values():
                attempt.cancel()
            self._attempts.clear()

    def mistaken(self, error: Exception) -> None:
        """Nothing of this was expected, so nothing of it goes on."""
        if not self._cancelled:
            self.cancel()
            self._not_established(failures.mistake(error, self._endpoint))

    def resolutions(self) -> tuple[Resolution, ...]:
        """What the resolver said; A and AAAA of one name are one resolution."""
        if self._race is None or self._resolved_after is None:
            return ()
        return (
            Resolution(
                source=ResolutionSource.QUERY,
                duration=self._resolved_after,
                endpoint_count=sum(self._race.address_counts.values()),
                preferred_endpoint=None if self._race.preferred is None else self._race.preferred.address,
                successful_endpoint=None if self._winner is None else self._winner.address,
                dns_protocol=DNSProtocol.UNKNOWN,
            ),
        )

    # Carrying out the race

    def _families(self) -> tuple[racing.Family, ...]:
        version = (self._parameters.stack.find(IP) or IP()).version
        local = self._parameters.local_endpoint
        if isinstance(local, HostPort) and local.version is not None:
            return (6,) if local.version == 6 else (4,)
        return {IPVersion.V4: (4,), IPVersion.V6: (6,), IPVersion.ANY: (6, 4)}[version]  # type: ignore[return-value]

    def _order(self, found: Sequence[Candidate]) -> Sequence[Candidate]:
        addresses = [one.address for one in found]
        hosts = [address for address in addresses if isinstance(address, HostPort)]
        return self._routes.candidates(
            interleave(sort_destinations(hosts, self._driver.source_of)) if len(hosts) > 1 else addresses
        )

    def _do(self, race: racing.Race[Candidate], actions: Sequence[racing.Action[Candidate]]) -> None:
        from tieline.establishment import racing

        for action in actions:
            match action:
                case racing.Resolve(family):
                    self._resolve(family)
                case racing.Attempt(number, candidate):
                    self._begin(number, candidate)
                case racing.Cancel(number):
                    loser = self._attempts.pop(number, None)
                    if loser is not None:  # unless a state handler has cancelled everything meanwhile
                        loser.cancel()
                case racing.Won(number, candidate):
                    self._won(number, candidate)
                case racing.Lost(failed, reasons, fatal):
                    attempts = [self._report(one.id, one.address, one.ended - one.started, one.error) for one in failed]
                    self._lost(attempts, None if fatal is None else fatal.error, reasons.values())
        self._stop_timer()
        due = None if self._ended else race.timeout()
        if due is not None:
            self._timer = self._driver.call_later(max(0.0, due - self._driver.time()), self._expired, race)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @guarded
    def _expired(self, race: racing.Race[Candidate]) -> None:
        self._timer = None
        self._do(race, race.expired(self._driver.time()))

    def _resolve(self, family: racing.Family) -> None:
        timeout = self._parameters.resolution_timeout
        task = self._driver.spawn(self._ask(family), f"tieline resolver for {self._target}")
        timer = self._driver.call_later(timeout, self._resolution_expired, family, timeout)
        self._resolving[family] = task, timer

    async def _ask(self, family: racing.Family) -> None:
        assert isinstance(self._target, HostPort)
        error: Exception | None = None
        addresses: list[HostPort] = []
        try:
            addresses = await self._driver.resolve(self._target.host, self._target.port, family)
        except Exception as reason:
            error = reason
        self._answered(family, addresses, error)

    @guarded
    def _answered(self, family: racing.Family, addresses: Sequence[HostPort], error: Exception | None) -> None:
        pending, race = self._resolving.pop(family, None), self._race
        if pending is None or race is None:
            return
        pending[1].cancel()
        now = self._driver.time()
        self._resolved_after = now - self.started
        if error is None:
            self._do(race, race.resolved(now, family, [Candidate(address) for address in addresses]))
        elif isinstance(error, DNSError):
            self._do(race, race.resolution_failed(now, family, error))
        else:
            raise error

    def _resolution_expired(self, family: racing.Family, timeout: float) -> None:
        self._resolving[family][0].cancel()
        reason = f"the resolver did not answer within resolution_timeout={timeout:g} s"
        self._answered(family, (), DNSError(reason, endpoint=self._endpoint, phase=Phase.RESOLVING))

    def _begin(self, number: int, candidate: Candidate) -> None:
        try:
            if (refusal := self._routes.refusal(candidate)) is not None:
                raise refusal
            try:
                self._connect(number, candidate)
            except PermissionError:  # a socket may not be bound to the interface
                if candidate.interface is None or not self._routes.is_first_choice(candidate):
                    raise
                self._connect(number, Candidate(candidate.address))
        except (OSError, NetworkError) as error:
            # The race is told from the loop, not from inside its own action.
            self._driver.call_soon(self._failed, number, candidate, error)

    def _connect(self, number: int, candidate: Candidate) -> None:
        driver, parameters = self._driver, self._parameters
        if candidate.interface is not None:
            parameters = parameters.bound_to(candidate.interface)
        succeeded, failed = partial(self._succeeded, number, candidate), partial(self._failed, number, candidate)
        if parameters.stack.is_datagrams:
            from tieline.establishment.connectionless import DatagramAttempt

            self._attempts[number] = DatagramAttempt(driver, parameters, candidate.address, succeeded)
        elif isinstance(parameters.stack, MultiplexProtocol):
            self._begin_session(number, candidate, succeeded, failed)
        else:
            self._begin_stream(number, candidate, parameters, succeeded, failed)

    def _begin_stream(
        self, number: int, candidate: Candidate, parameters: Parameters[Any], succeeded: Succeeded, failed: Failed
    ) -> None:
        owner = self._owner() if parameters.fast_open_allowed else None
        first = b"" if owner is None else owner.accepted_early
        pipeline = None if self._is_bare else stacks.client_pipeline(self._parameters.stack, self._endpoint)
        attempt: TransportAttempt
        if pipeline is None:
            tcp: TCP | None = parameters.stack.find(TCP)
            if tcp is None or not tcp.fast_open_allowed:
                first = b""
            attempt = TransportAttempt(self._driver, parameters, succeeded=succeeded, failed=failed)
        else:
            from tieline.establishment.stream import StreamAttempt

            attempt = StreamAttempt(
                self._driver,
                parameters,
                self._endpoint,
                pipeline,
                succeeded=succeeded,
                failed=failed,
                progressed=partial(self._progressed, number),
            )
        self._attempts[number] = attempt
        attempt.connect(candidate.address, first, awaited=self._awaited and self._race is None)

    def _begin_session(self, number: int, candidate: Candidate, succeeded: Succeeded, failed: Failed) -> None:
        from tieline.establishment.handshaking import QUICAttempt  # takes in QUIC's engine

        attempt = QUICAttempt(self._driver, self._parameters, self._endpoint, succeeded=succeeded, failed=failed)
        owner = self._owner()
        early = () if owner is None else owner.accepted_early
        attempt.connect(candidate.address, stacks.server_name(self._parameters.stack, self._endpoint), early, candidate.interface)
        self._attempts[number] = attempt

    @guarded
    def _progressed(self, number: int) -> None:
        if self._race is not None:
            self._do(self._race, self._race.progressed(self._driver.time(), number))

    @guarded
    def _succeeded(self, number: int, candidate: Candidate) -> None:
        if number not in self._attempts:
            return
        if self._race is None:
            self._won(number, candidate)
        else:
            self._do(self._race, self._race.succeeded(self._driver.time(), number))

    @guarded
    def _failed(self, number: int, candidate: Candidate, error: Exception) -> None:
        if self._ended:
            return
        if not isinstance(error, (OSError, NetworkError)):
            raise error
        attempt = self._attempts.pop(number, None)
        if isinstance(error, TLSError) and error.alert == NO_TICKET and number not in self._again:
            self._again.add(number)
            if stacks.forget_tickets(self._parameters.stack, self._endpoint):
                self._begin(number, candidate)
                return
        self._phases[number] = Phase.CONNECTING if attempt is None else attempt.phase
        now = self._driver.time()
        if self._race is None:
            self._lost((self._report(number, candidate, now - self.started, error),), error)
        elif failures.decisive(error):
            self._do(self._race, self._race.fatal(now, number, error))
        else:
            self._do(self._race, self._race.failed(now, number, error))

    # Ending

    def _end(self) -> None:
        self._ended = True
        if self._race is None:
            return
        self._stop_timer()
        for task, timer in self._resolving.values():
            task.cancel()
            timer.cancel()
        self._resolving.clear()

    def _won(self, number: int, candidate: Candidate) -> None:
        self._ended = True
        if self._race is not None:
            self._end()
        self._winner = candidate
        winner = self._attempts.pop(number)
        self.handshakes = winner.handshakes
        owner = self._owner()
        if owner is None:
            winner.cancel()
        else:
            owner.established(winner)

    def _report(self, number: int, candidate: Candidate, elapsed: float, error: Exception) -> FailedAttempt:
        return FailedAttempt(candidate.address, self._phases.get(number, Phase.CONNECTING), elapsed, error)

    def _lost(self, attempts: Sequence[FailedAttempt], fatal: Exception | None, unresolved: Iterable[Exception] = ()) -> None:
        self._end()
        if attempts:
            self._not_established(failures.not_connected(attempts, fatal, self._endpoint))
        elif self._left_one:
            self._not_established(failures.nothing_left(self._endpoint))
        else:
            self._not_established(failures.not_resolved(unresolved, self._endpoint))

    def _not_established(self, error: NetworkError) -> None:
        owner = self._owner()
        if owner is not None:
            owner.not_established(error)
