"""NetworkChannel: everything that moves data. Which calls it has follows from the role of its top protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, TypeVar, overload

from tieline._engine.datagram import Datagrams
from tieline._engine.stream import Forward, Receiving
from tieline.engines.states import State
from tieline.flows.content import MisuseError, misuse
from tieline.flows.making import make_flow
from tieline.flows.stream import StreamFlow
from tieline.parameters import Parameters
from tieline.protocols.coder import Coder, CoderMetadata
from tieline.protocols.framer import Framer, FramerMetadata
from tieline.protocols.integers import FixedWidthInteger
from tieline.protocols.ip import IPMetadata
from tieline.protocols.message import DatagramMetadata, Message, StreamMetadata
from tieline.protocols.roles import (
    DatagramProtocol,
    MessageProtocol,
    NetworkProtocol,
    StreamProtocol,
)
from tieline.protocols.security import TLSMetadata
from tieline.protocols.tcp import TCP, TCPMetadata
from tieline.protocols.tls import TLS
from tieline.protocols.tlv import TLV, TLVMetadata
from tieline.protocols.udp import UDP, UDPMetadata
from tieline.protocols.websocket import WebSocket, WebSocketMetadata, WebSocketSession
from tieline.websocket import WebSocketChannel

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["MessageIterator", "NetworkChannel"]

P_co = TypeVar("P_co", bound=NetworkProtocol, covariant=True)
R = TypeVar("R")
S = TypeVar("S")
C_co = TypeVar("C_co", covariant=True)
M_co = TypeVar("M_co", covariant=True)


class MessageIterator(Generic[C_co, M_co]):
    """The inbound side as an asynchronous iterator: it ends at a clean end and raises at anything else.

    Cancelling: a cancelled step has consumed nothing.
    """

    __slots__ = ("_next", "_steps")

    def __init__(self, next_piece: Any, steps: Any = None) -> None:
        self._next = next_piece
        self._steps = steps or self  # what an `async for` may ask for them, with nothing of Python's in between

    def __aiter__(self) -> MessageIterator[C_co, M_co]:
        return self._steps

    def __anext__(self) -> Coroutine[Any, Any, Message[C_co, M_co]]:
        """The next message. Raises `StopAsyncIteration` at a clean end, and `NetworkError`.

        Cancelling: nothing has been consumed.
        """
        return self._next()  # type: ignore[no-any-return]


class Messages:
    """A property whose type follows from that of the channel, which an ordinary one cannot."""

    @overload
    def __get__(self, channel: None, owner: type[Any]) -> Messages: ...
    @overload
    def __get__(self, channel: NetworkChannel[Coder[Any, R]], owner: type[Any]) -> MessageIterator[R, CoderMetadata]: ...
    @overload
    def __get__(self, channel: NetworkChannel[TLV], owner: type[Any]) -> MessageIterator[bytes, TLVMetadata]: ...
    @overload
    def __get__(self, channel: NetworkChannel[Framer], owner: type[Any]) -> MessageIterator[bytes, FramerMetadata]: ...
    @overload
    def __get__(
        self, channel: NetworkChannel[WebSocket], owner: type[Any]
    ) -> MessageIterator[str | bytes, WebSocketMetadata]: ...
    @overload
    def __get__(
        self, channel: NetworkChannel[DatagramProtocol], owner: type[Any]
    ) -> MessageIterator[bytes, DatagramMetadata]: ...
    def __get__(self, channel: NetworkChannel[Any] | None, owner: type[Any]) -> Any:
        if channel is None:
            return self
        stack = channel.parameters.stack
        if not isinstance(stack, MessageProtocol):
            raise TypeError(f"{stack.name} has no messages: iterate the connection itself for its bytes")
        receiving = channel._part("receive")
        steps = receiving if isinstance(receiving, Receiving) else None
        messages: MessageIterator[Any, Any] = MessageIterator(receiving.next_piece, steps)
        return messages


class NetworkChannel(WebSocketChannel[P_co]):
    """Sends and receives over a protocol stack. Data calls start the connection and wait for it.

    Outstanding sends are carried out, and outstanding receives answered, in the order in which they were made.
    """

    _flow: Any
    _parameters: Parameters[Any]
    _state: State
    _id: int
    _sending: Any  # which part of the flow has the calls
    _receiving: Any

    def _make_flow(self, endpoint: object) -> None:
        owner: Any = self  # every channel owns its flow
        make: Any = StreamFlow if isinstance(self._parameters.stack, StreamProtocol) else make_flow
        flow = self._flow = make(owner, self._parameters, endpoint)
        if isinstance(flow, StreamFlow):
            self._sending, self._receiving = flow.sending, flow.receiving
        else:
            self._sending = self._receiving = flow

    @property
    def id(self) -> str:
        """A text that no other channel of this process has."""
        return str(self._id)

    @property
    def parameters(self) -> Parameters[P_co]:
        """What the channel was made with."""
        return self._parameters

    @property
    def state(self) -> State:
        """Where it stands now."""
        return self._state

    @property
    def maximum_datagram_size(self) -> int:
        """The largest datagram in bytes that may be sent on the present path; 0 before ready, and on streams."""
        return self._flow.maximum_size if self._parameters.stack.is_datagrams else 0

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return self._id  # the same in each run, which the hash of a text is not

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Forward a call to the flow, and say what the protocol does offer if this is not among it."""
        method = getattr(self._part(name), name, None)
        if method is not None:
            try:
                return method(*arguments, **options)
            except MisuseError:
                raise
            except TypeError as error:
                reason = str(error)
        else:
            reason = f"it has no {name}()"
        raise misuse(self._flow, reason) from None

    def _part(self, name: str) -> Any:
        return self._sending if name.startswith("send") else self._receiving

    # Sending

    @overload
    def send(
        self: NetworkChannel[StreamProtocol], content: Buffer | FixedWidthInteger, *, end_of_stream: bool = False
    ) -> Coroutine[Any, Any, None]: ...
    @overload
    def send(
        self: NetworkChannel[DatagramProtocol], content: Buffer, *, metadata: IPMetadata | None = None
    ) -> Coroutine[Any, Any, None]: ...
    @overload
    def send(
        self: NetworkChannel[Coder[S, Any]], content: S, *, last_message: bool = False, metadata: IPMetadata | None = None
    ) -> Coroutine[Any, Any, None]: ...
    @overload
    def send(
        self: NetworkChannel[TLV],
        content: Buffer,
        *,
        type: int = 0,
        last_message: bool = False,
        metadata: IPMetadata | None = None,
    ) -> Coroutine[Any, Any, None]: ...
    @overload
    def send(
        self: NetworkChannel[Framer],
        content: Buffer,
        *,
        metadata: dict[str, Any] | IPMetadata | None = None,
        last_message: bool = False,
    ) -> Coroutine[Any, Any, None]: ...
    @overload
    def send(self: NetworkChannel[WebSocket], content: str | Buffer) -> Coroutine[Any, Any, None]: ...
    def send(self, content: Any, **options: Any) -> Coroutine[Any, Any, None]:
        """Send bytes (anything with the buffer protocol), a fixed-width integer such as ``UInt32(7)``, or one datagram.

        Returns when the data has been accepted into a buffer of at most `send_limit` bytes; that says nothing of the peer.
        ``end_of_stream=True`` ends our direction after it, and receiving goes on. A datagram goes out at once and whole, or
        raises `MessageTooLargeError`; over UDP, `metadata` is what its IP packet says (`IPMetadata`). Raises `NetworkError`.

        Cancelling: a cancelled stream send may have sent a prefix, and nothing tells how much: abort the connection, unless
        the rest is sent anyway. A cancelled datagram was not sent.
        """
        try:
            return self._sending.send(content, **options)  # type: ignore[no-any-return]
        except (AttributeError, TypeError):  # not of this protocol, or not so
            return self._call("send", content, **options)  # type: ignore[no-any-return]

    def send_file(
        self: NetworkChannel[StreamProtocol], file: BinaryIO, offset: int = 0, count: int | None = None
    ) -> Coroutine[Any, Any, int]:
        """Send `count` bytes of a binary file from `offset` (to its end if None); returns how many were sent.

        On plain TCP the kernel copies them from file to socket. The file's own position does not move, unless it has no
        descriptor. Raises `NetworkError` and what reading the file raises.

        Cancelling: a prefix may have been sent, as with `send`.
        """
        return self._call("send_file", file, offset, count)  # type: ignore[no-any-return]

    def send_many(
        self: NetworkChannel[DatagramProtocol], contents: Sequence[Buffer], *, metadata: IPMetadata | None = None
    ) -> Coroutine[Any, Any, None]:
        """Send several datagrams in order. If one is too large, none is sent and `MessageTooLargeError` is raised.

        Over UDP, `metadata` is what the IP packet of each says.

        Cancelling: those before the cancellation were sent, those after it not.
        """
        try:
            return self._sending.send_many(contents, metadata=metadata)  # type: ignore[no-any-return]
        except (AttributeError, TypeError):
            return self._call("send_many", contents, metadata=metadata)  # type: ignore[no-any-return]

    def send_idempotent(
        self: NetworkChannel[StreamProtocol], content: Buffer | FixedWidthInteger, *, end_of_stream: bool = False
    ) -> None:
        """Send bytes that do no harm when they arrive twice, without waiting for anything.

        Before ready they may ride on the first flight of every attempt (TCP Fast Open, TLS early data, 0-RTT of QUIC) if
        ``Parameters(fast_open_allowed=True)`` and the protocol's own option allow it; otherwise they are sent first once
        ready. They are less protected than other data: an attacker can replay early data (RFC 8446 section 8). Raises
        `MessageTooLargeError` if `send_limit` has no room.
        """
        self._call("send_idempotent", content, end_of_stream=end_of_stream)

    # Receiving

    @overload
    def receive(
        self: NetworkChannel[StreamProtocol], *, as_: type[FixedWidthInteger]
    ) -> Coroutine[Any, Any, Message[int, StreamMetadata]]: ...
    @overload
    def receive(self: NetworkChannel[StreamProtocol], *, exactly: int) -> Coroutine[Any, Any, Message[bytes, StreamMetadata]]: ...
    @overload
    def receive(
        self: NetworkChannel[StreamProtocol], *, until: bytes, at_most: int = 65536
    ) -> Coroutine[Any, Any, Message[bytes, StreamMetadata]]: ...
    @overload
    def receive(
        self: NetworkChannel[StreamProtocol], *, at_least: int = 1, at_most: int = 65536
    ) -> Coroutine[Any, Any, Message[bytes, StreamMetadata]]: ...
    @overload
    def receive(self: NetworkChannel[DatagramProtocol]) -> Coroutine[Any, Any, Message[bytes, DatagramMetadata]]: ...
    @overload
    def receive(self: NetworkChannel[Coder[Any, R]]) -> Coroutine[Any, Any, Message[R, CoderMetadata]]: ...
    @overload
    def receive(self: NetworkChannel[TLV]) -> Coroutine[Any, Any, Message[bytes, TLVMetadata]]: ...
    @overload
    def receive(self: NetworkChannel[Framer]) -> Coroutine[Any, Any, Message[bytes, FramerMetadata]]: ...
    @overload
    def receive(self: NetworkChannel[WebSocket]) -> Coroutine[Any, Any, Message[str | bytes, WebSocketMetadata]]: ...
    def receive(self, **options: Any) -> Coroutine[Any, Any, Message[Any, Any]]:
        """Receive from a stream: so many bytes, up to and including a separator, one integer, or what there is. Or one datagram.

        - ``exactly=n`` waits for n bytes; ``as_=UInt32`` for the width of that integer, and decodes it.
        - ``until=separator`` waits for it, within `at_most` bytes including it; more raises `MessageTooLargeError` and
          consumes nothing.
        - otherwise `at_least` bytes, at most `at_most`; fewer come only at the end of the stream, which
          ``metadata.end_of_stream`` tells, with empty content from then on.

        An early end raises `IncompleteReceiveError`, whose `partial` is what had come. A datagram flow that ended raises
        `EndOfStreamError`. Raises `NetworkError`.

        Cancelling: a cancelled receive has consumed nothing.
        """
        try:
            return self._receiving.receive(**options)  # type: ignore[no-any-return]
        except (AttributeError, TypeError):
            return self._call("receive", **options)  # type: ignore[no-any-return]

    def receive_into(
        self: NetworkChannel[StreamProtocol], buffer: bytearray | memoryview, *, exactly: bool = False
    ) -> Coroutine[Any, Any, int]:
        """Receive into a writable buffer: at least one byte, or with ``exactly=True`` all of it; returns the count, 0 at the end.

        Raises `IncompleteReceiveError` if the stream ends before ``exactly`` is fulfilled, and `NetworkError`.

        Cancelling: nothing has been consumed, and nothing written to the buffer.
        """
        return self._call("receive_into", buffer, exactly=exactly)  # type: ignore[no-any-return]

    def receive_many(
        self: NetworkChannel[DatagramProtocol], *, at_most: int = 64
    ) -> Coroutine[Any, Any, list[Message[bytes, DatagramMetadata]]]:
        """Receive the datagrams that are there, at least one. Raises `EndOfStreamError` and `NetworkError`.

        Cancelling: nothing has been consumed.
        """
        try:
            return self._receiving.receive_many(at_most=at_most)  # type: ignore[no-any-return]
        except (AttributeError, TypeError):
            return self._call("receive_many", at_most=at_most)  # type: ignore[no-any-return]

    if not TYPE_CHECKING:  # it is, and its callers need not go through it
        send = Forward(send, "_sending", "send")
        receive = Forward(receive, "_receiving", "receive")

    messages = Messages()
    """The inbound side of a message protocol as an asynchronous iterator."""

    @overload
    def __aiter__(self: NetworkChannel[StreamProtocol]) -> AsyncIterator[Message[bytes, StreamMetadata]]: ...
    @overload
    def __aiter__(self: NetworkChannel[DatagramProtocol]) -> AsyncIterator[Message[bytes, DatagramMetadata]]: ...
    @overload
    def __aiter__(self: NetworkChannel[Coder[Any, R]]) -> AsyncIterator[Message[R, CoderMetadata]]: ...
    @overload
    def __aiter__(self: NetworkChannel[TLV]) -> AsyncIterator[Message[bytes, TLVMetadata]]: ...
    @overload
    def __aiter__(self: NetworkChannel[Framer]) -> AsyncIterator[Message[bytes, FramerMetadata]]: ...
    @overload
    def __aiter__(self: NetworkChannel[WebSocket]) -> AsyncIterator[Message[str | bytes, WebSocketMetadata]]: ...
    def __aiter__(self) -> AsyncIterator[Any]:
        """Pieces as they come, never an empty one from a stream; ends at a clean end."""
        if isinstance(self._receiving, (Receiving, Datagrams)):
            return self._receiving
        next_piece = getattr(self._part("receive"), "next_piece", None)
        if next_piece is None:
            raise misuse(self._flow, "it cannot be iterated")
        pieces: MessageIterator[Any, Any] = MessageIterator(next_piece)
        return pieces

    # Inspecting

    @overload
    def metadata(self, protocol: type[TLS]) -> TLSMetadata: ...
    @overload
    def metadata(self, protocol: type[TCP]) -> TCPMetadata: ...
    @overload
    def metadata(self, protocol: type[UDP]) -> UDPMetadata: ...
    @overload
    def metadata(self, protocol: type[WebSocket]) -> WebSocketSession: ...
    def metadata(self, protocol: type[NetworkProtocol]) -> Any:
        """What one protocol of the stack knows of this connection.

        Raises `ValueError` if the protocol is not in the stack, and `RuntimeError` while the connection is not established.
        """
        stack = self._parameters.stack
        if stack.find(protocol) is None:
            names = ", ".join(layer.name for layer in stack.layers)
            raise ValueError(f"{protocol.__name__} is not in this stack, which is {names}")
        known = self._flow.metadata(protocol)
        if known is None:
            raise RuntimeError(f"{protocol.__name__} has no metadata here: the connection is {self._state.value}")
        return known
