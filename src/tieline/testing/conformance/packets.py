"""What packets say (`IPMetadata`), over a network that loses none and changes nothing but the hop limit.

A pair whose ends both ask for it: ``UDP(IP(metadata_received=True, receive_time_calculated=True))``.
"""

from __future__ import annotations

from typing import Any

from tieline.connection import NetworkConnection
from tieline.protocols.ip import ECN, IPMetadata, ServiceClass
from tieline.protocols.message import Message
from tieline.protocols.udp import UDP
from tieline.testing.conformance.trial import HOLDS, PATIENCE, Check, MakePair, Trial

__all__ = ["PACKET_CHECKS", "check_packets"]

USUAL = ECN.NOT_ECT, 0
MILLISECOND = 0.001  # that the clocks of a driver and of its system may disagree by


async def said(trial: Trial, channel: NetworkConnection[UDP]) -> tuple[bytes, IPMetadata]:
    """The next datagram, and what its packet says."""
    content, metadata = await channel.receive()
    if metadata.ip is None:
        trial.fail("an IPMetadata", "none")
    return content, metadata.ip


@Check
async def congestion_and_class(trial: Trial) -> None:
    """ECN bits and DSCP arrive as they were sent, in both directions, and the next datagram has the usual ones again."""
    near, far = await trial.pair()
    for channel, other in ((near, far), (far, near)):
        for ecn in ECN:
            for metadata in (
                IPMetadata(ecn=ecn),
                *(IPMetadata(ecn=ecn, dscp=dscp) for dscp in (0, 5, 63)),
                *(IPMetadata(ecn=ecn, service_class=one) for one in ServiceClass),
            ):
                trial.step(f"a datagram with {metadata}")
                dscp = metadata.dscp or 0 if metadata.service_class is None else metadata.service_class.dscp
                await channel.send(b"described", metadata=metadata)
                _, found = await said(trial, other)
                trial.same((ecn, dscp), (found.ecn, found.dscp))
                trial.step(f"one without anything after one with {metadata}")
                await channel.send(b"usual")
                _, found = await said(trial, other)
                trial.same(USUAL, (found.ecn, found.dscp))


@Check
async def hop_limit(trial: Trial) -> None:
    """The hop limit arrives as far as the way has left of it, and is that of one datagram only."""
    near, far = await trial.pair()
    await near.send(b"usual")
    _, before = await said(trial, far)
    usual = before.hop_limit or 0
    trial.step("a datagram without anything said of it")
    trial.same(True, usual > 0)
    for hops in (255, 254, 100):
        trial.step(f"a datagram with hop_limit={hops}")
        await near.send(b"described", metadata=IPMetadata(hop_limit=hops))
        _, found = await said(trial, far)
        crossed = hops - (found.hop_limit or 0)
        trial.same(True, 0 <= crossed < 100)
        await near.send(b"usual")
        _, after = await said(trial, far)
        trial.same(usual, after.hop_limit)


@Check
async def many_at_once(trial: Trial) -> None:
    """What is said of several datagrams is said of each; each that is received keeps its own."""
    near, far = await trial.pair()
    sent: list[tuple[bytes, int]] = []
    for number in range(12):
        datagrams = [bytes([number]) * size for size in (9, 9, 9, 0, 4)]
        await near.send_many(datagrams, metadata=IPMetadata(ecn=ECN(number % 4), dscp=number))
        sent += [(datagram, number) for datagram in datagrams]
    trial.step("receive_many(at_most=7) of 60 datagrams, of which five at a time say the same")
    received: list[Message[bytes, Any]] = []
    while len(received) < len(sent):
        received += await far.receive_many(at_most=7)
    trial.same(sent, [(content, metadata.ip.dscp) for content, metadata in received])
    trial.same([ECN(number % 4) for _, number in sent], [metadata.ip.ecn for _, metadata in received])


@Check
async def receive_time(trial: Trial) -> None:
    """The time of arrival lies between sending and receiving, on the clock of the receiver, and never goes back."""
    near, far = await trial.pair()
    last = 0.0
    for number in range(5):
        trial.step(f"datagram number {number}")
        before = far.driver.time()
        await near.send(b"%d" % number)
        content, metadata = await said(trial, far)
        trial.same(b"%d" % number, content)
        time = metadata.receive_time
        if time is None:
            trial.fail("a time", "none")
        trial.same(True, max(before - MILLISECOND, last) <= time <= far.driver.time() + MILLISECOND)
        last = time - MILLISECOND


PACKET_CHECKS: tuple[Check, ...] = (congestion_and_class, hop_limit, many_at_once, receive_time)


async def check_packets(make_pair: MakePair, *, holds: int = HOLDS, patience: float = PATIENCE) -> None:
    """Run every check of `PACKET_CHECKS`; their options are those of `Check`. Raises AssertionError at the first that fails.

    Cancelling: the pairs that were made are aborted.
    """
    for check in PACKET_CHECKS:
        await check(make_pair, holds=holds, patience=patience)
