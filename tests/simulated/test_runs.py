"""How a run of a simulated network ends: with what main gives or raises, and with what any program raises."""

from __future__ import annotations

import asyncio

import pytest

from tieline import TCP, NetworkConnection
from tieline.testing import SimulatedNetwork, StandstillError, VirtualClock

from .programs import serve, two_hosts


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_program_that_fails_ends_the_run(simulated_network: SimulatedNetwork) -> None:
    server = simulated_network.host("server.test")
    cleaned: list[str] = []

    async def failing() -> None:
        await asyncio.sleep(5)
        raise ZeroDivisionError("by zero")

    async def other() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            cleaned.append("other")

    async def main() -> None:
        server.start(failing)
        server.start(other)
        try:
            await asyncio.sleep(100)
        finally:
            cleaned.append(f"main at {now():g}")

    with pytest.raises(ZeroDivisionError, match="by zero") as raised:
        simulated_network.run(main)
    assert cleaned == ["main at 5", "other"]
    assert raised.value.__notes__ == [
        "raised by failing on server.test",
        f"in a simulated network with seed={simulated_network.seed}, which repeats it",
    ]


def test_a_failed_program_is_told_whatever_main_does_about_it(simulated_network: SimulatedNetwork) -> None:
    async def failing() -> None:
        await asyncio.sleep(5)
        pytest.fail("no Exception, but a failure")

    async def unmoved() -> str:
        simulated_network.host("host.test").start(failing)
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            return "fine"
        return "late"

    with pytest.raises(pytest.fail.Exception, match="but a failure") as raised:
        simulated_network.run(unmoved)
    assert len(raised.value.__notes__) == 2

    async def clumsy() -> None:
        other.host("host.test").start(failing)
        try:
            await asyncio.sleep(100)
        finally:
            raise ZeroDivisionError

    other = SimulatedNetwork()
    with pytest.raises(pytest.fail.Exception, match="but a failure") as raised:
        other.run(clumsy)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_a_program_that_fails_on_being_cancelled(simulated_network: SimulatedNetwork) -> None:
    async def program() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            raise ZeroDivisionError("while cleaning up")

    async def main() -> None:
        simulated_network.host("host.test").start(program)
        await asyncio.sleep(1)

    with pytest.raises(ZeroDivisionError, match="while cleaning up") as raised:
        simulated_network.run(main)
    assert raised.value.__notes__[0] == "raised by program on host.test"


@pytest.mark.parametrize("kind", [AssertionError, pytest.fail.Exception])
def test_an_event_that_fails_ends_the_run(simulated_network: SimulatedNetwork, kind: type[BaseException]) -> None:
    happened: list[float] = []

    def failing() -> None:
        raise kind("in an event")

    async def main() -> None:
        simulated_network.at(5, failing)
        simulated_network.at(5, lambda: happened.append(now()))
        await asyncio.sleep(100)

    with pytest.raises(kind, match="in an event") as raised:
        simulated_network.run(main)
    assert happened == [5.0]
    assert raised.value.__notes__[0] == "raised by an event at 5 s"


def test_an_event_that_fails_in_another_run_is_told_to_the_loop() -> None:
    network = SimulatedNetwork()
    reports: list[str] = []

    def failing() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context["message"]))
        with network.host("host.test"):
            network.at(5, failing)
            await asyncio.sleep(6)

    with asyncio.Runner(loop_factory=VirtualClock) as runner:
        runner.run(main())
    assert reports == ["an event of a simulated network raised"]


def test_events_from_before_the_first_use_count_from_it() -> None:
    """The time of other loops does not begin at 0."""
    network = SimulatedNetwork()
    happened: list[float] = []
    host = network.host("host.test")
    network.after(7, lambda: happened.append(now()))
    network.at(5, lambda: happened.append(now()))

    async def main() -> None:
        await asyncio.sleep(100)
        with host:
            network.after(1, lambda: happened.append(now()))
            await asyncio.sleep(50)

    with asyncio.Runner(loop_factory=VirtualClock) as runner:
        runner.run(main())
    assert happened == [101.0, 105.0, 107.0]


def test_what_main_raises_is_raised_and_programs_end(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)

    async def main() -> None:
        server.start(serve)
        async with NetworkConnection("server.test:81", TCP()) as connection:
            await connection.ready()

    with pytest.raises(ConnectionRefusedError) as raised:
        simulated_network.run(main, on=client)
    assert raised.value.__notes__[-1] == f"in a simulated network with seed={simulated_network.seed}, which repeats it"
    assert not server.sockets and not server.programs


def test_a_network_runs_once(simulated_network: SimulatedNetwork) -> None:
    async def main() -> int:
        return 1

    assert simulated_network.run(main) == 1
    with pytest.raises(RuntimeError, match="this network has run before: time does not go back, make another"):
        simulated_network.run(main)


def test_a_run_has_a_limit(simulated_network: SimulatedNetwork) -> None:
    cancelled: list[float] = []

    async def main() -> None:
        try:
            while True:  # noqa: ASYNC110
                await asyncio.sleep(7)
        finally:
            cancelled.append(now())

    with pytest.raises(TimeoutError, match=r"not over after limit=100 s of virtual time:\n(.|\n)*await asyncio.sleep\(7\)"):
        simulated_network.run(main, limit=100)
    assert cancelled == [100.0]


def test_a_run_ends_at_its_limit_only_if_it_is_not_over(simulated_network: SimulatedNetwork) -> None:
    async def main() -> str:
        await asyncio.sleep(99)
        return "over"

    assert simulated_network.run(main, limit=100) == "over"


def test_a_program_that_will_not_end_is_told_in_the_end() -> None:
    network = SimulatedNetwork(seed=1)
    host = network.host("stubborn.test")

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                continue

    async def main() -> None:
        host.start(stubborn)
        await asyncio.Event().wait()

    with pytest.raises(StandstillError, match="goes on, although it was cancelled"):
        network.run(main, limit=100)


def test_a_cancelled_event_takes_no_time() -> None:
    network = SimulatedNetwork(seed=1)

    async def main() -> None:
        first, second = (network.at(when, int) for when in (5000, 6000))
        second.cancel()
        first.cancel()
        network.after(7, int)
        await asyncio.Event().wait()

    with pytest.raises(StandstillError, match=r"^at 7 s every task waits"):
        network.run(main)


@pytest.mark.parametrize("when", [-1, float("nan"), float("inf")])
def test_a_time_is_a_time(when: float) -> None:
    network = SimulatedNetwork(seed=1)
    for call in (network.at, network.after):
        with pytest.raises(ValueError, match="finite number of seconds"):
            call(when, int)
