"""Nodes of a simulated network: what has interfaces, and passes packets on.

Packets leave through the interface that has their source address, and are taken in only where their destination's address is
(the strong model of RFC 1122 section 3.3.4.2): so each of a host's interfaces is a way of its own, as systems with Wi-Fi and
cellular arrange it.
"""

from __future__ import annotations

import errno
import ipaddress
from typing import TYPE_CHECKING

from tieline.drivers.simulated.firewall import Firewall
from tieline.drivers.simulated.nat import AddressTranslation
from tieline.drivers.simulated.packets import Fate, Packet, icmp, no_socket_answer
from tieline.paths import InterfaceType
from tieline.protocols.checks import require_seconds

if TYPE_CHECKING:
    from tieline.drivers.simulated.link import Link
    from tieline.drivers.simulated.network import SimulatedNetwork

__all__ = ["NetworkInterface", "Node", "Router"]


class NetworkInterface:
    """An interface of a node: addresses, and the links that begin at it. Made by `Node.interface`."""

    def __init__(self, node: Node, name: str, index: int, type: InterfaceType) -> None:
        self.node = node
        self.name = name
        self.index = index
        self.type = type
        self.addresses: list[str] = []
        self.links: list[Link] = []
        self._up = True
        self._has_route = True

    def __repr__(self) -> str:
        return f"<NetworkInterface {self.name} of {self.node.name}: {', '.join(self.addresses) or 'no address'}>"

    @property
    def is_running(self) -> bool:
        """Whether it is up and somebody is there: one of its links is up, and so is the interface at the other end."""
        return self._up and any(link.is_up and link.other(self)._up for link in self.links)

    def down(self) -> None:
        """Switch the interface off; it keeps its addresses. Who is linked to it alone notices: there is no carrier any more."""
        self._up = False
        self.node.changed()

    def up(self) -> None:
        """Switch the interface on."""
        self._up = True
        self.node.changed()

    @property
    def has_route(self) -> bool:
        """Whether a host knows a way out through it."""
        return self._has_route

    def remove_route(self) -> None:
        """Of a host: forget the way out through this interface, which stays up with its addresses."""
        self._has_route = False
        self.node.changed()

    def add_route(self) -> None:
        """Of a host: know the way out again."""
        self._has_route = True
        self.node.changed()

    def add_address(self, address: str) -> None:
        """Give it another address. Raises `ValueError` if some interface of the network has it already."""
        self.node.network.claim(address, self)
        self.addresses.append(canonical(address))
        self.node.changed()

    def remove_address(self, address: str) -> None:
        """Take an address away; sockets that use it stay, and hear nothing. Raises `ValueError` if it is not here."""
        if canonical(address) not in self.addresses:
            raise ValueError(f"{address} is no address of {self!r}")
        self.addresses.remove(canonical(address))
        self.node.network.release(address)
        self.node.changed()

    def address_for(self, other: str) -> str | None:
        """Its first address of the same IP version as `other`."""
        version6 = ":" in other
        return next((address for address in self.addresses if (":" in address) == version6), None)


class Node:
    """Something with interfaces."""

    forwards = False

    def __init__(self, network: SimulatedNetwork, name: str) -> None:
        self.network = network
        self.name = name
        self.firewall = Firewall()
        self.interfaces: list[NetworkInterface] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {', '.join(self.addresses) or 'no address'}>"

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses of all interfaces."""
        return tuple(address for interface in self.interfaces for address in interface.addresses)

    def interface(self, name: str, *addresses: str, type: InterfaceType = InterfaceType.WIRED) -> NetworkInterface:
        """Add an interface, to be given to `SimulatedNetwork.link`. Raises `ValueError` for a name or an address in use."""
        if any(one.name == name for one in self.interfaces):
            raise ValueError(f"{self.name} already has an interface {name}")
        made = NetworkInterface(self, name, len(self.interfaces) + 2, type)  # 1 is the loopback, as on Linux
        self.interfaces.append(made)
        try:
            for address in addresses:
                made.add_address(address)
        except ValueError:
            self.interfaces.remove(made)
            for address in made.addresses:
                self.network.release(address)
            raise
        self.changed()
        return made

    def linked(self) -> NetworkInterface:
        """The interface that a link to this node begins at."""
        return self.interfaces[0] if self.interfaces else self.interface("eth0")

    def changed(self) -> None:
        """Its interfaces have changed: routes may have, too."""
        self.network.changed()

    def ways(self, arrived: NetworkInterface | None) -> list[NetworkInterface]:
        """The interfaces through which a packet may go on that came in by `arrived`; None if it begins here."""
        return [] if arrived is not None else [one for one in self.interfaces if one.is_running]

    # Packets

    def passes(self, packet: Packet) -> bool:
        """What the firewall says; a rejected packet is answered."""
        rule = self.firewall.judge(packet)
        if rule is None:
            return True
        self.network.note(self, Fate.REJECTED if rule.rejects else Fate.BLOCKED, packet)
        if rule.rejects:
            self.network.answer(self, no_socket_answer(packet, errno.ECONNREFUSED))
        return False

    def arrived(self, packet: Packet, interface: NetworkInterface | None) -> None:
        """A packet has come over a link."""
        self.network.note(self, Fate.NOBODY, packet)


class Router(Node):
    """A node that forwards, with or without address translation. Made by `SimulatedNetwork.router` and `.nat`."""

    forwards = True

    def __init__(self, network: SimulatedNetwork, name: str, translation: AddressTranslation | None = None) -> None:
        super().__init__(network, name)
        self._translation = translation
        self.outside: NetworkInterface | None = None
        """Of a NAT: where a link to the outside begins. A link to the router itself is inside."""
        if translation is not None:
            self.interface("inside")
            self.outside = self.interface("outside", translation.address)

    def forget_mappings(self) -> None:
        """Of a NAT: lose all mappings, as by a restart. The next packets from inside come from other ports."""
        if self._translation is not None:
            self._translation.forget()

    def ways(self, arrived: NetworkInterface | None) -> list[NetworkInterface]:
        running = [one for one in self.interfaces if one.is_running]
        if arrived is not None and arrived is self.outside:
            return [one for one in running if one is arrived]  # nothing leads in but the mappings, which begin here
        return running

    def arrived(self, packet: Packet, interface: NetworkInterface | None) -> None:
        if not self.passes(packet):
            return
        translation = self._translation
        onward = packet
        if translation is not None and packet.destination.host == translation.address:
            translated = translation.inwards(packet, self.network.time)
            if translated is None:
                self.network.note(self, Fate.NO_MAPPING, packet)
                return
            onward, interface = translated, None
        elif packet.destination.host in self.addresses:
            self.network.note(self, Fate.ARRIVED, packet)
            self.network.answer(self, no_socket_answer(packet, errno.ECONNREFUSED))
            return
        if packet.hops == 1:
            self.network.note(self, Fate.HOPS_EXCEEDED, packet)
            self.network.answer(self, icmp(packet, errno.EHOSTUNREACH))
            return
        self.network.relay(self, onward._replace(hops=packet.hops - 1), interface)

    def leaving(self, packet: Packet, interface: NetworkInterface) -> Packet | None:
        """The packet as it leaves through an interface; None if that is the outside and the IP version is not the NAT's."""
        translation = self._translation
        if translation is None or interface is not self.outside or packet.source.host == translation.address:
            return packet
        if (":" in packet.source.host) != (":" in translation.address):
            return None
        return translation.outwards(packet, self.network.time)


def address_translation(address: str, timeout: float, tcp_timeout: float) -> AddressTranslation:
    """A checked NAT table."""
    require_seconds("timeout", timeout)
    require_seconds("tcp_timeout", tcp_timeout)
    return AddressTranslation(canonical(address), timeout, tcp_timeout)


def canonical(address: str) -> str:
    """An IP address in the form that endpoints have. Raises `ValueError`."""
    return str(ipaddress.ip_address(address))
