"""The driver of a simulated host: the port's calls, answered by its socket table."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NoReturn

from tieline.drivers.asyncio.loop import LoopDriver
from tieline.drivers.port import Address, DatagramHandler, MulticastHandler, PacketHandler, StreamHandler
from tieline.drivers.simulated.batch import SimulatedPacketSocket
from tieline.endpoints import HostPort
from tieline.parameters import Parameters
from tieline.paths import Network

if TYPE_CHECKING:
    from tieline.drivers.simulated.datagram import SimulatedDatagramSocket
    from tieline.drivers.simulated.host import Host
    from tieline.drivers.simulated.multicast import SimulatedMulticastSocket
    from tieline.drivers.simulated.stream import SimulatedAcceptor, SimulatedStream
    from tieline.drivers.simulated.watch import HostWatch

__all__ = ["OutsideDriver", "SimulatedDriver"]


class SimulatedDriver(LoopDriver):
    """One host of a simulated network as the rest of the library sees it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, host: Host) -> None:
        super().__init__(loop, loop.time)
        self._host = host

    def __repr__(self) -> str:
        return f"<SimulatedDriver of {self._host.name}>"

    def seed(self) -> bytes | None:
        return self._host.network.random_bytes(32)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = super().spawn(work, name)
        self._host.adopt(task)
        return task

    def resolve(self, host: str, port: int, version: int) -> Coroutine[Any, Any, list[HostPort]]:
        online = len(self._host.own_network().interfaces) > 1
        return self._host.network.resolver.resolve(host, port, version, online=online)

    def source_of(self, address: Address) -> str | None:
        return self._host.source_of(addressed(address))

    def connect(self, to: Address, parameters: Parameters[Any], handler: StreamHandler, first: bytes = b"") -> SimulatedStream:
        return self._host.socket_table.connect(addressed(to), parameters, handler)

    def listen(
        self,
        at: Address,
        parameters: Parameters[Any],
        accepted: Callable[[SimulatedStream], None],
        failed: Callable[[OSError], None],
    ) -> SimulatedAcceptor:
        return self._host.socket_table.listen(addressed(at), parameters, accepted)

    def bind(
        self, at: Address | None, to: Address | None, parameters: Parameters[Any], handler: DatagramHandler
    ) -> SimulatedDatagramSocket:
        return self._host.socket_table.bind(
            None if at is None else addressed(at), None if to is None else addressed(to), parameters, handler
        )

    def packets(
        self, at: HostPort | None, to: HostPort | None, parameters: Parameters[Any], handler: PacketHandler
    ) -> SimulatedPacketSocket:
        return SimulatedPacketSocket(self._host.socket_table, at, to, parameters, handler)

    def multicast(
        self, at: HostPort, parameters: Parameters[Any], handler: MulticastHandler, *, unicast: bool = True
    ) -> SimulatedMulticastSocket:
        return self._host.socket_table.groups.open(at, parameters, handler, unicast=unicast)

    def network(self) -> Network:
        return self._host.own_network()

    def watch_network(self, changed: Callable[[Network], object]) -> HostWatch:
        return self._host.watch_network(changed)


class NoHostError(OSError, RuntimeError):
    """A mistake in the program; and as for its network, the system does not tell."""


class OutsideDriver(LoopDriver):
    """Of a program that runs in a simulated network and on none of its hosts: it has the time, and nothing to connect with."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop, loop.time)

    def _no_host(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("this program runs on no host of the simulated network: start connections inside `with host:`")

    def network(self) -> NoReturn:
        raise NoHostError("this program runs on no host of the simulated network: look at its network inside `with host:`")

    def watch_network(self, changed: Callable[[Network], object]) -> NoReturn:
        self.network()

    resolve = source_of = connect = listen = bind = packets = multicast = _no_host


def addressed(address: Address) -> HostPort:
    """An IP address and port. Raises OSError for a path."""
    if isinstance(address, HostPort):
        return address
    raise OSError(errno.EAFNOSUPPORT, f"{address}: a simulated host has no Unix sockets")
