"""Senders that have a connection of their own: what they send bypasses the group."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from tieline.connection import NetworkConnection
from tieline.drivers.port import OneByOne
from tieline.endpoints import HostPort

if TYPE_CHECKING:
    from tieline.drivers.port import Address, Arrival, Buffer, DatagramHandler, Driver
    from tieline.flows.datagram import DatagramFlow
    from tieline.flows.group import GroupFlow, Way
    from tieline.parameters import Parameters
    from tieline.protocols.ip import IPMetadata

__all__ = ["Sources"]


class SourceSocket(OneByOne):
    """The way to one sender, as a datagram socket that it shares with the group."""

    handler: DatagramHandler

    def __init__(self, way: Way, local: HostPort) -> None:
        self._way = way
        self.local_address: Address = local
        self.remote_address: Address | None = way.to

    def send(self, datagram: Buffer, remote: Address | None = None, metadata: IPMetadata | None = None, /) -> bool:
        return self._way.send(datagram, metadata)

    def maximum_size(self, remote: Address | None = None) -> int:
        return self._way.maximum_size

    def close(self) -> None:
        """The group's sockets stay."""


class Sources:
    """Whose datagrams go where: those of a sender that a connection was extracted for to that, all others to the group.

    A group does not keep the connections alive.
    """

    def __init__(self, group: GroupFlow) -> None:
        self._group = group
        self._flows: dict[HostPort, tuple[DatagramFlow, weakref.ref[NetworkConnection[Any]]]] = {}

    def extract(self, driver: Driver, parameters: Parameters[Any], way: Way, local: HostPort) -> NetworkConnection[Any]:
        """A connection to one sender. Raises RuntimeError if there is one already."""
        if self._flow(way.to) is not None:
            raise RuntimeError(f"there is a connection to {way.to} already: close it before another is extracted")
        self._flows = {to: one for to, one in self._flows.items() if one[0].socket is not None}
        flows: list[DatagramFlow] = []

        def attach(flow: DatagramFlow) -> SourceSocket:
            socket = SourceSocket(way, local)
            flow.attach(socket, way.to)
            flows.append(flow)
            return socket

        connection = NetworkConnection.accepted(driver, parameters, way.to, attach)
        self._flows[way.to] = flows[0], weakref.ref(connection)
        return connection

    def received(self, arrival: Arrival) -> None:
        """A datagram that the group wants."""
        flow = self._flow(arrival.remote)
        if flow is None:
            self._group.received(arrival)
        else:
            flow.received(arrival.content, None, arrival.metadata)

    def _flow(self, remote: HostPort) -> DatagramFlow | None:
        known = self._flows.get(remote)
        if known is not None and known[0].socket is None:  # its connection was closed
            del self._flows[remote]
            return None
        return None if known is None else known[0]

    def writable(self) -> None:
        """A socket has room again."""
        self._group.writable()
        for flow, _ in tuple(self._flows.values()):
            flow.writable()

    def close(self) -> None:
        """The group's sockets are closed, and so are these connections."""
        flows, self._flows = self._flows, {}
        for _, reference in flows.values():
            connection = reference()
            if connection is not None:
                connection.abort()
