"""Values to records and back: the machine of `Coder`. A record is a length of 32 bits, big-endian, and so many bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from tieline._engine.stream import ByteInbox
from tieline.engines.framing import CONSUMED, Layout, outsized, too_large
from tieline.engines.tlv import TLVCodec
from tieline.errors import DecodingError, EncodingError, Phase
from tieline.protocols.coder import Coder, CoderMetadata

__all__ = ["CoderCodec", "CoderOnTLVCodec"]

LENGTH = struct.Struct("!I")
LARGEST = 2**32 - 1
METADATA = CoderMetadata()


class CoderCodec:
    """One direction each: `encode` what is sent, `size` and `decode` what is received."""

    __slots__ = ("_decode", "_encode", "_endpoint", "_limit", "_receiving", "decoder", "encoder", "layout")

    def __init__(self, options: Coder[Any, Any], endpoint: object) -> None:
        self._endpoint = endpoint
        self._limit = options.maximum_message_size
        self._receiving = options.receiving
        self._encode, self._decode = _functions(options.using, options.receiving)
        limit = min(self._limit, LARGEST)
        self.layout = Layout(LENGTH.size, 0, LENGTH.size, False, limit)
        self.decoder: tuple[Callable[[Any], Any], CoderMetadata] | tuple[()] = (self._decode, METADATA)
        self.encoder: tuple[Callable[[Any], Any], int] | None = (self._encode, limit)

    def encode(self, content: Any) -> bytes:
        """The record of a value. Raises EncodingError, MessageTooLargeError."""
        return self.framed(self._encoded(content))

    def framed(self, data: bytes) -> bytes:
        """The record of a value's bytes. Raises MessageTooLargeError."""
        return LENGTH.pack(len(self._fitting(data))) + data

    def pack(self, content: Any) -> bytes:
        """The bytes of a value. Raises EncodingError, MessageTooLargeError."""
        return self._fitting(self._encoded(content))

    def _encoded(self, content: Any) -> bytes:
        try:
            return self._encode(content)
        except Exception as error:
            raise self.unencodable(content, error) from error

    def unencodable(self, content: Any, error: Exception) -> EncodingError:
        """Why a value has no bytes."""
        return EncodingError(
            f"a {type(content).__name__} could not be encoded: {error}", endpoint=self._endpoint, phase=Phase.TRANSFER
        )

    def _fitting(self, data: bytes) -> bytes:
        if len(data) > self._limit:
            raise too_large("the message", len(data), self._limit, "maximum_message_size", self._endpoint)
        return data

    def size(self, inbox: ByteInbox) -> int | None:
        """Bytes of the record that comes next, None while its beginning is missing. Raises ProtocolViolationError."""
        head = inbox.peek(LENGTH.size)
        if len(head) < LENGTH.size:
            return None
        (length,) = LENGTH.unpack(head)
        if length > self._limit:
            hint = "Or what came is no length: compare the stacks of both sides."
            raise outsized("message", length, self._limit, self._endpoint, hint=hint)
        return LENGTH.size + int(length)

    def decode(self, record: bytes) -> tuple[Any, CoderMetadata]:
        """The value of a record. Raises DecodingError, after which the next record can be decoded."""
        return self.decode_value(memoryview(record)[LENGTH.size :]), METADATA

    def unpack(self, data: bytes, below: object) -> tuple[Any, CoderMetadata]:
        """The value of a message below. Raises DecodingError, after which the next can be decoded."""
        return self.decode_value(data), CoderMetadata((below,))

    def decode_value(self, data: bytes | memoryview) -> Any:
        """The value of bytes. Raises DecodingError, after which the next can be decoded."""
        try:
            return self._decode(data)
        except Exception as error:
            raise self.undecodable(error) from error

    def undecodable(self, error: Exception) -> DecodingError:
        """Why bytes are no value."""
        return DecodingError(
            f"the message is no {_name(self._receiving)}: {error}", endpoint=self._endpoint, phase=Phase.TRANSFER, hint=CONSUMED
        )


class CoderOnTLVCodec(CoderCodec):
    """One value for each record, whose type is 0 in what is sent; that of a received one is in ``metadata.other``."""

    __slots__ = ("_records",)

    def __init__(self, options: Coder[Any, Any], records: TLVCodec, endpoint: object) -> None:
        super().__init__(options, endpoint)
        self._records = records
        self.layout, self.decoder, self.encoder = records.layout, (), None

    def encode(self, content: Any) -> bytes:
        return self._records.encode(self.pack(content))

    def size(self, inbox: ByteInbox) -> int | None:
        return self._records.size(inbox)

    def decode(self, record: bytes) -> tuple[Any, CoderMetadata]:
        data, metadata = self._records.decode(record)
        return self.decode_value(data), CoderMetadata((metadata,))


@lru_cache(256)
def _built_in(using: str, receiving: Any) -> tuple[Callable[[Any], bytes], Callable[[Any], Any]]:
    import msgspec  # by the first channel that needs it

    if using == "json":
        return msgspec.json.Encoder().encode, msgspec.json.Decoder(receiving).decode
    if using == "msgpack":
        return msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(receiving).decode
    import datetime
    import plistlib

    kept = (bytes, bytearray, datetime.datetime)

    def encode(value: Any) -> bytes:
        return plistlib.dumps(msgspec.to_builtins(value, builtin_types=kept), fmt=plistlib.FMT_BINARY)

    def decode(data: Any) -> Any:
        return msgspec.convert(plistlib.loads(bytes(data)), receiving, builtin_types=kept)

    return encode, decode


def _functions(using: Any, receiving: Any) -> tuple[Callable[[Any], bytes], Callable[[Any], Any]]:
    if isinstance(using, str):
        try:
            return _built_in(using, receiving)
        except TypeError as error:
            if "unhashable" not in str(error):
                raise
            return _built_in.__wrapped__(using, receiving)
    return using.encode, lambda data: using.decode(bytes(data), receiving)


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)
