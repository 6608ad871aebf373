"""Whole messages over a byte stream: a codec finds them in what arrives, and makes bytes of what is sent.

Receiving is that of a stream, where "enough" means a whole message; nothing is decoded before a call takes it. Sending is that of
a stream, too, but a message that has begun to leave leaves whole, whatever becomes of its call.

What most calls do is compiled: a record that tells its length in its head is found and taken, and a value's record made and given
to the kernel, without Python. Here is what is rare.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tieline._engine.stream import Receiving, Sending
from tieline.engines.framing import MessageCodec
from tieline.engines.tlv import TLVCodec
from tieline.errors import EndOfStreamError, NetworkError, Phase, raisable
from tieline.flows.content import misuse, octets
from tieline.flows.receiving import StreamReceiving, message
from tieline.flows.sending import StreamSending
from tieline.flows.stream import StreamFlow
from tieline.flows.writer import Writer
from tieline.protocols.message import Message

if TYPE_CHECKING:
    from tieline.flows.owner import FlowOwner
    from tieline.parameters import Parameters

__all__ = ["MessageFlow", "MessageReceiving", "MessageSending", "TLVFlow"]


class MessageReceiving(StreamReceiving):
    """The inbound half, wherever whole messages come from."""

    __slots__ = ()

    def _unexpected(self, option: str) -> None:
        raise misuse(self._flow, f"receive() has no {option}=")

    receive = Receiving.receive_message  # a stream's has other forms

    def receive_into(self, *_: Any, **__: Any) -> Any:
        raise TypeError("it has no receive_into()")

    def _is_whole(self) -> bool:
        """Whether there is a whole message."""
        raise NotImplementedError

    def _answerable(self) -> bool:
        """Whether a call that waits has its answer, if that is an error."""
        return self._is_whole() or self.inbox.ended

    def _answer(self, iterating: bool) -> Message[Any, Any]:
        """It is a call's turn: what it gets. Raises NetworkError, or StopAsyncIteration."""
        raise NotImplementedError


class RecordReceiving(MessageReceiving):
    """The inbound half of records: they stay bytes until a call takes one."""

    __slots__ = ("_codec",)

    def __init__(self, flow: StreamFlow, limit: int, codec: MessageCodec) -> None:
        super().__init__()
        self._codec = codec
        self._decodes(codec, codec.layout, *codec.decoder)

    def _answer(self, iterating: bool) -> Message[Any, Any]:
        if not self._is_whole():
            if self.error is not None:
                self._taken(0)
                raise raisable(self.error)
            if self.inbox.size:
                raise self._incomplete(self._next)
            self._taken(0)
            if iterating:
                raise StopAsyncIteration
            raise EndOfStreamError("the peer has sent its last message", endpoint=self._flow.endpoint, phase=Phase.TRANSFER)
        assert self._next is not None  # it is whole
        record = self.inbox.take(self._next)
        self._next = None
        self._taken(len(record))
        content, metadata = self._codec.decode(record)
        if self.inbox.ended and not self.inbox.size:
            metadata = replace(metadata, last_message=True)
        return message(Message, (content, metadata))

    def _is_whole(self) -> bool:
        """Whether the inbox begins with a whole message."""
        if self._next is None:
            if self.error is not None:
                return False
            try:
                self._next = self._codec.size(self.inbox)
            except NetworkError as error:
                self._flow.violated(error)
                self.error = error
                return False
        return self._next is not None and self.inbox.size >= self._next

    def _room(self) -> int:
        return max(self._limit, self._next or 0)

    def clear(self) -> None:
        super().clear()
        self._next = None


class MessageSending(StreamSending):
    """The outbound half, wherever records come from.

    Whoever answers many messages that came together, or sends many without hearing anything, gives rise to many small sends, and
    a system call for each would cost more than all the rest. So while more input is there to be taken, and when some have been
    sent in a row, records gather, and leave together: with the first that need not wait, or when many bytes have come together,
    or else at the loop's next turn. What is sent long after the record before it, which is after some 50 µs, is in no row.
    """

    __slots__ = ()

    def _may_begin(self) -> bool:
        """Whether nobody is before a record that is sent now."""
        return not (self._writers or self.ended or self._full or self._flow.socket is None)

    async def _keep(self, wire: bytes, taken: int) -> None:
        self._full = True
        self._accept(memoryview(wire)[taken:])  # less than a slice

    def _begin(self, record: bytes) -> None:
        """Give a record of at most a slice to the kernel, or gather it; nobody is before it."""
        machine = self._flow.machine
        wire = record if machine is None else machine.send(record)
        if not self._gathers(wire):
            self._give_on(wire)
        self.count += len(record)

    def _give_on(self, wire: bytes) -> None:
        """What has gathered leaves with it."""
        socket = self._flow.socket
        if self._accepted:
            self._accept(wire)
            self.pump()
        else:
            assert socket is not None  # or it could not begin
            try:
                taken = socket.send(wire)
            except OSError as error:
                raise self._told(self._broken(error)) from error
            if taken < len(wire):  # less than a slice is left
                self._full = True
                self._accept(memoryview(wire)[taken:])

    def _leave(self) -> None:
        self._due = False
        self.pump()

    def send_file(self, *_: Any, **__: Any) -> Any:
        raise TypeError("it has no send_file()")

    def send_idempotent(self, *_: Any, **__: Any) -> None:
        raise TypeError("it has no send_idempotent()")


class RecordSending(MessageSending):
    """The outbound half of a codec."""

    __slots__ = ("_codec",)

    def __init__(self, flow: StreamFlow, limit: int, codec: MessageCodec) -> None:
        super().__init__()
        self._codec = codec
        if codec.encoder is not None:
            self._encodes(codec, *codec.encoder)

    send = Sending.send_value

    async def _send_value(self, content: Any, last_message: bool) -> None:
        """What is in no plain record."""
        await self._record(self._codec.encode(content), last_message)

    async def _record(self, record: bytes, last_message: bool) -> None:
        if last_message or len(record) > self._slice or not self._may_begin():
            await self._queue(Writer(memoryview(record), last_message, whole=True))
            return
        self._begin(record)
        if self._rests():
            await self._flow.next_turn()


class TLVSending(RecordSending):
    """The outbound half of records that have a type."""

    __slots__ = ()

    _codec: TLVCodec

    async def send(self, content: Any, *, type: int = 0, last_message: bool = False) -> None:  # type: ignore[override]
        await self._record(self._codec.encode(octets(content, self._flow), type), last_message)


class MessageFlow(StreamFlow):
    """Moves messages both ways for one connection or stream."""

    __slots__ = ()

    calls = "send(value, last_message=), receive(), messages and iteration"

    def __init__(self, owner: FlowOwner, parameters: Parameters[Any], endpoint: object, codec: MessageCodec) -> None:
        super().__init__(owner, parameters, endpoint)
        self.receiving = RecordReceiving(self, parameters.receive_limit, codec)
        self.sending = RecordSending(self, parameters.send_limit, codec)


class TLVFlow(MessageFlow):
    """Moves records both ways."""

    __slots__ = ()

    calls = "send(data, type=, last_message=), receive(), messages and iteration"

    def __init__(self, owner: FlowOwner, parameters: Parameters[Any], endpoint: object, codec: TLVCodec) -> None:
        super().__init__(owner, parameters, endpoint, codec)
        self.sending = TLVSending(self, parameters.send_limit, codec)
