"""QUIC as a sans-I/O machine (quinn-proto with the TLS of this package). Mirrors rust/python/src/quic.

An address is (host, port), or (host, port, flow information, scope) for IPv6, as sockets have it. Times are seconds since
whatever the caller likes, as the clock of an event loop has them.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self, TypeAlias, final

from typing_extensions import Buffer, disjoint_base

from tieline._engine.stream import Receiving
from tieline._engine.tls import TlsConfig, TlsFailure, TlsInfo

__all__ = [
    "OVERLAP",
    "QuicClient",
    "QuicClose",
    "QuicConnection",
    "QuicEndpoint",
    "QuicError",
    "QuicParameters",
    "QuicStatistics",
    "QuicStream",
    "QuicTransport",
]

_Address: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
_Value: TypeAlias = bool | int | tuple[int, int] | _Address | QuicClose | tuple[_Address, QuicClose] | None

OVERLAP: int
"""Things that are done before what follows from them leaves: so the peer works on these during the next ones."""

class QuicError(Exception):
    """Something cannot be done with a stream or datagram."""

    reason: str
    """A stable slug: unknown (no such stream, or this half is done with), wrong_direction, reset, stopped, closed (the
    connection has ended); for datagrams too_large, unsupported, disabled, closed."""
    code: int | None
    """The peer's code, of reset and stopped; the limit, of too_large."""

@final
class QuicTransport:
    """What a connection announces and keeps to."""

    def __new__(
        cls,
        *,
        idle_timeout: float | None = 30.0,
        keepalive: float | None = None,
        maximum_bidirectional_streams: int = 100,  # that the peer may have open
        maximum_unidirectional_streams: int = 100,
        stream_receive_window: int = 1_048_576,
        receive_window: int = 4_194_304,
        send_window: int = 1_048_576,
        max_datagram_frame_size: int = 0,  # 0: no datagrams
        datagram_receive_buffer: int = 1_048_576,  # the oldest give way
        datagram_send_buffer: int = 262_144,  # when it is full, send_datagrams() takes no more
        initial_mtu: int = 1200,
        maximum_mtu: int = 1452,
        congestion: str = "cubic",  # or "newreno", "bbr"
        qlog: str | None = None,  # a folder, which gets a file for each connection; or a file
    ) -> QuicTransport: ...

@final
class QuicClient:
    """A client's settings, checked once, with the tickets and tokens that its connections share.

    `tls` must be for QUIC alone: its tickets are no good for anything else.
    """

    def __new__(cls, tls: TlsConfig, transport: QuicTransport | None = None) -> QuicClient: ...

@final
class QuicClose:
    """Why a connection has ended."""

    kind: str  # "local", "application", "transport", "tls", "idle_timeout", "stateless_reset", "version_mismatch" or "internal"
    code: int | None  # of application and transport
    name: str | None  # of a transport's code: "FLOW_CONTROL_ERROR"
    frame: int | None  # the type of the frame that was at fault
    reason: bytes
    received: bool  # the peer closed
    tls: TlsFailure | None
    message: str

@final
class QuicParameters:
    """What the peer said about itself in the handshake."""

    idle_timeout: float | None
    initial_max_bidirectional_streams: int
    initial_max_unidirectional_streams: int
    max_datagram_frame_size: int
    migration: bool

@final
class QuicStatistics:
    """Counts since the connection began, and the state of its path now."""

    rtt: float
    minimum_rtt: float
    congestion_window: int
    mtu: int
    packets_sent: int
    packets_lost: int
    bytes_lost: int
    congestion_events: int
    black_holes: int
    udp_datagrams_sent: int
    udp_bytes_sent: int
    udp_datagrams_received: int
    udp_bytes_received: int
    datagrams_sent: int
    datagrams_refused: int  # there was no room in the queue
    datagrams_unsendable: int  # taken, but too large when their turn came
    datagrams_received: int
    datagrams_dropped: int  # the oldest of the queue, for which newer ones came

@final
class QuicEndpoint:
    """All QUIC connections of one UDP socket.

    UDP datagrams ──▶ receive() ──▶ events(), and then what they are about
    UDP datagrams ◀── transmit() ◀── what was done with connections

    After each of these, `events()` and `transmit()` may have something, and `timeout()` may have changed. If the engine
    fails inside, every connection is told that it is lost, and every call raises RuntimeError from then on.
    """

    def __new__(
        cls,
        *,
        server: TlsConfig | None = None,
        transport: QuicTransport | None = None,  # of connections that come in
        maximum_connections: int = 10_000,
        maximum_handshakes: int = 1000,
        retry_above: int | None = 100,  # clients show their address while so many handshakes are under way; None: never
        migration: bool = True,
        maximum_udp_payload: int = 1472,
        discover_mtu: bool = True,
        server_id: bytes | None = None,  # in connection IDs, for load balancers
        server_id_rotation: int = 0,
        reset_key: bytes | None = None,  # 32 bytes each
        token_key: bytes | None = None,
        seed: bytes | None = None,  # for tests
    ) -> QuicEndpoint: ...
    def connect(self, now: float, config: QuicClient, remote: _Address, server_name: str) -> QuicConnection:
        """Begin to connect. `server_name` is whom the certificate must show."""

    def connection(self, handle: int, /) -> QuicConnection:
        """The connection that an event is about."""

    def receive(self, now: float, batch: Sequence[tuple[Buffer, _Address, str | None, int, int]], /) -> None:
        """Take in what has come.

        Each item is one datagram or several: their bytes, where they came from, our own IP address if it is known, the ECN
        bits, and the size of each datagram but the last (GRO).
        """

    def transmit(
        self, now: float, /, limit: int = 64, segments: int = 10
    ) -> list[tuple[bytes, _Address, str | None, int, int | None]]:
        """Take up to `limit` transmissions of up to `segments` datagrams each (GSO), in the form that `receive` has.

        The size of datagrams is None if there is one.
        """

    def timeout(self) -> float | None:
        """When `handle_timeout` is to be called next."""

    def handle_timeout(self, now: float, /) -> None: ...
    turning: bool
    """A turn is under way, at whose end what was done leaves. The owner says so."""
    touches: int
    """Things that were done since something left: what streams have taken is counted here."""

    def dispatch(self, sessions: dict[int, Any], other: Callable[[int, str, Any], None], /) -> bool:
        """Tell `sessions`, by their handles, what has happened since the last call: what is readable to the stream in their
        `streams`, all else to their `happened`; and `other` what none of them hears. False if that was nothing.
        """

    def events(self) -> list[tuple[int, str, _Value]]:
        """What has happened since the last call: (handle, kind, value).

        incoming                      a client has begun to connect to us
        connected                     the handshake is done
        early_data_rejected           just before connected: the streams opened so far are void, their numbers begin anew
        opened bidirectional?         there are streams for accept(), perhaps with data already
        readable stream               data, the end or a reset
        writable stream               there is room again
        finished stream               the peer has everything, the end too
        stopped (stream, code)        the peer wants nothing more
        available bidirectional?      open() succeeds again
        datagrams                     there are some, after there were none
        datagrams_unblocked           there is room again
        peer_address address          the peer speaks from there now
        lost QuicClose                the connection has ended; comes once
        drained                       nothing more will be sent; comes last
        refused (address, QuicClose)  with handle 0: somebody failed to connect in the first packet
        """

    def admit_at_most(self, room: int | None, /) -> None:
        """Take in so many more connections, and refuse what comes after them. None: as many as the other limits allow."""

    def stop(self) -> None:
        """Make no more connections, and take in no others."""

    @property
    def connections(self) -> int:
        """How many connections there are."""

    @property
    def counters(self) -> tuple[int, int, int, int]:
        """Of those who wanted to connect: accepted, retried, refused, failed."""

    @property
    def poisoned(self) -> bool: ...

@final
class QuicConnection:
    """One connection: its streams, its datagrams, and what is known about it.

    It belongs to its endpoint, until `release` was called and everything is sent; then calls raise RuntimeError.
    """

    handle: int

    def open(self, bidirectional: bool, /) -> int | None:
        """Open a stream. None at the peer's limit; `available` will tell."""

    def accept(self, bidirectional: bool, /) -> int | None:
        """Take the next stream that the peer has opened. Read it at once."""

    def write(self, stream: int, data: Buffer, /, *, end: bool = False) -> int:
        """Queue as much of `data` as there is room for, and then, if that was all, perhaps the end.

        Returns how much that was. If it was less than everything, `writable` will tell.
        """

    def finish(self, stream: int, /) -> None:
        """End our direction of a stream."""

    def reset(self, stream: int, code: int, /) -> None:
        """Give up sending: what is queued is dropped."""

    def stop_sending(self, stream: int, code: int, /) -> None:
        """Want nothing more: what has come is dropped."""

    def set_priority(self, stream: int, priority: int, /) -> None:
        """The larger, the earlier; 0 at first."""

    def read(self, stream: int, maximum: int = 65536, /) -> tuple[bytes, bool]:
        """What is there of a stream, up to `maximum` bytes, and whether that was the end.

        The peer may send as much again. If nothing is there, `readable` will tell.
        """

    @property
    def read_count(self) -> int:
        """Bytes that were read of streams."""

    @property
    def written_count(self) -> int:
        """Bytes that streams took."""

    def send_datagrams(self, datagrams: list[Buffer], /) -> int:
        """Queue datagrams, in this order, until the queue is full. Returns how many were taken.

        If it was not all, `datagrams_unblocked` will tell. Raises QuicError if the first cannot be sent at all.
        """

    def receive_datagrams(self, maximum: int = 64, /) -> list[bytes]:
        """Up to `maximum` of the datagrams that wait."""

    @property
    def maximum_datagram_size(self) -> int | None:
        """The largest datagram that can be sent now. None if there can be none."""

    def close(self, now: float, code: int, reason: bytes | None = None, /) -> None:
        """Close at once. What is not acknowledged may be lost."""

    def refuse(self, now: float, code: int, reason: str, /) -> None:
        """Close at once, with an error code of the transport (RFC 9000 section 20.1)."""

    def release(self, now: float, /) -> None:
        """Nobody wants to know of this connection any more. It is closed if it was not."""

    def ping(self) -> None: ...
    def update_keys(self) -> None:
        """Change the keys of both directions, once the last change is through."""

    def migrate(self, now: float, /) -> None:
        """Client: packets leave from another local address from now on."""

    def set_keepalive(self, now: float, interval: float | None, /) -> None:
        """Ping the peer whenever nothing has come from it for so many seconds. None for never."""

    @property
    def keepalive(self) -> float | None: ...
    def set_maximum_streams(self, bidirectional: bool, count: int, /) -> None:
        """How many streams of a kind the peer may have open."""

    def set_receive_window(self, size: int, /) -> None:
        """How much the peer may send on all streams before it is read."""

    def set_send_window(self, size: int, /) -> None:
        """How much is held that the peer has not acknowledged."""

    def peer_maximum_streams(self, bidirectional: bool, /) -> tuple[int, bool] | None:
        """How many streams of a kind the peer lets us open in all, and whether that is exact.

        Otherwise it is no less. None while handshaking.
        """

    @property
    def handshaking(self) -> bool: ...
    @property
    def closed(self) -> bool: ...
    @property
    def has_early_data(self) -> bool:
        """Client: a ticket allows to send before the handshake is done."""

    @property
    def remote_address(self) -> _Address: ...
    @property
    def local_ip(self) -> str | None: ...
    def info(self) -> TlsInfo:
        """Raises RuntimeError while handshaking."""

    def parameters(self) -> QuicParameters:
        """Raises RuntimeError while handshaking."""

    def statistics(self) -> QuicStatistics: ...
    def export(self, label: bytes, context: bytes, length: int, /) -> bytes:
        """Key material that only the two ends know. Raises RuntimeError while handshaking."""

    def take_decision(self) -> Awaitable[bool] | None:
        """Take what an asynchronous validator returned and the engine has provisionally accepted."""

    def take_validator_error(self) -> BaseException | None:
        """Take what the validator raised, if that is why the handshake failed."""

    @property
    def needs_validation(self) -> bool:
        """The handshake resumed a session, so the validator has not seen this connection's peer yet."""

@disjoint_base
class QuicStream:
    """What reads and writes a stream for the subclass."""

    handler: Any
    sink: Receiving | None
    _session: Any
    _connection: QuicConnection
    _reading: bool
    _closed: bool
    _ended: bool
    """Nothing more is to be had from the engine."""
    _news: bool
    """There may be something to read."""
    _refuses: bool
    """Nothing more is taken: `send` of the subclass raises why."""
    def __new__(cls, session: Any, number: int, *_arguments: Any, **_options: Any) -> Self: ...
    @property
    def number(self) -> int: ...
    def readable(self) -> None:
        """Something has come. Calls `_ended_by_peer` behind all there was, or `_unreadable` with what reading raised."""
