"""Integers of a fixed width, big-endian on the wire: ``send(UInt32(7))``, ``receive(as_=UInt32)``."""

from __future__ import annotations

from typing import ClassVar, Self, SupportsInt

__all__ = ["FixedWidthInteger", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64"]


class FixedWidthInteger(int):
    """An `int` that knows its width. A value that does not fit raises `ValueError`."""

    width: ClassVar[int]
    """Bytes on the wire."""
    signed: ClassVar[bool]
    __slots__ = ()

    def __new__(cls, value: SupportsInt) -> Self:
        number = int(value)
        bits = cls.width * 8
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if cls.signed else (0, (1 << bits) - 1)
        if not low <= number <= high:
            raise ValueError(f"{cls.__name__} holds {low} to {high}, got {number}")
        return super().__new__(cls, number)

    def __bytes__(self) -> bytes:
        return self.to_bytes(self.width, "big", signed=self.signed)

    @classmethod
    def decode(cls, data: bytes) -> int:
        """The number whose wire form is `data`, which must be `width` bytes."""
        if len(data) != cls.width:
            raise ValueError(f"{cls.__name__} is {cls.width} bytes on the wire, got {len(data)}")
        return int.from_bytes(data, "big", signed=cls.signed)


class UInt8(FixedWidthInteger):
    """0 to 255, one byte."""

    width, signed = 1, False


class UInt16(FixedWidthInteger):
    """0 to 65,535, two bytes."""

    width, signed = 2, False


class UInt32(FixedWidthInteger):
    """0 to 2³² − 1, four bytes."""

    width, signed = 4, False


class UInt64(FixedWidthInteger):
    """0 to 2⁶⁴ − 1, eight bytes."""

    width, signed = 8, False


class Int8(FixedWidthInteger):
    """−128 to 127, one byte."""

    width, signed = 1, True


class Int16(FixedWidthInteger):
    """−32,768 to 32,767, two bytes."""

    width, signed = 2, True


class Int32(FixedWidthInteger):
    """−2³¹ to 2³¹ − 1, four bytes."""

    width, signed = 4, True


class Int64(FixedWidthInteger):
    """−2⁶³ to 2⁶³ − 1, eight bytes."""

    width, signed = 8, True
