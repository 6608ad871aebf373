"""What a message passes between a stream socket and the program. Mirrors rust/python/src/stream."""

import sys
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Self, final

from typing_extensions import Buffer, disjoint_base

from tieline._engine.tls import TlsEngine
from tieline._engine.websocket import WebSocketCodec

__all__ = [
    "OVERHEAD", "ByteInbox", "Call", "Descriptor", "Epoll", "Forward", "MessageInbox", "Receiving", "Sending", "Waiter",
    "Waiters", "accept", "adopt_messages",
]  # fmt: skip

OVERHEAD: int
"""Bytes that a kept message or datagram costs beside its content, or a peer could send empty ones without end."""

@final
class ByteInbox:
    """A queue of bytes. `size` counts them; `ended` says that no more will come."""

    ended: bool

    def __new__(cls) -> Self: ...
    @property
    def size(self) -> int: ...
    @property
    def pieces(self) -> int:
        """How many objects hold them: small ones that wait behind others are merged."""

    def append(self, piece: bytes) -> None:
        """Add what has arrived."""

    def peek(self, count: int) -> bytes:
        """The first so many bytes, or what there is of them; they stay."""

    def take(self, at_most: int) -> bytes:
        """Remove and return up to that many bytes, as many as there are. A whole piece comes uncopied."""

    def take_into(self, buffer: Buffer) -> int:
        """Fill a writable buffer of bytes as far as possible; returns the count."""

    def find(self, separator: bytes, start: int) -> int:
        """Where the separator begins, searching from `start`, or -1."""

    def clear(self) -> None:
        """Forget everything that was not taken."""

@final
class MessageInbox:
    """A queue of messages.

    `size` counts their bytes; `ended` says that no more will come, and `partial` holds what the peer's end left unfinished.
    """

    ended: bool
    partial: bytes
    def __new__(cls) -> Self: ...
    def __len__(self) -> int: ...
    @property
    def size(self) -> int: ...
    def append(self, content: Any, metadata: Any, size: int) -> None:
        """Add a message whose content takes `size` bytes."""

    def take(self) -> tuple[Any, Any, int]:
        """Remove and return the first: content, metadata, and the bytes of its content. Raises IndexError."""

    def clear(self) -> None:
        """Forget everything that was not taken."""

@final
class Waiter:
    """For one coroutine, which awaits it once: a future for asyncio, whose coroutine can also be run at once."""

    @property
    def _loop(self) -> Any: ...
    __name__: str
    __qualname__: str
    _asyncio_future_blocking: bool
    def done(self) -> bool: ...
    def set_result(self, result: None, /) -> None: ...
    def set_exception(self, error: BaseException, /) -> None: ...
    def cancel(self, msg: Any = None) -> bool: ...
    def resume(self) -> None:
        """`set_result`, from a callback of the loop: the coroutine runs until it waits again before this returns."""

    def add_done_callback(self, callback: Callable[[Any], object], /, *, context: Context) -> None: ...
    def result(self) -> None: ...
    def __await__(self) -> Generator[Any]: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> Any: ...

@final
class Waiters:
    """Makes the waiters of one event loop. With `defers` a `resume` is a `set_result`."""

    def __new__(cls, event_loop: Any, *, defers: bool = False) -> Self: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Waiter: ...  # without arguments

@final
class Call(Coroutine[Any, Any, Any]):
    """A call that is awaited once."""

    __name__: str
    __qualname__: str
    def send(self, value: Any, /) -> Any: ...
    def throw(self, kind: Any, value: Any = None, traceback: Any = None, /) -> Any: ...
    def close(self) -> None: ...
    def __await__(self) -> Generator[Any, Any, Any]: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> Any: ...

if sys.platform == "linux":
    @final
    class Epoll:
        """Readers of many descriptors: an epoll of our own tells the event loop of all but the first, which is `single`'s."""

        def __new__(cls, event_loop: Any, single: Any) -> Self: ...
        def add_reader(self, raw: int, callback: Callable[[], object]) -> None:
            """Have it called whenever the descriptor can be read, or has failed; in place of the one that it had.

            Raises OSError.
            """

        def remove_reader(self, raw: int) -> None:
            """Does nothing for one that is not there."""

        def keep(self) -> None:
            """Readers will come and go: until `release`, do not close the epoll in between."""

        def release(self) -> None: ...

@final
class Forward:
    """A method of a channel that is a call of one half of its flow: that half's own, unless a subclass has another."""

    def __new__(cls, function: Any, half: str, name: str) -> Self: ...
    def __get__(self, instance: Any, owner: Any = None, /) -> Any: ...

@disjoint_base
class Receiving:
    """Takes what arrives and hands it to the calls that wait.

    A subclass that has `_is_whole` finds messages. Those of an inbox of messages need no `_answer` until that ends, unless it has
    `_changed`.
    """

    error: Any
    """The peer has broken this direction off."""
    _paused: bool
    cipher: TlsEngine | None
    """Where what the socket gives is ciphertext, and this is all that is between."""

    def __new__(cls, *arguments: Any, **options: Any) -> Self:
        """Of a flow and a limit in bytes; what else a subclass takes is its own."""

    def receive(
        self,
        *,
        exactly: int | None = None,
        at_least: int = 1,
        at_most: int = 65536,
        as_: Any = None,
        until: bytes | None = None,
    ) -> Coroutine[Any, Any, Any]: ...
    def receive_message(
        self, *, exactly: Any = None, at_least: Any = None, at_most: Any = None, as_: Any = None, until: Any = None
    ) -> Coroutine[Any, Any, Any]:
        """The options are those of streams."""

    def next_piece(self) -> Coroutine[Any, Any, Any]: ...
    def __aiter__(self) -> Self: ...
    def __anext__(self) -> Coroutine[Any, Any, Any]: ...
    def _receive_into(self, buffer: Buffer, strict: bool) -> Coroutine[Any, Any, int]:
        """Receive into a buffer of bytes that was looked at before."""

    def _message(self, iterating: bool) -> Coroutine[Any, Any, Any]:
        """Receive a message: what `_answer` of the subclass gives when it is this call's turn."""

    _flow: Any
    @property
    def _limit(self) -> int: ...
    _by_turns: bool
    """A call for a message is the coroutine `_whole` of the subclass."""
    @property
    def inbox(self) -> ByteInbox:
        """Of messages after `_adopt`."""

    _next: int | None
    """Bytes of the first record in the inbox, as soon as that is known."""
    def _decodes(self, codec: Any, layout: Any, decode: Any = None, metadata: Any = None) -> None:
        """Messages are records: `decode` makes values of what is behind their heads, or the codec decodes each as a whole.

        `_is_whole` and `_answer` are asked when something is wrong, and at the end.
        """

    def _link(self, waiters: Callable[[], Any] | None, /) -> None:
        """What calls wait by from now on, a driver's `Waiters`: None if they may not, or not before the flow has been asked."""

    def _begin(self, waiters: Callable[[], Any], /) -> bool:
        """The same, for a socket that is new. Whether it can simply be read from: no call waits, and nothing came before."""

    @property
    def silence(self) -> float | None:
        """Seconds since the codec was given bytes, None if it never was."""

    def _adopt(self, whole: MessageInbox, codec: WebSocketCodec | None = None) -> None:
        """Messages are in this inbox; a codec finds them in what `arrived`, and the flow's `decoded` gets what else it finds."""

    @property
    def count(self) -> int:
        """Bytes that calls have taken."""

    @property
    def has_calls(self) -> bool:
        """Whether a call waits."""

    def arrived(self, piece: bytes) -> None:
        """Bytes from the socket. The last thing that is done with them: the call that they answer may run in here."""

    def feed(self, data: bytes) -> None:
        """What a socket has read, as it came; like `arrived` otherwise."""

    def fail(self, error: Any) -> None:
        """Every pending call raises; what has already arrived stays for later ones."""

    def _taken(self, count: int) -> None:
        """The call whose turn it was is done: it is the next one's."""

    def _turn(self) -> None:
        """Another call may be the first now: wake it if it can be answered, and read on if it needs more."""

    def _needed(self) -> int:
        """Bytes that the first call needs, 0 without one."""

    def _wake(self) -> None:
        """A whole message may be there: the call that it answers runs in here."""

@disjoint_base
class Sending:
    """Gives bytes to the pipeline and the socket."""

    ended: bool
    """Our direction: nothing more may be sent."""
    count: int
    """Bytes that the kernel has, or that were accepted."""
    _full: bool
    """The kernel is: `writable` follows."""
    cipher: TlsEngine | None
    """Where the socket takes ciphertext, and this is all that is between."""

    def __new__(cls, *arguments: Any, **options: Any) -> Self:
        """Of a flow and a limit in bytes; what else a subclass takes is its own."""

    def send(
        self, content: Any, *, end_of_stream: bool = False, last_message: Any = None, metadata: Any = None, type: Any = None
    ) -> Coroutine[Any, Any, None]:
        """The last three are other protocols'."""

    def send_value(
        self, content: Any, *, last_message: bool = False, end_of_stream: Any = None, metadata: Any = None, type: Any = None
    ) -> Coroutine[Any, Any, None]:
        """Those with no default but None are other protocols'."""

    def send_message(
        self, content: Any, *, end_of_stream: Any = None, last_message: Any = None, metadata: Any = None, type: Any = None
    ) -> Coroutine[Any, Any, None]:
        """The options are other protocols'."""

    def _adopt(self, codec: WebSocketCodec) -> None:
        """Messages leave in frames that this makes."""

    def _link(self, socket: Any | None, machine: Any | None, /) -> bool:
        """Where bytes go from now on: a socket, and what they go through before it. Without a socket, nowhere.

        Whether something waits for that.
        """

    _flow: Any
    _accepted: list[Any]
    """Bytes that have left the pipeline and that the kernel did not take."""
    _writers: list[Any]
    """Suspended calls."""
    @property
    def _waits(self) -> bool:
        """Whether something is accepted, or a call suspended."""

    @property
    def _limit(self) -> int:
        """Bytes that are accepted while the kernel is full."""

    @property
    def _slice(self) -> int:
        """Bytes of plaintext that go through the pipeline at once."""

    def _gathers(self, wire: bytes) -> bool:
        """Keep a record until there are more, if it is to wait for them."""
    _size: int
    """Of what is accepted."""
    _due: bool
    """What has gathered leaves at the loop's next turn."""
    def _encodes(self, codec: Any, encode: Any, limit: int) -> None:
        """`send_value` puts what this makes of a value, up to that many bytes, behind its length of 32 bits."""

    def _rests(self) -> bool:
        """Count one more send that went at once. True when it is other tasks' turn."""

@disjoint_base
class Descriptor:
    """What reads, writes, watches and closes a stream socket that the subclass has opened."""

    handler: Any
    sink: Receiving | None
    def __new__(cls, *_arguments: Any, **_options: Any) -> Self: ...
    def _open(self, raw: int, sock: Any, readers: Any, size: int, watched: bool, busy_poll: float | None) -> None:
        """Begin to use a socket: its descriptor, the socket module's object, which is ours to close, what tells when there is
        something to read, the size of the first read, whether `_arrived` is to be called for each piece, and for how many
        seconds the loop, which the subclass has as `_loop`, stays awake after one: None where that pays.
        """

    _writing: bool
    """Whether the loop watches for room: `_unwritable` ends that before a close."""

    @property
    def _closed(self) -> bool: ...
    def resume(self) -> None: ...
    def pause(self) -> None: ...
    def look(self) -> None:
        """Read what has come meanwhile, and not only when the loop has looked."""

    def close(self) -> None: ...
    def finish(self) -> None: ...
    def unread(self) -> bool:
        """Whether something can be read that is not the end. A pending error of the socket's is taken by that."""

    def _look_made(self) -> bool:
        """Whether the connection is made: on one machine it is when `connect` returns. Not where the system does not tell."""

    def counters(self) -> bytes | None: ...
    @property
    def _size(self) -> int:
        """Of the next read."""

    def _expect(self, size: int, little: int) -> None:
        """The size of the next read, and of one that calls `_resize` for being small."""

    def _readable(self) -> None: ...
    def send(self, data: Buffer, /) -> int: ...

def accept(raw: int, unix: bool, /) -> tuple[int, Any] | None:
    """Take in one connection: its descriptor, which does not block and is the caller's, and its peer's address as the socket
    module has it. None if nobody is there. Raises OSError.
    """

def adopt_messages(message: Any, more: Any, end: Any) -> None:
    """The class of a received message, and the metadata of a piece in a stream and at its end."""
