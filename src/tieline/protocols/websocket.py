"""WebSocket: messages of text or bytes over a stream (RFC 6455), perhaps compressed (RFC 7692)."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, fields
from typing import Any, ClassVar, Final

from tieline.protocols.checks import require_flags, require_range, require_seconds
from tieline.protocols.http import TOKEN, Headers, HTTPRequest, HTTPResponse, checked_headers
from tieline.protocols.message import MessageMetadata
from tieline.protocols.roles import CarrierProtocol, DatagramProtocol, NetworkProtocol, StreamProtocol
from tieline.protocols.tcp import TCP
from tieline.protocols.tls import TLS
from tieline.values import Value, value

__all__ = [
    "CloseCode", "Deflate", "Opcode", "WebSocket", "WebSocketMetadata", "WebSocketSession", "require_close", "standing",
]  # fmt: skip

LARGEST_SIZE: Final = 2**31 - 1
LARGEST_REASON: Final = 123  # a control frame's 125 bytes without the code (RFC 6455 section 5.5)
OWN_HEADERS: Final = frozenset({"connection", "upgrade", "content-length", "transfer-encoding"})
SCHEMES: Final = {"ws": False, "http": False, "wss": True, "https": True}


class Opcode(enum.IntEnum):
    """Kinds of frames (RFC 6455 section 11.8)."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class CloseCode(enum.IntEnum):
    """Why a WebSocket was closed (RFC 6455 section 7.4.1). 3000 to 3999 are applications', 4000 to 4999 private: as numbers.

    `NO_STATUS_RECEIVED`, `ABNORMAL_CLOSURE` and `TLS_HANDSHAKE` say that no code came, and are never sent.
    """

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RECEIVED = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_FRAME_PAYLOAD = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_SERVER_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015


CLEAN: Final = frozenset({CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RECEIVED})
"""Closes that are an end, not an error."""


@value
class WebSocketMetadata(MessageMetadata):
    """Of one message: `opcode` is text, binary, or ping if pings are not answered automatically.

    `is_complete` is False for a piece that does not end its message; `close_code` is set where a close frame is told of.
    """

    opcode: Opcode = Opcode.BINARY
    close_code: int | None = None
    is_complete: bool = True
    last_message: bool = False


@value
class WebSocketSession(Value):
    """What the handshake agreed on, and how the connection was closed.

    - `path`: what the client asked for, with the query.
    - `subprotocol`: the one that was chosen, None without one.
    - `request_headers`, `response_headers`: of the handshake, as they came.
    - `compression`: whether messages may be compressed, in at least one direction.
    - `close_code`, `close_reason`: of the close frame that came first, whose ever it was; None before. 1006: there was none.
    """

    path: str = "/"
    subprotocol: str | None = None
    request_headers: Headers = ()
    response_headers: Headers = ()
    compression: bool = False
    close_code: int | None = None
    close_reason: str = ""


@value(kw_only=True)
class Deflate(Value):
    """permessage-deflate (RFC 7692): what we offer as a client, and agree to as a server, if the other side has it too.

    - `level`: 1 (fastest) to 9 (smallest).
    - `threshold`: messages of fewer bytes are sent as they are.
    - `send_window_bits`, `receive_window_bits`: 9 to 15, the base-2 logarithm of the bytes that a compressed message may look
      back; memory for each direction is a few times that.
    - `send_context_takeover`, `receive_context_takeover`: messages may refer to those before them, which makes them smaller and
      keeps the memory while the connection is idle.

    Compressing a secret together with what an attacker chooses lets the size tell of the secret (RFC 7692 section 8).
    """

    level: int = 6
    threshold: int = 64
    send_window_bits: int = 15
    receive_window_bits: int = 15
    send_context_takeover: bool = True
    receive_context_takeover: bool = True

    def __post_init__(self) -> None:
        require_range("level", self.level, 1, 9)
        require_range("threshold", self.threshold, 0, LARGEST_SIZE)
        require_range("send_window_bits", self.send_window_bits, 9, 15)
        require_range("receive_window_bits", self.receive_window_bits, 9, 15)
        require_flags(self, "send_context_takeover", "receive_context_takeover")


@value
class WebSocket(Value, CarrierProtocol):
    """Messages of text (`str`) or bytes over a stream.

    Without `below`, a URL says what stands there: TLS for wss, TCP for ws; for a listener it is TCP.

    - `subprotocols`: names that a client offers, the preferred one first, and that a server knows.
    - `additional_headers`: sent with our request or response: pairs, repeats allowed.
    - `path`: what a client asks for where the endpoint is no URL.
    - `origins`: for servers: the values of ``Origin`` that are let in (None stands for a client that sends none), or a function
      that decides. None lets in all: a page of any site can then connect with its visitor's rights.
    - `respond`: for servers: a function that is called with each request before anything else looks at it. The `HTTPResponse`
      that it returns is sent, and the connection closed; None goes on with the handshake.
    - `auto_reply_ping`: answer pings, and deliver none.
    - `skip_handshake`: frames start at once, without HTTP. Both sides must agree.
    - `maximum_message_size`, `maximum_frame_size`: bytes that are received; more closes with 1009. A frame may be as large as a
      message if that is None.
    - `maximum_header_size`: bytes of the other side's handshake.
    - `compression`: None sends and receives messages as they are.
    - `keepalive`: seconds of silence after which a ping goes out; None never. Any received bytes count as life.
    - `keepalive_timeout`: seconds that such a ping may remain unanswered before the connection fails with `IdleTimeoutError`.
    - `handshake_timeout`: seconds.
    """

    name: ClassVar[str] = "WebSocket"
    stands_on: ClassVar[str] = "a byte stream such as TCP, TLS or a QUIC stream, or on TLV or a Framer"

    below: StreamProtocol | CarrierProtocol | None = None
    _: KW_ONLY
    subprotocols: Sequence[str] = ()
    additional_headers: Sequence[tuple[str, str]] = ()
    path: str = "/"
    origins: Sequence[str | None] | Callable[[str | None], bool] | None = None
    respond: Callable[[HTTPRequest], HTTPResponse | None] | None = None
    auto_reply_ping: bool = True
    skip_handshake: bool = False
    maximum_message_size: int = 16 * 1024 * 1024
    maximum_frame_size: int | None = None
    maximum_header_size: int = 16 * 1024
    compression: Deflate | None = None
    keepalive: float | None = 20.0
    keepalive_timeout: float = 20.0
    handshake_timeout: float | None = 10.0

    def __post_init__(self) -> None:
        if self.below is not None:
            self._require_below(self.below, StreamProtocol, CarrierProtocol)
            if self.below.is_datagrams:
                below = f"{self.below.name} over {self.below.find(DatagramProtocol).name}"
                raise TypeError(f"{self.name} stands on {self.stands_on}, got {below}, whose messages may be lost")
        require_flags(self, "auto_reply_ping", "skip_handshake")
        require_range("maximum_message_size", self.maximum_message_size, 0, LARGEST_SIZE)
        require_range("maximum_frame_size", self.maximum_frame_size, 0, LARGEST_SIZE, optional=True)
        require_range("maximum_header_size", self.maximum_header_size, 256, LARGEST_SIZE)
        require_seconds("keepalive", self.keepalive, optional=True)
        require_seconds("keepalive_timeout", self.keepalive_timeout)
        require_seconds("handshake_timeout", self.handshake_timeout, optional=True)
        if self.compression is not None and not isinstance(self.compression, Deflate):
            raise TypeError(f"compression must be a Deflate or None, got {self.compression!r}")
        if self.respond is not None and not callable(self.respond):
            raise TypeError(f"respond must be callable, got {self.respond!r}")
        self._check_handshake()
        if self.skip_handshake:
            self._check_skipped()

    def _check_handshake(self) -> None:
        if isinstance(self.subprotocols, str):
            raise TypeError(f"subprotocols must be a sequence of names, got {self.subprotocols!r}")
        object.__setattr__(self, "subprotocols", tuple(self.subprotocols))
        name: Any
        for name in self.subprotocols:
            if not isinstance(name, str) or not TOKEN.fullmatch(name):
                raise ValueError(f"a subprotocol's name is letters, digits and some signs, no spaces or commas, got {name!r}")
        if len(set(self.subprotocols)) < len(self.subprotocols):
            raise ValueError(f"each of subprotocols may occur once, got {list(self.subprotocols)}")
        object.__setattr__(self, "additional_headers", checked_headers("additional_headers", self.additional_headers))
        for name, _ in self.additional_headers:
            if name.lower() in OWN_HEADERS or name.lower().startswith("sec-websocket-"):
                raise ValueError(f"additional_headers cannot replace what the handshake itself sends, got {name!r}")
        path: Any = self.path
        if not isinstance(path, str) or not path.startswith("/") or not path.isascii() or " " in path:
            raise ValueError(f"path must begin with '/', its spaces and other characters percent-encoded, got {self.path!r}")
        if isinstance(self.origins, str):
            raise TypeError(f"origins must be a sequence, got {self.origins!r}; write [{self.origins!r}]")
        if self.origins is not None and not callable(self.origins):
            object.__setattr__(self, "origins", tuple(self.origins))

    def _check_skipped(self) -> None:
        """Without a handshake, what would be agreed on there is not."""
        for option in fields(self):
            if option.name in ("subprotocols", "additional_headers", "origins", "respond", "compression"):
                value = getattr(self, option.name)
                if value != option.default:
                    raise ValueError(f"skip_handshake=True leaves no handshake for {option.name}={value!r}")

    def admits(self, origin: str | None) -> bool:
        """Whether a page of this origin may connect. What a function of the program's raises comes through."""
        if self.origins is None:
            return True
        return bool(self.origins(origin)) if callable(self.origins) else origin in self.origins


def standing(stack: Any, scheme: str | None, bottom: NetworkProtocol | None = None) -> Any:
    """The stack with what stands below its WebSocket: `bottom`, or what a URL's scheme (None for no URL) says.

    Raises ValueError where the stack's own security contradicts the URL.
    """
    below = getattr(stack, "below", None)
    if isinstance(stack, WebSocket) and below is None:
        return replace_below(stack, bottom or (TLS() if SCHEMES.get(scheme or "", False) else TCP()))
    if below is None:
        return stack
    stood = standing(below, scheme, bottom)
    return stack if stood is below else replace_below(stack, stood)


def replace_below(stack: Any, below: NetworkProtocol) -> Any:
    """A copy that stands on something else."""
    copy: Any = object.__new__(stack.__class__)
    for option in fields(stack):
        object.__setattr__(copy, option.name, below if option.name == "below" else getattr(stack, option.name))
    return copy


def require_close(code: int | None, reason: str) -> None:
    """A close frame's code and reason, if they may be sent (RFC 6455 section 7.4). Raises TypeError and ValueError."""
    if not isinstance(reason, str):
        raise TypeError(f"reason must be a text, got {reason!r}")
    if code is None and reason:
        raise ValueError(f"a reason needs a code, got code=None with {reason!r}")
    if code is not None:
        if isinstance(code, bool) or not isinstance(code, int):
            raise TypeError(f"code must be an int or None, got {code!r}")
        if not (code in range(1000, 1004) or code in range(1007, 1015) or code in range(3000, 5000)):
            raise ValueError(f"code must be 1000 to 1003, 1007 to 1014, or 3000 to 4999, got {code}")
    size = len(reason.encode(errors="surrogatepass"))
    if size > LARGEST_REASON:
        raise ValueError(f"reason must be at most {LARGEST_REASON} bytes of UTF-8, got {size}")
