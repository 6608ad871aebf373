"""Hostile datagrams at both ends of QUIC: noise, damage, copies, replays, and floods of beginnings."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tieline import QUIC, HostPort, NetworkConnection, NetworkListener, Parameters
from tieline._engine.quic import QuicEndpoint
from tieline.engines import quic as engines

from ..authority import LOCALHOST, TRUST
from ..peers import until
from .memory import usage
from .relay import Relay, relaying

# A protocol of their own: sessions of other tests' foreign servers, which have the same name, are not to be resumed here.
HOSTILE = ["hostile"]
SERVER = QUIC(alpn=HOSTILE, identity=LOCALHOST, max_datagram_frame_size=1000)
CLIENT = QUIC(alpn=HOSTILE, trust=TRUST, server_name="localhost", max_datagram_frame_size=1000)
LOCAL = HostPort("127.0.0.1", 0)
THOROUGH = settings().max_examples > 1000
CHANCE = random.Random(9000)
# The engine is what is attacked, and a handshake that fails is forgotten after seconds: a second loop would show no more.
ONE_LOOP = pytest.mark.asyncio_only
GROWTH = 32 << 20  # bytes that the process may grow by under attack


# Both ends


async def everything(stream: Any) -> bytes:
    return b"".join([content async for content, _ in stream])


async def echo(connection: NetworkConnection[QUIC]) -> None:
    async def back(stream: Any) -> None:
        await stream.send(await everything(stream), end_of_stream=True)

    await connection.inbound_streams(back)


@asynccontextmanager
async def listening(using: QUIC = SERVER, **options: Any) -> AsyncIterator[NetworkListener[QUIC]]:
    parameters = Parameters(using, grace_period=0.0, **options)
    async with NetworkListener(parameters, on=LOCAL).serving(echo) as listener:
        yield listener


def engine_of(listener: NetworkListener[QUIC]) -> QuicEndpoint:
    side: Any = listener._side
    engine: QuicEndpoint = next(iter(side._ports.values()))._engine
    return engine


async def check_echo(connection: NetworkConnection[QUIC], count: int = 200_000) -> None:
    """It comes back as it was sent."""
    data = CHANCE.randbytes(count)
    stream = await connection.open_stream()
    received, _ = await asyncio.gather(everything(stream), stream.send(data, end_of_stream=True))
    assert sha256(received).digest() == sha256(data).digest()


# On the way

PASS, FLIP, CUT, LENGTHEN, TWICE, DROP, LATER, REPLAY, NOISE = range(9)
KINDS = st.sampled_from([PASS] * 24 + [FLIP, CUT, LENGTHEN, TWICE, DROP, LATER, REPLAY, NOISE])
PLANS = st.lists(st.tuples(KINDS, st.integers(0, 2**32 - 1)), min_size=8, max_size=64)


class Meddler:
    """Does what the plan says, over and over."""

    def __init__(self, plan: list[tuple[int, int]]) -> None:
        # Whatever the plan is, most packets arrive whole: it is no test of how patient anybody is.
        self._plan = itertools.cycle([step for meddling in plan for step in (meddling, *[(PASS, 0)] * 5)])
        self._held: dict[bool, list[bytes]] = {True: [], False: []}
        self._old: dict[bool, list[bytes]] = {True: [], False: []}

    def __call__(self, datagram: bytes, to_server: bool) -> list[bytes]:
        kind, number = next(self._plan)
        held, old = self._held[to_server], self._old[to_server]
        old.append(datagram)
        place = number % len(datagram) if datagram else 0
        out, self._held[to_server] = [datagram, *held], []
        if kind == FLIP:
            out[0] = datagram[:place] + bytes([datagram[place] ^ 1 << number % 8]) + datagram[place + 1 :]
        elif kind == CUT:
            out[0] = datagram[:place]
        elif kind == LENGTHEN:
            out[0] = datagram + datagram[:place]
        elif kind == TWICE:
            out.append(datagram)
        elif kind == DROP:
            del out[0]
        elif kind == LATER:
            self._held[to_server] = out
            out = []
        elif kind == REPLAY:
            out.append(old[number % len(old)])
        elif kind == NOISE:
            out.append(random.Random(number).randbytes(number % 1500))
        return out


@pytest.mark.timeout(120 if THOROUGH else 60)
@settings(max_examples=100 if THOROUGH else 15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=PLANS)
def test_damage_on_the_way(loop_factory: Callable[[], asyncio.AbstractEventLoop], plan: list[tuple[int, int]]) -> None:
    """Packets damaged, cut, lengthened, doubled, lost, late, repeated and invented: the transfer is complete and right."""
    problems: list[Any] = []

    async def transfer() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        async with (
            listening() as listener,
            relaying(listener.endpoint, Meddler(plan)) as relay,
            NetworkConnection(relay.endpoint, CLIENT) as connection,
            asyncio.timeout(40),
        ):
            await check_echo(connection)
            await asyncio.gather(*(check_echo(connection, 5000) for _ in range(5)))
            connection.abort()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(transfer())
    assert not problems


async def test_noise_in_mid_transfer(caplog: pytest.LogCaptureFixture) -> None:
    """Ten thousand datagrams of noise and of damaged copies, at both ends and from strangers, while a transfer goes on."""
    chance = random.Random(1)

    def invented(relay: Relay) -> bytes:
        datagram = bytearray(
            chance.choice(relay.passed)[0] if chance.random() < 0.7 else chance.randbytes(chance.randrange(1500))
        )
        for _ in range(chance.randrange(4)):
            if datagram:
                datagram[chance.randrange(min(len(datagram), 100))] = chance.randrange(256)
        return bytes(datagram[: chance.choice((len(datagram), chance.randrange(1500)))])

    with ExitStack() as stack, caplog.at_level(logging.WARNING):
        strangers = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(20)]
        async with (
            listening() as listener,
            relaying(listener.endpoint) as relay,
            NetworkConnection(relay.endpoint, CLIENT) as connection,
        ):
            await check_echo(connection)
            before = usage()
            for stranger in strangers:
                stranger.setblocking(False)
                stranger.connect((listener.endpoint.host, listener.port))  # type: ignore[union-attr]
            transfer = asyncio.create_task(check_echo(connection, 2_000_000))
            for number in range(2000):
                for _ in range(3):
                    relay.say(invented(relay), to_server=True)
                    relay.say(invented(relay), to_server=False)
                with contextlib.suppress(OSError):  # it is full
                    strangers[number % 20].send(invented(relay))
                await asyncio.sleep(0)
            await transfer
            await check_echo(connection)
            assert engine_of(listener).connections < 25
            assert usage()["resident"] - before["resident"] < GROWTH + sum(len(one) for one, _ in relay.passed)
    assert not caplog.records


@ONE_LOOP
async def test_replays_of_a_whole_connection() -> None:
    """Everything that a client said, said again by a stranger, is a few beginnings that lead to nothing."""
    async with listening(QUIC(alpn=HOSTILE, identity=LOCALHOST, early_data=True, handshake_timeout=0.5)) as listener:
        async with relaying(listener.endpoint) as relay:
            async with NetworkConnection(relay.endpoint, CLIENT) as connection:
                await check_echo(connection)
            engine = engine_of(listener)
            await until(lambda: engine.connections == 0)
            said = [datagram for datagram, to_server in relay.passed if to_server]
        before = usage()
        with socket.socket(type=socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            stranger.connect((listener.endpoint.host, listener.port))  # type: ignore[union-attr]
            for round_number in range(20):
                for datagram in said:
                    try:
                        stranger.send(datagram)
                    except BlockingIOError:
                        await asyncio.sleep(0.001)
                await asyncio.sleep(0)
                assert engine.connections <= round_number + 1
        await until(lambda: engine.connections == 0)
        assert usage()["resident"] - before["resident"] < GROWTH
        async with NetworkConnection(listener.endpoint, CLIENT) as connection:
            await check_echo(connection)


# Floods


def beginnings(count: int, port: int) -> list[list[bytes]]:
    """The first datagrams of so many clients."""
    client = engines.client(CLIENT)
    found = []
    for _ in range(count):
        endpoint = engines.client_endpoint(CLIENT)
        endpoint.connect(0.0, client, ("127.0.0.1", port), "localhost")
        found.append([data for data, *_ in endpoint.transmit(0.0, segments=1)])
    return found


async def flood(listener: NetworkListener[QUIC], count: int, sockets: ExitStack) -> None:
    """So many clients begin, each from a port of its own, and say nothing more."""
    for number, datagrams in enumerate(beginnings(count, listener.port)):
        sock = sockets.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        sock.setblocking(False)
        for datagram in datagrams:
            sock.sendto(datagram, ("127.0.0.1", listener.port))
        if number % 5 == 0:
            await asyncio.sleep(0)


@ONE_LOOP
@pytest.mark.parametrize("retry", [True, False], ids=["Retry", "never"])
async def test_a_flood_of_beginnings(retry: bool) -> None:
    """From 2,000 ports: the listener holds as many as it may, serves others meanwhile, and forgets them in time."""
    allowed = 200
    using = QUIC(alpn=HOSTILE, identity=LOCALHOST, handshake_timeout=1.0, retry_above=50 if retry else 2**31)
    async with listening(using, maximum_pending_handshakes=allowed) as listener:
        engine = engine_of(listener)
        async with NetworkConnection(listener.endpoint, CLIENT) as connection:
            await check_echo(connection)
            with ExitStack() as sockets:
                await flood(listener, 300, sockets)
                before = usage()
                await flood(listener, 2000, sockets)
                assert engine.connections <= allowed + 1
                await until(lambda: sum(engine.counters) > 2200)  # the kernel may have lost some
                accepted, retried, refused, failed = engine.counters
                assert failed == 0
                if retry:
                    assert retried > 1500 and accepted < 150
                    async with NetworkConnection(listener.endpoint, CLIENT) as other:  # it shows its address
                        await check_echo(other)
                else:
                    assert refused > 1500 and retried == 0
                await check_echo(connection)
                assert usage()["resident"] - before["resident"] < GROWTH
            await until(lambda: engine.connections == 1)
            async with NetworkConnection(listener.endpoint, CLIENT) as other:
                await check_echo(other)
