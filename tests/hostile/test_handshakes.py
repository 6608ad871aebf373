"""Peers that are no TLS peers, or broken ones, or that leave: the right error in time, and nothing left behind."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from tieline import (
    TCP,
    TLS,
    ConnectError,
    HandshakeTimeoutError,
    HostPort,
    NetworkConnection,
    NetworkError,
    NetworkListener,
    Parameters,
    PeerResetError,
    State,
    TLSError,
    TLSVersion,
)
from tieline._engine import tls as engine

from ..authority import LOCALHOST, TRUST
from ..peers import Conversation, Peer, conversing, until
from .behaviours import ALERT, BEHAVIOURS, DATA, HANDSHAKE, SILENT, leaving, record, reflect
from .memory import MANY, WARM_UP, nothing_stays

PATIENCE = 10.0  # of the test: far more than any timer below
CLIENT = TLS(TCP(connection_timeout=2.0), trust=TRUST, server_name="localhost", handshake_timeout=2.0)
SERVER = TLS(identity=LOCALHOST, handshake_timeout=2.0)
SHORT = 0.15


async def echo(connection: NetworkConnection[Any]) -> None:
    async for content, _ in connection:
        await connection.send(content)


async def is_served(there: Any, stack: TLS = CLIENT) -> None:
    """A good client gets what it came for."""
    async with asyncio.timeout(PATIENCE), NetworkConnection(there, stack) as connection:
        await connection.send(b"hello")
        assert (await connection.receive(exactly=5)).content == b"hello"


async def connect(there: HostPort, stack: TLS = CLIENT) -> NetworkError:
    """The error that our client gets there."""
    async with asyncio.timeout(PATIENCE), NetworkConnection(there, stack) as connection:
        try:
            await connection.receive()
        except NetworkError as error:
            return error
    raise AssertionError("a hostile peer was taken for a good one")


# Our client


@pytest.mark.parametrize("name", BEHAVIOURS)
async def test_client_and_hostile_server(name: str) -> None:
    behaviour, reasons = BEHAVIOURS[name]
    async with conversing(behaviour) as there:
        error = await connect(there)
    check_reason(error, reasons)
    assert str(error).startswith(f"{there}, handshake: ")


async def test_client_and_echo_server() -> None:
    """It gets its own ClientHello back."""
    async with conversing(reflect) as there:
        check_reason(await connect(there), frozenset({"protocol_violation"}))


@pytest.mark.parametrize("name", SILENT)
async def test_client_and_silent_server(name: str) -> None:
    async with conversing(SILENT[name]) as there:
        error = await connect(there, replace(CLIENT, handshake_timeout=SHORT))
    assert isinstance(error, ConnectError) and isinstance(error, TimeoutError)
    assert f"handshake_timeout={SHORT:g} s" in str(error)
    assert 0.9 * SHORT <= error.attempts[0].elapsed < SHORT + 2  # uvloop's clock goes in milliseconds


def check_reason(error: NetworkError, reasons: frozenset[str]) -> None:
    if isinstance(error, TLSError):
        assert error.reason in reasons, error
    else:
        assert isinstance(error, ConnectionResetError) and "reset" in reasons, error


# Our listener, which goes on serving


@asynccontextmanager
async def serving(stack: TLS = SERVER, **options: Any) -> AsyncIterator[NetworkListener[TLS]]:
    listener = NetworkListener(Parameters(stack, **options), on="127.0.0.1:0")
    async with listener.serving(echo):
        yield listener


async def visit(there: Any, behaviour: Conversation) -> None:
    """Be the client with this behaviour, until it is over."""
    with await Peer.connect(there) as peer:
        try:
            async with asyncio.timeout(PATIENCE):
                await behaviour(peer)
        except ConnectionError:
            return  # thrown out


def failures(caplog: pytest.LogCaptureFixture) -> list[NetworkError]:
    """Why handshakes failed: a listener tells the log."""
    return [record.args[-1] for record in caplog.records if isinstance(record.args, tuple)]  # type: ignore[misc]


@pytest.mark.parametrize("name", BEHAVIOURS)
async def test_listener_and_hostile_client(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tieline.listener")
    behaviour, reasons = BEHAVIOURS[name]
    async with serving() as listener:
        await asyncio.gather(visit(listener.endpoint, behaviour), is_served(listener.endpoint))
        await is_served(listener.endpoint)
        await counted(listener, 1)
    (error,) = failures(caplog)
    check_reason(error, reasons)


@pytest.mark.parametrize("name", SILENT)
async def test_listener_and_silent_client(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tieline.listener")
    async with serving(replace(SERVER, handshake_timeout=SHORT)) as listener:
        await asyncio.gather(visit(listener.endpoint, SILENT[name]), is_served(listener.endpoint))
        await counted(listener, 1)
    (error,) = failures(caplog)
    assert isinstance(error, HandshakeTimeoutError)


async def counted(listener: NetworkListener[Any], failed: int) -> None:
    """Wait until so many handshakes have failed: a peer that leaves does not wait for us to notice."""
    await until(lambda: listener.failed_handshake_count >= failed)
    assert listener.failed_handshake_count == failed


async def test_silent_clients_do_not_keep_others_out_for_long() -> None:
    """All places for handshakes are taken; the timer makes room."""
    async with serving(replace(SERVER, handshake_timeout=SHORT), maximum_pending_handshakes=4) as listener:
        silent = [asyncio.create_task(visit(listener.endpoint, SILENT["never speaks"])) for _ in range(12)]
        await is_served(listener.endpoint)
        await asyncio.gather(*silent)
        await counted(listener, 12)


async def test_listener_without_tls_and_clients_that_reset() -> None:
    async with NetworkListener(TCP(), on="127.0.0.1:0").serving(echo) as listener:
        assert isinstance(listener.endpoint, HostPort)
        for _ in range(100):
            (await Peer.connect(listener.endpoint)).reset()
        async with NetworkConnection(listener.endpoint, TCP()) as connection:
            await connection.send(b"hello")
            assert (await connection.receive(exactly=5)).content == b"hello"


async def test_a_place_is_free_again_after_a_reset() -> None:
    """A client that is done with its handshake resets before the server has read its Finished."""
    config = engine.TlsConfig.client(alpn=[], trust="none")
    async with serving(maximum_pending_handshakes=2) as listener:
        assert isinstance(listener.endpoint, HostPort)
        for _ in range(20):
            with await Peer.connect(listener.endpoint) as peer:
                client = engine.TlsEngine(config, "localhost")
                await peer.send(client.output())
                while client.handshaking:
                    client.receive(await peer.receive())
                await peer.send(client.output())
                peer.reset()
        await is_served(listener.endpoint)


# Servers that begin well


def honest_server() -> engine.TlsEngine:
    return engine.TlsEngine(
        engine.TlsConfig.server(alpn=[], certificate_chain=LOCALHOST.certificate_chain, private_key=LOCALHOST.private_key)
    )


async def test_a_server_that_dribbles() -> None:
    """The timer is for the whole handshake: a byte now and then does not extend it."""

    async def dribble(peer: Peer) -> None:
        server = honest_server()
        server.receive(await peer.receive())
        for byte in server.output():
            await peer.send(bytes([byte]))
            await asyncio.sleep(0.02)  # that is what it is about

    async with conversing(dribble) as there:
        assert isinstance(await connect(there, replace(CLIENT, handshake_timeout=SHORT)), TimeoutError)


async def test_a_record_that_was_tampered_with() -> None:
    """What came before the bad record is delivered, then the error."""

    async def tamper(peer: Peer) -> None:
        server = honest_server()
        while server.handshaking:
            server.receive(await peer.receive())
            await peer.send(server.output())
        good, bad = server.send(b"good"), bytearray(server.send(b"bad"))
        bad[-1] ^= 1
        await peer.send(good + bad)
        await peer.gone()

    async with conversing(tamper) as there, NetworkConnection(there, CLIENT) as connection:
        assert (await connection.receive(exactly=4)).content == b"good"
        with pytest.raises(TLSError) as caught:
            await connection.receive()
        assert caught.value.reason == "decrypt_error" and connection.state is State.FAILED


# A hundred times nothing that makes sense

CHANCE = random.Random(8446)


def nonsense() -> bytes:
    """Random bytes, half of them in a record of their own."""
    data = CHANCE.randbytes(CHANCE.randrange(1, 500))
    return data if CHANCE.random() < 0.5 else record(CHANCE.choice((HANDSHAKE, ALERT, DATA)), data)


async def test_nonsense_from_servers() -> None:
    async with conversing(lambda peer: leaving(nonsense())(peer)) as there:
        for _ in range(100):
            assert isinstance(await connect(there), (TLSError, ConnectError))


async def test_nonsense_from_clients() -> None:
    async with serving() as listener:
        for _ in range(100):
            await visit(listener.endpoint, leaving(nonsense()))
        await counted(listener, 100)
        await is_served(listener.endpoint)


# A good handshake that is cut, after every so many bytes, in either direction


class Cutter:
    """A man in the middle who lets so many bytes of one direction pass, and then cuts both connections."""

    def __init__(self, there: HostPort, from_server: bool, count: int, reset: bool) -> None:
        self._there = there
        self._from_server = from_server
        self._count = count
        self._reset = reset

    async def __call__(self, client: Peer) -> None:
        with await Peer.connect(self._there) as server:
            cut, whole = (server, client), (client, server)
            if not self._from_server:
                cut, whole = whole, cut
            passing = asyncio.create_task(self._pass(*whole, None))
            try:
                await self._pass(*cut, self._count)
            finally:
                passing.cancel()
            for peer in (client, server):
                if self._reset:
                    peer.reset()
                else:
                    peer.end()
            if not self._reset:
                await asyncio.gather(client.gone(), server.gone())

    @staticmethod
    async def _pass(source: Peer, to: Peer, left: int | None) -> None:
        while left is None or left > 0:
            data = await source.receive(65536 if left is None else left)
            if not data:
                return
            if left is not None:
                left -= len(data)
            await to.send(data)


async def conversation(client: TLS) -> tuple[list[bytes], list[bytes]]:
    """What client and server say until a byte has gone there and back."""
    said: tuple[list[bytes], list[bytes]] = ([], [])

    async def listen_in(near: Peer) -> None:
        assert isinstance(listener.endpoint, HostPort)

        async def forward(source: Peer, to: Peer, into: list[bytes]) -> None:
            while data := await source.receive():
                into.append(data)
                await to.send(data)

        with await Peer.connect(listener.endpoint) as far:
            await asyncio.gather(forward(near, far, said[0]), forward(far, near, said[1]))

    async with serving() as listener, conversing(listen_in) as there, NetworkConnection(there, client) as connection:
        await connection.send(b"x")
        await connection.receive(exactly=1)
        return said[0][:], said[1][:]


def cuts(said: list[bytes]) -> list[int]:
    """Around the beginnings of records and flights, and evenly in between."""
    data = b"".join(said)
    flights = list(itertools.accumulate(map(len, said)))
    edges, at = [0], 0
    while at + 5 <= len(data):
        at += 5 + int.from_bytes(data[at + 3 : at + 5], "big")
        edges.append(at)
    points = {edge + offset for edge in (*edges, *flights) for offset in (-1, 0, 1, 5, 6)} | set(range(0, len(data), 211))
    return sorted(point for point in points if 0 <= point < len(data) - 8)  # an ECDSA signature's length varies a little


async def send_and_wait(there: HostPort, stack: TLS) -> None:
    async with asyncio.timeout(PATIENCE), NetworkConnection(there, stack) as connection:
        await connection.send(b"x")
        await connection.receive(exactly=1)
        await connection.receive()


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("from_server", [False, True], ids=["of the client", "of the server"])
@pytest.mark.parametrize("version", [TLSVersion.TLSv1_2, TLSVersion.TLSv1_3])
async def test_handshake_cut_everywhere(version: TLSVersion, from_server: bool, reset: bool) -> None:
    ended: list[BaseException | None] = []

    async def talk(connection: NetworkConnection[TLS]) -> None:
        try:
            await echo(connection)
        except NetworkError as error:
            ended.append(error)
        else:
            ended.append(None)

    client = replace(CLIENT, maximum_version=version, tickets=False)  # a resumed handshake is shorter
    points = cuts((await conversation(client))[from_server])
    assert len(points) >= 15
    listener = NetworkListener(SERVER, on="127.0.0.1:0")
    async with listener.serving(talk):
        assert isinstance(listener.endpoint, HostPort)
        for count in points:
            async with conversing(Cutter(listener.endpoint, from_server, count, reset)) as there:
                with pytest.raises((ConnectError, PeerResetError)) as caught:
                    await send_and_wait(there, client)
                assert isinstance(caught.value, ConnectionResetError), f"after {count} bytes: {caught.value}"
        await until(lambda: listener.failed_handshake_count + len(ended) >= len(points))
        assert all(isinstance(error, PeerResetError) for error in ended), ended
        await is_served(listener.endpoint, client)


# A thousand of them


async def test_a_thousand_hostile_servers() -> None:
    """One server, a different behaviour for each that comes."""
    every = itertools.cycle([behaviour for behaviour, _ in BEHAVIOURS.values()])

    async def next_one(peer: Peer) -> object:
        return await next(every)(peer)

    async with conversing(next_one) as there:
        await nothing_stays(lambda _: connect(there))


async def test_a_thousand_hostile_clients() -> None:
    behaviours = [behaviour for behaviour, _ in BEHAVIOURS.values()]
    async with serving() as listener:

        async def visit_one(number: int) -> None:
            await visit(listener.endpoint, behaviours[number % len(behaviours)])
            if number % 50 == 0:
                await is_served(listener.endpoint)

        await nothing_stays(visit_one)
        await counted(listener, WARM_UP + MANY)


async def test_a_thousand_silent_peers() -> None:
    """Both sides wait in vain, and both timers end it."""
    short = replace(CLIENT, handshake_timeout=0.05)
    async with conversing(SILENT["never speaks"]) as there, serving(replace(SERVER, handshake_timeout=0.05)) as listener:

        async def both(_: int) -> None:
            await asyncio.gather(connect(there, short), visit(listener.endpoint, SILENT["half a record"]))

        await nothing_stays(both)
