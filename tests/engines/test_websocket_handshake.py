"""WebSocket's opening handshake: what each side says, what it takes, and what it refuses in which words."""

import base64
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieline import HostPort, UnixEndpoint, URLEndpoint
from tieline.engines import deflate
from tieline.engines.upgrade import ClientUpgrade, ServerUpgrade, accept_key, authority
from tieline.errors import ConnectionAbortedByPeerError, PeerResetError, ProtocolViolationError
from tieline.protocols.http import HTTPRequest, HTTPResponse, header
from tieline.protocols.tls import TLS
from tieline.protocols.websocket import Deflate, WebSocket

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
WHERE = HostPort("server.example", 80)


def request(*lines: str, method: str = "GET", without: str = "") -> bytes:
    head = [
        f"{method} /chat?room=1 HTTP/1.1", "Host: server.example", "Upgrade: websocket", "Connection: keep-alive, Upgrade",
        f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13",
    ]  # fmt: skip
    head = [line for line in head if not without or not line.startswith(without + ":")]
    return "\r\n".join([*head, *lines, "", ""]).encode("latin-1")


def server(**options: object) -> ServerUpgrade:
    return ServerUpgrade(WebSocket(**options), WHERE)  # type: ignore[arg-type]


def client(**options: object) -> ClientUpgrade:
    return ClientUpgrade(WebSocket(**options), WHERE, authority="server.example", target="/chat?room=1")  # type: ignore[arg-type]


def answer(side: ClientUpgrade, *lines: str, status: str = "101 Switching Protocols", without: str = "") -> bytes:
    key = header(side.request.headers, "Sec-WebSocket-Key")
    assert key is not None
    head = [f"HTTP/1.1 {status}", "Upgrade: WebSocket", "Connection: upgrade", f"Sec-WebSocket-Accept: {accept_key(key)}"]
    head = [line for line in head if not without or not line.startswith(without + ":")]
    return "\r\n".join([*head, *lines, "", ""]).encode("latin-1")


def refused(side: ServerUpgrade, data: bytes) -> tuple[int, str, ProtocolViolationError]:
    """Status and whole text of the answer."""
    with pytest.raises(ProtocolViolationError) as caught:
        side.receive(data)
    output = side.output().decode("latin-1")
    assert output.startswith("HTTP/1.1 ")
    assert "close" in output.lower()
    return int(output.split()[1]), output, caught.value


@pytest.mark.parametrize("pieces", [1, 7])
def test_a_head_is_within_its_limit_however_it_comes(pieces: int) -> None:
    head = request("X-Long: " + "x" * 3000)
    status, _, _ = refused_in(server(maximum_header_size=3000), head, pieces)
    assert status == 431
    side = server(maximum_header_size=len(head))
    assert [side.receive(piece) for piece in cut(head, pieces)][-1] is not None
    one = client(maximum_header_size=256)
    one.start()
    with pytest.raises(ProtocolViolationError, match=r"too large|too long"):
        [one.receive(piece) for piece in cut(answer(one, "X-Long: " + "x" * 3000), pieces)]
    one = client(maximum_header_size=256)
    one.start()
    assert one.receive(answer(one) + b"x" * 3000) is not None  # frames are not part of it


def cut(data: bytes, pieces: int) -> list[bytes]:
    size = -(-len(data) // pieces)
    return [data[at : at + size] for at in range(0, len(data), size)]


def refused_in(side: ServerUpgrade, data: bytes, pieces: int) -> tuple[int, str, ProtocolViolationError]:
    *first, last = cut(data, pieces)
    for number, piece in enumerate(first):
        try:
            assert side.receive(piece) is None
        except ProtocolViolationError as error:
            assert number > 0
            output = side.output().decode("latin-1")
            return int(output.split()[1]), output, error
    return refused(side, last)


def test_http_1_0_is_too_old() -> None:
    """RFC 6455 sections 4.1 and 4.2.1."""
    status, text, _ = refused(server(), request().replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert status == 505 and "HTTP/1.1" in text
    one = client()
    one.start()
    with pytest.raises(ProtocolViolationError, match=r"expected HTTP/1.1, got HTTP/1.0"):
        one.receive(answer(one).replace(b"HTTP/1.1", b"HTTP/1.0"))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: HTTPResponse(204, body="x"), "status 204 has no body, got one of 1"),
        (lambda: HTTPResponse(304, body=b"xy"), "status 304 has no body, got one of 2"),
        (lambda: HTTPResponse(200, [("content-length", "5")], "x"), "Content-Length follows from the body"),
        (lambda: HTTPResponse(200, [("Transfer-Encoding", "gzip")], "x"), "Transfer-Encoding follows from the body"),
    ],
)
def test_responses_that_cannot_be(make: Callable[[], HTTPResponse], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()
    status, _, error = refused(server(respond=lambda _: make()), request())
    assert status == 500 and isinstance(error.__cause__, ValueError)


def test_a_response_without_a_body() -> None:
    status, text, _ = refused(server(respond=lambda _: HTTPResponse(204)), request())
    assert status == 204 and "content" not in text.lower()


def test_the_key_of_the_rfc() -> None:
    assert accept_key(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_both_sides_agree() -> None:
    one = client(
        subprotocols=["chat.v2", "chat.v1"], additional_headers=[("X-Trace", "7"), ("X-Trace", "8")], compression=Deflate()
    )
    two = server(subprotocols=["chat.v1"], compression=Deflate(), additional_headers=[("Set-Cookie", "a=b")])
    flight = one.start()
    assert flight.startswith(b"GET /chat?room=1 HTTP/1.1\r\nHost: server.example\r\n")
    there = two.receive(flight)
    assert there is not None
    back = one.receive(two.output() + b"frames")
    assert back is not None
    assert back.rest == b"frames" and there.rest == b""
    assert there.subprotocol == back.subprotocol == "chat.v1"
    assert there.request.target == "/chat?room=1" and there.request.path == "/chat"
    assert there.request.header("x-trace") == "7, 8"
    assert header(back.response_headers, "set-cookie") == "a=b"
    assert there.compression is not None and back.compression is not None
    assert there.compression.sending == back.compression.receiving == (15, True)


def test_a_request_in_pieces_with_frames_behind_it() -> None:
    whole = request("X-Forwarded-For: 192.0.2.7", "Forwarded: for=192.0.2.7")
    for cut in range(len(whole)):
        side = server()
        assert side.receive(whole[:cut]) is None
        agreed = side.receive(whole[cut:] + b"\x81\x80")
        assert agreed is not None and agreed.rest == b"\x81\x80"
        assert agreed.request.header("x-forwarded-for") == "192.0.2.7"
        assert side.output().startswith(b"HTTP/1.1 101 ")
        assert side.output() == b""


@pytest.mark.parametrize(
    ("data", "status", "says"),
    [
        (request(without="Upgrade"), 426, "Sec-WebSocket-Version: 13"),
        (request(without="Connection"), 426, "Upgrade: websocket"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 426, "This is a WebSocket"),
        (request(method="POST"), 426, "GET"),
        (request("Sec-WebSocket-Version: 8", without="Sec-WebSocket-Version"), 426, "Sec-WebSocket-Version: 13"),
        (request(without="Sec-WebSocket-Version"), 426, "version 13"),
        (request(without="Sec-WebSocket-Key"), 400, "16 bytes in base64"),
        (request("Sec-WebSocket-Key: AAAA", without="Sec-WebSocket-Key"), 400, "16 bytes"),
        (request("Sec-WebSocket-Key: !!!!", without="Sec-WebSocket-Key"), 400, "16 bytes"),
        (request(without="Host"), 400, "Host"),
        (request("Content-Length: 5"), 400, "no body"),
        (request("Sec-WebSocket-Extensions: ;;"), 400, "Extensions"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "no HTTP request"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20000, 431, "no HTTP request"),
    ],
)  # fmt: skip
def test_what_a_server_refuses(data: bytes, status: int, says: str) -> None:
    got, text, error = refused(server(), data)
    assert got == status
    assert says.lower() in text.lower()
    assert "phase" not in str(error) and str(status) in str(error)


def test_origins() -> None:
    listed = ["https://a.example", None]
    for options, origin, good in [
        (listed, "https://a.example", True),
        (listed, "https://b.example", False),
        (listed, None, True),
        (["https://a.example"], None, False),
        (lambda origin: origin.endswith(".example"), "https://z.example", True),
        (None, "https://anybody.test", True),
    ]:
        data = request() if origin is None else request(f"Origin: {origin}")
        if good:
            assert server(origins=options).receive(data) is not None
        else:
            assert refused(server(origins=options), data)[0] == 403


def test_respond() -> None:
    def health(request: HTTPRequest) -> HTTPResponse | None:
        if request.path == "/health":
            return HTTPResponse(200, [("Cache-Control", "no-store")], "fine")
        return None

    status, text, _ = refused(server(respond=health), b"GET /health?x HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status == 200
    assert text.endswith("\r\n\r\nfine")
    assert "Content-Length: 4\r\n" in text and "Content-Type: text/plain; charset=utf-8\r\n" in text
    status, text, _ = refused(server(respond=health), b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status == 200 and text.endswith("\r\n\r\n")
    assert server(respond=health).receive(request()) is not None
    # It may also refuse what would be a WebSocket.
    status, text, _ = refused(server(respond=lambda _: HTTPResponse(401, [("WWW-Authenticate", "Basic")])), request())
    assert status == 401 and "WWW-Authenticate: Basic" in text


def test_a_hook_that_raises_is_told_with_its_cause() -> None:
    def broken(_: object) -> None:
        raise KeyError("mine")

    for options in ({"respond": broken}, {"origins": broken}, {"respond": lambda _: "text"}):
        status, text, error = refused(server(**options), request())
        assert status == 500 and "mine" not in text
        assert isinstance(error.__cause__, (KeyError, TypeError))


@pytest.mark.parametrize(
    ("status", "lines", "body", "says"),
    [
        ("404 Not Found", [], "no such page", ["HTTP 404 Not Found", "'no such page'", "path of the URL"]),
        ("301 Moved", ["Location: wss://b.example/"], "", ["HTTP 301", "wss://b.example/"]),
        ("403 Forbidden", [], "", ["HTTP 403", "additional_headers"]),
        ("200 OK", [], "<html>", ["HTTP 200", "<html>"]),
        ("503 Busy", ["Retry-After: 5"], "", ["HTTP 503"]),
    ],
)
def test_a_server_that_answers_as_a_web_server(status: str, lines: list[str], body: str, says: list[str]) -> None:
    side = client()
    side.start()
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *lines, "", body]
    with pytest.raises(ConnectionAbortedByPeerError) as caught:
        side.receive("\r\n".join(head).encode())
    assert caught.value.code == int(status.split()[0])
    for part in says:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("without", "lines", "says"),
    [
        ("Upgrade", ["Upgrade: h2c"], "another protocol"),
        ("Upgrade", [], "another protocol"),
        ("Connection", [], "not for this connection"),
        ("Sec-WebSocket-Accept", ["Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="], "our key"),
        ("Sec-WebSocket-Accept", [], "our key"),
        ("", ["Sec-WebSocket-Protocol: other"], "subprotocol that was not offered"),
        ("", ["Sec-WebSocket-Extensions: permessage-deflate"], "extensions that were not offered"),
        ("", ["Sec-WebSocket-Extensions: ,=,"], "extensions are wrong"),
    ],
)
def test_what_a_client_refuses(without: str, lines: list[str], says: str) -> None:
    side = client(subprotocols=["chat"])
    side.start()
    with pytest.raises(ProtocolViolationError, match=says):
        side.receive(answer(side, *lines, without=without))


def test_a_client_takes_only_http() -> None:
    for data in (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * 20000):
        side = client()
        side.start()
        with pytest.raises(ProtocolViolationError, match="no HTTP response"):
            side.receive(data)


def test_interim_responses_are_passed_over() -> None:
    side = client()
    side.start()
    assert side.receive(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n") is None
    assert side.receive(answer(side)) is not None


def test_an_end_within_the_handshake() -> None:
    for side in (client(), server()):
        with pytest.raises(PeerResetError, match="handshake"):
            side.receive_end()


def test_authority() -> None:
    plain, secure = WebSocket(), WebSocket(TLS())
    for options, endpoint, expected in [
        (plain, URLEndpoint("ws://A.example/x"), "a.example"),
        (plain, URLEndpoint("ws://a.example:8080/x"), "a.example:8080"),
        (secure, URLEndpoint("wss://a.example/"), "a.example"),
        (secure, URLEndpoint("wss://a.example:80/"), "a.example:80"),
        (plain, HostPort("::1", 80), "[::1]"),
        (plain, HostPort("fe80::1%lo", 9000), "[fe80::1]:9000"),
        (plain, HostPort("bücher.example", 80), "xn--bcher-kva.example"),
        (plain, UnixEndpoint("/run/x.sock"), "localhost"),
    ]:
        assert authority(options, endpoint) == expected


# permessage-deflate


def test_extensions_are_read_as_the_rfc_writes_them() -> None:
    assert deflate.parse("") == []
    assert deflate.parse('foo, bar; baz=2, a; b="x"; c') == [("foo", {}), ("bar", {"baz": "2"}), ("a", {"b": "x", "c": None})]
    for wrong in (";", "a;;b", "a=1", "a b", 'a; b="x', "a; b; b", "\x00"):
        with pytest.raises(ValueError, match=r"is no extension|no value|twice"):
            deflate.parse(wrong)


@pytest.mark.parametrize(
    ("offered", "options", "expected"),
    [
        ("permessage-deflate", Deflate(), "permessage-deflate"),
        ("permessage-deflate; client_max_window_bits", Deflate(), "permessage-deflate"),
        (
            "permessage-deflate; client_max_window_bits=10; server_max_window_bits=9; server_no_context_takeover",
            Deflate(),
            "permessage-deflate; server_max_window_bits=9; client_max_window_bits=10; server_no_context_takeover",
        ),
        (
            "permessage-deflate; client_max_window_bits",
            Deflate(send_window_bits=12, receive_window_bits=11, send_context_takeover=False, receive_context_takeover=False),
            (
                "permessage-deflate; server_max_window_bits=12; client_max_window_bits=11; server_no_context_takeover; "
                "client_no_context_takeover"
            ),
        ),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", Deflate(), "permessage-deflate"),
        ("permessage-deflate; unknown", Deflate(), None),
        ("permessage-deflate; server_max_window_bits", Deflate(), None),
        ("permessage-deflate; server_max_window_bits=08", Deflate(), None),
        ("permessage-deflate; server_max_window_bits=16", Deflate(), None),
        ("x-webkit-deflate-frame", Deflate(), None),
    ],
)
def test_what_a_server_answers_to_offers(offered: str, options: Deflate, expected: str | None) -> None:
    answered = deflate.answer(options, deflate.parse(offered))
    assert (answered and answered[0]) == expected


def test_what_a_client_takes_of_an_answer() -> None:
    wants = Deflate(receive_window_bits=12, receive_context_takeover=False)
    good = {"server_max_window_bits": "10", "server_no_context_takeover": None, "client_max_window_bits": "8"}
    assert deflate.accept(wants, good) == deflate.Agreement(None, (10, False))  # with 8 bits, we send as it is
    for wrong in (
        good | {"server_max_window_bits": "13"},
        good | {"client_max_window_bits": None},
        good | {"x": None},
        {"server_max_window_bits": "10"},
        {"server_no_context_takeover": None},
    ):
        with pytest.raises(ValueError, match=r"_window_bits|_takeover|no parameter"):
            deflate.accept(wants, wrong)


directions = st.builds(
    Deflate,
    send_window_bits=st.integers(9, 15),
    receive_window_bits=st.integers(9, 15),
    send_context_takeover=st.booleans(),
    receive_context_takeover=st.booleans(),
)


@given(directions, directions)
def test_two_sides_always_agree_on_the_same(one: Deflate, two: Deflate) -> None:
    answered = deflate.answer(two, deflate.parse(deflate.offer(one)))
    assert answered is not None
    text, server_side = answered
    client_side = deflate.accept(one, deflate.parse(text)[0][1])
    assert client_side.sending == server_side.receiving
    assert client_side.receiving == server_side.sending


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_answered_or_refused(data: bytes, behind_request: bool) -> None:
    side = server()
    try:
        agreed = side.receive(request()[:-2] + data + b"\r\n\r\n" if behind_request else data)
    except ProtocolViolationError:
        assert side.output().startswith(b"HTTP/1.1 ")
    else:
        assert agreed is None or behind_request


def test_options_check_themselves() -> None:
    for wrong in (
        {"subprotocols": "chat"}, {"subprotocols": ["a b"]}, {"subprotocols": ["a", "a"]},
        {"additional_headers": [("Sec-WebSocket-Key", "x")]}, {"additional_headers": [("X", "a\r\nb")]},
        {"additional_headers": ["X: a"]}, {"path": "chat"}, {"origins": "https://a"}, {"compression": True},
        {"keepalive": 0}, {"maximum_message_size": -1}, {"respond": 7}, {"skip_handshake": True, "subprotocols": ["a"]},
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError)):
            WebSocket(**wrong)  # type: ignore[arg-type]
    assert replace(WebSocket(TLS()), path="/x").path == "/x"
    assert base64.b64decode(KEY) == b"the sample nonce"
