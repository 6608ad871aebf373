"""Messages in datagrams, one in each: TLV, Coder and framers over UDP."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest

from tieline import (
    IP,
    TLV,
    UDP,
    Coder,
    CoderMetadata,
    DatagramMetadata,
    DecodingError,
    Framer,
    FramerContext,
    FramerProtocol,
    IPMetadata,
    MessageTooLargeError,
    NetworkConnection,
    NetworkError,
    NetworkListener,
    ProtocolViolationError,
    State,
    TLVMetadata,
    UInt8,
)
from tieline.testing import memory_pair

from ..peers import until

SMALL = TLV(UDP(), type_=UInt8, length=UInt8)


class Lines(FramerProtocol):
    """Lines, of which one that begins with a question mark is answered by the framer itself."""

    label = "lines"
    gone: ClassVar[list[Any]] = []

    def start(self, framer: FramerContext) -> bool:
        self.seen = 0
        return True

    def handle_input(self, framer: FramerContext) -> None:
        while (line := framer.read_until(b"\n", at_most=100)) is not None:
            self.seen += 1
            if line.startswith(b"?"):
                framer.write_output(b"%d seen, " % self.seen)
                framer.write_output(b"by %s\n" % str(framer.remote_endpoint).encode())
            elif line == b"fail\n":
                framer.mark_failed("told to fail")
            elif line == b"mistake\n":
                raise ZeroDivisionError
            else:
                framer.deliver_input(line[:-1], {"number": self.seen})

    def handle_output(self, framer: FramerContext, content: bytes, metadata: dict[str, Any] | None) -> None:
        framer.write_output(content)
        framer.write_output(b"!\n" if metadata else b"\n")

    def stop(self, framer: FramerContext) -> bool:
        framer.write_output(b"bye\n")
        return False  # nobody waits for an answer

    def cleanup(self, framer: FramerContext) -> None:
        self.gone.append(self)


async def bytes_pair(stack: Any) -> tuple[Any, Any]:
    ours, theirs = await memory_pair(stack, UDP())
    return ours, theirs


async def test_a_record_is_a_datagram() -> None:
    ours, theirs = await bytes_pair(SMALL)
    async with ours, theirs:
        await ours.send(b"abc", type=7)
        assert (await theirs.receive()).content == b"\x07\x03abc"
        await theirs.send(b"\x09\x00")
        content, metadata = await ours.receive()
        assert (content, metadata) == (b"", TLVMetadata((DatagramMetadata(),), 9, 0))


async def test_what_the_packet_says() -> None:
    stack = TLV(UDP(IP(metadata_received=True)))

    async def mirror(channel: NetworkConnection[TLV]) -> None:
        async for content, metadata in channel.messages:
            await channel.send(content, type=metadata.type, metadata=metadata.other[0].ip)

    async with NetworkListener(stack, on="127.0.0.1:0").serving(mirror) as listener:  # noqa: SIM117
        async with NetworkConnection(listener.endpoint, stack) as connection:
            await connection.send(b"x", type=1, metadata=IPMetadata(dscp=46, hop_limit=3))
            _, metadata = await connection.receive()
            ip = metadata.other[0].ip
            assert (metadata.type, ip.dscp, ip.hop_limit) == (1, 46, 3)
            connection.abort()


async def test_a_record_that_no_datagram_holds() -> None:
    async with NetworkConnection("127.0.0.1:9", TLV(UDP())) as connection:
        with pytest.raises(MessageTooLargeError, match="the datagram is too large"):
            await connection.send(bytes(65_507))


@pytest.mark.parametrize(
    ("datagram", "expected", "got"),
    [
        (b"", "at least 2 bytes", "0"),
        (b"\x01", "at least 2 bytes", "1"),
        (b"\x01\x03ab", "2 bytes of type and length, and 3 of the value", "4"),
        (b"\x01\x01ab", "2 bytes of type and length, and 1 of the value", "4"),
        (b"\x01\x01a\x01\x01b", "2 bytes of type and length, and 1 of the value", "6"),
    ],
)
async def test_a_datagram_that_is_no_record(datagram: bytes, expected: str, got: str) -> None:
    ours, theirs = await bytes_pair(SMALL)
    async with ours, theirs:
        await theirs.send(datagram)
        await theirs.send(b"\x02\x04fine")
        with pytest.raises(DecodingError, match=f"no record; expected {expected}, got a datagram of {got}"):
            await ours.receive()
        assert (await ours.receive()).content == b"fine"  # nothing is left of it


async def test_values_in_records_in_datagrams() -> None:
    ours, theirs = await bytes_pair(Coder(int, SMALL))
    async with ours, theirs:
        await ours.send(7)
        assert (await theirs.receive()).content == b"\x00\x017"
        await theirs.send(b"\x05\x02no")
        await theirs.send(b"\x05\x0212")
        with pytest.raises(DecodingError, match="the message is no int"):
            await ours.receive()
        content, metadata = await ours.receive()
        assert (content, metadata) == (12, CoderMetadata((TLVMetadata((DatagramMetadata(),), 5, 2),)))


async def test_a_framers_message_is_a_datagram() -> None:
    Lines.gone.clear()
    ours, theirs = await bytes_pair(Framer(Lines, UDP()))
    async with theirs:
        async with ours:
            await ours.send(b"one", metadata={"loud": True})
            assert (await theirs.receive()).content == b"one!\n"
            await theirs.send(b"two\n")
            content, metadata = await ours.receive()
            assert (content, metadata.framer, metadata.other) == (b"two", {"number": 1}, (DatagramMetadata(),))
            assert not Lines.gone
        assert (await theirs.receive()).content == b"bye\n"
    assert len(Lines.gone) == 1


@pytest.mark.parametrize(
    ("datagram", "got"), [(b"a\nb\n", "2 and 0 bytes"), (b"half", "0 and 4 bytes"), (b"one\nand half", "1 and 8 bytes")]
)
async def test_a_datagram_that_is_not_one_message(datagram: bytes, got: str) -> None:
    ours, theirs = await bytes_pair(Framer(Lines, UDP()))
    async with ours, theirs:
        await theirs.send(datagram)
        await theirs.send(b"fine\n")
        with pytest.raises(DecodingError, match=f"lines: a datagram is not one message; .*got {got} of no message"):
            await ours.receive()
        assert (await ours.receive()).content == b"fine"
        await theirs.send(b"x" * 101)
        await theirs.send(b"fine\n")
        with pytest.raises(ProtocolViolationError, match="the separator did not come in time"):
            await ours.receive()
        assert (await ours.receive()).content == b"fine"
        assert ours.state is State.READY


async def test_a_framer_that_answers_by_itself() -> None:
    ours, theirs = await bytes_pair(Framer(Lines, SMALL))
    async with ours, theirs:
        receiving = asyncio.create_task(ours.receive())
        for _ in range(2):
            await theirs.send(b"\x00\x02?\n")
        answers = [(await theirs.receive()).content for _ in range(2)]
        assert [answer[2:] for answer in answers] == [b"%d seen, by 127.0.0.1:443\n" % number for number in (1, 2)]
        await theirs.send(b"\x00\x02a\n")
        assert (await receiving).content == b"a"


@pytest.mark.parametrize(
    ("line", "error", "text"),
    [
        (b"fail\n", ProtocolViolationError, "lines: told to fail"),
        (b"mistake\n", NetworkError, "'lines' raised ZeroDivisionError"),
    ],
)
async def test_a_framer_that_fails_ends_its_connection(line: bytes, error: type[Exception], text: str) -> None:
    Lines.gone.clear()
    ours, theirs = await bytes_pair(Framer(Lines, UDP()))
    async with theirs:
        await theirs.send(line)
        with pytest.raises(error, match=text):
            await ours.receive()
        assert ours.state is State.FAILED and len(Lines.gone) == 1
        with pytest.raises(error, match=text):
            await ours.send(b"more")
        ours.abort()


async def test_a_framer_that_wakes() -> None:
    class Clock(Lines):
        def start(self, framer: FramerContext) -> bool:
            framer.schedule_wakeup(0.01)
            return super().start(framer)

        def wakeup(self, framer: FramerContext) -> None:
            self.seen += 1
            framer.write_output(b"tick %d" % self.seen)
            framer.schedule_wakeup(0.01 if self.seen < 3 else None)

    ours, theirs = await bytes_pair(Framer(Clock, UDP()))
    async with ours, theirs:
        assert [(await theirs.receive()).content for _ in range(3)] == [b"tick 1", b"tick 2", b"tick 3"]


class Greeting(Lines):
    def start(self, framer: FramerContext) -> bool:
        framer.write_output(b"hello\n")
        return False


class Above(Lines):
    def start(self, framer: FramerContext) -> bool:
        framer.prepend(SMALL)
        return True


class Raiser(Lines):
    def wakeup(self, framer: FramerContext) -> None:
        framer.deliver_input(b"out of nothing")

    def start(self, framer: FramerContext) -> bool:
        framer.schedule_wakeup(0)
        return True


@pytest.mark.parametrize(
    ("framer", "text"),
    [
        (Greeting, "a framer with a handshake stands on a byte stream.*expected start\\(\\) to return True over datagrams"),
        (Above, "TLV cannot be prepended over datagrams"),
        (Raiser, "no datagram has brought"),
    ],
)
async def test_what_framers_cannot_do_over_datagrams(framer: type[FramerProtocol], text: str) -> None:
    connection = NetworkConnection("127.0.0.1:9", Framer(framer, UDP()))
    with pytest.raises(NetworkError, match=text):
        await connection.receive()
    await until(lambda: connection.state is State.FAILED)
    connection.abort()


async def test_a_listener_has_a_framer_for_each_peer() -> None:
    async def answer(channel: NetworkConnection[Framer]) -> None:
        async for content, metadata in channel.messages:
            await channel.send(b"%b %d" % (content, metadata.framer["number"]))

    async with NetworkListener(Framer(Lines, UDP()), on="127.0.0.1:0").serving(answer) as listener:
        for _ in range(2):
            async with NetworkConnection(listener.endpoint, Framer(Lines, UDP())) as connection:
                # They wait for the socket, and keep their order.
                await asyncio.gather(*(connection.send(b"%d" % number) for number in range(10)))
                answers = [(await connection.receive()).content for _ in range(10)]
                assert answers == [b"%d %d" % (number, number + 1) for number in range(10)]
                connection.abort()


async def test_calls_that_datagrams_have_not() -> None:
    for stack, calls in (
        (SMALL, r"TLV: send\(\) has no last_message over datagrams. Its calls: send\(data, type=, metadata=\), receive\(\)"),
        (Framer(Lines, UDP()), r"Framer: send\(\) has no last_message over datagrams. Its calls: send\(data, metadata=\)"),
        (
            Coder(bytes, UDP(IP())),
            r"Coder: send\(\) has no last_message over datagrams. Its calls: send\(value, metadata=\), receive\(\)",
        ),
    ):
        ours, theirs = await memory_pair(stack)
        async with ours, theirs:
            with pytest.raises(TypeError, match=calls):
                await ours.send(b"x", last_message=True)
            with pytest.raises(TypeError, match=r"no receive_many\(\)"):
                await ours.receive_many()


async def test_a_cancelled_receive_takes_nothing() -> None:
    ours, theirs = await memory_pair(SMALL)
    async with ours, theirs:
        receiving = asyncio.create_task(ours.receive())
        await asyncio.sleep(0)
        receiving.cancel()
        await theirs.send(b"kept")
        await asyncio.wait([receiving])
        assert receiving.cancelled() and (await ours.receive()).content == b"kept"
