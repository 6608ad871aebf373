"""The same seed gives the same packets: in the same process, in another one, and whatever the hashes of texts are."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tieline import TCP, TLS, UDP, NetworkConnection, NetworkError, NetworkListener, Parameters
from tieline.drivers.simulated.packets import TransportProtocol
from tieline.testing import Host, SimulatedNetwork, Trace, certificates

ROOT = Path(__file__).parent.parent.parent
BAD_LINK = {"latency": 0.01, "jitter": 0.004, "loss": 0.03, "reorder": 0.05, "duplicate": 0.05, "rate": 400_000.0}


async def echo(connection: NetworkConnection[Any]) -> None:
    async for content, _ in connection:
        await connection.send(content)


async def converse(stack: Any, number: int) -> None:
    """One connection in two tasks, of which one may be cancelled in the middle."""
    async with NetworkConnection("server.test:443", stack) as connection:

        async def send() -> None:
            for size in (10, 5000, 30_000):
                await connection.send(bytes([number]) * size)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send())
            try:
                async with asyncio.timeout(0.2 + number / 10):
                    await connection.receive(exactly=35_010)
            except TimeoutError:
                await connection.receive()


async def chatter(number: int) -> None:
    async with NetworkConnection("server.test:53", UDP()) as connection:
        try:
            async with asyncio.timeout(3):
                for size in range(40):
                    await connection.send(bytes([number]) * (size * 30))
                    if size % 5 == 0:
                        await connection.receive()
        except TimeoutError:
            pass


def conversation(network: SimulatedNetwork, server_stack: Any = None, client_stack: Any = None) -> list[Trace]:
    """Several hosts, many connections at once, a bad link, and a listener that stops while its handlers run."""
    server, client, other = (network.host(f"{name}.test") for name in ("server", "client", "other"))
    router = network.router("router.test")
    network.link(server, router, **BAD_LINK)
    network.link(router, client, latency=0.003, jitter=0.001)
    network.link(router, other, latency=0.005)
    if client_stack is None:
        network.at(1.5, network.partition, [server], [other])

    async def serve_for_a_while() -> None:
        streams = NetworkListener(Parameters(server_stack or TCP(), grace_period=0.05), on=443)
        async with NetworkListener(UDP(), on=53).serving(echo), streams.serving(echo):
            await asyncio.sleep(2.0)

    async def program(first: int) -> None:
        async def attempt(work: Any) -> None:
            try:
                await work
            except* NetworkError:  # alone, or from one of its tasks
                pass

        async with asyncio.TaskGroup() as tasks:
            for number in range(first, first + 6):
                tasks.create_task(attempt(converse(client_stack or TCP(connection_timeout=2.0), number)))
            for number in range(first, first + 3):
                tasks.create_task(attempt(chatter(number)))

    async def main() -> None:
        serving = server.start(serve_for_a_while)
        await asyncio.gather(client.start(program, 0), other.start(program, 6))
        await serving
        await asyncio.sleep(30)

    network.run(main)
    return list(network.trace)


def text(seed: int) -> str:
    return "\n".join(str(entry) for entry in conversation(SimulatedNetwork(seed)))


def digest(seed: int) -> str:
    """For another process: what the trace is, in short."""
    return hashlib.sha256(text(seed).encode()).hexdigest()


def test_the_same_seed_gives_the_same_trace_in_one_process() -> None:
    first = text(7)
    kept = [object() for _ in range(10_000)]  # what comes now lies elsewhere in memory
    random.random()
    gc.collect()
    assert text(7) == first
    del kept
    # The program is one that could show a difference.
    assert first.count("\n") > 2000
    for what in (": lost:", ": duplicated:", ": forwarded:", " RA ", " FA ", "UDP"):
        assert first.count(what) > 3, what


def test_another_seed_gives_another_trace() -> None:
    assert text(7) != text(8)


def test_the_same_seed_gives_the_same_trace_in_other_processes() -> None:
    def start(hash_seed: str) -> subprocess.Popen[str]:
        program = "from tests.simulated.test_determinism import digest; print(digest(11))"
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)

    processes = [start(hash_seed) for hash_seed in ("1", "2", "random")]
    answers = [process.communicate(timeout=50)[0].strip() for process in processes]
    assert answers == [digest(11)] * 3


def seen(entry: Trace) -> tuple[Any, ...]:
    """What does not depend on keys: all but the payload."""
    return (entry.time, entry.place, entry.fate, *entry.packet._replace(payload=b"", about=None), len(entry.packet.payload))


def test_tls_with_new_keys_differs_in_its_bytes_only() -> None:
    def run() -> list[Trace]:
        authority = certificates()
        server = TLS(identity=authority.identity("server.test"))
        return conversation(SimulatedNetwork(5), server, TLS(trust=authority.trust))

    first, second = run(), run()
    assert [seen(entry) for entry in first] == [seen(entry) for entry in second]

    def payloads(trace: list[Trace]) -> set[bytes]:
        return {
            entry.packet.payload for entry in trace if entry.packet.protocol is TransportProtocol.TCP and entry.packet.payload
        }

    assert len(payloads(first)) > 100 and not [one for one in payloads(first) & payloads(second) if len(one) > 100]


def test_handshakes_that_a_listener_gives_up_are_reset_in_their_order() -> None:
    """They are objects in memory, whose addresses are nobody's business."""
    network = SimulatedNetwork(1)
    server, client = network.host("server.test", "10.0.0.1"), network.host("client.test", "10.0.0.2")
    network.link(server, client)

    async def serve_for_a_second() -> None:
        async with NetworkListener(TLS(identity=certificates().identity("server.test")), on=443).serving(echo):
            await asyncio.sleep(1)

    async def main() -> None:
        server.start(serve_for_a_second)
        silent = [NetworkConnection("10.0.0.1:443", TCP()) for _ in range(20)]
        for connection in silent:
            await connection.ready()
        await asyncio.sleep(2)
        for connection in silent:
            connection.abort()

    network.run(main, on=client)
    resets = [
        entry.packet.destination.port for entry in network.trace if "server.test: sent" in str(entry) and " RA " in str(entry)
    ]
    assert len(resets) == 20 and resets == sorted(resets)


def test_a_seed_is_made_when_none_is_given() -> None:
    one, other = SimulatedNetwork(), SimulatedNetwork()
    assert one.seed != other.seed
    assert conversation(one) == conversation(SimulatedNetwork(one.seed))


def test_chance_is_the_networks_own() -> None:
    """What programs draw from Python's generator, and what other networks do, changes nothing."""

    def run(disturb: bool) -> list[str]:
        network, other = SimulatedNetwork(3), SimulatedNetwork(4)
        hosts: list[Host] = []
        for one in (network, other):
            hosts += [one.host("server.test"), one.host("client.test")]
            one.link(hosts[-2], hosts[-1], loss=0.3, jitter=0.1)

        async def send(client: Host) -> None:
            with client:
                async with NetworkConnection("10.0.0.1:9", UDP()) as connection:
                    for _ in range(100):
                        if disturb:
                            random.random()
                        with contextlib.suppress(NetworkError):
                            await connection.send(b"x")
                        await asyncio.sleep(0.05)

        async def main() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(send(hosts[1]))
                if disturb:
                    tasks.create_task(send(hosts[3]))

        network.run(main)
        return [str(entry) for entry in network.trace]

    assert run(disturb=False) == run(disturb=True)


@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_failed_fails_again(seed: int) -> None:
    def run() -> tuple[str, list[str]]:
        network = SimulatedNetwork(seed)
        server, client = network.host("server.test", "10.0.0.1"), network.host("client.test", "10.0.0.2")
        network.link(server, client, loss=0.6)

        async def main() -> None:
            server.start(NetworkListener(UDP(), on=9).run, echo)
            async with NetworkConnection("10.0.0.1:9", UDP()) as connection:
                for number in range(100):
                    await connection.send(b"%d" % number)
                    async with asyncio.timeout(1):
                        await connection.receive()

        with pytest.raises(TimeoutError) as raised:
            network.run(main, on=client)
        assert raised.value.__notes__ == [f"in a simulated network with seed={seed}, which repeats it"]
        return str(raised.value), [str(entry) for entry in network.trace]

    assert run() == run()
