"""One attempt: a socket to one address (or from one peer), and every handshake of the stack on it.

    connecting ──▶ handshaking ──▶ (a validator decides) ──▶ ready
         └───────────────┴──────────────────┴──▶ failed

Each phase has a timer. It ends once, in `succeeded` or `failed`; after `cancel` it says nothing.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from tieline.engines.framing import CarrierLayer, MessageLayer
from tieline.errors import HandshakeTimeoutError, NetworkError, PeerResetError, Phase, translate
from tieline.establishment.guard import guarded
from tieline.flows.alarm import Alarm
from tieline.protocols.security import SecurityOptions
from tieline.protocols.tcp import TCP

if TYPE_CHECKING:
    from tieline.drivers.port import Address, Buffer, Counted, Driver, StreamSocket, Task, Timer
    from tieline.engines.pipeline import Pipeline
    from tieline.flows.stream import StreamFlow
    from tieline.parameters import Parameters

__all__ = ["Attempt", "Shaken", "StreamAttempt"]

CONNECTING = Phase.CONNECTING  # before Python 3.12, to look a member up in its class takes longer than what is done with it

Shaken: TypeAlias = "tuple[str, float, float | Counted | None]"
"""A handshake for the report: its protocol, how long it took, and the round trip, or counters with that."""


class Attempt(ABC):
    """One way to one address, until it is ready or given up."""

    begun: float
    phase: Phase
    handshakes: Sequence[Shaken]

    @abstractmethod
    def counters(self) -> Counted | None:
        """What the transport has moved so far."""

    @abstractmethod
    def hand_over(self, flow: Any) -> Any:
        """Give everything to the flow that goes on with it; what comes back knows both addresses."""

    @abstractmethod
    def cancel(self) -> None:
        """Give up, and tell nobody."""


class StreamAttempt(Attempt):
    """Brings one stream socket to the point where application bytes may flow."""

    def __init__(
        self,
        driver: Driver,
        parameters: Parameters[Any],
        endpoint: object,
        pipeline: Pipeline | None,
        *,
        succeeded: Callable[[], None],
        failed: Callable[[Exception], None],
        progressed: Callable[[], None] | None = None,
    ) -> None:
        self._driver = driver
        self._parameters = parameters
        self._endpoint = endpoint
        self._pipeline = pipeline
        self._succeeded = succeeded
        self._failed = failed
        self._progressed = progressed
        self._socket: StreamSocket | None = None
        self._timer: Timer | None = None
        self._decision: Task | None = None
        self._wire = b""  # for the peer, and the kernel has not taken it yet
        self._plaintext: list[bytes] = []  # of the peer, and nobody may have it yet
        self._kept = 0
        self._early = 0
        self._mark = driver.time()
        self._flight: float | None = None  # when our first one left, until something is heard after it
        self._rtt: float | None = None
        self._opening: bytes | None = None
        self._counters: Counted | None = None  # when the transport was up
        self._alarm: Alarm | None = None
        if pipeline is not None and pipeline.messages:
            self._alarm = Alarm(driver, pipeline.messages, self._rung)
        self.begun = self._mark
        self.phase = CONNECTING
        self.handshakes: Sequence[Shaken] = ()

    # Beginning and ending

    def connect(self, address: Address, first: bytes, *, awaited: bool = False) -> None:
        """Begin towards an address. `first` are idempotent bytes that may ride on the first flight. Raises OSError.

        It succeeds from the event loop, or where a call waits for it (`awaited`) perhaps at once, and never fails at once.
        """
        flight = b""
        if not self._parameters.fast_open_allowed:
            first = b""
        if first or self._pipeline is not None:
            flight = self._first_flight(first)
        self._socket = self._driver.connect(address, self._parameters, self, flight)
        if self._socket.is_made:
            if awaited:
                self._made()
            else:
                self._driver.call_soon(self._made)
        else:
            timeout = (self._parameters.stack.find(TCP) or TCP()).connection_timeout
            self._start_timer(timeout, self._connect_expired, timeout)

    def _first_flight(self, first: bytes) -> bytes:
        """What may ride on the SYN."""
        tcp: TCP | None = self._parameters.stack.find(TCP)
        fast_open = tcp is not None and tcp.fast_open_allowed
        if self._pipeline is None:
            return first if fast_open else b""
        if fast_open or first:
            self._opening = self._open(self._pipeline, first)
        return self._opening if fast_open and self._opening is not None else b""

    def accept(self, socket: StreamSocket) -> None:
        """Begin on a socket that a listener accepted."""
        self._socket = socket
        socket.handler = self
        self._made()

    def _made(self) -> None:
        """The transport was connected from the beginning."""
        if self._socket is not None:
            self._socket.resume()
            self.connected()

    def cancel(self) -> None:
        """Give up, and tell nobody."""
        self._stop_timer()
        self._dismiss()
        if self._decision is not None:
            self._decision.cancel()
            self._decision = None
        if self._socket is not None:
            self._socket.abort()
            self._socket = None

    def counters(self) -> Counted | None:
        """What the transport has moved so far."""
        if self.phase is CONNECTING and self._counters is not None:
            return self._counters  # nothing has moved since
        return None if self._socket is None else self._socket.counters()

    def hand_over(self, flow: StreamFlow) -> StreamSocket:
        """Give socket and pipeline to the flow that goes on with them."""
        socket, self._socket = self._socket, None
        assert socket is not None  # it succeeded
        if self._alarm is not None:
            self._alarm.stop()  # the flow has its own
        flow.attach(socket, self._pipeline, b"".join(self._plaintext), self._wire, self._early)
        return socket

    # The socket's handler; it reads nothing while a validator thinks

    @guarded
    def connected(self) -> None:
        if self._timer is not None:
            self._stop_timer()
        socket, pipeline = self._socket, self._pipeline
        assert socket is not None
        self._counters = socket.counters()
        self._note(TCP.name, self._counters)
        if pipeline is None:
            self._early = socket.early
            self._succeed()
            return
        self.phase = Phase.HANDSHAKE
        if self._progressed is not None:
            self._progressed()
        for layer in pipeline.messages:
            layer.local, layer.remote = socket.local_address, socket.remote_address or self._endpoint
        if self._alarm is not None:
            self._alarm.tell()
        self._limit_handshake(pipeline)
        self._write(self._open(pipeline, b"") if self._opening is None else self._opening[socket.early :])
        self._advance()

    @guarded
    def received(self, data: Buffer) -> None:
        pipeline = self._pipeline
        assert pipeline is not None  # without one, being connected is all there is to it
        if self._flight is not None and self._rtt is None:
            self._rtt = self._driver.time() - self._flight
        if self._alarm is not None:
            self._alarm.tell()
        try:
            piece = pipeline.receive(data)
        except NetworkError as error:
            self._write(pipeline.output())
            self._fail(error)
            return
        self._keep(piece)
        self._write(pipeline.output())
        self._advance()

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._plaintext.append(piece)
            self._kept += len(piece)
            if self._kept > self._parameters.receive_limit and self._socket is not None:
                self._socket.pause()

    @guarded
    def received_end(self) -> None:
        pipeline = self._pipeline
        assert pipeline is not None
        try:
            pipeline.receive_end()
        except NetworkError as error:
            self._fail(error)
            return
        self._fail(
            PeerResetError("the peer ended the stream during the handshake", endpoint=self._endpoint, phase=Phase.HANDSHAKE)
        )

    @guarded
    def writable(self) -> None:
        wire, self._wire = self._wire, b""
        self._write(wire)

    @guarded
    def failed(self, error: OSError) -> None:
        self._socket = None
        self._fail(error if self.phase is CONNECTING else translate(error, self._endpoint, self.phase))

    # Handshaking

    def _open(self, pipeline: Pipeline, first: bytes) -> bytes:
        flight = pipeline.start()
        if first:
            self._early = pipeline.send_early(first)
            flight += pipeline.output()
        return flight

    def _write(self, wire: bytes) -> None:
        if not wire or self._socket is None:
            return
        if self._flight is None:
            self._flight = self._driver.time()
        if self._wire:
            self._wire += wire
            return
        try:
            taken = self._socket.send(wire)
        except OSError as error:
            # The peer broke off. What it said before may say why, and is read before the reset is noticed.
            if self.phase is CONNECTING:
                self._fail(error)
            return
        self._wire = wire[taken:]

    def _advance(self) -> None:
        pipeline = self._pipeline
        if pipeline is None or self._socket is None:
            return
        for name in pipeline.handshakes():
            self._note(name, self._rtt)
            self._limit_handshake(pipeline)
        if self._alarm is not None:
            self._alarm.look()
        if self._decision is not None:
            return
        decision = pipeline.decision
        if decision is not None:
            self._socket.pause()  # what comes meanwhile waits in the kernel
            self._decision = self._driver.spawn(self._decide(pipeline, decision), "tieline certificate validator")
            return
        if not pipeline.ready:
            return
        if self._early and not pipeline.early_data_accepted:
            self._early = 0  # the peer threw them away: the flow sends them again
        self._succeed()

    def _limit_handshake(self, pipeline: Pipeline) -> None:
        """The layer whose turn it is has its time."""
        layer = pipeline.handshaking
        timeout: float | None = None
        if isinstance(layer, MessageLayer):
            timeout = layer.handshake_timeout
        elif isinstance(layer, CarrierLayer):
            timeout = layer.messages.handshake_timeout
        elif layer is not None:
            security: SecurityOptions | None = self._parameters.stack.find(SecurityOptions)
            timeout = None if security is None else security.handshake_timeout
        self._stop_timer()
        if timeout is not None:
            self._start_timer(timeout, self._handshake_expired, timeout)

    @guarded
    def _rung(self) -> None:
        pipeline = self._pipeline
        if self._alarm is None or pipeline is None or self._socket is None:
            return
        try:
            self._alarm.wake(reading=self._decision is None)
        except NetworkError as error:
            self._write(pipeline.output())
            self._fail(error)
            return
        self._keep(pipeline.woken())
        self._write(pipeline.output())
        self._advance()

    def _dismiss(self) -> None:
        """The layers are not needed any more."""
        if self._alarm is not None and self._pipeline is not None:
            self._alarm.stop()
            self._pipeline.closed()

    async def _decide(self, pipeline: Pipeline, decision: Any) -> None:
        try:
            reason: Exception | None = None
            try:
                accepted = await decision
            except Exception as error:
                accepted, reason = False, error
            if not isinstance(accepted, bool):  # a coroutine that was forgotten to be awaited is true, too
                reason = TypeError(f"a validator's awaitable gives a bool, got {accepted!r}")
                accepted = False
            self._keep(pipeline.decided(accepted, reason))
        except NetworkError as error:
            self._decision = None
            self._write(pipeline.output())
            self._fail(error)
            return
        self._decision = None
        self._go_on()

    @guarded
    def _go_on(self) -> None:
        if self._socket is not None:
            self._socket.resume()
        self._advance()

    # Ending

    def _note(self, protocol: str, rtt: float | Counted | None) -> None:
        now = self._driver.time()
        self.handshakes = (*self.handshakes, (protocol, now - self._mark, rtt))
        self._mark = now

    def _succeed(self) -> None:
        if self._timer is not None:
            self._stop_timer()
        self._succeeded()

    def mistaken(self, error: Exception) -> None:
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._stop_timer()
        self._dismiss()
        if self._decision is not None:
            self._decision.cancel()
            self._decision = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._failed(error)

    def _start_timer(self, seconds: float, expired: Callable[[float], None], *arguments: Any) -> None:
        self._timer = self._driver.call_later(seconds, expired, *arguments)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _connect_expired(self, timeout: float) -> None:
        self._fail(TimeoutError(errno.ETIMEDOUT, f"no answer within connection_timeout={timeout:g} s"))

    def _handshake_expired(self, timeout: float) -> None:
        waiting = "the certificate validator" if self._decision is not None else "the peer"
        self._fail(
            HandshakeTimeoutError(
                f"the handshake was not complete within handshake_timeout={timeout:g} s",
                endpoint=self._endpoint,
                phase=Phase.HANDSHAKE,
                expected=f"an answer of {waiting}",
                got="none",
                code=errno.ETIMEDOUT,
            )
        )
