"""WebSocket's machine: what each side says to what arrives, and when the time has come."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieline import HostPort, URLEndpoint
from tieline._engine.websocket import WebSocketCodec, frame
from tieline.engines.framing import CarrierLayer
from tieline.engines.websocket import WebSocketLayer, client_layer, server_layer
from tieline.errors import (
    ConnectionAbortedByPeerError,
    EncodingError,
    IdleTimeoutError,
    NetworkError,
    ProtocolViolationError,
)  # fmt: skip
from tieline.protocols.websocket import CloseCode, Deflate, Opcode, WebSocket

WHERE = URLEndpoint("ws://server.example/chat")


def pair(**options: Any) -> tuple[WebSocketLayer, WebSocketLayer]:
    """Client and server, the handshake behind them."""
    one, two = client_layer(WebSocket(**options), WHERE), server_layer(WebSocket(**options), HostPort("192.0.2.1", 7))
    assert two.start() == b""
    two.receive(one.start())
    one.receive(two.output())
    assert one.ready and two.ready
    return one, two


def taken(layer: WebSocketLayer) -> list[Any]:
    return [layer.inbox.take()[0] for _ in range(len(layer.inbox))]


def test_messages_both_ways() -> None:
    one, two = pair()
    two.receive(one.encode("grüße") + one.encode(b"\x00\x01") + one.encode(""))
    metadata = [(content, about.opcode, about.is_complete) for content, about, _ in (two.inbox.take() for _ in range(3))]
    assert metadata == [("grüße", Opcode.TEXT, True), (b"\x00\x01", Opcode.BINARY, True), ("", Opcode.TEXT, True)]
    one.receive(two.encode(bytearray(b"back")))
    assert taken(one) == [b"back"]


def test_frames_behind_the_handshake_are_messages() -> None:
    one, two = client_layer(WebSocket(), WHERE), server_layer(WebSocket(), None)
    two.start()
    two.receive(one.start())
    one.receive(two.output() + two.encode("early")[:3])
    assert one.ready and one.held and taken(one) == []
    one.receive(two.encode("early")[3:] + b"\x83\x00"[:1])
    assert not one.held and taken(one) == ["early"]
    one, two = client_layer(WebSocket(), WHERE), server_layer(WebSocket(), None)
    two.start()
    two.receive(one.start())
    one.receive(two.output() + b"\x83\x00")  # a fault of the frames is none of the handshake
    assert one.ready
    with pytest.raises(ProtocolViolationError):
        one.receive(b"")


def test_without_a_handshake() -> None:
    one, two = client_layer(WebSocket(skip_handshake=True), None), server_layer(WebSocket(skip_handshake=True), None)
    assert one.start() == two.start() == b"" and one.ready and two.ready
    two.receive(one.encode("at once"))
    assert taken(two) == ["at once"]
    assert two.metadata().path == "/"


def test_pings_are_answered_between_messages() -> None:
    one, two = pair()
    two.receive(one.encode(b"1", opcode=Opcode.PING) + one.encode("text") + one.encode(b"2", opcode=Opcode.PING))
    assert two.output() == b"\x8a\x011\x8a\x012"
    assert two.output() == b""
    assert taken(two) == ["text"]


def test_pings_are_delivered_where_the_program_answers_them() -> None:
    one, two = pair(auto_reply_ping=False)
    two.receive(one.encode(b"1", opcode=Opcode.PING))
    content, metadata, _ = two.inbox.take()
    assert (content, metadata.opcode) == (b"1", Opcode.PING)
    assert two.output() == b""


def test_a_flood_of_pings_is_answered_within_bounds() -> None:
    one, two = pair()
    flood = b"".join(one.encode(b"%d" % number, opcode=Opcode.PING) for number in range(20_000))
    two.receive(flood)
    said = two.output()
    assert len(said) < 20_000
    assert said.endswith(b"19999"), "the last one is answered"


class Trip:
    def __init__(self) -> None:
        self.took: float | None = None

    def answered(self, seconds: float) -> None:
        self.took = seconds


def test_round_trips() -> None:
    one, two = pair()
    trips = [Trip() for _ in range(4)]
    one.now = 10.0
    for number, trip in enumerate(trips[:3]):
        two.receive(one.encode(b"%d" % number, opcode=Opcode.PING, trip=trip))
    two.output()
    one.now = 10.5
    one.receive(two.encode(b"1", opcode=Opcode.PONG))  # answers what went before it, too
    assert [trip.took for trip in trips] == [0.5, 0.5, None, None]
    one.receive(two.encode(b"not asked for", opcode=Opcode.PONG))
    assert trips[2].took is None
    # Those that nobody waits for any more are forgotten.
    for number in range(100):
        one.encode(b"%d" % number, opcode=Opcode.PING, trip=Trip())
    assert len(one._pings) < 40


def test_the_keepalive_pings_after_silence_and_fails_after_more() -> None:
    one, two = pair(keepalive=20.0, keepalive_timeout=5.0)
    assert one.deadline == 20.0
    one.now = 15.0
    one.receive(two.encode("life"))
    one.now = 20.0
    one.timeout(reading=True)
    assert one.deadline == 35.0 and one.output() == b""
    one.now = 35.0
    one.timeout(reading=True)
    ping = one.output()
    assert ping[0] == 0x89 and one.deadline == 40.0
    two.receive(ping)
    one.now = 39.0
    one.receive(two.output())
    one.now = 40.0
    one.timeout(reading=True)
    assert one.deadline == 59.0
    one.now = 59.0
    one.timeout(reading=True)
    one.output()
    one.now = 64.0
    with pytest.raises(IdleTimeoutError, match=r"keepalive_timeout=5 s, got nothing for 25\.0 s"):
        one.timeout(reading=True)


def test_any_bytes_count_as_life() -> None:
    one, two = pair(keepalive=20.0, keepalive_timeout=5.0)
    one.now = 20.0
    one.timeout(reading=True)
    one.now = 24.0
    one.receive(two.encode(b"x" * 1000)[:10])
    one.now = 25.0
    one.timeout(reading=True)
    assert one.deadline == 44.0


def test_silence_says_nothing_while_nobody_reads() -> None:
    one, two = pair(keepalive=20.0, keepalive_timeout=5.0)
    one.now = 20.0
    one.timeout(reading=True)
    for now in (25.0, 30.0, 35.0):
        one.now = now
        one.timeout(reading=False)
        assert one.deadline == now + 5.0
    one.now = 36.0
    one.receive(two.encode("it was there"))
    one.now = 40.0
    one.timeout(reading=True)
    assert one.deadline == 56.0
    assert pair(keepalive=None)[0].deadline is None


def test_a_clean_close_from_either_side() -> None:
    for code, reason, seen in [(1000, "done", 1000), (1001, "", 1001), (None, "", 1005)]:
        one, two = pair()
        one.close_with(code, reason)
        assert one.may_end
        last = one.end()
        assert not one.may_end
        two.receive(one_more := last)
        assert one_more and two.ended
        assert two.metadata().close_code == seen and two.metadata().close_reason == reason
        one.receive(two.output())
        assert one.may_end and one.ended and two.may_end
        assert one.end() == two.end() == b""
        assert one.metadata().close_code == seen


def test_a_close_that_tells_of_an_error_raises() -> None:
    one, two = pair()
    one.close_with(4001, "no such room")
    with pytest.raises(ConnectionAbortedByPeerError, match=r"4001.*no such room") as caught:
        two.receive(one.encode("before") + one.end())
    assert (caught.value.code, caught.value.reason) == (4001, "no such room")
    assert taken(two) == ["before"]
    one.receive(two.output())
    assert one.ended


def test_both_close_at_once() -> None:
    one, two = pair()
    one.close_with(1000, "")
    two.close_with(4000, "mine")
    first, second = one.end(), two.end()
    one.receive(second)
    two.receive(first)
    assert one.ended and two.ended and one.may_end and two.may_end
    assert one.output() == two.output() == b""


def test_messages_after_our_close_frame_still_come() -> None:
    one, two = pair()
    one.end()
    one.receive(two.encode("on its way"))
    assert taken(one) == ["on its way"] and not one.ended


def test_an_end_without_a_close_frame() -> None:
    one, _ = pair()
    with pytest.raises(ConnectionAbortedByPeerError, match="1006") as caught:
        one.receive_end()
    assert caught.value.code == CloseCode.ABNORMAL_CLOSURE
    one, _ = pair()
    one.end()
    one.receive_end()  # we had closed, so nothing is lost
    assert one.ended and one.may_end


@pytest.mark.parametrize(
    ("wire", "code"),
    [(b"\x83\x80\0\0\0\0", 1002), (b"\x81\x81\0\0\0\0\xff", 1007), (b"\x82\xff\0\0\0\0\x7f\0\0\0\0\0\0\0", 1009)],
)
def test_a_fault_closes_with_its_code(wire: bytes, code: int) -> None:
    one, two = pair()
    with pytest.raises(ProtocolViolationError, match=f"RFC 6455 section.*{code}") as caught:
        two.receive(one.encode("good") + wire)
    assert caught.value.code == code
    assert taken(two) == ["good"]
    with pytest.raises(ConnectionAbortedByPeerError) as told:
        one.receive(two.output())
    assert told.value.code == code
    assert two.metadata().close_code == code


def test_a_message_that_is_given_up() -> None:
    one, two = pair()
    two.receive(one.encode("half", last=False))
    error = one.abandon("the program left its block")
    assert isinstance(error, NetworkError) and one.failure is error
    with pytest.raises(ConnectionAbortedByPeerError) as told:
        two.receive(one.output())
    assert told.value.code == CloseCode.INTERNAL_SERVER_ERROR


def test_text_that_is_none() -> None:
    one, _ = pair()
    with pytest.raises(EncodingError, match=r"'\\udc80' at 3"):
        one.encode("abc\udc80")


def test_pieces_as_they_come() -> None:
    one, two = pair()
    message = "grüße " * 100
    wire = one.encode(message)
    two.receive(wire[:300])
    assert len(two.inbox) == 0
    two.stream(True)
    first, metadata, _ = two.inbox.take()
    assert message.startswith(first) and not metadata.is_complete and metadata.opcode is Opcode.TEXT
    two.receive(wire[300:])
    rest, metadata, _ = two.inbox.take()
    assert first + rest == message and metadata.is_complete
    two.stream(False)
    two.receive(one.encode(message))
    assert taken(two) == [message]


def test_a_bomb_is_held_back_until_there_is_room() -> None:
    options = {"compression": Deflate(send_context_takeover=False, receive_context_takeover=False), "maximum_message_size": 2**20}
    one, two = pair(**options)
    wire = b"".join(one.encode(bytes(2**20)) for _ in range(50))
    assert len(wire) < 100_000
    two.receive(wire)
    count = len(two.inbox)
    assert count < 3 and two.held
    while two.held:
        taken(two)
        two.receive(b"")
        assert len(two.inbox) < 3
        count += len(two.inbox)
    assert count == 50
    # What stands on it as on a stream gets it all.
    one, two = pair(**options)
    assert CarrierLayer(two).receive(b"".join(one.encode(bytes(2**20)) for _ in range(5))) == bytes(5 * 2**20)
    one, two = pair(**options | {"maximum_message_size": 1000})
    with pytest.raises(ProtocolViolationError, match="at most 1000 bytes") as caught:
        two.receive(one.encode(bytes(2**20)))
    assert caught.value.code == CloseCode.MESSAGE_TOO_BIG


contents = st.lists(st.one_of(st.text(max_size=200), st.binary(max_size=200)), max_size=8)
compressions = st.sampled_from([None, Deflate(threshold=0), Deflate(send_context_takeover=False, receive_window_bits=9)])


@given(contents, compressions, st.booleans(), st.lists(st.integers(0, 3000), max_size=8))
def test_any_split_gives_the_same_messages(
    messages: list[str | bytes], compression: Deflate | None, client: bool, cuts: list[int]
) -> None:
    one, two = pair(compression=compression)
    sender, receiver = (one, two) if client else (two, one)
    wire = b"".join(sender.encode(message) for message in messages)
    places = sorted({0, len(wire), *(min(cut, len(wire)) for cut in cuts)})
    for start, end in itertools.pairwise(places):
        receiver.receive(wire[start:end])
    assert taken(receiver) == messages


@given(st.binary(max_size=400))
def test_any_bytes_are_messages_or_a_fault(data: bytes) -> None:
    one, two = pair(compression=Deflate(), maximum_message_size=5000)
    try:
        two.receive(one.encode("first") + data)
    except (ProtocolViolationError, ConnectionAbortedByPeerError):
        assert two.output()[0] == 0x88
    assert taken(two)[0] == "first"


def test_the_codec_refuses_what_cannot_be_sent() -> None:
    codec = WebSocketCodec(None, None, client=False, maximum_message_size=10, maximum_frame_size=10, batch=10)
    with pytest.raises(ValueError, match="125"):
        codec.control(9, bytes(126))
    with pytest.raises(ValueError, match="ping or a pong"):
        codec.control(8, b"")
    with pytest.raises(ValueError, match="1007 to 1014"):
        codec.close(1005, "")
    with pytest.raises(TypeError):
        codec.send(7)  # type: ignore[arg-type]
    assert frame("all") == b"\x81\x03all" and frame(b"\x00") == b"\x82\x01\x00"
