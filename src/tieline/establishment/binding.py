"""Where a listener listens: one place in the program, one or several sockets."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tieline.endpoints import HostPort, UnixEndpoint
from tieline.errors import Attempt, ConnectError, DNSError, NetworkError, Phase, UnexpectedEndpointTypeError
from tieline.protocols.ip import IP, IPVersion
from tieline.protocols.quic import QUICDatagram, QUICStream
from tieline.protocols.roles import MultiplexProtocol, OneToOneProtocol
from tieline.protocols.security import SecurityOptions
from tieline.protocols.udp import UDP

if TYPE_CHECKING:
    from tieline.drivers.port import Address, Driver
    from tieline.parameters import Parameters

__all__ = ["Place", "bind_all", "check_listening"]

Place = int | HostPort | UnixEndpoint
"""A port on all addresses, one address or name, or a path."""

logger = logging.getLogger("tieline.listener")

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


async def bind_all(
    driver: Driver, place: Place, parameters: Parameters[Any], bind: Callable[[Address], Address], unbind: Callable[[], None]
) -> tuple[Address, ...]:
    """Bind every address of a place, with one port; at least one must succeed. Raises ConnectError, DNSError."""
    candidates = await _candidates(driver, place, parameters)
    for last in (*[False] * (FREE_PORT_TRIES - 1), True):
        bound: list[Address] = []
        failures: list[Attempt] = []
        taken = False
        for candidate in candidates:
            if bound and isinstance(candidate, HostPort) and isinstance(bound[0], HostPort) and candidate.port == 0:
                candidate = HostPort(candidate.host, bound[0].port)
                free = True
            else:
                free = False
            try:
                bound.append(bind(candidate))
            except OSError as error:
                taken = taken or (free and error.errno == errno.EADDRINUSE)
                failures.append(Attempt(candidate, Phase.LISTENING, 0.0, error))
        if bound and (last or not taken):
            for one in failures:
                level = logging.WARNING if _in_use([one.error]) else logging.DEBUG  # a host without IPv6 is no news
                logger.log(level, "not listening on %s: %s", one.endpoint, one.error)
            return tuple(bound)
        unbind()
        if not bound:
            raise _not_bound(failures, place, parameters)
    raise AssertionError("the last try returns or raises")


async def _candidates(driver: Driver, place: Place, parameters: Parameters[Any]) -> Sequence[Address]:
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


def _not_bound(failures: list[Attempt], place: Place, parameters: Parameters[Any]) -> ConnectError:
    errors = [one.error for one in failures]
    codes = {error.errno for error in errors if isinstance(error, OSError)}
    texts = "; ".join(
        f"{one.endpoint}: {one.error.strerror if isinstance(one.error, OSError) else one.error}" for one in failures
    )
    sockets = "t" if parameters.stack.find(UDP) is None else "u"
    error = ConnectError(
        f"no address could be listened on ({texts})",
        endpoint=f"port {place}" if isinstance(place, int) else place,
        phase=Phase.LISTENING,
        code=codes.pop() if len(codes) == 1 else None,
        hint=f"Another socket has this address; `ss -l{sockets}np` shows which." if _in_use(errors) else None,
    )
    error.attempts = tuple(failures)
    error.__cause__ = errors[0]
    return error


def _in_use(errors: Sequence[BaseException]) -> bool:
    return any(isinstance(error, OSError) and error.errno == errno.EADDRINUSE for error in errors)
