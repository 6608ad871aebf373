"""What works without any privilege, and what says that it needs one. See ordinary_user.py, which does it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tieline import QUIC, TCP, UDP, HostPort, NetworkListener, Parameters

from ..authority import LOCALHOST
from .conftest import Hosts
from .test_path_changes import SERVER, routes

pytestmark = pytest.mark.asyncio_only  # the program has a loop of its own


async def told(hosts: Hosts, *arguments: str) -> dict[str, str]:
    """What the program says of each thing that it does."""
    hosts.ip("addr", "add", f"{SERVER}/32", "dev", "lo", on=hosts.server)
    routes(hosts, 0, 1)
    stacks: list[Any] = [TCP(), UDP(), QUIC(alpn=["test"], identity=LOCALHOST)]
    async with contextlib.AsyncExitStack() as stack:
        ports: list[int] = []
        for one in stacks:
            listener = NetworkListener(Parameters(one, grace_period=0.0), on=HostPort(SERVER, 0))
            block = listener.serving(lambda connection: asyncio.Event().wait())
            with hosts.on_server():
                await stack.enter_async_context(block)
            ports.append(listener.port)
        program = (sys.executable, str(Path(__file__).with_name("ordinary_user.py")), SERVER, *map(str, ports), *arguments)
        process = await asyncio.create_subprocess_exec(
            "ip", "netns", "exec", hosts.client, *program, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        said: dict[str, str] = {}
        async for line in process.stdout:
            name, value = json.loads(line)
            if name == "change" and name not in said:
                hosts.ip("link", "set", "cl1", "down")
            said[name] = value
        assert await process.wait() == 0
    assert int(said.pop("capabilities"), 16) == 0
    return said


LOW_PORT = "Port 80 needs CAP_NET_BIND_SERVICE"


async def test_everything_works_without_privilege(hosts: Hosts) -> None:
    said = await told(hosts)
    assert LOW_PORT in said.pop("low port")
    over_cl1 = dict.fromkeys(("prohibited", "tcp", "udp", "quic"), "10.77.2.1 cl1")
    assert said == {"plain": "10.77.1.1 cl0", **over_cl1, "multipath": "10.77.1.1 cl0", "listen": "10.77.2.1", "change": "cl0 lo"}


async def test_where_sockets_may_not_be_bound_to_interfaces(hosts: Hosts) -> None:
    """The system's own choice is left; what rules that out says what it needs."""
    said = await told(hosts, "refused")
    assert said.pop("plain") == "10.77.1.1 cl0"
    assert LOW_PORT in said.pop("low port")
    for name, text in said.items():
        assert "ConnectError" in text and "a socket may not be bound to interface cl1" in text, name
        assert "CAP_NET_RAW" in text, name
    assert len(said) == 5
