"""Listeners on chosen interfaces, and the command on either side: peers come over two links and through a router."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tieline import (
    QUIC,
    TCP,
    UDP,
    HostPort,
    InterfaceType,
    ListenerState,
    NetworkConnection,
    NetworkListener,
    Parameters,
    set_interface_policy,
)

from ..authority import LOCALHOST
from ..peers import until
from .conftest import Hosts
from .test_path_changes import SERVER, judge, routes

pytestmark = pytest.mark.asyncio_only  # on uvloop everything is the same but the time that it takes

STACKS: list[Any] = [TCP(), UDP(), QUIC(alpn=["test"], identity=LOCALHOST)]
TCP_, UDP_, QUIC_ = STACKS
WIFI, CELLULAR, WIFI6, CELLULAR6 = "10.77.1.1", "10.77.2.1", "[fd77:1::1]", "[fd77:2::1]"


@pytest.fixture(autouse=True)
def policy(hosts: Hosts) -> Iterator[None]:
    set_interface_policy(judge)
    yield
    set_interface_policy(None)


async def echo(connection: NetworkConnection[Any]) -> None:
    if isinstance(connection.parameters.stack, QUIC):
        await connection.inbound_streams(echo_stream)
    else:
        await echo_stream(connection)


async def echo_stream(channel: Any) -> None:
    async for content, _ in channel:
        await channel.send(content)


@asynccontextmanager
async def listening(stack: Any, on: Any = None, **options: Any) -> AsyncIterator[NetworkListener[Any]]:
    """In the background, also while it waits."""
    listener = NetworkListener(Parameters(stack, grace_period=0.0, **options), on=on)
    running = asyncio.create_task(listener.run(echo))
    try:
        await until(lambda: listener.state is not ListenerState.SETUP)
        yield listener
    finally:
        running.cancel()
        await asyncio.wait([running])


async def connect(on: str, to: str, *options: str) -> tuple[int, str]:
    """``tieline connect`` on a host: its exit code, and what it was answered, or what it says about that."""
    program = (sys.executable, "-m", "tieline", "connect", "--timeout", "5", "--linger", "0.3", *options, to)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("ip", "netns", "exec", on, *program, stdin=pipe, stdout=pipe, stderr=pipe)
    out, err = await process.communicate(b"ping")
    assert process.returncode is not None
    return process.returncode, (out if not process.returncode else err).decode()


def way(stack: Any) -> tuple[str, ...]:
    return ("--quic", "--insecure", "--alpn", "test") if isinstance(stack, QUIC) else ("--udp",) if isinstance(stack, UDP) else ()


async def answers(hosts: Hosts, stack: Any, host: str, port: int | None, *options: str) -> bool:
    """Whether the client's listener answers the server there."""
    code, said = await connect(hosts.server, f"{host}:{port}", *way(stack), *options)
    assert code or said in ("ping", "")
    return not code and said == "ping"


async def answers_soon(hosts: Hosts, stack: Any, host: str, port: int | None) -> bool:
    """The same after a change, or on a link that is new: the server may notice later than we do that its end is up.

    On a busy machine it may also take longer than the client waits for a datagram.
    """
    for _ in range(5):
        if await answers(hosts, stack, host, port, "--wait"):
            return True
    return False


@pytest.mark.parametrize(
    ("stack", "options", "yes", "no"),
    [
        (TCP_, {"required_interface": "cl1"}, CELLULAR, WIFI),
        (TCP_, {"required_interface_type": InterfaceType.WIFI}, WIFI6, CELLULAR6),
        (UDP_, {"prohibited_interfaces": ("cl0",)}, CELLULAR6, WIFI6),
        (QUIC_, {"expensive_paths_prohibited": True}, WIFI, CELLULAR),
    ],
)
async def test_only_what_the_parameters_allow_is_listened_on(
    hosts: Hosts, stack: Any, options: dict[str, Any], yes: str, no: str
) -> None:
    async with listening(stack, **options) as listener:
        assert listener.state is ListenerState.READY
        assert await answers_soon(hosts, stack, yes, listener.port)
        assert not await answers(hosts, stack, no, listener.port)


@pytest.mark.parametrize("stack", STACKS)
async def test_it_follows_an_interface(hosts: Hosts, stack: Any) -> None:
    """Down and up, and taken out and put in: then it has another number, and a socket that is bound to the old one is deaf."""
    hosts.ip("link", "set", "cl1", "down")
    async with listening(stack, required_interface_type=InterfaceType.CELLULAR) as listener:
        assert listener.state is ListenerState.WAITING
        assert "no remaining interface is of the required type" in str(listener.error)
        ports: set[int] = set()
        for gone, back in ((None, "up"), ("down", "up"), ("del", "add")):
            for change, expected in ((gone, ListenerState.WAITING), (back, ListenerState.READY)):
                if change is None:
                    continue
                if change == "del":
                    hosts.ip("link", "del", "cl1")
                elif change == "add":
                    hosts.join(1)
                else:
                    hosts.ip("link", "set", "cl1", change)
                await until(lambda expected=expected: listener.state is expected, 2.0)
            ports.add(listener.port)
            if gone != "down":
                assert await answers_soon(hosts, stack, CELLULAR, listener.port)
        assert len(ports) == 1


async def test_a_flow_of_datagrams_outlives_a_moment_without_its_interface(hosts: Hosts) -> None:
    async with listening(UDP(), required_interface="cl0") as listener:
        with hosts.on_server():
            peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with peer:
            peer.setblocking(False)
            peer.connect((WIFI, listener.port))
            loop = asyncio.get_running_loop()
            for number in range(2):
                peer.send(b"%d" % number)
                async with asyncio.timeout(2):
                    assert await loop.sock_recv(peer, 9) == b"%d" % number
                [flow] = listener._tasks
                if number == 0:
                    hosts.ip("link", "set", "cl0", "down")
                    await until(lambda: listener.state is ListenerState.WAITING)
                    hosts.ip("link", "set", "cl0", "up")
                    await until(lambda: listener.state is ListenerState.READY)
                    before = flow
            assert flow is before, "the same connection goes on"


@pytest.mark.parametrize("stack", STACKS)
async def test_a_local_listener_takes_in_nobody_from_beyond_a_router(hosts: Hosts, stack: Any) -> None:
    with hosts.routed():
        async with listening(stack, local_only=True) as listener:
            for place in (WIFI, WIFI6):
                assert await answers_soon(hosts, stack, place, listener.port)
            assert not await answers(hosts, stack, "10.77.4.1", listener.port)
            if not isinstance(stack, UDP):
                assert listener.failed_handshake_count > 0


# The command


async def test_listen_waits_for_the_interface_that_it_is_told(hosts: Hosts) -> None:
    hosts.ip("link", "set", "cl1", "down")
    program = (sys.executable, "-m", "tieline", "listen", "--interface", "cl1", "--keep", "--echo", "0")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("ip", "netns", "exec", hosts.client, *program, stderr=pipe)
    assert process.stderr is not None
    try:
        said = (await process.stderr.readline()).decode()
        assert said.startswith("waiting: ") and "required_interface='cl1'" in said
        hosts.ip("link", "set", "cl1", "up")
        said = (await process.stderr.readline()).decode()
        assert said.startswith("listening on 0.0.0.0:")
        port = int(said.split()[2].rpartition(":")[2])
        assert await answers_soon(hosts, TCP_, CELLULAR, port)
        assert not await answers(hosts, TCP_, WIFI, port)
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize(
    ("stack", "options", "source"),
    [
        (TCP_, (), "10.77.1.1"),
        (TCP_, ("--interface", "cl1"), "10.77.2.1"),
        (TCP_, ("--prohibit", "cl0"), "10.77.2.1"),
        (TCP_, ("--prohibit", "wired", "--prohibit", "cl1"), None),
        (TCP_, ("--interface", "nope0"), None),
        (UDP_, ("--prohibit", "cl0"), "10.77.2.1"),
        (QUIC_, ("--interface", "cl1"), "10.77.2.1"),
    ],
)
async def test_connect_goes_over_the_interface_that_it_is_told(
    hosts: Hosts, stack: Any, options: tuple[str, ...], source: str | None
) -> None:
    hosts.ip("addr", "add", f"{SERVER}/32", "dev", "lo", on=hosts.server)
    routes(hosts, 0, 1)
    listener = NetworkListener(Parameters(stack, grace_period=0.0), on=HostPort(SERVER, 0))
    seen: list[Any] = []

    async def serve(connection: NetworkConnection[Any]) -> None:
        seen.append(connection.remote_endpoint)
        await echo(connection)

    block = listener.serving(serve)
    with hosts.on_server():
        await block.__aenter__()
    try:
        code, said = await connect(hosts.client, f"{SERVER}:{listener.port}", *way(stack), *options)
        if source is None:
            assert code == 1 and ("which the parameters rule out" in said or "no usable network" in said)
        else:
            assert (code, said) == (0, "ping")
        assert [remote.host for remote in seen] == ([] if source is None else [source])
    finally:
        await block.__aexit__(None, None, None)
