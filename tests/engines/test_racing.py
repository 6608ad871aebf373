"""The Happy Eyeballs race in virtual time: every schedule is exact, in milliseconds after the start.

Addresses are short names, a1 and a2 from A answers, b1 and b2 from AAAA answers.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, assert_never

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieline.establishment.racing import Action, Attempt, Cancel, Failure, Family, Lost, Race, Resolve, Won

BOTH: tuple[Family, ...] = (4, 6)
REFUSED = ConnectionRefusedError("refused")
NO_NAME = OSError("no such name")
BAD_CERTIFICATE = Exception("certificate expired")


def alternate(addresses: Sequence[str]) -> list[str]:
    """Order b1, a1, b2, a2 and so on: IPv6 first, then alternating."""
    return sorted(addresses, key=lambda address: (address[1:], address[0] != "b"))


def race(families: Sequence[Family] = BOTH, *, attempt_delay: float = 0.25) -> Race[str]:
    return Race(order=alternate, families=families, attempt_delay=attempt_delay)


@dataclass
class Host:
    """What a host does, in milliseconds after an attempt began; a silent one does nothing."""

    transport: int | None = None
    ready: int | None = None
    fails: int | None = None
    error: Exception = REFUSED
    fatal: bool = False


SILENT = Host()
Answers = dict[Family, tuple[int, list[str] | Exception]]


@dataclass
class Simulation:
    """Carries out what a race says, in virtual time, and writes it down."""

    race: Race[str]
    answers: Answers
    hosts: dict[str, Host]
    log: list[str] = field(default_factory=list[str])
    lost: Lost[str] | None = None
    now: float = 0.0
    _events: list[tuple[float, int, Callable[[], list[Action[str]]]]] = field(
        default_factory=list[tuple[float, int, Callable[[], list[Action[str]]]]]
    )
    _sequence: itertools.count[int] = field(default_factory=itertools.count)

    def run(self, literals: Sequence[str] = ()) -> list[str]:
        """Start the race and return the log once nothing more can happen."""
        self._carry_out(self.race.start(self.now, literals))
        return self.settle()

    def next_endpoint(self, at: int) -> list[str]:
        """Ask for the next endpoint and return what was logged since."""
        del self.log[:]
        self.now = at / 1000
        self._carry_out(self.race.next_endpoint(self.now))
        return self.settle()

    def settle(self) -> list[str]:
        while True:
            timeout = self.race.timeout()
            if self._events and (timeout is None or self._events[0][0] <= timeout):
                self.now, _, happen = heapq.heappop(self._events)
                self._carry_out(happen())
            elif timeout is not None:
                self.now = timeout
                actions = self.race.expired(self.now)
                assert actions, "a timer that does nothing"
                self._carry_out(actions)
            else:
                return self.log

    def _later(self, delay: int, happen: Callable[[], list[Action[str]]]) -> None:
        heapq.heappush(self._events, (self.now + delay / 1000, next(self._sequence), happen))

    def _carry_out(self, actions: list[Action[str]]) -> None:
        for action in actions:
            text = ""
            match action:
                case Resolve(family):
                    text = f"resolve {family}"
                    if family in self.answers:
                        delay, answer = self.answers[family]
                        self._later(delay, partial(self._answer, family, answer))
                case Attempt(id, address):
                    text = f"try {address}"
                    self._connect(id, self.hosts.get(address, SILENT))
                case Cancel(id):
                    text = f"cancel {id}"
                case Won(_, address):
                    text = f"won {address}"
                case Lost(failures):
                    text = f"lost {len(failures)}"
                    self.lost = action
                case _:
                    assert_never(action)
            self.log.append(f"{round(self.now * 1e6) / 1e3:g} {text}")

    def _answer(self, family: Family, answer: list[str] | Exception) -> list[Action[str]]:
        if isinstance(answer, Exception):
            return self.race.resolution_failed(self.now, family, answer)
        return self.race.resolved(self.now, family, answer)

    def _connect(self, id: int, host: Host) -> None:
        # A cancelled attempt goes on here, so every test also shows that what comes too late is ignored.
        if host.transport is not None:
            self._later(host.transport, lambda: self.race.progressed(self.now, id))
        if host.ready is not None:
            self._later(host.ready, lambda: self.race.succeeded(self.now, id))
        if host.fails is not None:
            end = self.race.fatal if host.fatal else self.race.failed
            self._later(host.fails, lambda: end(self.now, id, host.error))


ASKED = ["0 resolve 6", "0 resolve 4"]


def schedule(answers: Answers, **hosts: Host) -> list[str]:
    log = Simulation(race(), answers, hosts).run()
    assert log[:2] == ASKED
    return log[2:]


class TestResolution:
    def test_ipv6_first_starts_at_once(self) -> None:
        assert schedule({6: (20, ["b1"]), 4: (90, ["a1"])}, b1=Host(ready=30)) == ["20 try b1", "50 won b1"]

    def test_ipv4_first_waits_for_the_resolution_delay(self) -> None:
        assert schedule({4: (30, ["a1"]), 6: (500, ["b1"])}, a1=Host(ready=20)) == ["80 try a1", "100 won a1"]

    def test_ipv6_within_the_resolution_delay_goes_first(self) -> None:
        assert schedule({4: (30, ["a1"]), 6: (79, ["b1"])}, b1=Host(ready=20)) == ["79 try b1", "99 won b1"]

    def test_ipv6_that_never_answers_costs_only_the_resolution_delay(self) -> None:
        assert schedule({4: (30, ["a1"])}, a1=Host(ready=20)) == ["80 try a1", "100 won a1"]

    @pytest.mark.parametrize("negative", [[], NO_NAME])
    def test_a_negative_ipv6_answer_ends_the_wait(self, negative: list[str] | Exception) -> None:
        assert schedule({4: (30, ["a1"]), 6: (40, negative)}, a1=Host(ready=20)) == ["40 try a1", "60 won a1"]
        assert schedule({6: (10, negative), 4: (30, ["a1"])}, a1=Host(ready=20)) == ["30 try a1", "50 won a1"]

    @pytest.mark.parametrize("negative", [[], NO_NAME])
    def test_a_negative_ipv4_answer_starts_nothing(self, negative: list[str] | Exception) -> None:
        assert schedule({4: (10, negative), 6: (200, ["b1"])}, b1=Host(ready=20)) == ["200 try b1", "220 won b1"]

    def test_only_one_family_is_asked(self) -> None:
        log = Simulation(race([4]), {4: (30, ["a1"])}, {"a1": Host(ready=20)}).run()
        assert log == ["0 resolve 4", "30 try a1", "50 won a1"]

    def test_both_families_fail(self) -> None:
        simulation = Simulation(race(), {6: (10, NO_NAME), 4: (30, NO_NAME)}, {})
        assert simulation.run() == [*ASKED, "30 lost 0"]
        assert simulation.lost == Lost((), {6: NO_NAME, 4: NO_NAME})

    def test_a_name_without_addresses_is_told_apart_from_a_failure(self) -> None:
        simulation = Simulation(race(), {6: (10, []), 4: (30, [])}, {})
        assert simulation.run() == [*ASKED, "30 lost 0"]
        assert simulation.lost == Lost((), {})

    def test_an_answer_is_awaited_when_all_known_addresses_failed(self) -> None:
        assert schedule({6: (10, ["b1"]), 4: (900, ["a1"])}, b1=Host(fails=5), a1=Host(ready=20)) == [
            "10 try b1",
            "900 try a1",
            "920 won a1",
        ]

    def test_late_answers_are_placed_as_if_known_from_the_start(self) -> None:
        # b1, a1, b2, a2, b3, a3 without a1, which had its turn.
        assert schedule({4: (0, ["a1", "a2", "a3"]), 6: (100, ["b1", "b2", "b3"])}, a3=Host(ready=5)) == [
            "50 try a1",
            "300 try b1",
            "550 try b2",
            "800 try a2",
            "1050 try b3",
            "1300 try a3",
            "1305 won a3",
            *(f"1305 cancel {id}" for id in range(1, 6)),
        ]

    def test_a_late_answer_starts_at_once_when_the_delay_has_passed_long_ago(self) -> None:
        assert schedule({6: (0, ["b1"]), 4: (400, ["a1"])}, a1=Host(ready=20)) == [
            "0 try b1",
            "400 try a1",
            "420 won a1",
            "420 cancel 1",
        ]

    def test_a_further_answer_replaces_the_first(self) -> None:
        machine = race([6])
        machine.start(0)
        assert machine.resolved(0, 6, ["b1", "b2"]) == [Attempt(1, "b1")]
        assert machine.resolved(0.1, 6, ["b3"]) == []
        assert machine.failed(0.2, 1, REFUSED) == [Attempt(2, "b3")]
        assert machine.failed(0.3, 2, REFUSED)[0] == Lost(machine.failures, {})

    def test_a_further_answer_does_not_prolong_the_wait_for_ipv6(self) -> None:
        machine = race()
        machine.start(0)
        machine.resolved(0.03, 4, ["a1"])
        machine.resolved(0.06, 4, ["a1", "a2"])
        assert machine.timeout() == pytest.approx(0.08)

    def test_an_answer_makes_up_for_an_earlier_error(self) -> None:
        machine = race()
        machine.start(0)
        machine.resolution_failed(0, 6, NO_NAME)
        assert machine.resolved(0.1, 6, ["b1"]) == [Attempt(1, "b1")]
        machine.resolved(0.1, 4, [])
        assert machine.failed(0.2, 1, REFUSED) == [Lost(machine.failures, {})]

    def test_what_is_ordered_does_not_depend_on_who_answers_first(self) -> None:
        orders: list[list[str]] = []

        def record(addresses: Sequence[str]) -> list[str]:
            orders.append(list(addresses))
            return []

        arrivals: list[tuple[Family, Family]] = [(4, 6), (6, 4)]
        for first, second in arrivals:
            machine = Race[str](order=record, families=BOTH)
            machine.start(0, ["a9"])
            machine.resolved(0, first, [f"{first}"])
            machine.resolved(0, second, [f"{second}"])
            assert orders[-1] == ["a9", "6", "4"]

    def test_an_address_that_comes_twice_is_tried_once(self) -> None:
        # An address that is known already is treated like an answer: the first attempt waits for AAAA.
        simulation = Simulation(race([6]), {6: (5, ["b1", "b1"])}, {"b1": Host(fails=300)})
        assert simulation.run(["b1", "b1"]) == ["0 resolve 6", "5 try b1", "305 lost 1"]
        assert simulation.race.address_counts == {6: 1}

    def test_literal_addresses_need_no_resolution(self) -> None:
        simulation = Simulation(race([]), {}, {"a1": Host(ready=20)})
        assert simulation.run(["a1"]) == ["0 try a1", "20 won a1"]
        assert simulation.race.address_counts == {}

    def test_nothing_to_try_and_nobody_to_ask(self) -> None:
        assert race([]).start(0) == [Lost((), {})]


class TestAttempts:
    def test_the_worked_schedule(self) -> None:
        """The schedule of the reference, without the HTTPS record."""
        assert schedule(
            {4: (30, ["a1", "a2"]), 6: (45, ["b1", "b2"])},
            b1=Host(fails=15),
            a1=Host(transport=280, ready=330),
        ) == ["45 try b1", "60 try a1", "310 try b2", "390 won a1", "390 cancel 3"]

    def test_an_ipv6_blackhole_costs_one_attempt_delay(self) -> None:
        assert schedule({6: (10, ["b1", "b2", "b3"]), 4: (10, ["a1"])}, a1=Host(ready=30)) == [
            "10 try b1",
            "260 try a1",
            "290 won a1",
            "290 cancel 1",
        ]

    def test_a_slow_first_attempt_may_still_win(self) -> None:
        assert schedule({6: (0, ["b1"]), 4: (0, ["a1"])}, b1=Host(ready=270), a1=Host(ready=30)) == [
            "0 try b1",
            "250 try a1",
            "270 won b1",
            "270 cancel 2",
        ]

    def test_a_refusal_starts_the_next_at_once(self) -> None:
        assert schedule({6: (0, ["b1"]), 4: (0, ["a1"])}, b1=Host(fails=12), a1=Host(ready=30)) == [
            "0 try b1",
            "12 try a1",
            "42 won a1",
        ]

    def test_refusals_at_once_are_spaced_by_the_floor(self) -> None:
        refusing = Host(fails=0)
        simulation = Simulation(
            race(), {6: (0, ["b1", "b2"]), 4: (0, ["a1", "a2"])}, dict.fromkeys(("b1", "b2", "a1", "a2"), refusing)
        )
        assert simulation.run() == [*ASKED, "0 try b1", "10 try a1", "20 try b2", "30 try a2", "30 lost 4"]

    def test_an_earlier_attempt_that_fails_makes_room_too(self) -> None:
        assert schedule({6: (0, ["b1", "b2"]), 4: (0, ["a1"])}, b1=Host(fails=300), b2=Host(ready=30)) == [
            "0 try b1",
            "250 try a1",
            "300 try b2",
            "330 won b2",
            "330 cancel 2",
        ]

    def test_both_families_dead(self) -> None:
        unreachable = OSError("no route")
        hosts = {"b1": Host(fails=3000, error=TimeoutError("silence")), "a1": Host(fails=1000, error=unreachable)}
        simulation = Simulation(race(), {6: (0, ["b1"]), 4: (0, ["a1"])}, hosts)
        assert simulation.run() == [*ASKED, "0 try b1", "250 try a1", "3000 lost 2"]
        assert simulation.lost is not None
        # In the order of the starts, although a1 failed first.
        assert [(failure.address, failure.started, failure.ended) for failure in simulation.lost.failures] == [
            ("b1", 0.0, 3.0),
            ("a1", 0.25, 1.25),
        ]
        assert simulation.lost.failures[1].error is unreachable

    def test_failures_and_resolution_errors_are_told_together(self) -> None:
        simulation = Simulation(race(), {6: (0, NO_NAME), 4: (0, ["a1"])}, {"a1": Host(fails=20)})
        assert simulation.run() == [*ASKED, "0 try a1", "20 lost 1"]
        assert simulation.lost == Lost((Failure(1, "a1", 0.0, 0.02, REFUSED),), {6: NO_NAME})

    def test_a_fatal_failure_ends_the_race(self) -> None:
        bad = Host(fails=300, error=BAD_CERTIFICATE, fatal=True)
        simulation = Simulation(race(), {6: (0, ["b1", "b2"]), 4: (0, ["a1"])}, {"b1": bad})
        assert simulation.run() == [*ASKED, "0 try b1", "250 try a1", "300 cancel 2", "300 lost 1"]
        assert simulation.lost is not None
        assert simulation.lost.fatal is not None
        assert simulation.lost.fatal.error is BAD_CERTIFICATE
        assert simulation.race.next_endpoint(1) == []

    @pytest.mark.parametrize(("delay", "second"), [(0.01, "10 try a1"), (0.1, "100 try a1"), (2.0, "2000 try a1")])
    def test_the_attempt_delay_may_be_chosen(self, delay: float, second: str) -> None:
        simulation = Simulation(race(attempt_delay=delay), {6: (0, ["b1"]), 4: (0, ["a1"])}, {})
        assert simulation.run()[3] == second

    @pytest.mark.parametrize("delay", [0.0, 0.0099, 2.1, float("nan")])
    def test_an_attempt_delay_out_of_bounds_is_refused(self, delay: float) -> None:
        with pytest.raises(ValueError, match=r"between 0\.01 and 2\.0 seconds \(0\.1 or more is recommended\), not"):
            race(attempt_delay=delay)

    @pytest.mark.parametrize("delay", [-1, float("nan"), float("inf")])
    def test_a_resolution_delay_out_of_bounds_is_refused(self, delay: float) -> None:
        with pytest.raises(ValueError, match="resolution_delay must be 0 or more seconds, not"):
            Race[str](order=alternate, families=BOTH, resolution_delay=delay)


class TestHandshakes:
    def test_a_stalled_handshake_does_not_win(self) -> None:
        """TCP of b1 is up after 20 ms and TLS never comes: the timer is extended once, then a1 has its turn."""
        assert schedule({6: (0, ["b1"]), 4: (0, ["a1"])}, b1=Host(transport=20), a1=Host(transport=20, ready=40)) == [
            "0 try b1",
            "270 try a1",
            "310 won a1",
            "310 cancel 1",
        ]

    def test_a_slow_handshake_wins_without_a_second_attempt(self) -> None:
        b1 = Host(transport=150, ready=350)
        assert schedule({6: (0, ["b1"]), 4: (0, ["a1"])}, b1=b1) == ["0 try b1", "350 won b1"]

    def test_a_failed_handshake_starts_the_next_at_once(self) -> None:
        b1 = Host(transport=150, fails=200)
        assert schedule({6: (0, ["b1"]), 4: (0, ["a1"])}, b1=b1, a1=Host(ready=20)) == [
            "0 try b1",
            "200 try a1",
            "220 won a1",
        ]

    def test_an_earlier_attempt_extends_the_timer_too(self) -> None:
        b1 = Host(transport=300, ready=600)
        assert schedule({6: (0, ["b1", "b2"]), 4: (0, ["a1"])}, b1=b1) == [
            "0 try b1",
            "250 try a1",
            "550 try b2",
            "600 won b1",
            "600 cancel 2",
            "600 cancel 3",
        ]

    def test_progress_does_not_put_off_the_replacement_of_a_failed_attempt(self) -> None:
        machine = race([])
        assert machine.start(0, ["b1", "a1", "b2"]) == [Attempt(1, "b1")]
        assert machine.expired(0.25) == [Attempt(2, "a1")]
        assert machine.failed(0.252, 2, REFUSED) == []
        assert machine.progressed(0.255, 1) == []
        assert machine.timeout() == pytest.approx(0.26)

    def test_progress_puts_off_addresses_that_come_later(self) -> None:
        assert schedule({6: (0, ["b1"]), 4: (400, ["a1"])}, b1=Host(transport=390, ready=500)) == [
            "0 try b1",
            "500 won b1",
        ]


class TestNextEndpoint:
    ANSWERS: ClassVar[Answers] = {6: (0, ["b1", "b2"]), 4: (0, ["a1", "a2"])}

    def test_losers_and_untried_addresses_follow_in_order(self) -> None:
        simulation = Simulation(race(), self.ANSWERS, {"a1": Host(ready=30), "b2": Host(fails=5)})
        assert simulation.run()[2:] == ["0 try b1", "250 try a1", "280 won a1", "280 cancel 1"]
        assert simulation.next_endpoint(at=1000) == ["1000 try b1", "1250 try b2", "1260 try a2"]
        assert simulation.race.preferred == "b1"

    def test_addresses_that_failed_are_left_out(self) -> None:
        hosts = {"b1": Host(fails=15), "a1": Host(ready=10), "b2": Host(ready=10), "a2": Host(fails=20)}
        simulation = Simulation(race(), self.ANSWERS, hosts)
        assert simulation.run()[2:] == ["0 try b1", "15 try a1", "25 won a1"]
        assert simulation.next_endpoint(at=100) == ["100 try b2", "110 won b2"]
        assert simulation.next_endpoint(at=200) == ["200 try a2", "220 lost 2"]
        assert simulation.next_endpoint(at=300) == []

    def test_nothing_is_left(self) -> None:
        simulation = Simulation(race([]), {}, {"a1": Host(ready=10)})
        assert simulation.run(["a1"]) == ["0 try a1", "10 won a1"]
        assert simulation.next_endpoint(at=100) == ["100 lost 0"]
        assert simulation.lost == Lost((), {})

    def test_a_family_that_had_not_answered_is_asked_again(self) -> None:
        simulation = Simulation(race(), {6: (0, ["b1"]), 4: (70, ["a1"])}, {"b1": Host(ready=10), "a1": Host(ready=10)})
        assert simulation.run()[2:] == ["0 try b1", "10 won b1"]
        assert simulation.next_endpoint(at=100) == ["100 resolve 4", "170 try a1", "180 won a1"]

    def test_there_is_nothing_to_leave_before_the_end(self) -> None:
        machine = race([])
        assert machine.next_endpoint(0) == []
        machine.start(0, ["a1", "a2"])
        assert machine.next_endpoint(0.1) == []
        assert machine.timeout() == pytest.approx(0.25)


def test_facts_for_the_report() -> None:
    answers: Answers = {4: (0, ["a1", "a2", "a3"]), 6: (20, ["b1"])}
    simulation = Simulation(race(), answers, {"b1": Host(fails=30), "a1": Host(ready=30)})
    assert simulation.race.preferred is None
    simulation.run()
    assert simulation.race.preferred == "b1"
    assert simulation.race.address_counts == {4: 3, 6: 1}
    assert [failure.address for failure in simulation.race.failures] == ["b1"]


def test_events_before_the_start_and_after_the_end_are_ignored() -> None:
    machine = race()
    assert machine.resolved(0, 6, ["b1"]) == machine.expired(0) == []
    machine.start(0)
    machine.resolved(0, 6, ["b1", "b2"])
    machine.expired(0.25)
    assert machine.succeeded(0.3, 1) == [Won(1, "b1", 0, 0.3), Cancel(2)]
    for late in (
        machine.start(1),
        machine.resolved(1, 4, ["a1"]),
        machine.resolution_failed(1, 4, NO_NAME),
        machine.progressed(1, 2),
        machine.failed(1, 2, REFUSED),
        machine.fatal(1, 2, BAD_CERTIFICATE),
        machine.succeeded(1, 2),
        machine.succeeded(1, 1),
        machine.expired(1),
    ):
        assert late == []
    assert machine.timeout() is None
    assert machine.failures == ()


def test_a_timer_that_fires_early_does_nothing() -> None:
    machine = race([])
    machine.start(0, ["a1", "a2"])
    assert machine.expired(0.249999) == []
    assert machine.expired(0.25) == [Attempt(2, "a2")]


@dataclass
class Observer:
    """Believes nothing: checks every action against what happened before."""

    race: Race[str]
    live: dict[int, str] = field(default_factory=dict[int, str])
    ended: dict[int, str] = field(default_factory=dict[int, str])
    barred: set[str] = field(default_factory=set[str])  # may not be started: running, failed, won
    latest_start: float = -1.0
    won: bool = False
    over: bool = False

    def end(self, id: int, outcome: str) -> None:
        address = self.live.pop(id)
        assert id not in self.ended
        self.ended[id] = outcome
        if outcome == "cancelled":
            self.barred.remove(address)

    def check(self, now: float, actions: list[Action[str]]) -> None:
        assert not (self.over and actions)
        for action in actions:
            match action:
                case Attempt(id, address):
                    assert id not in self.live | self.ended
                    assert address not in self.barred
                    assert now >= self.latest_start + 0.01
                    self.live[id], self.latest_start = address, now
                    self.barred.add(address)
                case Cancel(id):
                    self.end(id, "cancelled")
                case Won(id):
                    self.end(id, "won")
                    self.won = self.over = True
                case Lost(failures):
                    assert {failure.id for failure in failures} == {
                        id for id, outcome in self.ended.items() if outcome == "failed"
                    }
                    self.over = True
                case Resolve():
                    pass
        if self.over:
            assert not self.live
            assert self.race.timeout() is None


INPUTS = ("expire", "resolve", "resolution fails", "progress", "fail", "fail", "fatal", "succeed", "next endpoint")


@given(
    inputs=st.lists(st.tuples(st.sampled_from(INPUTS), st.integers(1, 6), st.sampled_from((0.0, 0.001, 0.01, 0.05, 0.25, 1.0)))),
    literals=st.lists(st.sampled_from(("a1", "b1", "a7"))),
    families=st.sets(st.sampled_from(BOTH)),
)
def test_any_interleaving(inputs: list[tuple[str, int, float]], literals: list[str], families: set[Family]) -> None:
    machine = race(sorted(families))
    observer = Observer(machine)
    now = 0.0
    observer.check(now, machine.start(now, literals))
    for name, number, pause in inputs:
        now += pause
        family: Family = 6 if number % 2 else 4
        live = number in observer.live
        actions: list[Action[str]] = []
        if name == "expire":
            actions = machine.expired(now)
            timeout = machine.timeout()
            assert timeout is None or timeout > now
        elif name == "resolve":
            actions = machine.resolved(now, family, [f"{'a' if family == 4 else 'b'}{n}" for n in range(number)])
        elif name == "resolution fails":
            actions = machine.resolution_failed(now, family, NO_NAME)
        elif name == "progress":
            actions = machine.progressed(now, number)
        elif name == "succeed":
            actions = machine.succeeded(now, number)
            assert live == (Won in map(type, actions))
        elif name == "next endpoint":
            observer.over = observer.over and not observer.won
            observer.won = False
            actions = machine.next_endpoint(now)
        else:
            if live:
                observer.end(number, "failed")
            actions = (machine.fatal if name == "fatal" else machine.failed)(now, number, REFUSED)
        observer.check(now, actions)
    finish(machine, observer, now)


def finish(machine: Race[str], observer: Observer, now: float) -> None:
    """Let everything that is still open fail: the race must end, and soon."""
    for family in BOTH:
        observer.check(now, machine.resolution_failed(now, family, NO_NAME))
    for _ in range(60):
        if observer.over:
            break
        if observer.live:
            id = min(observer.live)
            observer.end(id, "failed")
            observer.check(now, machine.failed(now, id, REFUSED))
        else:
            timeout = machine.timeout()
            assert timeout is not None, "nothing runs, nothing is waited for, and the race is not over"
            now = timeout
            observer.check(now, machine.expired(now))
    assert observer.over
