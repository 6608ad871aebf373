"""The driver for asyncio, and for every event loop that offers add_reader (uvloop does)."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakSet

from tieline.drivers.asyncio.acceptor import Acceptor
from tieline.drivers.asyncio.addresses import family_of, to_sockaddr
from tieline.drivers.asyncio.loop import LoopDriver
from tieline.drivers.asyncio.multicast import UDPMulticastSocket
from tieline.drivers.asyncio.network import NetworkWatch, SystemNetwork
from tieline.drivers.asyncio.packets import BATCHES, UDPPacketSocket
from tieline.drivers.asyncio.readers import readers_of
from tieline.drivers.asyncio.resolver import resolve
from tieline.drivers.asyncio.tcp import TCPSocket
from tieline.drivers.asyncio.udp import LARGEST, UDPSocket
from tieline.drivers.port import Address, DatagramHandler, MulticastHandler, PacketHandler
from tieline.endpoints import HostPort
from tieline.parameters import Parameters
from tieline.paths import Network

__all__ = ["AsyncioDriver"]


class AsyncioDriver(LoopDriver):
    """One event loop and the system's network as the rest of the library sees them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop, clock(loop))
        self._buffer = memoryview(bytearray(LARGEST))  # one for all sockets: a datagram is copied out of it at once
        self._lingering: WeakSet[UDPPacketSocket] = WeakSet()
        self._network = SystemNetwork(loop)
        self._readers = readers_of(loop)
        self.connect = partial(TCPSocket.connect, loop, self._readers)
        self._batch: list[memoryview] | None = None  # the same for packet sockets, which hand on several reads at once

    @classmethod
    def current(cls) -> AsyncioDriver:
        """The running loop's driver. Raises RuntimeError outside a running loop."""
        loop = asyncio.get_running_loop()
        driver = getattr(_local, "driver", None)
        if driver is None or driver._loop is not loop:
            driver = _local.driver = cls(loop)
        return driver

    def resolve(self, host: str, port: int, version: int) -> asyncio.Future[list[HostPort]]:
        return resolve(self._loop, host, port, version)

    def source_of(self, address: Address) -> str | None:
        with socket.socket(family_of(address), socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(to_sockaddr(address))  # a UDP connect chooses route and source, and sends nothing
            except OSError:
                return None
            source: str = probe.getsockname()[0]
            return source

    def listen(
        self,
        at: Address,
        parameters: Parameters[Any],
        accepted: Callable[[TCPSocket], None],
        failed: Callable[[OSError], None],
    ) -> Acceptor:
        return Acceptor(self._loop, self._readers, at, parameters, accepted, failed)

    def bind(self, at: Address | None, to: Address | None, parameters: Parameters[Any], handler: DatagramHandler) -> UDPSocket:
        return UDPSocket(self._loop, at, to, parameters, handler, self.time)

    def packets(
        self, at: HostPort | None, to: HostPort | None, parameters: Parameters[Any], handler: PacketHandler
    ) -> UDPPacketSocket:
        if self._batch is None:
            self._batch = [memoryview(bytearray(LARGEST)) for _ in range(BATCHES)]
        return UDPPacketSocket(self._loop, self._batch, self._lingering, at, to, parameters, handler)

    def multicast(
        self, at: HostPort, parameters: Parameters[Any], handler: MulticastHandler, *, unicast: bool = True
    ) -> UDPMulticastSocket:
        return UDPMulticastSocket(self._loop, self._buffer, at, parameters, handler, self.time, unicast=unicast)

    def network(self) -> Network:
        return self._network.now()

    def watch_network(self, changed: Callable[[Network], object]) -> NetworkWatch:
        return self._network.watch(changed)


def clock(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """The time of a loop: uvloop's own counts whole milliseconds, and a subclass of asyncio's may have a virtual one."""
    virtual = getattr(loop.time, "__func__", None) is not asyncio.BaseEventLoop.time
    return loop.time if isinstance(loop, asyncio.BaseEventLoop) and virtual else time.monotonic


_local = threading.local()  # a thread runs one loop at a time, so remembering the last one is enough
