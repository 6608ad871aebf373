"""Random operations on two hosts: sends, receives, cancellations, ends, resets, events of the network and steps of the clock.

What must hold, whatever happens (`world.py`): no byte is lost, duplicated, reordered or invented; every call ends; every state
path is legal; buffers stay under their limits; nothing is left after a close. That this would show a mistake is shown by builds
that are broken on purpose (`test_a_broken_build_is_found`).

`make test` runs 1,000 runs, the same each time; ``--hypothesis-profile=thorough`` 10,000 others. They come in shares, each a test
of its own, so that none takes long.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from tieline.flows.receiving import StreamReceiving
from tieline.flows.sending import StreamSending
from tieline.flows.stream import StreamFlow

from .world import World

CONNECTIONS = 3
TRANSPORTS = ["tcp", "tcp", "tls", "tls", "udp", "udp", "quic"]  # QUIC takes longer: its signs of life go on in virtual time
PROBABILITIES = st.sampled_from([0.0, 0.0, 0.02, 0.2])
SMALL, MIDDLE = st.integers(0, 60), st.integers(0, 3000)
SIZES = SMALL | SMALL | SMALL | MIDDLE | st.integers(4000, 8000) | st.just(20_000)
SEVERAL = st.lists(SIZES, min_size=1, max_size=3)
FORMS = st.sampled_from(["some", "exactly", "exactly", "exactly", "until", "into"])
CALLS = st.lists(st.tuples(FORMS, st.integers(1, 60) | st.integers(1, 300) | st.integers(1, 4000)), min_size=1, max_size=3)
SIDES = st.integers(0, 2 * CONNECTIONS - 1)
ENDINGS = ["half", "half", "half", "close", "close", "close", "abort"]
IMPAIRMENTS = ["down", "up", "partition", "heal", "address", "loss"]
CONDITIONS = st.fixed_dictionaries(
    {
        "latency": st.sampled_from([0.0001, 0.02]),
        "jitter": st.sampled_from([0.0, 0.01]),
        "loss": PROBABILITIES,
        "reorder": PROBABILITIES,
        "duplicate": PROBABILITIES,
        "rate": st.sampled_from([None, 50_000.0]),
    }
)


class RandomOperations(RuleBasedStateMachine):
    world: World | None = None
    peace = 0  # steps before anything ends or breaks

    @initialize(
        seed=st.integers(0, 2**16),
        transport=st.sampled_from(TRANSPORTS),
        conditions=CONDITIONS,
        limit=st.sampled_from([1000, 3000, 100_000]),
        wait=st.sampled_from([0.0, 1.0, 1.0, 1.0]),
        peace=st.sampled_from([0, 10, 20, 30, 30]),
    )
    def begin(self, seed: int, transport: str, conditions: dict[str, Any], limit: int, wait: float, peace: int) -> None:
        self.peace = peace
        self.world = World(seed, transport, conditions, limit)
        self.world.do(self.world.connect)
        self.world.advance(wait)

    def end(self, side: int) -> Any:
        assert self.world is not None
        ends = [end for pair in self.world.pairs for end in pair.ends]
        return ends[side % len(ends)]

    @precondition(lambda self: len(self.world.pairs) < CONNECTIONS)
    @rule()
    def connect(self) -> None:
        self.world.do(self.world.connect)

    @rule(side=SIDES, sizes=SEVERAL)
    def send(self, side: int, sizes: list[int]) -> None:
        self.world.do(lambda: [self.world.send(self.end(side), size, False) for size in sizes])

    @rule(side=SIDES, calls=CALLS)
    def receive(self, side: int, calls: list[tuple[str, int]]) -> None:
        self.world.do(lambda: [self.world.receive(self.end(side), how, size) for how, size in calls])

    @rule(side=SIDES, there=st.integers(1, 60), missing=st.integers(1, 60), behind=CALLS)
    def starve(self, side: int, there: int, missing: int, behind: list[tuple[str, int]]) -> None:
        """A receive that lacks something, with others behind it: chance alone hardly ever arranges that."""
        end = self.end(side)
        self.world.do(lambda: [self.world.receive(end, how, size) for how, size in (("exactly", there + missing), *behind)])
        self.world.do(lambda: self.world.send(end.other, there, False))

    @rule(side=SIDES, kind=st.sampled_from(["receive", "receive", "send", "close"]), which=st.sampled_from([0, 0, 0, 1, 2]))
    def cancel(self, side: int, kind: str, which: int) -> None:
        self.world.do(lambda: self.world.cancel(self.end(side), kind, which))

    @precondition(lambda self: self.peace < 0)
    @rule(side=SIDES, size=SIZES, what=st.sampled_from(ENDINGS))
    def finish(self, side: int, size: int, what: str) -> None:
        end = self.end(side)
        if what == "half":
            self.world.do(lambda: self.world.send(end, size, True))
        elif what == "close":
            self.world.do(lambda: end.start(end.close()))
        else:
            self.world.do(end.abort)

    @precondition(lambda self: self.peace < 0)
    @rule(what=st.sampled_from(IMPAIRMENTS))
    def impair(self, what: str) -> None:
        self.world.do(lambda: self.world.impair(what))

    @rule()
    def calm(self) -> None:
        self.world.calm()

    @rule(seconds=st.sampled_from([0.0005, 0.03, 0.03, 1.0, 1.0, 1.0, 30.0]))
    def advance(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule()
    def turn(self) -> None:
        self.world.turn()

    @invariant()
    def holds(self) -> None:
        self.peace -= 1
        if self.world is not None:
            self.world.check()

    def teardown(self) -> None:
        if self.world is not None:
            try:
                self.world.settle()
            finally:
                self.world.close()


QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
THOROUGH = settings().max_examples > 1000
RUNS, SHARES = (10_000, 40) if THOROUGH else (1000, 4)


@pytest.mark.parametrize("share", range(SHARES))
def test_random_operations(share: int) -> None:
    machine = type(f"RandomOperations{share}", (RandomOperations,), {})  # what is chosen follows from the name, too
    chosen = settings(max_examples=RUNS // SHARES, stateful_step_count=40, derandomize=not THOROUGH, **QUIET)
    run_state_machine_as_test(machine, settings=chosen)


# Broken builds


def lost_wake_up(patch: pytest.MonkeyPatch) -> None:
    """Calls that wait are not told of the peer's end."""

    def ended(self: StreamReceiving) -> None:
        self.inbox.ended = True

    patch.setattr(StreamReceiving, "ended", ended)


def swallowed_half_close(patch: pytest.MonkeyPatch) -> None:
    """The peer's end is not noticed while bytes before it wait to be read."""
    original = StreamFlow.received_end

    def received_end(self: StreamFlow) -> None:
        if not self.receiving.inbox.size:
            original(self)

    patch.setattr(StreamFlow, "received_end", received_end)


def off_by_one(patch: pytest.MonkeyPatch) -> None:
    """Of what the kernel did not take, the first byte is lost."""
    original = StreamSending._keep

    def keep(self: StreamSending, wire: bytes, taken: int) -> Coroutine[Any, Any, None]:
        return original(self, wire[:taken] + wire[taken + 1 :], taken)

    patch.setattr(StreamSending, "_keep", keep)


@pytest.mark.parametrize("mutation", [lost_wake_up, swallowed_half_close, off_by_one], ids=lambda one: one.__name__)
def test_a_broken_build_is_found(mutation: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    few = settings(max_examples=200, derandomize=True, phases=[Phase.generate], stateful_step_count=40, **QUIET)
    with pytest.raises((AssertionError, BaseExceptionGroup)):
        run_state_machine_as_test(RandomOperations, settings=few)
