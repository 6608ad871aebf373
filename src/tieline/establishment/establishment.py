"""One pass through preparing: resolve, order, race, shake hands; it ends in one established flow or in one error.

    endpoint ──▶ resolver (A, AAAA) ──▶ Race ──▶ StreamAttempt, StreamAttempt, … ──▶ the winner's socket
                                          ▲ what happened, when        │
                                          └────────────────────────────┘

The race decides and this file carries out: it owns the timers, the sockets and the resolver's tasks, and closes all of them.
"""

from __future__ import annotations

import errno
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from tieline.endpoints import Endpoint, HostPort
from tieline.errors import Attempt as FailedAttempt
from tieline.errors import ConnectError, DNSError, NetworkError, Phase, TLSError
from tieline.establishment import racing
from tieline.establishment.attempt import StreamAttempt
from tieline.establishment.ordering import interleave, sort_destinations
from tieline.establishment.stacks import client_pipeline, transport_endpoint
from tieline.paths import PathStatus, evaluate
from tieline.protocols.ip import IP, IPVersion
from tieline.protocols.roles import DatagramProtocol
from tieline.reports import DNSProtocol, Handshake, Resolution, ResolutionSource

if TYPE_CHECKING:
    from tieline.drivers.port import Address, DatagramSocket, Driver, Task, Timer
    from tieline.parameters import Parameters

__all__ = ["Establishment", "EstablishmentOwner"]

# What another address does not mend: the peer is who it is on all of its addresses. The other reasons say that what answered
# on this one is no TLS server at all.
MENDABLE = frozenset({"not_tls", "protocol_violation", "record_too_large", "decrypt_error"})


class EstablishmentOwner(Protocol):
    """The connection, as its establishment sees it."""

    def established(self, won: StreamAttempt | DatagramSocket) -> None: ...
    def not_established(self, error: NetworkError) -> None: ...


class _SilentHandler:
    """Of a datagram socket between its creation and the flow that takes it over."""

    def received(self, datagram: bytes, remote: Address | None) -> None:
        """Nothing can come before the flow has sent something."""

    def writable(self) -> None: ...
    def failed(self, error: OSError) -> None: ...


class Establishment:
    """Turns an endpoint into a connected socket."""

    def __init__(
        self, driver: Driver, endpoint: Endpoint, parameters: Parameters[Any], owner: EstablishmentOwner, first: bytes
    ) -> None:
        self._driver = driver
        self._endpoint = endpoint
        self._target = transport_endpoint(endpoint)
        self._parameters = parameters
        self._owner = weakref.ref(owner)
        self._first = first
        self._datagrams = isinstance(parameters.stack, DatagramProtocol)
        self._attempts: dict[int, StreamAttempt | DatagramSocket] = {}
        self._phases: dict[int, Phase] = {}
        self._resolving: dict[int, tuple[Task, Timer]] = {}
        self._timer: Timer | None = None
        self._ended = False
        named = isinstance(self._target, HostPort) and not self._target.is_literal
        self._race: racing.Race[Address] = racing.Race(
            order=self._order,
            families=self._families() if named else (),
            resolution_delay=parameters.resolution_delay,
            attempt_delay=parameters.attempt_delay,
        )
        self._named = named
        self._resolved_after: float | None = None
        self._winner: Address | None = None
        self.handshakes: list[Handshake] = []
        self.started = driver.time()

    # For the connection

    def start(self) -> None:
        known = () if self._named else (self._target,)
        path = evaluate_path(self._driver, self._parameters)
        if path is not None:
            self._lost(racing.Lost((), {}), path)
            return
        self._do(self._race.start(self._driver.time(), known))

    def next_endpoint(self) -> None:
        """Race on without the winner."""
        self._ended = False
        self._winner = None
        self.started = self._driver.time()
        self._do(self._race.next_endpoint(self._driver.time()))

    def cancel(self) -> None:
        """Close everything and tell nobody."""
        self._end()
        for attempt in self._attempts.values():
            self._drop(attempt)
        self._attempts.clear()

    def resolutions(self) -> tuple[Resolution, ...]:
        """What the resolver said; A and AAAA of one name are one resolution."""
        if not self._named or self._resolved_after is None:
            return ()
        return (
            Resolution(
                source=ResolutionSource.QUERY,
                duration=self._resolved_after,
                endpoint_count=sum(self._race.address_counts.values()),
                preferred_endpoint=self._race.preferred,
                successful_endpoint=self._winner,
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

    def _order(self, addresses: Sequence[Address]) -> Sequence[Address]:
        hosts = [address for address in addresses if isinstance(address, HostPort)]
        if len(hosts) < 2:
            return addresses
        return interleave(sort_destinations(hosts, self._driver.source_of))

    def _do(self, actions: Sequence[racing.Action[Address]]) -> None:
        for action in actions:
            match action:
                case racing.Resolve(family):
                    self._resolve(family)
                case racing.Attempt(number, address):
                    self._begin(number, address)
                case racing.Cancel(number):
                    self._drop(self._attempts.pop(number))
                case racing.Won(number, address):
                    self._won(number, address)
                case racing.Lost():
                    self._lost(action, None)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = None if self._ended else self._race.timeout()
        if due is not None:
            self._timer = self._driver.call_later(max(0.0, due - self._driver.time()), self._expired)

    def _expired(self) -> None:
        self._timer = None
        self._do(self._race.expired(self._driver.time()))

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
        except DNSError as reason:
            error = reason
        self._answered(family, addresses, error)

    def _answered(self, family: racing.Family, addresses: Sequence[HostPort], error: Exception | None) -> None:
        pending = self._resolving.pop(family, None)
        if pending is None:
            return
        pending[1].cancel()
        now = self._driver.time()
        self._resolved_after = now - self.started
        if error is not None:
            self._do(self._race.resolution_failed(now, family, error))
        else:
            self._do(self._race.resolved(now, family, addresses))

    def _resolution_expired(self, family: racing.Family, timeout: float) -> None:
        self._resolving[family][0].cancel()
        self._answered(
            family,
            (),
            DNSError(
                f"the resolver did not answer within resolution_timeout={timeout:g} s",
                endpoint=self._endpoint,
                phase=Phase.RESOLVING,
            ),
        )

    def _begin(self, number: int, address: Address) -> None:
        try:
            refusal = route_refusal(self._driver, self._parameters, address)
            if refusal is not None:
                raise refusal
            if self._datagrams:
                self._attempts[number] = self._driver.bind(None, address, self._parameters, _SilentHandler())
                self._driver.call_soon(self._succeeded, number)
                return
            attempt = StreamAttempt(
                self._driver,
                self._parameters,
                self._endpoint,
                client_pipeline(self._parameters.stack, self._endpoint),
                succeeded=lambda: self._succeeded(number),
                failed=lambda error: self._failed(number, error),
                progressed=lambda: self._do(self._race.progressed(self._driver.time(), number)),
            )
            self._attempts[number] = attempt
            attempt.connect(address, self._first)
        except (OSError, NetworkError) as error:
            # The race is told from the loop, not from inside its own action.
            self._driver.call_soon(self._failed, number, error)

    def _succeeded(self, number: int) -> None:
        if number in self._attempts:
            self._do(self._race.succeeded(self._driver.time(), number))

    def _failed(self, number: int, error: Exception) -> None:
        if self._ended:
            return
        attempt = self._attempts.pop(number, None)
        self._phases[number] = attempt.phase if isinstance(attempt, StreamAttempt) else Phase.CONNECTING
        now = self._driver.time()
        if isinstance(error, TLSError) and error.reason not in MENDABLE:
            self._do(self._race.fatal(now, number, error))
        else:
            self._do(self._race.failed(now, number, error))

    @staticmethod
    def _drop(attempt: StreamAttempt | DatagramSocket) -> None:
        if isinstance(attempt, StreamAttempt):
            attempt.cancel()
        else:
            attempt.close()

    # Ending

    def _end(self) -> None:
        self._ended = True
        self._set_timer()
        for task, timer in self._resolving.values():
            task.cancel()
            timer.cancel()
        self._resolving.clear()

    def _won(self, number: int, address: Address) -> None:
        self._end()
        self._winner = address
        winner = self._attempts.pop(number)
        self.handshakes = winner.handshakes if isinstance(winner, StreamAttempt) else []
        owner = self._owner()
        if owner is None:
            self._drop(winner)
        else:
            owner.established(winner)

    def _lost(self, lost: racing.Lost[Address], unusable: OSError | None) -> None:
        self._end()
        owner = self._owner()
        if owner is not None:
            owner.not_established(self._error(lost, unusable))

    def _error(self, lost: racing.Lost[Address], unusable: OSError | None) -> NetworkError:
        attempts = [
            FailedAttempt(one.address, self._phases.get(one.id, Phase.CONNECTING), one.ended - one.started, one.error)
            for one in lost.failures
        ]
        security = [one.error for one in attempts if isinstance(one.error, TLSError)]
        if security and (lost.fatal is not None or len(security) == len(attempts)):
            decisive = lost.fatal.error if lost.fatal is not None else security[0]
            assert isinstance(decisive, TLSError)
            decisive.attempts = tuple(attempts)
            return decisive
        if attempts:
            return ConnectError.of(attempts, endpoint=self._endpoint)
        if unusable is not None:
            error = ConnectError(
                unusable.strerror or str(unusable), endpoint=self._endpoint, phase=Phase.CONNECTING, code=unusable.errno
            )
            error.__cause__ = unusable
            return error
        for reason in lost.resolution_errors.values():
            assert isinstance(reason, DNSError)
            error = DNSError(
                reason.summary, endpoint=self._endpoint, phase=Phase.RESOLVING, code=reason.code, hint=reason.hint
            )
            error.__cause__ = reason.__cause__
            return error
        return DNSError("the name has no address that may be used", endpoint=self._endpoint, phase=Phase.RESOLVING)


def evaluate_path(driver: Driver, parameters: Parameters[Any]) -> OSError | None:
    """Why no interface may be used at present, or None if one may (or nobody restricts them)."""
    if not parameters.restricts_interfaces:
        return None
    path = evaluate(
        driver.interfaces(),
        required_interface=parameters.required_interface,
        required_interface_type=parameters.required_interface_type,
        prohibited_interfaces=parameters.prohibited_interfaces,
        prohibited_interface_types=parameters.prohibited_interface_types,
    )
    if path.status is PathStatus.SATISFIED:
        return None
    assert path.unsatisfied_reason is not None
    return OSError(errno.ENETDOWN, f"no usable network: {path.unsatisfied_reason.value}")


def route_refusal(driver: Driver, parameters: Parameters[Any], address: Address) -> OSError | None:
    """Why this address may not be tried: its packets would leave through an interface that the parameters rule out."""
    if not isinstance(address, HostPort) or not parameters.restricts_interfaces or parameters.required_interface:
        return None  # a required interface is bound to its socket, so that the kernel sees to it
    source = driver.source_of(address)
    for interface in driver.interfaces():
        if source is not None and source in (host.partition("%")[0] for host in interface.addresses):
            allowed = evaluate(
                (interface,),
                required_interface_type=parameters.required_interface_type,
                prohibited_interfaces=parameters.prohibited_interfaces,
                prohibited_interface_types=parameters.prohibited_interface_types,
            )
            if allowed.status is PathStatus.SATISFIED:
                return None
            return OSError(errno.ENETUNREACH, f"the route leads through {interface.name}, which the parameters rule out")
    return OSError(errno.ENETUNREACH, "no route through an interface that the parameters allow")
