"""Packet sockets of a simulated host: a datagram socket that takes and gives batches."""

from __future__ import annotations

import contextvars
import errno
from functools import partial
from typing import TYPE_CHECKING, Any

from tieline.drivers.port import Address, PacketAddress, PacketHandler, Packets
from tieline.endpoints import HostPort
from tieline.protocols.ip import ECN, IP

if TYPE_CHECKING:
    from tieline.drivers.simulated.sockets import SocketTable
    from tieline.parameters import Parameters
    from tieline.protocols.ip import IPMetadata

__all__ = ["SimulatedPacketSocket"]

PEERS_KEPT = 1024
GONE = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL})  # from here


class SimulatedPacketSocket:
    """One UDP socket, connected to one peer or open to many."""

    maximum_segments = 10

    def __init__(
        self, table: SocketTable, at: HostPort | None, to: HostPort | None, parameters: Parameters[Any], handler: PacketHandler
    ) -> None:
        self.handler = handler
        self._table = table
        self._context = contextvars.copy_context()
        self._closed = self._gone = False
        self._peers: dict[PacketAddress, HostPort] = {}
        self._ecn = ECN.NOT_ECT  # of the packets that leave without a word about it
        self._rest: list[tuple[bytes, HostPort]] = []  # of packets that were taken, until there is room
        self._to = to
        self.peer = None if to is None else packet_address(to)
        self._socket = table.bind(at, to, parameters, self)
        self._socket.ask_for(IP(metadata_received=True))
        self.local_address: HostPort = self._socket.local_address
        self._local = None if self.local_address.host in ("0.0.0.0", "::") else self.local_address.host

    def send(self, packets: Packets, /) -> bool:
        if self._rest:
            return False
        data, remote, _, ecn, size = packets
        if ecn != self._ecn:
            self._ecn = ECN(ecn)
            self._socket.mark(self._ecn)
        to = self._peer(remote)
        pieces = [(bytes(data[start : start + size]), to) for start in range(0, len(data), size)]
        self._rest = self._give(pieces)
        return True

    def _give(self, pieces: list[tuple[bytes, HostPort]]) -> list[tuple[bytes, HostPort]]:
        """Send until there is no room; what is left."""
        for number, (piece, to) in enumerate(pieces):
            try:
                if not self._socket.send(piece, None if self._to is not None else to):
                    return pieces[number:]
            except OSError as error:  # no route, or too large: lost like any other
                if error.errno in GONE and self._to is not None and not self._gone:
                    self._gone = True
                    self._table.call_soon(partial(self._say_gone, error))
        return []

    def _say_gone(self, error: OSError) -> None:
        self._gone = False
        if not self._closed:
            self._context.run(self.handler.local_address_gone, error)

    def _peer(self, remote: PacketAddress) -> HostPort:
        peer = self._peers.get(remote)
        if peer is None:
            if len(self._peers) >= PEERS_KEPT:
                self._peers.clear()
            peer = self._peers[remote] = HostPort(remote[0], remote[1])
        return peer

    def linger(self) -> bool:
        return True

    def close(self) -> None:
        self._closed = True
        self._rest.clear()
        self._socket.close()

    # The datagram socket's handler

    def received(self, datagram: bytes, remote: Address | None, metadata: IPMetadata | None = None) -> None:
        peer = remote or self._to
        assert isinstance(peer, HostPort)  # one or the other is known
        assert metadata is not None and metadata.ecn is not None  # as it was asked for
        if datagram:
            self.handler.received([(datagram, packet_address(peer), self._local, metadata.ecn, len(datagram))])

    def received_all(self, datagrams: list[bytes], remote: Address | None, metadata: IPMetadata | None = None) -> None:
        for datagram in datagrams:
            self.received(datagram, remote, metadata)

    def writable(self) -> None:
        self._rest = self._give(self._rest)
        if not self._rest:
            self.handler.writable()

    def failed(self, error: OSError) -> None:
        self.handler.failed(error)


def packet_address(address: HostPort) -> PacketAddress:
    """An address as packets have it."""
    return (address.host, address.port, 0, 0) if ":" in address.host else (address.host, address.port)
