"""The TCP machine by itself: two of them, a list of segments between them, and a time that the test counts."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tieline import HostPort
from tieline.drivers.simulated.packets import Packet, TransportProtocol
from tieline.drivers.simulated.tcp import TCPMachine, TCPState

CLIENT, SERVER = HostPort("10.0.0.1", 1000), HostPort("10.0.0.2", 80)
LATENCY = 0.05
LONG_AFTER = 5000.0

Fate = Callable[[Packet], list[float]]
"""With which extra delays a packet arrives: [0.0] once and in time, [] never."""


def delivered(_: Packet) -> list[float]:
    return [0.0]


def lost(_: Packet) -> list[float]:
    return []


@dataclass
class End:
    """One end: its machine, and what its program has done and seen."""

    machine: TCPMachine
    written: bytearray = field(default_factory=bytearray)
    taken: bytearray = field(default_factory=bytearray)
    sent: list[tuple[float, Packet]] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """What it has sent: time, flags, sequence number, length."""
        return [f"{when:.2f} {one.flags} {one.sequence}+{len(one.payload)}" for when, one in self.sent]

    @property
    def over(self) -> bool:
        return self.machine.finished and self.machine.incoming.ended


class Line:
    """Client and server with a line between them. Nobody may send what the other has not made room for."""

    def __init__(self, *, mss: int = 1000, send: int = 100_000, receive: int = 100_000, **options: Any) -> None:
        self.now = 0.0
        self.fates: dict[HostPort, Fate] = {CLIENT: delivered, SERVER: delivered}  # by source
        self._edges = dict.fromkeys((CLIENT, SERVER), 0)  # up to which number each has made room
        self._count = itertools.count()
        self._on_way: list[tuple[float, int, Packet]] = []

        def end(local: HostPort, remote: HostPort) -> End:
            return End(
                TCPMachine(
                    local, remote, self._carry, maximum_segment=mss, send_capacity=send, receive_capacity=receive, **options
                )
            )

        self.client, self.server = end(CLIENT, SERVER), end(SERVER, CLIENT)

    def _carry(self, packet: Packet) -> None:
        (self.client if packet.source == CLIENT else self.server).sent.append((self.now, packet))
        self._edges[packet.source] = max(self._edges[packet.source], max(packet.acknowledgement, 1) + packet.window)
        assert not packet.payload or packet.sequence + len(packet.payload) <= self._edges[packet.destination]
        self._on_way += [(self.now + LATENCY + extra, next(self._count), packet) for extra in self.fates[packet.source](packet)]

    def step(self, until: float = inf) -> bool:
        """Let the next thing happen, if anything does by then."""
        deadline = min(self.client.machine.deadline, self.server.machine.deadline)
        first = min(self._on_way, default=(inf, 0, None))
        when = min(deadline, first[0])
        if when > until or when == inf:
            return False
        self.now = max(self.now, when)
        if first[2] is not None and first[0] <= deadline:
            self._on_way.remove(first)
            self.deliver(first[2])
        else:
            for end in (self.client, self.server):
                if end.machine.deadline <= self.now:
                    end.machine.expired(self.now)
        return True

    def deliver(self, packet: Packet) -> None:
        machine = self.client.machine if packet.destination == CLIENT else self.server.machine
        if machine.state is TCPState.CLOSED and packet.flags == "S" and not machine.error and machine.incoming.expected == 0:
            machine.accept(packet, self.now)
        else:
            machine.arrived(packet, self.now)

    def run(self, seconds: float = LONG_AFTER, *, until: Callable[[], bool] = lambda: False) -> None:
        end = self.now + seconds
        while not until() and self.step(end):
            pass
        if not until():
            self.now = max(self.now, end)

    def connect(self) -> None:
        self.client.machine.connect(self.now)
        self.run(until=lambda: self.server.machine.state is self.client.machine.state is TCPState.ESTABLISHED)
        for end in (self.client, self.server):
            end.sent.clear()

    def write(self, end: End, data: bytes) -> int:
        taken = end.machine.write(data, self.now)
        end.written += data[:taken]
        return taken

    def read(self, end: End, at_most: int = 1_000_000) -> bytes:
        data = end.machine.read(at_most)
        end.taken += data
        return data


@pytest.fixture
def line() -> Line:
    made = Line()
    made.connect()
    return made


# Opening


def test_three_segments_open() -> None:
    line = Line()
    line.client.machine.connect(0.0)
    assert line.client.machine.state is TCPState.SYN_SENT and line.client.lines == ["0.00 S 0+0"]
    line.run(0.05)
    assert line.server.machine.state is TCPState.SYN_RECEIVED and line.server.lines == ["0.05 SA 0+0"]
    line.run(0.05)
    assert line.client.machine.state is TCPState.ESTABLISHED and line.client.lines[1:] == ["0.10 A 1+0"]
    line.run(0.05)
    assert line.server.machine.state is TCPState.ESTABLISHED
    assert [end.machine.rtt.smoothed for end in (line.client, line.server)] == pytest.approx([0.1, 0.1])
    line.run()
    assert line.client.machine.deadline == line.server.machine.deadline == inf  # silence


def test_syns_come_at_1_3_7_seconds_and_so_on() -> None:
    line = Line()
    line.fates[CLIENT] = lost
    line.client.machine.connect(0.0)
    line.run()
    assert [when for when, _ in line.client.sent] == [0, 1, 3, 7, 15, 31, 63]
    assert line.client.machine.state is TCPState.CLOSED and line.client.machine.error == errno.ETIMEDOUT
    assert {packet.flags for _, packet in line.client.sent} == {"S"}


def test_it_gives_up_at_127_seconds() -> None:
    line = Line()
    line.fates[CLIENT] = lost
    line.client.machine.connect(0.0)
    line.run(126.9)
    assert line.client.machine.state is TCPState.SYN_SENT
    line.run(0.2)
    assert line.client.machine.state is TCPState.CLOSED


def test_an_answer_to_the_syn_is_repeated() -> None:
    line = Line()
    line.fates[SERVER] = lost
    line.server.machine.accept(Packet(TransportProtocol.TCP, CLIENT, SERVER, flags="S", window=1000), 0.0)
    line.run()
    assert [when for when, _ in line.server.sent] == [0, 1, 3, 7, 15, 31]
    assert line.server.machine.state is TCPState.CLOSED and line.server.machine.error == errno.ETIMEDOUT


@pytest.mark.parametrize("which", ["syn", "answer", "acknowledgement"])
def test_one_lost_segment_of_the_opening(which: str) -> None:
    line = Line()
    losses = {"syn": (CLIENT, "S"), "answer": (SERVER, "SA"), "acknowledgement": (CLIENT, "A")}
    source, flags = losses[which]
    seen: list[Packet] = []

    def lose_first(packet: Packet) -> list[float]:
        if packet.flags == flags:
            seen.append(packet)
            return [] if len(seen) == 1 else [0.0]
        return [0.0]

    line.fates[source] = lose_first
    line.client.machine.connect(0.0)
    line.run(0.2)
    if which == "acknowledgement":
        assert line.client.machine.state is TCPState.ESTABLISHED and line.server.machine.state is TCPState.SYN_RECEIVED
        line.write(line.client, b"data brings the acknowledgement too")
    line.run(5)
    assert line.client.machine.state is line.server.machine.state is TCPState.ESTABLISHED
    assert line.read(line.server) == bytes(line.client.written)
    if which != "acknowledgement":  # a round trip that began with a repeated segment says nothing (RFC 6298 section 3)
        assert line.client.machine.rtt.smoothed is None


def test_refused() -> None:
    line = Line()
    line.client.machine.connect(0.0)
    refusal = Packet(TransportProtocol.TCP, SERVER, CLIENT, flags="RA", acknowledgement=2)
    line.deliver(refusal)
    assert line.client.machine.state is TCPState.SYN_SENT  # not of our SYN
    line.deliver(refusal._replace(acknowledgement=1))
    assert line.client.machine.state is TCPState.CLOSED and line.client.machine.error == errno.ECONNREFUSED


@pytest.mark.parametrize("acknowledgement", [1, 57])
def test_a_peer_that_still_has_an_old_connection_is_reset(acknowledgement: int) -> None:
    """It answers our SYN from the middle of that one (RFC 9293 section 3.5.1); the next SYN finds it ready."""
    line = Line()
    line.client.machine.connect(0.0)
    line.deliver(Packet(TransportProtocol.TCP, SERVER, CLIENT, flags="A", sequence=100, acknowledgement=acknowledgement))
    assert line.client.machine.state is TCPState.SYN_SENT
    _, answer = line.client.sent[-1]
    assert "R" in answer.flags and answer.sequence == acknowledgement


def test_unreachable_ends_an_attempt_and_nothing_else(line: Line) -> None:
    line.client.machine.unreachable(errno.EHOSTUNREACH)
    assert line.client.machine.state is TCPState.ESTABLISHED
    opening = Line()
    opening.client.machine.connect(0.0)
    opening.client.machine.unreachable(errno.EHOSTUNREACH)
    assert opening.client.machine.state is TCPState.CLOSED and opening.client.machine.error == errno.EHOSTUNREACH


# Data


def test_data_of_a_segment_each(line: Line) -> None:
    start = line.now
    assert line.write(line.client, bytes(range(250)) * 10) == 2500
    assert [text.split()[1:] for text in line.client.lines] == [["A", "1+1000"], ["A", "1001+1000"], ["A", "2001+500"]]
    assert line.client.machine.unacknowledged == 2500 and line.client.machine.room == 97_500
    line.run(0.05)
    assert line.server.machine.incoming.readable == 2500
    line.run(0.05)
    assert line.client.machine.unacknowledged == 0 and line.now == pytest.approx(start + 0.1)
    assert line.read(line.server, 100) == bytes(range(100)) and len(line.read(line.server)) == 2400


def test_no_more_is_taken_than_there_is_room_for() -> None:
    line = Line(send=1500)
    line.connect()
    assert line.write(line.client, bytes(2000)) == 1500
    assert line.client.machine.room == 0 and line.write(line.client, b"x") == 0
    line.run(0.1)
    assert line.client.machine.room == 1500
    line.client.machine.end(line.now)
    assert line.client.machine.room == 0 and line.write(line.client, b"x") == 0


def test_slow_start_doubles(line: Line) -> None:
    """Ten segments (RFC 6928), then as many more as are acknowledged."""
    for end in (line.client, line.server):
        end.machine.incoming.capacity = 10_000_000
    line.client.machine._capacity = 10_000_000
    start = line.now
    line.server.machine._emit("A", 1)  # tells of the larger window
    line.run(0.06)
    line.write(line.client, bytes(200_000))
    counts: list[int] = []
    for _ in range(4):
        before = len(line.client.sent)
        counts.append(before - sum(counts))
        line.run(0.1, until=lambda: False)
    assert counts == [10, 20, 40, 80] and line.now == pytest.approx(start + 0.46)


# Loss


class Losing:
    """Loses the n-th segments with data of one side."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers
        self.count = -1

    def __call__(self, packet: Packet) -> list[float]:
        if not packet.payload:
            return [0.0]
        self.count += 1
        return [] if self.count in self.numbers else [0.0]


def test_three_duplicates_bring_the_lost_segment(line: Line) -> None:
    """A round trip after the loss, and not when the timer says so."""
    start = line.now
    line.fates[CLIENT] = Losing(2)
    line.write(line.client, bytes(8000))
    line.run(0.1)
    assert line.client.lines[-1] == f"{start + 0.1:.2f} A 2001+1000" and len(line.client.lines) == 9
    line.run(0.1)
    assert line.client.machine.unacknowledged == 0
    assert line.client.machine.retransmitted_bytes == 1000 and line.client.machine.sent_bytes == 9000


def test_two_duplicates_bring_nothing(line: Line) -> None:
    line.fates[CLIENT] = Losing(0)
    line.write(line.client, bytes(3000))
    line.run(0.15)
    assert len(line.client.sent) == 3
    line.run(1)
    assert line.client.machine.unacknowledged == 0


def test_several_holes_are_filled_one_after_the_other(line: Line) -> None:
    """Each by the acknowledgement that shows it (RFC 6582), without waiting for the timer."""
    start = line.now
    line.fates[CLIENT] = Losing(1, 3, 5)
    line.write(line.client, bytes(10_000))
    line.run(until=lambda: not line.client.machine.unacknowledged)
    assert line.now == pytest.approx(start + 0.4) and line.client.machine.retransmitted_bytes == 3000


def test_no_more_is_sent_again_than_was_sent() -> None:
    """A sliver of a window has gone out; the whole segment, of which it is a part, may not."""
    line = Line(receive=2300)
    line.connect()
    line.fates[CLIENT] = Losing(2)
    line.write(line.client, bytes(4000))
    line.run(until=lambda: line.client.machine.unacknowledged == 2000)
    line.run(until=lambda: len(line.client.sent) == 4)
    assert [text.split()[2] for text in line.client.lines] == ["1+1000", "1001+1000", "2001+300", "2001+300"]


def test_a_lost_tail_waits_for_the_timer(line: Line) -> None:
    """Which is the round trip and four times its variance, at least 0.2 seconds (RFC 6298), and doubles each time."""
    start = line.now
    line.fates[CLIENT] = lost
    line.write(line.client, b"x")
    line.run(20)
    timeout = 0.1 + 4 * 0.05
    expected = [start + timeout * (2**number - 1) for number in range(7)]
    assert [when for when, _ in line.client.sent] == pytest.approx(expected)
    line.fates[CLIENT] = delivered
    line.run(until=lambda: not line.client.machine.unacknowledged)
    assert line.read(line.server) == b"x"
    line.fates[CLIENT] = lost  # what is acknowledged ends the back-off
    before, start = len(line.client.sent), line.now
    line.write(line.client, b"y")
    line.run(1)
    assert [when for when, _ in line.client.sent[before:]] == pytest.approx([start, start + 0.3, start + 0.9])


def test_the_timer_goes_up_to_two_minutes_and_ends(line: Line) -> None:
    line.fates[CLIENT] = lost
    line.write(line.client, b"x")
    line.run(2000)
    assert line.client.machine.error == errno.ETIMEDOUT and line.client.machine.deadline == inf
    times = [when for when, _ in line.client.sent]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == pytest.approx([min(0.3 * 2**number, 120) for number in range(len(gaps))])
    assert 924.6 - 120 <= times[-1] - times[0] <= 924.6


def test_the_timer_after_a_loss_sends_one_segment_and_begins_again_slowly(line: Line) -> None:
    line.fates[CLIENT] = lost
    line.write(line.client, bytes(10_000))
    line.run(0.2)
    before = len(line.client.sent)
    line.fates[CLIENT] = delivered
    line.run(0.15)
    assert line.client.lines[before:] == [f"{line.client.sent[before][0]:.2f} A 1+1000"]
    line.run(0.1)
    assert [text.split()[2] for text in line.client.lines[before + 1 :]] == ["1001+1000", "2001+1000"]
    line.run(1)
    assert line.client.machine.unacknowledged == 0 and len(line.read(line.server)) == 10_000


def test_a_round_trip_with_a_repeated_segment_is_not_measured(line: Line) -> None:
    line.fates[CLIENT] = Losing(0)
    line.write(line.client, b"x")
    line.run(1)
    assert line.client.machine.unacknowledged == 0 and line.client.machine.rtt.smoothed == pytest.approx(0.1)


def test_old_duplicates_are_acknowledged_and_otherwise_ignored(line: Line) -> None:
    line.write(line.client, b"once")
    line.run(1)
    _, packet = line.client.sent[0]
    before = len(line.server.sent)
    for _ in range(5):
        line.deliver(packet)
    assert line.read(line.server) == b"once" and not line.read(line.server)
    assert [text.split()[1:] for text in line.server.lines[before:]] == [["A", "1+0"]] * 5
    line.run(10)
    assert len(line.client.sent) == 1  # five equal acknowledgements, and nothing was on its way


# The window


def test_a_reader_that_does_not_read_closes_the_window() -> None:
    line = Line(receive=3500)
    line.connect()
    line.write(line.client, bytes(10_000))
    line.run(2)
    assert line.server.machine.incoming.readable == 3500 and line.client.machine.unacknowledged == 6500
    assert line.server.machine.incoming.window == 0
    line.read(line.server, 500)  # not worth a segment
    line.run(0.04)
    assert line.server.machine.incoming.window == 500 and line.client.machine.unacknowledged == 6500
    before = line.now
    line.read(line.server, 2000)
    line.run(until=lambda: line.client.machine.unacknowledged == 4500)
    assert line.now - before < 0.3
    while line.client.machine.unacknowledged:
        line.read(line.server)
        line.run(0.1)
    line.read(line.server)
    assert len(line.server.taken) == 10_000


def test_a_closed_window_is_probed_ever_more_rarely(line: Line) -> None:
    """Down to once in two minutes, and for as long as the peer answers (RFC 9293 section 3.8.6.1)."""
    line.server.machine.incoming.capacity = 0
    line.write(line.client, bytes(50_000))
    line.run(2)
    assert line.client.machine._window == 0
    line.client.sent.clear()
    line.run(5000)
    gaps = [round(later[0] - earlier[0], 6) for earlier, later in itertools.pairwise(line.client.sent)]
    assert {(packet.sequence, len(packet.payload)) for _, packet in line.client.sent} == {(0, 0)}
    assert gaps == sorted(gaps) and gaps[-1] == 120 and len(gaps) < 60
    assert line.client.machine.state is TCPState.ESTABLISHED


def test_probes_find_a_window_whose_opening_was_lost() -> None:
    line = Line(receive=2000)
    line.connect()
    line.write(line.client, bytes(5000))
    line.run(2)
    line.fates[SERVER] = lost
    line.read(line.server)
    line.run(0.06)
    line.fates[SERVER] = delivered
    line.run(10)
    assert line.server.machine.incoming.readable == 2000


def test_a_window_that_opens_ends_the_back_off_of_the_probes() -> None:
    """What is sent then, and lost, is repeated after a usual timeout, and not after that of the last probe."""
    line = Line(receive=2000)
    line.connect()
    line.write(line.client, bytes(4000))
    line.run(500)
    line.fates[CLIENT] = Losing(0, 1)
    line.read(line.server)
    before = line.now
    line.run(until=lambda: not line.client.machine.unacknowledged)
    assert line.now - before < 2.0


def test_probes_that_nobody_answers_end() -> None:
    line = Line(receive=2000)
    line.connect()
    line.write(line.client, bytes(5000))
    line.run(2)
    line.fates[CLIENT] = lost
    line.run(2000)
    assert line.client.machine.error == errno.ETIMEDOUT


def test_an_end_needs_no_window() -> None:
    line = Line(receive=2000)
    line.connect()
    line.write(line.client, bytes(2000))
    line.client.machine.end(line.now)
    line.run(1)
    assert line.client.machine.finished and line.server.machine.incoming.ended
    assert len(line.read(line.server)) == 2000


def test_a_window_of_one_byte() -> None:
    line = Line(receive=1, mss=100)
    line.connect()
    line.write(line.client, b"byte by byte")
    line.client.machine.end(line.now)
    for _ in range(100):
        line.run(0.2)
        line.read(line.server)
    assert line.server.taken == b"byte by byte" and line.server.machine.incoming.ended


def test_reading_nothing_says_nothing() -> None:
    line = Line(receive=1)
    line.connect()
    for _ in range(3):
        assert line.read(line.server) == b""
    assert not line.server.sent


def test_a_window_update_is_heard_from_a_sender_that_repeats_itself(line: Line) -> None:
    """The server has timed out and sends old numbers; what its acknowledgements say of the window counts all the same."""
    line.server.machine.incoming.capacity = 2000
    line.client.machine._window = 2000
    line.write(line.client, bytes(6000))
    line.run(0.2)
    assert line.server.machine.incoming.window == 0
    line.fates[CLIENT] = lost  # the server hears nothing, and repeats its first segment only
    line.write(line.server, bytes(10_000))
    line.run(0.7)
    line.read(line.server)  # opens the window, told by a number below what the client has heard already
    line.run(0.06)
    assert line.client.machine._window == 2000


# Ends


def test_ends_of_both_sides(line: Line) -> None:
    line.write(line.client, b"question")
    line.client.machine.end(line.now)
    assert not line.client.machine.writable and not line.client.machine.finished
    line.run(1)
    assert line.client.machine.finished and line.server.machine.incoming.ended and not line.client.over
    assert line.server.machine.writable
    line.write(line.server, b"answer")
    line.server.machine.end(line.now)
    line.run(1)
    assert line.client.over and line.server.over
    assert line.read(line.client) == b"answer" and line.read(line.server) == b"question"
    assert line.client.machine.deadline == line.server.machine.deadline == inf
    line.client.machine.end(line.now)  # once more
    assert line.client.over


def test_an_end_is_repeated_until_it_is_acknowledged(line: Line) -> None:
    line.fates[CLIENT] = lost
    start = line.now
    line.client.machine.end(start)
    line.run(2)
    assert line.client.lines == [f"{start + 0.3 * (2**number - 1):.2f} FA 1+0" for number in range(3)]
    assert not line.client.machine.finished
    line.fates[CLIENT] = delivered
    line.run(5)
    assert line.client.machine.finished and line.server.machine.incoming.ended


def test_an_end_whose_acknowledgement_was_lost_is_acknowledged_again(line: Line) -> None:
    """Also by a side that has finished itself: its machine lingers for that."""
    line.fates[SERVER] = lost
    line.client.machine.end(line.now)
    line.server.machine.end(line.now)
    line.run(0.2)
    assert line.server.machine.finished is False and line.server.machine.incoming.ended
    line.fates[SERVER] = delivered
    line.run(5)
    assert line.client.over and line.server.over
    _, end = next(one for one in line.client.sent if "F" in one[1].flags)
    before = len(line.server.sent)
    line.deliver(end)
    assert [text.split()[1:] for text in line.server.lines[before:]] == [["A", "2+0"]]


def test_both_end_at_once(line: Line) -> None:
    line.client.machine.end(line.now)
    line.server.machine.end(line.now)
    line.run(0.1)
    assert line.client.over and line.server.over


def test_an_end_that_overtakes_its_data_waits(line: Line) -> None:
    line.fates[CLIENT] = lambda packet: [0.5] if packet.payload else [0.0]
    line.write(line.client, b"late")
    line.client.machine.end(line.now)
    line.run(0.1)
    assert not line.server.machine.incoming.ended and not line.server.machine.incoming.readable
    line.run(0.5)
    assert line.read(line.server) == b"late" and line.server.machine.incoming.ended


# Resets


def test_a_reset_within_the_window_counts(line: Line) -> None:
    window = line.client.machine.incoming.window
    reset = Packet(TransportProtocol.TCP, SERVER, CLIENT, flags="R")
    for sequence in (0, window + 2):
        line.deliver(reset._replace(sequence=sequence))
        assert line.client.machine.state is TCPState.ESTABLISHED
    line.deliver(reset._replace(sequence=1))
    assert line.client.machine.state is TCPState.CLOSED and line.client.machine.error == errno.ECONNRESET
    assert line.client.machine.deadline == inf


def test_a_reset_after_the_end_breaks_the_pipe(line: Line) -> None:
    line.server.machine.end(line.now)
    line.run(1)
    line.server.machine.reset()
    line.run(1)
    assert line.client.machine.error == errno.EPIPE and line.server.machine.state is TCPState.CLOSED


def test_a_reset_is_sent_with_what_the_peer_expects(line: Line) -> None:
    line.write(line.client, bytes(5000))
    line.run(0.06)
    line.client.machine.reset()
    line.run(1)
    assert line.server.machine.error == errno.ECONNRESET and len(line.read(line.server)) == 5000
    assert line.client.machine.state is TCPState.CLOSED and line.client.machine.unacknowledged == 0


def test_a_reset_counts_also_while_the_peer_has_more_than_was_acknowledged(line: Line) -> None:
    """The acknowledgements were lost and the sender repeats its first segment; its reset has the number behind the last."""
    line.fates[SERVER] = lost
    line.write(line.client, bytes(5000))
    line.run(1)
    assert line.server.machine.incoming.readable == 5000 and line.client.machine.retransmitted_bytes
    line.client.machine.reset()
    line.run(1)
    assert line.server.machine.error == errno.ECONNRESET


def test_a_half_open_connection_is_forgotten_by_a_reset() -> None:
    line = Line()
    line.client.machine.connect(0.0)
    line.run(0.06)
    assert line.server.machine.state is TCPState.SYN_RECEIVED
    line.deliver(Packet(TransportProtocol.TCP, CLIENT, SERVER, flags="R", sequence=1))
    assert line.server.machine.state is TCPState.CLOSED and not line.server.machine.error


def test_a_closed_machine_is_deaf_and_dumb(line: Line) -> None:
    line.client.machine.vanish()
    line.server.machine.write(b"x", line.now)
    line.run(0.5)
    assert not line.client.sent
    assert line.client.machine.write(b"x", line.now) == 0
    line.client.machine.end(line.now)
    line.client.machine.reset()
    line.client.machine.expired(line.now)
    assert not line.client.sent and line.client.machine.deadline == inf


# Keepalive and user timeout


def test_keepalive_probes_an_idle_peer() -> None:
    line = Line(keepalive=(60, 10, 3))
    line.connect()
    start = line.now
    line.server.machine._keepalive = None
    line.run(200)
    times = [when for when, _ in line.client.sent]
    assert times == pytest.approx([start + 60 - 0.05, start + 120 - 0.05 + 0.1, start + 180 + 0.15], abs=0.11)
    assert {(packet.flags, packet.sequence, packet.payload) for _, packet in line.client.sent} == {("A", 0, b"")}
    assert len(line.server.sent) == len(times) and line.client.machine.state is TCPState.ESTABLISHED


def test_keepalive_gives_up() -> None:
    line = Line(keepalive=(60, 10, 3))
    line.connect()
    line.server.machine._keepalive = None
    line.fates[CLIENT] = lost
    heard = line.now - 0.05  # the last that the client heard
    line.run(89.9 - 0.05)
    assert line.client.machine.state is TCPState.ESTABLISHED
    assert [when - heard for when, _ in line.client.sent] == pytest.approx([60, 70, 80])
    line.run(0.2)
    assert line.client.machine.error == errno.ETIMEDOUT


def test_keepalive_is_put_off_by_whatever_comes() -> None:
    line = Line(keepalive=(60, 10, 3))
    line.connect()
    for _ in range(10):
        line.run(50)
        line.write(line.server, b"x")
    assert not any(packet.sequence == 0 for _, packet in line.client.sent)


def test_keepalive_ends_with_the_connection() -> None:
    line = Line(keepalive=(60, 10, 3))
    line.connect()
    line.client.machine.end(line.now)
    line.server.machine.end(line.now)
    line.run(1)
    assert line.client.over and line.server.over
    sent = len(line.client.sent) + len(line.server.sent)
    line.run(1000)
    assert len(line.client.sent) + len(line.server.sent) == sent
    assert line.client.machine.deadline == line.server.machine.deadline == inf


def test_the_user_timeout_is_exact() -> None:
    """RFC 5482: so long after what was not acknowledged, and not at the retransmission after that."""
    line = Line(drop_after=10.0)
    line.connect()
    line.run(100)
    line.fates[CLIENT] = lost
    line.write(line.client, b"x")
    start = line.now
    line.run(9.99)
    assert line.client.machine.state is TCPState.ESTABLISHED
    assert [when - start for when, _ in line.client.sent] == pytest.approx([0, 0.3, 0.9, 2.1, 4.5, 9.3])
    line.run(0.02)
    assert line.client.machine.error == errno.ETIMEDOUT


def test_the_user_timeout_begins_anew_with_each_progress() -> None:
    line = Line(drop_after=10.0)
    line.connect()
    for _ in range(5):
        line.write(line.client, b"x")
        line.fates[CLIENT] = lost
        line.run(8)
        line.fates[CLIENT] = delivered
        line.run(1.9, until=lambda: not line.client.machine.unacknowledged)
    assert line.client.machine.state is TCPState.ESTABLISHED and line.read(line.server) == b"xxxxx"


def test_the_user_timeout_counts_a_closed_window() -> None:
    """However often the peer answers the probes."""
    line = Line(drop_after=30.0, receive=2000)
    line.connect()
    line.write(line.client, bytes(5000))
    line.run(29)
    assert line.client.machine.state is TCPState.ESTABLISHED
    line.run(1.5)
    assert line.client.machine.error == errno.ETIMEDOUT


# The path's MTU


def test_a_path_that_becomes_narrower(line: Line) -> None:
    narrow = 1000

    def fits(packet: Packet) -> list[float]:
        return [0.0] if len(packet.payload) <= narrow else []

    line.fates[CLIENT] = fits
    line.write(line.client, bytes(3000))
    line.run(0.2)
    narrow = 300
    line.client.sent.clear()
    line.write(line.client, bytes(range(200)) * 10)
    line.run(0.02)
    line.client.machine.shrink(300, 3001, line.now)
    line.client.machine.shrink(300, 4001, line.now)  # of the second one
    line.client.machine.shrink(900, 3001, line.now)
    line.run(0.2)
    assert line.client.machine.unacknowledged == 0 and line.client.machine.maximum_segment == 300
    assert [len(packet.payload) for _, packet in line.client.sent] == [1000, 1000, 300, 300, 300, 300, 300, 300, 200]
    assert line.read(line.server)[3000:] == bytes(range(200)) * 10


# Anything at all

FATES = st.sampled_from(["in time", "lost", "twice", "late", "very late", "twice and late"])
DELAYS = {"in time": [0.0], "lost": [], "twice": [0.0, 0.0], "late": [0.07], "very late": [1.3], "twice and late": [0.0, 0.4]}
MAX_LOST = 5  # of both sides together: more in a row would be a reason to give up


class Channel:
    """Treats the first packets as it was told, and all later ones well."""

    def __init__(self, fates: list[str], losses: Iterator[int]) -> None:
        self._fates = iter(fates)
        self._losses = losses

    def __call__(self, packet: Packet) -> list[float]:
        fate = next(self._fates, "in time")
        return [0.0] if fate == "lost" and next(self._losses, None) is None else DELAYS[fate]


OPERATIONS = st.one_of(
    st.tuples(st.just("write"), st.booleans(), st.integers(1, 400)),
    st.tuples(st.just("read"), st.booleans(), st.integers(1, 400)),
    st.tuples(st.just("end"), st.booleans(), st.just(0)),
    st.tuples(st.just("wait"), st.booleans(), st.integers(1, 300)),
    st.tuples(st.just("shrink"), st.booleans(), st.integers(5, 60)),
)


@example(
    [("write", False, 26), ("shrink", False, 7)], [*["in time"] * 7, "lost"], ["late"], 8, 26, 25, None
)  # sent too much again
@given(
    operations=st.lists(OPERATIONS, max_size=30),
    ours=st.lists(FATES, max_size=40),
    theirs=st.lists(FATES, max_size=40),
    mss=st.integers(7, 60),
    send=st.integers(1, 500),
    receive=st.integers(1, 500),
    keepalive=st.sampled_from([None, (1, 1, 30)]),
)
def test_every_byte_arrives_once_and_in_order_and_then_the_end(
    operations: list[tuple[str, bool, int]],
    ours: list[str],
    theirs: list[str],
    mss: int,
    send: int,
    receive: int,
    keepalive: tuple[float, float, int] | None,
) -> None:
    line = Line(mss=mss, send=send, receive=receive, keepalive=keepalive)
    losses = iter(range(MAX_LOST))
    line.fates = {CLIENT: Channel(ours, losses), SERVER: Channel(theirs, losses)}
    line.connect()
    letters = itertools.cycle(range(251))
    steps = 0

    def check() -> None:
        for end in (line.client, line.server):
            machine = end.machine
            assert machine.incoming.readable <= receive and len(machine._outgoing) <= send
            assert sum(map(len, machine.incoming._ahead.values())) <= receive
            assert not machine.error
        assert line.client.written.startswith(line.server.taken) and line.server.written.startswith(line.client.taken)

    def wait(seconds: float) -> None:
        nonlocal steps
        end = line.now + seconds
        while line.step(end):
            steps += 1
            check()
            assert steps < 50_000
        line.now = max(line.now, end)

    for kind, ours_first, number in operations:
        end = line.client if ours_first else line.server
        if kind == "write":
            line.write(end, bytes(itertools.islice(letters, number)))
        elif kind == "read":
            line.read(end, number)
        elif kind == "end":
            end.machine.end(line.now)
        elif kind == "shrink":
            end.machine.shrink(number, end.machine._unacknowledged, line.now)
        else:
            wait(number / 100)
        check()
    for _ in range(2000):
        if line.client.over and line.server.over:
            break
        for end in (line.client, line.server):
            end.machine.end(line.now)
            line.read(end)
        wait(0.5)
    assert line.client.over and line.server.over, (line.client.machine.__dict__, line.server.machine.__dict__)
    for end in (line.client, line.server):
        line.read(end)
    assert line.server.taken == line.client.written and line.client.taken == line.server.written
    wait(200)
    assert line.client.machine.deadline == line.server.machine.deadline == inf and not line._on_way
    assert not line.client.machine.unacknowledged and not line.server.machine.unacknowledged
