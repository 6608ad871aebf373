"""What every transport and every layer has to do, as checks that run against anybody's.

    async def make_pair():
        return await memory_pair(MyProtocol(TCP()))

    await check_stream(make_pair)

Whoever writes a protocol, a driver or a layer runs these against it. Each check has a name and can be run alone, so a test
runner can be given them one by one::

    @pytest.mark.parametrize("check", STREAM_CHECKS, ids=str)
    async def test_my_protocol(check):
        await check(make_pair)

A check that fails raises `AssertionError` with its name, what it was doing, what it expected and what it got. They need no test
runner, and choose their sizes and cuts by a fixed seed. They run on whatever event loop is running; where nothing happens for
`patience` seconds of its time, something was lost. What a transport does not have (a Unix socket has no reset) is said by
leaving that check out.
"""

from __future__ import annotations

from tieline.testing.conformance.datagrams import DATAGRAM_CHECKS, check_datagrams
from tieline.testing.conformance.layers import LAYER_CHECKS, LayerCheck, check_layer
from tieline.testing.conformance.packets import PACKET_CHECKS, check_packets
from tieline.testing.conformance.streams import STREAM_CHECKS, check_stream
from tieline.testing.conformance.trial import Check, MakePair

__all__ = [
    "DATAGRAM_CHECKS",
    "LAYER_CHECKS",
    "PACKET_CHECKS",
    "STREAM_CHECKS",
    "Check",
    "LayerCheck",
    "MakePair",
    "check_datagrams",
    "check_layer",
    "check_packets",
    "check_stream",
]
