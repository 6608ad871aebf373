"""The simulated network's names."""

from __future__ import annotations

import asyncio
import socket
from math import inf

from tieline.drivers.asyncio.resolver import not_resolved
from tieline.drivers.simulated.node import canonical
from tieline.endpoints import HostPort
from tieline.protocols.checks import require_seconds
from tieline.values import Value, value

__all__ = ["SimulatedResolver"]

LOOPBACK = {4: "127.0.0.1", 6: "::1"}


@value
class _Record(Value):
    """What is answered about one IP version of a name: addresses, or an error, after a delay."""

    addresses: tuple[str, ...]
    code: int
    delay: float


class SimulatedResolver:
    """Names and their addresses, and how long the answers take. Each host of the network is in it under its name.

    A name that nobody has is answered at once: there is no such name.
    """

    def __init__(self) -> None:
        self._records: dict[tuple[str, int], _Record] = {}

    def answer(self, name: str, *addresses: str, version: int | None = None, delay: float = 0.0) -> None:
        """Answer with these addresses after `delay` seconds, for one IP version (4 or 6) or for both.

        For an IP version without an address here the answer is that there is none. Raises `ValueError` for what is no address.
        """
        require_seconds("delay", delay, zero=True)
        checked = [canonical(address) for address in addresses]
        for one in self._versions(version):
            own = tuple(address for address in checked if (":" in address) == (one == 6))
            self._records[self._key(name, one)] = _Record(own, socket.EAI_NODATA, delay)

    def fail(self, name: str, *, version: int | None = None, code: int = socket.EAI_NONAME, delay: float = 0.0) -> None:
        """Answer with an error of getaddrinfo after `delay` seconds, such as `socket.EAI_AGAIN`."""
        require_seconds("delay", delay, zero=True)
        for one in self._versions(version):
            self._records[self._key(name, one)] = _Record((), code, delay)

    def silence(self, name: str, *, version: int | None = None) -> None:
        """Never answer."""
        for one in self._versions(version):
            self._records[self._key(name, one)] = _Record((), socket.EAI_AGAIN, inf)

    def forget(self, name: str) -> None:
        """Remove a name."""
        for one in (4, 6):
            self._records.pop(self._key(name, one), None)

    async def resolve(self, host: str, port: int, version: int, *, online: bool) -> list[HostPort]:
        """What a host is told, which may be offline. Raises DNSError."""
        if host == "localhost":
            return [HostPort(LOOPBACK[version], port)]
        record = self._records.get(self._key(host, version), _Record((), socket.EAI_NONAME, 0.0))
        if not online:
            record = _Record((), socket.EAI_AGAIN, 0.0)
        if record.delay == inf:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(record.delay)
        if not record.addresses:
            raise not_resolved(host, port, version, record.code)
        return [HostPort(address, port) for address in record.addresses]

    @staticmethod
    def _versions(version: int | None) -> tuple[int, ...]:
        if version not in (None, 4, 6):
            raise ValueError(f"version must be 4, 6 or None for both, got {version!r}")
        return (4, 6) if version is None else (version,)

    @staticmethod
    def _key(name: str, version: int) -> tuple[str, int]:
        return HostPort(name, 0).host, version
