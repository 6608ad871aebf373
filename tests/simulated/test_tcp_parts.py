"""What the TCP machine is made of: reassembly, the estimate of the round trip, the congestion window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieline.drivers.simulated.congestion import CongestionWindow, RoundTripTime
from tieline.drivers.simulated.reassembly import Reassembly


def test_reassembly_takes_what_it_has_room_for() -> None:
    incoming = Reassembly(10)
    incoming.arrived(5, b"fghij", False)
    incoming.arrived(5, b"fgh", False)  # the longer one stays
    assert (incoming.readable, incoming.window, incoming.expected) == (0, 10, 0)
    incoming.arrived(8, b"too far", False)
    incoming.arrived(0, b"abcdefg", False)
    assert incoming.take(100) == b"abcdefghij" and incoming.expected == incoming.count == 10
    incoming.arrived(3, b"defghijklm", True)
    assert incoming.ended and incoming.take(2) == b"kl" and incoming.take(2) == b"m" and incoming.expected == 14
    incoming.arrived(3, b"defghijklm", True)
    assert incoming.expected == 14 and not incoming.readable


def test_reassembly_cuts_off_what_does_not_fit() -> None:
    incoming = Reassembly(4)
    incoming.arrived(0, b"abcdef", False)
    assert incoming.take(9) == b"abcd" and incoming.window == 4
    incoming.arrived(2, b"cdefghijkl", True)
    assert incoming.take(9) == b"efgh" and not incoming.ended


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 40)), max_size=60), st.integers(1, 100))
def test_reassembly_keeps_within_its_bound(pieces: list[tuple[int, int]], capacity: int) -> None:
    """Whatever comes, of one stream of bytes, and in whatever pieces."""
    stream = bytes(range(140))
    incoming = Reassembly(capacity)
    taken = b""
    for number, (start, length) in enumerate(pieces):
        incoming.arrived(start, stream[start : start + length], False)
        assert incoming.readable <= capacity
        assert sum(map(len, incoming._ahead.values())) <= capacity
        if number % 3 == 0:
            taken += incoming.take(7)
    taken += incoming.take(1000)
    assert stream.startswith(taken) and len(taken) == incoming.expected


def test_the_timeout_follows_rfc_6298() -> None:
    rtt = RoundTripTime()
    assert [rtt.timeout(number) for number in (0, 1, 2, 7)] == [1, 2, 4, 120]
    rtt.measured(0.4)
    assert (rtt.smoothed, rtt.variance, rtt.timeout(0)) == (0.4, 0.2, pytest.approx(1.2))
    rtt.measured(0.8)
    assert (rtt.smoothed, rtt.variance) == (pytest.approx(0.45), pytest.approx(0.25))
    assert rtt.minimum == 0.4 and rtt.timeout(0) == pytest.approx(1.45)
    for _ in range(200):
        rtt.measured(0.001)
    assert rtt.timeout(0) == pytest.approx(0.2) and rtt.minimum == 0.001


def test_the_congestion_window_follows_rfc_5681() -> None:
    window = CongestionWindow(1000)
    assert window.size == 10_000
    assert [window.duplicate(10_000, 10_001) for _ in range(4)] == [False, False, True, False]
    assert window.size == 5000 + 3000 + 1000
    assert window.acknowledged(1000, 5000)  # not all yet: another hole
    assert not window.acknowledged(6000, 10_001) and window.size == 5000
    window.acknowledged(1000, 11_001)
    assert window.size == 5200  # avoidance: a segment for each window
    window.timed_out(5000)
    assert window.size == 1000
    window.acknowledged(1000, 12_001)
    assert window.size == 2000
