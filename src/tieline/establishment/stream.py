"""The attempt of a stream with handshakes: a socket to one address (or from one peer), and every handshake of the stack on it.

    connecting ──▶ handshaking ──▶ (a validator decides) ──▶ ready
         └───────────────┴──────────────────┴──▶ failed

Each phase has a timer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tieline.engines.framing import CarrierLayer, MessageLayer
from tieline.errors import NetworkError, PeerResetError, Phase, translate
from tieline.establishment.attempt import TransportAttempt
from tieline.establishment.failures import handshake_expired
from tieline.establishment.guard import guarded
from tieline.flows.alarm import Alarm
from tieline.protocols.security import SecurityOptions
from tieline.protocols.tcp import TCP

if TYPE_CHECKING:
    from tieline.drivers.port import Address, Buffer, Counted, Driver, StreamSocket, Task
    from tieline.engines.pipeline import Pipeline
    from tieline.flows.stream import StreamFlow
    from tieline.parameters import Parameters

__all__ = ["StreamAttempt"]

CONNECTING = Phase.CONNECTING  # before Python 3.12, to look a member up in its class takes longer than what is done with it


class StreamAttempt(TransportAttempt):
    """Brings one stream socket to the point where application bytes may flow."""

    phase: Phase

    def __init__(
        self,
        driver: Driver,
        parameters: Parameters[Any],
        endpoint: object,
        pipeline: Pipeline,
        *,
        succeeded: Callable[[], None],
        failed: Callable[[Exception], None],
        progressed: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(driver, parameters, succeeded=succeeded, failed=failed)
        self._endpoint = endpoint
        self._pipeline = pipeline
        self._progressed = progressed
        self._decision: Task | None = None
        self._wire = b""  # for the peer, and the kernel has not taken it yet
        self._plaintext: list[bytes] = []  # of the peer, and nobody may have it yet
        self._kept = 0
        self._early = 0
        self._mark = self.begun
        self._flight: float | None = None  # when our first one left, until something is heard after it
        self._rtt: float | None = None
        self._opening: bytes | None = None
        self._alarm: Alarm | None = None
        if pipeline.messages:
            self._alarm = Alarm(driver, pipeline.messages, self._rung)
        self.phase = CONNECTING

    # Beginning and ending

    def connect(self, address: Address, first: bytes = b"", *, awaited: bool = False) -> None:
        """The same. `first` are idempotent bytes that may ride on the first flight."""
        super().connect(address, self._first_flight(first), awaited=awaited)

    def _first_flight(self, first: bytes) -> bytes:
        """What may ride on the SYN."""
        tcp: TCP | None = self._parameters.stack.find(TCP)
        fast_open = tcp is not None and tcp.fast_open_allowed
        if fast_open or first:
            self._opening = self._open(self._pipeline, first)
        return self._opening if fast_open and self._opening is not None else b""

    def cancel(self) -> None:
        self._dismiss()
        super().cancel()

    def counters(self) -> Counted | None:
        if self.phase is CONNECTING and self._counters is not None:
            return self._counters  # nothing has moved since
        return None if self._socket is None else self._socket.counters()

    def hand_over(self, flow: StreamFlow) -> StreamSocket:
        """The same, with the pipeline."""
        socket, self._socket = self._socket, None
        assert socket is not None  # it succeeded
        if self._alarm is not None:
            self._alarm.stop()  # the flow has its own
        flow.attach(socket, self._pipeline, b"".join(self._plaintext), self._wire, self._early)
        return socket

    # The socket's handler; it reads nothing while a validator thinks

    def _made(self) -> None:
        socket, pipeline = self._socket, self._pipeline
        if socket is None:  # given up meanwhile
            return
        socket.resume()
        self._counters = socket.counters()
        self._note(TCP.name, self._counters)
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
        try:
            self._pipeline.receive_end()
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

    def _translated(self, error: OSError) -> Exception:
        return error if self.phase is CONNECTING else translate(error, self._endpoint, self.phase)

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
        if self._socket is None:
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
            self._timer = self._driver.call_later(timeout, self._handshake_expired, timeout)

    @guarded
    def _rung(self) -> None:
        pipeline = self._pipeline
        if self._alarm is None or self._socket is None:
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
        if self._alarm is not None:
            self._alarm.stop()
            self._pipeline.closed()
        if self._decision is not None:
            self._decision.cancel()
            self._decision = None

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
        self._stop_timer()
        self._succeeded()

    def _fail(self, error: Exception) -> None:
        self._dismiss()
        super()._fail(error)

    def _handshake_expired(self, timeout: float) -> None:
        self._fail(handshake_expired(timeout, self._endpoint, deciding=self._decision is not None))
