"""Programs that know nothing of the simulated network run on it, without an edit."""

from __future__ import annotations

import asyncio
import runpy
import time
from pathlib import Path
from typing import Any

import pytest

from tieline.testing import SimulatedNetwork

PROGRAMS = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_an_example(program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """All that changes is who runs `main`: one host of a network instead of this machine."""
    network = SimulatedNetwork()
    host = network.host("localhost.test")
    monkeypatch.setattr(asyncio, "run", lambda main: network.run(lambda: main, on=host))
    runpy.run_path(str(program), run_name="__main__")
    assert capsys.readouterr().out.splitlines()[-1] == "ok"
    assert network.trace, "it ran on sockets of the system"


def test_an_hour_of_an_idle_pair_takes_no_time(simulated_network: SimulatedNetwork) -> None:
    from tieline import TCP, NetworkConnection, NetworkListener

    server, client = simulated_network.host("server.test"), simulated_network.host("client.test")
    simulated_network.link(server, client)

    async def echo(connection: NetworkConnection[Any]) -> None:
        async for content, _ in connection:
            await connection.send(content)

    async def main() -> None:
        server.start(NetworkListener(TCP(), on=80).run, echo)
        await asyncio.sleep(0)
        with client:
            async with NetworkConnection("server.test:80", TCP()) as connection:
                await connection.send(b"before")
                assert (await connection.receive()).content == b"before"
                await asyncio.sleep(3600)
                await connection.send(b"after")
                assert (await connection.receive()).content == b"after"

    began = time.perf_counter()
    simulated_network.run(main)
    assert 3600 < simulated_network.time < 3601
    assert time.perf_counter() - began < 1  # it takes some milliseconds
