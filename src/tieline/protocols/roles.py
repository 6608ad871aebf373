"""What a protocol is to the ones above it: the role decides which calls a channel has.

StreamProtocol      ordered bytes without boundaries           TCP, TLS
MessageProtocol     whole messages                             Coder (and the two below)
CarrierProtocol     messages that carry other protocols        TLV, WebSocket, Framer
DatagramProtocol    messages that may be lost and have a limit UDP
MultiplexProtocol   no data of its own, gives rise to channels
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "CarrierProtocol",
    "DatagramProtocol",
    "MessageProtocol",
    "MultiplexProtocol",
    "NetworkProtocol",
    "OneToOneProtocol",
    "StreamProtocol",
]


class NetworkProtocol:
    """Base of all protocol values: frozen options, nested from the top of the stack downwards."""

    __slots__ = ()

    name: ClassVar[str]
    stands_on: ClassVar[str]
    """What may stand below, in words for the error message."""

    @property
    def layers(self) -> tuple[NetworkProtocol, ...]:
        """The stack from this protocol down to the lowest."""
        found: list[NetworkProtocol] = []
        layer: Any = self
        while layer is not None:
            found.append(layer)
            layer = getattr(layer, "below", None)
        return tuple(found)

    @property
    def is_datagrams(self) -> bool:
        """Whether each message of this stack is one datagram."""
        return False

    def find(self, protocol: type[Any]) -> Any:
        """The layer of this stack that is an instance of `protocol`, or None."""
        layer: Any = self
        while layer is not None and not isinstance(layer, protocol):
            layer = getattr(layer, "below", None)
        return layer

    def _require_below(self, below: object, *allowed: type[NetworkProtocol]) -> None:
        if not isinstance(below, allowed):
            got = f"the class {below.__name__}" if isinstance(below, type) else type(below).__name__
            hint = f": write {below.__name__}()" if isinstance(below, type) and issubclass(below, allowed) else ""
            raise TypeError(f"{type(self).__name__} stands on {self.stands_on}, got {got}{hint}")


class OneToOneProtocol(NetworkProtocol):
    """May be the top of an ordinary connection."""

    __slots__ = ()


class StreamProtocol(OneToOneProtocol):
    """Ordered bytes without boundaries."""

    __slots__ = ()


class MessageProtocol(OneToOneProtocol):
    """Whole messages."""

    __slots__ = ()

    @property
    def is_datagrams(self) -> bool:
        below: Any = getattr(self, "below", None)
        return below is not None and below.is_datagrams


class CarrierProtocol(MessageProtocol):
    """Messages of bytes or text, on which other protocols can stand.

    They arrive all and in order, unless what is below are datagrams: then each is in one of its own.
    """

    __slots__ = ()


class DatagramProtocol(MessageProtocol):
    """Messages that may be lost, and that must fit a size."""

    __slots__ = ()

    @property
    def is_datagrams(self) -> bool:
        return True


class MultiplexProtocol(NetworkProtocol):
    """Carries no data itself: its channels do."""

    __slots__ = ()
