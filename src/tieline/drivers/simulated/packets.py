"""What travels over simulated links, and what the network notes about it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, NamedTuple

from tieline.endpoints import HostPort
from tieline.protocols.ip import ECN, IP, IPMetadata, traffic_class

if TYPE_CHECKING:
    from tieline.parameters import Parameters

__all__ = ["Fate", "Packet", "Trace", "TransportProtocol", "no_socket_answer"]

# Bytes of headers: IPv4 and IPv6 without options (RFC 791, RFC 8200), TCP, UDP.
IPV4_HEADER, IPV6_HEADER, TCP_HEADER, UDP_HEADER = 20, 40, 20, 8
HOP_LIMIT = 64


class TransportProtocol(enum.Enum):
    """What a packet carries."""

    TCP = "TCP"
    UDP = "UDP"
    ICMP = "ICMP"


class Packet(NamedTuple):
    """One IP packet.

    Of TCP: `flags` are letters (S for SYN, A for ACK, F for FIN, R for RST), and sequence numbers begin with the SYN at 0 and do
    not wrap. So `connection` tells several between the same ports apart, as real TCP does by numbers that begin by chance.
    `dscp`, `ecn` and `hops` are what its IP header says beside the addresses.
    Of ICMP: `code` is the errno that a socket makes of it, `about` the packet that met it, and `mtu` what would fit.
    """

    protocol: TransportProtocol
    source: HostPort
    destination: HostPort
    payload: bytes = b""
    flags: str = ""
    sequence: int = 0
    acknowledgement: int = 0
    window: int = 0
    connection: int = 0
    code: int = 0
    about: Packet | None = None
    mtu: int = 0
    hops: int = HOP_LIMIT
    dscp: int = 0
    ecn: ECN = ECN.NOT_ECT

    @property
    def size(self) -> int:
        """Bytes on the link."""
        return headers(self.destination, self.protocol) + len(self.payload)

    def __str__(self) -> str:
        text = f"{self.protocol.value} {self.source} > {self.destination}"
        if self.protocol is TransportProtocol.TCP:
            text += f" {self.flags} seq {self.sequence} ack {self.acknowledgement} win {self.window}"
        elif self.protocol is TransportProtocol.ICMP:
            text += f" errno {self.code} about {self.about}"
        return f"{text} len {len(self.payload)}"


def header(parameters: Parameters[Any], metadata: IPMetadata | None = None) -> dict[str, Any]:
    """What the IP header of a packet says on a connection with these parameters: fields of `Packet` that are not the usual."""
    ip: IP = parameters.stack.find(IP) or IP()
    hops = ip.hop_limit if metadata is None or metadata.hop_limit is None else metadata.hop_limit
    byte = traffic_class(metadata, parameters.service_class)
    said = {"hops": HOP_LIMIT if hops is None else hops, "dscp": byte >> 2, "ecn": ECN(byte & 3)}
    return {name: value for name, value in said.items() if value != Packet._field_defaults[name]}


def headers(towards: HostPort, protocol: TransportProtocol) -> int:
    """Bytes of IP and transport headers."""
    ip = IPV6_HEADER if ":" in towards.host else IPV4_HEADER
    return ip + (TCP_HEADER if protocol is TransportProtocol.TCP else UDP_HEADER)


def no_socket_answer(packet: Packet, code: int) -> Packet | None:
    """What a host says to a packet that nobody there wants: a TCP reset, or ICMP with this errno; nothing to those two."""
    if packet.protocol is TransportProtocol.ICMP or "R" in packet.flags:
        return None
    if packet.protocol is TransportProtocol.UDP:
        return icmp(packet, code)
    end = packet.sequence + len(packet.payload) + ("S" in packet.flags) + ("F" in packet.flags)
    ends = TransportProtocol.TCP, packet.destination, packet.source
    return Packet(*ends, flags="RA", sequence=packet.acknowledgement, acknowledgement=end, connection=packet.connection)


def icmp(about: Packet, code: int, mtu: int = 0) -> Packet | None:
    """An error about a packet, to its sender; none about another error, or one to a group (RFC 1122 section 3.2.2)."""
    if about.protocol is TransportProtocol.ICMP or about.destination.is_multicast:
        return None
    return Packet(TransportProtocol.ICMP, about.destination, about.source, code=code, about=about, mtu=mtu)


class Fate(enum.Enum):
    """What became of a packet at one place."""

    SENT = "sent"
    FORWARDED = "forwarded"
    ARRIVED = "arrived"
    LOST = "lost"
    DUPLICATED = "duplicated"
    QUEUE_FULL = "dropped, the queue is full"
    TOO_LARGE = "dropped, larger than the MTU"
    LINK_DOWN = "dropped, the link is down"
    PARTITIONED = "dropped, in another partition"
    BLOCKED = "dropped by a firewall"
    REJECTED = "rejected by a firewall"
    NO_ROUTE = "dropped, no route"
    NO_MAPPING = "dropped, the NAT has no mapping"
    NOBODY = "dropped, nobody has this address"
    HOST_DOWN = "dropped, the host is down"
    HOPS_EXCEEDED = "dropped, too many hops"


class Trace(NamedTuple):
    """One line of a network's trace: when, where, what became of which packet."""

    time: float
    place: str
    fate: Fate
    packet: Packet

    def __str__(self) -> str:
        return f"{self.time:.6f} {self.place}: {self.fate.value}: {self.packet}"
