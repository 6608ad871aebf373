"""What tests of machines and of establishment are given."""

import pytest

from .memory import Network


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    """A network in memory and in virtual time, as the driver of everything that is started in this test."""
    network = Network()
    monkeypatch.setattr("tieline.drivers.current", lambda: network)
    return network
