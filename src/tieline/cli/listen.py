"""`tieline listen`: the other end of `tieline connect`, and small servers to test against."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import click

from tieline.channel import NetworkChannel
from tieline.cli import bridge
from tieline.cli.facts import agreement
from tieline.cli.options import ENDPOINT, FILE, Security, ip_options, ip_version, security_options, usage
from tieline.cli.program import run
from tieline.cli.stdio import standard_input, standard_output
from tieline.cli.streams import every_stream, first_stream
from tieline.connection import NetworkConnection
from tieline.endpoints import Endpoint
from tieline.engines.states import ListenerState
from tieline.listener import NetworkListener
from tieline.parameters import Parameters
from tieline.protocols.roles import DatagramProtocol, StreamProtocol
from tieline.protocols.security import SecurityOptions
from tieline.protocols.udp import UDP
from tieline.protocols.websocket import WebSocket

__all__ = ["listen"]

Handler = Callable[[NetworkConnection[Any]], Awaitable[None]]
ChannelHandler = Callable[[NetworkChannel[Any]], Awaitable[None]]


class PlaceType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    """A port on all addresses, or an endpoint."""

    name = "port or endpoint"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | Endpoint:
        if isinstance(value, str) and value.isascii() and value.isdigit():
            return int(value)
        return ENDPOINT.convert(value, param, ctx)


@click.command()
@click.argument("place", type=PlaceType(), metavar="ENDPOINT_OR_PORT")
@security_options
@click.option("--self-signed", metavar="NAME", help="Make a certificate and print its fingerprint.")
@click.option("--client-ca", type=FILE, metavar="FILE", help="Require client certificates from these roots, PEM.")
@click.option("--udp", is_flag=True, help="Datagrams; each remote address and port is a connection.")
@click.option("--websocket", is_flag=True, help="WebSocket, over TLS if that is asked for: lines are text messages.")
@click.option("--idle", type=click.FloatRange(0, min_open=True), default=60.0, metavar="SECONDS",
              help="With --udp: a peer that was silent for this long has ended; 60 if not told.")  # fmt: skip
@ip_options
@click.option("--keep", is_flag=True, help="Serve any number of connections, side by side, until Ctrl-C.")
@click.option("--echo", is_flag=True, help="Send back what comes.")
@click.option("--discard", is_flag=True, help="Read what comes and forget it.")
@click.option("--exec", "command", metavar="COMMAND", help="Run a shell command per connection or stream: its input and output.")
@click.option("-v", "--verbose", is_flag=True, help="Show connections and failed handshakes on standard error.")
def listen(
    place: int | Endpoint,
    udp: bool,
    websocket: bool,
    idle: float,
    ipv4: bool,
    ipv6: bool,
    interface: str | None,
    keep: bool,
    echo: bool,
    discard: bool,
    command: str | None,
    verbose: bool,
    **security: Any,
) -> None:
    """Accept a connection: print what comes, send standard input.

    ENDPOINT_OR_PORT is a port (on all addresses; 0 takes a free one), host:port, [address]:port or unix:/path. One
    connection is served, as `connect` would; with --keep many are, by --echo, --discard or --exec. A line on standard
    error tells where.

    Over QUIC it is the first stream of the connection that is served so; --echo, --discard and --exec serve all of them,
    side by side, until the peer closes the connection.

    \b
    tieline listen 9000 > file
    tieline listen --tls --self-signed localhost localhost:9000
    tieline listen --keep --exec 'grep --line-buffered tie' unix:/tmp/grep.sock
    tieline listen --udp --keep --echo 9000
    tieline listen --websocket --keep --echo 9000
    tieline listen --quic --self-signed localhost --keep --echo 9000
    """
    options = Security(**security)
    options.require_sense(udp=udp)
    if echo + discard + (command is not None) > 1:
        raise click.UsageError("--echo, --discard and --exec exclude each other")
    if keep and not (echo or discard or command):
        raise click.UsageError("--keep needs --echo, --discard or --exec: there is one standard input")
    if websocket and (udp or options.quic):
        raise click.UsageError(f"--websocket stands on TCP or TLS, not on {'UDP' if udp else 'QUIC'}")
    if websocket and command:
        raise click.UsageError("--exec needs a stream: --websocket has messages")
    if udp and command:
        raise click.UsageError("--exec needs a stream: --udp has no end of input")
    with usage():
        ip = ip_version(ipv4=ipv4, ipv6=ipv6)
        stack = options.stack(ip)
        secured: SecurityOptions | None = stack.find(SecurityOptions)
        if secured is not None and secured.identity is None:
            raise click.UsageError(f"--{'quic' if options.quic else 'tls'} needs --cert, or --self-signed NAME")
        top: Any = UDP(ip, idle_timeout=idle) if udp else WebSocket(stack) if websocket else stack  # type: ignore[arg-type]
        parameters: Parameters[Any] = Parameters(top, required_interface=interface)
        listener = NetworkListener(parameters, on=place, new_connection_limit=None if keep else 1)
    if verbose:
        log_to_standard_error()
    if secured is not None and secured.identity is not None and options.self_signed:
        click.echo(f"certificate SHA-256 {secured.identity.fingerprint}", err=True)
    serve: ChannelHandler = echoing if echo else discarding if discard else executing(command) if command else standard
    handler: Handler = serve
    if options.quic:
        handler = partial(first_stream if serve is standard else every_stream, handler=serve)
    if verbose:
        handler = introducing(handler)
    run(serve_many(listener, handler) if keep else serve_one(listener, handler))


async def serve_many(listener: NetworkListener[Any], handler: Handler) -> None:
    """Until Ctrl-C; the handlers then get the listener's grace period."""
    async with listener.on_state_update(announce).serving(handler):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            click.echo("stopping", err=True)


async def serve_one(listener: NetworkListener[Any], handler: Handler) -> None:
    """One connection to its end, whose errors are ours."""
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def once(connection: NetworkConnection[Any]) -> None:
        try:
            async with connection:  # which waits for what was sent to drain, without the listener's limit on that
                await handler(connection)
        except Exception as error:
            if not ended.done():  # Ctrl-C has cancelled it
                ended.set_exception(error)
        else:
            ended.set_result(None)

    async with listener.on_state_update(announce).serving(once):
        await ended


def announce(listener: NetworkListener[Any], state: ListenerState) -> None:
    """Where it listens, or why it has to wait."""
    if state is ListenerState.READY:
        click.echo(f"listening on {' and '.join(map(str, listener.endpoints))}", err=True)
    elif state is ListenerState.WAITING:
        click.echo(f"waiting: {listener.error}", err=True)


def log_to_standard_error() -> None:
    import logging

    logging.basicConfig(format="%(message)s")
    logging.getLogger("tieline").setLevel(logging.DEBUG)


def introducing(handler: Handler) -> Handler:
    """A handler that says whose connection this is before it serves it."""

    async def introduce(connection: NetworkConnection[Any]) -> None:
        agreed = agreement(connection)
        click.echo(f"connection from {connection.remote_endpoint}{agreed and f' with {agreed}'}", err=True)
        await handler(connection)

    return introduce


async def standard(channel: NetworkChannel[Any]) -> None:
    """Standard input and output."""
    with standard_input() as source, standard_output() as sink:
        if isinstance(channel.parameters.stack, DatagramProtocol):
            await bridge.datagrams(channel, source, sink, None)
        elif isinstance(channel.parameters.stack, WebSocket):
            await bridge.lines(channel, source, sink, None)
        else:
            await bridge.stream(channel, source, sink)


async def echoing(channel: NetworkChannel[StreamProtocol]) -> None:
    async for content, _ in channel:
        await channel.send(content)


async def discarding(channel: NetworkChannel[Any]) -> None:
    async for _ in channel:
        pass


def executing(command: str) -> ChannelHandler:
    """A handler that runs a shell command per connection or stream."""
    pipe = asyncio.subprocess.PIPE

    async def execute(channel: NetworkChannel[StreamProtocol]) -> None:
        process = await asyncio.create_subprocess_shell(command, stdin=pipe, stdout=pipe)
        assert process.stdin is not None and process.stdout is not None
        try:
            async with bridge.background(feed(channel, process.stdin), f"input of process {process.pid}"):
                while content := await process.stdout.read(65536):
                    await channel.send(content)
                await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()

    return execute


async def feed(channel: NetworkChannel[StreamProtocol], process: asyncio.StreamWriter) -> None:
    """What the peer sends into a process that may not want it all."""
    try:
        async for content, _ in channel:
            process.write(content)
            await process.drain()
    finally:
        process.close()
