"""The conformance suite: it passes over memory pairs and TLS layers, and each of its checks can fail."""

from __future__ import annotations

import asyncio
import re
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tieline import IP, TCP, TLS, UDP, EndOfStreamError, NetworkError, Parameters, UInt32
from tieline.engines.pipeline import Layer, Pipeline
from tieline.engines.tls import client_layer, server_layer
from tieline.flows.datagram import DatagramFlow
from tieline.flows.receiving import StreamReceiving
from tieline.flows.sending import StreamSending
from tieline.flows.stream import StreamFlow
from tieline.testing.certificates import certificates
from tieline.testing.conformance import (
    DATAGRAM_CHECKS,
    LAYER_CHECKS,
    PACKET_CHECKS,
    STREAM_CHECKS,
    Check,
    LayerCheck,
    check_datagrams,
    check_layer,
    check_packets,
    check_stream,
)
from tieline.testing.memory import MemoryDatagrams, MemoryStream, memory_pair

AUTHORITY = certificates()
SERVER = TLS(identity=AUTHORITY.identity("localhost"))
CLIENT = TLS(trust=AUTHORITY.trust)
HOLDS = 3 * 64 * 1024  # a pair's own buffer, what one read brings, and what TLS adds
SHORT = 0.5  # seconds of patience where something is lost

PAIRS: dict[str, Callable[[], Awaitable[Any]]] = {
    "tcp": lambda: memory_pair(TCP()),
    "tls": lambda: memory_pair(CLIENT, SERVER),
    "little room": lambda: memory_pair(Parameters(TCP(), send_limit=3000, receive_limit=5000), capacity=1000),
}


def described() -> Awaitable[Any]:
    return memory_pair(UDP(IP(metadata_received=True, receive_time_calculated=True)))


def make_client() -> Layer:
    return client_layer(CLIENT, endpoint_name="localhost", endpoint="localhost:443")


def make_server() -> Layer:
    return server_layer(SERVER, endpoint="127.0.0.1:50000")


# What keeps its promises


@pytest.mark.parametrize("transport", PAIRS)
@pytest.mark.parametrize("check", STREAM_CHECKS, ids=str)
async def test_streams_in_memory(check: Check, transport: str) -> None:
    await check(PAIRS[transport], holds=2000 if transport == "little room" else HOLDS)


@pytest.mark.parametrize("capacity", [1, 3000, 64 * 1024])
@pytest.mark.parametrize("check", DATAGRAM_CHECKS, ids=str)
async def test_datagrams_in_memory(check: Check, capacity: int) -> None:
    await check(lambda: memory_pair(UDP(), capacity=capacity))


@pytest.mark.parametrize("check", PACKET_CHECKS, ids=str)
async def test_packets_in_memory(check: Check) -> None:
    await check(described)


@pytest.mark.parametrize("check", LAYER_CHECKS, ids=str)
def test_tls_layers(check: LayerCheck) -> None:
    check(make_client, make_server)


@pytest.mark.parametrize("check", LAYER_CHECKS, ids=str)
def test_openssl_layers(check: LayerCheck, tmp_path: Path) -> None:
    assert SERVER.identity is not None
    (tmp_path / "both.pem").write_text("".join(SERVER.identity.pem()))
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "both.pem")
    client, server = TLS(ssl_context=ssl.create_default_context(cadata=AUTHORITY.pem)), TLS(ssl_context=serving)
    check(
        lambda: client_layer(client, endpoint_name="localhost", endpoint="localhost:443"),
        lambda: server_layer(server, endpoint="127.0.0.1:50000"),
    )


@pytest.mark.parametrize("check", LAYER_CHECKS, ids=str)
def test_a_pipeline_is_as_good_as_a_layer(check: LayerCheck) -> None:
    def client() -> Any:
        return Pipeline([make_client(), make_client()])

    def server() -> Any:
        return Pipeline([make_server(), make_server()])

    check(client, server)


async def test_all_at_once() -> None:
    await check_stream(PAIRS["tcp"])
    await check_datagrams(lambda: memory_pair(UDP()))
    await check_packets(described)
    check_layer(make_client, make_server)


def test_the_suite_needs_no_test_runner() -> None:
    heavy = ["pytest", "hypothesis", "cryptography"]
    program = (
        "import sys, tieline.testing.conformance, tieline.testing.memory, tieline.testing.certificates, tieline.testing.events;"
        f"print(*(name for name in {heavy!r} if name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split() == []


def test_checks_say_what_they_are() -> None:
    for checks in (STREAM_CHECKS, DATAGRAM_CHECKS, PACKET_CHECKS, LAYER_CHECKS):
        names = [str(check) for check in checks]
        assert len(set(names)) == len(names) and all(check.__doc__ for check in checks)
        assert repr(checks[0]) == f"<check {names[0]}>"


# Broken sockets


class DropsAByte(MemoryStream):
    def _arrived(self, data: memoryview) -> None:
        super()._arrived(data[:-1] if len(data) > 5000 else data)


class DeliversTwice(MemoryStream):
    def _arrived(self, data: memoryview) -> None:
        super()._arrived(data)
        super()._arrived(data)


class Reorders(MemoryStream):
    def _arrived(self, data: memoryview) -> None:
        self._incoming[:0] = data
        self._look()


class SwallowsTheEnd(MemoryStream):
    def end(self) -> None:
        self._end_sent = True


class LosesAWakeUp(MemoryStream):
    def _unblock(self) -> None:
        self._blocked = False


class DoesNotReadOn(MemoryStream):
    def resume(self) -> None:
        self._reading = True


class NeverPauses(MemoryStream):
    def pause(self) -> None:
        pass


class EndsInsteadOfResetting(MemoryStream):
    def abort(self) -> None:
        self._incoming.clear()
        self.close()


class LosesWhatIsUnread(MemoryStream):
    """A close takes back what the peer has not read yet."""

    def close(self) -> None:
        self._peer._incoming.clear()
        super().close()


BROKEN_STREAMS: list[tuple[type[MemoryStream], str, str]] = [
    (DropsAByte, "order_and_completeness", "16,384 bytes each way: expected it to happen, got nothing within 0.5 s"),
    (DeliversTwice, "order_and_completeness", "2 bytes each way: expected b'..+', got b'.+'"),
    (Reorders, "order_and_completeness", "2 bytes each way: expected b'.+', got b'.+'"),
    (SwallowsTheEnd, "half_close", "the end of the connecting side: expected it to happen, got nothing within 0.5 s"),
    (LosesAWakeUp, "order_and_completeness", "each way: expected it to happen, got nothing within 0.5 s"),
    (LosesAWakeUp, "sending_is_held_back", "going on when the peer reads: expected it to happen, got nothing"),
    (DoesNotReadOn, "sending_is_held_back", "going on when the peer reads: expected it to happen, got nothing"),
    (NeverPauses, "sending_is_held_back", r"does not read: expected at most 720,896 bytes to be accepted, got 8\d\d,\d\d\d"),
    (EndsInsteadOfResetting, "abort_resets", "while the peer aborts: expected PeerResetError, got no error"),
    (LosesWhatIsUnread, "close_drains", "closing right after 100 bytes: expected 100 bytes, got 0 bytes"),
]


@pytest.mark.parametrize(("broken", "name", "text"), BROKEN_STREAMS)
async def test_broken_stream_sockets(monkeypatch: pytest.MonkeyPatch, broken: Any, name: str, text: str) -> None:
    monkeypatch.setattr("tieline.testing.memory.MemoryStream", broken)
    await fails(STREAM_CHECKS, name, PAIRS["tcp"], text)


class MergesDatagrams(MemoryDatagrams):
    def _arrived(self, datagram: bytes, metadata: Any) -> None:
        if self._incoming:
            datagram = self._incoming.pop()[0] + datagram
        super()._arrived(datagram, metadata)


class DropsEmptyOnes(MemoryDatagrams):
    def _arrived(self, datagram: bytes, metadata: Any) -> None:
        if datagram:
            super()._arrived(datagram, metadata)


class DeliversThemTwice(MemoryDatagrams):
    def _arrived(self, datagram: bytes, metadata: Any) -> None:
        super()._arrived(datagram, metadata)
        super()._arrived(datagram, metadata)


class LosesTheWakeUp(MemoryDatagrams):
    def _unblock(self) -> None:
        self._blocked = False


BROKEN_DATAGRAMS: list[tuple[type[MemoryDatagrams], str, str]] = [
    (MergesDatagrams, "boundaries", "five datagrams, one after the other: expected it to happen, got nothing"),
    (DropsEmptyOnes, "empty_datagram", "b'': expected it to happen, got nothing"),
    (DeliversThemTwice, "boundaries", "a datagram of 2 bytes: expected "),
    (DeliversThemTwice, "receive_many", "receive_many.* expected "),
    (LosesTheWakeUp, "many_sends", "a thousand datagrams, 40 at a time: expected it to happen, got nothing"),
]


@pytest.mark.parametrize(("broken", "name", "text"), BROKEN_DATAGRAMS)
async def test_broken_datagram_sockets(monkeypatch: pytest.MonkeyPatch, broken: Any, name: str, text: str) -> None:
    monkeypatch.setattr("tieline.testing.memory.MemoryDatagrams", broken)
    await fails(DATAGRAM_CHECKS, name, lambda: memory_pair(UDP(), capacity=3000), text)


class SaysNothing(MemoryDatagrams):
    def send(self, datagram: Any, remote: Any = None, metadata: Any = None, /) -> bool:
        return super().send(datagram, remote)


class SaysItForEver(MemoryDatagrams):
    _said: Any = None

    def send(self, datagram: Any, remote: Any = None, metadata: Any = None, /) -> bool:
        self._said = metadata or self._said
        return super().send(datagram, remote, self._said)


class TellsOnlyTheFirst(MemoryDatagrams):
    def _arrived(self, datagram: bytes, metadata: Any) -> None:
        super()._arrived(datagram, self._incoming[0][1] if self._incoming else metadata)


class TellsNothing(MemoryDatagrams):
    def _arrived(self, datagram: bytes, metadata: Any) -> None:
        super()._arrived(datagram, None)


class HasAnotherClock(MemoryDatagrams):
    def _arrived(self, datagram: bytes, metadata: Any) -> None:
        super()._arrived(datagram, replace(metadata, receive_time=metadata.receive_time - 5))


BROKEN_PACKETS: list[tuple[type[MemoryDatagrams], str, str]] = [
    (SaysNothing, "congestion_and_class", r"ecn=<ECN.NOT_ECT: 0>.*dscp=5.*: expected \(<ECN.NOT_ECT: 0>, 5\), got .* 0\)"),
    (SaysItForEver, "congestion_and_class", "one without anything after one with .* expected .* got .*"),
    (TellsNothing, "congestion_and_class", "expected an IPMetadata, got none"),
    (SaysNothing, "hop_limit", "hop_limit=255: expected True, got False"),
    (SaysItForEver, "hop_limit", "hop_limit=255: expected 64, got 255"),
    (TellsOnlyTheFirst, "many_at_once", "of which five at a time say the same: expected"),
    (HasAnotherClock, "receive_time", "datagram number 0: expected True, got False"),
]


@pytest.mark.parametrize(("broken", "name", "text"), BROKEN_PACKETS)
async def test_broken_packets(monkeypatch: pytest.MonkeyPatch, broken: Any, name: str, text: str) -> None:
    monkeypatch.setattr("tieline.testing.memory.MemoryDatagrams", broken)
    await fails(PACKET_CHECKS, name, described, text)


async def fails(checks: tuple[Check, ...], name: str, make_pair: Callable[[], Awaitable[Any]], text: str) -> None:
    """The check of this name says that something is wrong, and what."""
    check = next(one for one in checks if one.name == name)
    with pytest.raises(AssertionError) as caught:
        await check(make_pair, holds=HOLDS, patience=SHORT)
    assert re.match(rf"{name}: .*{text}", str(caught.value), re.DOTALL), str(caught.value)


# A broken library, for the checks that no socket can fail


Break = Callable[[pytest.MonkeyPatch], None]
BREAKS: dict[str, Break] = {}
DATAGRAM_BREAKS: dict[str, Break] = {}


def breaking(breaks: dict[str, Break]) -> Callable[[Break], Break]:
    def register(function: Break) -> Break:
        breaks[function.__name__] = function
        return function

    return register


@breaking(BREAKS)
def receive_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes one byte more than it gives."""
    receive = StreamReceiving.receive

    async def take_more(self: StreamReceiving, **options: Any) -> Any:
        message = await receive(self, **options)
        self.inbox.take(1 if "exactly" in options else 0)
        return message

    monkeypatch.setattr(StreamReceiving, "receive", take_more)


@breaking(BREAKS)
def receive_at_least_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives one byte more than asked for."""
    receive = StreamReceiving.receive

    def give_more(self: StreamReceiving, *, at_most: int = 65536, **options: Any) -> Any:
        more = at_most != 65536 and "until" not in options
        return receive(self, at_most=at_most + more, **options)

    monkeypatch.setattr(StreamReceiving, "receive", give_more)


@breaking(BREAKS)
def receive_until(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives what stands behind the separator, too."""
    receive = StreamReceiving.receive

    async def give_more(self: StreamReceiving, **options: Any) -> Any:
        message = await receive(self, **options)
        return message._replace(content=message.content + self.inbox.take(1)) if "until" in options else message

    monkeypatch.setattr(StreamReceiving, "receive", give_more)


@breaking(BREAKS)
def receive_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has them the wrong way round."""
    monkeypatch.setattr(UInt32, "decode", classmethod(lambda cls, data: int.from_bytes(data, "little")))


@breaking(BREAKS)
def receive_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves the first byte out."""
    receive_into = StreamReceiving.receive_into

    async def leave_out(self: StreamReceiving, buffer: Any, *, exactly: bool = False) -> int:
        return await receive_into(self, memoryview(buffer)[1:], exactly=exactly) if len(buffer) > 1 else 0

    monkeypatch.setattr(StreamReceiving, "receive_into", leave_out)


@breaking(BREAKS)
def iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is an empty piece."""

    async def next_piece(self: StreamReceiving) -> Any:
        return await self.receive()

    monkeypatch.setattr(StreamReceiving, "__anext__", next_piece)


@breaking(BREAKS)
def early_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing of what it has taken."""
    incomplete = StreamReceiving._incomplete

    def forget(self: StreamReceiving, expected: int | None) -> Any:
        error = incomplete(self, expected)
        error.partial = b""
        return error

    monkeypatch.setattr(StreamReceiving, "_incomplete", forget)


@breaking(BREAKS)
def cancelled_receive_consumes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled receive has taken a byte."""
    receive = StreamReceiving.receive

    async def take_and_leave(self: StreamReceiving, **options: Any) -> Any:
        try:
            return await receive(self, **options)
        except asyncio.CancelledError:
            self.inbox.take(1)
            raise

    monkeypatch.setattr(StreamReceiving, "receive", take_and_leave)


@breaking(BREAKS)
def pending_receives_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last receive is the first to be answered."""
    receive = StreamReceiving.receive
    pending: dict[StreamReceiving, list[asyncio.Future[Any]]] = {}

    async def misordered(self: StreamReceiving, **options: Any) -> Any:
        answer = asyncio.get_running_loop().create_future()
        pending.setdefault(self, []).append(answer)
        message = await receive(self, **options)
        pending[self].pop().set_result(message)
        return await answer

    monkeypatch.setattr(StreamReceiving, "receive", misordered)


@breaking(BREAKS)
def pending_sends_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last send is the first to go."""
    pump = StreamSending.pump

    def misorder(self: StreamSending) -> None:
        if self._writers:
            self._writers.insert(0, self._writers.pop())
        pump(self)

    monkeypatch.setattr(StreamSending, "pump", misorder)


@breaking(BREAKS)
def half_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer's end ends both directions."""
    ended = StreamFlow.received_end

    def end_both(self: StreamFlow) -> None:
        ended(self)
        self.sending.end()

    monkeypatch.setattr(StreamFlow, "received_end", end_both)


@breaking(BREAKS)
def close_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    """A close does not wait for what was accepted."""

    async def finish(self: StreamFlow) -> None:
        self._close_calls()
        self._close_socket()

    monkeypatch.setattr(StreamFlow, "finish", finish)


@breaking(BREAKS)
def pending_calls_end_at_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that wait are told of an end."""
    end = EndOfStreamError("the end")
    monkeypatch.setattr(StreamFlow, "closed_error", lambda self: end)


@breaking(BREAKS)
def use_after_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receive after the close finds an end."""
    need = StreamFlow.need

    def forgive(self: StreamFlow) -> None:
        if not self.closed:
            need(self)

    monkeypatch.setattr(StreamFlow, "need", forgive)


@breaking(DATAGRAM_BREAKS)
def too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before the one that is too large are sent."""

    async def send_many(self: DatagramFlow, contents: Any) -> None:
        for content in contents:
            if len(content) > self.maximum_size:
                self._too_large(len(content), self.maximum_size)
            self._put((content,))

    monkeypatch.setattr(DatagramFlow, "send_many", send_many)


@breaking(DATAGRAM_BREAKS)
def datagram_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    """It skips every other one."""

    async def next_piece(self: DatagramFlow) -> Any:
        await self.receive()
        return await self.receive()

    monkeypatch.setattr(DatagramFlow, "next_piece", next_piece)


@breaking(DATAGRAM_BREAKS)
def datagram_cancelled_receive_consumes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receive takes before it gives."""

    async def receive(self: DatagramFlow) -> Any:
        [message] = await self.receive_many(at_most=1)
        await self._owner().driver.spawn(no_time(), "")  # type: ignore[union-attr]
        return message

    async def no_time() -> None: ...

    monkeypatch.setattr(DatagramFlow, "receive", receive)


@breaking(DATAGRAM_BREAKS)
def datagram_pending_receives_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last receive is the first to be answered."""
    take = DatagramFlow.receive
    before: list[Any] = []  # the receives that wait, in the order of their calls

    async def receive(self: DatagramFlow) -> Any:
        mine: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        before.append(mine)
        try:
            came = await take(self)
            before.pop().set_result(came)
            return await mine
        finally:
            if mine in before:
                before.remove(mine)

    monkeypatch.setattr(DatagramFlow, "receive", receive)


@breaking(DATAGRAM_BREAKS)
def datagram_pending_calls_end_at_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that wait are told of an end."""
    end = EndOfStreamError("the end")
    monkeypatch.setattr(DatagramFlow, "_closed_error", lambda self: end)


@breaking(DATAGRAM_BREAKS)
def datagram_use_after_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call after the close waits for ever."""
    monkeypatch.setattr(DatagramFlow, "_need", lambda self: None)


@pytest.mark.parametrize("name", BREAKS)
async def test_broken_streams(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    BREAKS[name](monkeypatch)
    await fails(STREAM_CHECKS, name, PAIRS["tcp"], "expected .*, got ")


@pytest.mark.parametrize("name", DATAGRAM_BREAKS)
async def test_broken_datagrams(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    DATAGRAM_BREAKS[name](monkeypatch)
    await fails(DATAGRAM_CHECKS, name.removeprefix("datagram_"), lambda: memory_pair(UDP()), "expected .*, got ")


def test_every_check_has_been_seen_to_fail() -> None:
    assert {check.name for check in STREAM_CHECKS} == BREAKS.keys() | {name for _, name, _ in BROKEN_STREAMS}
    seen = {name.removeprefix("datagram_") for name in DATAGRAM_BREAKS}
    assert {check.name for check in DATAGRAM_CHECKS} == seen | {name for _, name, _ in BROKEN_DATAGRAMS}
    assert {check.name for check in PACKET_CHECKS} == {name for _, name, _ in BROKEN_PACKETS}
    assert {check.name for check in LAYER_CHECKS} == {name for _, name, _ in BROKEN_LAYERS}


# Broken layers


class Damaged:
    """A TLS layer with one fault."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


class GivesTooLittle(Damaged):
    def receive(self, data: Any) -> bytes:
        return self._layer.receive(data)[:1000]


class GivesTwice(Damaged):
    def receive(self, data: Any) -> bytes:
        return self._layer.receive(data) * 2


class NeedsWholeHeaders(Damaged):
    def receive(self, data: Any) -> bytes:
        return self._layer.receive(data) if len(data) >= 5 else b""


class SwallowsItsEnd(Damaged):
    def end(self) -> bytes:
        return b""


class SaysNothing(Damaged):
    def output(self) -> bytes:
        return b""


class ForgivesTruncation(Damaged):
    def receive_end(self) -> None: ...


class RaisesSomethingElse(Damaged):
    def receive(self, data: Any) -> bytes:
        try:
            return self._layer.receive(data)
        except NetworkError as error:
            raise ValueError("bad") from error


BROKEN_LAYERS: list[tuple[type[Damaged], str, str]] = [
    (GivesTooLittle, "handshake_then_data", "16,384 bytes each way: expected 16,384 bytes, got 1,000 bytes"),
    (GivesTwice, "handshake_then_data", "1 bytes each way: expected b"),
    (NeedsWholeHeaders, "any_split", "the handshake in pieces of at most 1 bytes: expected a (client|server) that is ready"),
    (SwallowsItsEnd, "clean_end", "the end, .*: expected .*, got .*False"),
    (SaysNothing, "handshake_then_data", "the handshake in whole flights: expected a (client|server) that is ready, got one"),
    (ForgivesTruncation, "truncated_end", "a stream that ends after data, .*: expected PeerResetError, got no error"),
    (RaisesSomethingElse, "damage", "garbage instead of a handshake, number 0: expected NetworkError or none, got ValueError"),
]


@pytest.mark.parametrize(("broken", "name", "text"), BROKEN_LAYERS)
@pytest.mark.parametrize("side", ["client", "server"])
def test_broken_layers(broken: Any, name: str, text: str, side: str) -> None:
    check = next(one for one in LAYER_CHECKS if one.name == name)
    makers: dict[str, Callable[[], Any]] = {"client": make_client, "server": make_server}
    whole = makers[side]
    makers[side] = lambda: broken(whole())
    with pytest.raises(AssertionError) as caught:
        check(makers["client"], makers["server"])
    assert re.match(rf"{name}: .*{text}", str(caught.value), re.DOTALL), str(caught.value)
