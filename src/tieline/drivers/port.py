"""The port: everything that the library needs from the outside world, on one page.

    connection, listener, flows, establishment
        │ connect, listen, bind, resolve, timers, tasks        ▲ connected, received, writable, failed
        ▼                                                      │
    a Driver: the running event loop and its sockets, or a simulated network

A driver calls its handlers from the event loop, never from inside the call that a handler's owner made into it, except
`StreamSocket.send` and `DatagramSocket.send`, which try the system call at once. After `close` or `abort` nothing is called.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from tieline.endpoints import HostPort, UnixEndpoint

if TYPE_CHECKING:
    from tieline._engine.stream import Receiving
    from tieline.parameters import Parameters
    from tieline.paths import Network
    from tieline.protocols.ip import IPMetadata
    from tieline.protocols.tcp import TCPMetadata
    from tieline.reports import TransportCounters

__all__ = [
    "Address", "Arrival", "Buffer", "Counted", "DatagramHandler", "DatagramSocket", "Driver", "MulticastHandler",
    "MulticastSocket", "NetworkWatch", "OneByOne", "PacketAddress", "PacketHandler", "PacketSocket", "Packets",
    "StreamAcceptor", "StreamHandler",
    "StreamSocket",
]  # fmt: skip

Address = HostPort | UnixEndpoint
"""Where a socket can be: a `HostPort` whose host is an IP literal, or a path."""
Buffer = bytes | bytearray | memoryview
Counted: TypeAlias = "TransportCounters | bytes"
"""What a transport has counted. Bytes are as the system tells it, for `Driver.counters_in`: it is taken for each connection, and
seldom looked at."""


class Waiter(Protocol):
    """What one coroutine awaits and somebody else completes."""

    def done(self) -> bool: ...
    def set_result(self, result: None, /) -> None: ...
    def set_exception(self, error: BaseException, /) -> None: ...
    def resume(self) -> None:
        """`set_result`, from a handler that the driver called: the coroutine may run before this returns."""
        ...

    def cancel(self) -> bool: ...
    def __await__(self) -> Generator[Any, None, None]: ...


class Timer(Protocol):
    def cancel(self) -> None: ...


class Task(Protocol):
    def cancel(self) -> bool: ...
    def uncancel(self) -> int: ...
    def done(self) -> bool: ...
    def add_done_callback(self, callback: Callable[[Any], object], /) -> None: ...
    def __await__(self) -> Generator[Any, None, Any]: ...


class StreamHandler(Protocol):
    """The owner of a stream socket."""

    def connected(self) -> None: ...
    def received(self, data: Buffer) -> None:
        """What has arrived, not empty. A buffer other than bytes is the driver's, good for this call only."""
        ...

    def received_end(self) -> None: ...
    def writable(self) -> None: ...
    def failed(self, error: OSError) -> None: ...


class StreamSocket(Protocol):
    """Ordered bytes to one peer."""

    handler: StreamHandler
    sink: Receiving | None
    """Who takes what arrives; where it is None, the handler does."""
    early: int
    """How many of the first bytes that `Driver.connect` was given have gone with the SYN. The others are the caller's."""
    is_made: bool
    """Whether the peer had answered when `Driver.connect` returned, as on one machine. Then no `connected` follows: its owner
    goes on when it likes, and begins with `resume`."""

    @property
    def local_address(self) -> Address | None: ...
    @property
    def remote_address(self) -> Address | None: ...
    def send(self, data: Buffer, /) -> int:
        """Give bytes to the kernel now; returns how many it took. Fewer than all: `writable` follows. Raises OSError."""
        ...

    def send_file(self, file: int, offset: int, count: int, /) -> int | None:
        """Give part of an open file to the kernel without copying; None when blocked (`writable` follows), 0 at its end."""
        ...

    def end(self) -> None:
        """Close our direction (FIN)."""
        ...

    def pause(self) -> None:
        """Read no further; the peer's window fills."""
        ...

    def resume(self) -> None: ...
    def finish(self) -> None:
        """End our direction and close: what was sent arrives, and then our end."""
        ...

    def close(self) -> None: ...
    def abort(self) -> None:
        """Close with a reset."""
        ...

    def unread(self) -> bool:
        """Whether the kernel holds bytes that were not read. Closing then would reset the connection.

        To be asked before a close only: it may take a reset of the peer's for the end.
        """
        ...

    def counters(self) -> Counted | None:
        """None if nobody counts."""
        ...

    def metadata(self) -> TCPMetadata | None: ...


class StreamAcceptor(Protocol):
    """A listening stream socket."""

    @property
    def local_address(self) -> Address: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def close(self) -> None: ...


class DatagramHandler(Protocol):
    """The owner of a datagram socket. `remote` is None on a connected one; `metadata` comes if the `IP` options ask for it."""

    def received(self, datagram: bytes, remote: Address | None, metadata: IPMetadata | None = None) -> None: ...
    def received_all(self, datagrams: list[bytes], remote: Address | None, metadata: IPMetadata | None = None) -> None:
        """Several of one peer, in order. From the loop only: the program may run before this returns."""
        ...

    def writable(self) -> None: ...
    def failed(self, error: OSError) -> None: ...


class DatagramSocket(Protocol):
    """Datagrams to one peer (connected) or to many."""

    handler: DatagramHandler

    @property
    def local_address(self) -> Address: ...
    @property
    def remote_address(self) -> Address | None: ...
    def send(self, datagram: Buffer, remote: Address | None = None, metadata: IPMetadata | None = None, /) -> bool:
        """Give one datagram to the kernel now; False when blocked (`writable` follows). Raises OSError."""
        ...

    def send_many(self, datagrams: Sequence[Buffer], remote: Address | None = None, metadata: IPMetadata | None = None, /) -> int:
        """The same with several; returns how many it took, and `writable` follows if that is 0. Raises OSError for the first."""
        ...

    def maximum_size(self, remote: Address | None = None) -> int:
        """The largest datagram that goes out unfragmented to that peer."""
        ...

    def close(self) -> None: ...


class OneByOne:
    """`send_many` of a datagram socket, for those that have no better way."""

    def send(self, datagram: Buffer, remote: Address | None = None, metadata: IPMetadata | None = None, /) -> bool:
        raise NotImplementedError

    def send_many(self, datagrams: Sequence[Buffer], remote: Address | None = None, metadata: IPMetadata | None = None, /) -> int:
        for number, datagram in enumerate(datagrams):
            try:
                if not self.send(datagram, remote, metadata):
                    return number
            except OSError:
                if not number:
                    raise
                return number  # whoever sends the rest is told
        return len(datagrams)


class Arrival(NamedTuple):
    """A datagram for a group or for this machine: who sent it, to which address, and the index of the interface it came in by.

    `metadata` comes if the `IP` options ask for it.
    """

    content: bytes
    remote: HostPort
    local: HostPort
    interface: int
    metadata: IPMetadata | None = None


class MulticastHandler(Protocol):
    """The owner of a multicast socket."""

    def received(self, arrivals: list[Arrival]) -> None: ...
    def writable(self) -> None: ...
    def failed(self, error: OSError) -> None: ...


class MulticastSocket(Protocol):
    """Datagrams of one IP version from and to groups, over interfaces of one's choice. Interfaces are named by their index."""

    @property
    def local_address(self) -> HostPort: ...
    def join(self, group: str, interface: int, source: str | None = None) -> None:
        """Receive what is sent to the group, by one source if that is given. Raises OSError."""
        ...

    def leave(self, group: str, interface: int) -> None:
        """Receive it no more; the interface may be gone."""
        ...

    def send(
        self, datagram: Buffer, to: HostPort, interface: int, source: str | None, metadata: IPMetadata | None = None, /
    ) -> bool:
        """Give one datagram to the kernel now; False when blocked (`writable` follows). Raises OSError.

        It leaves by that interface (0 is the system's choice, for an address that is no group) with that source address.
        """
        ...

    def maximum_size(self, to: HostPort, interface: int) -> int:
        """The largest datagram that goes out unfragmented."""
        ...

    def close(self) -> None: ...


PacketAddress = tuple[str, int] | tuple[str, int, int, int]
"""As the socket module has them: nothing has to be made of them for each packet."""
Packets = tuple[Buffer, PacketAddress, "str | None", int, int]
"""Datagrams from or to one peer: their bytes, the peer, our own IP address if it is known, the ECN bits, and the size of each but
the last, which may be smaller."""


class PacketHandler(Protocol):
    """The owner of a packet socket."""

    def received(self, batch: list[Packets]) -> None:
        """What has come. Buffers are the driver's, good for this call only."""
        ...

    def writable(self) -> None: ...
    def failed(self, error: OSError) -> None:
        """The network said so of a packet that was sent before; the socket goes on."""
        ...

    def local_address_gone(self, error: OSError) -> None:
        """Packets cannot leave: the local address, its interface or every route to the peer is gone; the socket goes on."""
        ...


class PacketSocket(Protocol):
    """Datagrams in batches, with what a transport protocol on top of UDP wants to know of them."""

    @property
    def local_address(self) -> HostPort: ...
    @property
    def peer(self) -> PacketAddress | None:
        """Of a connected socket."""
        ...

    @property
    def maximum_segments(self) -> int:
        """How many datagrams `send` takes at once."""
        ...

    def send(self, packets: Packets, /) -> bool:
        """Give packets to the kernel now; False when blocked (`writable` follows). What cannot be sent is lost."""
        ...

    def linger(self) -> bool:
        """It is kept only for what may still come: nobody has forgotten it who ends the event loop meanwhile.

        False if there are too many of such, and this one is to be closed now.
        """
        ...

    def close(self) -> None: ...


class NetworkWatch(Protocol):
    """A subscription to changes of the network."""

    def cancel(self) -> None:
        """End it. Idempotent."""
        ...


class Driver(Protocol):
    """One event loop and its network."""

    def time(self) -> float: ...
    def seed(self) -> bytes | None:
        """32 bytes for a machine's random choices, None where nobody may foresee them: outside of simulations."""
        ...

    def waiter(self) -> Waiter: ...
    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> object: ...
    def call_later(self, delay: float, callback: Callable[..., object], *arguments: Any) -> Timer: ...
    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> Task: ...
    def current_task(self) -> Task: ...
    async def wait(self, tasks: Sequence[Task], timeout: float | None) -> None:
        """Until all are done, or the timeout has passed. Raises nothing of theirs."""
        ...

    def resolve(self, host: str, port: int, version: int) -> Awaitable[list[HostPort]]:
        """Addresses of one IP version, in the system's order. Raises DNSError."""
        ...

    def source_of(self, address: Address) -> str | None:
        """The local IP address that packets to this one would leave from, None without a route."""
        ...

    def connect(self, to: Address, parameters: Parameters[Any], handler: StreamHandler, first: bytes = b"") -> StreamSocket:
        """Begin to connect: `connected` or `failed` follows, or it `is_made`. Of `first`, `early` bytes ride on the SYN.

        Raises OSError.
        """
        ...

    def listen(
        self,
        at: Address,
        parameters: Parameters[Any],
        accepted: Callable[[StreamSocket], None],
        failed: Callable[[OSError], None],
    ) -> StreamAcceptor:
        """Bind and listen; `accepted` gets sockets whose handler must be set before it returns. Raises OSError."""
        ...

    def bind(
        self, at: Address | None, to: Address | None, parameters: Parameters[Any], handler: DatagramHandler
    ) -> DatagramSocket:
        """A datagram socket, bound if `at` is given, connected if `to` is. Raises OSError."""
        ...

    def packets(
        self, at: HostPort | None, to: HostPort | None, parameters: Parameters[Any], handler: PacketHandler
    ) -> PacketSocket:
        """A packet socket, bound if `at` is given, connected if `to` is. Raises OSError."""
        ...

    def multicast(
        self, at: HostPort, parameters: Parameters[Any], handler: MulticastHandler, *, unicast: bool = True
    ) -> MulticastSocket:
        """A multicast socket at a port of the wildcard address; what is sent to this machine comes only if `unicast`.

        Raises OSError.
        """
        ...

    def counters_in(self, counted: bytes, /) -> TransportCounters:
        """What a stream socket's `counters` gave."""
        ...

    def network(self) -> Network:
        """The network as it is now. Raises OSError if the system does not tell."""
        ...

    def watch_network(self, changed: Callable[[Network], object]) -> NetworkWatch:
        """Call back with the network after each change, until cancelled. Raises OSError if the system does not tell."""
        ...
