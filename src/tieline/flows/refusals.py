"""What the network answers to a datagram that it could not deliver."""

from __future__ import annotations

import errno
from typing import Any

from tieline.errors import ConnectError, ConnectRefusedError, NetworkError, PeerResetError, Phase

__all__ = ["undelivered"]


def undelivered(error: OSError, endpoint: object) -> NetworkError:
    """The same in our words."""
    where: dict[str, Any] = {"endpoint": endpoint, "phase": Phase.TRANSFER, "code": error.errno}
    notice: NetworkError
    if error.errno == errno.ECONNREFUSED:
        notice = ConnectRefusedError("nobody receives datagrams there (ICMP port unreachable)", **where)
    elif error.errno == errno.ECONNRESET:
        notice = PeerResetError("the peer refused a datagram", **where)
    else:
        notice = ConnectError(f"the datagram could not be delivered: {error.strerror or error}", **where)
    notice.__cause__ = error
    return notice
