"""Coder: typed messages over a byte stream, in other messages, or in datagrams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, cast, overload

from tieline.protocols.checks import require_range
from tieline.protocols.message import MessageMetadata
from tieline.protocols.roles import CarrierProtocol, DatagramProtocol, MessageProtocol, NetworkProtocol, StreamProtocol
from tieline.values import Value, value

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ["Coder", "CoderMetadata", "NetworkCoder"]

S_contra = TypeVar("S_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
R = TypeVar("R")
T = TypeVar("T")

FORMATS = ("json", "msgpack", "property-list")
LARGEST_LENGTH = 2**32 - 1  # of the length's 32 bits
_GIVEN = cast("Any", object())  # in place of a type that was not given


class NetworkCoder(Protocol):
    """A format of one's own for `Coder(using=...)`: what the two functions raise becomes the cause of our errors."""

    def encode(self, value: Any, /) -> bytes: ...
    def decode(self, data: bytes, type: Any, /) -> Any: ...


@value
class CoderMetadata(MessageMetadata):
    """Of one message: it is always complete. `last_message` tells that no more follow, if the peer's end has come already."""

    is_complete: bool = True
    last_message: bool = False


@value
class Coder(Value, MessageProtocol, Generic[S_contra, R_co]):
    """Values instead of bytes: each is encoded, and sent behind its length (32 bits, big-endian).

    Over messages such as `TLV` and over datagrams each is one of those instead.

    ``Coder(T, below)`` sends and receives values of one type, ``Coder(below, sending=S, receiving=R)`` of two. Types are
    dataclasses, `msgspec.Struct`, attrs classes, `TypedDict`, unions of tagged ones, and plain containers.

    - `using`: "json", "msgpack", "property-list", or an object with `encode` and `decode`.
    - `maximum_message_size`: bytes of an encoded value. A larger one is not sent, and fails the connection if it comes.

    A value that cannot be decoded raises `DecodingError`, and the next message can be received.
    """

    name: ClassVar[str] = "Coder"
    stands_on: ClassVar[str] = (
        "a byte stream such as TCP, TLS or a QUIC stream, on messages (TLV, WebSocket, Framer), or on datagrams such as UDP"
    )

    below: StreamProtocol | CarrierProtocol | DatagramProtocol
    sending: Any
    receiving: Any
    using: str | NetworkCoder = "json"
    maximum_message_size: int = field(default=16 * 1024 * 1024)

    @overload
    def __init__(
        self: Coder[T, T],
        type: TypeForm[T],
        below: StreamProtocol | CarrierProtocol | DatagramProtocol,
        /,
        *,
        using: str | NetworkCoder = "json",
        maximum_message_size: int = 16 * 1024 * 1024,
    ) -> None: ...
    @overload
    def __init__(
        self: Coder[S, R],
        below: StreamProtocol | CarrierProtocol | DatagramProtocol,
        /,
        *,
        sending: TypeForm[S],
        receiving: TypeForm[R],
        using: str | NetworkCoder = "json",
        maximum_message_size: int = 16 * 1024 * 1024,
    ) -> None: ...
    def __init__(
        self,
        *above: Any,
        sending: Any = _GIVEN,
        receiving: Any = _GIVEN,
        using: str | NetworkCoder = "json",
        maximum_message_size: int = 16 * 1024 * 1024,
    ) -> None:
        one_type = len(above) == 2
        if len(above) not in (1, 2) or one_type != (sending is _GIVEN) or one_type != (receiving is _GIVEN):
            raise TypeError(
                "Coder(T, below) has one type both ways, Coder(below, sending=S, receiving=R) has two; "
                f"got {len(above)} positional arguments, {'no ' if sending is _GIVEN else ''}sending and "
                f"{'no ' if receiving is _GIVEN else ''}receiving"
            )
        if one_type:
            sending = receiving = above[0]
        *_, below = above
        for option, given in (
            ("below", below),
            ("sending", sending),
            ("receiving", receiving),
            ("using", using),
            ("maximum_message_size", maximum_message_size),
        ):
            object.__setattr__(self, option, given)
        self._check()

    def _check(self) -> None:
        self._require_below(self.below, StreamProtocol, CarrierProtocol, DatagramProtocol)
        for option in ("sending", "receiving"):
            value = getattr(self, option)
            if isinstance(value, NetworkProtocol):
                raise TypeError(
                    f"{option} must be a type, got the protocol {value.name}: the type comes before what stands below"
                )
        if isinstance(self.using, str):
            if self.using not in FORMATS:
                raise ValueError(
                    f"using must be one of {', '.join(FORMATS)}, or an object with encode and decode, got {self.using!r}"
                )
        else:
            for call in ("encode", "decode"):
                function: Callable[..., Any] | None = getattr(self.using, call, None)
                if not callable(function):
                    raise TypeError(f"using must be a format's name, or an object with encode and decode, got {self.using!r}")
        require_range("maximum_message_size", self.maximum_message_size, 1, LARGEST_LENGTH)
