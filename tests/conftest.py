"""How tests run.

An ``async def`` test runs once on each event loop, asyncio's own and uvloop. Having passed, it must also be tidy:

* no task is left, except one that only waits for its turn to end;
* no descriptor is open that was not open before;
* nothing was reported to the loop's exception handler;
* nothing is collected unclosed: ResourceWarnings are errors, and pytest fails a test for an exception in ``__del__``.

``@pytest.mark.asyncio_only`` leaves uvloop out. A test that is not async can ask for ``loop_factory`` and run loops. One that
asks for ``simulated_network`` runs in virtual time instead (`tieline.testing.plugin`).
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import shutil
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from hypothesis import settings

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}
TURNS = 10  # of the loop, for callbacks and cancelled tasks whose end is only a matter of time

# Programs that the tests start inherit an ignored SIGINT (a shell's background jobs have it); a handled one becomes the default.
signal.signal(signal.SIGINT, signal.default_int_handler)

for new_event_loop in LOOPS.values():
    new_event_loop().close()  # the first loop of a kind opens descriptors that stay with the process

settings.register_profile("usual", settings(), deadline=None)  # a busy machine is not a slow program
settings.register_profile("thorough", settings(), deadline=None, max_examples=5000)
settings.load_profile("usual")


def pytest_configure(config: pytest.Config) -> None:
    """In CI chance is the same for every change, as it is for hypothesis there: what a run finds is the change's doing."""
    if os.environ.get("CI") and config.option.network_seed is None:
        config.option.network_seed = 1


@pytest.fixture
def peer() -> Callable[[str], str]:
    """``peer("socat")`` is the path of a foreign program to talk to. Without it the test is skipped; in CI it fails."""

    def find(command: str) -> str:
        path = shutil.which(command)
        if path is not None:
            return path
        if os.environ.get("CI"):
            pytest.fail(f"{command} is not installed; CI tests against every peer", pytrace=False)
        pytest.skip(f"{command} is not installed")

    return find


def pytest_collection_finish() -> None:
    """What collecting has made stays to the end: the collection of garbage after each test need not look at it."""
    gc.collect()
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if inspect.iscoroutinefunction(metafunc.function) and not {"loop_factory", "simulated_network"} & {*metafunc.fixturenames}:
        metafunc.fixturenames.append("loop_factory")
    if "loop_factory" in metafunc.fixturenames:
        names = ["asyncio"] if metafunc.definition.get_closest_marker("asyncio_only") else list(LOOPS)
        metafunc.parametrize("loop_factory", [LOOPS[name] for name in names], ids=names)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test) or "simulated_network" in pyfuncitem.fixturenames:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(test).parameters}
    loop_factory: Any = pyfuncitem.callspec.params["loop_factory"]
    marker = pyfuncitem.get_closest_marker("timeout")
    limit = float(marker.args[0] if marker else pyfuncitem.config.getini("timeout"))
    problems: list[str] = []
    before = descriptors()
    with asyncio.Runner(debug=False, loop_factory=loop_factory) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: problems.append(f"reported to the loop: {context}"))
        problems += runner.run(tasks_left(test(**arguments), 0.9 * limit))
    del runner
    gc.collect()  # now, so that whatever was forgotten is this test's failure
    problems += [f"descriptor left open: {name}" for number, name in descriptors().items() if number not in before]
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)
    return True


async def tasks_left(test: Coroutine[Any, Any, None], limit: float) -> list[str]:
    # Before pytest-timeout, which interrupts by a signal: uvloop only logs what a signal handler raises, and goes on.
    async with asyncio.timeout(limit):
        await test
    for _ in range(TURNS):
        await asyncio.sleep(0)
    return [f"task left: {task!r}" for task in asyncio.all_tasks() if task is not asyncio.current_task()]


def descriptors() -> dict[str, str]:
    """What this process has open, by number. Empty where /proc does not tell."""
    found: dict[str, str] = {}
    for number in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            found[number] = f"{number} ({os.readlink(f'/proc/self/fd/{number}')})"
        except FileNotFoundError:
            continue  # the one that listed the folder
    return found
