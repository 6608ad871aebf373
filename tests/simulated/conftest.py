"""Tests on the simulated network. Each must leave it tidy: once everything in flight has landed, nothing is left open."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tieline.testing import Host, SimulatedNetwork

SETTLING = 1000.0  # virtual seconds in which the last acknowledgements, retransmissions and timers have come


async def settled(test: Callable[[], Coroutine[Any, Any, Any]], network: SimulatedNetwork) -> None:
    """Run a test, and see what it leaves."""
    problems: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(f"reported to the loop: {context}"))
    await test()
    hosts = [node for node in network.nodes if isinstance(node, Host)]
    for task in [task for host in hosts for task in host.programs]:
        task.cancel()
    await asyncio.sleep(SETTLING)
    gc.collect()
    problems += [f"task left: {task!r}" for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    problems += [f"socket left on {host.name}: {socket!r}" for host in hosts for socket in host.sockets]
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    network: SimulatedNetwork = pyfuncitem.funcargs["simulated_network"]
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(test).parameters}
    host = pyfuncitem.funcargs.get("alone")  # for tests that were written for the loopback of one machine
    network.run(lambda: settled(lambda: test(**arguments), network), on=host)
    return True
