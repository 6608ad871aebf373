"""IP: options of the network layer, and what the packet of one datagram says."""

from __future__ import annotations

import enum
from dataclasses import replace
from functools import lru_cache
from types import NoneType
from typing import ClassVar

from tieline.protocols.checks import require_flags, require_range
from tieline.protocols.roles import NetworkProtocol
from tieline.values import Value, value

__all__ = ["ECN", "IP", "AddressPreference", "IPMetadata", "IPVersion", "ServiceClass", "received_metadata", "traffic_class"]


class IPVersion(enum.Enum):
    """Which addresses are resolved and tried."""

    ANY = 0
    V4 = 4
    V6 = 6


class AddressPreference(enum.Enum):
    """Which of an interface's IPv6 addresses to send from (RFC 5014)."""

    DEFAULT = 0
    TEMPORARY = 1
    STABLE = 2


class ServiceClass(enum.Enum):
    """What the traffic is, so that queues may treat it accordingly: categories of delay and loss, not ranks.

    - `BACKGROUND`: whoever waits can wait longer; it yields to everything else.
    - `INTERACTIVE_VIDEO`, `INTERACTIVE_VOICE`: live pictures and speech.
    - `RESPONSIVE_DATA`: somebody waits for the answer.
    - `SIGNALING`: short messages that set up and end calls.
    """

    BEST_EFFORT = "best effort"
    BACKGROUND = "background"
    INTERACTIVE_VIDEO = "interactive video"
    INTERACTIVE_VOICE = "interactive voice"
    RESPONSIVE_DATA = "responsive data"
    SIGNALING = "signaling"

    @property
    def dscp(self) -> int:
        """Its Differentiated Services code point: RFC 4594 section 2.3, and RFC 8622 for background traffic."""
        return CODE_POINTS[self]


CODE_POINTS = {
    ServiceClass.BEST_EFFORT: 0,  # DF
    ServiceClass.BACKGROUND: 1,  # LE
    ServiceClass.INTERACTIVE_VIDEO: 34,  # AF41
    ServiceClass.INTERACTIVE_VOICE: 46,  # EF
    ServiceClass.RESPONSIVE_DATA: 18,  # AF21
    ServiceClass.SIGNALING: 40,  # CS5
}


class ECN(enum.IntEnum):
    """Explicit congestion notification, as the two bits have it in the packet (RFC 3168 section 5).

    - `NOT_ECT`: the sender does not react to marks: a full queue drops its packets.
    - `ECT_0`, `ECT_1`: it does react, as to a loss; and sooner, little by little, with `ECT_1` (RFC 9331).
    - `CE`: a queue on the way was congested.
    """

    NOT_ECT = 0
    ECT_1 = 1
    ECT_0 = 2
    CE = 3


@value(kw_only=True)
class IP(Value, NetworkProtocol):
    """The Internet Protocol. An option left at None means the system's default.

    - `version`: which addresses are resolved and tried.
    - `hop_limit`: initial TTL or hop limit, 1 to 255.
    - `use_minimum_mtu`: never send IPv6 packets above 1280 bytes (RFC 8200 section 5); nothing on IPv4.
    - `fragmentation_disabled`: outgoing packets are not fragmented.
    - `metadata_received`: received datagrams of UDP come with what their packets say: ECN, DSCP, hop limit (`IPMetadata`).
    - `receive_time_calculated`: and with their time of arrival at this host.
    - `local_address_preference`: temporary (privacy) or stable IPv6 source address.
    - `multicast_loopback_disabled`: own multicast packets are not delivered to this host.
    """

    name: ClassVar[str] = "IP"

    version: IPVersion = IPVersion.ANY
    hop_limit: int | None = None
    use_minimum_mtu: bool = False
    fragmentation_disabled: bool = False
    metadata_received: bool = False
    receive_time_calculated: bool = False
    local_address_preference: AddressPreference = AddressPreference.DEFAULT
    multicast_loopback_disabled: bool = False

    def __post_init__(self) -> None:
        require_range("hop_limit", self.hop_limit, 1, 255, optional=True)
        require_flags(
            self,
            "use_minimum_mtu",
            "fragmentation_disabled",
            "metadata_received",
            "receive_time_calculated",
            "multicast_loopback_disabled",
        )
        if not isinstance(self.version, IPVersion):
            raise TypeError(f"version must be an IPVersion, got {self.version!r}")
        if not isinstance(self.local_address_preference, AddressPreference):
            raise TypeError(f"local_address_preference must be an AddressPreference, got {self.local_address_preference!r}")

    @property
    def describes(self) -> bool:
        """Whether received datagrams come with an `IPMetadata`."""
        return self.metadata_received or self.receive_time_calculated


@value(kw_only=True)
class IPMetadata(Value):
    """What the IP packet of one datagram says: for `send`, and in ``metadata.ip`` of a received one.

    Where nothing is said, a packet that is sent follows the connection's options, and of a received one nothing is known.

    - `ecn`: `ECN` bits. Whoever sends with `ECN.ECT_0` or `ECN.ECT_1` has to reduce its rate when the peer reports `ECN.CE`.
    - `service_class`: of a datagram that is sent: its DSCP, and its place in the queues of this machine.
    - `dscp`: the Differentiated Services code point itself, 0 to 63 (RFC 2474). To send, this or `service_class`.
    - `hop_limit`: how many routers it may still cross, 0 to 255; to send, at least 1.
    - `fragmentation_disabled`: of a datagram that is sent: neither this host nor a router cuts it to pieces.
    - `receive_time`: when it arrived at this host, in seconds of the event loop's clock (``loop.time()``).
    """

    ecn: ECN | None = None
    service_class: ServiceClass | None = None
    dscp: int | None = None
    hop_limit: int | None = None
    fragmentation_disabled: bool = False
    receive_time: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.ecn, (ECN, NoneType)):
            raise TypeError(f"ecn must be an ECN or None, got {self.ecn!r}")
        if not isinstance(self.service_class, (ServiceClass, NoneType)):
            raise TypeError(f"service_class must be a ServiceClass or None, got {self.service_class!r}")
        require_range("dscp", self.dscp, 0, 63, optional=True)
        if self.service_class is not None and self.dscp is not None:
            raise ValueError(f"service_class={self.service_class} and dscp={self.dscp} exclude each other: give one")
        require_range("hop_limit", self.hop_limit, 0, 255, optional=True)
        require_flags(self, "fragmentation_disabled")


def traffic_class(metadata: IPMetadata | None, otherwise: ServiceClass) -> int:
    """The byte with DSCP and ECN bits (RFC 3168 section 5) of a packet that is sent on a connection of some service class."""
    if metadata is None:
        return otherwise.dscp << 2
    chosen = otherwise if metadata.service_class is None else metadata.service_class
    dscp = chosen.dscp if metadata.dscp is None else metadata.dscp
    ecn = ECN.NOT_ECT if metadata.ecn is None else metadata.ecn
    return dscp << 2 | ecn


def received_metadata(ip: IP, traffic_class: int, hop_limit: int, receive_time: float) -> IPMetadata | None:
    """What these options tell of a packet that has come."""
    if not ip.describes:
        return None
    metadata = header_metadata(traffic_class, hop_limit) if ip.metadata_received else IPMetadata()
    return replace(metadata, receive_time=receive_time) if ip.receive_time_calculated else metadata


@lru_cache(1024)  # the packets of a connection hardly differ
def header_metadata(traffic_class: int, hop_limit: int) -> IPMetadata:
    return IPMetadata(ecn=ECN(traffic_class & 3), dscp=traffic_class >> 2, hop_limit=hop_limit)
