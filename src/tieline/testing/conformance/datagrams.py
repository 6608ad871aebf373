"""Messages with boundaries and a largest size, over a network that loses none: UDP and whatever else is a `DatagramProtocol`."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from tieline.errors import ChannelClosedError, MessageTooLargeError
from tieline.protocols.message import Message
from tieline.testing.conformance.trial import HOLDS, MOMENTS, PATIENCE, Check, Connection, MakePair, Trial

__all__ = ["DATAGRAM_CHECKS", "check_datagrams"]

SIZES = (1, 2, 100, 1200, 1472)
BURST = 40  # datagrams of 1000 bytes: what a kernel keeps for a socket at the least
FEW = [b"1", b"22", b"", b"333", b"4444"]  # of different sizes: no two can be taken for each other


@Check
async def boundaries(trial: Trial) -> None:
    """Each datagram comes whole and by itself, in both directions, up to the largest."""
    near, far = await trial.pair()
    chance = random.Random(1)
    for channel, other in ((near, far), (far, near)):
        for size in (*SIZES, channel.maximum_datagram_size):
            trial.step(f"a datagram of {size:,} bytes")
            data = chance.randbytes(size)
            await channel.send(data)
            trial.same(data, (await other.receive()).content)
    trial.step("five datagrams, one after the other")
    await near.send_many(FEW)
    trial.same(FEW, [(await far.receive()).content for _ in FEW])


@Check
async def empty_datagram(trial: Trial) -> None:
    """An empty datagram is one, and no end."""
    near, far = await trial.pair()
    for sent in (b"", b"something", b"", b""):
        trial.step(f"{sent!r}")
        await near.send(sent)
        trial.same(sent, (await far.receive()).content)


@Check
async def too_large(trial: Trial) -> None:
    """What is too large raises with its size and the limit; then nothing was sent, not even what was sent together with it."""
    near, far = await trial.pair()
    limit = near.maximum_datagram_size
    large = bytes(limit + 1)
    calls: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
        "send": lambda: near.send(large),
        "send_many, with a small one before": lambda: near.send_many([b"small", large]),
    }
    for text, call in calls.items():
        trial.step(f"{text}: {limit + 1:,} bytes where {limit:,} are allowed")
        with trial.raising(MessageTooLargeError) as caught:
            await call()
        trial.same((limit, limit + 1), (caught[0].limit, caught[0].size))
        await near.send(b"next")
        trial.same(b"next", (await far.receive()).content)


@Check
async def receive_many(trial: Trial) -> None:
    """At least one comes, at most so many, in order; none is lost or comes twice."""
    near, far = await trial.pair()
    sent = [bytes([number]) * (number + 1) for number in range(40)]
    trial.step("receive_many(at_most=7) of 40 datagrams")
    await near.send_many(sent)
    received: list[bytes] = []
    while len(received) < len(sent):
        messages = await far.receive_many(at_most=7)
        trial.same(True, 1 <= len(messages) <= 7)
        received += [message.content for message in messages]
    trial.same(sent, received)
    trial.step("receive_many that waits")
    waiting = trial.start(far.receive_many())
    await trial.turns(MOMENTS)
    trial.same(False, waiting.done())
    await near.send(b"one")
    trial.same([b"one"], [message.content for message in await waiting])


@Check
async def iteration(trial: Trial) -> None:
    """The channel and its `messages` give one datagram after the other."""
    near, far = await trial.pair()
    sources: dict[str, AsyncIterator[Message[bytes, Any]]] = {"the channel": aiter(far), "messages": aiter(far.messages)}
    for text, messages in sources.items():
        trial.step(f"iterating {text}")
        await near.send_many(FEW)
        trial.same(FEW, [(await anext(messages)).content for _ in FEW])


@Check
async def cancelled_receive_consumes_nothing(trial: Trial) -> None:
    """A receive that is cancelled before or while a datagram comes has taken it, or leaves it to the next."""
    near, far = await trial.pair()
    calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "receive": lambda: far.receive(),
        "receive_many": lambda: first_of_many(far),
    }
    for text, call in calls.items():
        for moment in range(2 * MOMENTS):
            trial.step(f"{text}, cancelled at moment {moment}")
            waiting = trial.start(call())
            await trial.turns(min(moment, MOMENTS))
            if moment >= MOMENTS:
                await near.send(b"datagram")
                await trial.turns(moment - MOMENTS)
            result = await trial.cancelled(waiting)
            if moment < MOMENTS:
                await near.send(b"datagram")
            if result is None:
                result = await far.receive()
            trial.same(b"datagram", result.content)


async def first_of_many(channel: Connection) -> Message[bytes, Any]:
    return (await channel.receive_many())[0]


@Check
async def pending_receives_in_order(trial: Trial) -> None:
    """Receives that wait are answered in the order in which they were made, also when one of them is cancelled."""
    near, far = await trial.pair()
    waiting = [trial.start(far.receive()) for _ in range(len(FEW) + 1)]
    await trial.turns(2)
    waiting.pop(2).cancel()
    await trial.turns(2)
    trial.step("five receives that wait")
    await near.send_many(FEW)
    trial.same(FEW, [(await task).content for task in waiting])


@Check
async def many_sends(trial: Trial) -> None:
    """Sending waits while there is no room and then goes on: a thousand datagrams, answered now and then, come in order."""
    near, far = await trial.pair()
    sent = [number.to_bytes(2, "big") * 500 for number in range(1000)]
    received: list[bytes] = []

    async def answer() -> None:
        while len(received) < len(sent):
            received.append((await far.receive()).content)
            if len(received) % BURST == 0:
                await far.send(b"go on")

    trial.step(f"a thousand datagrams, {BURST} at a time")
    answering = trial.start(answer())
    for first in range(0, len(sent), BURST):
        await near.send_many(sent[first : first + BURST])
        await near.receive()
    await answering
    trial.same(sent, received)


@Check
async def pending_calls_end_at_close(trial: Trial) -> None:
    """Receives of other tasks raise when the connection is closed or aborted."""
    for close in ("aclose", "abort"):
        near, _ = await trial.pair()
        waiting = [trial.start(near.receive()), trial.start(near.receive())]
        await trial.turns(MOMENTS)
        trial.step(f"receives that wait at {close}()")
        if close == "abort":
            near.abort()
        else:
            await near.aclose()
        for task in waiting:
            with trial.raising(ChannelClosedError):
                await task


@Check
async def use_after_close(trial: Trial) -> None:
    """After a close every call says so, and closing again does nothing."""
    near, far = await trial.pair()
    await far.send(b"unread")
    await near.aclose()
    await near.aclose()
    near.abort()
    calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "send": lambda: near.send(b"more"),
        "send_many": lambda: near.send_many([b"more"]),
        "receive": lambda: near.receive(),
        "receive_many": lambda: near.receive_many(),
        "iteration": lambda: iterate(near),
    }
    for text, call in calls.items():
        trial.step(f"{text} after the close")
        with trial.raising(ChannelClosedError):
            await call()


async def iterate(channel: Connection) -> None:
    async for _ in channel:
        pass


DATAGRAM_CHECKS: tuple[Check, ...] = (
    boundaries,
    empty_datagram,
    too_large,
    receive_many,
    iteration,
    cancelled_receive_consumes_nothing,
    pending_receives_in_order,
    many_sends,
    pending_calls_end_at_close,
    use_after_close,
)


async def check_datagrams(make_pair: MakePair, *, holds: int = HOLDS, patience: float = PATIENCE) -> None:
    """Run every check of `DATAGRAM_CHECKS`; their options are those of `Check`. Raises AssertionError at the first that fails.

    Cancelling: the pairs that were made are aborted.
    """
    for check in DATAGRAM_CHECKS:
        await check(make_pair, holds=holds, patience=patience)
