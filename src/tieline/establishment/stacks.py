"""From the protocol values that a user wrote to the machines that carry them out."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from tieline.endpoints import Endpoint, HostPort, ServiceEndpoint, UnixEndpoint, URLEndpoint
from tieline.engines.framing import CarrierLayer, MessageLayer, RecordLayer
from tieline.engines.pipeline import Pipeline
from tieline.errors import UnexpectedEndpointTypeError
from tieline.protocols.coder import Coder
from tieline.protocols.framer import Framer
from tieline.protocols.ip import IP, IPVersion
from tieline.protocols.quic import QUICDatagram, QUICOptions, QUICStream
from tieline.protocols.roles import MultiplexProtocol, NetworkProtocol, OneToOneProtocol
from tieline.protocols.security import SecurityOptions
from tieline.protocols.tcp import TCP
from tieline.protocols.tls import TLS
from tieline.protocols.tlv import TLV
from tieline.protocols.udp import UDP
from tieline.protocols.websocket import SCHEMES, WebSocket

if TYPE_CHECKING:
    from tieline.engines.pipeline import Layer
    from tieline.parameters import Parameters

__all__ = [
    "client_pipeline", "destined", "is_bare", "prepare_client", "prepare_server", "require_reachable", "server_name",
    "server_pipeline", "stream_pipeline", "transport_endpoint",
]  # fmt: skip


P = TypeVar("P", bound=NetworkProtocol)


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


def destined(endpoint: Endpoint, parameters: Parameters[P]) -> Parameters[P]:
    """The parameters as they stand for this endpoint. Raises if they can never reach it, whatever the network does."""
    last = parameters.kept(_Destination)
    if last.endpoint is endpoint:
        return parameters
    standing = parameters.standing(endpoint)
    require_reachable(endpoint, standing)
    if standing is parameters and last.is_remembered:
        last.endpoint = endpoint
    return standing


class _Destination:
    """Where parameters have led before: to where they still lead, unless a program's own `ssl_context` says otherwise by now."""

    __slots__ = ("endpoint", "is_remembered")

    def __init__(self, parameters: Parameters[Any]) -> None:
        self.endpoint: Endpoint | None = None
        self.is_remembered = parameters.stack.find(SecurityOptions) is None


def require_reachable(endpoint: Endpoint, parameters: Parameters[Any]) -> None:
    target, stack = transport_endpoint(endpoint), parameters.stack
    layers = stack.layers
    if not isinstance(stack, (OneToOneProtocol, MultiplexProtocol)) or isinstance(layers[-1], (QUICStream, QUICDatagram)):
        raise TypeError(f"a connection wants a stack such as TCP(), TLS(...), UDP() or QUIC(...), got {stack.name}")
    wanted = IPVersion.ANY
    for layer in layers:
        if isinstance(layer, IP):
            wanted = layer.version
        elif isinstance(layer, UDP) and isinstance(target, UnixEndpoint):
            raise UnexpectedEndpointTypeError(
                "UDP does not run over Unix sockets", endpoint=endpoint, expected="a host with a port"
            )
    if isinstance(target, HostPort) and wanted is not IPVersion.ANY and target.version not in (None, wanted.value):
        raise UnexpectedEndpointTypeError(
            f"IP(version={wanted}) never reaches this address", endpoint=endpoint, expected=f"an IPv{wanted.value} address"
        )
    if parameters.local_endpoint is not None or parameters.local_port is not None:
        _require_local(target, wanted, parameters)
    for layer in layers:
        if isinstance(layer, WebSocket):
            _require_scheme(endpoint, stack)
        elif isinstance(layer, TLS) and (layer.ssl_context is None or layer.ssl_context.check_hostname):
            from tieline.engines.tls import checked_name

            checked_name(layer, _host_name(target), endpoint)
            break  # the server's name is of the uppermost
        elif isinstance(layer, QUICOptions):
            server_name(stack, endpoint)


def _require_scheme(endpoint: Endpoint, stack: NetworkProtocol) -> None:
    """A URL says whether a WebSocket is secure, and so does the stack."""
    if isinstance(endpoint, URLEndpoint) and endpoint.scheme in SCHEMES:
        secure = stack.find(SecurityOptions) is not None
        if secure is not SCHEMES[endpoint.scheme]:
            has = "has TLS" if secure else "has no TLS"
            raise ValueError(f"{endpoint} contradicts the stack, which {has}; leave out what is below WebSocket")


def _require_local(target: HostPort | UnixEndpoint, wanted: IPVersion, parameters: Parameters[Any]) -> None:
    local = parameters.local_endpoint
    if isinstance(target, UnixEndpoint) and (isinstance(local, HostPort) or parameters.local_port is not None):
        option = "local_port" if local is None else "local_endpoint"
        raise ValueError(f"{target} is a Unix socket, which {option}={getattr(parameters, option)} does not lead to")
    if isinstance(target, HostPort) and isinstance(local, UnixEndpoint):
        raise ValueError(f"local_endpoint={local} is a Unix socket, which does not lead to {target}")
    if isinstance(target, HostPort) and isinstance(local, HostPort):
        version = target.version or wanted.value
        if version and version != local.version:
            raise ValueError(f"local_endpoint={local} is IPv{local.version}, and {target} is to be reached over IPv{version}")


def client_pipeline(stack: NetworkProtocol, endpoint: Endpoint) -> Pipeline | None:
    """The layers above the transport for a connection that we open; None for a bare transport."""
    return _pipeline(stack, lambda protocol: _client_layer(protocol, endpoint))


def server_pipeline(stack: NetworkProtocol, endpoint: object) -> Pipeline | None:
    """The same for a connection that a listener accepted."""
    return _pipeline(stack, lambda protocol: _server_layer(protocol, endpoint))


def stream_pipeline(stack: NetworkProtocol, endpoint: object, *, is_ours: bool) -> Pipeline | None:
    """The same for a stream of a QUIC connection: who opened it speaks first."""
    return _pipeline(stack, lambda protocol: (_client_layer if is_ours else _server_layer)(protocol, endpoint))


def _pipeline(stack: NetworkProtocol, make: Callable[[Any], Layer]) -> Pipeline | None:
    below: NetworkProtocol | None = getattr(stack, "below", None)
    if below is None or isinstance(below, IP):
        return None  # it is the transport itself
    layers: list[Layer] = []
    *upper, _transport = [layer for layer in stack.layers if not isinstance(layer, IP)]
    while upper:
        protocol: Any = upper.pop()
        if issubclass(type(protocol), Coder) or (isinstance(protocol, TLV) and all(issubclass(type(p), Coder) for p in upper)):
            break  # the flow itself makes records of bytes
        layer = make(protocol)
        if isinstance(layer, MessageLayer) and upper and not issubclass(type(upper[-1]), Coder):
            layer = CarrierLayer(layer)
        layers.append(layer)
    return Pipeline(layers) if layers else None


def is_bare(parameters: Parameters[Any]) -> bool:
    """Whether to be connected is all that is wanted: no handshake, no first flight, and nothing that interfaces must not be."""
    kinds = (TCP, IP, TLV, Coder)
    if parameters.fast_open_allowed or parameters.restrictions is not None:
        return False
    stack = parameters.stack
    return all(issubclass(type(layer), kinds) for layer in stack.layers) and server_pipeline(stack, None) is None


def _client_layer(protocol: Any, endpoint: Any) -> Layer:
    if isinstance(protocol, TLS):
        from tieline.engines.tls import client_layer

        return client_layer(protocol, endpoint_name=_host_name(transport_endpoint(endpoint)), endpoint=endpoint)
    if isinstance(protocol, WebSocket):
        from tieline.engines.websocket import client_layer as websocket_client

        return websocket_client(protocol, endpoint)
    return _message_layer(protocol, endpoint, lambda upper: _client_layer(upper, endpoint))


def _server_layer(protocol: Any, endpoint: object) -> Layer:
    if isinstance(protocol, TLS):
        from tieline.engines.tls import server_layer

        return server_layer(protocol, endpoint=endpoint)
    if isinstance(protocol, WebSocket):
        from tieline.engines.websocket import server_layer as websocket_server

        return websocket_server(protocol, endpoint)
    return _message_layer(protocol, endpoint, lambda upper: _server_layer(upper, endpoint))


def _message_layer(protocol: Any, endpoint: object, make: Callable[[Any], Layer]) -> Layer:
    """One that is the same on both sides."""
    if isinstance(protocol, Framer):
        from tieline.engines.framer import FramerLayer

        return FramerLayer(protocol, endpoint, make)
    if isinstance(protocol, TLV):
        from tieline.engines.tlv import TLVCodec

        return RecordLayer(protocol.name, TLVCodec(protocol, endpoint))
    raise TypeError(f"{protocol.name} is no layer of a connection's stack")


def _host_name(target: HostPort | UnixEndpoint) -> str | None:
    """What the server's certificate should have a name for; a Unix socket has none."""
    return target.host.partition("%")[0] if isinstance(target, HostPort) else None


def server_name(stack: NetworkProtocol, endpoint: Endpoint) -> str:
    """Whom the certificate of a QUIC server must show. Raises ValueError if nobody knows."""
    from tieline.engines.tls import checked_name

    return checked_name(stack.find(QUICOptions), _host_name(transport_endpoint(endpoint)), endpoint)


def forget_tickets(stack: NetworkProtocol, endpoint: Endpoint) -> bool:
    """Begin the next connection to this server without a ticket. Whether there can be any."""
    security: SecurityOptions | None = stack.find(SecurityOptions)
    if security is None or getattr(security, "ssl_context", None) is not None:
        return False
    from tieline.engines.tls import checked_name, client_config

    return client_config(security).forget_tickets(checked_name(security, _host_name(transport_endpoint(endpoint)), endpoint))


def prepare_client(stack: NetworkProtocol) -> OSError | None:
    """Make the engine's configuration before the race; why that cannot be done, which no address and no waiting would mend."""
    security: SecurityOptions | None = stack.find(SecurityOptions)
    if security is not None and getattr(security, "ssl_context", None) is None:
        from tieline.engines.tls import client_config

        try:
            client_config(security)
        except OSError as error:
            return OSError(errno.EINVAL, f"keylog_file={security.keylog_file!r} cannot be written: {error.strerror or error}")
    return None


def prepare_server(stack: NetworkProtocol) -> None:
    """Make one engine when the listener starts: whatever cannot be made fails there, and no connection has to wait for it.

    Raises ValueError for a certificate and key, or an `ssl_context`, that make no server, and OSError for a key log file that
    cannot be written.
    """
    tls: TLS | None = stack.find(TLS)
    if tls is not None:
        from tieline.engines.tls import server_layer

        server_layer(tls, endpoint=None)
    elif stack.find(QUICOptions) is not None:
        from tieline.engines.quic import server_config

        server_config(stack.find(QUICOptions))
