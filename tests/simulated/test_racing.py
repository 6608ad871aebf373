"""Happy Eyeballs (RFC 8305) on the simulated network: which SYN leaves when, who wins when, and what is left of the losers.

Every server answers after a round trip of 40 ms unless a test says otherwise; times are milliseconds of the network's clock.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tieline import (
    TCP,
    TLS,
    UDP,
    ConnectError,
    DNSError,
    HandshakeTimeoutError,
    HostPort,
    NetworkConnection,
    NetworkListener,
    Parameters,
    State,
    TLSError,
)
from tieline.errors import Phase
from tieline.protocols.roles import NetworkProtocol
from tieline.testing import CertificateAuthority, Fate, Host, SimulatedNetwork, record_events

A1, A2 = "192.0.2.1", "192.0.2.2"
B1, B2 = "2001:db8::1", "2001:db8::2"
NAME = "service.test:80"
HOP = 0.01  # seconds, half of it on the client's link


def ms(seconds: float) -> float:
    """Milliseconds, exact to a microsecond."""
    return round(seconds * 1000, 3)


class World:
    """A client behind a router, and behind it a server for each address."""

    def __init__(self, network: SimulatedNetwork) -> None:
        self.network = network
        self.client = network.host("client.test", "192.0.2.99", "2001:db8::99")
        self.hub = network.router("hub")
        self.access = network.link(self.client, self.hub, latency=HOP)
        self.servers: dict[str, Host] = {}
        self.links: dict[str, Any] = {}
        self.accepted: list[str] = []

    def server(self, address: str, *, rtt: float = 0.04, listens: bool = True, stack: NetworkProtocol | None = None) -> Host:
        """A server with one address; without `listens` it refuses."""
        host = self.servers[address] = self.network.host(f"server-{len(self.servers)}", address)
        self.links[address] = self.network.link(host, self.hub, latency=rtt / 2 - HOP)
        if listens:
            self.listen(address, stack)
        return host

    def listen(self, address: str, stack: NetworkProtocol | None = None) -> None:
        self.servers[address].start(self._serve, address, stack or TCP())

    async def _serve(self, address: str, stack: Any) -> None:
        async def handle(connection: NetworkConnection[Any]) -> None:
            self.accepted.append(address)
            while True:
                try:
                    if (await connection.receive()).metadata.end_of_stream:
                        return
                except EOFError:
                    return

        await NetworkListener(stack, on=80).run(handle)

    def dead(self, *addresses: str) -> None:
        """Servers that never say a word."""
        for address in addresses:
            if address not in self.servers:
                self.server(address)
            self.servers[address].firewall.drop(destination=address)

    def names(self, *, a: tuple[float, list[str]] | None = (0.0, []), aaaa: tuple[float, list[str]] | None = (0.0, [])) -> None:
        """What the resolver says after so many seconds; None is never."""
        for version, answer in ((4, a), (6, aaaa)):
            if answer is None:
                self.network.resolver.silence("service.test", version=version)
            else:
                self.network.resolver.answer("service.test", *answer[1], version=version, delay=answer[0])

    @property
    def syns(self) -> list[tuple[float, str]]:
        """When the client sent which address its first SYN."""
        first: dict[str, float] = {}
        for entry in self.sent:
            first.setdefault(entry[1], entry[0])
        return [(when, address) for address, when in first.items()]

    @property
    def sent(self) -> list[tuple[float, str]]:
        """Every SYN of the client, those that TCP repeats too."""
        return [
            (ms(entry.time), entry.packet.destination.host)
            for entry in self.network.trace
            if entry.place == "client.test" and entry.fate is Fate.SENT and entry.packet.flags == "S"
        ]

    @asynccontextmanager
    async def connected(self, to: Any = NAME, using: Any = None) -> AsyncIterator[tuple[Any, float, str]]:
        """A connection that is ready, when that was, and to which address."""
        with self.client:
            async with NetworkConnection(to, using or TCP()) as connection:
                await connection.ready()
                assert isinstance(connection.remote_endpoint, HostPort)
                yield connection, ms(self.network.time), connection.remote_endpoint.host

    async def winner(self, to: Any = NAME, using: Any = None) -> tuple[float, str]:
        async with self.connected(to, using) as (_, when, address):
            return when, address

    async def loses(self, to: Any = NAME, using: Any = None) -> tuple[float, Any]:
        """When a connection gave up, and its error."""
        with self.client:
            async with NetworkConnection(to, using or TCP()) as connection:
                with pytest.raises((ConnectError, TLSError)) as caught:
                    await connection.ready()
                return ms(self.network.time), caught.value


@pytest.fixture
def world(simulated_network: SimulatedNetwork) -> World:
    return World(simulated_network)


# One family is not well


async def test_both_are_well(world: World) -> None:
    """IPv6 first, and IPv4 is not even tried."""
    world.server(A1)
    world.server(B1)
    world.names(a=(0.01, [A1]), aaaa=(0.01, [B1]))
    async with world.connected() as (connection, when, address):
        assert (when, address) == (50, B1)
        report = await connection.establishment_report()
        (resolution,) = report.resolutions
        assert ms(report.duration) == 50 and ms(resolution.duration) == 10
        assert resolution.preferred_endpoint == resolution.successful_endpoint == HostPort(B1, 80)
        assert [(one.protocol, ms(one.duration), ms(one.rtt)) for one in report.handshakes] == [("TCP", 40, 40)]
    assert world.sent == [(10, B1)]


async def test_ipv6_is_blackholed(world: World) -> None:
    world.server(A1)
    world.server(B1)
    world.hub.firewall.drop(destination="::/0")
    world.names(a=(0.01, [A1]), aaaa=(0.01, [B1]))
    async with world.connected() as (connection, when, address):
        assert (when, address) == (10 + 250 + 40, A1)
        report = await connection.establishment_report()
        (resolution,) = report.resolutions
        assert ms(report.duration) == 300 and report.previous_attempt_count == 0 and resolution.endpoint_count == 2
        assert resolution.preferred_endpoint == HostPort(B1, 80) and resolution.successful_endpoint == HostPort(A1, 80)
        # The winner's own handshake, without the quarter of a second before it.
        assert [(one.protocol, ms(one.duration)) for one in report.handshakes] == [("TCP", 40)]
        assert len(world.client.sockets) == 1, "the loser's socket is gone with the race"
        await asyncio.sleep(100)
    assert world.sent == [(10, B1), (260, A1)], "and no SYN of it is repeated"


async def test_ipv4_is_slow_and_ipv6_is_well(world: World) -> None:
    world.server(A1, rtt=1)
    world.server(B1)
    world.names(a=(0, [A1]), aaaa=(0, [B1]))
    assert await world.winner() == (40, B1)
    assert world.sent == [(0, B1)]


async def test_ipv6_is_slow_and_ipv4_overtakes_it(world: World) -> None:
    world.server(A1)
    world.server(B1, rtt=0.4)
    world.names(a=(0, [A1]), aaaa=(0, [B1]))
    async with world.connected() as (_, when, address):
        assert (when, address) == (290, A1)
        await asyncio.sleep(1)
        assert world.accepted == [A1], "what the slow server answers is too late, and it is told"
    assert world.sent == [(0, B1), (250, A1)]
    assert any("R" in entry.packet.flags and entry.packet.destination.host == B1 for entry in world.network.trace)


async def test_the_earlier_one_may_still_win(world: World) -> None:
    world.server(A1)
    world.server(B1, rtt=0.28)
    world.names(a=(0, [A1]), aaaa=(0, [B1]))
    async with world.connected() as (_, when, address):
        assert (when, address) == (280, B1)
        assert len(world.client.sockets) == 1
        await asyncio.sleep(0.2)
    assert world.sent == [(0, B1), (250, A1)] and world.accepted == [B1]


@pytest.mark.parametrize("how", ["nobody listens", "a firewall rejects"])
async def test_ipv6_is_refused(world: World, how: str) -> None:
    """The next address has its turn at once, without the rest of the delay."""
    world.server(A1)
    server = world.server(B1, listens=how != "nobody listens")
    if how != "nobody listens":
        server.firewall.reject(port=80)
    world.names(a=(0, [A1]), aaaa=(0, [B1]))
    assert await world.winner() == (80, A1)
    assert world.sent == [(0, B1), (40, A1)]


async def test_a_client_without_a_route_for_ipv6(world: World) -> None:
    """RFC 6724 rule 1: what has no route comes last, so IPv4 loses no time once its address is known."""
    world.client.interfaces[0].remove_address("2001:db8::99")
    world.server(A1)
    world.server(B1)
    world.names(a=(0.01, [A1]), aaaa=(0.04, [B1]))
    assert await world.winner() == (80, A1)
    assert world.sent == [(40, A1)]


@pytest.mark.parametrize(("a", "syn"), [(30, 30), (15, 20), (10, 20)])
async def test_the_address_without_a_route_answers_first(world: World, a: int, syn: float) -> None:
    """It fails when it is tried, and no packet leaves; the 10 ms between two starts count from it all the same."""
    world.client.interfaces[0].remove_address("2001:db8::99")
    world.server(A1)
    world.names(a=(a / 1000, [A1]), aaaa=(0.01, [B1]))
    assert await world.winner() == (syn + 40, A1)
    assert world.sent == [(syn, A1)]


async def test_no_route_for_either(world: World) -> None:
    world.access.down()
    with pytest.raises(ConnectError) as caught:
        async with world.connected((A1, 80)):
            pass
    assert caught.value.errno == errno.ENETUNREACH and world.network.time == 0
    assert str(caught.value) == f"{A1}:80, connecting: no route to this network (after 0 ms)"


# Both are dead


async def test_both_are_silent(world: World) -> None:
    world.dead(A1, B1)
    world.names(a=(0.01, [A1]), aaaa=(0.01, [B1]))
    when, error = await world.loses()
    assert when == 10 + 250 + 30_000, "each has its connection_timeout"
    assert isinstance(error, TimeoutError) and error.errno == errno.ETIMEDOUT
    assert [(one.endpoint, one.phase, ms(one.elapsed)) for one in error.attempts] == [
        (HostPort(B1, 80), Phase.CONNECTING, 30_000),
        (HostPort(A1, 80), Phase.CONNECTING, 30_000),
    ]
    assert str(error) == (
        "service.test:80, connecting: none of 2 addresses could be connected\n"
        "  [2001:db8::1]:80  connecting  30000 ms  no answer within connection_timeout=30 s\n"
        "  192.0.2.1:80      connecting  30000 ms  no answer within connection_timeout=30 s"
    )
    # TCP asks again after 1, 2, 4, 8 s … (RFC 6298), for as long as it may.
    assert [when for when, host in world.sent if host == B1] == [10 + 1000 * (2**n - 1) for n in range(5)]


async def test_both_refuse(world: World) -> None:
    world.server(A1, listens=False, rtt=0.06)
    world.server(B1, listens=False)
    world.names(a=(0, [A1]), aaaa=(0, [B1]))
    when, error = await world.loses()
    assert when == 40 + 60 and isinstance(error, ConnectionRefusedError)
    assert str(error) == (
        "service.test:80, connecting: none of 2 addresses could be connected\n"
        "  [2001:db8::1]:80  connecting  40 ms  connection refused: nobody listens there\n"
        "  192.0.2.1:80      connecting  60 ms  connection refused: nobody listens there"
    )


async def test_one_refuses_and_one_is_silent(world: World) -> None:
    world.server(B1, listens=False)
    world.dead(A1)
    world.names(a=(0, [A1]), aaaa=(0, [B1]))
    when, error = await world.loses(using=TCP(connection_timeout=2))
    assert when == 40 + 2000
    assert not isinstance(error, (ConnectionRefusedError, TimeoutError)), "they share no reason"
    assert [ms(one.elapsed) for one in error.attempts] == [40, 2000]


@pytest.mark.parametrize("how", ["the block is left", "the task is cancelled", "a timeout of the program's own"])
async def test_giving_up_in_the_middle(world: World, how: str) -> None:
    """Every socket goes, and nothing more is sent."""
    world.dead(A1, B1, A2)
    world.names(a=(0, [A1, A2]), aaaa=(0, [B1]))

    async def program() -> None:
        async with NetworkConnection(NAME, TCP()) as connection:
            if how == "the block is left":
                await asyncio.sleep(0.3)
            elif how == "the task is cancelled":
                await connection.ready()
            else:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await connection.ready()

    task = world.client.start(program)
    await asyncio.sleep(0.299)
    assert len(world.client.sockets) == 2
    await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.sleep(0.1)
    assert not world.client.sockets and not world.client.programs
    await asyncio.sleep(100)
    assert world.sent == [(0, B1), (250, A1)]


# The resolver


@pytest.mark.parametrize(
    ("a", "aaaa", "syn", "host"),
    [
        pytest.param(10, 30, 30, B1, id="AAAA within the resolution delay"),
        pytest.param(10, 59, 59, B1, id="AAAA just within it"),
        pytest.param(10, 61, 60, A1, id="AAAA just too late"),
        pytest.param(10, 5000, 60, A1, id="AAAA much too late"),
        pytest.param(10, None, 60, A1, id="AAAA never"),
        pytest.param(30, 10, 10, B1, id="AAAA first"),
        pytest.param(None, 10, 10, B1, id="A never"),
        pytest.param(0, 0, 0, B1, id="both at once"),
    ],
)
async def test_answers_in_any_order(world: World, a: int | None, aaaa: int | None, syn: float, host: str) -> None:
    world.server(A1)
    world.server(B1)
    world.names(a=None if a is None else (a / 1000, [A1]), aaaa=None if aaaa is None else (aaaa / 1000, [B1]))
    assert await world.winner() == (syn + 40, host)
    assert world.sent == [(syn, host)]


@pytest.mark.parametrize(
    ("aaaa", "syn"),
    [
        pytest.param(5, 10, id="before A"),
        pytest.param(40, 40, id="after A"),
        pytest.param(200, 60, id="after the resolution delay"),
    ],
)
@pytest.mark.parametrize("code", [socket.EAI_NODATA, socket.EAI_NONAME, socket.EAI_AGAIN])
async def test_aaaa_fails(world: World, aaaa: int, syn: float, code: int) -> None:
    """A negative answer ends the resolution delay like any other."""
    world.server(A1)
    world.names(a=(0.01, [A1]))
    world.network.resolver.fail("service.test", version=6, code=code, delay=aaaa / 1000)
    assert await world.winner() == (syn + 40, A1)


async def test_a_fails(world: World) -> None:
    world.server(B1)
    world.names(aaaa=(0.02, [B1]))
    world.network.resolver.fail("service.test", version=4, delay=0.01)
    assert await world.winner() == (20 + 40, B1)


@pytest.mark.parametrize(
    ("aaaa", "syns"),
    [
        pytest.param(100, [(60, A1), (310, B1)], id="while A is tried: after the attempt delay"),
        pytest.param(900, [(60, A1), (900, B1)], id="when it is over: at once"),
    ],
)
async def test_a_late_aaaa_joins_the_race(world: World, aaaa: int, syns: list[tuple[float, str]]) -> None:
    world.dead(A1)
    world.server(B1)
    world.names(a=(0.01, [A1]), aaaa=(aaaa / 1000, [B1]))
    assert await world.winner() == (syns[-1][0] + 40, B1)
    assert world.syns == syns


async def test_late_addresses_are_placed_as_if_known_from_the_start(world: World) -> None:
    """RFC 8305 section 3: the families alternate, whatever came first."""
    world.dead(A1, A2, B1)
    world.server(B2)
    world.names(a=(0.01, [A1, A2]), aaaa=(0.1, [B1, B2]))
    assert await world.winner() == (560 + 40, B2)
    assert world.syns == [(60, A1), (310, B1), (560, B2)], "B1 A1 B2 A2 without what was tried"


@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_AGAIN])
async def test_both_families_fail(world: World, code: int) -> None:
    world.network.resolver.fail("service.test", version=6, code=code, delay=0.02)
    world.network.resolver.fail("service.test", version=4, code=code, delay=0.07)
    when, error = await world.loses()
    assert when == 70 and isinstance(error, DNSError) and isinstance(error, socket.gaierror)
    assert error.code == error.errno == code and error.attempts == () and error.phase is Phase.RESOLVING


async def test_the_name_has_no_address(world: World) -> None:
    world.names(a=(0.03, []), aaaa=(0.02, []))
    when, error = await world.loses()
    assert when == 30 and isinstance(error, DNSError) and error.code == socket.EAI_NODATA


async def test_nobody_has_the_name(world: World) -> None:
    when, error = await world.loses()
    assert when == 0 and isinstance(error, DNSError) and error.code == socket.EAI_NONAME


async def test_the_resolver_is_silent(world: World) -> None:
    world.names(a=None, aaaa=None)
    when, error = await world.loses()
    assert when == 30_000 and isinstance(error, DNSError) and "resolution_timeout=30 s" in str(error)


async def test_one_family_is_silent_and_the_other_refused(world: World) -> None:
    """As long as an answer may come, all is not lost; `resolution_timeout` bounds that."""
    world.server(A1, listens=False)
    world.names(a=(0, [A1]), aaaa=None)
    when, error = await world.loses(using=Parameters(TCP(), resolution_timeout=4))
    assert when == 4000 and isinstance(error, ConnectionRefusedError)
    assert [(one.endpoint, ms(one.elapsed)) for one in error.attempts] == [(HostPort(A1, 80), 40)]


async def test_a_client_that_is_offline(world: World) -> None:
    """`EAI_AGAIN`, as a machine without a network says at once."""
    world.server(A1)
    world.names(a=(0, [A1]))
    world.access.down()
    when, error = await world.loses()
    assert when == 0 and isinstance(error, DNSError) and error.code == socket.EAI_AGAIN


# Several addresses, and the delays


async def test_families_alternate_a_quarter_of_a_second_apart(world: World) -> None:
    world.dead(B1, A1, B2)
    world.server(A2)
    world.names(a=(0.01, [A1, A2]), aaaa=(0.01, [B1, B2]))
    async with world.connected() as (_, when, address):
        assert (when, address) == (10 + 3 * 250 + 40, A2)
        assert len(world.client.sockets) == 1
        before = len(world.sent)
        await asyncio.sleep(200)
        assert len(world.sent) == before, "the losers send nothing more"
    assert world.syns == [(10, B1), (260, A1), (510, B2), (760, A2)]


async def test_a_refusal_in_between_brings_the_next_forward(world: World) -> None:
    world.dead(B1)
    world.server(A1, listens=False)
    world.server(B2)
    world.names(a=(0, [A1]), aaaa=(0, [B1, B2]))
    assert await world.winner() == (250 + 40 + 40, B2)
    assert world.syns == [(0, B1), (250, A1), (290, B2)]


async def test_refusals_at_once_are_10_ms_apart(world: World) -> None:
    """RFC 8305 section 5: never nearer than that."""
    for address in (B1, A1):
        world.server(address, listens=False, rtt=0.024)
    world.links[B1].change(latency=0.0001)
    world.access.change(latency=0.0001)
    world.links[A1].change(latency=0.0001)
    world.server(B2)
    world.names(a=(0, [A1]), aaaa=(0, [B1, B2]))
    await world.winner()
    assert world.syns == [(0, B1), (10, A1), (20, B2)]


async def test_the_delays_are_parameters(world: World) -> None:
    world.dead(A1, B1)
    world.server(A2)
    world.names(a=(0.01, [A1, A2]), aaaa=(5, [B1]))
    using = Parameters(TCP(), resolution_delay=0.3, attempt_delay=1.5)
    assert await world.winner(using=using) == (310 + 1500 + 40, A2)
    assert world.syns == [(310, A1), (1810, A2)]


async def test_without_a_resolution_delay_the_first_answer_counts(world: World) -> None:
    world.server(A1)
    world.server(B1)
    world.names(a=(0.01, [A1]), aaaa=(0.011, [B1]))
    assert await world.winner(using=Parameters(TCP(), resolution_delay=0)) == (50, A1)


# TLS: only a complete handshake wins


@pytest.fixture
def stacks(certificate_authority: CertificateAuthority) -> tuple[TLS, TLS]:
    """Of the client and of the server."""
    return (
        TLS(trust=certificate_authority.trust, server_name="service.test", handshake_timeout=3),
        TLS(identity=certificate_authority.identity("service.test"), tickets=False),
    )


async def test_tls_is_dead_behind_an_open_port(world: World, stacks: tuple[TLS, TLS]) -> None:
    world.server(A1)
    world.names(a=(0, [A1]))
    when, error = await world.loses(using=stacks[0])
    assert when == 40 + 3000 and isinstance(error, TimeoutError)
    (attempt,) = error.attempts
    assert isinstance(attempt.error, HandshakeTimeoutError) and attempt.phase is Phase.HANDSHAKE and ms(attempt.elapsed) == 3040
    assert "handshake_timeout=3 s" in str(error)


async def test_tls_is_dead_at_the_first_of_two(world: World, stacks: tuple[TLS, TLS]) -> None:
    """A server that accepts has shown life: the second starts one attempt delay after that, and wins."""
    world.server(B1)
    world.server(A1, stack=stacks[1])
    world.names(a=(0, [A1]), aaaa=(0, [B1]))
    async with world.connected(using=stacks[0]) as (connection, when, address):
        assert (when, address) == (40 + 250 + 80, A1)
        assert world.syns == [(0, B1), (290, A1)]
        report = await connection.establishment_report()
        assert [(one.protocol, ms(one.duration), ms(one.rtt)) for one in report.handshakes] == [("TCP", 40, 40), ("TLS", 40, 40)]
        assert len(world.client.sockets) == 1
        await asyncio.sleep(0.1)
        assert not world.servers[B1].programs[1:], "the handler of the silent server has seen the reset and ended"


async def test_tls_is_dead_at_both(world: World, stacks: tuple[TLS, TLS]) -> None:
    world.server(B1)
    world.server(A1)
    world.names(a=(0, [A1]), aaaa=(0, [B1]))
    when, error = await world.loses(using=stacks[0])
    assert when == 290 + 40 + 3000 and isinstance(error, TimeoutError)
    assert [(one.phase, ms(one.elapsed)) for one in error.attempts] == [(Phase.HANDSHAKE, 3040)] * 2


async def test_a_handshake_under_way_puts_the_next_start_off(world: World, stacks: tuple[TLS, TLS]) -> None:
    """TCP is up at 200 ms and TLS at 400, so IPv4, due at 250 without that, is never tried."""
    world.server(B1, rtt=0.2, stack=stacks[1])
    world.server(A1, stack=stacks[1])
    world.names(a=(0, [A1]), aaaa=(0, [B1]))
    assert await world.winner(using=stacks[0]) == (400, B1)
    assert world.syns == [(0, B1)]


async def test_a_slow_handshake_is_overtaken(world: World, stacks: tuple[TLS, TLS]) -> None:
    world.server(B1, rtt=0.24, stack=stacks[1])
    world.server(A1, stack=stacks[1])
    world.names(a=(0, [A1]), aaaa=(0, [B1]))
    world.network.at(0.25, lambda: world.links[B1].change(latency=2))
    assert await world.winner(using=stacks[0]) == (240 + 250 + 80, A1)
    assert world.syns == [(0, B1), (490, A1)]


async def test_a_refused_certificate_speaks_for_every_address(world: World, stacks: tuple[TLS, TLS]) -> None:
    world.server(B1, stack=stacks[1])
    world.server(A1, stack=stacks[1])
    world.names(a=(0, [A1]), aaaa=(0, [B1]))
    when, error = await world.loses(using=TLS(server_name="service.test"))
    assert when == 80 and isinstance(error, TLSError) and error.reason == "unknown_authority"
    assert world.syns == [(0, B1)] and len(error.attempts) == 1


# Waiting and trying again


def back_offs(count: int) -> list[float]:
    return [min(2.0**n, 60) for n in range(count)]


@pytest.mark.parametrize("how", ["refused", "silent", "no such name"])
async def test_the_back_off_is_exact(world: World, how: str) -> None:
    """1, 2, 4, … 32, 60, 60 s, counted from the end of each attempt."""
    world.server(A1, listens=False)
    if how == "silent":
        world.dead(A1)
    if how != "no such name":
        world.names(a=(0, [A1]))
    using = Parameters(TCP(connection_timeout=0.5), waits_for_connectivity=True)
    lasts = {"refused": 0.04, "silent": 0.5, "no such name": 0.0}[how]
    begins = [sum(back_offs(n)) + n * lasts for n in range(10)]
    connection = NetworkConnection(NAME, using)
    with world.client, record_events(connection) as events:
        async with connection:
            await asyncio.sleep(begins[-1] + 30)
            assert connection.state is State.WAITING and str(connection.error)
    times = [ms(event.time) for event in events if event.value is State.PREPARING]
    assert times == [ms(one) for one in begins]
    assert [ms(event.time) for event in events if event.value is State.WAITING] == [ms(one + lasts) for one in begins]
    assert [when for when, _ in world.sent] == ([] if how == "no such name" else times)


async def test_the_server_starts_in_between(world: World) -> None:
    """A call that waits is answered at the first attempt after that; the report tells of the others."""
    world.server(A1, listens=False)
    world.names(a=(0, [A1]))
    world.network.at(10, world.listen, A1)
    async with world.connected(using=Parameters(TCP(), waits_for_connectivity=True)) as (connection, when, _):
        assert when == ms(1 + 2 + 4 + 8 + 5 * 0.04)
        report = await connection.establishment_report()
        assert report.previous_attempt_count == 4 and ms(report.duration) == 40
        assert ms(report.attempt_started_after) == ms(15 + 4 * 0.04)
        assert connection.error is None


async def test_a_call_does_not_wait_for_the_back_off(world: World) -> None:
    world.server(A1, listens=False)
    world.names(a=(0, [A1]))
    with world.client:
        async with NetworkConnection(NAME, TCP()) as connection:
            for begins in (0, 40, 80):
                assert ms(world.network.time) == begins
                with pytest.raises(ConnectionRefusedError):
                    await connection.receive()
            assert connection.state is State.WAITING and connection.error is not None
            # Nobody calls: it tries again by itself, after the third pause of the back-off.
            world.listen(A1)
            await asyncio.sleep(4.039)
            assert connection.state is State.PREPARING
            await asyncio.sleep(0.002)
            assert connection.state is State.READY
    assert [when for when, _ in world.sent] == [0, 40, 80, 4120]


async def test_each_attempt_asks_the_resolver_again(world: World) -> None:
    world.server(A1, listens=False)
    world.server(B1)
    world.names(a=(0, [A1]))
    world.network.at(2, lambda: world.names(aaaa=(0.01, [B1])))
    using = Parameters(TCP(), waits_for_connectivity=True)
    assert await world.winner(using=using) == (ms(1 + 2 + 2 * 0.04 + 0.01 + 0.04), B1)


async def test_the_link_comes_back_while_waiting(world: World) -> None:
    world.server(A1)
    world.access.down()
    world.network.at(10, world.access.up)
    using = Parameters(TCP(), waits_for_connectivity=True)
    assert await world.winner((A1, 80), using) == (10_041, A1), "not at the next pause's end"


# Trying the next, and datagrams


async def test_the_next_endpoint(world: World) -> None:
    """Losers and untried addresses have their turn, in order; then there is none, and the back-off begins."""
    for address in (B1, A1, B2):
        world.server(address)
    world.names(a=(0, [A1]), aaaa=(0, [B1, B2]))
    async with world.connected() as (connection, when, address):
        assert (when, address) == (40, B1)
        for host in (A1, B2):
            await asyncio.sleep(1)
            begins = ms(world.network.time)
            connection.try_next_endpoint()
            await connection.ready()
            assert connection.remote_endpoint == HostPort(host, 80) and ms(world.network.time) == begins + 40
            assert len(world.client.sockets) == 1
            report = await connection.establishment_report()
            assert ms(report.duration) == 40 and ms(report.attempt_started_after) == begins
        connection.try_next_endpoint()
        await asyncio.sleep(0.5)
        assert connection.state is State.WAITING and "no other address is left to try" in str(connection.error)
        await asyncio.sleep(0.6)
        assert connection.state is State.READY and connection.remote_endpoint == HostPort(B1, 80), "from the start again"


async def test_the_next_endpoint_after_a_race(world: World) -> None:
    """The loser of the first race is the first of the second."""
    world.server(B1, rtt=1)
    world.server(A1)
    world.server(A2)
    world.names(a=(0, [A1, A2]), aaaa=(0, [B1]))
    async with world.connected() as (connection, when, address):
        assert (when, address) == (290, A1)
        connection.try_next_endpoint()
        await connection.ready()
        assert ms(world.network.time) == 290 + 250 + 40 and connection.remote_endpoint == HostPort(A2, 80)
    assert world.sent == [(0, B1), (250, A1), (290, B1), (540, A2)]


@pytest.mark.parametrize(
    ("a", "aaaa", "when", "host"),
    [(10, 30, 30, B1), (10, 100, 60, A1), (30, 10, 10, B1), (10, None, 60, A1)],
)
async def test_datagrams_follow_the_resolver(world: World, a: int, aaaa: int | None, when: float, host: str) -> None:
    """The first address that can be sent to is the one: without a handshake nothing shows whether anybody is there."""
    world.names(a=(a / 1000, [A1]), aaaa=None if aaaa is None else (aaaa / 1000, [B1]))
    async with world.connected(using=UDP()) as (connection, ready, address):
        assert (ready, address) == (when, host)
        assert (await connection.establishment_report()).handshakes == ()
    assert not world.network.trace


async def test_datagrams_where_ipv6_has_no_route(world: World) -> None:
    world.client.interfaces[0].remove_address("2001:db8::99")
    world.names(a=(0.02, [A1]), aaaa=(0.01, [B1]))
    assert await world.winner(using=UDP()) == (20, A1)


async def test_datagrams_into_a_black_hole_and_the_next_endpoint(world: World) -> None:
    """It is for the program to see that nothing comes back."""
    world.dead(B1)
    world.server(A1, stack=UDP())
    world.names(a=(0, [A1]), aaaa=(0, [B1]))
    async with world.connected(using=UDP()) as (connection, when, address):
        assert (when, address) == (0, B1)
        await connection.send(b"anybody?")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await connection.receive()
        connection.try_next_endpoint()
        await connection.send(b"anybody?")
        assert connection.remote_endpoint == HostPort(A1, 80) and ms(world.network.time) == 1000
        await asyncio.sleep(1)
        assert world.accepted == [A1]
