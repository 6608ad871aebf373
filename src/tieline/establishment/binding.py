"""Where a listener listens: one place in the program, one or several sockets."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from tieline.endpoints import HostPort, UnixEndpoint
from tieline.errors import Attempt, ConnectError, DNSError, NetworkError, Phase, UnexpectedEndpointTypeError
from tieline.paths import Interface, InterfaceType, Network, evaluate
from tieline.protocols.ip import IP, IPVersion
from tieline.protocols.quic import QUICDatagram, QUICStream
from tieline.protocols.roles import MultiplexProtocol, OneToOneProtocol
from tieline.protocols.security import SecurityOptions
from tieline.protocols.udp import UDP
from tieline.values import Value, value

if TYPE_CHECKING:
    from tieline.drivers.port import Address, Driver
    from tieline.parameters import Parameters

__all__ = ["Place", "Spot", "addresses_of", "bind_all", "check_listening", "spots"]

Place = int | HostPort | UnixEndpoint
"""A port on all addresses, one address or name, or a path."""


@value
class Spot(Value):
    """An address to listen on, and the interface, by its name and the system's number, that the socket is bound to.

    Without an interface it is not bound to any. One that is taken away and comes again has another number, and is another spot.
    """

    address: Address
    interface: str | None = None
    index: int | None = None


FREE_PORT_TRIES = 16  # a port that the system gave for one address may be taken on another


def check_listening(place: Place, parameters: Parameters[Any]) -> None:
    """Raise for what can never be listened to."""
    stack = parameters.stack
    if not isinstance(stack, (OneToOneProtocol, MultiplexProtocol)) or stack.find(QUICStream) or stack.find(QUICDatagram):
        raise TypeError(f"a listener wants a stack such as TCP(), TLS(...), UDP() or QUIC(...), got {stack.name}")
    if isinstance(place, UnixEndpoint) and stack.find(UDP) is not None:
        raise UnexpectedEndpointTypeError("UDP does not run over Unix sockets", endpoint=place, expected="a host with a port")
    security: SecurityOptions | None = stack.find(SecurityOptions)
    if security is not None:
        from tieline.engines.tls import check_server

        check_server(security)


def spots(addresses: Sequence[Address], network: Network, parameters: Parameters[Any]) -> list[Spot]:
    """Where to listen in a network. Each interface gets sockets of its own if the parameters do not allow all of them.

    Where the system tells no routes it binds no sockets to interfaces either, and each address of an interface gets one.
    """
    restrictions = parameters.restrictions
    if restrictions is None:
        return [Spot(address) for address in addresses]
    allowed = evaluate(network, restrictions).available_interfaces
    return list(_spots(addresses, network, allowed))


def _spots(addresses: Sequence[Address], network: Network, allowed: Sequence[Interface]) -> Iterator[Spot]:
    for address in addresses:
        if isinstance(address, UnixEndpoint):
            yield Spot(address)
    for interface in allowed:
        for address in addresses:
            if not isinstance(address, HostPort) or not _has(interface, address, network):
                continue
            if network.routes is not None:
                yield Spot(address, interface.name, interface.index)
                continue
            for own in interface.addresses if address.host in ("0.0.0.0", "::") else (address.host,):
                if (":" in own) == (":" in address.host):
                    scoped = f"{own}%{interface.name}" if own.startswith("fe80:") else own
                    yield Spot(replace(address, host=scoped), index=interface.index)


def _has(interface: Interface, address: HostPort, network: Network) -> bool:
    """Whether an interface takes in what is sent to an address."""
    host = ip_address(address.host.partition("%")[0])
    if host.is_unspecified:
        return any(ip_address(own).version == host.version for own in interface.addresses)
    if host.is_loopback:  # all of 127.0.0.0/8
        return interface.type is InterfaceType.LOOPBACK
    owner = network.owner(address.host)
    return owner is not None and owner.index == interface.index


def bind_all(
    wanted: Sequence[Spot],
    place: Place,
    parameters: Parameters[Any],
    bind: Callable[[Spot, Address], Address],
    unbind: Callable[[Spot], None],
    port: int = 0,
) -> dict[Spot, Address]:
    """Bind all of these spots, with one port; at least one must succeed. Raises ConnectError.

    `port` is the one that is listened on already, where the place leaves it to the system.
    """
    for last in (*[False] * (FREE_PORT_TRIES - 1), True):
        bound: dict[Spot, Address] = {}
        chosen = port
        failures: list[Attempt] = []
        taken = False
        for spot in wanted:
            at, free = spot.address, False
            if isinstance(at, HostPort) and at.port == 0 and chosen:
                at, free = replace(at, port=chosen), not port
            try:
                address = bind(spot, at)
            except OSError as error:
                taken = taken or (free and error.errno == errno.EADDRINUSE)
                failures.append(Attempt(at, Phase.LISTENING, 0.0, error))
                continue
            bound[spot] = address
            if not chosen and isinstance(address, HostPort):
                chosen = address.port
        if bound and (last or not taken):
            if failures:
                _log(failures)
            return bound
        for spot in bound:
            unbind(spot)
        if not bound:
            raise _not_bound(failures, place, parameters)
    raise AssertionError("the last try returns or raises")


async def addresses_of(driver: Driver, place: Place, parameters: Parameters[Any]) -> Sequence[Address]:
    """The addresses that a place means, of all interfaces. Raises DNSError.

    Cancelling: the name is asked for no more.
    """
    version = (parameters.stack.find(IP) or IP()).version
    if isinstance(place, int):
        wildcards = {IPVersion.V4: "0.0.0.0", IPVersion.V6: "::"}
        return [HostPort(host, place) for one, host in wildcards.items() if version in (one, IPVersion.ANY)]
    if isinstance(place, UnixEndpoint) or place.is_literal:
        return [place]
    addresses: list[HostPort] = []
    errors: list[NetworkError] = []
    for one in (IPVersion.V4, IPVersion.V6):
        if version in (one, IPVersion.ANY):
            try:
                addresses += await driver.resolve(place.host, place.port, one.value)
            except DNSError as error:
                errors.append(error)
    if not addresses:
        if errors:
            raise errors[0]
        raise DNSError("the name has no address that may be used", endpoint=place, phase=Phase.RESOLVING)
    return addresses


def _log(failures: Sequence[Attempt]) -> None:
    import logging

    for one in failures:
        level = logging.WARNING if _in_use([one.error]) else logging.DEBUG  # a host without IPv6 is no news
        logging.getLogger("tieline.listener").log(level, "not listening on %s: %s", one.endpoint, one.error)


def _not_bound(failures: list[Attempt], place: Place, parameters: Parameters[Any]) -> ConnectError:
    errors = [one.error for one in failures]
    codes = {error.errno for error in errors if isinstance(error, OSError)}
    texts = "; ".join(
        f"{one.endpoint}: {one.error.strerror if isinstance(one.error, OSError) else one.error}" for one in failures
    )
    error = ConnectError(
        f"no address could be listened on ({texts})",
        endpoint=f"port {place}" if isinstance(place, int) else place,
        phase=Phase.LISTENING,
        code=codes.pop() if len(codes) == 1 else None,
        hint=_hint(failures, parameters),
    )
    error.attempts = tuple(failures)
    error.__cause__ = errors[0]
    return error


def _hint(failures: Sequence[Attempt], parameters: Parameters[Any]) -> str | None:
    if _in_use([one.error for one in failures]):
        sockets = "t" if parameters.stack.find(UDP) is None else "u"
        return f"Another socket has this address; `ss -l{sockets}np` shows which."
    for one in failures:
        if isinstance(one.error, OSError) and one.error.errno == errno.EACCES and isinstance(one.endpoint, HostPort):
            return (
                f"Port {one.endpoint.port} needs CAP_NET_BIND_SERVICE, as those below net.ipv4.ip_unprivileged_port_start do;"
                " take one above, or 0 for any free one."
            )
    return None


def _in_use(errors: Sequence[BaseException]) -> bool:
    return any(isinstance(error, OSError) and error.errno == errno.EADDRINUSE for error in errors)
