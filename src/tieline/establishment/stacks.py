"""From the protocol values that a user wrote to the machines that carry them out."""

from __future__ import annotations

from typing import Any

from tieline.endpoints import Endpoint, HostPort, ServiceEndpoint, UnixEndpoint, URLEndpoint
from tieline.engines.pipeline import Pipeline
from tieline.errors import UnexpectedEndpointTypeError
from tieline.protocols.ip import IP, IPVersion
from tieline.protocols.roles import NetworkProtocol
from tieline.protocols.tls import TLS
from tieline.protocols.udp import UDP

__all__ = ["client_pipeline", "require_reachable", "server_pipeline", "transport_endpoint"]


def transport_endpoint(endpoint: Endpoint) -> HostPort | UnixEndpoint:
    """Where the transport connects to: a URL's host and port, everything else as it is."""
    if isinstance(endpoint, URLEndpoint):
        return endpoint.host_port
    if isinstance(endpoint, (HostPort, UnixEndpoint)):
        return endpoint
    kind = "a discovered service" if isinstance(endpoint, ServiceEndpoint) else type(endpoint).__name__
    raise UnexpectedEndpointTypeError(
        f"cannot connect to {kind}", endpoint=endpoint, expected="a host with a port, a URL or a Unix path"
    )


def require_reachable(endpoint: Endpoint, stack: NetworkProtocol) -> None:
    """Raise for an endpoint that this stack can never reach, whatever the network does."""
    target = transport_endpoint(endpoint)
    if isinstance(target, UnixEndpoint):
        if stack.find(UDP) is not None:
            raise UnexpectedEndpointTypeError(
                "UDP does not run over Unix sockets", endpoint=endpoint, expected="a host with a port"
            )
        return
    version = (stack.find(IP) or IP()).version
    if target.is_literal and version is not IPVersion.ANY and target.version != version.value:
        raise UnexpectedEndpointTypeError(
            f"IP(version={version}) never reaches this address", endpoint=endpoint, expected=f"an IPv{version.value} address"
        )


def client_pipeline(stack: NetworkProtocol, endpoint: Endpoint) -> Pipeline | None:
    """The layers above the transport for a connection that we open; None for a bare transport."""
    tls: TLS | None = stack.find(TLS)
    if tls is None:
        return None
    from tieline.engines.tls import client_layer

    target = transport_endpoint(endpoint)
    name = target.host.partition("%")[0] if isinstance(target, HostPort) else None
    return Pipeline([client_layer(tls, endpoint_name=name, endpoint=endpoint)])


def server_pipeline(stack: NetworkProtocol, endpoint: object) -> Pipeline | None:
    """The same for a connection that a listener accepted."""
    tls: Any = stack.find(TLS)
    if tls is None:
        return None
    from tieline.engines.tls import server_layer

    return Pipeline([server_layer(tls, endpoint=endpoint)])
