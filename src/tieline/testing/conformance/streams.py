"""Ordered bytes without boundaries: TCP, TLS, and whatever else says that it is a `StreamProtocol`."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any

from tieline.errors import MessageTooLargeError
from tieline.protocols.integers import Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64
from tieline.protocols.message import Message, StreamMetadata
from tieline.testing.conformance.closing import (
    abort_resets,
    close_drains,
    early_end,
    half_close,
    pending_calls_end_at_close,
    use_after_close,
)
from tieline.testing.conformance.traffic import receive_anyhow, send_in_cuts
from tieline.testing.conformance.trial import HOLDS, MOMENTS, PATIENCE, Check, Connection, MakePair, Trial

__all__ = ["STREAM_CHECKS", "check_stream"]

SIZES = (1, 2, 3, 1000, 16384, 16385, 65537, 1_000_000)  # a TLS record holds 16384 bytes


@Check
async def order_and_completeness(trial: Trial) -> None:
    """Whatever the sizes and cuts, the same bytes come in the same order, in both directions at once."""
    near, far = await trial.pair()
    for size in SIZES:
        there, back = random.Random(size).randbytes(size), random.Random(-size).randbytes(size)
        trial.step(f"{size:,} bytes each way")
        _, _, arrived, returned = await trial.together(
            send_in_cuts(near, there, random.Random(1)),
            send_in_cuts(far, back, random.Random(2)),
            receive_anyhow(far, size, random.Random(3)),
            receive_anyhow(near, size, random.Random(4)),
        )
        trial.same(there, arrived)
        trial.same(back, returned)


@Check
async def receive_exactly(trial: Trial) -> None:
    """``exactly=n`` waits for n bytes and leaves the rest."""
    near, far = await trial.pair()
    for piece in (b"0", b"12", b"3456789"):
        await near.send(piece)
    for count, expected in ((0, b""), (1, b"0"), (4, b"1234"), (5, b"56789")):
        trial.step(f"receive(exactly={count})")
        trial.same(expected, (await far.receive(exactly=count)).content)
    waiting = trial.start(far.receive(exactly=6))
    await near.send(b"abc")
    await trial.turns(MOMENTS)
    trial.step("receive(exactly=6) after 3 bytes")
    trial.same(False, waiting.done())
    await near.send(b"defg")
    trial.same(b"abcdef", (await waiting).content)
    trial.same(b"g", (await far.receive(exactly=1)).content)


@Check
async def receive_at_least_at_most(trial: Trial) -> None:
    """At least so many bytes come, and never more than asked for."""
    near, far = await trial.pair()
    await near.send(b"0123456789")
    trial.step("receive(at_least=10)")
    trial.same(b"0123456789", (await far.receive(at_least=10)).content)
    await near.send(b"0123456789")
    left = b"0123456789"
    while left:
        trial.step(f"receive(at_most=3) with {len(left)} bytes left")
        content, metadata = await far.receive(at_most=3)
        trial.same(left[: len(content)], content)
        trial.same((True, False), (1 <= len(content) <= 3, metadata.end_of_stream))
        left = left[len(content) :]


@Check
async def receive_until(trial: Trial) -> None:
    """A separator is found wherever it was cut; one that does not come in time consumes nothing."""
    near, far = await trial.pair()
    for cut in range(8):
        trial.step(f"two lines cut at byte {cut}")
        data = b"a\r\nb\rc\r\n"
        await near.send(data[:cut])
        first = trial.start(far.receive(until=b"\r\n"))
        await trial.turns(2)
        await near.send(data[cut:])
        trial.same(b"a\r\n", (await first).content)
        trial.same(b"b\rc\r\n", (await far.receive(until=b"\r\n")).content)
    trial.step("receive(until=..., at_most=4) of 6 bytes")
    await near.send(b"12345\n")
    with trial.raising(MessageTooLargeError):
        await far.receive(until=b"\n", at_most=4)
    trial.same(b"12345\n", (await far.receive(until=b"\n", at_most=6)).content)


@Check
async def receive_integers(trial: Trial) -> None:
    """Integers of every width, big-endian."""
    near, far = await trial.pair()
    for kind in (UInt8, UInt16, UInt32, UInt64, Int8, Int16, Int32, Int64):
        bits = kind.width * 8
        for value in (-(1 << bits - 1), -1, 1, (1 << bits - 1) - 1) if kind.signed else (0, 1, (1 << bits) - 1):
            trial.step(f"{kind.__name__}({value})")
            await near.send(kind(value))
            trial.same(value, (await far.receive(as_=kind)).content)
    trial.step("UInt32(258) as bytes")
    await near.send(UInt32(258))
    trial.same(b"\0\0\1\2", (await far.receive(exactly=4)).content)


@Check
async def receive_into(trial: Trial) -> None:
    """A buffer is filled from its beginning, as far as there is something, or whole; 0 is the end."""
    near, far = await trial.pair()
    await near.send(b"0123456789")
    buffer = bytearray(b"......")
    trial.step("receive_into with exactly=True")
    trial.same(6, await far.receive_into(buffer, exactly=True))
    trial.same(b"012345", bytes(buffer))
    trial.step("receive_into of what is left")
    left = b""
    while len(left) < 4:
        count = await far.receive_into(buffer)
        trial.same(True, 1 <= count <= 4 - len(left))
        left += buffer[:count]
    trial.same(b"6789", left)
    await near.send(b"", end_of_stream=True)
    trial.step("receive_into at the end")
    trial.same(0, await far.receive_into(buffer))


@Check
async def iteration(trial: Trial) -> None:
    """Iterating gives every byte in pieces, never an empty one, and ends at the end."""
    near, far = await trial.pair()
    data = random.Random(5).randbytes(300_000)
    sending = trial.start(send_in_cuts(near, data, random.Random(6)))
    pieces: list[bytes] = []
    trial.step("iterating")
    async for content, _ in far:
        trial.same(True, len(content) > 0)
        pieces.append(content)
        if sum(map(len, pieces)) == len(data):
            await sending
            trial.step("the end of the iteration")
            await near.send(b"", end_of_stream=True)
    trial.step("what the iteration gave")
    trial.same(data, b"".join(pieces))


async def step(channel: Connection) -> Message[bytes, StreamMetadata]:
    return await anext(aiter(channel))


EIGHT = b"1234567\n"
FORMS: dict[str, Callable[[Connection, bytearray], Coroutine[Any, Any, Any]]] = {
    "receive(exactly=8)": lambda one, _: one.receive(exactly=8),
    "receive(at_least=8)": lambda one, _: one.receive(at_least=8),
    "receive(until=b'\\n')": lambda one, _: one.receive(until=b"\n"),
    "receive(as_=UInt64)": lambda one, _: one.receive(as_=UInt64),
    "receive_into(8, exactly=True)": lambda one, buffer: one.receive_into(buffer, exactly=True),
    "an iteration's step": lambda one, _: step(one),
}


@Check
async def cancelled_receive_consumes_nothing(trial: Trial) -> None:
    """Every form of receive, cancelled before, while and after its bytes come, has taken all of them or none."""
    near, far = await trial.pair()
    for form, call in FORMS.items():
        for moment in range(3 * MOMENTS):
            trial.step(f"{form}, cancelled at moment {moment}")
            buffer = bytearray(b"." * 8)
            waiting = trial.start(call(far, buffer))
            first, second, third = (min(MOMENTS, max(0, moment - earlier)) for earlier in (0, MOMENTS, 2 * MOMENTS))
            sent = EIGHT
            await trial.turns(first)
            if moment >= MOMENTS:
                await near.send(EIGHT[:4])
                await trial.turns(second)
                sent = EIGHT[4:]
            if moment >= 2 * MOMENTS:
                await near.send(EIGHT[4:])
                await trial.turns(third)
                sent = b""
            result = await trial.cancelled(waiting)
            if sent:
                await near.send(sent)
            taken = b"" if result is None else taken_by(result, buffer)
            trial.same(EIGHT[len(taken) :], (await far.receive(exactly=8 - len(taken))).content)
            if result is None:
                trial.same(b"." * 8, bytes(buffer))
            else:
                trial.same(EIGHT[: len(taken)], taken)


def taken_by(result: Any, buffer: bytearray) -> bytes:
    """What a call took: it gives bytes, a number of eight bytes, or how many are in the buffer."""
    if isinstance(result, int):
        return bytes(buffer[:result])
    return bytes(UInt64(result.content)) if isinstance(result.content, int) else bytes(result.content)


@Check
async def pending_receives_in_order(trial: Trial) -> None:
    """Receives that wait are answered in the order in which they were made, also when one of them is cancelled."""
    near, far = await trial.pair()
    data = random.Random(8).randbytes(sum(range(1, 21)))
    waiting = [trial.start(far.receive(exactly=count)) for count in range(1, 21)]
    await trial.turns(2)
    dropped = waiting.pop(9)
    dropped.cancel()
    await trial.turns(2)
    trial.step("19 receives that wait")
    await trial.together(send_in_cuts(near, data[:-10], random.Random(9)))
    place = 0
    for task in waiting:
        content = (await task).content
        trial.same(data[place : place + len(content)], content)
        place += len(content)
    trial.same(len(data) - 10, place)


@Check
async def pending_sends_in_order(trial: Trial) -> None:
    """Sends of several tasks come whole, in the order in which they were made."""
    near, far = await trial.pair()
    pieces = [bytes([65 + number]) * 300_000 for number in range(10)]
    sending = [trial.start(near.send(piece)) for piece in pieces]
    trial.step("10 sends at once")
    trial.same(b"".join(pieces), await receive_anyhow(far, 3_000_000, random.Random(10)))
    for task in sending:
        await task


@Check
async def sending_is_held_back(trial: Trial) -> None:
    """With a peer that does not read, only so much is accepted; when it reads, sending goes on and nothing is missing."""
    near, far = await trial.pair()
    bound = near.parameters.send_limit + far.parameters.receive_limit + trial.holds
    piece = random.Random(11).randbytes(64 * 1024)
    count, accepted = bound // len(piece) + 2, 0

    async def send_all() -> None:
        nonlocal accepted
        for _ in range(count):
            await near.send(piece)
            accepted += len(piece)

    sending = trial.start(send_all())
    trial.step("sending to a peer that does not read")
    await trial.quiet(lambda: accepted)
    if accepted > bound:
        trial.fail(f"at most {bound:,} bytes to be accepted", f"{accepted:,}")
    trial.step("going on when the peer reads")
    for _ in range(count):
        trial.same(piece, (await far.receive(exactly=len(piece))).content)
    await sending


STREAM_CHECKS: tuple[Check, ...] = (
    order_and_completeness,
    receive_exactly,
    receive_at_least_at_most,
    receive_until,
    receive_integers,
    receive_into,
    iteration,
    half_close,
    early_end,
    cancelled_receive_consumes_nothing,
    pending_receives_in_order,
    pending_sends_in_order,
    sending_is_held_back,
    close_drains,
    abort_resets,
    pending_calls_end_at_close,
    use_after_close,
)


async def check_stream(make_pair: MakePair, *, holds: int = HOLDS, patience: float = PATIENCE) -> None:
    """Run every check of `STREAM_CHECKS`; their options are those of `Check`. Raises AssertionError at the first that fails.

    Cancelling: the pairs that were made are aborted.
    """
    for check in STREAM_CHECKS:
        await check(make_pair, holds=holds, patience=patience)
