"""Instructions for one message, counted by callgrind: what a clock on a busy machine cannot tell, a counter can.

``python -m benchmarks.instructions`` compares every scenario with `instructions.json` and fails when one has grown by more than
2 %. Whoever has a reason writes it down: ``--write --note "why"``. Both ends of a scenario live in one process, on asyncio's own
loop. It runs in two lengths, and the difference is divided by what was done more: what starting takes falls out.

The counts hold for one Python, one compiler and one machine's libraries; elsewhere, and without valgrind, nothing is compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
COUNTS = HERE / "instructions.json"
TOLERANCE = 0.02
Scenario = Callable[[int], Awaitable[None]]


# Scenarios: each does its work so many times.


def counted(stack: Any) -> Any:
    """Whether the loop stays awake goes by the clock, which counting slows down fifty times."""
    from tieline import Parameters

    return Parameters(stack, busy_poll=0)


def streams(tls: bool) -> tuple[Any, Any]:
    from benchmarks.workloads import tieline_stack

    return counted(tieline_stack(tls, server=True)), counted(tieline_stack(tls, server=False, tickets=False))


def pingpong(tls: bool) -> Scenario:
    async def run(count: int) -> None:
        from tieline import NetworkConnection, NetworkListener

        async def echo(connection: Any) -> None:
            async for content, _ in connection:
                await connection.send(content)

        server, client = streams(tls)
        message = bytes(64)
        async with NetworkListener(server, on="127.0.0.1:0").serving(echo) as listener:  # noqa: SIM117
            async with NetworkConnection(listener.endpoint, client) as connection:
                for _ in range(count):
                    await connection.send(message)
                    await connection.receive(exactly=64)

    return run


def bulk(tls: bool) -> Scenario:
    async def run(count: int) -> None:
        from tieline import NetworkConnection, NetworkListener

        async def swallow(connection: Any) -> None:
            while True:
                await connection.receive(exactly=65536)
                await connection.send(b"!")

        server, client = streams(tls)
        piece = bytes(65536)
        async with NetworkListener(server, on="127.0.0.1:0").serving(swallow) as listener:  # noqa: SIM117
            async with NetworkConnection(listener.endpoint, client) as connection:
                for _ in range(count):
                    await connection.send(piece)
                    await connection.receive(exactly=1)

    return run


def connecting(tls: bool) -> Scenario:
    async def run(count: int) -> None:
        from tieline import NetworkConnection, NetworkListener

        async def echo(connection: Any) -> None:
            async for content, _ in connection:
                await connection.send(content)

        server, client = streams(tls)
        async with NetworkListener(server, on="127.0.0.1:0").serving(echo) as listener:
            for _ in range(count):
                async with NetworkConnection(listener.endpoint, client) as connection:
                    await connection.send(b"hello")
                    await connection.receive(exactly=5)

    return run


async def datagram_pingpong(count: int) -> None:
    from tieline import UDP, NetworkConnection, NetworkListener

    async def echo(connection: Any) -> None:
        async for content, _ in connection:
            await connection.send(content)

    message = bytes(64)
    async with NetworkListener(counted(UDP()), on="127.0.0.1:0").serving(echo) as listener:  # noqa: SIM117
        async with NetworkConnection(listener.endpoint, counted(UDP())) as connection:
            for _ in range(count):
                await connection.send(message)
                await connection.receive()


async def datagram_batches(count: int) -> None:
    from tieline import UDP, NetworkConnection, NetworkListener

    async def swallow(connection: Any) -> None:
        missing = 32
        while True:
            missing -= len(await connection.receive_many())
            if not missing:
                missing = 32
                await connection.send(b"!")

    batch = [bytes(1200)] * 32
    async with NetworkListener(counted(UDP()), on="127.0.0.1:0").serving(swallow) as listener:  # noqa: SIM117
        async with NetworkConnection(listener.endpoint, counted(UDP())) as connection:
            for _ in range(count):
                await connection.send_many(batch)
                await connection.receive()


async def websocket_pingpong(count: int) -> None:
    from tieline import NetworkConnection, NetworkListener, WebSocket

    async def echo(connection: Any) -> None:
        async for content, _ in connection:
            await connection.send(content)

    message = bytes(64)
    async with NetworkListener(counted(WebSocket()), on="127.0.0.1:0").serving(echo) as listener:  # noqa: SIM117
        async with NetworkConnection(f"ws://127.0.0.1:{listener.port}/", counted(WebSocket())) as connection:
            for _ in range(count):
                await connection.send(message)
                await connection.receive()


# The engine alone, in memory.


def engines() -> tuple[Any, Any]:
    """A client and a server of TLS after their handshake."""
    from benchmarks.workloads import tieline_stack
    from tieline.engines.tls import client_layer, server_layer

    server_stack, client_stack = tieline_stack(True, server=True), tieline_stack(True, server=False, tickets=False)
    client: Any = client_layer(client_stack, endpoint_name="localhost", endpoint=None)  # type: ignore[arg-type]
    server: Any = server_layer(server_stack, endpoint=None)  # type: ignore[arg-type]
    flight = client.start()
    while not (client.ready and server.ready):
        server.receive(flight)
        client.receive(server.output())
        flight = client.output()
    return client._engine, server._engine


async def seal(count: int) -> None:
    client, _ = engines()
    for _ in range(count):
        client.send(bytes(16384))


async def seal_and_open(count: int) -> None:
    client, server = engines()
    for _ in range(count):
        assert len(server.receive(client.send(bytes(16384)))) == 16384


async def small_records(count: int) -> None:
    client, server = engines()
    for _ in range(count):
        assert len(server.receive(client.send(bytes(64)))) == 64


async def handshakes(count: int) -> None:
    for _ in range(count):
        engines()


SCENARIOS: dict[str, tuple[Scenario, int]] = {
    "tcp ping-pong, 64 B": (pingpong(False), 500),
    "tcp bulk, 64 KiB": (bulk(False), 200),
    "tcp connect, echo, close": (connecting(False), 60),
    "tls ping-pong, 64 B": (pingpong(True), 500),
    "tls bulk, 64 KiB": (bulk(True), 100),
    "tls connect, echo, close": (connecting(True), 10),
    "udp ping-pong, 64 B": (datagram_pingpong, 500),
    "udp batches, 32 of 1200 B": (datagram_batches, 100),
    "websocket ping-pong, 64 B": (websocket_pingpong, 500),
    "engine: seal 16 KiB": (seal, 200),
    "engine: seal and open 16 KiB": (seal_and_open, 200),
    "engine: seal and open 64 B": (small_records, 500),
    "engine: handshake": (handshakes, 10),
}
"""And how much is done more in the longer run."""


# Counting


def circumstances() -> dict[str, str]:
    """What the counts depend on beside our own code."""
    return {
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
        "machine": platform.machine(),
        "rustc": version("rustc"),
        "valgrind": version("valgrind"),
    }


def version(program: str) -> str:
    if shutil.which(program) is None:
        return "missing"
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def count(name: str) -> int:
    """Instructions for one."""
    more = SCENARIOS[name][1]
    return (instructions(name, 2 * more) - instructions(name, more)) // more


def instructions(name: str, length: int) -> int:
    # Everything that is random but need not be is held still.
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, "-m", "benchmarks.instructions",
         "--run", name, "--length", str(length)],
        capture_output=True, text=True, env=environment, cwd=HERE.parent, check=False,
    )  # fmt: skip
    collected = re.search(r"Collected : (\d+)", run.stderr)
    if run.returncode or collected is None:
        raise RuntimeError(f"{name}: valgrind ended with {run.returncode}: {run.stderr[-2000:]}")
    return int(collected[1])


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    arguments.add_argument("scenario", nargs="?", default="", help="scenarios whose name begins so")
    arguments.add_argument("--write", action="store_true", help="take the counts as the new ones")
    arguments.add_argument("--note", default="", help="why they have changed")
    arguments.add_argument("--run", help=argparse.SUPPRESS)
    arguments.add_argument("--length", type=int, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.run:
        asyncio.run(SCENARIOS[chosen.run][0](chosen.length))  # type: ignore[arg-type]
        return 0
    kept: dict[str, Any] = json.loads(COUNTS.read_text(encoding="utf-8")) if COUNTS.exists() else {"counts": {}, "notes": {}}
    here = circumstances()
    if "missing" in here.values():
        print(f"instructions: not counted, {' and '.join(name for name in here if here[name] == 'missing')} is missing")
        return 0
    if not chosen.write and here != kept.get("circumstances"):
        print(f"instructions: not compared, they were counted with {kept.get('circumstances')}, and this is {here}")
        return 0
    names = [name for name in SCENARIOS if name.startswith(chosen.scenario)]
    grown = [name for name in names if told(name, count(name), kept, chosen.write, chosen.note)]
    if chosen.write and (chosen.note or not grown or here != kept.get("circumstances")):
        kept["circumstances"] = here
        COUNTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        return 0
    if grown:
        print(f"grown by more than {TOLERANCE:.0%}: {'; '.join(grown)}. If it has to be: --write --note 'why'")
    return len(grown)


def told(name: str, new: int, kept: dict[str, Any], write: bool, note: str) -> bool:
    """Print one; whether it has grown too much."""
    before = kept["counts"].get(name)
    change = "" if before is None else f"{new / before - 1:+.1%}"
    print(f"{name:<32} {new:>12,} {change}", flush=True)
    if write:
        kept["counts"][name] = new
        if note:
            kept["notes"][name] = note
    return before is not None and new > before * (1 + TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
