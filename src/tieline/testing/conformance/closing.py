"""How a stream ends: by one side's end, by a close, by an abort, and what every call says then."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any

from tieline.errors import ChannelClosedError, IncompleteReceiveError, PeerResetError
from tieline.protocols.integers import UInt32
from tieline.testing.conformance.traffic import receive_to_the_end
from tieline.testing.conformance.trial import MOMENTS, Check, Connection, Trial

__all__ = [
    "abort_resets",
    "close_drains",
    "early_end",
    "half_close",
    "pending_calls_end_at_close",
    "use_after_close",
]


@Check
async def half_close(trial: Trial) -> None:
    """Each direction ends on its own, whichever side is the first; the end is told every time, and sending goes on."""
    for swapped in (False, True):
        near, far = await trial.pair(swapped=swapped)
        side = "accepted" if swapped else "connecting"
        trial.step(f"the end of the {side} side")
        await near.send(b"question", end_of_stream=True)
        content, metadata = await far.receive(at_least=100, at_most=100)
        trial.same((b"question", True), (content, metadata.end_of_stream))
        for _ in range(2):
            content, metadata = await far.receive()
            trial.same((b"", True), (content, metadata.end_of_stream))
        trial.same(0, await far.receive_into(bytearray(1)))
        trial.same(b"", await receive_to_the_end(far))
        trial.step(f"an answer after the end of the {side} side")
        data = random.Random(7).randbytes(200_000)
        await trial.together(far.send(data), answered(trial, near, data))
        trial.step(f"the other end, after that of the {side} side")
        await far.send(b"", end_of_stream=True)
        content, metadata = await near.receive()
        trial.same((b"", True), (content, metadata.end_of_stream))
        trial.step(f"a send after the end of the {side} side")
        with trial.raising(ChannelClosedError):
            await near.send(b"more")


async def answered(trial: Trial, channel: Connection, data: bytes) -> None:
    trial.same(data, (await channel.receive(exactly=len(data))).content)


@Check
async def early_end(trial: Trial) -> None:
    """A call that needs more than there will be says what there was, and how much it wanted."""
    calls: dict[str, tuple[Callable[[Connection], Coroutine[Any, Any, Any]], int | None]] = {
        "receive(exactly=5)": (lambda one: one.receive(exactly=5), 5),
        "receive(as_=UInt32)": (lambda one: one.receive(as_=UInt32), 4),
        "receive(until=b'\\n')": (lambda one: one.receive(until=b"\n"), None),
        "receive_into(5, exactly=True)": (lambda one: one.receive_into(bytearray(5), exactly=True), 5),
    }
    for text, (call, expected) in calls.items():
        near, far = await trial.pair()
        trial.step(f"{text} of 3 bytes and the end")
        await near.send(b"abc", end_of_stream=True)
        with trial.raising(IncompleteReceiveError) as caught:
            await call(far)
        trial.same((b"abc", expected), (caught[0].partial, caught[0].expected))
        trial.same(b"", (await far.receive()).content)


@Check
async def close_drains(trial: Trial) -> None:
    """What was accepted before a close still comes, and then the end."""
    for size in (100, 100_000, 3_000_000):
        near, far = await trial.pair()
        data = random.Random(size).randbytes(size)
        trial.step(f"closing right after {size:,} bytes")

        async def send_and_close(near: Connection = near, data: bytes = data) -> None:
            await near.send(data)
            await near.aclose()

        closing = trial.start(send_and_close())
        await trial.turns(MOMENTS)
        trial.same(data, await receive_to_the_end(far))
        await closing


@Check
async def abort_resets(trial: Trial) -> None:
    """An abort is no end: the peer's receive raises, the one that waits and the next one."""
    for swapped in (False, True):
        near, far = await trial.pair(swapped=swapped)
        waiting = trial.start(far.receive())
        await trial.turns(MOMENTS)
        near.abort()
        trial.step("a receive that waits while the peer aborts")
        with trial.raising(PeerResetError):
            await waiting
        trial.step("a receive after the peer has aborted")
        with trial.raising(PeerResetError):
            await far.receive(exactly=1)


@Check
async def pending_calls_end_at_close(trial: Trial) -> None:
    """Calls of other tasks raise when the connection is closed or aborted."""
    near, far = await trial.pair()
    receiving = [trial.start(near.receive()), trial.start(near.receive(exactly=3))]
    await trial.turns(MOMENTS)
    trial.step("receives that wait at the close")
    await near.aclose()
    for task in receiving:
        with trial.raising(ChannelClosedError):
            await task
    near, far = await trial.pair()
    much = bytes(near.parameters.send_limit + far.parameters.receive_limit + trial.holds + 1)
    calls: tuple[Coroutine[Any, Any, Any], ...] = (near.send(much), near.send(b"next"), near.receive())
    waiting = [trial.start(call) for call in calls]
    await trial.turns(MOMENTS)
    trial.step("calls that wait at the abort")
    near.abort()
    for task in waiting:
        with trial.raising(ChannelClosedError):
            await task


@Check
async def use_after_close(trial: Trial) -> None:
    """After a close every call says so, and closing again does nothing."""
    near, far = await trial.pair()
    await far.send(b"unread")
    await trial.together(near.aclose(), far.aclose())
    await near.aclose()
    near.abort()
    calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "send": lambda: near.send(b"more"),
        "receive()": lambda: near.receive(),
        "receive(exactly=1)": lambda: near.receive(exactly=1),
        "receive_into": lambda: near.receive_into(bytearray(1)),
        "iteration": lambda: receive_to_the_end(near),
    }
    for text, call in calls.items():
        trial.step(f"{text} after the close")
        with trial.raising(ChannelClosedError):
            await call()
