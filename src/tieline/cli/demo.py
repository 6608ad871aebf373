"""`tieline demo`: a listener and a connection in one process, and everything that they can tell about a transfer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from tieline.cli.program import fail, run
from tieline.connection import NetworkConnection
from tieline.engines.states import State
from tieline.identity import Identity, Trust
from tieline.listener import NetworkListener
from tieline.protocols.roles import StreamProtocol
from tieline.protocols.tcp import TCP
from tieline.protocols.tls import TLS

__all__ = ["demo"]

MEBIBYTE = 1024 * 1024
ALPN = "tieline-demo/1"

Show = Callable[[int], object]


@click.command()
@click.option("--size", type=click.IntRange(1), default=256, metavar="MIB", show_default=True, help="How much.")
@click.option("--plain", is_flag=True, help="TCP alone, without TLS.")
def demo(size: int, plain: bool) -> None:
    """Transfer 256 MiB over TLS on this machine, and show what happened.

    A listener with a certificate made for the occasion and a connection that trusts only that one, in one process. Both
    ends compute the SHA-256 of what they see, and compare.
    """
    if plain:
        run(transfer(TCP(), TCP(), size))
        return
    identity = Identity.self_signed("localhost")
    click.echo(f"certificate SHA-256 {identity.fingerprint}")
    trust = Trust.fingerprints(identity.fingerprint)
    run(transfer(TLS(identity=identity, alpn=[ALPN]), TLS(trust=trust, alpn=[ALPN]), size))


async def transfer(served: StreamProtocol, stack: StreamProtocol, size: int) -> None:
    """`size` MiB from a connection to a listener, which answers with their digest."""
    clock = asyncio.get_running_loop().time
    hashing = Stopwatch(clock)
    async with NetworkListener(served, on="127.0.0.1:0").serving(lambda peer: digest(peer, hashing)) as listener:
        click.echo(f"listening on {listener.endpoint}")
        async with NetworkConnection(listener.endpoint, stack).on_state_update(show_state) as connection:
            await connection.ready()
            started, sent = clock(), sha256()
            with progress(size) as show:
                for count, block in enumerate(blocks(size), 1):
                    with hashing:
                        sent.update(block)
                    await connection.send(block)
                    show(count)
                await connection.send(b"", end_of_stream=True)
                received, _ = await connection.receive(exactly=sent.digest_size)
            duration = clock() - started
            click.echo(f"SHA-256 sent     {sent.hexdigest()}\nSHA-256 received {received.hex()}")
            click.echo(
                f"{size} MiB in {duration:.2f} s: {size / duration:,.0f} MiB/s. Of that, computing SHA-256 twice took "
                f"{hashing.seconds:.2f} s; without: {size / (duration - hashing.seconds):,.0f} MiB/s"
            )
            click.echo(f"\n{await connection.establishment_report()}\n\n{await connection.data_transfer_report()}\n")
    if received != sent.digest():
        fail("what arrived is not what was sent")
    click.echo("what arrived is what was sent")


async def digest(peer: NetworkConnection[StreamProtocol], hashing: Stopwatch) -> None:
    """The listener's part."""
    seen = sha256()
    async for content, _ in peer:
        with hashing:
            seen.update(content)
    await peer.send(seen.digest())


def blocks(count: int) -> Iterator[bytes]:
    """Blocks of 1 MiB that cannot be compressed and are never the same twice."""
    noise = random.randbytes(MEBIBYTE)
    for number in range(count):
        yield number.to_bytes(8, "big") + noise[8:]


class Stopwatch:
    """The seconds spent in its blocks."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.seconds = 0.0

    def __enter__(self) -> None:
        self.seconds -= self._clock()

    def __exit__(self, *_: object) -> None:
        self.seconds += self._clock()


@contextmanager
def progress(size: int) -> Generator[Show]:
    """Show how many of `size` MiB there are: as a bar, or by the quarter where no bar can be drawn."""
    console = Console()
    if not console.is_terminal:
        yield lambda count: click.echo(f"{count} of {size} MiB") if count * 4 % size < 4 else None
        return
    columns = (BarColumn(None), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=size * MEBIBYTE)
        yield lambda count: bar.update(task, completed=count * MEBIBYTE)


def show_state(connection: NetworkConnection[Any], state: State) -> None:
    """One line for each transition."""
    line = f"connection {connection.id}: {state.value}"
    if state is State.READY and connection.parameters.stack.find(TLS) is not None:
        session = connection.metadata(TLS)
        line += f" with {session.version}, {session.group}, {session.cipher_suite}, ALPN {session.negotiated_alpn}"
    click.echo(line)
