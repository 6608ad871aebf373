"""Fixtures for pytest. Installing tieline registers this plugin.

* ``simulated_network``: a `SimulatedNetwork`. An ``async def`` test that asks for it runs in virtual time. One that
  fails tells the network's seed; ``pytest --network-seed=SEED`` repeats it.
* ``certificate_authority``: an authority in memory that issues identities, one for the whole session.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:
    from tieline.testing import CertificateAuthority, SimulatedNetwork

TRACE_SHOWN = 20  # last lines of a failed test's trace
NETWORK: pytest.StashKey[SimulatedNetwork] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("tieline").addoption(
        "--network-seed",
        type=int,
        default=None,
        metavar="SEED",
        help="the seed of each test's simulated_network; default: a new one each",
    )


@pytest.fixture
def simulated_network(request: pytest.FixtureRequest) -> SimulatedNetwork:
    """A simulated network, without hosts yet. An ``async def`` test with this fixture runs in its virtual time."""
    from tieline.testing import SimulatedNetwork

    network = SimulatedNetwork(request.config.getoption("--network-seed"))
    request.node.stash[NETWORK] = network  # for the report: the test's own arguments are not there yet if a fixture fails
    return network


@pytest.fixture(scope="session")
def certificate_authority() -> CertificateAuthority:
    """An authority in memory: ``certificate_authority.identity("localhost")``, and its ``trust``."""
    from tieline.testing import certificates

    return certificates()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    test = pyfuncitem.obj
    if "simulated_network" not in pyfuncitem.fixturenames or not inspect.iscoroutinefunction(test):
        return None
    network = cast("SimulatedNetwork", pyfuncitem.funcargs["simulated_network"])
    # As pytest does: a parameter with a default is no fixture.
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(test).parameters if name in pyfuncitem.funcargs}
    network.run(lambda: test(**arguments))
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    network = item.stash.get(NETWORK, getattr(item, "funcargs", {}).get("simulated_network"))
    if report.failed and network is not None:
        lines = [f"seed {network.seed}: pytest --network-seed={network.seed} repeats it; the last packets were"]
        lines += [f"  {entry}" for entry in list(network.trace)[-TRACE_SHOWN:]]
        report.sections.append(("simulated network", "\n".join(lines)))
    if call.when == "teardown" and NETWORK in item.stash:
        del item.stash[NETWORK]  # items live as long as the session, and a trace is large
    return report
