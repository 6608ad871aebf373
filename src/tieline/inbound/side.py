"""What every inbound side has: sockets in several places, whom it gives connections to, and how it tells that it is broken."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from tieline.connection import NetworkConnection
from tieline.endpoints import HostPort
from tieline.errors import ConnectError, NetworkError, Phase
from tieline.watching import current_network

if TYPE_CHECKING:
    from logging import Logger

    from tieline.drivers.port import Address, Driver
    from tieline.establishment.binding import Spot
    from tieline.parameters import Parameters

__all__ = ["FATAL", "Accepted", "Failed", "Side", "is_welcome", "listening_failed", "logger"]

Accepted = Callable[[NetworkConnection[Any]], None]
Failed = Callable[[NetworkError], None]

FATAL = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP})
"""What a listening socket says when it is none any more; everything else passes or concerns one peer."""


class Side(Protocol):
    """Takes in connections over its sockets."""

    failed_handshakes: int

    def bind(self, spot: Spot, at: Address, /) -> Address:
        """Open a socket for a spot at an address; returns that with its port. Raises OSError."""
        ...

    def unbind(self, spot: Spot, /) -> None:
        """Take in nothing more there, and close the socket when nobody needs it any more."""

    def limit(self, budget: int | None) -> None:
        """How many more connections may be handed out."""

    def release(self, connection: NetworkConnection[Any]) -> None:
        """A connection's handler has ended."""

    def close(self) -> None:
        """Take in nothing more; connections that were handed out live on."""

    def abort(self) -> None:
        """Close the sockets: no handler is left."""


def logger() -> Logger:
    """Of all that listens. `logging` is imported here because it takes as long as a tenth of this library."""
    from logging import getLogger

    return getLogger("tieline.listener")


def is_welcome(driver: Driver, parameters: Parameters[Any], remote: Address | None) -> bool:
    """Whether this peer may connect. With `local_only`, not from beyond a router, nor where the system does not tell."""
    if not parameters.local_only or not isinstance(remote, HostPort):
        return True
    network = current_network(driver)
    if network is not None and network.is_on_link(remote.host):
        return True
    logger().debug("not taking in %s: it is on no link of this machine, and local_only is set", remote)
    return False


def listening_failed(error: OSError, where: object) -> ConnectError:
    """The error of a listener whose socket broke."""
    failure = ConnectError(
        f"the listening socket failed: {error.strerror or error}", endpoint=where, phase=Phase.LISTENING, code=error.errno
    )
    failure.__cause__ = error
    return failure
