"""Establishment in virtual time: what is asked and tried when, who wins, and what is left open."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from tieline import (
    TCP,
    TLS,
    UDP,
    ConnectError,
    DNSError,
    HostPort,
    NetworkConnection,
    Parameters,
    State,
    UnexpectedEndpointTypeError,
    UnixEndpoint,
)
from tieline.errors import Phase, TLSError
from tieline.paths import Interface, InterfaceType
from tieline.protocols.ip import IP, IPVersion

from .memory import SILENCE, Answer, Network, refusal

A1, A2, A3 = "192.0.2.1", "192.0.2.2", "192.0.2.3"
B1, B2 = "2001:db8::1", "2001:db8::2"
NAME = "host.test:80"


def failed(summary: str) -> DNSError:
    return DNSError(summary, phase=Phase.RESOLVING, code=-2)


def resolving(network: Network, *, a: tuple[float, Any] = (0.0, ()), aaaa: tuple[float, Any] = (0.0, ())) -> None:
    network.names = {("host.test", 4): a, ("host.test", 6): aaaa}


def connected(network: Network, using: Any = None) -> str:
    """The host that a connection gets to."""
    winner: list[str] = []

    async def main() -> None:
        async with NetworkConnection(NAME, using or TCP()) as connection:
            await connection.ready()
            assert isinstance(connection.remote_endpoint, HostPort)
            winner.append(connection.remote_endpoint.host)

    network.run(main)
    return winner[0]


def refused(network: Network, using: Any = None, to: Any = NAME) -> Any:
    """The error of a connection that gets nowhere."""
    errors: list[BaseException] = []

    async def main() -> None:
        async with NetworkConnection(to, using or TCP()) as connection:
            with pytest.raises(ConnectError) as caught:
                await connection.ready()
            errors.append(caught.value)

    network.run(main)
    return errors[0]


# Resolving


def test_both_families_are_asked_for_at_once_and_aaaa_first(network: Network) -> None:
    resolving(network, a=(0.03, [A1]), aaaa=(0.05, [B1]))
    network.hosts = {B1: Answer()}
    assert connected(network) == B1
    assert network.said() == [(0, "AAAA"), (0, "A"), (50, B1)]


def test_a_late_aaaa_is_waited_for_no_longer_than_the_resolution_delay(network: Network) -> None:
    resolving(network, a=(0.03, [A1]), aaaa=(5, [B1]))
    network.hosts = {A1: Answer()}
    assert connected(network) == A1
    assert network.said() == [(0, "AAAA"), (0, "A"), (80, A1)]


def test_the_delays_are_parameters(network: Network) -> None:
    resolving(network, a=(0.03, [A1, A2]), aaaa=(5, [B1]))
    network.hosts = {A2: Answer()}
    assert connected(network, Parameters(TCP(), resolution_delay=0.5, attempt_delay=1)) == A2
    assert network.said()[2:] == [(530, A1), (1530, A2)]


@pytest.mark.parametrize(("version", "asked"), [(IPVersion.ANY, ["AAAA", "A"]), (IPVersion.V4, ["A"]), (IPVersion.V6, ["AAAA"])])
def test_only_wanted_families_are_asked_for(network: Network, version: IPVersion, asked: list[str]) -> None:
    resolving(network, a=(0, [A1]), aaaa=(0, [B1]))
    network.hosts = {A1: Answer(), B1: Answer()}
    assert connected(network, TCP(IP(version=version))) == (A1 if version is IPVersion.V4 else B1)
    assert [what for _, what in network.log if what.startswith("A")] == asked


def test_a_local_address_decides_the_family(network: Network) -> None:
    resolving(network, a=(0, [A1]), aaaa=(0, [B1]))
    network.hosts = {A1: Answer(), B1: Answer()}
    assert connected(network, Parameters(TCP(), local_endpoint=("192.0.2.99", 0))) == A1


def test_an_address_is_not_asked_for(network: Network) -> None:
    network.hosts = {A1: refusal()}
    refused(network, to=(A1, 80))
    assert network.said() == [(0, A1)]


def test_one_family_may_fail_while_the_other_is_tried(network: Network) -> None:
    resolving(network, a=(0.01, [A1]), aaaa=(0.02, failed("no AAAA")))
    network.hosts = {A1: Answer()}
    assert connected(network) == A1


@pytest.mark.parametrize("answer", [(), failed("no such name")])
def test_no_address_is_a_dns_error_without_attempts(network: Network, answer: Any) -> None:
    resolving(network, a=(0.01, answer), aaaa=(0.02, answer))
    error = refused(network)
    assert isinstance(error, DNSError) and error.attempts == () and error.phase is Phase.RESOLVING
    assert ("no such name" if answer else "no address") in str(error) and "host.test:80" in str(error)


def test_a_resolver_that_does_not_answer_is_given_up(network: Network) -> None:
    resolving(network, a=(1000, [A1]), aaaa=(1000, [B1]))
    error = refused(network, Parameters(TCP(), resolution_timeout=3))
    assert isinstance(error, DNSError) and "resolution_timeout=3 s" in str(error)


# Racing


def test_families_alternate_and_attempts_are_staggered(network: Network) -> None:
    resolving(network, a=(0.01, [A1, A2]), aaaa=(0.01, [B1, B2]))
    network.hosts = {A2: Answer()}
    assert connected(network) == A2
    assert network.said()[2:] == [(10, B1), (260, A1), (510, B2), (760, A2)]


def test_a_failure_starts_the_next_at_once(network: Network) -> None:
    resolving(network, a=(0, [A1, A2]))
    network.hosts = {A1: refusal(0.02), A2: Answer()}
    assert connected(network) == A2
    assert network.said()[2:] == [(0, A1), (20, A2)]


def test_starts_are_never_nearer_than_10_ms(network: Network) -> None:
    resolving(network, a=(0, [A1, A2, A3]))
    network.hosts = {A1: refusal(0), A2: refusal(0), A3: Answer()}
    assert connected(network) == A3
    assert network.said()[2:] == [(0, A1), (10, A2), (20, A3)]


def test_the_losers_are_closed_and_the_earlier_one_may_still_win(network: Network) -> None:
    resolving(network, a=(0, [A1, A2, A3]))
    network.hosts = {A1: Answer(0.6), A2: SILENCE, A3: SILENCE}

    async def main() -> None:
        async with NetworkConnection(NAME, TCP()) as connection:
            await connection.ready()
            assert network.time() == pytest.approx(0.6) and connection.remote_endpoint == HostPort(A1, 80)
            assert [socket.state for socket in network.sockets] == ["open", "aborted", "aborted"]

    network.run(main)


def test_connected_without_its_handshake_does_not_win(network: Network) -> None:
    """The first address accepts and then says nothing: TLS never ends there, and the race goes on."""
    resolving(network, a=(0, [A1, A2]))
    network.hosts = {A1: Answer(), A2: SILENCE}

    async def main() -> None:
        async with NetworkConnection(NAME, TLS(handshake_timeout=3)) as connection:
            waiting = asyncio.create_task(connection.ready())
            await asyncio.sleep(1)
            assert connection.state is State.PREPARING and len(network.sockets) == 2
            network.sockets[1].state = "failed"
            network.sockets[1].handler.failed(ConnectionRefusedError(errno.ECONNREFUSED, "refused"))
            with pytest.raises(ConnectError, match="handshake_timeout=3 s") as caught:
                await waiting
            assert network.time() == pytest.approx(3.01)
            assert [attempt.phase for attempt in caught.value.attempts] == [Phase.HANDSHAKE, Phase.CONNECTING]

    network.run(main)
    # The handshake of the first put the second start off: one attempt delay from when its transport was up.
    assert network.said()[2:] == [(0, A1), (260, A2)]


def test_connecting_has_a_timer(network: Network) -> None:
    error = refused(network, TCP(connection_timeout=7), (A1, 80))
    assert isinstance(error, TimeoutError) and isinstance(error, ConnectError) and "connection_timeout=7 s" in str(error)
    assert error.attempts[0].elapsed == pytest.approx(7)


def test_the_defaults_are_finite() -> None:
    assert 0 < TCP().connection_timeout <= 60 and 0 < TLS().handshake_timeout <= 60
    assert 0 < Parameters(TCP()).resolution_timeout <= 60


def test_the_error_holds_every_attempt_and_the_shared_reason(network: Network) -> None:
    resolving(network, a=(0, [A1, A2]), aaaa=(0, [B1]))
    network.hosts = {A1: refusal(0.1), A2: refusal(0.2), B1: refusal(0.3)}
    error = refused(network)
    assert isinstance(error, ConnectionRefusedError) and error.errno == errno.ECONNREFUSED
    assert [attempt.endpoint for attempt in error.attempts] == [HostPort(B1, 80), HostPort(A1, 80), HostPort(A2, 80)]
    assert all(f"{attempt.endpoint}" in str(error) for attempt in error.attempts)
    assert [round(attempt.elapsed, 2) for attempt in error.attempts] == [0.3, 0.1, 0.2]


def test_different_reasons_share_no_class(network: Network) -> None:
    resolving(network, a=(0, [A1, A2]))
    network.hosts = {A1: refusal(0.1), A2: Answer(0.1, errno.EHOSTUNREACH)}
    error = refused(network)
    assert not isinstance(error, (ConnectionRefusedError, TimeoutError)) and error.errno is None


def test_the_next_endpoints_are_the_losers_and_the_untried(network: Network) -> None:
    resolving(network, a=(0, [A1, A2, A3]))
    seen: list[str] = []

    async def main() -> None:
        async with NetworkConnection(NAME, TCP()) as connection:
            for host in (A2, A3, A1):
                network.hosts[host] = Answer()
                await connection.ready()
                assert isinstance(connection.remote_endpoint, HostPort)
                seen.append(connection.remote_endpoint.host)
                connection.try_next_endpoint()
            await asyncio.sleep(0.1)
            assert connection.state is State.WAITING and "no other address" in str(connection.error)

    network.run(main)
    assert seen == [A2, A3, A1]


@pytest.mark.parametrize(("reason", "tried"), [("wrong_name", 1), ("expired", 1), ("unknown_authority", 1), ("not_tls", 2)])
def test_a_certificate_speaks_for_all_addresses(
    network: Network, monkeypatch: pytest.MonkeyPatch, reason: str, tried: int
) -> None:
    resolving(network, a=(0, [A1, A2]))
    network.hosts = {A1: Answer(), A2: Answer()}

    class Refusing:
        messages = ()
        handshaking = None

        def __init__(self, *_: object) -> None: ...

        def start(self) -> bytes:
            raise TLSError("no", reason=reason)

        def closed(self) -> None: ...

    monkeypatch.setattr("tieline.establishment.stacks.client_pipeline", Refusing)

    async def main() -> None:
        connection = NetworkConnection(NAME, TLS())
        with pytest.raises(TLSError) as caught:
            await connection.ready()
        assert caught.value.reason == reason and len(caught.value.attempts) == tried
        assert connection.state is State.FAILED

    network.run(main)


# What the parameters rule out


def test_an_address_behind_a_prohibited_interface_is_not_tried(network: Network) -> None:
    network.links = (
        Interface("eth0", 2, InterfaceType.WIRED, ("192.0.2.99",)),
        Interface("wwan0", 3, InterfaceType.CELLULAR, ("2001:db8::99",)),
    )
    resolving(network, a=(0, [A1]), aaaa=(0, [B1]))
    network.hosts = {A1: Answer(), B1: Answer()}
    assert connected(network, Parameters(TCP(), prohibited_interface_types=[InterfaceType.CELLULAR])) == A1  # type: ignore[arg-type]
    assert B1 not in [what for _, what in network.log]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"required_interface": "wlan7"}, r"required_interface='wlan7'"),
        ({"required_interface_type": InterfaceType.WIFI}, r"required_interface_type"),
        ({"prohibited_interfaces": ("eth0",)}, r"prohibited_interfaces=\('eth0',\)"),
        ({"prohibited_interface_types": (InterfaceType.WIRED,)}, r"prohibited_interface_types"),
    ],
)
def test_no_usable_interface_is_told_with_the_option(network: Network, options: dict[str, Any], text: str) -> None:
    error = refused(network, Parameters(TCP(), **options), (A1, 80))
    assert error.errno == errno.ENETDOWN and error.attempts == ()
    with pytest.raises(ConnectError, match=text):
        raise error


@pytest.mark.parametrize(
    ("to", "using", "error", "text"),
    [
        ("unix:/run/x", TLS(), ValueError, "no host name"),
        ("unix:/run/x", UDP(), UnexpectedEndpointTypeError, "UDP does not run over Unix sockets"),
        ("[::1]:1", TCP(IP(version=IPVersion.V4)), UnexpectedEndpointTypeError, "an IPv4 address"),
        ("[::1]:1", Parameters(TCP(), local_endpoint="127.0.0.1:0"), ValueError, "IPv4.*IPv6"),
        (
            "host.test:1",
            Parameters(TCP(IP(version=IPVersion.V6)), local_endpoint="127.0.0.1:0"),
            ValueError,
            "IPv4.*IPv6",
        ),
        ("127.0.0.1:1", Parameters(TCP(), local_endpoint=UnixEndpoint("/x")), ValueError, "is a Unix socket"),
        ("unix:/run/x", Parameters(TCP(), local_endpoint="127.0.0.1:0"), ValueError, "is a Unix socket"),
        ("unix:/run/x", Parameters(TCP(), local_port=7), ValueError, "local_port=7"),
        (80, TCP(), UnexpectedEndpointTypeError, "80"),
    ],
)
def test_what_can_never_be_reached_is_refused_at_construction(to: Any, using: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        NetworkConnection(to, using)


def test_tls_over_a_unix_socket_wants_a_name_or_a_pin() -> None:
    NetworkConnection("unix:/run/x", TLS(server_name="localhost"))
