"""`tieline connect`: standard input to a peer, and what the peer says to standard output."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click

from tieline.cli import bridge
from tieline.cli.facts import agreement, allowances
from tieline.cli.options import (
    ENDPOINT,
    FILE,
    INTERFACE_TYPES,
    Security,
    adding,
    ip_options,
    ip_version,
    security_options,
    usage,
)
from tieline.cli.program import fail, run
from tieline.cli.stdio import Input, Output, standard_input, standard_output
from tieline.cli.streams import explaining
from tieline.connection import NetworkConnection
from tieline.endpoints import Endpoint, URLEndpoint
from tieline.engines.states import State
from tieline.parameters import Parameters
from tieline.protocols.quic import QUICOptions
from tieline.protocols.udp import UDP
from tieline.protocols.websocket import WebSocket

__all__ = ["connect"]

trust_options = adding(
    click.option("--server-name", metavar="NAME", help="What the server's certificate must say; default: the host."),
    click.option("--ca", type=FILE, metavar="FILE", help="Trust these roots and no others, PEM."),
    click.option("--pin", metavar="SHA256", multiple=True, help="Trust the certificate with this fingerprint."),
    click.option("--insecure", is_flag=True, help="Trust any certificate."),
)


@click.command()
@click.argument("endpoint", type=ENDPOINT)
@security_options
@trust_options
@click.option("--udp", is_flag=True, help="Datagrams. Each read of standard input is one.")
@click.option("--linger", type=click.FloatRange(0), default=1.0, metavar="SECONDS",
              help="With --udp and WebSocket: wait for answers after the end of input, 1 second if not told.")  # fmt: skip
@ip_options
@click.option("--prohibit", metavar="NAME|TYPE", multiple=True,
              help="Not over this interface, or type (wired, wifi, cellular, other, loopback); may be repeated.")  # fmt: skip
@click.option("--local", type=ENDPOINT, metavar="ADDRESS:PORT", help="Where to connect from.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Limit for connecting.")
@click.option("--wait", is_flag=True, help="Keep trying until the connection can be established.")
@click.option("--report", is_flag=True, help="Tell at the end how it went, on standard error.")
@click.option("-v", "--verbose", is_flag=True, help="Show the states of the connection on standard error.")
def connect(
    endpoint: Endpoint,
    udp: bool,
    linger: float,
    ipv4: bool,
    ipv6: bool,
    interface: str | None,
    prohibit: Sequence[str],
    local: Endpoint | None,
    timeout: float | None,
    wait: bool,
    report: bool,
    verbose: bool,
    **security: Any,
) -> None:
    """Connect to ENDPOINT: send standard input, print what comes.

    ENDPOINT is host:port, [address]:port, unix:/path or a URL. The end of standard input ends our direction, and the
    other one goes on. When the peer ends too, so does the command; a peer that ends first is sent the rest of the
    input, unless that is typed at a terminal. Exit code 1 and a message tell of any failure, 2 of a wrong command line.

    Over QUIC one bidirectional stream carries all this. The peer hears of it with our first bytes, or with our end, and
    cannot speak before.

    To a WebSocket, a ws:// or wss:// URL, each line of standard input is a text message, and each text message that comes
    is a line of standard output.

    \b
    printf 'GET / HTTP/1.0\\r\\n\\r\\n' | tieline connect --tls example.com:https
    tar c . | tieline connect backup:9000
    tieline connect --tls --pin 4f6a… localhost:9000 < file
    tieline connect --quic --pin 4f6a… localhost:9000 < file
    echo ping | tieline connect --udp localhost:9000
    tieline connect wss://example.com/chat
    """
    options = Security(**security)
    if isinstance(endpoint, URLEndpoint) and endpoint.scheme in ("https", "wss") and not options.quic:
        options = replace(options, tls=True)
    options.require_sense(udp=udp)
    with usage():
        ip = ip_version(ipv4=ipv4, ipv6=ipv6)
        stack: Any = UDP(ip) if udp else options.stack(ip, initial_max_bidirectional_streams=0)
        if isinstance(endpoint, URLEndpoint) and endpoint.scheme in ("ws", "wss"):
            if udp or options.quic:
                raise click.UsageError(f"{endpoint} is a WebSocket, which stands on TCP or TLS")
            stack = WebSocket(stack)
        parameters: Parameters[Any] = Parameters(
            stack,
            local_endpoint=local,
            required_interface=interface,
            prohibited_interfaces=tuple(one for one in prohibit if one not in INTERFACE_TYPES),
            prohibited_interface_types=tuple(INTERFACE_TYPES[one] for one in prohibit if one in INTERFACE_TYPES),
            waits_for_connectivity=wait,
        )
        connection = NetworkConnection(endpoint, parameters)
    if options.insecure:
        click.echo("Warning: --insecure trusts any certificate, also that of an attacker on the way.", err=True)
    if verbose:
        connection.on_state_update(show_state)
    run(communicate(connection, linger=linger, timeout=timeout, report=report))


async def communicate(connection: NetworkConnection[Any], *, linger: float, timeout: float | None, report: bool) -> None:
    """One connection from its start to its end. `linger` is for protocols whose sides do not end one by one."""
    with standard_input() as source, standard_output() as sink:
        async with connection:
            await established(connection, timeout)
            establishment = await connection.establishment_report()  # later the connection may have failed
            try:
                if isinstance(connection.parameters.stack, UDP):
                    await bridge.datagrams(connection, source, sink, linger)
                elif isinstance(connection.parameters.stack, WebSocket):
                    await bridge.lines(connection, source, sink, linger)
                elif isinstance(connection.parameters.stack, QUICOptions):
                    await over_stream(connection, source, sink)
                else:
                    await bridge.stream(connection, source, sink)
            finally:
                if report:
                    click.echo(establishment, err=True)
                    click.echo(await connection.data_transfer_report(), err=True)


async def over_stream(connection: NetworkConnection[Any], source: Input, sink: Output) -> None:
    """All on one stream of a QUIC connection."""
    if not connection.remote_max_streams_bidirectional:
        click.echo("Waiting: the peer allows no bidirectional stream yet, and nothing can be sent without one.", err=True)
    async with await connection.open_stream() as stream:
        with explaining(connection):
            await bridge.stream(stream, source, sink)


async def established(connection: NetworkConnection[Any], timeout: float | None) -> None:
    deadline = asyncio.timeout(timeout)
    try:
        async with deadline:
            await connection.ready()
    except TimeoutError:
        if not deadline.expired():
            raise  # the network's own
        reason = f": {connection.error}" if connection.error is not None else ""
        fail(f"not connected within {timeout:g} s{reason}")


def show_state(connection: NetworkConnection[Any], state: State) -> None:
    """One line on standard error, or two."""
    details = ""
    if state is State.READY:
        details = f" from {connection.local_endpoint} to {connection.remote_endpoint}"
        if agreed := agreement(connection):
            details += f" with {agreed}"
        if allowed := allowances(connection):
            details += f"\n{allowed}"
    elif connection.error is not None:
        details = f": {connection.error}"
    click.echo(f"{state.value}{details}", err=True)
