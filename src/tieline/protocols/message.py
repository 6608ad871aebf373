"""What a receive gives: content, and the metadata of the top protocol for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple

from tieline.protocols.ip import IPMetadata
from tieline.values import Value, value

if TYPE_CHECKING:
    from typing_extensions import TypeVar
else:
    from typing import TypeVar as _TypeVar

    def TypeVar(name: str, *, default: object = None, **options: Any) -> _TypeVar:  # defaults exist from Python 3.13
        return _TypeVar(name, **options)


__all__ = ["DatagramMetadata", "Message", "MessageMetadata", "StreamMetadata"]


@value
class MessageMetadata(Value):
    """Base of all per-message metadata. `other` holds that of the protocols below, for this message."""

    other: tuple[Any, ...] = ()


@value
class StreamMetadata(MessageMetadata):
    """Of a piece of a byte stream: `end_of_stream` says that the peer's end was reached by this receive."""

    end_of_stream: bool = False


@value
class DatagramMetadata(MessageMetadata):
    """Of one datagram."""

    @property
    def ip(self) -> IPMetadata | None:
        """What its IP packet says, None unless `IP` asks for it (`metadata_received`, `receive_time_calculated`)."""
        return next((one for one in self.other if isinstance(one, IPMetadata)), None)


C = TypeVar("C")
M = TypeVar("M", default=MessageMetadata)


class Message(NamedTuple, Generic[C, M]):
    """Content and its metadata: ``content, metadata = await connection.receive()``."""

    content: C
    metadata: M
