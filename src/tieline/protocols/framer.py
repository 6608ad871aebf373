"""Framer: a message protocol of the program's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, field
from typing import TYPE_CHECKING, Any, ClassVar

from tieline.protocols.checks import require_range, require_seconds
from tieline.protocols.message import MessageMetadata
from tieline.protocols.roles import CarrierProtocol, DatagramProtocol, NetworkProtocol, StreamProtocol
from tieline.values import Value, value

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Framer", "FramerContext", "FramerMetadata", "FramerProtocol"]

LARGEST_SIZE = 2**32 - 1


@value
class FramerMetadata(MessageMetadata):
    """Of one message: what the framer gave to it, and `last_message` if no more can follow. A message is always complete."""

    framer: dict[str, Any] = field(default_factory=dict[str, Any])
    is_complete: bool = True
    last_message: bool = False


class FramerContext(ABC):
    """What a framer is given: unread input, output, messages, a timer. To be used only within the framer's own methods."""

    options: Mapping[str, Any]
    """Those of ``Framer(..., options=...)``."""
    local_endpoint: object
    remote_endpoint: object
    input_ended: bool
    """The peer has ended its direction: `handle_input` is called once more if there is unread input."""

    # Input

    @abstractmethod
    def read(self, count: int) -> bytes | None:
        """The next `count` bytes, which are consumed; None while fewer have arrived."""

    @abstractmethod
    def read_until(self, separator: bytes, *, at_most: int = 65536) -> bytes | None:
        """Everything up to and including `separator`, consumed; None while it has not arrived.

        Raises `ProtocolViolationError`, which fails the connection, if it is not within `at_most` bytes.
        """

    @abstractmethod
    def parse_input(self, minimum: int, maximum: int, function: Callable[[bytes, bool], int]) -> bool:
        """Call ``function(data, input_ended)`` with at least `minimum` unread bytes, at most `maximum`.

        It returns how many of them it has consumed. Returns False, without a call, while fewer have arrived.
        """

    @abstractmethod
    def deliver_input(self, content: Buffer, metadata: dict[str, Any] | None = None, *, is_complete: bool = True) -> None:
        """Hand up a message of the framer's own bytes; one that is not complete is joined with the next."""

    @abstractmethod
    def deliver_input_no_copy(self, length: int, metadata: dict[str, Any] | None = None, *, is_complete: bool = True) -> bool:
        """Hand up the next `length` bytes of the input as a message: now, or as soon as they have arrived.

        Returns whether they were there. If not, nothing can be read until they have been delivered, and then `handle_input` is
        called.
        """

    @abstractmethod
    def pass_through_input(self) -> None:
        """From here on hand up what comes, as it comes, for good."""

    # Output

    @abstractmethod
    def write_output(self, data: Buffer) -> None:
        """Send bytes to the peer."""

    @abstractmethod
    def pass_through_output(self) -> None:
        """From here on send messages as they are, for good."""

    # Life

    @abstractmethod
    def mark_ready(self) -> None:
        """The handshake is done."""

    @abstractmethod
    def mark_failed(self, reason: str | BaseException) -> None:
        """Fail the connection: with an error of that text, or with that error as its cause."""

    @abstractmethod
    def prepend(self, protocol: NetworkProtocol) -> None:
        """Put `TLS`, `TLV`, `WebSocket` or another `Framer` between this framer and the application, once, before ready.

        Only the options of the protocol itself count; what it says it stands on does not. What it says goes to
        `handle_output`, and it hears what is delivered.
        """

    @abstractmethod
    def schedule_wakeup(self, seconds: float | None) -> None:
        """Have `wakeup` called once after so many seconds, instead of what was scheduled before; None for never."""


class FramerProtocol(ABC):
    """The base of a framing protocol of one's own. There is one instance for each connection, made without arguments.

    It does no I/O: it reads from and writes to the `FramerContext` that each method is given, so it can be tested with bytes
    alone (`tieline.testing.FramerTester`). What a method raises fails its connection, as the cause of the error. A
    `NetworkError` raised by `handle_output` is for the caller of that send only.
    """

    label: ClassVar[str] = "framer"
    """Its name in errors."""

    def start(self, framer: FramerContext) -> bool:
        """The stream below is ready. Returns whether this protocol is, too; otherwise `mark_ready` follows."""
        return True

    @abstractmethod
    def handle_input(self, framer: FramerContext) -> None:
        """Something has arrived: parse what can be parsed, and leave the rest unread until more comes."""

    @abstractmethod
    def handle_output(self, framer: FramerContext, content: bytes, metadata: dict[str, Any] | None) -> None:
        """A message is to be sent, with what ``send(..., metadata=...)`` gave."""

    def wakeup(self, framer: FramerContext) -> None:  # noqa: B027  # a framer without timers has no use for it
        """The time of `schedule_wakeup` has come."""

    def stop(self, framer: FramerContext) -> bool:
        """Our direction ends after this. Returning False puts that off: `stop` is called again after more input or a wakeup."""
        return True

    def cleanup(self, framer: FramerContext) -> None:  # noqa: B027  # nor one that holds nothing
        """The last call: the connection is over."""


@value
class Framer(Value, CarrierProtocol):
    """Messages as a framer of one's own finds and makes them: ``Framer(Lines, TCP())``.

    Over datagrams each is one message: what the framer writes for one goes out in one, and what comes must be one as a whole. It
    then has no handshake: `start` returns True.

    - `framer`: a subclass of `FramerProtocol`.
    - `options`: for the framer, by key.
    - `maximum_message_size`: bytes of a message. A larger one fails the connection if it comes, and so does as much unread input.
    - `handshake_timeout`: seconds until the framer must be ready.
    """

    name: ClassVar[str] = "Framer"
    stands_on: ClassVar[str] = (
        "a byte stream such as TCP, TLS or a QUIC stream, on TLV, WebSocket or another Framer, or on datagrams such as UDP"
    )

    framer: type[FramerProtocol]
    below: StreamProtocol | CarrierProtocol | DatagramProtocol
    _: KW_ONLY
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    maximum_message_size: int = 16 * 1024 * 1024
    handshake_timeout: float = 10.0

    def __post_init__(self) -> None:
        framer: object = self.framer
        if not isinstance(framer, type) or not issubclass(framer, FramerProtocol):
            got = (
                f"an instance of {type(framer).__name__}: write its class" if isinstance(framer, FramerProtocol) else repr(framer)
            )
            raise TypeError(f"Framer wants a subclass of FramerProtocol, got {got}")
        abstract = sorted(getattr(framer, "__abstractmethods__", ()))
        if abstract:
            raise TypeError(f"{framer.__name__} has no {' and no '.join(abstract)}")
        self._require_below(self.below, StreamProtocol, CarrierProtocol, DatagramProtocol)
        require_range("maximum_message_size", self.maximum_message_size, 1, LARGEST_SIZE)
        require_seconds("handshake_timeout", self.handshake_timeout)
