"""Small programs for simulated hosts, and what tests ask of a network over and over."""

from __future__ import annotations

from typing import Any

from tieline import QUIC, TCP, UDP, NetworkConnection, NetworkError, NetworkListener
from tieline.testing import Host, SimulatedNetwork, Trace


async def echo(connection: NetworkConnection[Any]) -> None:
    """Give back what comes, until it ends; over QUIC on each stream."""
    if isinstance(connection.parameters.stack, QUIC):
        await connection.inbound_streams(echo_stream)
        return
    async for content, _ in connection:
        await connection.send(content)


async def echo_stream(stream: Any) -> None:
    async for content, _ in stream:
        await stream.send(content)
    await stream.send(b"", end_of_stream=True)


async def serve(stack: Any = None, port: int = 80, handler: Any = echo) -> None:
    """Listen on all addresses of the host for ever."""
    await NetworkListener(stack or TCP(), on=port).run(handler)


async def serve_datagrams(port: int = 53, handler: Any = echo) -> None:
    await serve(UDP(idle_timeout=10_000.0), port, handler)


def two_hosts(network: SimulatedNetwork, **conditions: Any) -> tuple[Host, Host]:
    """A server and a client, linked; IPv4 only, so that there is one way."""
    server, client = network.host("server.test", "10.0.0.1"), network.host("client.test", "10.0.0.2")
    network.link(server, client, **conditions)
    return server, client


def fates(network: SimulatedNetwork, *words: str) -> list[Trace]:
    """The entries of the trace whose text has all these words."""
    return [entry for entry in network.trace if all(word in str(entry) for word in words)]


async def failure_of(connection: NetworkConnection[Any]) -> NetworkError:
    """Why it does not become ready; it is aborted."""
    try:
        await connection.ready()
    except NetworkError as error:
        return error
    finally:
        connection.abort()
    raise AssertionError(f"{connection!r} is ready")
