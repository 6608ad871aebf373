"""Who tells that there is something to read: the loop for one socket, an epoll of our own for the others."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from tieline import TCP, NetworkConnection, NetworkListener
from tieline.drivers.asyncio.readers import Readers, RenewedReaders, readers_of

from ..peers import until

linux = pytest.mark.skipif(sys.platform != "linux", reason="there is an epoll on Linux")


@contextmanager
def pairs(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    with ExitStack() as stack:
        made = [socket.socketpair() for _ in range(count)]
        for pair in made:
            for end in pair:
                stack.enter_context(end)
                end.setblocking(False)
        yield made


def epolls() -> int:
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return sum("eventpoll" in os.readlink(link) for link in links if os.path.islink(link))


async def turns() -> None:
    """The loop looks for what is there already, and tells."""
    for _ in range(5):
        await asyncio.sleep(0)


class Told(list[int]):
    """Which sockets had something, in the order in which that was told."""

    def __init__(self, watching: Readers) -> None:
        super().__init__()
        self.watching = watching

    def watch(self, sock: socket.socket) -> None:
        number = sock.fileno()

        def readable() -> None:
            sock.recv(100)
            self.append(number)

        self.watching.add_reader(number, readable)


async def test_more_than_one_look_finds() -> None:
    told = Told(readers_of(asyncio.get_running_loop()))
    with pairs(400) as made:
        for ours, _ in made:
            told.watch(ours)
        for _, theirs in made:
            theirs.send(b"!")
        await until(lambda: len(told) == 400)
        assert sorted(told) == sorted(ours.fileno() for ours, _ in made)
        for ours, theirs in made:
            told.watching.remove_reader(ours.fileno())
            told.watching.remove_reader(ours.fileno())  # again, which does nothing
            theirs.send(b"!")
        await turns()
        assert len(told) == 400


@linux
async def test_there_is_an_epoll_while_there_is_more_than_one() -> None:
    before = epolls()
    told = Told(readers_of(asyncio.get_running_loop()))
    with pairs(3) as made:
        (one, _), (two, _), (three, _) = made
        told.watch(one)
        assert epolls() == before
        told.watch(two)
        told.watching.remove_reader(one.fileno())
        told.watch(three)
        assert epolls() == before + 1
        for _, theirs in made:
            theirs.send(b"!")
        await until(lambda: len(told) == 2)
        assert sorted(told) == sorted((two.fileno(), three.fileno()))
        told.watching.remove_reader(two.fileno())
        assert epolls() == before + 1
        told.watching.remove_reader(three.fileno())
        assert epolls() == before
        told.watch(one)  # which still has something
        await until(lambda: len(told) == 3)
        told.watching.keep()
        told.watch(two)
        for sock in (one, two):
            told.watching.remove_reader(sock.fileno())
        assert epolls() == before + 1
        told.watching.release()
        assert epolls() == before


async def test_who_was_removed_meanwhile_is_not_told_even_if_another_has_its_number() -> None:
    watching = readers_of(asyncio.get_running_loop())
    with pairs(4) as made, ExitStack() as later:
        (alone, _), (first, first_peer), (second, second_peer), _ = made
        calls: list[str] = []

        def removes(name: str, ours: socket.socket, other: socket.socket) -> None:
            calls.append(name)
            watching.remove_reader(ours.fileno())
            watching.remove_reader(other.fileno())
            number = other.fileno()
            replacement = made[3][0]
            os.dup2(replacement.fileno(), number)
            watching.add_reader(number, lambda: calls.append("of the next socket"))
            later.callback(watching.remove_reader, number)

        watching.add_reader(alone.fileno(), lambda: None)
        watching.add_reader(first.fileno(), lambda: removes("first", first, second))
        watching.add_reader(second.fileno(), lambda: removes("second", second, first))
        first_peer.send(b"!")
        second_peer.send(b"!")
        await until(lambda: bool(calls))
        await turns()
        assert calls in (["first"], ["second"])
        watching.remove_reader(alone.fileno())


async def test_a_mistake_is_told_to_the_loop_and_nobody_misses_anything_by_it() -> None:
    loop = asyncio.get_running_loop()
    told = Told(readers_of(loop))
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    with pairs(4) as made:
        for ours, _ in made:
            told.watch(ours)
        broken = made[2][0]

        def mistake() -> None:
            broken.recv(100)
            raise ZeroDivisionError("oh")

        told.watching.add_reader(broken.fileno(), mistake)  # in place of the one before
        for _, theirs in made:
            theirs.send(b"!")
        await until(lambda: len(told) == 3 and bool(reported))
        (report,) = reported
        assert isinstance(report["exception"], ZeroDivisionError) and "mistake" in report["message"]
        for ours, _ in made:
            told.watching.remove_reader(ours.fileno())


async def test_callbacks_run_in_the_context_of_who_asked() -> None:
    watching = readers_of(asyncio.get_running_loop())
    who: ContextVar[int] = ContextVar("who")
    seen: list[tuple[int, int]] = []
    with pairs(5) as made:
        for number, (ours, theirs) in enumerate(made):
            who.set(number)

            def readable(number: int = number, ours: socket.socket = ours) -> None:
                ours.recv(1)
                seen.append((number, who.get()))

            watching.add_reader(ours.fileno(), readable)
            theirs.send(b"!")
        await until(lambda: len(seen) == 5)
        assert sorted(seen) == [(number, number) for number in range(5)]
        for ours, _ in made:
            watching.remove_reader(ours.fileno())


@linux
async def test_what_cannot_be_watched_is_an_error(tmp_path: Path) -> None:
    watching = readers_of(asyncio.get_running_loop())
    file = os.open(tmp_path, os.O_RDONLY)
    try:
        with pairs(2) as made:
            for ours, _ in made:
                watching.add_reader(ours.fileno(), lambda: None)
            with pytest.raises(PermissionError):  # epoll_ctl(2): what is always readable is not watched
                watching.add_reader(file, lambda: None)
            watching.remove_reader(file)
            for ours, _ in made:
                watching.remove_reader(ours.fileno())
    finally:
        os.close(file)


@linux
def test_a_closed_loop_is_no_hindrance() -> None:
    loop = asyncio.new_event_loop()
    watching = readers_of(loop)
    with pairs(3) as made:
        for ours, _ in made:
            watching.add_reader(ours.fileno(), lambda: None)
        loop.close()
        before = epolls()
        for ours, _ in made:
            watching.remove_reader(ours.fileno())
        assert epolls() == before - 1


async def test_a_loop_that_forgets_is_reminded() -> None:
    """uvloop stops to watch a socket that has an error; there may be more to read before it."""
    watching = RenewedReaders(asyncio.get_running_loop())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
        ours.setblocking(False)
        received: list[object] = []

        def readable() -> None:
            try:
                received.append(ours.recv(1))
            except OSError as error:
                received.append(type(error))
                watching.remove_reader(ours.fileno())

        with ours:
            ours.sendall(b"unread, so that its end is a reset")
            client.sendall(b"ten bytes.")
            client.close()
            watching.add_reader(ours.fileno(), readable)
            await until(lambda: ConnectionResetError in received)
            assert received == [*(bytes([byte]) for byte in b"ten bytes."), ConnectionResetError]


async def test_connections_without_an_epoll_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems that have none."""
    monkeypatch.setattr("tieline.drivers.asyncio.readers.LINUX", False)

    async def echo(connection: NetworkConnection[TCP]) -> None:
        async for content, _ in connection:
            await connection.send(content)

    async def talk(port: int) -> None:
        async with NetworkConnection(("127.0.0.1", port), TCP()) as connection:
            for _ in range(5):
                await connection.send(b"hello")
                assert (await connection.receive(exactly=5)).content == b"hello"

    async with NetworkListener(TCP(), on="127.0.0.1:0").serving(echo) as listener, asyncio.TaskGroup() as tasks:
        for _ in range(10):
            tasks.create_task(talk(listener.port))
