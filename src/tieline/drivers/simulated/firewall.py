"""Firewalls: what a node does not let through, for everything that begins at it, ends at it or is forwarded by it."""

from __future__ import annotations

import ipaddress

from tieline.drivers.simulated.packets import Packet, TransportProtocol
from tieline.protocols.checks import require_range
from tieline.values import Value, value

__all__ = ["Firewall", "Rule"]


@value(kw_only=True)
class Rule(Value):
    """Which packets a firewall does not let through; what is None does not matter.

    - `rejects`: the sender is told (a TCP reset, an ICMP error for UDP), instead of hearing nothing.
    - `protocol`: "TCP" or "UDP".
    - `source`, `destination`: an address, or a network such as ``"2001:db8::/32"``.
    - `port`: the destination's port.
    """

    rejects: bool = False
    protocol: str | None = None
    source: str | None = None
    destination: str | None = None
    port: int | None = None

    def __post_init__(self) -> None:
        if self.protocol not in (None, "TCP", "UDP"):
            raise ValueError(f"protocol must be 'TCP', 'UDP' or None, got {self.protocol!r}")
        for place in (self.source, self.destination):
            if place is not None:
                ipaddress.ip_network(place)
        require_range("port", self.port, 0, 65535, optional=True)

    def matches(self, packet: Packet) -> bool:
        """Whether it is about this packet."""
        if packet.protocol is TransportProtocol.ICMP and (self.protocol is not None or self.port is not None):
            return False
        return (
            self.protocol in (None, packet.protocol.value)
            and self.port in (None, packet.destination.port)
            and _within(packet.source.host, self.source)
            and _within(packet.destination.host, self.destination)
        )


class Firewall:
    """The rules of one node; the first that matches decides, and what none matches passes."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def drop(
        self, *, protocol: str | None = None, source: str | None = None, destination: str | None = None, port: int | None = None
    ) -> Rule:
        """Drop such packets from now on, without a word. Raises `ValueError` for what is no address, network or port."""
        return self._add(Rule(protocol=protocol, source=source, destination=destination, port=port))

    def reject(
        self, *, protocol: str | None = None, source: str | None = None, destination: str | None = None, port: int | None = None
    ) -> Rule:
        """Refuse such packets from now on, and tell their sender. Raises `ValueError` as `drop` does."""
        return self._add(Rule(rejects=True, protocol=protocol, source=source, destination=destination, port=port))

    def remove(self, rule: Rule) -> None:
        """Forget a rule that `drop` or `reject` gave. Raises `ValueError` if it is not here."""
        if rule not in self._rules:
            raise ValueError(f"this firewall has no {rule}")
        self._rules.remove(rule)

    def _add(self, rule: Rule) -> Rule:
        self._rules.append(rule)
        return rule

    def judge(self, packet: Packet) -> Rule | None:
        """The rule that does not let this packet through."""
        if not self._rules:
            return None
        return next((rule for rule in self._rules if rule.matches(packet)), None)


def _within(address: str, place: str | None) -> bool:
    return place is None or ipaddress.ip_address(address) in ipaddress.ip_network(place)
