"""The calls that only WebSocket has: messages in parts, pings, the close, and one message for many connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, cast, overload

from tieline.errors import NetworkError
from tieline.flows.content import misuse, octets
from tieline.protocols.message import Message
from tieline.protocols.roles import NetworkProtocol
from tieline.protocols.websocket import CloseCode, Opcode, WebSocket, WebSocketMetadata

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from tieline.flows.turns import RoundTrip
    from tieline.flows.websocket import WebSocketFlow

__all__ = ["IncomingMessage", "OutgoingMessage", "WebSocketChannel", "broadcast"]

PART = 64 * 1024

P_co = TypeVar("P_co", bound=NetworkProtocol, covariant=True)
C_contra = TypeVar("C_contra", contravariant=True)
C_co = TypeVar("C_co", covariant=True)


class OutgoingMessage(Generic[C_contra]):
    """One message that is sent in parts, each as soon as it is there. Leaving the block ends it."""

    __slots__ = ("_complete", "_flow", "_kind")

    def __init__(self, flow: WebSocketFlow, kind: type[Any]) -> None:
        self._flow = flow
        self._kind = kind
        self._complete = False

    async def __aenter__(self) -> Self:
        """Wait until messages that others send in parts have left.

        Cancelling: nothing was begun.
        """
        await self._flow.sending.turn.take()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the message. After an exception what was begun can have no end, so the connection is failed with 1011.

        Cancelling: the connection is failed, unless nothing was sent yet.
        """
        try:
            if kind is None and not self._complete:
                await self._flow.sending.part(self._kind(), last=True)
        finally:
            self._flow.give_up_unfinished()
            self._flow.sending.turn.give()

    async def send(self, content: C_contra, *, is_complete: bool = False) -> None:
        """Send a part; ``is_complete=True`` ends the message with it. Raises `NetworkError`.

        Cancelling: a part that has not begun to leave is not sent.
        """
        if self._complete:
            raise RuntimeError("the message has ended: is_complete=True came before")
        part: Any = content
        if self._kind is bytes:
            part = octets(part, self._flow)
        elif not isinstance(part, str):
            raise misuse(self._flow, f"a text message consists of texts, got {type(part).__name__}")
        self._complete = is_complete
        try:
            await self._flow.sending.part(part, last=is_complete)
        except BaseException as error:
            self._complete = is_complete and not isinstance(error, NetworkError) and not self._flow.is_within_message
            raise


class IncomingMessage(Generic[C_co]):
    """One message that is received in parts, as they come. Iterating gives the contents; what nobody takes is skipped."""

    __slots__ = ("_begun", "_complete", "_flow", "_kind")

    def __init__(self, flow: WebSocketFlow, kind: type[Any]) -> None:
        self._flow = flow
        self._kind = kind
        self._begun = self._complete = False

    async def __aenter__(self) -> Self:
        """Wait for the turn of this message: calls that were made before take theirs first.

        Cancelling: nothing was consumed.
        """
        receiving = self._flow.receiving
        receiving.begins_parts()
        await receiving.turn.take()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave the rest of the message, if there is any, to be skipped."""
        receiving = self._flow.receiving
        if self._begun and not self._complete:
            receiving.skip()
        receiving.turn.give()

    async def receive(self, *, at_least: int = 1, at_most: int = PART) -> Message[C_co, WebSocketMetadata]:
        """The next part, of `at_least` to `at_most` bytes or characters; ``metadata.is_complete`` says that it is the last.

        Only the last has fewer. A ping that comes in between, if those are not answered automatically, is for the next
        `receive()` of the connection.

        Raises `DecodingError` if the message is of the other kind (then nothing of it was consumed), `EndOfStreamError` and
        `NetworkError`; what had come before that can still be received with a smaller `at_least`.

        Cancelling: nothing was consumed.
        """
        if self._complete:
            raise RuntimeError("the message has ended: the part before was its last")
        if not 1 <= at_least <= at_most:
            raise ValueError(f"at_least must be from 1 to at_most, got at_least={at_least} and at_most={at_most}")
        received = await self._flow.receiving.part(self._kind, at_least, at_most)
        self._begun = True
        self._complete = received.metadata.is_complete
        return received

    async def __aiter__(self) -> AsyncIterator[C_co]:
        """The contents until the message is complete, none of them empty.

        Cancelling: nothing was consumed.
        """
        while not self._complete:
            content, _ = await self.receive()
            if content:
                yield content


class WebSocketChannel(Generic[P_co]):
    """What a channel can do if its top protocol is `WebSocket`."""

    _flow: Any

    def _websocket(self, call: str) -> WebSocketFlow:
        flow = self._flow
        if flow.name != WebSocket.name:
            raise misuse(flow, f"it has no {call}()")
        return cast("WebSocketFlow", flow)

    async def ping(self: WebSocketChannel[WebSocket], data: Buffer | None = None) -> RoundTrip:
        """Send a ping with at most 125 bytes; returns once it has left, and gives what can be awaited for the round-trip time.

        ``seconds = await (await connection.ping())``; without `data`, its payload is one that no other ping has. Raises
        `MessageTooLargeError` and `NetworkError`.

        Cancelling: a ping that has not left is not sent.
        """
        from tieline.flows.turns import RoundTrip

        flow = self._websocket("ping")
        trip = RoundTrip(flow)
        flow.trips.add(trip)
        await flow.sending.control(Opcode.PING, data, trip)
        return trip

    async def pong(self: WebSocketChannel[WebSocket], data: Buffer | None = None) -> None:
        """Send a pong with at most 125 bytes: the answer to a ping that was received, or one that nobody asked for.

        Pings are answered by themselves unless ``WebSocket(auto_reply_ping=False)``. Raises `MessageTooLargeError` and
        `NetworkError`.

        Cancelling: a pong that has not left is not sent.
        """
        await self._websocket("pong").sending.control(Opcode.PONG, data)

    async def close(self: WebSocketChannel[WebSocket], code: int | None = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the WebSocket, after what was sent before, and wait for the peer's close frame.

        `code` is one of `CloseCode` that may be sent, or 3000 to 4999; None sends none. The reason is at most 123 bytes of UTF-8.
        Messages that the peer sends meanwhile can be received. Idempotent.

        Raises `CloseTimeoutError` if the peer does not answer within `close_timeout` seconds (the connection is then aborted),
        `ValueError` for a bad code or reason, and `NetworkError`.

        Cancelling: a close frame that has left has left; leave the connection's block next.
        """
        await self._websocket("close").sending.close(code, reason)

    @overload
    def sending_message(
        self: WebSocketChannel[WebSocket], opcode: Literal[Opcode.TEXT] = Opcode.TEXT
    ) -> OutgoingMessage[str]: ...
    @overload
    def sending_message(self: WebSocketChannel[WebSocket], opcode: Literal[Opcode.BINARY]) -> OutgoingMessage[Buffer]: ...
    def sending_message(self: WebSocketChannel[WebSocket], opcode: Opcode = Opcode.TEXT) -> OutgoingMessage[Any]:
        """One message in parts: ``async with connection.sending_message(Opcode.TEXT) as part: await part.send("…")``.

        Other messages wait until the block is left; pings and pongs go between the parts. Leaving it by an exception fails the
        connection with close code 1011, unless nothing was sent yet.
        """
        flow = self._websocket("sending_message")
        if opcode not in (Opcode.TEXT, Opcode.BINARY):
            raise ValueError(f"a message is Opcode.TEXT or Opcode.BINARY, got {opcode!r}")
        return OutgoingMessage(flow, str if opcode is Opcode.TEXT else bytes)

    @overload
    def receiving_message(self: WebSocketChannel[WebSocket], kind: type[str]) -> IncomingMessage[str]: ...
    @overload
    def receiving_message(self: WebSocketChannel[WebSocket], kind: type[bytes]) -> IncomingMessage[bytes]: ...
    def receiving_message(self: WebSocketChannel[WebSocket], kind: type[Any]) -> IncomingMessage[Any]:
        """The next message in parts, as they come: ``async with connection.receiving_message(str) as part``, then iterate `part`.

        Other calls that receive wait until the block is left. What is left of the message then is skipped.
        """
        flow = self._websocket("receiving_message")
        if kind not in (str, bytes):
            raise TypeError(f"a message is received as str or bytes, got {kind!r}")
        return IncomingMessage(flow, kind)


def broadcast(
    connections: Iterable[WebSocketChannel[WebSocket]], message: str | Buffer, *, slow: Literal["skip", "close"] = "skip"
) -> list[WebSocketChannel[WebSocket]]:
    """Send one message to many connections without waiting for any. Returns those that did not get it.

    The frame is made once, without compression, and copied into each connection's buffer. A connection is slow if that has no
    room for it within `send_limit`, or calls of its own wait for room, or it sends a message in parts: ``slow="skip"`` leaves
    it out this time, ``slow="close"`` closes it with 1013 (try again later). One that is not ready, or has ended, is left out.
    Those that a client opened are masked one by one.

    Raises `TypeError` for a channel of another protocol or a message that is none, `EncodingError` for a text that UTF-8 does not
    have, and `ValueError` for another policy; then nothing was sent.
    """
    from tieline._engine.websocket import frame
    from tieline.engines.websocket import no_text

    if slow not in ("skip", "close"):
        raise ValueError(f'slow must be "skip" or "close", got {slow!r}')
    channels = list(connections)
    flows = [channel._websocket("broadcast") for channel in channels]
    try:
        record = frame(message)
    except UnicodeEncodeError as error:
        raise no_text(error, None) from error
    missed: list[WebSocketChannel[WebSocket]] = []
    for channel, flow in zip(channels, flows, strict=True):
        if not flow.sending.offer(record, message):
            missed.append(channel)
            if slow == "close":
                flow.close_slow()
    return missed
