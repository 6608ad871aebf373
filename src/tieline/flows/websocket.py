"""Messages of a WebSocket: whole, in parts, and what else there is to say on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from tieline._engine.stream import Descriptor, Sending
from tieline.engines.framing import too_large
from tieline.engines.websocket import WebSocketLayer
from tieline.errors import (
    ChannelClosedError,
    EndOfStreamError,
    NetworkError,
    Phase,
    ProtocolViolationError,
    raisable,
)
from tieline.flows.content import misuse, octets
from tieline.flows.layered import LayeredFlow, LayeredSending
from tieline.flows.owner import FlowOwner, present
from tieline.flows.parts import WebSocketReceiving
from tieline.flows.progress import progress
from tieline.flows.turns import RoundTrip, Turn
from tieline.flows.writer import MessageWriter, Writer
from tieline.protocols.websocket import CloseCode, Opcode, WebSocket, require_close

if TYPE_CHECKING:
    from tieline._engine.websocket import WebSocketFailure
    from tieline.drivers.port import Buffer, StreamSocket, Timer
    from tieline.engines.pipeline import Pipeline
    from tieline.parameters import Parameters

__all__ = ["WebSocketFlow", "WebSocketSending"]

LARGEST_PAYLOAD = 125  # of a control frame (RFC 6455 section 5.5)


class WebSocketSending(LayeredSending):
    """The outbound half."""

    __slots__ = ("_closing", "_pings", "turn")

    _flow: WebSocketFlow  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, flow: WebSocketFlow, limit: int) -> None:
        super().__init__(flow, limit)
        self.turn = Turn(flow)
        self._closing: tuple[int | None, str] | None = None
        self._pings = 0

    send = Sending.send_message

    async def _send_message(self, content: Any) -> None:
        """What is not simply given to the kernel."""
        if type(content) is not bytes and type(content) is not str:
            content = self._checked(content)
        if not self.turn.is_taken and self._may_begin():
            await self.message(content, {})
            return
        await self.turn.take()
        try:
            await self.message(content, {})
        finally:
            self.turn.give()

    async def _begun(self, content: Any, record: Buffer) -> None:
        """A frame was made that is too large to leave at once."""
        await self._queue(MessageWriter(content, {}, False).begun(record))

    async def _go_on(self, content: bytes | str, taken: int) -> None:
        """The kernel has taken the beginning of a large message, which leaves without a copy."""
        data = content.encode() if isinstance(content, str) else content
        await self._begun(content, memoryview(data)[taken:])

    def _checked(self, content: Any) -> Any:
        if isinstance(content, str):
            return str(content)
        if content is None or isinstance(content, (int, float)):
            raise misuse(self._flow, f"text or bytes can be sent, got {type(content).__name__}")
        return octets(content, self._flow)

    async def part(self, content: Any, *, last: bool) -> None:
        """One frame of a message, for the call whose turn it is."""
        await self.message(content, {"last": last})

    async def control(self, opcode: Opcode, payload: Any, trip: RoundTrip | None = None) -> None:
        if payload is None:
            self._pings += 1
            payload = b"%x" % self._pings if opcode is Opcode.PING else b""
        if isinstance(payload, str):
            raise misuse(self._flow, f"the payload of a {opcode.name.lower()} is bytes, got a text: encode it first")
        data = bytes(octets(payload, self._flow))
        if len(data) > LARGEST_PAYLOAD:
            what = f"the payload of a {opcode.name.lower()}"
            raise too_large(what, len(data), LARGEST_PAYLOAD, "RFC 6455 section 5.5", self._flow.endpoint)
        await self.message(data, {"opcode": opcode} if trip is None else {"opcode": opcode, "trip": trip})

    def offer(self, frame: bytes, message: Any) -> bool:
        """Take a message that goes to many, if nothing waits for room. A server's `frame` is the same for all of them."""
        flow = self._flow
        socket, machine = flow.socket, flow.machine
        if socket is None or self._writers or self.ended or self.turn.is_taken or self.error is not None:
            return False
        if self._accepted and self._size + len(frame) > self._limit:
            return False
        if flow.layer.is_client:
            frame = flow.layer.encode(message)
        self._accept(frame if machine is None else machine.send(frame))
        self.count += len(frame)
        self.pump()
        return self.error is None

    def _say(self) -> bool:
        """The close frame of a connection that is doomed waits for what is still to be answered."""
        return not self._flow.is_doomed and super()._say()

    # Closing

    async def close(self, code: int | None, reason: str) -> None:
        require_close(code, reason)
        flow = self._flow
        await flow.settle()
        if flow.is_over:
            return
        if self._closing is None:
            self._closing = (code, reason)
            try:
                await self._queue(Writer(memoryview(b""), True))
            except BaseException:
                if not self.ended:  # cancelled, and nothing of it has left
                    self._closing = None
                raise
        await flow.closed_by_both()

    def _finish(self) -> None:
        if self._closing is not None:
            self._flow.layer.close_with(*self._closing)
        super()._finish()

    def _require_open(self) -> None:
        if self.error is None and self.ended:
            self._flow.need()
            raise ChannelClosedError("nothing can be sent after close()", endpoint=self._flow.endpoint, phase=Phase.TRANSFER)
        super()._require_open()


class WebSocketFlow(LayeredFlow):
    """Moves messages both ways for one connection or stream."""

    __slots__ = ("_doom", "_respite", "trips")

    calls = (
        "send(text or bytes), receive(), ping(), pong(), close(), sending_message(), receiving_message(), messages and iteration"
    )
    layer: WebSocketLayer  # pyright: ignore[reportIncompatibleVariableOverride]
    receiving: WebSocketReceiving  # pyright: ignore[reportIncompatibleVariableOverride]
    sending: WebSocketSending  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, owner: FlowOwner, parameters: Parameters[Any], endpoint: object) -> None:
        super().__init__(owner, parameters, endpoint)
        self.receiving = WebSocketReceiving(self, parameters.receive_limit)  # pyright: ignore[reportIncompatibleVariableOverride]
        self.sending = WebSocketSending(self, parameters.send_limit)  # pyright: ignore[reportIncompatibleVariableOverride]
        self.trips: WeakSet[RoundTrip] = WeakSet()
        self._doom: NetworkError | None = None  # what came cannot be, but what came before is still to be answered
        self._respite: Timer | None = None

    def attach(self, socket: StreamSocket, pipeline: Pipeline | None, plaintext: bytes, wire: bytes, early: int) -> None:
        super().attach(socket, pipeline, plaintext, wire, early)
        if self.receiving.streams:
            self.stream(True)
        self._shorten()

    def _shorten(self) -> None:
        """Have frames decoded and encoded where bytes come and go, if the socket can do that."""
        codec, socket, machine = self.layer.codec, self.socket, self.machine
        if codec is None or socket is None:
            return
        cipher = self.receiving.cipher = self.sending.cipher = getattr(machine, "cipher", None)
        self.sending._adopt(codec)
        passes = machine is None or cipher is not None
        if passes and isinstance(socket, Descriptor) and not self.layer.held and not self.closed:
            self.receiving._adopt(self.layer.inbox, codec)
            socket.sink = self.receiving

    def find_more(self) -> None:
        super().find_more()
        self._shorten()

    def _no_socket(self) -> None:
        super()._no_socket()
        self._doom = None
        if self._respite is not None:
            self._respite.cancel()
            self._respite = None

    # The peer has broken a rule

    def _fault(self, error: NetworkError) -> None:
        """What came before it can be answered: the connection fails when the program waits for more, or after `close_timeout`.

        RFC 6455 section 7.1.7 wants no more input processed, and does not say how soon the close frame follows.
        """
        if self._doom is not None:
            return  # the codec finds nothing any more, and says so each time
        socket = self.socket
        if not len(self.layer.inbox) or self.closed or not isinstance(error, ProtocolViolationError):
            super()._fault(error)
            return
        self._doom = error
        self._found()
        if socket is None or self.socket is not socket:
            return
        self.receiving.stop()
        self._respite = present(self._owner).driver.call_later(self._parameters.close_timeout, self.give_up)
        self.receiving._adjust()

    @property
    def is_doomed(self) -> bool:
        """Whether the connection fails as soon as what came before a fault is answered."""
        return self._doom is not None

    def give_up(self) -> None:
        """What came before a fault is answered, or has had its time."""
        if self._doom is not None:
            self.violated(self._doom)

    async def settle(self) -> None:
        """The program closes, and what it has said to what came before a fault is all its answers. Raises CloseTimeoutError."""
        if self._doom is not None:
            await progress(self, lambda: self.sending.idle, "the peer takes no more of what was sent")
            self.give_up()

    async def finish(self) -> None:
        self._close_calls()
        await self.settle()
        await super().finish()

    def decoded(self, others: list[Any], failure: WebSocketFailure | None) -> None:
        """More than messages came: `others`, or the peer has broken a rule."""
        self._taken_in(self.layer.decoded, others, failure)

    def _rung(self) -> None:
        silence = self.receiving.silence
        if silence is not None:
            self.layer.was_heard(present(self._owner).driver.time() - silence)
        super()._rung()

    def stream(self, streams: bool) -> None:
        """Have messages given in parts, or whole."""
        if self.socket is None:
            return
        try:
            self.layer.stream(streams)
        except NetworkError as error:
            self.violated(error)

    @property
    def is_over(self) -> bool:
        """Whether both sides have closed."""
        return self.socket is not None and self.layer.is_over

    async def closed_by_both(self) -> None:
        """Wait for the peer's close frame. Raises CloseTimeoutError, after which the connection is aborted, and NetworkError."""
        await progress(self, lambda: self.is_over and self.sending.idle, "the peer does not answer our close frame")
        if self._failure is not None:
            raise raisable(self._failure)

    def close_slow(self) -> None:
        """Close, as this connection cannot keep up with what is sent to all."""
        if self.socket is not None and not self.layer.is_over:
            self.violated(self.layer.abandon("the connection does not keep up", CloseCode.TRY_AGAIN_LATER))

    @property
    def is_within_message(self) -> bool:
        """Whether a message was begun in parts, and not ended."""
        return self.socket is not None and self.layer.is_within_message

    def give_up_unfinished(self) -> None:
        """If a message was begun in parts, nobody will end it."""
        if self.is_within_message and not self.layer.is_over:
            self.violated(self.layer.abandon("a message was begun and not ended"))

    def metadata(self, protocol: type[Any]) -> Any:
        if protocol is WebSocket and hasattr(self, "layer"):
            return self.layer.metadata()  # it outlasts the socket: how it was closed is known only then
        return super().metadata(protocol)

    # Whatever waits has to hear of the end

    @property
    def has_calls(self) -> bool:
        return super().has_calls or bool(self.trips) or self.receiving.turn.is_taken or self.sending.turn.is_taken

    def raise_pending(self, error: NetworkError) -> None:
        super().raise_pending(error)
        self._tell(error)

    def fail(self, error: NetworkError) -> None:
        super().fail(error)
        self._tell(error)

    def _tell(self, error: NetworkError) -> None:
        self.receiving.turn.fail(error)
        self.sending.turn.fail(error)
        for trip in list(self.trips):
            trip.failed(error)

    def _end_received(self) -> None:
        ended = EndOfStreamError(
            "the WebSocket was closed before the ping was answered", endpoint=self.endpoint, phase=Phase.TRANSFER
        )
        for trip in list(self.trips):
            trip.failed(ended)
        super()._end_received()
