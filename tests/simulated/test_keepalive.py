"""Keepalive probes of simulated TCP leave on time, whatever the times are that floating point makes of them."""

from __future__ import annotations

from tieline import HostPort
from tieline.drivers.simulated.packets import Packet, TransportProtocol
from tieline.drivers.simulated.tcp import TCPMachine

HERE, THERE = HostPort("192.0.2.1", 1), HostPort("192.0.2.2", 2)


def test_time_goes_on_at_every_deadline() -> None:
    """``heard + idle - heard`` may be less than ``idle``, and then a deadline that is reached was set again to the same time."""
    for number in range(1, 1000):
        sent: list[Packet] = []
        machine = TCPMachine(
            HERE, THERE, sent.append, maximum_segment=1000, send_capacity=1, receive_capacity=1, keepalive=(15, 5, 3)
        )  # fmt: skip
        machine.connect(0.0)
        heard = 0.0613 * number
        machine.arrived(Packet(TransportProtocol.TCP, THERE, HERE, flags="SA", acknowledgement=1, window=1), heard)
        sent.clear()
        for expected in (15, 20, 25):
            assert machine.deadline == heard + 15 or sent
            machine.expired(now := machine.deadline)
            assert machine.deadline > now and abs(now - heard - expected) < 1e-6
        assert len(sent) == 3
