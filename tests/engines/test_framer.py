"""A user's framer as a machine: bytes and time as literals, no connection."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieline import (
    TCP,
    Coder,
    EncodingError,
    Framer,
    FramerContext,
    FramerProtocol,
    NetworkError,
    PeerResetError,
    ProtocolViolationError,
)
from tieline.testing import FramerTester


class Lines(FramerProtocol):
    """One message is one line, after a greeting."""

    label = "lines"
    greeted = False

    def start(self, framer: FramerContext) -> bool:
        framer.write_output(b"HELLO\n")
        return False

    def handle_input(self, framer: FramerContext) -> None:
        while (line := framer.read_until(b"\n", at_most=64)) is not None:
            if self.greeted:
                framer.deliver_input(line[:-1], {"length": len(line) - 1})
            elif line == b"HELLO\n":
                self.greeted = True
                framer.mark_ready()
            else:
                framer.mark_failed(f"expected HELLO, got {line!r}")
                return

    def handle_output(self, framer: FramerContext, content: bytes, metadata: dict[str, Any] | None) -> None:
        if b"\n" in content:
            raise EncodingError("a line has no line break in it")
        framer.write_output(content)
        framer.write_output(b"\n")


class Blocks(FramerProtocol):
    """A length of one byte, 255 for "more follows", and so many bytes, delivered without having been read."""

    def handle_input(self, framer: FramerContext) -> None:
        while (head := framer.read(1)) is not None:
            more = head == b"\xff"
            if not framer.deliver_input_no_copy(head[0], {"more": more}, is_complete=not more):
                return

    def handle_output(self, framer: FramerContext, content: bytes, metadata: dict[str, Any] | None) -> None:
        while len(content) >= 255:
            framer.write_output(b"\xff" + content[:255])
            content = content[255:]
        framer.write_output(bytes([len(content)]) + content)


def ready() -> FramerTester:
    tester = FramerTester(Lines)
    assert tester.output() == b"HELLO\n"
    assert tester.receive(b"HELLO\n") == []
    assert tester.is_ready
    return tester


def test_a_greeting_then_lines() -> None:
    tester = FramerTester(Lines)
    assert not tester.is_ready and tester.output() == b"HELLO\n" and tester.output() == b""
    assert tester.receive(b"HEL") == [] and not tester.is_ready
    messages = tester.receive(b"LO\none\ntw")
    assert tester.is_ready
    assert [(message.content, message.metadata.framer) for message in messages] == [(b"one", {"length": 3})]
    assert [message.content for message in tester.receive(b"o\n\n")] == [b"two", b""]
    assert tester.send(b"three") == b"three\n"


def test_what_a_send_refuses_leaves_no_trace() -> None:
    tester = ready()
    with pytest.raises(EncodingError):
        tester.send(b"a\nb")
    assert tester.send(b"ab") == b"ab\n"


def test_marking_failed_says_why() -> None:
    tester = FramerTester(Lines, remote_endpoint="peer:1")
    with pytest.raises(ProtocolViolationError, match=r"peer:1, handshake: lines: expected HELLO, got b'GOODBYE\\n'"):
        tester.receive(b"GOODBYE\n")


def test_a_separator_that_does_not_come() -> None:
    for line in (b"x" * 64, b"x" * 64 + b"\n"):
        with pytest.raises(ProtocolViolationError, match=r"the separator did not come in time; expected b'\\n' within 64 bytes"):
            ready().receive(line)
    assert ready().receive(b"x" * 63 + b"\n")[0].content == b"x" * 63


def test_a_mistake_of_the_framer_is_the_cause() -> None:
    class Wrong(Blocks):
        label = "wrong"

        def handle_input(self, framer: FramerContext) -> None:
            raise ZeroDivisionError("a bug")

        handle_output = handle_input  # type: ignore[assignment]

    with pytest.raises(NetworkError, match="the framer 'wrong' raised ZeroDivisionError: a bug") as caught:
        FramerTester(Wrong).receive(b"x")
    assert isinstance(caught.value.__cause__, ZeroDivisionError) and caught.value.__cause__.__traceback__ is not None
    with pytest.raises(NetworkError, match="raised TypeError"):
        FramerTester(Wrong).send(b"x")


@given(
    messages=st.lists(st.binary(max_size=700), max_size=6),
    cuts=st.lists(st.integers(1, 300), min_size=1),
)
def test_any_split_gives_the_same_messages(messages: list[bytes], cuts: list[int]) -> None:
    tester = FramerTester(Blocks)
    wire = b"".join(tester.send(message) for message in messages)
    found, place, turn = [], 0, 0
    while place < len(wire):
        count = cuts[turn % len(cuts)]
        found += [message.content for message in tester.receive(wire[place : place + count])]
        place, turn = place + count, turn + 1
    assert found == messages


def test_an_end_within_a_message() -> None:
    tester = FramerTester(Blocks)
    tester.receive(b"\x05he")
    assert tester.receive_end() == []
    assert tester._layer.inbox.partial == b"he"


def test_the_end_is_told_once_more() -> None:
    class ToTheEnd(Blocks):
        def handle_input(self, framer: FramerContext) -> None:
            if framer.input_ended:
                framer.parse_input(0, 1000, self.whole)
                framer.deliver_input(self.data)

        def whole(self, data: bytes, ended: bool) -> int:
            assert ended
            self.data = data
            return len(data)

    tester = FramerTester(ToTheEnd)
    assert tester.receive(b"a") == [] and tester.receive(b"b") == []
    assert [message.content for message in tester.receive_end()] == [b"ab"]


def test_an_end_in_the_handshake() -> None:
    with pytest.raises(PeerResetError, match="before the framer was ready"):
        FramerTester(Lines).receive_end()


def test_unread_input_has_a_bound() -> None:
    class Idle(Blocks):
        def handle_input(self, framer: FramerContext) -> None: ...

    tester = FramerTester(Idle, maximum_message_size=1000)
    tester.receive(b"x" * (1000 + 64 * 1024))
    with pytest.raises(ProtocolViolationError, match="nothing of it is consumed"):
        tester.receive(b"x")


@pytest.mark.parametrize("wire", [b"\x0b", b"\xff" + b"x" * 255])
def test_messages_have_a_bound(wire: bytes) -> None:
    with pytest.raises(ProtocolViolationError, match="expected at most maximum_message_size=10 bytes"):
        FramerTester(Blocks, maximum_message_size=10).receive(wire)


def test_parts_count_together() -> None:
    tester = FramerTester(Blocks, maximum_message_size=300)
    tester.receive(b"\xff" + b"x" * 255)
    with pytest.raises(ProtocolViolationError, match="expected at most maximum_message_size=300 bytes, got 301"):
        tester.receive(bytes([46]) + b"x" * 46)


def test_passing_through() -> None:
    class Proxy(Lines):
        """After the greeting it steps aside."""

        def handle_input(self, framer: FramerContext) -> None:
            if framer.read_until(b"\n") is not None:
                framer.mark_ready()
                framer.pass_through_input()
                framer.pass_through_output()

    tester = FramerTester(Proxy)
    tester.output()
    assert [message.content for message in tester.receive(b"HELLO\nrest")] == [b"rest"]
    assert [message.content for message in tester.receive(b"a\nb")] == [b"a\nb"]
    assert tester.send(b"a\nb") == b"a\nb"


def test_wakeups_in_their_time() -> None:
    class Ticking(Blocks):
        ticks = 0

        def start(self, framer: FramerContext) -> bool:
            framer.schedule_wakeup(9)
            framer.schedule_wakeup(2)
            return True

        def wakeup(self, framer: FramerContext) -> None:
            self.ticks += 1
            framer.write_output(b"tick")
            framer.schedule_wakeup(3 if self.ticks < 3 else None)

    tester = FramerTester(Ticking)
    tester.advance(1.9)
    assert tester.output() == b""
    tester.advance(0.2)
    assert tester.output() == b"tick"
    tester.advance(5.8)
    assert tester.output() == b"tick"
    tester.advance(100)
    assert tester.output() == b"tick"


def test_stopping_may_take_an_answer() -> None:
    class Polite(Blocks):
        def stop(self, framer: FramerContext) -> bool:
            if not hasattr(self, "said"):
                self.said = True
                framer.write_output(b"bye?")
            return framer.read(4) == b"bye!"

        def handle_input(self, framer: FramerContext) -> None: ...
        def cleanup(self, framer: FramerContext) -> None:
            self.cleaned = getattr(self, "cleaned", 0) + 1

    tester = FramerTester(Polite)
    assert tester.end() == b"bye?" and not tester.is_stopped
    tester.receive(b"by")
    assert not tester.is_stopped
    tester.receive(b"e!")
    assert tester.is_stopped
    tester.close()
    tester.close()
    assert vars(tester.framer)["cleaned"] == 1


def test_the_context_checks_its_arguments() -> None:
    errors: list[str] = []

    class Curious(Blocks):
        def handle_input(self, framer: FramerContext) -> None:
            for call in (
                lambda: framer.read(-1),
                lambda: framer.read_until(b""),
                lambda: framer.parse_input(3, 2, lambda data, ended: 0),
                lambda: framer.parse_input(1, 2, lambda data, ended: 3),
                lambda: framer.deliver_input_no_copy(-1),
                lambda: framer.schedule_wakeup(-1),
            ):
                with pytest.raises(ValueError) as caught:  # noqa: PT011  # the texts are compared below
                    call()
                errors.append(str(caught.value))
            framer.deliver_input_no_copy(50)
            assert framer.read(1) is framer.read_until(b"x") is None
            assert not framer.parse_input(0, 9, lambda data, ended: 0)
            with pytest.raises(RuntimeError, match="still waits"):
                framer.deliver_input_no_copy(1)

    FramerTester(Curious).receive(b"xyz")
    assert errors == [
        "count must be 0 or more, got -1",
        "the separator must be at least one byte, got an empty one",
        "minimum must be from 0 to maximum, got minimum=3 and maximum=2",
        "the function of parse_input() was shown 2 bytes and consumed 3",
        "length must be 0 or more, got -1",
        "seconds must be 0 or more, got -1",
    ]


def test_what_the_context_knows() -> None:
    seen: list[Any] = []

    class Looking(Blocks):
        def start(self, framer: FramerContext) -> bool:
            seen.extend((framer.options["key"], framer.local_endpoint, framer.remote_endpoint))
            return True

    FramerTester(Looking, options={"key": 7}, local_endpoint="here", remote_endpoint="there")
    assert seen == [7, "here", "there"]


def test_options_check_themselves() -> None:
    class Abstract(FramerProtocol):
        def handle_input(self, framer: FramerContext) -> None: ...

    for framer, said in (
        (Lines(), "an instance of Lines: write its class"),
        (int, "a subclass of FramerProtocol, got <class 'int'>"),
    ):
        with pytest.raises(TypeError, match=said):
            Framer(framer, TCP())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Abstract has no handle_output"):
        Framer(Abstract, TCP())  # type: ignore[type-abstract]
    for below in (Coder(int, TCP()), None, TCP):
        with pytest.raises(TypeError, match="Framer stands on a byte stream"):
            Framer(Lines, below)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="maximum_message_size"):
        Framer(Lines, TCP(), maximum_message_size=0)
    with pytest.raises(ValueError, match="handshake_timeout"):
        Framer(Lines, TCP(), handshake_timeout=0)
