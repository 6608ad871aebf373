"""Recording what happens to a connection, and the order in which updates are told."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from tieline import TCP, NetworkConnection, NetworkListener, State
from tieline.testing.events import ConnectionEvent, record_events
from tieline.testing.memory import memory_pair
from tieline.updates import Updates


async def refuse(connection: NetworkConnection[Any]) -> None: ...


async def test_the_whole_story() -> None:
    told: list[State] = []
    async with NetworkListener(TCP(), on="127.0.0.1:0").serving(refuse) as listener:
        connection = NetworkConnection(listener.endpoint, TCP()).on_state_update(lambda _, state: told.append(state))
        events = record_events(connection)
        async with connection:
            await connection.ready()
    assert events.states == told == [State.PREPARING, State.READY, State.CANCELLED]
    assert events.kinds == ["state", "state", "path", "viability", "state"]
    assert events.events[3].value is True and events.events[2].value == connection.current_path
    times = [event.time for event in events]
    assert times == sorted(times) and len(events) == 5
    lines = str(events).splitlines()
    assert [line.split()[2] for line in lines] == ["state", "state", "path", "viability", "state"]
    assert lines[0].startswith("  0.00") and lines[0].endswith(" s  state        preparing")
    assert "path         satisfied over lo, 127.0.0.1:" in lines[2] and lines[2].endswith(f" to {listener.endpoint}")
    assert lines[3].endswith("viability    True")


async def test_a_handler_that_makes_the_next_event_comes_after_the_recorder() -> None:
    near, far = await memory_pair(TCP())
    events = record_events(near)
    far.abort()
    near.on_state_update(lambda connection, state: connection.abort())
    with pytest.raises(ConnectionResetError):
        await near.receive()
    assert events.states == [State.FAILED]
    connection = NetworkConnection("127.0.0.1:1", TCP()).on_state_update(lambda connection, state: connection.abort())
    events = record_events(connection)
    connection.start()
    assert events.states == [State.PREPARING, State.CANCELLED]
    assert events.events[0].time <= events.events[1].time


async def test_stopping() -> None:
    near, far = await memory_pair(TCP())
    with record_events(near) as stopped:
        going_on = record_events(near)
    async with near, far:
        pass
    assert len(stopped) == 0 and stopped.states == [] and str(stopped) == ""
    assert going_on.states == [State.CANCELLED]
    stopped.stop()


async def test_a_recorder_that_is_dropped_is_gone_at_once() -> None:
    near, far = await memory_pair(TCP())
    async with near, far:
        gc.disable()
        try:
            events = record_events(near)
            gone = weakref.ref(events)
            assert near._watching.paths.watched
            del events
            assert gone() is None and not near._watching.paths.watched
        finally:
            gc.enable()
        events = record_events(near)
        known = weakref.ref(near)
    del near
    assert known() is None and events.states == [State.CANCELLED]  # nor does a recorder keep its connection


def test_outside_of_a_loop() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        record_events(NetworkConnection("127.0.0.1:1", TCP()))


def test_an_event_is_a_value() -> None:
    event = ConnectionEvent(1.5, "better path", False)
    assert str(event) == "  1.500000 s  better path  False" and event == ConnectionEvent(1.5, "better path", False)
    with pytest.raises(FrozenInstanceError):
        event.time = 2.0  # type: ignore[misc]


async def test_updates_are_told_in_the_order_in_which_they_were_asked_for() -> None:
    updates: Updates[None, int] = Updates()
    woken: list[int] = []
    iterators = [updates.iterate() for _ in range(100)]

    async def wait(number: int) -> None:
        woken.append(number + await anext(iterators[number]))

    # The tasks begin in another order than the iterators were made in.
    waiting = [asyncio.create_task(wait(number)) for number in reversed(range(100))]
    await asyncio.sleep(0)
    updates.publish(None, 0, last=True)
    await asyncio.wait(waiting)
    assert woken == list(range(100))
    assert [one async for one in iterators[0]] == []
