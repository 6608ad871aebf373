"""The datagrams of a QUIC connection (RFC 9221) as a datagram socket."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tieline._engine.quic import OVERLAP, QuicError
from tieline.drivers.port import DatagramHandler
from tieline.errors import NetworkError

if TYPE_CHECKING:
    from tieline.drivers.port import Address, Buffer
    from tieline.endpoints import HostPort
    from tieline.multiplex.session import Session
    from tieline.protocols.ip import IPMetadata

__all__ = ["QUICDatagramSocket"]

AT_ONCE = 64  # that are taken from the engine


class QUICDatagramSocket:
    """One connection's."""

    remote_address: Address | None = None

    def __init__(self, session: Session) -> None:
        self._session = session
        self._closed = False
        self.handler: DatagramHandler
        self.lost_to: Callable[[NetworkError, bool], None] | None = None  # told of the connection's end, and whether it is clean

    @property
    def local_address(self) -> HostPort:
        return self._session.endpoint.local_address

    def readable(self) -> None:
        """Some have come."""
        while not self._closed and (datagrams := self._session.connection.receive_datagrams(AT_ONCE)):
            self._session.received_in_datagrams += sum(map(len, datagrams))
            self.handler.received_all(datagrams, None)
            if len(datagrams) < AT_ONCE:
                return

    def unblocked(self) -> None:
        """There is room again."""
        if not self._closed:
            self.handler.writable()

    def lost(self, error: NetworkError, is_clean: bool) -> None:
        """The connection has ended."""
        if self._closed:
            return
        self._closed = True
        if self.lost_to is not None:
            self.lost_to(error, is_clean)

    def send(self, datagram: Buffer, remote: Address | None = None, metadata: IPMetadata | None = None, /) -> bool:
        return self.send_many((datagram,)) == 1

    def send_many(self, datagrams: Sequence[Buffer], remote: Address | None = None, metadata: IPMetadata | None = None, /) -> int:
        """Some at a time: the first leave, and the peer works on them, while the last are still to be encrypted."""
        if self._closed:
            raise OSError(errno.EPIPE, "the connection has ended")
        session, taken = self._session, 0
        at_once = OVERLAP
        while taken < len(datagrams):
            some: list[Any] = list(datagrams[taken : taken + at_once])
            try:
                gone = session.connection.send_datagrams(some)
            except QuicError as error:
                code = errno.EMSGSIZE if error.reason == "too_large" else errno.EOPNOTSUPP
                raise OSError(code, str(error)) from None
            session.endpoint.touched(len(some))
            session.sent_in_datagrams += sum(map(len, some[:gone]))
            taken += gone
            if gone < len(some):
                break
        return taken

    def maximum_size(self, remote: Address | None = None) -> int:
        return 0 if self._closed else self._session.connection.maximum_datagram_size or 0

    def close(self) -> None:
        self._closed = True
