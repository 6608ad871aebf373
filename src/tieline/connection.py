"""NetworkConnection: a channel that also owns its establishment, its states and its lifetime."""

from __future__ import annotations

import itertools
import warnings
import weakref
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tieline import drivers
from tieline.endpoints import EndpointLike, to_endpoint
from tieline.engines.states import CONNECTION, Event, State
from tieline.errors import ChannelClosedError, CloseTimeoutError, NetworkError, Phase, raisable
from tieline.establishment.attempt import Attempt
from tieline.establishment.direct import Direct, establishment_of
from tieline.establishment.failures import is_final
from tieline.establishment.stacks import destined
from tieline.flows.stream import StreamFlow
from tieline.multiplexed import MultiplexedChannel
from tieline.parameters import Parameters
from tieline.protocols.roles import NetworkProtocol
from tieline.reporting import PendingDataTransferReport, Reporting
from tieline.updates import UpdateIterator, Updates, Waiters
from tieline.watching import ONE_PATH, Watched

if TYPE_CHECKING:
    from tieline.drivers.port import Address, Driver, Timer
    from tieline.establishment.establishment import Establishment
    from tieline.reports import DataTransferReport, EstablishmentReport

__all__ = ["NetworkConnection"]

P_co = TypeVar("P_co", bound=NetworkProtocol, covariant=True)

FIRST_BACK_OFF, LAST_BACK_OFF = 1.0, 60.0  # seconds between attempts while WAITING

# By names of their own: before Python 3.12, to look a member up in its class takes longer than what is done with it.
SETUP, WAITING, PREPARING, READY, FAILED, CANCELLED = State
START, ESTABLISHED, CLOSE = Event.START, Event.ESTABLISHED, Event.CLOSE

_ids = itertools.count(1)


class NetworkConnection(Watched, MultiplexedChannel[P_co]):
    """A connection to `to` over a protocol stack (or `Parameters` with one).

    Making it does nothing on the network. ``async with`` starts it; so does the first data call. Leaving the block normally
    closes gracefully (what was sent drains, then our end goes out) and may raise `CloseTimeoutError`; leaving it by an
    exception or cancellation aborts.

    Raises `UnexpectedEndpointTypeError` for an endpoint that this stack cannot reach, and `TypeError` and `ValueError` for
    bad options.
    """

    driver: Driver

    def __init__(self, to: EndpointLike, using: P_co | Parameters[P_co]) -> None:
        self._id = next(_ids)
        self._state = SETUP
        self._name = self._endpoint = to_endpoint(to)
        self._parameters = destined(self._endpoint, Parameters.of(using))
        self._make_flow(self._endpoint)
        self._reporting = Reporting()

    _error: NetworkError | None = None
    _establishment: Direct | Establishment | None = None
    _back_off = FIRST_BACK_OFF
    _retry_timer: Timer | None = None
    _closing = _aborted = False
    _becoming_ready: Waiters | None = None  # these three as soon as somebody waits or wants to know
    _closed: Waiters | None = None
    _state_updates: Updates[Any, State] | None = None

    @classmethod
    def accepted(
        cls,
        driver: Driver,
        parameters: Parameters[Any],
        remote: Address | None,
        attach: Callable[[Any], Any],
        attempt: Attempt | None = None,
    ) -> NetworkConnection[Any]:
        """A connection that a listener hands out, ready: `attach` gives its flow a socket and returns that."""
        self: NetworkConnection[Any] = cls.__new__(cls)
        self._id = next(_ids)
        self._state = READY
        self._parameters = parameters
        self._endpoint = None
        self._name = remote
        self._make_flow(remote)
        self._reporting = Reporting()
        self.driver = driver
        self._reporting.accepted(attempt, driver.time(), self._flow)
        self._local, self._remote = attach(self._flow).local_address, remote
        if parameters.multipath is not ONE_PATH:
            self._watching.ready()
        return self

    def __repr__(self) -> str:
        return f"<NetworkConnection {self._id} to {self._name} over {self._parameters.stack.name}, {self._state.value}>"

    # Lifetime

    async def __aenter__(self) -> Self:
        """Start, and return at once. Raises what makes starting pointless.

        Cancelling: nothing has been started.
        """
        self.start()
        return self

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Coroutine[Any, Any, None]:
        """Close gracefully, or abort if the block raised.

        Cancelling: the connection is aborted.
        """
        if kind is None:
            return self.aclose()
        self.abort()
        return _done()

    def start(self) -> Self:
        """Begin to establish the connection, if nobody has yet. Further calls do nothing."""
        if self._state is SETUP:
            self.driver = drivers.current()
            self._establish(START)
        return self

    async def ready(self) -> None:
        """Start and wait until data can flow. Raises `ConnectError`, `TLSError`, or `ChannelClosedError` after a close.

        While `WAITING`, the reason is raised unless the parameters say ``waits_for_connectivity=True``.

        Cancelling: the connection goes on being established.
        """
        if self._state is not READY:
            self.needed()
        if self._state is not READY:  # which on one machine it may be by now
            await self._readiness()

    def _readiness(self) -> Coroutine[Any, Any, None]:
        """What `_tell_waiting` ends."""
        self._becoming_ready = self._becoming_ready or Waiters()
        return self._becoming_ready.wait(self.driver)

    def _tell_waiting(self, error: NetworkError | None = None) -> None:
        """It is ready, or never will be."""
        if self._becoming_ready is not None:
            self._becoming_ready.release(error)

    async def aclose(self) -> None:
        """Close gracefully: pending calls of other tasks raise, what was accepted drains, then our end goes out.

        Idempotent. Raises `CloseTimeoutError` if nothing moves for `close_timeout` seconds; the connection is then aborted.
        Raises `PeerResetError` if the peer broke off before it took what was accepted, and no call has said so.
        Raises what `ready` does if there is no connection for what `send_idempotent` had accepted.

        Cancelling: the connection is aborted, unless another task is closing it already.
        """
        if self._closing:
            if not self._state.is_final:
                self._closed = self._closed or Waiters()
                await self._closed.wait(self.driver)
            return
        self._closing = True
        try:
            if self._state is not READY and self.accepted_early and not self._state.is_final:
                await self._ready_to_drain()
            if self._state is READY:
                self._reporting.freeze(self._flow, self.driver)
                if not (isinstance(self._flow, StreamFlow) and self._flow.finish_at_once()):
                    await self._flow.finish()
            elif self._state is FAILED and self._flow.lost and self._error is not None:
                raise raisable(self._error)
        finally:
            self.abort()

    async def _ready_to_drain(self) -> None:
        """What was accepted before ready drains as well, so the close waits for a connection, but not for ever."""
        closed = self._closed_error()
        self._flow.raise_pending(closed)
        self._tell_waiting(closed)
        timeout = self._parameters.close_timeout
        late = CloseTimeoutError(
            "what send_idempotent() had accepted was never sent",
            endpoint=self._name,
            phase=Phase.CLOSING,
            expected=f"a connection within close_timeout={timeout:g} s",
            got="none",
        )
        timer = self.driver.call_later(timeout, self._tell_waiting, late)
        try:
            self.retry()
            if not self._state.is_final:
                await self._readiness()
        except ChannelClosedError:  # aborted meanwhile
            return
        finally:
            timer.cancel()

    def abort(self) -> None:
        """Close at once, without draining; a TCP peer sees a reset. Idempotent."""
        if self._aborted:
            return
        self._aborted = True
        if self._establishment is not None:
            self._establishment.cancel()
        if self._retry_timer is not None:
            self._cancel_retry()
        if self._state is READY and self._reporting.at_close is None:
            self._reporting.freeze(self._flow, self.driver)
        self._flow.abort()
        if not self._state.is_final:
            if self._becoming_ready is not None:
                self._tell_waiting(self._closed_error())
            self._become(CLOSE)
        if self._closed is not None:
            self._closed.release()

    def _closed_error(self) -> ChannelClosedError:
        return ChannelClosedError("the connection was closed by this side", endpoint=self._name, phase=Phase.CLOSING)

    def __del__(self) -> None:
        state = getattr(self, "_state", SETUP)
        if state is not SETUP and not state.is_final:
            if self._state_updates is not None:
                self._state_updates.handler = None
            try:
                warnings.warn(f"unclosed {self!r}: use `async with` or aclose()", ResourceWarning, source=self, stacklevel=1)
            finally:
                self.abort()
        flow = getattr(self, "_flow", None)
        if type(flow) is StreamFlow and flow.closed and flow.socket is None:
            del flow.receiving, flow.sending  # nobody can ask for them any more, and with them it would wait for the collector

    # States

    @property
    def error(self) -> NetworkError | None:
        """Why the connection is `WAITING` or `FAILED`; None in other states."""
        return self._error

    def on_state_update(self, handler: Callable[[Self, State], object]) -> Self:
        """Call ``handler(connection, state)`` on each transition, in place of an earlier handler. Returns the connection."""
        self._states.handler = handler
        return self

    def state_updates(self) -> UpdateIterator[State]:
        """Each transition from now on as an asynchronous iterator, which ends after the final state."""
        return self._states.iterate(ended=self._state.is_final)

    def _become(self, event: Event, error: NetworkError | None = None) -> None:
        self._state = CONNECTION[self._state, event]
        self._error = error
        if self._state_updates is not None:
            self._state_updates.publish(self, self._state, last=self._state.is_final)
        if self._watch is not None and self._state.is_final:
            self._watch.end()

    @property
    def _states(self) -> Updates[Any, State]:
        if self._state_updates is None:
            self._state_updates = Updates()
        return self._state_updates

    # Establishing. The calls that wait are told first and the state handler last, for it may do anything.

    def needed(self) -> None:
        """A call waits for bytes or for room: see that the connection is established, or raise why it will not be."""
        if self._state is SETUP:
            self.start()
        elif self._state is WAITING and not self._parameters.waits_for_connectivity and not self._closing:
            self.retry()
        if self._state is PREPARING and self._establishment is not None:
            self._establishment.hurry()
        if self._state is FAILED:  # only now: a state handler may have closed it meanwhile
            assert self._error is not None
            raise raisable(self._error)
        if self._closing or self._state is CANCELLED:
            raise self._flow.farewell or self._closed_error()

    @property
    def accepted_early(self) -> Any:
        """What may ride on the first flight: bytes of the flow's, or early streams of a session's."""
        sending = getattr(self._flow, "sending", None)  # only what moves bytes has one
        return getattr(self._flow, "accepted_early", b"") if sending is None else bytes(sending.first)

    def _establish(self, event: Event) -> None:
        assert self._endpoint is not None
        self._establishment = establishment_of(self.driver, self._endpoint, self._parameters, self)
        self._reporting.attempt_began(self._establishment.started)
        self.driver.call_soon(self._establishment.start)
        self._become(event)

    def established(self, won: Attempt) -> None:
        """Establishment has a winner: data can flow."""
        self._back_off = FIRST_BACK_OFF
        assert self._establishment is not None
        self._reporting.established(self._establishment, won, self.driver.time(), self._flow)
        socket = won.hand_over(self._flow)
        if self._becoming_ready is not None:
            self._tell_waiting()
        self._local, self._remote = socket.local_address, socket.remote_address
        self._become(ESTABLISHED)
        if self._state is READY and (self._watch is not None or self._parameters.multipath is not ONE_PATH):
            self._watching.ready()  # there is a path to watch: somebody wants to know, or it is to move by itself

    def not_established(self, error: NetworkError) -> None:
        """Every candidate failed: wait if that may pass, fail if not."""
        self._reporting.attempt_failed()
        if is_final(error):
            self._flow.fail(error)
            self._tell_waiting(error)
            self._become(Event.REFUSED, error)
            return
        self._retry_timer = self.driver.call_later(self._back_off, _retry_if_alive, weakref.ref(self))
        self._back_off = min(self._back_off * 2, LAST_BACK_OFF)
        if not self._parameters.waits_for_connectivity:
            self._flow.raise_pending(error)
            self._tell_waiting(error)
        self._become(Event.UNAVAILABLE, error)
        if self._state is WAITING:
            self._watching.waiting()

    def retry(self) -> None:
        if self._state is WAITING:
            self._cancel_retry()
            self._establish(Event.RETRY)

    def _cancel_retry(self) -> None:
        if self._retry_timer is not None:
            self._retry_timer.cancel()
            self._retry_timer = None

    def try_next_endpoint(self) -> None:
        """Give up the address that is connected now and go on with the next candidate; if none is left, wait.

        For services where the application finds that the host it reached is the wrong one. Calls that wait go on waiting.
        Does nothing unless the connection is ready. Raises `RuntimeError` on a connection that a listener handed out.
        """
        if self._state is not READY or self._closing:
            return
        if self._establishment is None:
            raise RuntimeError("an accepted connection has no other candidate: only the side that connects can try the next")
        self._flow.detach()
        self._local = self._remote = None
        if self._watch is not None:
            self._watch.unconnected()
        self.driver.call_soon(self._establishment.next_endpoint)
        self._become(Event.NEXT_ENDPOINT)

    def flow_failed(self, error: NetworkError | None) -> None:
        """The established connection broke, or its peer closed it in good order (None). The calls that wait have been told."""
        if self._state is PREPARING:  # as it was handed over: it is told of in its order, after READY
            self.driver.call_soon(self._broke, error)
        else:
            self._broke(error)

    def _broke(self, error: NetworkError | None) -> None:
        if self._state is READY and not self._closing:
            self._reporting.freeze(self._flow, self.driver)
            self._become(CLOSE if error is None else Event.BROKEN, error)

    # Inspecting

    async def establishment_report(self) -> EstablishmentReport:
        """Start, wait until ready, and tell how establishment went. Raises as `ready` does.

        Cancelling: the connection goes on being established.
        """
        await self.ready()
        return self._reporting.establishment(self.driver)

    async def data_transfer_report(self) -> DataTransferReport:
        """Start, wait until ready, and tell what was transferred from then until now. Raises as `ready` does.

        Cancelling: the connection goes on being established.
        """
        if not self._state.is_final:
            await self.ready()
        return self._reporting.transfer(self)

    def start_data_transfer_report(self) -> PendingDataTransferReport:
        """Begin a measurement now, or at ready if that is later; ``await report.collect()`` ends it. Several may run at once."""
        return PendingDataTransferReport(self, self._reporting)


async def _done() -> None:
    """For who awaits what is done already."""


def _retry_if_alive(reference: weakref.ref[NetworkConnection[Any]]) -> None:
    """For a timer: a waiting connection that is dropped does not live until its next attempt."""
    connection = reference()
    if connection is not None:
        connection.retry()
