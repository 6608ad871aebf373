"""What a group receives: content, who sent it to which address, and the way back."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from tieline.endpoints import HostPort
from tieline.paths import Interface, Path
from tieline.protocols.coder import Coder
from tieline.protocols.message import DatagramMetadata
from tieline.protocols.roles import NetworkProtocol
from tieline.protocols.udp import UDP
from tieline.values import Value, value

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from tieline.connection import NetworkConnection
    from tieline.drivers.port import Arrival
    from tieline.group.group import ConnectionGroup
    from tieline.protocols.ip import IPMetadata

__all__ = ["GroupMessage"]

C_co = TypeVar("C_co", covariant=True)
P_co = TypeVar("P_co", bound=NetworkProtocol, covariant=True)
S = TypeVar("S")


@value
class GroupMessage(Value, Generic[C_co, P_co]):
    """A datagram that a group received, or the value in it.

    - `content`: bytes, or a value of the type that the `Coder` receives.
    - `remote_endpoint`: who sent it.
    - `local_endpoint`: where it was sent to: a member of the group, or an address of this machine.
    - `interface`: that it came in by; None if it has gone since.
    - `metadata`: in ``metadata.ip`` what its IP packet said, if `IP` asks for that (`metadata_received`,
      `receive_time_calculated`).
    """

    content: C_co
    remote_endpoint: HostPort
    local_endpoint: HostPort
    interface: Interface | None
    metadata: DatagramMetadata
    _group: ConnectionGroup[P_co] = field(repr=False, compare=False)
    _arrival: Arrival = field(repr=False, compare=False)

    @property
    def path(self) -> Path:
        """The interface as it is now, and the addresses between which an answer goes. Unsatisfied if the interface is gone."""
        return self._group._path_of(self._arrival)

    @overload
    def reply(
        self: GroupMessage[Any, UDP], content: Buffer, *, metadata: IPMetadata | None = None
    ) -> Coroutine[Any, Any, None]: ...
    @overload
    def reply(
        self: GroupMessage[Any, Coder[S, Any]], content: S, *, metadata: IPMetadata | None = None
    ) -> Coroutine[Any, Any, None]: ...
    def reply(self: GroupMessage[Any, Any], content: Any, *, metadata: IPMetadata | None = None) -> Coroutine[Any, Any, None]:
        """Answer the sender alone, over the interface that the message came in by. `metadata` is what the IP packet says.

        Raises `MessageTooLargeError`, `ChannelClosedError` after the group's end, and `ConnectError` if the interface is gone.

        Cancelling: the answer may have been sent.
        """
        return self._group._reply(self._arrival, content, metadata)

    def extract_connection(self) -> NetworkConnection[P_co]:
        """A connection to the sender: what it sends from now on comes there and not to the group, until it is closed.

        What the group had received before stays there. The connection uses the group's socket and ends with the group. Raises
        `RuntimeError` if there is such a connection already, and `ChannelClosedError` after the group's end.
        """
        return self._group._extract(self._arrival)
