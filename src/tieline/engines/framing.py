"""Messages at the top of a pipeline: layers that find whole messages in what arrives, and act by themselves.

       application                 application's bytes
    encode │   ▲ inbox              send │   ▲ receive
    ┌──────▼───┴──────┐           ┌──────▼───┴──────┐
    │  message layer  │           │  message layer  │  each send is one message,
    └──────┬───▲──────┘           │  + CarrierLayer │  what comes is joined
    output ▼   │ receive          └──────┬───▲──────┘

Unlike a byte-to-byte layer such as TLS, one of these may want to be woken (a keepalive, a framer's timer), says things that
nobody asked for (a pong), and is told where it stands. Like all machines it has no clock: `now` is set before each interaction,
and `deadline` read after it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tieline._engine.stream import OVERHEAD, ByteInbox, MessageInbox
from tieline.errors import MessageTooLargeError, Phase, ProtocolViolationError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from tieline.errors import NetworkError

__all__ = [
    "OVERHEAD", "CarrierLayer", "Layout", "MessageCodec", "MessageInbox", "MessageLayer", "RecordLayer", "UnitCodec", "outsized",
    "too_large",
]  # fmt: skip

CONSUMED = "It was consumed; the next one can be received."


def too_large(what: str, size: int, limit: int, bound: str, endpoint: object) -> MessageTooLargeError:
    """The error for something to be sent with more than `limit` bytes. `bound` is an option, or where the rule stands."""
    return MessageTooLargeError(
        f"{what} is too large",
        limit=limit,
        size=size,
        endpoint=endpoint,
        phase=Phase.TRANSFER,
        expected=f"at most {limit:,} bytes ({bound})",
        got=f"{size:,}",
    )


def outsized(
    kind: str, size: int, limit: int, endpoint: object, *, phase: Phase = Phase.TRANSFER, hint: str | None = None
) -> ProtocolViolationError:
    """The error for something of the peer's that is larger than we take."""
    return ProtocolViolationError(
        f"the peer sent a {kind} that is too large",
        endpoint=endpoint,
        phase=phase,
        expected=f"at most maximum_message_size={limit:,} bytes",
        got=f"{size:,}",
        hint=hint,
    )


class MessageLayer(ABC):
    """The top layer of a pipeline: what `receive` finds goes to `inbox`, and `encode` makes the bytes of what is sent.

    It fulfils `tieline.engines.pipeline.Layer`. `receive` raises NetworkError at a fault of the peer's, after everything before
    it has gone to the inbox, and what is to be said of it to `output`.
    """

    name: str
    ready: bool = False
    now: float = 0.0
    """The caller's clock in seconds, set before each interaction."""
    deadline: float | None = None
    """When `timeout` is to be called, by that clock; read after each interaction."""
    handshake_timeout: float | None = None
    """Seconds from `start` until it must be ready."""
    local: object = None
    remote: object = None
    """The endpoints that it stands between, set before `start`."""
    decision = None
    early_data_accepted = False
    held: bool = False
    """More was received than was found: ``receive(b"")`` finds more of it, when the inbox has room again."""
    closed_by_peer: NetworkError | None = None
    """For calls that send after the peer has ended both directions, where a protocol lets it."""
    failure: NetworkError | None = None
    """Why it cannot go on, if that was found while something was sent."""

    def __init__(self) -> None:
        self.inbox = MessageInbox()

    @property
    def ended(self) -> bool:
        return self.inbox.ended

    @property
    def may_end(self) -> bool:
        """After `end`: whether the stream below may be ended, too, or something of the peer's has to come first."""
        return True

    @property
    def is_quiet(self) -> bool:
        """Whether what was received has led to messages at most: nothing to say, no other deadline, no end. False if unknown."""
        return False

    @property
    def unsaid(self) -> int:
        """Bytes that wait for `output`. Where that has no bound of its own, nothing is read while they are many."""
        return 0

    @abstractmethod
    def start(self) -> bytes: ...
    @abstractmethod
    def receive(self, data: Buffer, /) -> bytes: ...
    @abstractmethod
    def receive_end(self) -> None: ...
    @abstractmethod
    def encode(self, content: Any, /, **options: Any) -> bytes:
        """The bytes of a message, which is begun with that. Raises NetworkError if it cannot be sent; then nothing was begun."""

    @abstractmethod
    def end(self) -> bytes: ...
    @abstractmethod
    def output(self) -> bytes: ...
    @abstractmethod
    def metadata(self) -> object: ...

    def send(self, data: Buffer, /) -> bytes:
        """Pass on what `encode` has made."""
        return bytes(data)

    def send_early(self, data: Buffer, /) -> int:
        return 0

    def decided(self, accepted: bool, error: BaseException | None = None) -> bytes:
        raise RuntimeError(f"{self.name} has nothing to be decided")

    def timeout(self, *, reading: bool) -> None:
        """The deadline has come. If we are not `reading`, the peer's silence says nothing. May raise NetworkError."""
        self.deadline = None

    def closed(self) -> None:
        """The last call: the connection, or this attempt at one, is over."""
        self.deadline = None


class CarrierLayer:
    """Messages as a byte stream, for a protocol that stands on them: their boundaries mean nothing to it."""

    decision = None
    early_data_accepted = False

    def __init__(self, messages: MessageLayer) -> None:
        self.messages = messages
        self.name = messages.name

    @property
    def ready(self) -> bool:
        return self.messages.ready

    @property
    def ended(self) -> bool:
        return self.messages.ended

    def start(self) -> bytes:
        return self.messages.start()

    def receive(self, data: Buffer, /) -> bytes:
        messages = self.messages
        inbox = messages.inbox
        messages.receive(data)
        if messages.held and not len(inbox):
            messages.receive(b"")
        if not len(inbox):
            return b""
        pieces: list[bytes] = []
        while len(inbox):
            content = inbox.take()[0]
            pieces.append(content.encode() if isinstance(content, str) else bytes(content))
            if messages.held and not len(inbox):
                messages.receive(b"")
        return b"".join(pieces)

    def receive_end(self) -> None:
        self.messages.receive_end()

    def send(self, data: Buffer, /) -> bytes:
        return self.messages.output() + (self.messages.encode(bytes(data)) if len(memoryview(data)) else b"")

    def send_early(self, data: Buffer, /) -> int:
        return 0

    def end(self) -> bytes:
        return self.messages.end()

    def output(self) -> bytes:
        return self.messages.output()

    def decided(self, accepted: bool, error: BaseException | None = None) -> bytes:
        return self.messages.decided(accepted, error)

    def metadata(self) -> object:
        return self.messages.metadata()


class Layout(NamedTuple):
    """Where a record says how many bytes follow its head: in `width` bytes from `offset`. More than `limit` are a fault."""

    head: int
    offset: int
    width: int
    little: bool
    limit: int


class MessageCodec(Protocol):
    """Between messages and records of a byte stream."""

    @property
    def layout(self) -> Layout: ...
    @property
    def decoder(self) -> tuple[Callable[[Any], Any], Any] | tuple[()]:
        """What makes a value of the bytes behind a head, and its metadata; nothing if only `decode` can."""
        ...

    @property
    def encoder(self) -> tuple[Callable[[Any], Any], int] | None:
        """What makes the bytes of a value behind a length of 32 bits, and how many there may be; None if only `encode` can."""
        ...

    def encode(self, content: Any, /) -> bytes: ...
    def size(self, inbox: ByteInbox, /) -> int | None:
        """Bytes of the next record, None while that cannot be told. Raises NetworkError if there can be none."""
        ...

    def decode(self, record: bytes, /) -> tuple[Any, Any]:
        """Content and metadata. Raises NetworkError; the next record can be decoded."""
        ...


class UnitCodec(Protocol):
    """Between messages and datagrams, or what else keeps boundaries: one in each."""

    @property
    def pack(self) -> Callable[..., bytes]:
        """What makes the bytes that carry a message, of its content and options. Raises NetworkError and TypeError."""
        ...

    def unpack(self, unit: bytes, below: object, /) -> tuple[Any, Any] | None:
        """Content and metadata, `below` being those of the protocol below; None for what is no message but means something.

        Raises NetworkError; the next can be unpacked.
        """
        ...


class RecordLayer(MessageLayer):
    """A codec's records as a layer, for a protocol that stands on them."""

    ready = True

    def __init__(self, name: str, codec: MessageCodec) -> None:
        super().__init__()
        self.name = name
        self._codec = codec
        self._bytes = ByteInbox()
        self._next: int | None = None

    def start(self) -> bytes:
        return b""

    def receive(self, data: Buffer, /) -> bytes:
        piece = bytes(data)
        if piece:
            self._bytes.append(piece)
        while True:
            if self._next is None:
                self._next = self._codec.size(self._bytes)
            if self._next is None or self._bytes.size < self._next:
                return b""
            record = self._bytes.take(self._next)
            self._next = None
            content, metadata = self._codec.decode(record)
            self.inbox.append(content, metadata, len(record))

    def receive_end(self) -> None:
        self.inbox.partial = self._bytes.take(self._bytes.size)
        self.inbox.ended = True

    def encode(self, content: Any, /, **options: Any) -> bytes:
        return self._codec.encode(content, **options)

    def end(self) -> bytes:
        return b""

    def output(self) -> bytes:
        return b""

    def metadata(self) -> object:
        return None
