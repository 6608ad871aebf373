"""Establishment on real sockets: the system's resolver, several addresses of this machine, TLS in the race."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import AsyncIterator, Iterator
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
    NetworkListener,
    Parameters,
    State,
)
from tieline.drivers.asyncio import AsyncioDriver
from tieline.errors import Phase, TLSError

from ..authority import LOCALHOST, OTHER_NAME, TRUST
from ..peers import Peer

SERVER, CLIENT = TLS(identity=LOCALHOST), TLS(trust=TRUST, server_name="localhost")


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What host.test resolves to."""
    answers: list[str] = []

    async def resolve(_: object, host: str, port: int, version: int) -> list[HostPort]:
        assert host == "host.test"
        return [one for one in (HostPort(address, port) for address in answers) if one.version == version]

    monkeypatch.setattr(AsyncioDriver, "resolve", resolve)
    return answers


@contextlib.contextmanager
def black_hole(host: str, port: int = 0) -> Iterator[int]:
    """A listener whose queue is full: the kernel drops the SYN, so nobody answers. Gives its port."""
    with socket.socket() as listening, contextlib.ExitStack() as stack:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(0)
        for _ in range(2):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        yield int(listening.getsockname()[1])


async def echo(connection: NetworkConnection[Any]) -> None:
    async for piece in connection:
        await connection.send(piece.content)


@contextlib.asynccontextmanager
async def silent(host: str, port: int) -> AsyncIterator[None]:
    """Somebody who accepts and then says nothing."""
    with socket.create_server((host, port)):
        yield


async def elapsed(connection: NetworkConnection[Any]) -> float:
    loop = asyncio.get_running_loop()
    before = loop.time()
    await connection.ready()
    return loop.time() - before


# Names


async def test_localhost_resolves_through_the_system() -> None:
    async with (
        NetworkListener(TCP(), on="127.0.0.1:0").serving(echo) as listener,
        NetworkConnection(("localhost", listener.port), TCP()) as connection,
    ):
        await connection.ready()
        assert connection.remote_endpoint == HostPort("127.0.0.1", listener.port)


async def test_a_name_that_does_not_exist() -> None:
    async with NetworkConnection("does-not-exist.invalid:80", TCP()) as connection:
        with pytest.raises(socket.gaierror) as caught:
            await connection.send(b"x")
        assert isinstance(caught.value, DNSError) and isinstance(caught.value, ConnectError)
        assert caught.value.phase is Phase.RESOLVING and "does-not-exist.invalid:80" in str(caught.value)
        assert connection.state is State.WAITING


async def test_a_and_aaaa_are_asked_for_in_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=5)
    asked: list[int] = []

    def getaddrinfo(host: str, port: int, family: int, *rest: object) -> list[Any]:
        asked.append(family)
        both.wait()  # passes only when both are asked at the same time
        raise socket.gaierror(socket.EAI_NONAME, "no")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with NetworkConnection("host.test:80", TCP()) as connection:
        with pytest.raises(DNSError):
            await connection.ready()
    assert sorted(asked) == sorted([socket.AF_INET, socket.AF_INET6])


async def test_a_resolver_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def getaddrinfo(*_: object) -> list[Any]:
        over.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "at last")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        async with NetworkConnection("host.test:80", Parameters(TCP(), resolution_timeout=0.1)) as connection:
            with pytest.raises(DNSError, match="resolution_timeout"):
                await connection.ready()
    finally:
        over.set()
    await asyncio.sleep(0.05)


# The race


@pytest.mark.parametrize("stacks", [(TCP(), TCP()), (SERVER, CLIENT)])
async def test_the_first_address_that_works_wins(addresses: list[str], stacks: Any) -> None:
    addresses += ["::1", "127.0.0.2", "127.0.0.3"]  # nobody listens at the first two
    async with (
        NetworkListener(stacks[0], on="127.0.0.3:0").serving(echo) as listener,
        NetworkConnection(("host.test", listener.port), stacks[1]) as connection,
    ):
        assert await elapsed(connection) < 0.2
        assert connection.remote_endpoint == HostPort("127.0.0.3", listener.port)
        await connection.send(b"hello")
        assert (await connection.receive()).content == b"hello"


async def test_a_silent_address_costs_one_attempt_delay(addresses: list[str]) -> None:
    addresses += ["127.0.0.2", "127.0.0.3"]
    with black_hole("127.0.0.2") as port:
        async with (
            NetworkListener(TCP(), on=("127.0.0.3", port)).serving(echo),
            NetworkConnection(("host.test", port), TCP()) as connection,
        ):
            assert 0.24 < await elapsed(connection) < 0.4


async def test_a_stalled_tls_handshake_does_not_win(addresses: list[str]) -> None:
    addresses += ["127.0.0.2", "127.0.0.3"]
    async with (
        NetworkListener(SERVER, on="127.0.0.3:0").serving(echo) as listener,
        silent("127.0.0.2", listener.port),
        NetworkConnection(("host.test", listener.port), CLIENT) as connection,
    ):
        assert 0.24 < await elapsed(connection) < 0.5
        assert connection.remote_endpoint == HostPort("127.0.0.3", listener.port)
        report = await connection.establishment_report()
        assert [one.protocol for one in report.handshakes] == ["TCP", "TLS"]


async def test_a_refused_certificate_ends_the_race(addresses: list[str]) -> None:
    addresses += ["127.0.0.2", "127.0.0.3"]
    served: list[object] = []

    async def note(connection: NetworkConnection[Any]) -> None:
        served.append(connection)

    async with (
        NetworkListener(TLS(identity=OTHER_NAME), on="127.0.0.2:0").serving(note) as bad,
        NetworkListener(SERVER, on=("127.0.0.3", bad.port)).serving(note) as good,
        NetworkConnection(("host.test", good.port), CLIENT) as connection,
    ):
        with pytest.raises(TLSError) as caught:
            await connection.ready()
        assert caught.value.reason == "wrong_name" and len(caught.value.attempts) == 1
        assert connection.state is State.FAILED and connection.error is not None


async def test_what_is_no_tls_does_not_end_the_race(addresses: list[str]) -> None:
    addresses += ["127.0.0.2", "127.0.0.3"]

    async def shout(connection: NetworkConnection[Any]) -> None:
        await connection.send(b"220 welcome to the wrong port\r\n")
        await connection.receive()

    async with (
        NetworkListener(TCP(), on="127.0.0.2:0").serving(shout) as wrong,
        NetworkListener(SERVER, on=("127.0.0.3", wrong.port)).serving(echo),
        NetworkConnection(("host.test", wrong.port), CLIENT) as connection,
    ):
        await connection.ready()
        assert connection.remote_endpoint == HostPort("127.0.0.3", wrong.port)


async def test_timeouts_are_told_by_phase() -> None:
    with black_hole("127.0.0.1") as port:
        async with NetworkConnection(("127.0.0.1", port), TCP(connection_timeout=0.1)) as connection:
            with pytest.raises(TimeoutError, match=r"connection_timeout=0\.1 s") as caught:
                await connection.ready()
            assert isinstance(caught.value, ConnectError) and caught.value.phase is Phase.CONNECTING
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = TLS(trust=TRUST, handshake_timeout=0.1)
        async with NetworkConnection(listening.getsockname(), client) as connection:
            with pytest.raises(TimeoutError, match=r"handshake_timeout=0\.1 s") as caught:
                await connection.ready()
            assert isinstance(caught.value, ConnectError) and caught.value.phase is Phase.HANDSHAKE
            assert connection.state is State.WAITING


async def test_a_reset_during_the_handshake_is_final() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        async with NetworkConnection(listening.getsockname(), CLIENT) as connection:
            waiting = asyncio.ensure_future(connection.ready())
            peer = Peer((await asyncio.get_running_loop().sock_accept(listening))[0])
            await peer.receive()
            peer.reset()
            with pytest.raises(ConnectionResetError) as caught:
                await waiting
            assert isinstance(caught.value, ConnectError) and connection.state is State.FAILED


async def test_the_losers_are_closed(addresses: list[str]) -> None:
    addresses += ["127.0.0.2", "127.0.0.3"]
    with socket.create_server(("127.0.0.2", 0)) as listening:
        listening.setblocking(False)
        port = listening.getsockname()[1]
        async with (
            NetworkListener(SERVER, on=("127.0.0.3", port)).serving(echo),
            NetworkConnection(("host.test", port), CLIENT) as connection,
        ):
            loser = Peer((await asyncio.get_running_loop().sock_accept(listening))[0]) if connection.start() else None
            await connection.ready()
            assert loser is not None
            with loser:
                assert await loser.gone() == "reset"


async def test_the_next_endpoint(addresses: list[str]) -> None:
    addresses += ["127.0.0.2", "127.0.0.3"]

    async def greet(connection: NetworkConnection[Any]) -> None:
        assert isinstance(connection.local_endpoint, HostPort)
        await connection.send(connection.local_endpoint.host.encode() + b"\n")
        await connection.receive()

    async with (
        NetworkListener(SERVER, on=0).serving(greet) as listener,
        NetworkConnection(("host.test", listener.port), CLIENT) as connection,
    ):
        assert (await connection.receive(until=b"\n")).content == b"127.0.0.2\n"
        waiting = asyncio.ensure_future(connection.receive(until=b"\n"))
        await asyncio.sleep(0)
        connection.try_next_endpoint()
        assert (await waiting).content == b"127.0.0.3\n"
        connection.abort()


async def test_an_accepted_connection_has_no_next_endpoint() -> None:
    raised: list[BaseException] = []

    async def handler(connection: NetworkConnection[Any]) -> None:
        try:
            connection.try_next_endpoint()
        except RuntimeError as error:
            raised.append(error)

    async with (
        NetworkListener(TCP(), on="127.0.0.1:0").serving(handler) as listener,
        NetworkConnection(listener.endpoint, TCP()) as connection,
    ):
        await connection.receive()
    assert "only the side that connects" in str(raised[0])


# Parameters


@pytest.mark.parametrize("using", [TCP(), UDP()])
async def test_the_local_endpoint_is_bound(using: Any) -> None:
    async with NetworkListener(using, on="127.0.0.1:0").serving(echo) as listener:
        parameters = Parameters(using, local_endpoint="127.0.0.7:0")
        async with NetworkConnection(listener.endpoint, parameters) as connection:
            await connection.ready()
            assert isinstance(connection.local_endpoint, HostPort) and connection.local_endpoint.host == "127.0.0.7"
            port = connection.local_endpoint.port
            connection.abort()
        async with NetworkConnection(listener.endpoint, Parameters(using, local_port=port)) as connection:
            await connection.ready()
            assert connection.local_endpoint == HostPort("127.0.0.1", port)
            connection.abort()


async def test_a_busy_local_endpoint_is_told_and_may_be_shared() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        parameters = Parameters(UDP(), local_endpoint=taken.getsockname())
        async with NetworkConnection("127.0.0.1:9", parameters) as connection:
            with pytest.raises(ConnectError) as caught:
                await connection.ready()
            assert caught.value.errno == errno.EADDRINUSE and connection.state is State.WAITING
        shared = Parameters(UDP(), local_endpoint=taken.getsockname(), local_endpoint_reuse_allowed=True)
        async with NetworkConnection("127.0.0.1:9", shared) as connection:
            await connection.ready()


async def test_a_local_address_that_is_not_ours_waits() -> None:
    async with NetworkConnection("127.0.0.1:9", Parameters(TCP(), local_endpoint="203.0.113.5:0")) as connection:
        with pytest.raises(ConnectError) as caught:
            await connection.ready()
        assert caught.value.errno == errno.EADDRNOTAVAIL and connection.state is State.WAITING


@pytest.mark.parametrize("using", [TCP(no_options=True), TCP(ecn_disabled=True), TCP(persist_timeout=3)])
async def test_an_option_that_the_system_refuses_is_final(using: TCP) -> None:
    async with NetworkConnection("127.0.0.1:9", using) as connection:
        with pytest.raises(ConnectError, match="cannot be set for one connection") as caught:
            await connection.ready()
        assert caught.value.errno == errno.ENOPROTOOPT and connection.state is State.FAILED


@pytest.mark.parametrize("options", [{"required_interface": "nonesuch0"}, {"prohibited_interfaces": ("lo",)}])
async def test_an_interface_that_is_ruled_out_is_told(options: dict[str, Any]) -> None:
    async with NetworkConnection("127.0.0.1:9", Parameters(TCP(), **options)) as connection:
        with pytest.raises(ConnectError, match=r"nonesuch0|which the parameters rule out|no usable network"):
            await connection.ready()
        assert connection.state is State.WAITING


# Tickets


class Doorkeeper:
    """A relay to a server that refuses so many connections in their handshake with an alert, as rustls does for a ticket."""

    ALERT = bytes.fromhex("15 0303 0002 02 6d")  # fatal, missing_extension (RFC 8446 section 6)

    def __init__(self, to: int) -> None:
        self.to = to
        self.refuses = 0
        self.count = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.count += 1
        if self.refuses:
            self.refuses -= 1
            await reader.read(65536)
            writer.write(self.ALERT)
            writer.close()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self.to)
        await asyncio.gather(relay(reader, back), relay(there, writer))


async def relay(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
    sink.close()


async def test_a_ticket_that_is_in_the_way() -> None:
    """The client tries once more, without one: no other ticket of the same server is spent on it."""
    client = TLS(trust=TRUST, server_name="localhost", alpn=["ticket"])  # no other test's tickets

    async def handler(connection: NetworkConnection[TLS]) -> None:
        await connection.send(b"x")

    async with NetworkListener(TLS(identity=LOCALHOST, alpn=["ticket"]), on="127.0.0.1:0").serving(handler) as listener:
        keeper = Doorkeeper(listener.port)
        async with await asyncio.start_server(keeper.serve, "127.0.0.1", 0) as server:
            place = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            for refuses, resumed in ((0, False), (0, True), (1, False), (0, True)):
                keeper.refuses, before = refuses, keeper.count
                async with NetworkConnection(place, client) as connection:
                    await connection.receive(exactly=1)
                    assert connection.metadata(TLS).resumed is resumed
                assert keeper.count == before + 1 + refuses
            keeper.refuses, before = 3, keeper.count
            connection = NetworkConnection(place, client)
            with pytest.raises(TLSError) as caught:
                await connection.ready()
            assert caught.value.alert == "missing_extension" and keeper.count == before + 2
