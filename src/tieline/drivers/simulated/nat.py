"""Network address translation: many inside, one address outside.

A mapping belongs to an inside address and port whatever it talks to, as RFC 4787 and RFC 5382 ask; what may come in through it
is only what its remote addresses and ports send, as with most routers that people have at home. It is forgotten when nothing
has gone out for its timeout, and the next packet gets another port: to the peer, the sender has moved.
"""

from __future__ import annotations

from tieline.drivers.simulated.packets import Packet, TransportProtocol
from tieline.endpoints import HostPort

__all__ = ["AddressTranslation"]

FIRST_PORT, LAST_PORT = 20000, 60000
REMOTES_KEPT = 4096  # that may answer through one mapping


class _Mapping:
    __slots__ = ("inside", "outside", "remotes", "used")

    def __init__(self, inside: HostPort, outside: HostPort, now: float) -> None:
        self.inside = inside
        self.outside = outside
        self.remotes: dict[HostPort, None] = {}  # the least recent first
        self.used = now


class AddressTranslation:
    """The table of one NAT."""

    def __init__(self, address: str, timeout: float, tcp_timeout: float) -> None:
        self.address = address
        self._timeouts = {TransportProtocol.UDP: timeout, TransportProtocol.TCP: tcp_timeout}
        self._by_inside: dict[tuple[TransportProtocol, HostPort], _Mapping] = {}
        self._by_outside: dict[tuple[TransportProtocol, HostPort], _Mapping] = {}
        self._next_port = FIRST_PORT

    def forget(self) -> None:
        """Lose every mapping, as a router that is restarted does."""
        self._by_inside.clear()
        self._by_outside.clear()

    def outwards(self, packet: Packet, now: float) -> Packet:
        """The packet as it leaves to the outside."""
        about = packet.about
        if about is not None:  # an error about a packet that came in
            known = self._by_inside.get((about.protocol, about.destination))
            if known is None:
                return packet
            return packet._replace(source=known.outside, about=about._replace(destination=known.outside))
        mapping = self._alive(self._by_inside.get((packet.protocol, packet.source)), packet.protocol, now)
        if mapping is None:
            mapping = _Mapping(packet.source, self._free(packet.protocol), now)
            self._by_inside[packet.protocol, packet.source] = mapping
            self._by_outside[packet.protocol, mapping.outside] = mapping
        mapping.used = now
        mapping.remotes.pop(packet.destination, None)
        mapping.remotes[packet.destination] = None
        if len(mapping.remotes) > REMOTES_KEPT:
            del mapping.remotes[next(iter(mapping.remotes))]
        return packet._replace(source=mapping.outside)

    def inwards(self, packet: Packet, now: float) -> Packet | None:
        """The packet as it goes on inside; None if no mapping lets it in."""
        about = packet.about
        if about is not None:
            mapping = self._alive(self._by_outside.get((about.protocol, about.source)), about.protocol, now)
            if mapping is None:
                return None
            return packet._replace(destination=mapping.inside, about=about._replace(source=mapping.inside))
        mapping = self._alive(self._by_outside.get((packet.protocol, packet.destination)), packet.protocol, now)
        if mapping is None or packet.source not in mapping.remotes:
            return None
        return packet._replace(destination=mapping.inside)

    def _alive(self, mapping: _Mapping | None, protocol: TransportProtocol, now: float) -> _Mapping | None:
        if mapping is None or now - mapping.used <= self._timeouts[protocol]:
            return mapping
        del self._by_inside[protocol, mapping.inside]
        del self._by_outside[protocol, mapping.outside]
        return None

    def _free(self, protocol: TransportProtocol) -> HostPort:
        """An outside port that was not used lately, so that a forgotten mapping does not come back by accident."""
        for _ in range(FIRST_PORT, LAST_PORT):
            outside = HostPort(self.address, self._next_port)
            self._next_port = FIRST_PORT if self._next_port == LAST_PORT else self._next_port + 1
            if (protocol, outside) not in self._by_outside:
                return outside
        oldest = min((key for key in self._by_outside if key[0] is protocol), key=lambda key: self._by_outside[key].used)
        mapping = self._by_outside.pop(oldest)
        del self._by_inside[protocol, mapping.inside]
        return mapping.outside
