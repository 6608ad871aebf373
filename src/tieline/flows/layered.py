"""Whole messages where a layer finds them as the bytes arrive, and has things to say of its own: WebSocket, a user's framer.

    receive() ◀── its inbox ◀── message layer ◀── layers below ◀── received()
                                     │  ▲                                       socket
                          own output ▼  │ alarm
    send()    ──▶ writers ──▶ encode ──────────▶ layers below ──▶ send()

A message is encoded when its turn has come and not before: a compression that builds on what was sent earlier then sees the
messages in their order, and a call that is cancelled while it waits leaves no trace. Once encoded, it leaves whole. What the
layer says by itself goes between messages.

Of a WebSocket, frames that are whole messages go from the socket to the inbox, and from a call to the socket, without Python
(`tieline._engine.stream`); the layer gets the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tieline.engines.framing import MessageInbox, MessageLayer
from tieline.engines.pipeline import Pipeline
from tieline.errors import EndOfStreamError, IncompleteReceiveError, NetworkError, Phase, raisable
from tieline.flows.messages import MessageReceiving, MessageSending
from tieline.flows.receiving import message
from tieline.flows.stream import StreamFlow
from tieline.flows.writer import End, MessageWriter, Writer
from tieline.protocols.message import Message

if TYPE_CHECKING:
    from tieline.drivers.port import Buffer, StreamSocket
    from tieline.engines.pipeline import Layer
    from tieline.flows.owner import FlowOwner
    from tieline.parameters import Parameters

__all__ = ["LayeredFlow", "LayeredReceiving", "LayeredSending"]

UNSAID = 64 * 1024  # bytes that a layer may have to say while the peer takes nothing


class LayeredReceiving(MessageReceiving):
    """The inbound half: messages wait in the layer's inbox, which comes and goes with the socket."""

    __slots__ = ()

    _flow: LayeredFlow  # pyright: ignore[reportIncompatibleVariableOverride]
    inbox: MessageInbox  # type: ignore[assignment]  # what the base does with one of bytes, a layer does here

    def __init__(self, flow: LayeredFlow, limit: int) -> None:
        super().__init__()
        self._adopt(MessageInbox())

    def _answer(self, iterating: bool) -> Message[Any, Any]:
        """The next message: what to raise at the end is all that an iteration has of its own."""
        inbox = self.inbox  # of another socket, perhaps
        if not len(inbox):
            self._taken(0)
            error = self._nothing(inbox)
            if iterating and type(error) is EndOfStreamError:
                raise StopAsyncIteration
            raise error
        content, metadata, size = inbox.take()
        if inbox.ended and not len(inbox):
            metadata = replace(metadata, last_message=True)
        self._taken(size)
        return message(Message, (content, metadata))

    def _nothing(self, inbox: MessageInbox) -> NetworkError:
        """Why there is no message."""
        if self.error is not None:
            return raisable(self.error)
        partial, inbox.partial = inbox.partial, b""
        if partial:
            return IncompleteReceiveError(
                "the peer ended the stream within a message",
                partial=partial,
                expected_bytes=None,
                endpoint=self._flow.endpoint,
                phase=Phase.TRANSFER,
                expected="a whole message",
                got=f"{len(partial):,} bytes of one",
            )
        return EndOfStreamError("the peer has sent its last message", endpoint=self._flow.endpoint, phase=Phase.TRANSFER)

    def _room(self) -> int:
        """A message that is not whole yet is the layer's, which has a limit of its own for it."""
        return self._limit

    def _adjust(self) -> None:
        """Do not read either while the peer does not take what the layer answers."""
        socket = self._flow.socket
        if socket is None or self.inbox.ended:
            return
        unsaid = self._flow.layer.unsaid
        if self._paused and self.inbox.size < self._limit and unsaid <= UNSAID:
            self._paused = False
            if self._flow.layer.held:
                self._flow.find_more()  # and that may be too much again
            if not self._paused:
                socket.resume()
        elif not self._paused and (self.inbox.size > self._limit or unsaid > UNSAID):
            self._paused = True
            socket.pause()

    def balance(self) -> None:
        """The peer may have taken something."""
        if self._paused:
            self._adjust()

    def found(self) -> None:
        """The layer may have found messages: the last thing that is done with what came, as the program may run in here."""
        inbox = self.inbox
        if len(inbox):
            self._wake()
        if self._paused or inbox.size > self._limit or self._flow.layer.unsaid > UNSAID:
            self._adjust()


class LayeredSending(MessageSending):
    """The outbound half."""

    __slots__ = ("_ended_layer",)

    _flow: LayeredFlow  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, flow: LayeredFlow, limit: int) -> None:
        super().__init__()
        self._ended_layer = False

    async def message(self, content: Any, options: dict[str, Any], *, last_message: bool = False) -> None:
        """Send one message whose content is bytes or what else the layer encodes."""
        flow = self._flow
        if last_message or not self._may_begin():
            await self._queue(MessageWriter(content, options, last_message))
            return
        record = flow.encode(content, options)
        if len(record) > self._slice:
            await self._queue(MessageWriter(content, options, False).begun(record))
            return
        self._begin(record)
        flow.looked()
        if self._rests():
            await self._flow.next_turn()

    # What the layer says by itself

    def pump(self) -> None:
        """Also send what the layer has to say, as soon as it does not cut a message in two."""
        self._say()
        super().pump()
        if self._say():  # a message that was in the way has gone
            super().pump()
        self._flow.receiving.balance()

    def _say(self) -> bool:
        """Take what the layer has to say, if the kernel has had what was said before."""
        flow = self._flow
        if flow.socket is None or self.is_within_message:
            return False
        said = flow.layer.output()
        if said:
            self._accept(said if flow.machine is None else flow.machine.send(said))
        return bool(said)

    @property
    def is_within_message(self) -> bool:
        """Whether the kernel has not had everything of a message that was begun."""
        if self._accepted:
            return True
        head = self._writers[0] if self._writers else None
        return isinstance(head, MessageWriter) and head.message is None

    # Messages in their order

    def _write(self, writer: Writer) -> bool:
        if isinstance(writer, MessageWriter) and writer.message is not None:
            if self._say() and not self._flush():
                return self._fits(writer)
            if not self._encode(writer, writer.message):
                return True
        return super()._write(writer)

    def _fits(self, writer: Writer) -> bool:
        if isinstance(writer, MessageWriter) and writer.message is not None:
            content = writer.message[0]
            if self._size + len(content) > self._limit:
                return False
            if not self._encode(writer, writer.message):
                return True
        return super()._fits(writer)

    def _encode(self, writer: MessageWriter, message: tuple[Any, dict[str, Any]]) -> bool:
        """Encode a message whose turn has come; if that fails, its caller is told, and it is done with."""
        try:
            record = self._flow.encode(*message)
        except Exception as error:
            if self._writers:  # or the whole connection has failed by it, and every call was told
                self._answer(self._writers.pop(0), error)
            return False
        writer.begun(record)
        return True

    # Ending

    def _finish(self) -> None:
        layer = self._flow.layer
        if self._end is End.DUE:
            if not self._ended_layer:
                self._ended_layer = True
                last, machine = layer.end(), self._flow.machine
                self._accept(last if machine is None or not last else machine.send(last))
                self._flow.looked()
                if not self._flush():
                    return
            if not layer.may_end:
                return  # `pump` comes back here after each piece of input
        super()._finish()

    def detached(self) -> None:
        super().detached()
        self._ended_layer = False

    def over(self, error: NetworkError) -> None:
        """The peer has ended both directions: end ours of the stream below, and let nothing more be sent."""
        self.raise_pending(error)
        self.end()
        self.error = error
        self.lost = False


class LayeredFlow(StreamFlow):
    """Moves messages both ways for one connection or stream."""

    __slots__ = ("layer",)

    takes_bytes = False
    receiving: LayeredReceiving
    sending: LayeredSending

    def __init__(self, owner: FlowOwner, parameters: Parameters[Any], endpoint: object) -> None:
        super().__init__(owner, parameters, endpoint)
        self.layer: MessageLayer  # as soon as there is a socket
        self.receiving = LayeredReceiving(self, parameters.receive_limit)
        self.sending = LayeredSending(self, parameters.send_limit)

    def attach(self, socket: StreamSocket, pipeline: Pipeline | None, plaintext: bytes, wire: bytes, early: int) -> None:
        assert pipeline is not None  # its top layer makes the messages
        layer = pipeline.layers[-1]
        assert isinstance(layer, MessageLayer)
        self.layer = layer
        self.receiving._adopt(layer.inbox)
        super().attach(socket, pipeline, plaintext, wire, early)
        self.looked()
        if layer.held:
            self.soon(lambda: self.find_more() if self.layer is layer and layer.held else None)

    def _lower(self, pipeline: Pipeline) -> Pipeline | Layer | None:
        below = pipeline.layers[:-1]
        if len(below) < 2:
            return below[0] if below else None
        lower = Pipeline(below)
        lower.be_ready()
        return lower

    # The layer

    def encode(self, content: Any, options: dict[str, Any]) -> bytes:
        """The bytes of a message whose turn it is. Raises NetworkError."""
        if self._alarm is not None:
            self._alarm.tell()
        layer = self.layer
        try:
            return layer.encode(content, **options)
        except NetworkError:
            if layer.failure is not None:
                self.violated(layer.failure)
            raise

    def looked(self) -> None:
        """After an interaction with the layer."""
        if self._alarm is not None:
            self._alarm.look()

    def _after(self) -> None:
        layer, machine, sending = self.layer, self.machine, self.sending
        if machine is not None and (below := machine.output()):
            sending.emit(below)
        if layer.is_quiet and not sending.ended and not self.closed:
            self.receiving.found()
            return
        sending.pump()
        self.looked()
        self._found()
        while layer.held and self.socket is not None and not self.receiving.is_paused:
            self.find_more()

    def _found(self) -> None:
        layer = self.layer
        if layer.closed_by_peer is not None and self.sending.error is None:
            self.sending.over(layer.closed_by_peer)  # before the program runs, which may want to send
        if self.closed and len(layer.inbox):
            self._discarded = True
            layer.inbox.clear()
        self.receiving.found()

    def find_more(self) -> None:
        """The layer holds input back until there is room for what it stands for."""
        if self.socket is None:
            return
        if self._alarm is not None:
            self._alarm.tell()
        layer, socket, was_ended = self.layer, self.socket, self.layer.ended
        try:
            layer.receive(b"")
        except NetworkError as error:
            self._fault(error)
            return
        self.sending.pump()
        self.looked()
        self._found()
        if self.socket is socket and layer.ended and not was_ended:
            self._end_received()

    # For the socket

    def received(self, data: Buffer) -> None:
        layer, machine = self.layer, self.machine
        if machine is None:
            self._taken_in(layer.receive, data)
        else:
            self._taken_in(self._through, data)

    def opened(self, piece: bytes) -> None:
        self._taken_in(self._passed, piece)

    def _through(self, data: Buffer) -> None:
        """Give it to the layer by way of those below."""
        assert self.machine is not None
        self._passed(self.machine.receive(data))

    def _passed(self, piece: bytes) -> None:
        layer, machine = self.layer, self.machine
        was_ended = layer.inbox.ended
        if piece:
            layer.receive(piece)
        if machine is not None and machine.ended and not was_ended:
            layer.receive_end()

    def _taken_in(self, receive: Callable[..., object], *received: Any) -> None:
        """Have something received by the layer, and do what follows from it."""
        layer, socket = self.layer, self.socket
        was_ended = layer.inbox.ended
        if self._alarm is not None:
            self._alarm.tell()
        try:
            receive(*received)
        except NetworkError as error:
            self._fault(error)
            return
        if self.machine is None and layer.is_quiet and not (self.sending.ended or self.closed):
            self.receiving.found()  # messages and nothing else, as most often
            return
        self._after()
        if self.socket is socket and layer.inbox.ended and not was_ended:
            self._end_received()

    def _receive_end(self) -> None:
        if self.machine is not None:
            self.machine.receive_end()
        self.layer.receive_end()
        self._after()

    def _fault(self, error: NetworkError) -> None:
        """What came cannot be. Who waits for what came before may take it, and answer, first."""
        socket = self.socket
        self._found()
        if self.socket is socket:
            self.sending.pump()  # what was said to that may have gathered
        if self.socket is socket:
            self.violated(error)

    def violated(self, error: NetworkError) -> None:
        socket, layer, machine = self.socket, self.layer, self.machine
        if socket is not None and not self.sending.is_within_message:
            try:
                said = layer.output()
                if said:
                    socket.send(said if machine is None else machine.send(said))
            except OSError:
                said = b""  # the peer is gone: nobody is left to be told
        super().violated(error)
        self.receiving.found()
