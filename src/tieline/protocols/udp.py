"""UDP: options."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import ClassVar

from tieline.protocols.checks import require_at_least, require_flags, require_seconds
from tieline.protocols.ip import IP
from tieline.protocols.roles import DatagramProtocol
from tieline.values import Value, value

__all__ = ["UDP", "UDPMetadata"]


@value
class UDP(Value, DatagramProtocol):
    """The User Datagram Protocol.

    - `no_checksum_preferred`: send without checksum, IPv4 only.
    - `idle_timeout`: seconds of silence in both directions after which a listener ends a flow, give or take a half; a
      client's never ends by itself.
    - `maximum_flows`: that a listener keeps at once; datagrams of further peers are dropped.
    """

    name: ClassVar[str] = "UDP"
    stands_on: ClassVar[str] = "IP"

    below: IP = IP()
    _: KW_ONLY
    no_checksum_preferred: bool = False
    idle_timeout: float = 60.0
    maximum_flows: int = 4096

    def __post_init__(self) -> None:
        self._require_below(self.below, IP)
        require_flags(self, "no_checksum_preferred")
        require_seconds("idle_timeout", self.idle_timeout)
        require_at_least("maximum_flows", self.maximum_flows, 1)


@value
class UDPMetadata(Value):
    """What this side counted of a UDP flow: datagrams that came while the receive limit was reached were dropped."""

    dropped_datagram_count: int
