"""Which way packets go: the shortest, over links that are up, through routers and never through hosts.

An address that nobody has is sent to a router, if there is one, and lost there: silence, as on the Internet.
"""

from __future__ import annotations

import errno
import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tieline.drivers.simulated.node import canonical
from tieline.drivers.simulated.packets import Fate, Packet, icmp
from tieline.endpoints import HostPort

if TYPE_CHECKING:
    from tieline.drivers.simulated.link import Link
    from tieline.drivers.simulated.node import NetworkInterface, Node, Router

__all__ = ["Topology"]

Way = tuple["NetworkInterface", "Link"]
"""The first step: leave through this interface, over this link."""


WAYS_KEPT = 10_000


class Topology(ABC):
    """The nodes of a network, who has which address, and how to get there."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._owners: dict[str, NetworkInterface] = {}
        self._ways: dict[tuple[str, tuple[NetworkInterface, ...]], Way | None] = {}

    # Names and addresses

    def checked_name(self, name: str) -> str:
        """A name that no other node has, and that can be resolved. Raises ValueError."""
        wanted = HostPort(name, 0).host
        if any(HostPort(node.name, 0).host == wanted for node in self.nodes):
            raise ValueError(f"there already is a node {name!r}")
        return name

    def free_addresses(self) -> tuple[str, str]:
        """An address of each IP version for the next node."""
        for number in itertools.count(len(self.nodes) + 1):
            addresses = f"10.0.{number // 256}.{number % 256}", f"2001:db8::{number:x}"
            if not any(address in self._owners for address in addresses):
                return addresses
        raise AssertionError("there always is another number")

    def add(self, node: Node) -> None:
        """A new node."""
        self.nodes.append(node)

    def claim(self, address: str, interface: NetworkInterface) -> None:
        """An interface gets an address. Raises ValueError if another has it."""
        owner = self._owners.get(canonical(address))
        if owner is not None:
            raise ValueError(f"{address} is the address of {owner.node.name} already")
        self._owners[canonical(address)] = interface

    def release(self, address: str) -> None:
        """An interface loses an address."""
        del self._owners[canonical(address)]

    def changed(self) -> None:
        """Something about links, interfaces or addresses is different: routes may be."""
        self._ways.clear()

    def owner(self, address: str) -> Node | None:
        """The node that has an address."""
        interface = self._owners.get(address)
        return None if interface is None else interface.node

    # Routes

    def way(self, destination: str, leaving: Sequence[NetworkInterface]) -> Way | None:
        """The first step from a node to an address through one of these interfaces; None without any."""
        return self._known_way(destination, leaving) or self._default(leaving)

    def _known_way(self, destination: str, leaving: Sequence[NetworkInterface]) -> Way | None:
        key = destination, tuple(leaving)
        if key not in self._ways:
            if len(self._ways) >= WAYS_KEPT:
                self._ways.clear()
            self._ways[key] = self._shortest(destination, leaving)
        return self._ways[key]

    def _shortest(self, destination: str, leaving: Sequence[NetworkInterface]) -> Way | None:
        ahead: deque[tuple[NetworkInterface, Way | None]] = deque((one, None) for one in leaving)
        seen: set[NetworkInterface] = set()
        while ahead:
            interface, first = ahead.popleft()
            for link in interface.links:
                peer = link.other(interface)
                if not link.is_up or not peer.is_running or peer in seen:
                    continue
                seen.add(peer)
                step = first or (interface, link)
                if destination in peer.addresses or destination in (() if not peer.node.ways(peer) else peer.node.addresses):
                    return step
                ahead.extend((one, step) for one in peer.node.ways(peer))
        return None

    def _default(self, leaving: Sequence[NetworkInterface]) -> Way | None:
        """Towards a router, which will know better; or onto the wire, where nobody answers."""
        steps = [(one, link) for one in leaving for link in one.links if link.is_up and link.other(one).is_running]
        routers = [step for step in steps if step[1].other(step[0]).node.ways(step[1].other(step[0]))]
        return next(iter((*routers, *steps)), None)

    # Packets

    def forward(self, node: Node, packet: Packet, leaving: Sequence[NetworkInterface]) -> None:
        """A packet goes on from a node, through one of these interfaces."""
        way = self.way(packet.destination.host, leaving)
        if way is None:
            self.note(node, Fate.NO_ROUTE, packet)
            return
        self.transmit(node, packet, *way)

    def relay(self, router: Router, packet: Packet, arrived: NetworkInterface | None) -> None:
        """A router passes a packet on; where nothing leads, its sender is told, unless nobody has that address at all."""
        way = self._known_way(packet.destination.host, router.ways(arrived))
        leaving = None if way is None else router.leaving(packet, way[0])
        if way is None or leaving is None:
            known = packet.destination.host in self._owners
            self.note(router, Fate.NO_ROUTE if known else Fate.NOBODY, packet)
            if known:
                self.answer(router, icmp(packet, errno.EHOSTUNREACH))
            return
        self.note(router, Fate.FORWARDED, packet)
        self.transmit(router, leaving, *way)

    def too_large(self, node: Node, packet: Packet, mtu: int) -> None:
        """A packet does not fit a link: its sender is told what would."""
        self.answer(node, icmp(packet, errno.EMSGSIZE, mtu))

    def answer(self, node: Node, packet: Packet | None) -> None:
        """A packet that a node makes itself, as an answer."""
        if packet is None:
            return
        if packet.destination.host in node.addresses:
            self.loop_back(node, packet)
        else:
            self.forward(node, packet, node.ways(None))

    @abstractmethod
    def note(self, node: Node, fate: Fate, packet: Packet) -> None: ...
    @abstractmethod
    def transmit(self, node: Node, packet: Packet, interface: NetworkInterface, link: Link) -> None: ...
    @abstractmethod
    def loop_back(self, node: Node, packet: Packet) -> None: ...
