"""Layers on top of each other: simple ones that show the order of things, and TLS in TLS."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tieline.engines.pipeline import Layer, Pipeline
from tieline.engines.tls import client_layer, server_layer
from tieline.errors import PeerResetError, TLSError
from tieline.identity import Identity, Trust
from tieline.protocols.tls import TLS


class Brackets:
    """A toy layer: says hello by its letter, wraps what is sent in brackets, and ends with ``.``"""

    early_data_accepted = False

    def __init__(self, letter: str, *, asks: bool = False) -> None:
        self.name = letter
        self.ready = self.ended = False
        self.decision: Awaitable[bool] | None = None
        self.calls: list[str] = []
        self._asks = asks
        self._out = b""

    def start(self) -> bytes:
        self.calls.append("start")
        return self.name.encode()

    def receive(self, data: Any) -> bytes:
        text = bytes(data)
        if not self.ready and text.startswith(self.name.encode()):
            text = text[1:]
            if self._asks:
                self.decision = asyncio.sleep(0, True)
            else:
                self.ready = True
            self._out += b"!"  # like the second flight of a handshake
        if text.endswith(b"."):
            self.ended, text = True, text[:-1]
        return text.removeprefix(b"!").replace(b"(", b"").replace(b")", b"")

    def receive_end(self) -> None:
        self.calls.append("receive_end")
        if not self.ended:
            raise PeerResetError(f"{self.name} cut short")

    def send(self, data: Any) -> bytes:
        return self.output() + b"(" + bytes(data) + b")"

    def send_early(self, data: Any) -> int:
        self._out += b"early:" + bytes(data)
        return len(data)

    def end(self) -> bytes:
        return self.output() + b"."

    def output(self) -> bytes:
        out, self._out = self._out, b""
        return out

    def decided(self, accepted: bool, error: BaseException | None = None) -> bytes:
        if self.decision is not None:
            self.decision.close()  # type: ignore[attr-defined]
        self.decision = None
        if not accepted:
            raise TLSError("refused") from error
        self.ready = True
        return b""

    def metadata(self) -> object:
        return self.name


def test_a_pipeline_needs_a_layer() -> None:
    with pytest.raises(ValueError, match="at least one layer, got none"):
        Pipeline([])


def test_one_layer() -> None:
    layer = Brackets("A")
    pipeline = Pipeline([layer])
    assert (pipeline.start(), pipeline.ready, pipeline.handshakes()) == (b"A", False, [])
    assert pipeline.send_early(b"x") == 1 and pipeline.output() == b"early:x"
    assert pipeline.receive(b"Ahello") == b"hello" and pipeline.ready
    assert pipeline.handshakes() == ["A"] and pipeline.handshakes() == []
    assert pipeline.output() == b"!" and pipeline.output() == b""
    assert pipeline.send(b"data") == b"(data)"
    assert pipeline.receive(memoryview(b"(more)")) == b"more"
    assert [pipeline.ended, pipeline.receive(b"."), pipeline.ended] == [False, b"", True]
    pipeline.receive_end()
    assert pipeline.end() == b"."


def test_a_layer_starts_when_the_one_below_is_ready() -> None:
    lower, upper = Brackets("A"), Brackets("B")
    pipeline = Pipeline([lower, upper])
    assert pipeline.start() == b"A" and upper.calls == []
    assert pipeline.send_early(b"x") == 0  # it would be for the upper one
    assert (pipeline.receive(b"A"), upper.calls, pipeline.ready) == (b"", ["start"], False)
    assert pipeline.handshakes() == ["A"]
    assert pipeline.output() == b"!(B)"
    assert pipeline.send_early(b"x") == 1 and pipeline.output() == b"(early:x)"
    assert pipeline.receive(b"(Bhello)") == b"hello" and pipeline.ready and pipeline.handshakes() == ["B"]
    assert pipeline.output() == b"(!)"
    assert pipeline.send(b"data") == b"((data))"
    assert pipeline.receive(b"((data))") == b"data"
    assert pipeline.end() == b"(.)."
    assert pipeline.layers == (lower, upper)


def test_both_handshakes_and_data_in_one_piece() -> None:
    pipeline = Pipeline([Brackets("A"), Brackets("B"), Brackets("C")])
    pipeline.start()
    assert pipeline.receive(b"ABChello") == b"hello" and pipeline.handshakes() == ["A", "B", "C"]
    assert pipeline.output() == b"!(B)(!(C))((!))"


def test_first_flights_come_before_what_is_sent_next() -> None:
    pipeline = Pipeline([Brackets("A"), Brackets("B")])
    pipeline.start()
    pipeline.receive(b"AB")
    assert pipeline.send(b"data") == b"!(B)(!(data))"


def test_an_undecided_layer_holds_the_ones_above_back() -> None:
    lower, upper = Brackets("A", asks=True), Brackets("B", asks=True)
    pipeline = Pipeline([lower, upper])
    pipeline.start()
    assert pipeline.receive(b"AB") == b"" and upper.calls == []
    assert pipeline.decision is lower.decision is not None
    assert pipeline.decided(True) == b"" and upper.calls == ["start"] and pipeline.handshakes() == ["A"]
    assert pipeline.decision is upper.decision is not None  # its greeting had come early and was kept
    cause = KeyError("x")
    with pytest.raises(TLSError, match="refused") as caught:
        pipeline.decided(False, cause)
    assert caught.value.__cause__ is cause and not pipeline.ready and pipeline.handshakes() == []


def test_the_end_of_the_transport_is_judged_from_below() -> None:
    lower, upper = Brackets("A"), Brackets("B")
    pipeline = Pipeline([lower, upper])
    pipeline.start()
    with pytest.raises(PeerResetError, match="A cut short"):
        pipeline.receive_end()
    assert "receive_end" not in upper.calls
    pipeline.receive(b"AB")
    lower.ended = True
    with pytest.raises(PeerResetError, match="B cut short"):
        pipeline.receive_end()
    lower.ended, upper.ended = False, True
    pipeline.receive_end()  # the top had its end: nothing is missing


# TLS in TLS.


PROXY = Identity.self_signed("proxy.example")
ORIGIN = Identity.self_signed("origin.example")


def tls_in_tls(*, trust_origin: Trust | None = None) -> tuple[Pipeline, Pipeline]:
    trust = trust_origin or Trust.certificates(ORIGIN)
    client: list[Layer] = [
        client_layer(TLS(trust=Trust.certificates(PROXY)), endpoint_name="proxy.example", endpoint="proxy.example:443"),
        client_layer(TLS(trust=trust), endpoint_name="origin.example", endpoint="origin.example:443"),
    ]
    server: list[Layer] = [server_layer(TLS(identity=identity), endpoint="client") for identity in (PROXY, ORIGIN)]
    return Pipeline(client), Pipeline(server)


def exchange(client: Pipeline, server: Pipeline, up: bytes, down: bytes = b"", step: int = 1 << 20) -> tuple[bytes, bytes]:
    """Carry bytes until neither has anything to say; returns what each received."""
    at_client = at_server = b""
    while up or down:
        for start in range(0, len(up), step):
            at_server += server.receive(up[start : start + step])
        down += server.output()
        for start in range(0, len(down), step):
            at_client += client.receive(down[start : start + step])
        up, down = client.output(), b""
    return at_client, at_server


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_tls_in_tls(step: int) -> None:
    client, server = tls_in_tls()
    exchange(client, server, client.start(), server.start(), step)
    assert client.ready and server.ready
    assert client.handshakes() == server.handshakes() == ["TLS", "TLS"]
    assert exchange(client, server, client.send(b"ping" * 9000), server.send(b"pong" * 9000), step) == (
        b"pong" * 9000,
        b"ping" * 9000,
    )
    names = [layer.metadata().server_name for layer in client.layers]  # type: ignore[attr-defined]
    assert names == ["proxy.example", "origin.example"]
    exchange(client, server, client.end(), server.end(), step)
    assert client.ended and server.ended
    client.receive_end()
    server.receive_end()


def test_the_origins_certificate_is_judged_by_the_upper_layer() -> None:
    client, server = tls_in_tls(trust_origin=Trust.certificates(PROXY))
    with pytest.raises(TLSError, match=r"origin\.example:443, handshake: the peer's certificate is not signed by") as caught:
        exchange(client, server, client.start())
    assert caught.value.reason == "unknown_authority" and not client.ready and client.handshakes() == ["TLS"]
    # The alert goes out through the lower layer, which works.
    with pytest.raises(TLSError, match="client, handshake: the peer refused our certificate"):
        server.receive(client.output())


def test_the_proxys_end_cuts_the_upper_layer_short() -> None:
    client, server = tls_in_tls()
    exchange(client, server, client.start())
    client.receive(server.layers[0].end())
    assert not client.ended
    with pytest.raises(PeerResetError, match=r"origin\.example:443, transfer: TLS cut short"):
        client.receive_end()


@given(data=st.binary(max_size=60_000), cuts=st.lists(st.integers(1, 30_000), max_size=12))
@settings(max_examples=40)
def test_any_split_gives_the_same_plaintext(data: bytes, cuts: list[int]) -> None:
    client, server = tls_in_tls()
    exchange(client, server, client.start())
    wire, got = client.send(data) + client.end(), b""
    while wire:
        cut = cuts.pop() if cuts else len(wire)
        got += server.receive(wire[:cut])
        wire = wire[cut:]
    assert got == data and server.ended
