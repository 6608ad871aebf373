"""What is said of a datagram that could not be sent, or not be delivered."""

from __future__ import annotations

import errno
from typing import Any

from tieline.errors import ConnectError, ConnectRefusedError, MessageTooLargeError, NetworkError, PeerResetError, Phase

__all__ = ["too_large", "undelivered"]


def too_large(size: int, limit: int, endpoint: object) -> MessageTooLargeError:
    """What this side says of a datagram that would not go out in one packet."""
    return MessageTooLargeError(
        "the datagram is too large",
        limit=limit,
        size=size,
        endpoint=endpoint,
        phase=Phase.TRANSFER,
        expected=f"at most {limit} bytes on this path",
        got=str(size),
        hint="Split the data; maximum_datagram_size tells the limit.",
    )


def undelivered(error: OSError, endpoint: object, limit: int) -> NetworkError:
    """What the network answers to a datagram, in our words; `limit` is the size that the path is known to take now."""
    where: dict[str, Any] = {"endpoint": endpoint, "phase": Phase.TRANSFER, "code": error.errno}
    notice: NetworkError
    if error.errno == errno.ECONNREFUSED:
        notice = ConnectRefusedError("nobody receives datagrams there (ICMP port unreachable)", **where)
    elif error.errno == errno.ECONNRESET:
        notice = PeerResetError("the peer refused a datagram", **where)
    elif error.errno == errno.EMSGSIZE:
        notice = MessageTooLargeError(
            "a router on the path did not forward a datagram that was too large for it",
            limit=limit,
            expected=f"at most {limit} bytes on this path",
            hint="It is lost; send it again in smaller pieces. maximum_datagram_size tells the limit.",
            **where,
        )
    else:
        notice = ConnectError(f"the datagram could not be delivered: {error.strerror or error}", **where)
    notice.__cause__ = error
    return notice
