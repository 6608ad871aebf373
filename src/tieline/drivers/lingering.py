"""Sockets that are kept for what may still come."""

from __future__ import annotations

import socket

__all__ = ["LingeringSocket"]


class LingeringSocket(socket.socket):
    """The system's. One that lingers is closed without a warning when its event loop has ended before."""

    lingers = False

    def __del__(self) -> None:
        if self.lingers:
            self.close()
        super().__del__()  # type: ignore[misc]  # the stubs leave it out
