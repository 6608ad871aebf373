"""A network that does what a test says, in virtual time, for what stands on the driver's port: no packet, every time exact.

    def test_something(network):
        network.hosts["192.0.2.1"] = Answer(after=0.1)
        network.run(main)

It is the port and nothing behind it. A `SimulatedNetwork` has hosts and links, and fails as networks do; here a test says what a
system call gives (any errno, at once or later), looks at each socket that was made and calls its handler itself, sees in which
order names are asked for, and `run` fails if a timer is left.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from tieline import HostPort
from tieline._engine.stream import Waiters
from tieline.drivers.asyncio.loop import LoopDriver
from tieline.drivers.port import Address, DatagramHandler, StreamHandler
from tieline.paths import Interface, InterfaceType
from tieline.paths import Network as PathNetwork
from tieline.reports import TransportCounters
from tieline.testing import VirtualClock


@dataclass
class Answer:
    """What an address does with a connect: after so many seconds it accepts, or fails with an errno."""

    after: float = 0.01
    error: int | None = None


SILENCE = Answer(float("inf"))


def refusal(after: float = 0.01) -> Answer:
    return Answer(after, errno.ECONNREFUSED)


class MemorySocket:
    """A stream or datagram socket that leads nowhere. `sent` is what was given to it."""

    def __init__(self, network: Network, to: Address, handler: Any) -> None:
        self.handler: Any = handler
        self.sink: Any = None
        self.local_address = HostPort("192.0.2.99", 50000 + len(network.sockets))
        self.remote_address = to
        self.sent = b""
        self.early = 0
        self.is_made = False
        self.state = "connecting"
        network.sockets.append(self)

    def answer(self, answer: Answer) -> None:
        if self.state != "connecting":
            return
        if answer.error is None:
            self.state = "open"
            self.handler.connected()
        else:
            self.state = "failed"
            self.handler.failed(OSError(answer.error, os.strerror(answer.error)))

    def send(self, data: Any, remote: Address | None = None, metadata: Any = None, /) -> Any:
        self.sent += bytes(data)
        return len(data)

    def break_down(self, code: int = errno.ECONNRESET) -> None:
        self.state = "failed"
        self.handler.failed(OSError(code, os.strerror(code)))

    def close(self) -> None:
        if self.state != "failed":
            self.state = "closed"

    finish = close

    def abort(self) -> None:
        if self.state != "failed":
            self.state = "aborted"

    def end(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def unread(self) -> bool:
        return False

    def counters(self) -> TransportCounters:
        return TransportCounters()

    def metadata(self) -> None: ...
    def maximum_size(self, remote: Address | None = None) -> int:
        return 1472


@dataclass(eq=False)
class Network(LoopDriver):
    """The driver, and what the test says about the world. `names` are keyed by host and version."""

    hosts: dict[str, Answer] = field(default_factory=dict)
    names: dict[tuple[str, int], tuple[float, Sequence[str] | Exception]] = field(default_factory=dict)
    links: tuple[Interface, ...] = (Interface("eth0", 2, InterfaceType.WIRED, ("192.0.2.99", "2001:db8::99")),)
    sockets: list[MemorySocket] = field(default_factory=list)
    log: list[tuple[float, str]] = field(default_factory=list)

    def run(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        problems: list[Any] = []
        with asyncio.Runner(loop_factory=VirtualClock) as runner:
            loop: Any = runner.get_loop()
            super().__init__(loop, loop.time)
            self.waiter = Waiters(loop, defers=True)  # a test calls handlers from inside a task, as no driver does
            loop.set_exception_handler(lambda _, context: problems.append(context))
            runner.run(main())
            left = [one for one in loop._scheduled if not one.cancelled()]
        assert not problems
        assert not left, "timers left"
        assert not [one for one in self.sockets if one.state in ("connecting", "open")], "sockets left open"

    def said(self) -> list[tuple[int, str]]:
        """The log in milliseconds."""
        return [(round(time * 1000), what) for time, what in self.log]

    # The driver

    async def resolve(self, host: str, port: int, version: int) -> list[HostPort]:
        self.log.append((self.time(), "AAAA" if version == 6 else "A"))
        delay, answer = self.names.get((host, version), (0.0, ()))
        await asyncio.sleep(delay)
        if isinstance(answer, Exception):
            raise answer
        return [HostPort(address, port) for address in answer]

    def source_of(self, address: Address) -> str | None:
        assert isinstance(address, HostPort)
        return "2001:db8::99" if address.version == 6 else "192.0.2.99"

    def connect(self, to: Address, parameters: Any, handler: StreamHandler, first: bytes = b"") -> MemorySocket:
        assert isinstance(to, HostPort)
        self.log.append((self.time(), to.host))
        answer = self.hosts.get(to.host, SILENCE)
        if answer.after == 0 and answer.error is not None:
            raise OSError(answer.error, os.strerror(answer.error))
        socket = MemorySocket(self, to, handler)
        if answer is not SILENCE:
            self.call_later(answer.after, socket.answer, answer)
        return socket

    def bind(self, at: Address | None, to: Address | None, parameters: Any, handler: DatagramHandler) -> MemorySocket:
        assert isinstance(to, HostPort)
        self.log.append((self.time(), to.host))
        answer = self.hosts.get(to.host, Answer())
        if answer.error is not None:
            raise OSError(answer.error, os.strerror(answer.error))
        socket = MemorySocket(self, to, handler)
        socket.state = "open"
        return socket

    def watch_network(self, changed: Callable[[PathNetwork], object]) -> Any:
        raise OSError(errno.ENOSYS, "nobody tells")

    def network(self) -> PathNetwork:
        return PathNetwork(self.links)
