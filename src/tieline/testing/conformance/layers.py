"""Layers: byte-to-byte protocols without I/O, each side of which is fed with what the other gives."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from tieline.errors import NetworkError, PeerResetError
from tieline.testing.conformance.trial import difference

if TYPE_CHECKING:
    from tieline.engines.pipeline import Layer

__all__ = ["LAYER_CHECKS", "LayerCheck", "check_layer"]

LARGEST_CUT = 5000
ROUNDS = 20  # of whatever is done at random
SIZES = (0, 1, 2, 1000, 16384, 16385, 100_000)


class LayerCheck:
    """One named check. Call it with what makes a client's layer and what makes its server's, each new at every call.

    They need nobody's decision (`Layer.decision`), and whom they talk to is each other.
    """

    def __init__(self, function: Callable[[Match], None]) -> None:
        self._function = function
        self.name = function.__name__
        self.__doc__ = function.__doc__

    def __repr__(self) -> str:
        return f"<check {self.name}>"

    def __str__(self) -> str:
        return self.name

    def __call__(self, make_client: Callable[[], Layer], make_server: Callable[[], Layer]) -> None:
        """Run it. Raises AssertionError."""
        match = Match(self.name, make_client, make_server)
        try:
            self._function(match)
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"{self.name}: {match.step}: expected no error, got {error!r}") from error


class Side:
    """One layer, and what came out of it above."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.received = bytearray()

    def take(self, pieces: Sequence[bytes]) -> None:
        for piece in pieces:
            self.received += self.layer.receive(piece)


class Match:
    """What a check is given: it makes both sides and carries bytes between them."""

    def __init__(self, name: str, make_client: Callable[[], Layer], make_server: Callable[[], Layer]) -> None:
        self._name = name
        self._make_client = make_client
        self._make_server = make_server
        self.step = "making the layers"
        self.chance = random.Random(name)

    def fail(self, expected: str, got: str) -> NoReturn:
        raise AssertionError(f"{self._name}: {self.step}: expected {expected}, got {got}")

    def same(self, expected: object, got: object) -> None:
        if expected != got:
            if isinstance(expected, bytes) and isinstance(got, bytes) and max(len(expected), len(got)) > 80:
                self.fail(*difference(expected, got))
            self.fail(repr(expected), repr(got))

    def sides(self) -> tuple[Side, Side]:
        return Side(self._make_client()), Side(self._make_server())

    def cut(self, wire: bytes, largest: int = LARGEST_CUT) -> list[bytes]:
        """The same bytes in pieces; all in one if `largest` is 0."""
        pieces: list[bytes] = []
        while wire:
            size = self.chance.randint(1, largest) if largest else len(wire)
            pieces.append(wire[:size])
            wire = wire[size:]
        return pieces

    def exchange(self, client: Side, server: Side, up: bytes = b"", down: bytes = b"", largest: int = 0) -> None:
        """Carry bytes between the two until neither has anything to say."""
        while up or down:
            server.take(self.cut(up, largest))
            down += server.layer.output()
            up = b""
            client.take(self.cut(down, largest))
            up += client.layer.output()
            down = b""

    def shaken(self, largest: int = 0) -> tuple[Side, Side]:
        """Both sides, with their handshake done."""
        step, self.step = self.step, f"the handshake in {f'pieces of at most {largest} bytes' if largest else 'whole flights'}"
        client, server = self.sides()
        self.exchange(client, server, client.layer.start(), server.layer.start(), largest)
        for name, side in (("client", client), ("server", server)):
            if side.layer.decision is not None:
                self.fail(f"a {name} that needs no decision", "one that waits for one")
            if not side.layer.ready:
                self.fail(f"a {name} that is ready", "one that is not, and has nothing to say")
        self.step = step
        return client, server

    def both_ways(self) -> Iterator[tuple[str, Side, Side]]:
        """Twice a pair whose handshake is done, once for each direction."""
        client, server = self.shaken()
        yield "client to server", client, server
        client, server = self.shaken()
        yield "server to client", server, client

    def crossing(self, sender: Side, receiver: Side, wire: bytes, largest: int = 0) -> None:
        """Carry bytes one way, and whatever follows from them."""
        self.exchange(sender, receiver, wire, b"", largest)


@LayerCheck
def handshake_then_data(match: Match) -> None:
    """After the handshake data of every size pass both ways, from every kind of buffer."""
    client, server = match.shaken()
    for size in SIZES:
        there, back = match.chance.randbytes(size), match.chance.randbytes(size)
        match.step = f"{size:,} bytes each way"
        client.received.clear()
        server.received.clear()
        match.exchange(client, server, client.layer.send(bytearray(there)), server.layer.send(memoryview(back)))
        match.same(there, bytes(server.received))
        match.same(back, bytes(client.received))
    match.step = "output after everything was taken"
    match.same((b"", b""), (client.layer.output(), server.layer.output()))


@LayerCheck
def any_split(match: Match) -> None:
    """However the bytes below are cut, during the handshake and after, the same bytes come out above."""
    for largest in (1, 2, 5, 100, LARGEST_CUT):
        client, server = match.shaken(largest)
        pieces = [match.chance.randbytes(match.chance.choice(SIZES[:-1])) for _ in range(4)]
        match.step = f"pieces of at most {largest} bytes"
        wire = b"".join(client.layer.send(piece) for piece in pieces) + client.layer.end()
        match.crossing(client, server, wire, largest)
        match.same(b"".join(pieces), bytes(server.received))
        match.same(True, server.layer.ended)


@LayerCheck
def clean_end(match: Match) -> None:
    """Each direction ends on its own; after its end the layer below may end as well."""
    for way, sender, receiver in match.both_ways():
        match.step = f"the end, {way}"
        match.crossing(sender, receiver, sender.layer.send(b"question") + sender.layer.end())
        match.same((b"question", True), (bytes(receiver.received), receiver.layer.ended))
        match.same(False, sender.layer.ended)
        receiver.layer.receive_end()
        match.step = f"an answer after the end, {way}"
        answer = match.chance.randbytes(50_000)
        match.crossing(receiver, sender, receiver.layer.send(answer) + receiver.layer.end())
        match.same((answer, True), (bytes(sender.received), sender.layer.ended))
        sender.layer.receive_end()


@LayerCheck
def truncated_end(match: Match) -> None:
    """An end of the layer below that comes too early is a reset: during the handshake, between data, and inside of them."""
    for place, kept, expected in (("after", None, b"data"), ("inside", -1, b"")):
        for way, sender, receiver in match.both_ways():
            match.step = f"a stream that ends {place} data, {way}"
            cut_short(match, receiver, sender.layer.send(b"data")[:kept], expected)
    client, server = match.sides()
    flight = client.layer.start() + server.layer.start()
    for kept in sorted({0, 1, len(flight) // 2, len(flight) - 1} if flight else {0}):
        match.step = f"a stream that ends after {kept} bytes of the handshake"
        _, server = match.sides()
        server.layer.start()
        if not server.layer.ready:
            cut_short(match, server, flight[:kept], b"")


def cut_short(match: Match, side: Side, wire: bytes, expected: bytes) -> None:
    side.take([wire] if wire else [])
    match.same(expected, bytes(side.received))
    try:
        side.layer.receive_end()
    except PeerResetError:
        return
    except NetworkError as error:
        match.fail("PeerResetError", repr(error))
    match.fail("PeerResetError", "no error")


@LayerCheck
def damage(match: Match) -> None:
    """Bytes that were changed on the way, or are none of this protocol, raise nothing but `NetworkError`."""
    for number in range(ROUNDS):
        match.step = f"garbage instead of a handshake, number {number}"
        for side in match.sides():
            side.layer.start()
            survive(match, side, [match.chance.randbytes(match.chance.randint(1, 300)) for _ in range(3)])
        match.step = f"a flipped bit in the handshake, number {number}"
        client, server = match.sides()
        flight = client.layer.start()
        server.layer.start()
        if flight:
            survive(match, server, match.cut(flipped(match, flight)))
            survive(match, client, match.cut(server.layer.output()))
        for way, sender, receiver in match.both_ways():
            match.step = f"a flipped bit in the data, {way}, number {number}"
            wire = sender.layer.send(match.chance.randbytes(2000))
            survive(match, receiver, match.cut(flipped(match, wire)))
            survive(match, sender, match.cut(receiver.layer.output()))
            match.step = f"garbage after the data, {way}, number {number}"
            survive(match, sender, [match.chance.randbytes(200), b"", match.chance.randbytes(200)])


def flipped(match: Match, wire: bytes) -> bytes:
    changed = bytearray(wire)
    changed[match.chance.randrange(len(changed))] ^= 1 << match.chance.randrange(8)
    return bytes(changed)


def survive(match: Match, side: Side, pieces: list[bytes]) -> None:
    """Feed all of it, also after a fault, and take what the layer wants to say."""
    for piece in [*pieces, None]:
        try:
            if piece is None:
                side.layer.receive_end()
            else:
                side.layer.receive(piece)
        except NetworkError:
            pass  # it is what a fault is to be
        except Exception as error:
            raise AssertionError(f"{match._name}: {match.step}: expected NetworkError or none, got {error!r}") from error
        side.layer.output()


LAYER_CHECKS: tuple[LayerCheck, ...] = (handshake_then_data, any_split, clean_end, truncated_end, damage)


def check_layer(make_client: Callable[[], Layer], make_server: Callable[[], Layer]) -> None:
    """Run every check of `LAYER_CHECKS`. Raises AssertionError at the first that fails."""
    for check in LAYER_CHECKS:
        check(make_client, make_server)
