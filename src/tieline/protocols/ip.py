"""IP: options of the network layer."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from tieline.protocols.checks import require_flags, require_range
from tieline.protocols.roles import NetworkProtocol

__all__ = ["IP", "AddressPreference", "IPVersion"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class IP(NetworkProtocol):
    """The Internet Protocol. An option left at None means the system's default.

    - `version`: which addresses are resolved and tried.
    - `hop_limit`: initial TTL or hop limit, 1 to 255.
    - `use_minimum_mtu`: never send IPv6 packets above 1280 bytes (RFC 8200 section 5); nothing on IPv4.
    - `fragmentation_disabled`: outgoing packets are not fragmented.
    - `receive_time_calculated`: stamp received packets with their time of arrival.
    - `local_address_preference`: temporary (privacy) or stable IPv6 source address.
    - `multicast_loopback_disabled`: own multicast packets are not delivered to this host.
    """

    name: ClassVar[str] = "IP"

    version: IPVersion = IPVersion.ANY
    hop_limit: int | None = None
    use_minimum_mtu: bool = False
    fragmentation_disabled: bool = False
    receive_time_calculated: bool = False
    local_address_preference: AddressPreference = AddressPreference.DEFAULT
    multicast_loopback_disabled: bool = False

    def __post_init__(self) -> None:
        require_range("hop_limit", self.hop_limit, 1, 255, optional=True)
        require_flags(
            self,
            "use_minimum_mtu",
            "fragmentation_disabled",
            "receive_time_calculated",
            "multicast_loopback_disabled",
        )
        if not isinstance(self.version, IPVersion):
            raise TypeError(f"version must be an IPVersion, got {self.version!r}")
        if not isinstance(self.local_address_preference, AddressPreference):
            raise TypeError(f"local_address_preference must be an AddressPreference, got {self.local_address_preference!r}")
