"""The inbound half of a WebSocket, where messages are received whole or in parts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from tieline.errors import DecodingError, Phase
from tieline.flows.layered import LayeredReceiving
from tieline.flows.receiving import message
from tieline.flows.turns import Turn
from tieline.protocols.message import Message
from tieline.protocols.websocket import Opcode, WebSocketMetadata

if TYPE_CHECKING:
    from tieline.flows.websocket import WebSocketFlow

__all__ = ["WebSocketReceiving"]

MERGE_BELOW = 64 * 1024


class WebSocketReceiving(LayeredReceiving):
    """The inbound half. Once messages are received in parts, one call after the other has its turn."""

    __slots__ = ("_complete", "_metadata", "_offset", "_pieces", "_ping", "_size", "_skips", "streams", "turn")

    def __init__(self, flow: WebSocketFlow, limit: int) -> None:
        super().__init__(flow, limit)
        self.turn = Turn(flow)
        self.streams = False  # a call wants pieces as they come
        self._pieces: list[Any] = []  # of a message of which no call has had everything yet
        self._size = 0  # of these, without what was handed out
        self._offset = 0  # of the first: what was handed out of it
        self._metadata = WebSocketMetadata()  # of the last of them
        self._complete = False  # they have the message's end
        self._skips = False  # what is left of a message whose reader has gone
        self._ping: Message[Any, Any] | None = None  # that came between the pieces

    async def _whole(self, iterating: bool) -> Message[Any, Any]:
        """A whole message, or a ping. What was gathered before a cancellation is kept for the next call."""
        await self.turn.take()
        try:
            while not self._complete and self._ping is None:
                await self._gather(iterating)
            if self._ping is not None:
                ping, self._ping = self._ping, None
                return ping
            return self._hand_out(self._size)
        finally:
            self.turn.give()

    async def part(self, kind: type, at_least: int, at_most: int) -> Message[Any, WebSocketMetadata]:
        """The next part of a message, for the call whose turn it is."""
        while not self._complete and self._size < at_least:
            if not self.has_calls and not len(self.inbox) and not self.inbox.ended:
                self._stream(True)
            await self._gather(False)
            if self._pieces and not isinstance(self._pieces[0], kind):
                break
        if not isinstance(self._pieces[0], kind):
            raise DecodingError(
                "the next message is of the other kind; receive() takes it",
                endpoint=self._flow.endpoint,
                phase=Phase.TRANSFER,
                expected="text" if kind is str else "binary",
                got=self._metadata.opcode.name.lower(),
            )
        return self._hand_out(at_most)

    async def _gather(self, iterating: bool) -> None:
        """Take one more piece, or a ping. Of pings that nobody has received the last one counts (RFC 6455 section 5.5.3)."""
        content, metadata = received = await self._message(iterating)
        if metadata.opcode is Opcode.PING:
            self._ping = received
            return
        if metadata.is_complete:
            self._stream(False)
        if self._skips:
            self._skips = not metadata.is_complete
            return
        self._size += len(content)
        pieces = self._pieces
        # Small pieces are merged like the digits of a binary counter, as in `ByteInbox`.
        while len(pieces) > 1 and len(pieces[-1]) <= len(content) < MERGE_BELOW:
            content = pieces.pop() + content
        pieces.append(content)
        self._metadata, self._complete = metadata, metadata.is_complete

    def _hand_out(self, at_most: int) -> Message[Any, WebSocketMetadata]:
        """What has been gathered, up to that much, which is all of it if the message is complete then."""
        pieces, metadata = self._pieces, self._metadata
        empty: Any = pieces[0][:0]
        taken: list[Any] = []
        while pieces and at_most:
            first = pieces[0]
            part = first[self._offset : self._offset + at_most]
            at_most -= len(part)
            taken.append(part)
            self._size -= len(part)
            self._offset += len(part)
            if self._offset == len(first):
                del pieces[0]
                self._offset = 0
        content = taken[0] if len(taken) == 1 else empty.join(taken)
        if self._complete and not self._size:
            self._forget()
        elif self._complete:
            metadata = replace(metadata, is_complete=False, last_message=False)
        return message(Message, (content, metadata))

    def _forget(self) -> None:
        self._pieces.clear()
        self._size = self._offset = 0
        self._complete = False

    def begins_parts(self) -> None:
        self._by_turns = True  # from now on there may be pieces in the inbox

    def skip(self) -> None:
        """The reader of a message in parts has gone before its end."""
        self._skips = not self._complete
        self._forget()

    def clear(self) -> None:
        super().clear()
        self._forget()
        self._skips, self._ping = False, None

    def _stream(self, streams: bool) -> None:
        if self.streams is not streams:
            self.streams = streams
            cast("WebSocketFlow", self._flow).stream(streams)

    def _adjust(self) -> None:
        flow = cast("WebSocketFlow", self._flow)
        if not flow.is_doomed:
            super()._adjust()
        elif self.has_calls and not len(self.inbox) and flow.sending.idle:
            flow.give_up()

    def stop(self) -> None:
        """Nothing more is to come."""
        self._paused = True
        if self._flow.socket is not None:
            self._flow.socket.pause()
