"""The conformance suite over real sockets on this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from tieline.testing.conformance import DATAGRAM_CHECKS, STREAM_CHECKS, Check, MakePair


@asynccontextmanager
async def pairs(pair_over: Callable[..., Any], transport: str) -> AsyncIterator[MakePair]:
    """What makes pairs over this transport, each with a listener of its own, until the end of the block."""
    async with AsyncExitStack() as stack:

        async def make_pair() -> Any:
            return await stack.enter_async_context(pair_over(transport))

        yield make_pair


OVER_STREAMS = [
    pytest.param(transport, check, id=f"{transport}-{check}")
    for transport in ("tcp", "tls", "unix")
    for check in STREAM_CHECKS
    if (transport, check.name) != ("unix", "abort_resets")  # a Unix socket has no reset: its peer sees an end
]


@pytest.mark.parametrize(("transport", "check"), OVER_STREAMS)
async def test_streams(pair_over: Callable[..., Any], transport: str, check: Check) -> None:
    async with pairs(pair_over, transport) as make_pair:
        await check(make_pair)


@pytest.mark.parametrize("check", DATAGRAM_CHECKS, ids=str)
async def test_datagrams(pair_over: Callable[..., Any], check: Check) -> None:
    async with pairs(pair_over, "udp") as make_pair:
        await check(make_pair)
