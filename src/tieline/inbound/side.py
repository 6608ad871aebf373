"""What every inbound side has: whom it gives connections to, and how it tells that it is broken."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Any

from tieline.connection import NetworkConnection
from tieline.errors import ConnectError, NetworkError, Phase

__all__ = ["FATAL", "Accepted", "Failed", "listening_failed", "logger"]

logger = logging.getLogger("tieline.listener")

Accepted = Callable[[NetworkConnection[Any]], None]
Failed = Callable[[NetworkError], None]

FATAL = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP})
"""What a listening socket says when it is none any more; everything else passes or concerns one peer."""


def listening_failed(error: OSError, where: object) -> ConnectError:
    """The error of a listener whose socket broke."""
    failure = ConnectError(
        f"the listening socket failed: {error.strerror or error}", endpoint=where, phase=Phase.LISTENING, code=error.errno
    )
    failure.__cause__ = error
    return failure
