"""Messages of a WebSocket: whole, in parts, and what else there is to say on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

from tieline.engines.websocket import WebSocketLayer
from tieline.errors import (
    ChannelClosedError,
    DecodingError,
    EndOfStreamError,
    MessageTooLargeError,
    NetworkError,
    Phase,
    raisable,
)
from tieline.flows.content import misuse, octets
from tieline.flows.layered import LayeredFlow, LayeredReceiving, LayeredSending
from tieline.flows.receiving import message
from tieline.flows.sending import STREAK
from tieline.flows.turns import RoundTrip, Turn
from tieline.flows.writer import MessageWriter, Writer
from tieline.protocols.message import Message
from tieline.protocols.websocket import CloseCode, Opcode, WebSocket, WebSocketMetadata, require_close

if TYPE_CHECKING:
    from tieline.drivers.port import StreamSocket
    from tieline.engines.pipeline import Pipeline
    from tieline.flows.owner import FlowOwner
    from tieline.parameters import Parameters

__all__ = ["WebSocketFlow", "WebSocketReceiving", "WebSocketSending"]

LARGEST_PAYLOAD = 125  # of a control frame (RFC 6455 section 5.5)


class WebSocketReceiving(LayeredReceiving):
    """The inbound half. One call after the other has its turn; a message in parts is one call from its beginning to its end."""

    __slots__ = ("_pieces", "_skips", "_streamed", "streams", "turn")

    def __init__(self, flow: WebSocketFlow, limit: int) -> None:
        super().__init__(flow, limit)
        self.turn = Turn(flow)
        self.streams = False  # a call wants parts as they come
        self._streamed = False  # one has been made: from then on there may be parts in the inbox
        self._pieces: list[str | bytes] = []  # of a message that is received whole after all
        self._skips = False  # what is left of a message whose reader has gone

    async def receive(self) -> Message[Any, Any]:  # type: ignore[override]
        if self._streamed:
            await self.turn.take()
            try:
                return await self._whole()
            finally:
                self.turn.give()
        inbox = self.inbox
        if self._calls or not inbox.messages:
            call = self._enter(1, None)
            try:
                await call[0]
            except BaseException:
                self._leave(call)
                raise
            inbox = self.inbox
        if not inbox.messages:
            self._taken(0)
            raise self._nothing(inbox)
        content, metadata, size = inbox.take()
        self._taken(size)
        return message(Message, (content, metadata))

    async def _whole(self) -> Message[Any, Any]:
        """Put the parts of a message together. What was taken before a cancellation is kept for the next call."""
        while True:
            content, metadata = await self.piece(whole=True)
            if metadata.opcode is Opcode.PING:
                return Message(content, metadata)
            self._pieces.append(content)
            if metadata.is_complete:
                break
        pieces, self._pieces = self._pieces, []
        joined: Any = pieces[0] if len(pieces) == 1 else type(pieces[0])().join(cast("Any", pieces))
        return Message(joined, metadata)

    async def piece(self, kind: type | None = None, *, whole: bool = False) -> Message[Any, WebSocketMetadata]:
        """The next part of a message, for the call whose turn it is."""
        while True:
            if not whole and not self._calls and not len(self.inbox) and not self.inbox.ended:
                self._stream(True)
            if self._calls or not len(self.inbox):
                call = self._enter(1, None)
                try:
                    await call[0]
                except BaseException:
                    self._leave(call)
                    raise
            inbox = self.inbox
            if not len(inbox):
                self._taken(0)
                raise self._nothing(inbox)
            content, metadata, size = inbox.take()
            self._taken(size)
            if metadata.is_complete:
                self._stream(False)
            if self._skips and metadata.opcode is not Opcode.PING:
                self._skips = not metadata.is_complete
                continue
            if kind is not None and not isinstance(content, kind):
                raise self._unexpected(content, metadata, kind)
            return Message(content, metadata)

    def _unexpected(self, content: Any, metadata: WebSocketMetadata, kind: type) -> DecodingError:
        self._pieces.append(content)
        if metadata.is_complete:  # `_whole` goes on from here, and needs something that ends the message
            self._pieces.clear()
            self.inbox.put_back(content, metadata, len(content))
        return DecodingError(
            "the next message is of the other kind; receive() takes it",
            endpoint=self._flow.endpoint,
            phase=Phase.TRANSFER,
            expected="text" if kind is str else "binary",
            got=metadata.opcode.name.lower(),
        )

    def begins_parts(self) -> None:
        self._streamed = True

    def skip(self) -> None:
        """The reader of a message in parts has gone before its end."""
        self._skips = True

    def _stream(self, streams: bool) -> None:
        if self.streams is not streams:
            self.streams = streams
            cast("WebSocketFlow", self._flow).stream(streams)


class WebSocketSending(LayeredSending):
    """The outbound half."""

    __slots__ = ("_closing", "_pings", "turn")

    _flow: WebSocketFlow  # pyright: ignore[reportIncompatibleVariableOverride]
    _streak: int
    count: int

    def __init__(self, flow: WebSocketFlow, limit: int) -> None:
        super().__init__(flow, limit)
        self.turn = Turn(flow)
        self._closing: tuple[int | None, str] | None = None
        self._pings = 0

    async def send(self, content: Any) -> None:  # type: ignore[override]
        flow = self._flow
        if type(content) is not bytes and type(content) is not str:
            content = self._checked(content)
        if self.turn.is_taken or not self._may_begin():
            await self.turn.take()
            try:
                await self.message(content, {})
            finally:
                self.turn.give()
            return
        record = flow.layer.encode(content)
        if len(record) > self._slice:
            await self._queue(MessageWriter(content, {}, False).begun(record))
            return
        self._begin(record)
        if self._streak + 1 < STREAK:
            self._streak += 1
        else:
            await self._gone()

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
            raise MessageTooLargeError(
                f"the payload of a {opcode.name.lower()} is too large (RFC 6455 section 5.5)",
                limit=LARGEST_PAYLOAD,
                size=len(data),
                endpoint=self._flow.endpoint,
                phase=Phase.TRANSFER,
                expected=f"at most {LARGEST_PAYLOAD} bytes",
                got=f"{len(data)}",
            )
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

    # Closing

    async def close(self, code: int | None, reason: str) -> None:
        require_close(code, reason)
        flow = self._flow
        if flow.is_over:
            return
        if self._closing is None:
            self._closing = (code, reason)
            await self._queue(Writer(memoryview(b""), True))
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

    __slots__ = ("trips",)

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

    def attach(self, socket: StreamSocket, pipeline: Pipeline | None, plaintext: bytes, wire: bytes, early: int) -> None:
        super().attach(socket, pipeline, plaintext, wire, early)
        if self.receiving.streams:
            self.stream(True)

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
        await self._progress(lambda: self.is_over and self.sending.idle, "the peer does not answer our close frame")
        if self._failure is not None:
            raise raisable(self._failure)

    def close_slow(self) -> None:
        """Close, as this connection cannot keep up with what is sent to all."""
        if self.socket is not None and not self.layer.is_over:
            self.violated(self.layer.abandon("the connection does not keep up", CloseCode.TRY_AGAIN_LATER))

    def give_up_unfinished(self) -> None:
        """If a message was begun in parts, nobody will end it."""
        if self.socket is not None and self.layer.is_within_message and not self.layer.is_over:
            self.violated(self.layer.abandon("a message was begun and not ended"))

    def metadata(self, protocol: type[Any]) -> Any:
        if protocol is WebSocket and hasattr(self, "layer"):
            return self.layer.metadata()  # it outlasts the socket: how it was closed is known only then
        return super().metadata(protocol)

    # Whatever waits has to hear of the end

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
