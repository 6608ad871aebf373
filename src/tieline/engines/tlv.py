"""Records of type, length and value: the machine of `TLV`."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from tieline.engines.framing import CONSUMED, Layout, outsized, too_large
from tieline.errors import DecodingError, EncodingError, Phase
from tieline.protocols.tlv import TLV, TLVMetadata

if TYPE_CHECKING:
    from tieline._engine.stream import ByteInbox

__all__ = ["TLVCodec"]

HINT = "Or what came is no record: compare type_, length and byte_order of both sides."
FORMATS = {1: "B", 2: "H", 4: "I", 8: "Q"}


class TLVCodec:
    """One direction each: `encode` what is sent, `size` and `decode` what is received."""

    __slots__ = ("_endpoint", "_head", "_largest_type", "_limit", "_options", "layout")

    decoder = ()
    encoder = None

    def __init__(self, options: TLV, endpoint: object) -> None:
        self._options = options
        self._endpoint = endpoint
        order = ">" if options.byte_order == "big" else "<"
        self._head = struct.Struct(order + FORMATS[options.type_.width] + FORMATS[options.length.width])
        self._largest_type = (1 << 8 * options.type_.width) - 1
        self._limit = min(options.maximum_message_size, (1 << 8 * options.length.width) - 1)
        kind, length = options.type_.width, options.length.width
        self.layout = Layout(kind + length, kind, length, options.byte_order == "little", self._limit)

    def encode(self, value: bytes | memoryview, type: int = 0) -> bytes:
        """The record of a value. Raises EncodingError for a type that does not fit, MessageTooLargeError, and TypeError."""
        if not isinstance(type, int):
            raise TypeError(f"{TLV.name}: type must be an int, got {type!r}")
        if not 0 <= type <= self._largest_type:
            raise EncodingError(
                "the type does not fit its field",
                endpoint=self._endpoint,
                phase=Phase.TRANSFER,
                expected=f"0 to {self._largest_type:,} (type_={self._options.type_.__name__})",
                got=f"{type:,}",
            )
        if len(value) > self._limit:
            raise too_large("the value", len(value), self._limit, self._bound(), self._endpoint)
        return b"".join((self._head.pack(type, len(value)), value))

    def size(self, inbox: ByteInbox) -> int | None:
        """Bytes of the record that comes next, None while its beginning is missing. Raises ProtocolViolationError."""
        head = inbox.peek(self._head.size)
        if len(head) < self._head.size:
            return None
        _, length = self._head.unpack(head)
        if length > self._limit:
            raise outsized("record", length, self._limit, self._endpoint, hint=HINT)
        return self._head.size + int(length)

    def decode(self, record: bytes) -> tuple[bytes, TLVMetadata]:
        """The value of a record, and its type and length."""
        kind, length = self._head.unpack_from(record)
        return record[self._head.size :], TLVMetadata((), kind, length)

    pack = encode

    def unpack(self, datagram: bytes, below: object) -> tuple[bytes, TLVMetadata]:
        """The value of a datagram. Raises DecodingError unless that is one record."""
        head = self._head.size
        kind, length = self._head.unpack_from(datagram) if len(datagram) >= head else (0, 0)
        if len(datagram) != head + length:
            raise DecodingError(
                "a datagram is no record",
                endpoint=self._endpoint,
                phase=Phase.TRANSFER,
                expected=f"{head} bytes of type and length, and {length:,} of the value" if length else f"at least {head} bytes",
                got=f"a datagram of {len(datagram):,}",
                hint=f"{CONSUMED} Compare type_, length and byte_order of both sides.",
            )
        return datagram[head:], TLVMetadata((below,), kind, length)

    def _bound(self) -> str:
        options = self._options
        return "maximum_message_size" if self._limit == options.maximum_message_size else f"length={options.length.__name__}"
