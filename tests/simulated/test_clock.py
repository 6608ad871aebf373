"""The event loop in virtual time: time jumps, threads take none, and a program that waits for nothing is told where."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from tieline import TCP, NetworkConnection, NetworkError, NetworkListener
from tieline.drivers.simulated import clock as clock_module
from tieline.testing import SimulatedNetwork, StandstillError, VirtualClock

from .programs import echo, serve, two_hosts


def run(main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=VirtualClock) as runner:
        return runner.run(main)


def now() -> float:
    return asyncio.get_running_loop().time()


# Time


def test_sleeps_jump_and_are_exact() -> None:
    async def main() -> list[float]:
        times = [now()]
        for seconds in (3600.0, 0.1, 0.2, 0.0, 1e-7):
            await asyncio.sleep(seconds)
            times.append(now())
        return times

    began = time.monotonic()
    assert run(main()) == pytest.approx([0.0, 3600.0, 3600.1, 3600.3, 3600.3, 3600.3000001], abs=1e-9)
    assert time.monotonic() - began < 0.5


def test_the_clock_takes_the_timers_own_times() -> None:
    """Ten thousand short waits are where ten thousand additions are: nothing drifts."""

    async def main() -> tuple[float, float]:
        expected = 0.0
        for _ in range(10_000):
            expected += 0.1
            await asyncio.sleep(0.1)
        return now(), expected

    reached, expected = run(main())
    assert reached == expected


def test_timers_run_in_order_of_time() -> None:
    async def main() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        order: list[tuple[str, float]] = []
        for name, delay in (("late", 5.0), ("early", 1.0), ("middle", 2.5)):
            loop.call_later(delay, lambda name=name: order.append((name, now())))
        loop.call_at(4.0, lambda: order.append(("at", now())))
        loop.call_later(2.0, lambda: order.append(("never", now()))).cancel()
        loop.call_at(6.0, done.set_result, None)
        await done
        return order

    assert run(main()) == [("early", 1.0), ("middle", 2.5), ("at", 4.0), ("late", 5.0)]


def test_timeouts_follow() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(86400 * 30):  # longer than a selector of the system would wait
                await asyncio.get_running_loop().create_future()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(10), 2.5)
        return now()

    assert run(main()) == 86400 * 30 + 2.5


def test_work_takes_no_time() -> None:
    async def main() -> float:
        for _ in range(1000):
            await asyncio.sleep(0)
        time.sleep(0.01)  # noqa: ASYNC251
        return now()

    assert run(main()) == 0.0


def test_an_hour_of_an_idle_pair(simulated_network: SimulatedNetwork) -> None:
    server, client = two_hosts(simulated_network)

    async def main() -> float:
        server.start(serve)
        with client:
            async with NetworkConnection("server.test:80", TCP()) as connection:
                await connection.ready()
                before = now()
                await asyncio.sleep(3600)
                assert now() == before + 3600
                await connection.send(b"still here?")
                assert (await connection.receive(exactly=11)).content == b"still here?"
        return now()

    began = time.monotonic()
    assert simulated_network.run(main) == pytest.approx(3600.004)
    assert time.monotonic() - began < 1.0
    assert len(simulated_network.trace) < 50


# Threads


def test_threads_take_no_virtual_time() -> None:
    async def main() -> tuple[list[int], float]:
        asyncio.get_running_loop().call_later(0.001, lambda: None)
        numbers = await asyncio.gather(*(asyncio.to_thread(slow, number) for number in range(3)))
        return numbers, now()

    def slow(number: int) -> int:
        time.sleep(0.05)
        return number

    assert run(main()) == ([0, 1, 2], 0.0)


def test_a_thread_may_wake_the_loop_again_and_again() -> None:
    async def main() -> tuple[list[int], float]:
        loop, seen = asyncio.get_running_loop(), list[int]()

        def work() -> None:
            for number in range(3):
                time.sleep(0.01)
                loop.call_soon_threadsafe(seen.append, number)

        await asyncio.to_thread(work)
        await asyncio.sleep(1)
        return seen, now()

    assert run(main()) == ([0, 1, 2], 1.0)


def test_a_thread_that_outlives_its_task_is_waited_for_at_the_end() -> None:
    ended = threading.Event()

    def work() -> None:
        time.sleep(0.1)
        ended.set()

    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout_at(now()):
                await asyncio.to_thread(work)
        await asyncio.sleep(5)  # time goes on: nobody waits for the thread any more
        return now()

    assert run(main()) == 5.0
    assert ended.is_set()


def test_what_a_thread_raises_is_raised() -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        with pytest.raises(StandstillError):  # the failed one is not counted for ever
            raise StandstillError
        await asyncio.get_running_loop().create_future()

    with pytest.raises(StandstillError, match="every task waits"):
        run(main())


# Standing still


async def wait_for_what_never_comes() -> None:
    await asyncio.get_running_loop().create_future()


def test_a_standstill_tells_where_each_task_waits() -> None:
    async def main() -> None:
        await asyncio.sleep(2)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(wait_for_what_never_comes(), name="first")
            tasks.create_task(asyncio.Event().wait(), name="second")

    with pytest.raises(StandstillError) as raised:
        run(main())
    text = str(raised.value)
    assert text.startswith("at 2 s every task waits, and nothing is going to happen:\n")
    assert text.index("Task-1") < text.index("  first\n") < text.index("  second\n")
    assert "await asyncio.get_running_loop().create_future()" in text and "test_clock.py" in text
    assert "in wait\n" in text and "in main\n" in text


def test_a_run_on_a_network_stands_still_too(simulated_network: SimulatedNetwork) -> None:
    """At once, and not when the run's limit is over; with the line of the program, whatever the library has below it."""
    server, client = two_hosts(simulated_network)

    async def main() -> None:
        server.start(serve)
        with client:
            async with NetworkConnection("server.test:80", TCP()) as connection:
                await connection.send(b"echo")
                await connection.receive(exactly=5)

    with pytest.raises(StandstillError, match=r"await connection.receive\(exactly=5\)") as raised:
        simulated_network.run(main)
    assert str(raised.value).startswith("at 0.203 s") and "serve on server.test" in str(raised.value)
    assert raised.value.__notes__ == [f"in a simulated network with seed={simulated_network.seed}, which repeats it"]


def test_a_cancelled_timer_is_nothing_to_wait_for(simulated_network: SimulatedNetwork) -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(10**7, lambda: None).cancel()
        await wait_for_what_never_comes()

    with pytest.raises(StandstillError, match=r"^at 0 s"):
        simulated_network.run(main)


def test_a_program_that_spins_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "TURNS_AT_ONE_INSTANT", 1000)

    async def spin() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.sleep(1.5)
        for _ in range(900):
            await asyncio.sleep(0)
        await asyncio.sleep(0.5)
        for _ in range(900):  # counted from the last time that time went on
            await asyncio.sleep(0)
        spinning = asyncio.create_task(spin(), name="spinner")
        await spinning

    text = r"1,000 turns of the loop at 2 s, and time does not go on: some task spins\n"
    with pytest.raises(StandstillError, match=text) as raised:
        run(main())
    assert "  spinner\n" in str(raised.value) and "in spin\n" in str(raised.value)


# Sockets of the system


def test_sockets_of_the_system_are_refused() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            with pytest.raises(RuntimeError, match=r"cannot be waited for in virtual time.*`with host:`"):
                loop.add_reader(ours, lambda: None)
            with pytest.raises(RuntimeError, match="cannot be waited for"):
                loop.add_writer(ours, lambda: None)
            with pytest.raises(RuntimeError, match="cannot be waited for"):
                await loop.sock_recv(ours, 1)

    run(main())


def test_a_connection_outside_of_a_host_says_what_is_missing(simulated_network: SimulatedNetwork) -> None:
    async def main() -> None:
        connection = NetworkConnection("127.0.0.1:1", TCP())
        with pytest.raises(NetworkError, match="on no host of the simulated network: start connections inside `with host:`"):
            await connection.ready()
        connection.abort()
        with pytest.raises(RuntimeError, match="on no host of the simulated network: start connections inside `with host:`"):
            async with NetworkListener(TCP(), on="127.0.0.1:0").serving(echo):
                pass

    simulated_network.run(main)


# Repeatable


def test_the_order_of_a_task_group_is_repeatable() -> None:
    """A group holds its tasks in a set, and cancels them in that set's order."""

    async def main() -> list[int]:
        order: list[int] = []

        async def wait(number: int) -> None:
            try:
                await asyncio.sleep(100)
            finally:
                order.append(number)

        async def fail() -> None:
            await asyncio.sleep(1)
            raise ValueError

        with pytest.raises(ExceptionGroup):  # noqa: PT012
            async with asyncio.TaskGroup() as group:
                for number in range(50):
                    group.create_task(wait(number))
                group.create_task(fail())
        return order

    first = run(main())
    assert sorted(first) == list(range(50))
    kept = [object() for _ in range(1000)]  # so that the second run's tasks lie elsewhere
    assert run(main()) == first
    assert run(main()) == first
    del kept


def test_tasks_are_equal_only_to_themselves() -> None:
    async def main() -> None:
        one, two = asyncio.create_task(asyncio.sleep(0)), asyncio.create_task(asyncio.sleep(0))
        assert one != two and hash(one) != hash(two) and len({one, two, one}) == 2
        assert isinstance(one, asyncio.Task) and asyncio.current_task() in asyncio.all_tasks()
        await asyncio.wait({one, two})

    run(main())
