"""The machine of `WebSocket`: the handshake, then messages, pings and the close, over whatever carries bytes.

    shaking hands ──▶ open ──▶ closing: our close frame has gone ──▶ over: both have, or the stream below has ended
                        └────────────── the peer's came first ────────▲

Frames are found and made by Rust (`tieline._engine.websocket`); what they mean to a connection is decided here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tieline._engine.websocket import WebSocketCodec, WebSocketEvent, WebSocketFailure
from tieline.endpoints import URLEndpoint
from tieline.engines.framing import MessageLayer
from tieline.engines.pings import Keepalive, Pings, RoundTrip, SilentError
from tieline.errors import (
    ConnectionAbortedByPeerError,
    EncodingError,
    IdleTimeoutError,
    NetworkError,
    Phase,
    ProtocolViolationError,
)  # fmt: skip
from tieline.protocols.websocket import CLEAN, CloseCode, Deflate, Opcode, WebSocket, WebSocketMetadata, WebSocketSession

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from tieline.engines.upgrade import Agreed, ClientUpgrade, ServerUpgrade

__all__ = ["WebSocketLayer", "client_layer", "server_layer"]

BATCH = 256 * 1024  # bytes of messages that are found at once; a little input can stand for a lot of them
UNSAID = 16 * 1024  # of pongs that wait to be sent; beyond, only the last ping is answered (RFC 6455 section 5.5.3)

TEXT = WebSocketMetadata(opcode=Opcode.TEXT)
BINARY = WebSocketMetadata(opcode=Opcode.BINARY)
TEXT_PIECE = WebSocketMetadata(opcode=Opcode.TEXT, is_complete=False)
BINARY_PIECE = WebSocketMetadata(opcode=Opcode.BINARY, is_complete=False)
PING = WebSocketMetadata(opcode=Opcode.PING)


class WebSocketLayer(MessageLayer):
    """One connection's WebSocket, of the client or the server; `upgrade` is None where there is no handshake."""

    name = WebSocket.name

    def __init__(
        self, options: WebSocket, endpoint: object, *, client: bool, upgrade: ClientUpgrade | ServerUpgrade | None
    ) -> None:
        super().__init__()
        self.handshake_timeout = options.handshake_timeout
        self._options = options
        self._endpoint = endpoint
        self.is_client = client
        self._upgrade = upgrade
        self._agreed: Agreed | None = None
        self.codec: WebSocketCodec | None = None  # which the flow may use, to send whole messages and to receive
        self._rest = b""  # frames that came with the handshake
        self._said: list[bytes] = []
        self._unsaid = 0
        self._keepalive = Keepalive(options.keepalive, options.keepalive_timeout)
        self._pings = Pings()
        self._closing: tuple[int | None, str] = (CloseCode.NORMAL_CLOSURE, "")
        self._close_sent = False
        self._over = False  # the peer's close frame came, or its end
        self._close_code: int | None = None
        self._close_reason = ""

    # Shaking hands

    def start(self) -> bytes:
        if self._upgrade is None:
            self._open(None)
            return b""
        return self._upgrade.start()

    def _open(self, agreed: Agreed | None) -> None:
        options = self._options
        compression = None if agreed is None else agreed.compression
        deflate = options.compression or Deflate()
        largest = options.maximum_message_size
        self.codec = WebSocketCodec(
            TEXT,
            BINARY,
            client=self.is_client,
            maximum_message_size=largest,
            maximum_frame_size=largest if options.maximum_frame_size is None else options.maximum_frame_size,
            batch=BATCH,
            sending=None if compression is None else compression.sending,
            receiving=None if compression is None else compression.receiving,
            level=deflate.level,
            threshold=deflate.threshold,
        )
        self._agreed = agreed
        self.ready = True
        self.deadline = self._keepalive.begin(self.now)

    def _shake(self, data: Buffer) -> None:
        """Take a piece of the handshake. Frames that came behind it are for when somebody is there who takes messages."""
        assert self._upgrade is not None  # `start` opens where there is none
        try:
            agreed = self._upgrade.receive(data)
        finally:
            self._say(self._upgrade.output())
        if agreed is not None:
            self._upgrade = None
            self._open(agreed)
            self._rest = agreed.rest
            self.held = bool(agreed.rest)

    # Receiving

    def receive(self, data: Buffer, /) -> bytes:
        if data != b"":
            self._keepalive.heard = self.now
        codec = self.codec
        if codec is None:
            self._shake(data)
            return b""
        if self._rest:
            data, self._rest = self._rest + bytes(data), b""
        self._read(codec, data)
        while self.held and self.inbox.size <= BATCH:
            self._read(codec, b"")
        return b""

    def _read(self, codec: WebSocketCodec, data: Buffer) -> None:
        failure = None
        try:
            others = codec.receive(data, self.inbox) or []
        except WebSocketFailure as error:
            others, failure = error.received, error
        self._found(others, failure)

    def decoded(self, others: list[Any], failure: WebSocketFailure | None) -> None:
        """Take what the codec has found in bytes that came, behind messages that are in the inbox."""
        self.was_heard(self.now)
        self._found(others, failure)

    def was_heard(self, when: float) -> None:
        """The codec was given bytes then."""
        self._keepalive.heard = max(self._keepalive.heard, when)

    def _found(self, others: list[Any], failure: WebSocketFailure | None) -> None:
        self.held = False
        for item in others:
            self._take(item)
        if failure is not None:
            raise self._violated(failure) from None
        assert self.codec is not None  # it found these
        self.held = self.codec.has_more

    def _take(self, item: tuple[str | bytes, Any, int] | WebSocketEvent) -> None:
        if isinstance(item, tuple):
            self.inbox.append(*item)
        elif item.opcode == Opcode.CONTINUATION:
            whole, piece = (TEXT, TEXT_PIECE) if isinstance(item.content, str) else (BINARY, BINARY_PIECE)
            self.inbox.append(item.content, whole if item.last else piece, len(item.content))
        elif isinstance(item.content, bytes):
            self._controlled(item.opcode, item.content)
        else:
            self._closed_by_peer(item.code, item.content)

    def _controlled(self, opcode: int, payload: bytes) -> None:
        codec = self.codec
        assert codec is not None  # it found this
        if opcode == Opcode.PONG:
            self._pings.answered(payload, self.now)
        elif not self._options.auto_reply_ping:
            self.inbox.append(payload, PING, len(payload))
        elif not self._close_sent:
            if self._unsaid > UNSAID:
                self._unsaid -= len(self._said.pop())
            self._say(codec.control(Opcode.PONG, payload))

    def _closed_by_peer(self, code: int | None, reason: str) -> None:
        ours = self._close_sent
        told = CloseCode.NO_STATUS_RECEIVED if code is None else code
        if not ours:
            self._close_code, self._close_reason = told, reason
        self._close(code, "")
        self._over = True
        self.deadline = None
        if ours or told in CLEAN:
            self.inbox.ended = True
            if not ours:
                self.closed_by_peer = ConnectionAbortedByPeerError(
                    f"nothing can be sent any more: the peer closed the WebSocket with {described(told)}",
                    reason=reason,
                    code=told,
                    endpoint=self._endpoint,
                    phase=Phase.TRANSFER,
                )
            return
        raise ConnectionAbortedByPeerError(
            f"the peer closed the WebSocket with {described(told)}",
            reason=reason,
            code=told,
            endpoint=self._endpoint,
            phase=Phase.TRANSFER,
            got=repr(reason) if reason else None,
        )

    def receive_end(self) -> None:
        if self._upgrade is not None:
            self._upgrade.receive_end()
        self.deadline = None
        if self._over or self._close_sent:
            self._over = self.inbox.ended = True
            return
        self._over = True
        self._close_code = CloseCode.ABNORMAL_CLOSURE
        raise ConnectionAbortedByPeerError(
            f"the peer ended the stream without a close frame, which is {described(CloseCode.ABNORMAL_CLOSURE)}",
            code=CloseCode.ABNORMAL_CLOSURE,
            endpoint=self._endpoint,
            phase=Phase.TRANSFER,
        )

    # Failing

    def _violated(self, failure: WebSocketFailure) -> NetworkError:
        summary = str(failure)
        self._fail(failure.code, summary)
        return ProtocolViolationError(
            f"{summary} (RFC 6455 section {failure.section}); the WebSocket was closed with {described(failure.code)}",
            endpoint=self._endpoint,
            phase=Phase.TRANSFER,
            expected=failure.expected,
            got=failure.got,
            code=failure.code,
        )

    def _fail(self, code: int, reason: str) -> None:
        if not self._close_sent:
            self._close_code, self._close_reason = code, reason
        self._close(code, reason)
        self._over = True
        self.deadline = None

    def abandon(self, reason: str, code: int = CloseCode.INTERNAL_SERVER_ERROR) -> NetworkError:
        """This side cannot go on, as after a message that was begun and will not be ended: close at once."""
        self._fail(code, reason)
        self.failure = NetworkError(
            f"{reason}; the WebSocket was closed with {described(code)}",
            endpoint=self._endpoint,
            phase=Phase.TRANSFER,
            code=code,
        )
        return self.failure

    # Sending

    def encode(  # type: ignore[override]  # the options of WebSocket
        self, content: Any, /, *, opcode: int | None = None, last: bool = True, text: bool = False, trip: RoundTrip | None = None
    ) -> bytes:
        codec = self.codec
        assert codec is not None  # nothing is sent before ready
        try:
            if opcode is None:
                return codec.send(content, last, text)
            if trip is not None:
                self._pings.went(content, self.now, trip)
            return codec.control(opcode, content)
        except UnicodeEncodeError as error:
            raise no_text(error, self._endpoint) from error

    def _say(self, data: bytes) -> None:
        if data:
            self._said.append(data)
            self._unsaid += len(data)

    def output(self) -> bytes:
        if not self._said:
            return b""
        said = b"".join(self._said)
        self._said.clear()
        self._unsaid = 0
        return said

    def timeout(self, *, reading: bool) -> None:
        """The keepalive looks whether anything was heard."""
        self.deadline = None
        if self._over or self._close_sent or self.codec is None:
            return
        try:
            asks, self.deadline = self._keepalive.look(self.now, reading=reading)
        except SilentError:
            raise IdleTimeoutError(
                "the peer is silent",
                endpoint=self._endpoint,
                phase=Phase.TRANSFER,
                expected=f"an answer to a ping within keepalive_timeout={self._options.keepalive_timeout:g} s",
                got=f"nothing for {self.now - self._keepalive.heard:.1f} s",
            ) from None
        if asks:
            self._say(self.codec.control(Opcode.PING, b"keepalive"))

    # Closing

    def close_with(self, code: int | None, reason: str) -> None:
        """What `end` will say."""
        self._closing = (code, reason)

    def _close(self, code: int | None, reason: str) -> None:
        if self._close_sent or self.codec is None:
            return
        self._close_sent = True
        self._say(self.codec.close(code, reason))

    def end(self) -> bytes:
        if self.codec is not None and not self._close_sent:
            code, reason = self._closing
            if self._close_code is None:
                self._close_code = CloseCode.NO_STATUS_RECEIVED if code is None else code
                self._close_reason = reason
            self._close(code, reason)
        return self.output()

    @property
    def is_quiet(self) -> bool:
        return not (self._said or self.held or self._over)

    @property
    def may_end(self) -> bool:
        return self._over or not self._close_sent

    @property
    def is_over(self) -> bool:
        """Both close frames have gone, or nothing more can come."""
        return self._over

    def stream(self, streaming: bool) -> None:
        """Give messages to the inbox in pieces, or whole: first what has come of the next."""
        if self.codec is not None and not self._over:
            self.codec.set_streaming(streaming)
            if streaming:
                self.receive(b"")

    @property
    def is_within_message(self) -> bool:
        """Whether a message was begun in parts, and its last has not been made."""
        return self.codec is not None and self.codec.unfinished

    def metadata(self) -> WebSocketSession:
        agreed = self._agreed
        closed: dict[str, Any] = {"close_code": self._close_code, "close_reason": self._close_reason}
        if agreed is None:
            if not self.ready:
                raise RuntimeError("the handshake is not done")
            return WebSocketSession(path=self._options.path, **closed)
        return WebSocketSession(
            path=agreed.request.target,
            subprotocol=agreed.subprotocol,
            request_headers=agreed.request.headers,
            response_headers=agreed.response_headers,
            compression=agreed.compression is not None,
            **closed,
        )


def no_text(error: UnicodeEncodeError, endpoint: object) -> EncodingError:
    """Why a text has no frame."""
    return EncodingError(
        "the text cannot be sent",
        endpoint=endpoint,
        phase=Phase.TRANSFER,
        expected="characters that UTF-8 has",
        got=f"{error.object[error.start]!r} at {error.start}: {error.reason}",
    )


def described(code: int) -> str:
    """A code in words."""
    try:
        return f"{int(code)} ({CloseCode(code).name.replace('_', ' ').lower()})"
    except ValueError:
        return str(int(code))


def client_layer(options: WebSocket, endpoint: object) -> WebSocketLayer:
    """The client's, which asks for what its endpoint names."""
    if options.skip_handshake:
        return WebSocketLayer(options, endpoint, client=True, upgrade=None)
    from tieline.engines.upgrade import ClientUpgrade, authority  # takes in HTTP, which other stacks do not need

    target = endpoint.target if isinstance(endpoint, URLEndpoint) else options.path
    upgrade = ClientUpgrade(options, endpoint, authority=authority(options, endpoint), target=target)
    return WebSocketLayer(options, endpoint, client=True, upgrade=upgrade)


def server_layer(options: WebSocket, endpoint: object) -> WebSocketLayer:
    """The server's."""
    if options.skip_handshake:
        return WebSocketLayer(options, endpoint, client=False, upgrade=None)
    from tieline.engines.upgrade import ServerUpgrade

    return WebSocketLayer(options, endpoint, client=False, upgrade=ServerUpgrade(options, endpoint))
