"""`tieline demo`: listeners and connections in one process, and everything that they can tell about a transfer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, Self

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from tieline.channel import NetworkChannel
from tieline.cli.bridge import background
from tieline.cli.comparison import Transfer, comparison
from tieline.cli.facts import agreement, allowances
from tieline.cli.program import fail, run
from tieline.connection import NetworkConnection
from tieline.engines.states import State
from tieline.identity import Identity, Trust
from tieline.listener import NetworkListener
from tieline.protocols.roles import NetworkProtocol, StreamProtocol
from tieline.protocols.tcp import TCP
from tieline.protocols.tls import TLS
from tieline.quic import QUIC

__all__ = ["demo"]

MEBIBYTE = 1024 * 1024
ALPN = "tieline-demo/1"
STREAMS, DATAGRAMS, DATAGRAM_SIZE = 8, 100, 1000
LARGEST_DATAGRAM = 65535  # bytes that are accepted; what fits the path is less
LAST_DATAGRAM = 0.5  # seconds until a datagram that has not come back is taken for lost

Show = Callable[[int], object]


@click.command()
@click.option("--size", type=click.IntRange(1), default=128, metavar="MIB", show_default=True, help="How much.")
@click.option("--plain", is_flag=True, help="TCP alone, without TLS and QUIC.")
def demo(size: int, plain: bool) -> None:
    """Transfer 128 MiB over TLS and over QUIC on this machine, and show what happened.

    Listeners with a certificate made for the occasion and connections that trust only that one, in one process. Both ends
    compute the SHA-256 of what they see, and compare.
    """
    run(show(Demonstration(size), plain=plain))


async def show(demonstration: Demonstration, *, plain: bool) -> None:
    """One transfer or two, and the comparison."""
    if plain:
        await demonstration.over(TCP(), TCP())
    else:
        identity = Identity.self_signed("localhost")
        click.echo(f"SHA-256 of the listeners' certificate\n{'':10}{identity.fingerprint}")
        trust = Trust.fingerprints(identity.fingerprint)
        await demonstration.over(TLS(identity=identity, alpn=[ALPN]), TLS(trust=trust, alpn=[ALPN]))
        serving = QUIC(identity=identity, alpn=[ALPN], max_datagram_frame_size=LARGEST_DATAGRAM)
        await demonstration.over(serving, QUIC(trust=trust, alpn=[ALPN], max_datagram_frame_size=LARGEST_DATAGRAM))
    demonstration.conclude()


class Demonstration:
    """Transfers of the same bytes over different protocols."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._noise = random.randbytes(MEBIBYTE)
        self._transfers: list[Transfer] = []

    async def over(self, served: NetworkProtocol, stack: NetworkProtocol) -> None:
        """A listener, and a connection that sends to it and is told the digest of what arrived."""
        hashing = Stopwatch(asyncio.get_running_loop().time)

        async def digest(channel: NetworkChannel[StreamProtocol]) -> None:
            seen = sha256()
            async for content, _ in channel:
                with hashing:
                    seen.update(content)
            await channel.send(seen.digest(), end_of_stream=True)

        async def serve(connection: NetworkConnection[Any]) -> None:
            if isinstance(served, QUIC):
                async with background(echo_datagrams(connection), "datagrams"):
                    await connection.inbound_streams(digest)
            else:
                await digest(connection)

        async with NetworkListener(served, on="127.0.0.1:0").serving(serve) as listener:
            click.echo(f"\n{stack.name} to {listener.endpoint}")
            connection: NetworkConnection[Any] = NetworkConnection(listener.endpoint, stack)
            async with connection.on_state_update(show_state):
                await connection.ready()
                if isinstance(stack, QUIC):
                    async with await connection.open_stream() as stream:
                        await self._transfer(connection, stream, hashing)
                    await self._many_streams(connection)
                    await many_datagrams(connection)
                else:
                    await self._transfer(connection, connection, hashing)

    async def _transfer(
        self, connection: NetworkConnection[Any], channel: NetworkChannel[StreamProtocol], hashing: Stopwatch
    ) -> None:
        total = Stopwatch(hashing.clock)
        sent = sha256()
        with progress(self._size) as show_progress, total:
            for count in range(self._size):
                block = self._block(count)
                with hashing:
                    sent.update(block)
                await channel.send(block)
                show_progress(count + 1)
            await channel.send(b"", end_of_stream=True)
            received, _ = await channel.receive(exactly=sent.digest_size)
        self._transfers.append(
            Transfer(
                name=connection.parameters.stack.name,
                size=self._size,
                seconds=total.seconds,
                hashing=hashing.seconds,
                sent=sent.digest(),
                received=received,
                establishment=await connection.establishment_report(),
                report=await connection.data_transfer_report(),
            )
        )

    def _block(self, number: int) -> bytes:
        """1 MiB that cannot be compressed and is never the same twice."""
        return number.to_bytes(8, "big") + self._noise[8:]

    async def _many_streams(self, connection: NetworkConnection[QUIC]) -> None:
        """Several streams side by side on one connection."""

        async def one(number: int) -> bool:
            block = self._block(number)
            async with await connection.open_stream() as stream:
                await stream.send(block, end_of_stream=True)
                received, _ = await stream.receive(exactly=32)
                return received == sha256(block).digest()

        with Stopwatch(asyncio.get_running_loop().time) as watch:
            agreed = sum(await asyncio.gather(*map(one, range(STREAMS))))
        click.echo(f"{STREAMS} streams of 1 MiB at once: {agreed} arrived as they were sent, in {watch.seconds * 1000:.1f} ms")
        if agreed != STREAMS:
            fail("what arrived on a stream is not what was sent")

    def conclude(self) -> None:
        """Everything side by side, and whether all of it arrived."""
        click.echo()
        Console(highlight=False).print(comparison(self._transfers))
        click.echo(f"\nSHA-256 of what was sent, and of what arrived\n{'':10}{self._transfers[0].sent.hex()}")
        for one in self._transfers:
            click.echo(f"{one.name:10}{one.received.hex()}")
        if any(one.received != one.sent for one in self._transfers):
            fail("what arrived is not what was sent")
        click.echo("what arrived is what was sent")


async def many_datagrams(connection: NetworkConnection[QUIC]) -> None:
    """Datagrams there and back; they may get lost."""
    clock = asyncio.get_running_loop().time
    datagrams = await connection.datagrams()
    returned: dict[bytes, float] = {}
    begun = clock()
    await datagrams.send_many([number.to_bytes(4, "big") * (DATAGRAM_SIZE // 4) for number in range(DATAGRAMS)])
    try:
        async with asyncio.timeout(LAST_DATAGRAM):
            while len(returned) < DATAGRAMS:
                datagram, _ = await datagrams.receive()
                returned.setdefault(datagram, clock() - begun)
    except TimeoutError:
        click.echo("some datagrams got lost")
    if returned:
        first, last = min(returned.values()) * 1000, max(returned.values()) * 1000
        back = f"{len(returned)} returned, after {first:.1f} to {last:.1f} ms"
        click.echo(f"{DATAGRAMS} datagrams of {DATAGRAM_SIZE:,} B there and back: {back}")


async def echo_datagrams(connection: NetworkConnection[QUIC]) -> None:
    datagrams = await connection.datagrams()
    async for content, _ in datagrams.messages:
        await datagrams.send(content)


class Stopwatch:
    """The seconds spent in its blocks."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self.seconds -= self.clock()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += self.clock()


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
    """A line for each transition."""
    line = state.value
    if state is State.READY:
        if agreed := agreement(connection):
            line += f" with {agreed}"
        if allowed := allowances(connection):
            line += f"\n{allowed}"
    click.echo(line)
