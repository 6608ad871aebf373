"""TLV: records of a type, a length and a value."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import ClassVar, Literal

from tieline.protocols.checks import require_range
from tieline.protocols.integers import FixedWidthInteger, UInt32
from tieline.protocols.message import MessageMetadata
from tieline.protocols.roles import CarrierProtocol, DatagramProtocol, StreamProtocol
from tieline.values import Value, value

__all__ = ["TLV", "TLVMetadata"]

LARGEST_SIZE = 2**32 - 1


@value
class TLVMetadata(MessageMetadata):
    """Of one record: its type, and its length, which is that of the value in bytes. A record is always complete.

    `last_message` tells that no more follow, if the peer's end has come already.
    """

    type: int = 0
    length: int = 0
    is_complete: bool = True
    last_message: bool = False


@value
class TLV(Value, CarrierProtocol):
    """Type, length, value: each message is bytes with a number that says what they are. Over datagrams each has one record.

    - `type_`, `length`: the unsigned integers of both fields, such as `UInt16`. The length counts the value only.
    - `byte_order`: "big" or "little", of both fields.
    - `maximum_message_size`: bytes of a value. A larger one is not sent, and fails the connection if it comes.
    """

    name: ClassVar[str] = "TLV"
    stands_on: ClassVar[str] = (
        "a byte stream such as TCP, TLS or a QUIC stream, on WebSocket, Framer or another TLV, or on datagrams such as UDP"
    )

    below: StreamProtocol | CarrierProtocol | DatagramProtocol
    _: KW_ONLY
    type_: type[FixedWidthInteger] = UInt32
    length: type[FixedWidthInteger] = UInt32
    byte_order: Literal["big", "little"] = "big"
    maximum_message_size: int = 16 * 1024 * 1024

    def __post_init__(self) -> None:
        self._require_below(self.below, StreamProtocol, CarrierProtocol, DatagramProtocol)
        for option in ("type_", "length"):
            width = getattr(self, option)
            if not isinstance(width, type) or not issubclass(width, FixedWidthInteger) or width is FixedWidthInteger:
                raise TypeError(f"{option} must be an unsigned integer's class such as UInt16, got {width!r}")
            if width.signed:
                raise ValueError(f"{option} must be unsigned, got {width.__name__}: write U{width.__name__}")
        if self.byte_order not in ("big", "little"):
            raise ValueError(f'byte_order must be "big" or "little", got {self.byte_order!r}')
        require_range("maximum_message_size", self.maximum_message_size, 0, LARGEST_SIZE)
