"""WebSocket's opening handshake (RFC 6455 section 4): one HTTP/1.1 request, and the response that ends HTTP."""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from typing import TYPE_CHECKING, Any

import h11

from tieline.endpoints import HostPort, URLEndpoint
from tieline.engines import deflate
from tieline.errors import ConnectionAbortedByPeerError, NetworkError, PeerResetError, Phase, ProtocolViolationError
from tieline.protocols.http import BODILESS, Headers, HTTPRequest, HTTPResponse, header
from tieline.protocols.security import SecurityOptions
from tieline.protocols.websocket import WebSocket
from tieline.values import Value, value

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Agreed", "ClientUpgrade", "ServerUpgrade", "authority"]

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
VERSION = "13"
SHOWN = 400  # characters of a refusal's body that an error tells

UPGRADE = (("Upgrade", "websocket"), ("Connection", "Upgrade"))


@value
class Agreed(Value):
    """The handshake is done: `rest` is what came behind it."""

    request: HTTPRequest
    response_headers: Headers
    subprotocol: str | None
    compression: deflate.Agreement | None
    rest: bytes


def accept_key(key: str) -> str:
    """What the server makes of the client's key."""
    return base64.b64encode(hashlib.sha1((key + GUID).encode(), usedforsecurity=False).digest()).decode()


def tokens(value: str | None) -> list[str]:
    """The items of a header that is a list."""
    return [item.strip() for item in (value or "").split(",") if item.strip()]


def names(value: str | None, token: str) -> bool:
    return token in (item.lower() for item in tokens(value))


def decoded(headers: Any) -> Headers:
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers.raw_items())


def encoded(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def authority(options: WebSocket, endpoint: object) -> str:
    """What the Host header says (RFC 6455 section 4.1): without the port that the scheme has anyway."""
    target = endpoint.host_port if isinstance(endpoint, URLEndpoint) else endpoint
    if not isinstance(target, HostPort):
        return "localhost"  # a Unix socket has no name in the network
    host = target.host.partition("%")[0]
    if ":" in host:
        host = f"[{host}]"
    elif not host.isascii():
        host = host.encode("idna").decode()
    usual = 443 if options.find(SecurityOptions) is not None else 80
    return host if target.port == usual else f"{host}:{target.port}"


class ClientUpgrade:
    """The client's side."""

    def __init__(self, options: WebSocket, endpoint: object, *, authority: str, target: str) -> None:
        self._options = options
        self._endpoint = endpoint
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=options.maximum_header_size)
        self._received = 0  # bytes
        self._key = base64.b64encode(secrets.token_bytes(16)).decode()
        self.request = HTTPRequest("GET", target, self._headers(authority))

    def _headers(self, authority: str) -> Headers:
        options = self._options
        headers = [] if header(options.additional_headers, "Host") is not None else [("Host", authority)]
        headers += [*UPGRADE, ("Sec-WebSocket-Key", self._key), ("Sec-WebSocket-Version", VERSION)]
        if options.subprotocols:
            headers.append(("Sec-WebSocket-Protocol", ", ".join(options.subprotocols)))
        if options.compression is not None:
            headers.append(("Sec-WebSocket-Extensions", deflate.offer(options.compression)))
        return (*headers, *options.additional_headers)

    def start(self) -> bytes:
        """The request."""
        request = self.request
        head = h11.Request(method=request.method, target=request.target, headers=encoded(request.headers))
        return (self._http.send(head) or b"") + (self._http.send(h11.EndOfMessage()) or b"")

    def receive(self, data: Buffer) -> Agreed | None:
        """Take what the server answers. Raises NetworkError unless it is what RFC 6455 section 4.1 wants."""
        piece = bytes(data)
        if not piece:  # to h11 that is the end
            return None
        try:
            self._received += len(piece)
            self._http.receive_data(piece)
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    return None
                if isinstance(event, h11.Response):
                    raise self._refused(event)
                if isinstance(event, h11.InformationalResponse) and event.status_code == 101:
                    self._http.next_event()
                    rest = self._http.trailing_data[0]
                    limit, size = self._options.maximum_header_size, self._received - len(rest)
                    if size > limit:
                        raise self._violation("the server's answer is too large", f"at most {limit:,} bytes", f"{size:,}")
                    if event.http_version < b"1.1":
                        raise self._violation("the server's answer is too old", "HTTP/1.1", "HTTP/1.0")
                    return self._agreed(decoded(event.headers), rest)
        except h11.RemoteProtocolError as error:
            failure = self._violation(f"the server's answer is no HTTP response to a WebSocket: {error}", None, None)
            raise failure from error

    def receive_end(self) -> None:
        raise PeerResetError(
            "the server ended the stream before it answered the handshake", endpoint=self._endpoint, phase=Phase.HANDSHAKE
        )

    def output(self) -> bytes:
        return b""

    def _agreed(self, headers: Headers, rest: bytes) -> Agreed:
        if not names(header(headers, "Upgrade"), "websocket"):
            raise self._violation("the server upgrades to another protocol", "Upgrade: websocket", header(headers, "Upgrade"))
        if not names(header(headers, "Connection"), "upgrade"):
            raise self._violation(
                "the server's answer is not for this connection", "Connection: Upgrade", header(headers, "Connection")
            )
        key = header(headers, "Sec-WebSocket-Accept")
        if key != accept_key(self._key):
            raise self._violation("the server did not answer our key", accept_key(self._key), key)
        subprotocol = header(headers, "Sec-WebSocket-Protocol")
        if subprotocol is not None and subprotocol not in self._options.subprotocols:
            offered = ", ".join(self._options.subprotocols) or "none"
            raise self._violation("the server chose a subprotocol that was not offered", offered, subprotocol)
        return Agreed(self.request, headers, subprotocol, self._extensions(headers), rest)

    def _extensions(self, headers: Headers) -> deflate.Agreement | None:
        value = header(headers, "Sec-WebSocket-Extensions")
        compression = self._options.compression
        try:
            extensions = deflate.parse(value or "")
            if not extensions:
                return None
            if compression is None or [name for name, _ in extensions] != [deflate.NAME]:
                offered = "none" if compression is None else deflate.NAME
                raise self._violation("the server chose extensions that were not offered", offered, value)
            return deflate.accept(compression, extensions[0][1])
        except ValueError as error:
            raise self._violation(f"the server's extensions are wrong: {error}", None, value) from error

    def _violation(self, summary: str, expected: str | None, got: str | None) -> ProtocolViolationError:
        return ProtocolViolationError(
            f"{summary} (RFC 6455 section 4.1)",
            endpoint=self._endpoint,
            phase=Phase.HANDSHAKE,
            expected=expected,
            got="no such header" if got is None and expected is not None else got,
        )

    def _refused(self, response: h11.Response) -> NetworkError:
        """The server answered as a web server."""
        status, phrase = response.status_code, bytes(response.reason).decode("latin-1")
        body = b""
        try:
            while len(body) < SHOWN and isinstance(event := self._http.next_event(), h11.Data):
                body += bytes(event.data)
        except h11.RemoteProtocolError:
            body += b" (and something that is no HTTP)"
        hint = None
        location = header(decoded(response.headers), "Location")
        if 300 <= status < 400 and location is not None:
            hint = f"It redirects to {location}: connect there instead, if you trust it."
        elif status in (401, 403, 407):
            hint = "Give credentials or an Origin with additional_headers=, if the server wants them."
        elif status == 404:
            hint = "Look at the path of the URL."
        text = " ".join(body.decode("utf-8", "replace").split())[:SHOWN]
        what = f"HTTP {status} {phrase}".strip()
        return ConnectionAbortedByPeerError(
            "the server refused the WebSocket handshake",
            reason=phrase,
            code=status,
            endpoint=self._endpoint,
            phase=Phase.HANDSHAKE,
            expected="HTTP 101 Switching Protocols",
            got=f"{what}: {text!r}" if text else what,
            hint=hint,
        )


class Refusal(Exception):
    """The request gets a response other than 101."""

    def __init__(self, response: HTTPResponse, reason: str) -> None:
        super().__init__(reason)
        self.response = response


class ServerUpgrade:
    """The server's side."""

    def __init__(self, options: WebSocket, endpoint: object) -> None:
        self._options = options
        self._endpoint = endpoint
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=options.maximum_header_size)
        self._received = 0  # bytes
        self._request: HTTPRequest | None = None
        self._method = ""
        self._output = b""

    def start(self) -> bytes:
        return b""

    def output(self) -> bytes:
        output, self._output = self._output, b""
        return output

    def receive(self, data: Buffer) -> Agreed | None:
        """Take the client's request. Raises NetworkError if it gets another answer than 101, which `output` then has."""
        piece = bytes(data)
        if not piece:  # to h11 that is the end
            return None
        try:
            self._received += len(piece)
            self._http.receive_data(piece)
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA or isinstance(event, h11.Data):
                    if self._request is not None:  # a body, and what it should say to a WebSocket is not known
                        raise Refusal(self._text(400, "A WebSocket's request has no body."), "a request with a body")
                    return None
                if isinstance(event, h11.Request):
                    self._check_head(event)
                    self._request = self._looked_at(
                        HTTPRequest(event.method.decode("latin-1"), event.target.decode("latin-1"), decoded(event.headers))
                    )
                else:
                    assert self._request is not None  # its end comes behind it
                    return self._agreed(self._request)
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            refusal = Refusal(self._text(status, f"This is no HTTP request that this server reads: {error}."), str(error))
            raise self._refuse(refusal) from error
        except Refusal as refusal:
            raise self._refuse(refusal) from None

    def receive_end(self) -> None:
        raise PeerResetError(
            "the client ended the stream before its handshake was complete", endpoint=self._endpoint, phase=Phase.HANDSHAKE
        )

    def _check_head(self, head: h11.Request) -> None:
        """What h11 does not: it looks at the size of a head only while the end is missing."""
        self._method = head.method.decode("latin-1")
        if self._received - len(self._http.trailing_data[0]) > self._options.maximum_header_size:
            raise Refusal(self._text(431, "The request's headers are too large."), "a request that is too large")
        if head.http_version < b"1.1":
            raise Refusal(self._text(505, "A WebSocket wants HTTP/1.1."), "a request of HTTP/1.0")

    def _looked_at(self, request: HTTPRequest) -> HTTPRequest:
        if self._options.respond is not None:
            try:
                response = self._options.respond(request)
                if response is not None and not isinstance(response, HTTPResponse):
                    raise TypeError(f"respond must return an HTTPResponse or None, got {response!r}")
            except Exception as error:
                self._answer(self._text(500, "The server failed at this request."))
                raise self._error(f"respond() raised {type(error).__name__}: {error}", None) from error
            if response is not None:
                raise Refusal(response, f"{request.method} {request.target[:80]} was answered by respond()")
        return request

    def _agreed(self, request: HTTPRequest) -> Agreed:
        key = self._checked(request)
        offered = tokens(request.header("Sec-WebSocket-Protocol"))
        subprotocol = next((name for name in offered if name in self._options.subprotocols), None)
        headers = [*UPGRADE, ("Sec-WebSocket-Accept", accept_key(key))]
        if subprotocol is not None:
            headers.append(("Sec-WebSocket-Protocol", subprotocol))
        compression = self._compression(request)
        if compression is not None:
            headers.append(("Sec-WebSocket-Extensions", compression[0]))
        everything = (*headers, *self._options.additional_headers)
        self._output += self._http.send(h11.InformationalResponse(status_code=101, headers=encoded(everything))) or b""
        rest = self._http.trailing_data[0]
        return Agreed(request, everything, subprotocol, None if compression is None else compression[1], rest)

    def _checked(self, request: HTTPRequest) -> str:
        """The client's key. Raises Refusal unless the request is what RFC 6455 section 4.2.1 wants."""
        upgrades = names(request.header("Connection"), "upgrade") and names(request.header("Upgrade"), "websocket")
        if request.method != "GET" or not upgrades:
            text = "This is a WebSocket: it wants a GET request with Upgrade: websocket and Connection: Upgrade."
            raise Refusal(self._text(426, text, *UPGRADE), f"{request.method} {request.target[:80]} is no upgrade to WebSocket")
        version = request.header("Sec-WebSocket-Version")
        if version != VERSION:
            text = f"This server speaks version {VERSION} of WebSocket."
            raise Refusal(self._text(426, text, *UPGRADE), f"version {version} of WebSocket")
        key = request.header("Sec-WebSocket-Key") or ""
        try:
            good = len(base64.b64decode(key, validate=True)) == 16
        except (binascii.Error, ValueError):
            good = False
        if not good:
            raise Refusal(self._text(400, "Sec-WebSocket-Key must be 16 bytes in base64."), f"Sec-WebSocket-Key: {key[:40]!r}")
        origin = request.header("Origin")
        if not self._admits(origin):
            raise Refusal(self._text(403, "Pages of this origin may not connect."), f"Origin: {origin}")
        return key

    def _admits(self, origin: str | None) -> bool:
        try:
            return self._options.admits(origin)
        except Exception as error:
            self._answer(self._text(500, "The server failed at this request."))
            raise self._error(f"origins() raised {type(error).__name__}: {error}", None) from error

    def _compression(self, request: HTTPRequest) -> tuple[str, deflate.Agreement] | None:
        value, options = request.header("Sec-WebSocket-Extensions"), self._options.compression
        try:
            extensions = deflate.parse(value or "")
        except ValueError as error:
            raise Refusal(self._text(400, f"Sec-WebSocket-Extensions: {error}."), f"extensions {value!r}") from None
        return None if options is None else deflate.answer(options, extensions)

    def _text(self, status: int, text: str, *headers: tuple[str, str]) -> HTTPResponse:
        return HTTPResponse(status, (*headers, ("Sec-WebSocket-Version", VERSION)), text + "\n")

    def _refuse(self, refusal: Refusal) -> NetworkError:
        self._answer(refusal.response)
        return self._error(f"the request got HTTP {refusal.response.status}: {refusal}", refusal.response.status)

    def _answer(self, response: HTTPResponse) -> None:
        """Send it, and nothing after it."""
        body = response.body.encode() if isinstance(response.body, str) else response.body
        headers = list(response.headers)
        if isinstance(response.body, str) and header(headers, "Content-Type") is None:
            headers.append(("Content-Type", "text/plain; charset=utf-8"))
        if response.status not in BODILESS:
            headers.append(("Content-Length", str(len(body))))
        if names(header(headers, "Connection"), "upgrade"):
            headers = [pair for pair in headers if pair[0].lower() != "connection"]
            headers.append(("Connection", "Upgrade, close"))
        elif header(headers, "Connection") is None:
            headers.append(("Connection", "close"))
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return  # it was answered before
        events: list[Any] = [h11.Response(status_code=response.status, headers=encoded(tuple(headers)))]
        if body and self._method != "HEAD":
            events.append(h11.Data(data=body))
        for event in (*events, h11.EndOfMessage()):
            self._output += self._http.send(event) or b""

    def _error(self, summary: str, code: int | None) -> NetworkError:
        return ProtocolViolationError(summary, endpoint=self._endpoint, phase=Phase.HANDSHAKE, code=code)
