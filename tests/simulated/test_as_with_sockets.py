"""What the tests of real sockets ask of a connection holds on the simulated network too: it behaves like the system's.

The tests are those of tests/sockets, unchanged, but for what asks the system itself (its sockets, threads, files).
"""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import pytest

from tieline.testing import Host, SimulatedNetwork

from ..sockets import conftest, test_closing, test_connection, test_datagrams, test_listener, test_reports, test_streams

OF_THE_SYSTEM = (
    "socket.", "monkeypatch", "to_thread", "tmp_path", "loop_factory", "subprocess", "stacks", "run_in_executor", "Peer",
    "gc.disable", "_call_that_connected",  # which the simulated kernel answers in a later turn
)  # fmt: skip


def taken_over(module: ModuleType) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, test in vars(module).items():
        if name.startswith("test_") and inspect.iscoroutinefunction(test):
            source = inspect.getsource(test).replace("_flow.socket.", "")
            if not any(word in source for word in OF_THE_SYSTEM):
                found[f"{name}__{module.__name__.rpartition('.')[2]}"] = test
    return found


for module in (test_streams, test_closing, test_datagrams, test_connection, test_reports, test_listener):
    globals().update(taken_over(module))

pair, pair_over = conftest.pair, conftest.pair_over


@pytest.fixture(params=["tcp", "tls"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def alone(simulated_network: SimulatedNetwork) -> Host:
    """Both ends live on one host, as on a machine's loopback."""
    return simulated_network.host("alone.test")


def test_most_tests_were_taken_over() -> None:
    assert sum(name.startswith("test_") for name in globals()) > 80
