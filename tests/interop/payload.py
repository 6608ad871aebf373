"""What is sent in these tests: enough to fill every buffer on the way, and different in each direction."""

from __future__ import annotations

import random
from hashlib import sha256
from typing import Any

from tieline import NetworkConnection

__all__ = ["FROM_CLIENT", "FROM_SERVER", "SIZE", "digest", "receive_payload"]

SIZE = 3 << 20
# Bytes of 128 and more. openssl takes a letter at the beginning of what it reads from its input as a command, and mixes
# what it says of itself with the data that it prints.
HIGH = bytes(range(128, 256)) * 2
FROM_CLIENT = random.Random(1).randbytes(SIZE).translate(HIGH)
FROM_SERVER = random.Random(2).randbytes(SIZE + 1).translate(HIGH)


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()


async def receive_payload(connection: NetworkConnection[Any], count: int) -> bytes:
    """So many bytes, in the pieces in which they come."""
    pieces: list[bytes] = []
    while count:
        content, metadata = await connection.receive(at_most=min(count, 1 << 20))
        assert not metadata.end_of_stream, f"{count} bytes are missing"
        pieces.append(content)
        count -= len(content)
    return b"".join(pieces)
