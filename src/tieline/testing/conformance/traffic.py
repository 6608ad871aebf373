"""Bytes on their way, in pieces of every size, sent and received by every call there is."""

from __future__ import annotations

import random

from tieline.testing.conformance.trial import Connection

__all__ = ["receive_anyhow", "receive_to_the_end", "send_in_cuts"]

CUTS = (1, 7, 1000, 16384, 16385, 100_000)


async def send_in_cuts(channel: Connection, data: bytes, chance: random.Random) -> None:
    view = memoryview(data)
    while view:
        cut = chance.choice(CUTS)
        await channel.send(view[:cut])
        view = view[cut:]


async def receive_anyhow(channel: Connection, count: int, chance: random.Random) -> bytes:
    """So many bytes, by calls of every form."""
    received = bytearray()
    while (left := count - len(received)) > 0:
        cut = min(left, chance.choice(CUTS))
        form = chance.randrange(3)
        if form == 0:
            received += (await channel.receive(exactly=cut)).content
        elif form == 1:
            received += (await channel.receive(at_least=chance.randint(1, cut), at_most=cut)).content
        else:
            buffer = bytearray(cut)
            received += buffer[: await channel.receive_into(buffer)]
    return bytes(received)


async def receive_to_the_end(channel: Connection) -> bytes:
    return b"".join([content async for content, _ in channel])
