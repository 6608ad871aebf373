"""What a datagram passes between its socket and the program. Mirrors rust/python/src/datagram."""

from collections.abc import Coroutine
from typing import Any, Self, final

from typing_extensions import disjoint_base

from tieline._engine.stream import Waiter

__all__ = ["DatagramDescriptor", "Datagrams", "Sharing", "Towards", "adopt_datagrams"]

@disjoint_base
class Datagrams:
    """Moves datagrams between a socket and the program."""

    socket: Any
    remote: Any
    """The peer on a socket that is shared; None on one that is connected."""
    _notice: Any
    """An error that the next call raises."""
    _ended: bool
    """No more will come."""
    _streak: int
    """Datagrams that were sent in a row; of a batch some count as one."""

    def __new__(cls, *_arguments: Any, **_options: Any) -> Self: ...
    def _begin(self, limit: int, overhead: int, described: bool) -> None:
        """Begin, with the bytes that may wait for a reader, what each datagram costs beside its own, and whether something is
        said of each."""

    def receive(
        self, *, exactly: Any = None, at_least: Any = None, at_most: Any = None, as_: Any = None, until: Any = None
    ) -> Coroutine[Any, Any, Any]:
        """All of these are streams'."""

    def receive_many(self, *, at_most: int = 64) -> Coroutine[Any, Any, list[Any]]: ...
    def next_piece(self) -> Coroutine[Any, Any, Any]: ...
    def __aiter__(self) -> Self: ...
    def __anext__(self) -> Coroutine[Any, Any, Any]: ...
    def send(
        self, content: Any, *, metadata: Any = None, end_of_stream: Any = None, last_message: Any = None, type: Any = None
    ) -> Coroutine[Any, Any, None]:
        """The last three are other protocols'."""

    def send_many(self, contents: Any, *, metadata: Any = None) -> Coroutine[Any, Any, None]: ...
    def _put(self, datagrams: tuple[Any, ...], metadata: Any = None) -> int:
        """Give datagrams to the socket, or none if one is too large; how many it has taken. Raises what the call is to raise."""

    def received_all(self, datagrams: list[bytes], remote: Any, metadata: Any = None) -> None:
        """Several at once. The last thing that a driver does with them: the call that they answer may run in here."""

    def received(self, datagram: bytes, remote: Any, metadata: Any = None) -> None: ...
    @property
    def waiting(self) -> int:
        """Datagrams that nobody has taken."""

    @property
    def _size(self) -> int:
        """What they and their overhead come to in bytes."""

    def _clear(self) -> None:
        """Forget them."""

    @property
    def _readers(self) -> list[Waiter]:
        """What the receives await that wait."""

    def _wake(self) -> None:
        """The first receive can take what is there; after the end, and with nothing left, none ever can."""

    _senders: Any
    """Sends that wait: a list."""
    def _sent(self, datagrams: int, size: int) -> None:
        """The kernel has taken so many of so many bytes."""

    @property
    def dropped(self) -> int: ...
    @property
    def activity(self) -> int:
        """Datagrams either way: a listener sees by it whether the flow is idle."""

    @property
    def received_count(self) -> int: ...
    @property
    def received_datagrams(self) -> int: ...
    @property
    def sent_count(self) -> int: ...
    @property
    def sent_datagrams(self) -> int: ...

@disjoint_base
class Sharing:
    """Flows that share a socket, by their peers."""

    flows: Any
    deaf: bool
    """They take nothing any more."""
    def __new__(cls, *_arguments: Any, **_options: Any) -> Self: ...

@final
class Towards:
    """A peer's address as the socket module has it, and the size that the way there takes, until it is asked for again."""

    def __new__(cls, name: Any) -> Self: ...
    @property
    def name(self) -> Any: ...
    @property
    def limit(self) -> int | None:
        """None if it is to be asked for."""

    def learn(self, limit: int, lifetime: float) -> None:
        """The size that the way takes, for so many seconds."""

    def forget(self) -> None: ...

@disjoint_base
class DatagramDescriptor:
    """What reads and writes a datagram socket that the subclass has opened."""

    handler: Any
    """Flows and those that share a socket are given what comes without a call of Python's."""
    def __new__(cls, *_arguments: Any, **_options: Any) -> Self: ...
    def _open(self, raw: int, connected: bool, told: bool, busy_poll: float | None) -> None:
        """Begin to use a socket. `told`: `_metadata` is to be asked what the kernel says of packets. `busy_poll`: for how many
        seconds the loop, which the subclass has as `_loop`, stays awake after something has come; None where that pays.
        """

    def send_many(self, datagrams: Any, remote: Any = None, metadata: Any = None, /) -> int:
        """As the port says; `_send_described` does it where something is said of the packets."""

    def _give(self, datagrams: Any, remote: Any, control: list[tuple[int, int, bytes]]) -> int:
        """Send datagrams, each with these control messages; how many the kernel has taken. Raises OSError for the first."""

    _segments: bool
    """The kernel takes several at once."""

    def _shut_down(self) -> None:
        """The socket is about to be closed."""

    @property
    def _single(self) -> int:
        """Wake-ups for which one read is enough."""

    def _readable(self) -> None: ...

def adopt_datagrams(message: Any, plain: Any) -> None:
    """The class of a received message, and the metadata of a datagram of which nothing is said."""
