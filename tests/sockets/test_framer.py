"""Framers of one's own on real connections: handshakes, ends, mistakes, flow control, cancellation, and what stands on what."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from pathlib import Path
from typing import Any

import pytest

from tieline import (
    QUIC,
    TCP,
    TLS,
    TLV,
    ChannelClosedError,
    CloseTimeoutError,
    Coder,
    DecodingError,
    EncodingError,
    EndOfStreamError,
    Framer,
    FramerContext,
    FramerProtocol,
    IncompleteReceiveError,
    NetworkConnection,
    NetworkError,
    NetworkListener,
    Parameters,
    ProtocolViolationError,
    QUICStream,
    State,
    UInt16,
)
from tieline.protocols.roles import NetworkProtocol
from tieline.testing import memory_pair

from ..authority import LOCALHOST, TRUST
from ..engines.test_framer import Blocks, Lines
from .test_coder import bytes_pair

numbers = itertools.count()


async def shout(channel: Any) -> None:
    async for line, metadata in channel.messages:
        assert metadata.framer == {"length": len(line)}
        await channel.send(line.upper())


async def mirrored(channel: Any) -> None:
    async for content, _ in channel.messages:
        await channel.send(content)


@pytest.mark.parametrize("kind", ["TCP", "TLS", "Unix"])
async def test_a_handshake_then_messages(tmp_path: Path, kind: str) -> None:
    where = f"unix:{tmp_path / 'socket'}" if kind == "Unix" else "127.0.0.1:0"
    server = Framer(Lines, TLS(identity=LOCALHOST) if kind == "TLS" else TCP())
    client = Framer(Lines, TLS(trust=TRUST, server_name="localhost") if kind == "TLS" else TCP())
    async with (
        NetworkListener(server, on=where).serving(shout) as listener,
        NetworkConnection(listener.endpoint, client) as connection,
    ):
        await connection.send(b"quiet")
        content, metadata = await connection.receive()
        assert (content, metadata.framer, metadata.is_complete, metadata.last_message) == (b"QUIET", {"length": 5}, True, False)
        assert isinstance(connection.metadata(Framer), Lines)
        handshakes = [handshake.protocol for handshake in (await connection.establishment_report()).handshakes]
        assert handshakes == (["TCP", "TLS", "Framer"] if kind == "TLS" else ["TCP", "Framer"])


async def test_on_quic_streams() -> None:
    async def serve(connection: NetworkConnection[QUIC]) -> None:
        await connection.inbound_streams(shout, using=Framer(Lines, QUICStream()))

    async with (
        NetworkListener(QUIC(alpn=["test"], identity=LOCALHOST), on="127.0.0.1:0").serving(serve) as listener,
        NetworkConnection(listener.endpoint, QUIC(alpn=["test"], trust=TRUST, server_name="localhost")) as connection,
    ):
        for _ in range(3):
            async with await connection.open_stream(using=Framer(Lines, QUICStream())) as stream:
                assert stream.state is State.PREPARING
                await stream.send(b"quiet")
                assert (await stream.receive()).content == b"QUIET"
                assert stream.state is State.READY


async def test_on_quic_streams_that_are_opened_before_ready() -> None:
    """Their handshake begins when the connection is ready, also when what is idempotent may leave before."""

    async def serve(connection: NetworkConnection[QUIC]) -> None:
        await connection.inbound_streams(shout, using=Framer(Lines, QUICStream()))

    alpn = [f"early framer {next(numbers)}"]  # no other test's tickets
    server = QUIC(alpn=alpn, identity=LOCALHOST, early_data=True)
    client = QUIC(alpn=alpn, trust=TRUST, server_name="localhost", early_data=True)
    async with NetworkListener(server, on="127.0.0.1:0").serving(serve) as listener:
        for early in (False, True):
            async with NetworkConnection(listener.endpoint, Parameters(client, fast_open_allowed=True)) as connection:
                stream = await connection.open_stream(using=Framer(Lines, QUICStream()))
                other = await connection.open_stream(using=Framer(Lines, QUICStream()))
                assert connection.state is State.PREPARING and stream.state is State.PREPARING
                sending = asyncio.create_task(stream.send(b"quiet"))
                assert (await stream.receive()).content == b"QUIET"
                await sending
                await other.send(b"again")
                assert (await other.receive()).content == b"AGAIN"
                assert connection.security_metadata.early_data_accepted is early


async def test_a_quic_stream_whose_handshake_fails_leaves_the_others() -> None:
    class Rude(Lines):
        def start(self, framer: FramerContext) -> bool:
            framer.write_output(b"GO AWAY\n")
            return False

    async def serve(connection: NetworkConnection[QUIC]) -> None:
        await connection.inbound_streams(shout, using=Framer(Lines, QUICStream()))

    async with (
        NetworkListener(QUIC(alpn=["test"], identity=LOCALHOST), on="127.0.0.1:0").serving(serve) as listener,
        NetworkConnection(listener.endpoint, QUIC(alpn=["test"], trust=TRUST, server_name="localhost")) as connection,
    ):
        rude = await connection.open_stream(using=Framer(Rude, QUICStream()))
        with pytest.raises(NetworkError):
            await rude.receive()
        assert rude.state is State.FAILED
        with pytest.raises(NetworkError):
            await rude.send(b"more")
        async with await connection.open_stream(using=Framer(Lines, QUICStream())) as stream:
            await stream.send(b"quiet")
            assert (await stream.receive()).content == b"QUIET"


@pytest.mark.parametrize(
    "stack",
    [
        Framer(Blocks, TCP()),
        TLV(Framer(Blocks, TCP())),
        Framer(Blocks, TLV(TCP(), type_=UInt16)),
        Framer(Blocks, Framer(Blocks, TCP())),
        TLV(TLV(TCP())),
        Framer(Blocks, TLV(Framer(Blocks, TLV(TCP())))),
    ],
    ids=lambda stack: " on ".join(layer.name for layer in stack.layers),
)
async def test_messages_on_messages(stack: Any) -> None:
    contents = [b"a", b"", b"x" * 255, bytes(range(256)) * 400]
    async with (
        NetworkListener(stack, on="127.0.0.1:0").serving(mirrored) as listener,
        NetworkConnection(listener.endpoint, stack) as connection,
    ):
        for content in contents:
            await connection.send(content)
        for content in contents:
            assert (await connection.receive()).content == content


@pytest.mark.parametrize("using", ["json", "msgpack", "property-list"])
async def test_values_on_messages(using: str) -> None:
    stack: Coder[Any, Any] = Coder(dict[str, int], Framer(Blocks, TCP()), using=using)
    ours, theirs = await memory_pair(stack, Framer(Blocks, TCP()))
    async with ours, theirs:
        await ours.send({"a": 1})
        content, _ = await theirs.receive()
        for wrong in (b"x", content):
            await theirs.send(wrong, metadata={"ignored": True}, last_message=wrong is content)
        await asyncio.sleep(0.01)  # so that the end has come when the last message is taken
        with pytest.raises(DecodingError):
            await ours.receive()
        value, metadata = await ours.receive()
        assert value == {"a": 1} and metadata.last_message
        assert metadata.other[0].framer == {"more": False}
        with pytest.raises(EndOfStreamError):
            await ours.receive()


async def test_ends() -> None:
    stack = Framer(Blocks, TCP())
    ours, theirs = await memory_pair(stack, stack)
    async with ours, theirs:
        await ours.send(b"last", last_message=True)
        with pytest.raises(ChannelClosedError):
            await ours.send(b"after it")
        assert (await theirs.receive()).content == b"last"
        with pytest.raises(EndOfStreamError, match="the peer has sent its last message"):
            await theirs.receive()
        await theirs.send(b"the other direction goes on")
        assert (await ours.receive()).content == b"the other direction goes on"
        await theirs.aclose()
        assert [content async for content, _ in ours.messages] == []


async def test_an_end_within_a_message() -> None:
    async with bytes_pair(Framer(Blocks, TCP())) as (ours, theirs):
        await theirs.send(b"\x01a\x05bc", end_of_stream=True)
        assert (await ours.receive()).content == b"a"
        with pytest.raises(IncompleteReceiveError) as caught:
            await ours.receive()
        assert caught.value.partial == b"bc"
        with pytest.raises(EndOfStreamError):
            await ours.receive()


async def test_what_a_framer_refuses_is_for_that_call_only() -> None:
    async with (
        NetworkListener(Framer(Lines, TCP()), on="127.0.0.1:0").serving(shout) as listener,
        NetworkConnection(listener.endpoint, Framer(Lines, TCP())) as connection,
    ):
        with pytest.raises(EncodingError):
            await connection.send(b"a\nb")
        await connection.send(b"ab")
        assert (await connection.receive()).content == b"AB"


async def test_a_mistake_fails_its_connection_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    class Fragile(Lines):
        def handle_input(self, framer: FramerContext) -> None:
            super().handle_input(framer)
            if self.greeted and framer.parse_input(1, 1, lambda data, ended: 0):
                raise ZeroDivisionError("a bug")

    failures: list[BaseException] = []

    async def handler(channel: Any) -> None:
        try:
            await shout(channel)
        except NetworkError as error:
            failures.append(error)
            raise

    caplog.set_level(logging.CRITICAL, "tieline")
    async with (
        NetworkListener(Framer(Fragile, TCP()), on="127.0.0.1:0").serving(handler) as listener,
        NetworkConnection(listener.endpoint, Framer(Lines, TCP())) as good,
    ):
        bad = NetworkConnection(listener.endpoint, TCP())
        await bad.send(b"HELLO\nx\n")
        assert (await bad.receive(exactly=8)).content == b"HELLO\nX\n"
        await bad.send(b"without an end")
        with contextlib.suppress(NetworkError):
            while (await bad.receive()).content:
                pass
        bad.abort()
        await good.send(b"still here")
        assert (await good.receive()).content == b"STILL HERE"
    (failure,) = failures
    assert "the framer 'lines' raised ZeroDivisionError: a bug" in str(failure)
    assert isinstance(failure.__cause__, ZeroDivisionError)


async def test_a_mistake_in_sending_fails_the_connection() -> None:
    class Fragile(Blocks):
        def handle_output(self, framer: FramerContext, content: bytes, metadata: dict[str, Any] | None) -> None:
            raise KeyError("a bug")

    ours, theirs = await memory_pair(Framer(Fragile, TCP()), Framer(Blocks, TCP()))
    with pytest.raises(NetworkError, match="raised KeyError"):
        await ours.send(b"x")
    assert ours.state is State.FAILED and isinstance(ours.error, NetworkError)
    with pytest.raises(NetworkError, match="raised KeyError"):
        await ours.receive()
    theirs.abort()


async def test_a_mistake_in_a_send_that_waited_for_its_turn() -> None:
    class Fragile(Blocks):
        def handle_output(self, framer: FramerContext, content: bytes, metadata: dict[str, Any] | None) -> None:
            raise KeyError("a bug")

    async with NetworkListener(TCP(), on="127.0.0.1:0").serving(lambda channel: channel.receive(exactly=1)) as listener:
        connection = NetworkConnection(listener.endpoint, Framer(Fragile, TCP()))
        sends = [asyncio.create_task(connection.send(b"x")) for _ in range(3)]
        for outcome in await asyncio.gather(*sends, return_exceptions=True):
            assert isinstance(outcome, NetworkError) and "raised KeyError" in str(outcome)
        await asyncio.sleep(0)  # the state that it never could keep, READY, is told first
        assert connection.state is State.FAILED and "raised KeyError" in str(connection.error)


async def test_a_refused_handshake() -> None:
    class Rude(Lines):
        def start(self, framer: FramerContext) -> bool:
            framer.write_output(b"GO AWAY\n")
            return False

    async with NetworkListener(Framer(Rude, TCP()), on="127.0.0.1:0").serving(shout) as listener:
        with pytest.raises(ProtocolViolationError, match=r"handshake: lines: expected HELLO, got b'GO AWAY\\n'"):
            await NetworkConnection(listener.endpoint, Framer(Lines, TCP())).ready()


async def test_a_handshake_that_takes_too_long() -> None:
    async def silent(channel: Any) -> None:
        async for _ in channel:
            pass

    async with NetworkListener(TCP(), on="127.0.0.1:0").serving(silent) as listener:
        connection = NetworkConnection(listener.endpoint, Framer(Lines, TCP(), handshake_timeout=0.05))
        with pytest.raises(TimeoutError, match=r"handshake: .* not complete within handshake_timeout=0\.05 s"):
            await connection.ready()
        connection.abort()


async def test_wakeups() -> None:
    class Beating(Blocks):
        def start(self, framer: FramerContext) -> bool:
            framer.schedule_wakeup(0.01)
            return True

        def wakeup(self, framer: FramerContext) -> None:
            framer.write_output(b"\x04beat")
            framer.schedule_wakeup(0.01)

    async with bytes_pair(Framer(Beating, TCP())) as (ours, theirs):
        assert (await theirs.receive(exactly=15)).content == b"\x04beat" * 3
        await ours.send(b"a message")
        received = b""
        while b"\x09a message" not in received:
            received += (await theirs.receive()).content
        assert received.replace(b"\x04beat", b"") == b"\x09a message"


async def test_a_wakeup_in_the_handshake_may_fail_it() -> None:
    class Impatient(Blocks):
        def start(self, framer: FramerContext) -> bool:
            framer.schedule_wakeup(0.01)
            return False

        def wakeup(self, framer: FramerContext) -> None:
            framer.mark_failed(TimeoutError("nobody spoke"))

    async with NetworkListener(TCP(), on="127.0.0.1:0").serving(lambda channel: channel.receive(exactly=1)) as listener:
        with pytest.raises(ProtocolViolationError, match="failed: nobody spoke") as caught:
            await NetworkConnection(listener.endpoint, Framer(Impatient, TCP())).ready()
        assert isinstance(caught.value.__cause__, TimeoutError)


class Polite(Blocks):
    """Says bye with an empty block, and waits for the peer's."""

    heard = said = False

    def handle_input(self, framer: FramerContext) -> None:
        while (head := framer.read(1)) is not None:
            if head == b"\0":
                self.heard = True
                if not self.said:
                    self.said = True
                    framer.write_output(b"\0")
            elif not framer.deliver_input_no_copy(head[0]):
                return

    def stop(self, framer: FramerContext) -> bool:
        if not self.said:
            self.said = True
            framer.write_output(b"\0")
        return self.heard


async def test_closing_waits_for_the_peers_goodbye() -> None:
    async with bytes_pair(Framer(Polite, TCP())) as (ours, theirs):
        await ours.send(b"one")
        closing = asyncio.create_task(ours.aclose())
        assert (await theirs.receive(exactly=5)).content == b"\x03one\0"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await theirs.receive()  # the stream has not ended yet
        await theirs.send(b"\0")
        assert (await theirs.receive()).metadata.end_of_stream
        await closing


async def test_a_goodbye_that_does_not_come() -> None:
    async with bytes_pair(Framer(Polite, TCP()), close_timeout=0.05) as (ours, _):
        with pytest.raises(CloseTimeoutError):
            await ours.aclose()


async def sent_until_pushed_back(channel: Any, piece: bytes) -> int:
    """How many sends did not have to wait for a reader. The last one has been accepted, or was cancelled before it began."""
    for count in itertools.count():
        task = asyncio.create_task(channel.send(piece))
        done, _ = await asyncio.wait([task], timeout=0.05)
        if not done:
            task.cancel()
            await asyncio.wait([task])
            return count
    raise AssertionError


async def test_a_paused_reader_pushes_back() -> None:
    async with bytes_pair(Framer(Blocks, TCP()), receive_limit=10_000) as (ours, theirs):
        sent = await sent_until_pushed_back(theirs, b"\xc8" + b"x" * 200)
        assert 201 * sent < 3_000_000  # what both buffers and the pair hold
        for _ in range(sent):
            assert len((await ours.receive()).content) == 200


async def test_answers_that_nobody_takes_push_back() -> None:
    """A framer that answers by itself must not hold answers without end."""

    class Answering(Blocks):
        def handle_input(self, framer: FramerContext) -> None:
            while framer.read(1) is not None:
                framer.write_output(b"y" * 100)

    async with bytes_pair(Framer(Answering, TCP())) as (ours, theirs):
        sent = 5000 * await sent_until_pushed_back(theirs, b"x" * 5000)
        layer = ours._flow.layer
        assert layer.unsaid < 64 * 1024 + 100 * 256 * 1024  # one read's answers
        received = 0
        while received < sent * 100:
            received += len((await theirs.receive()).content)


async def test_a_cancelled_send_sends_all_or_nothing() -> None:
    async with bytes_pair(Framer(Blocks, TCP()), send_limit=1000) as (ours, theirs):
        big = b"x" * 4_000_000
        first = asyncio.create_task(ours.send(big))
        await asyncio.sleep(0)
        second = asyncio.create_task(ours.send(b"second"))
        await asyncio.sleep(0)
        third = asyncio.create_task(ours.send(b"third"))
        await asyncio.sleep(0)
        for task in (first, second):
            task.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        received = b""
        while not received.endswith(b"\x05third"):
            received += (await theirs.receive(at_most=1_000_000)).content
        await third
        assert b"second" not in received
        assert received.count(b"\xff") == len(big) // 255


async def test_a_cancelled_receive_takes_nothing() -> None:
    async with bytes_pair(Framer(Blocks, TCP())) as (ours, theirs):
        waiting = asyncio.create_task(ours.receive())
        await asyncio.sleep(0)
        await theirs.send(b"\x01a")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        if waiting.cancelled():
            assert (await ours.receive()).content == b"a"
        else:
            assert (await waiting).content == b"a"


class Prefix(FramerProtocol):
    """A proxy's greeting, behind which something else begins."""

    def start(self, framer: FramerContext) -> bool:
        upper: NetworkProtocol | None = framer.options.get("upper")
        if upper is not None:
            framer.prepend(upper)
        framer.write_output(b"CONNECT\n")
        return False

    def handle_input(self, framer: FramerContext) -> None:
        if framer.read_until(b"\n") is not None:
            framer.mark_ready()
            framer.pass_through_input()
            framer.pass_through_output()

    def handle_output(self, framer: FramerContext, content: bytes, metadata: dict[str, Any] | None) -> None:
        raise AssertionError("it passes everything through")


async def test_prepending_tls() -> None:
    server = Framer(Prefix, TCP(), options={"upper": TLS(identity=LOCALHOST)})
    client = Framer(Prefix, TCP(), options={"upper": TLS(trust=TRUST, server_name="localhost")})
    async with (
        NetworkListener(server, on="127.0.0.1:0").serving(mirrored) as listener,
        NetworkConnection(listener.endpoint, client) as connection,
    ):
        await connection.send(b"secret")
        assert (await connection.receive()).content == b"secret"


async def test_prepending_tls_that_does_not_trust() -> None:
    server = Framer(Prefix, TCP(), options={"upper": TLS(identity=LOCALHOST)})
    client = Framer(Prefix, TCP(), options={"upper": TLS()})
    async with NetworkListener(server, on="127.0.0.1:0").serving(mirrored) as listener:
        with pytest.raises(NetworkError, match="certificate"):
            await NetworkConnection(listener.endpoint, client).ready()


async def test_prepending_messages() -> None:
    stack = Framer(Prefix, TCP(), options={"upper": TLV(TCP())})
    async with (
        NetworkListener(stack, on="127.0.0.1:0").serving(mirrored) as listener,
        NetworkConnection(listener.endpoint, stack) as connection,
    ):
        await connection.send(b"one")
        await connection.send(b"two")
        assert [(await connection.receive()).content for _ in range(2)] == [b"one", b"two"]


async def test_calls_that_it_has_not() -> None:
    ours, theirs = await memory_pair(Framer(Blocks, TCP()))
    async with ours, theirs:
        with pytest.raises(TypeError, match=r"Framer: .*Its calls: send\(data, metadata=, last_message=\), receive\(\)"):
            await ours.receive(exactly=3)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="send_idempotent"):
            ours.send_idempotent(b"x")  # type: ignore[misc]
        with pytest.raises(TypeError, match="Framer: bytes, a buffer"):
            await ours.send("text")  # type: ignore[call-overload]


async def test_parameters_reach_it() -> None:
    stack = Parameters(Framer(Blocks, TCP()), send_limit=100)
    ours, theirs = await memory_pair(stack)
    async with ours, theirs:
        await ours.send(b"y" * 100_000)
        assert (await theirs.receive()).content == b"y" * 100_000
