"""The system's resolver, asked in threads of our own.

getaddrinfo blocks, and honours hosts files, VPN rules and whatever nsswitch names, so it is asked and not replaced. asyncio's
default executor is shared with everything else a program runs in threads, where a slow name would hold up unrelated work (and
the other way round); a resolver that hangs would also hold up the end of the process. So: a few daemon threads.
"""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
from collections.abc import Callable

from tieline.drivers.asyncio.addresses import from_sockaddr
from tieline.endpoints import HostPort
from tieline.errors import DNSError, Phase

__all__ = ["not_resolved", "resolve"]

THREADS = 8
MEANING = {
    socket.EAI_NONAME: "no such name",
    socket.EAI_NODATA: "the name has no address of this kind",
    socket.EAI_AGAIN: "the resolver does not answer at present",
    socket.EAI_FAIL: "the resolver refused to answer",
}

_lock = threading.Lock()
_requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
_threads = 0
_waiting = 0


def resolve(loop: asyncio.AbstractEventLoop, host: str, port: int, version: int) -> asyncio.Future[list[HostPort]]:
    """Addresses of one IP version in the system's order. Fails with DNSError."""
    future: asyncio.Future[list[HostPort]] = loop.create_future()

    def ask() -> None:
        if future.cancelled():
            return
        answer: list[HostPort] | DNSError
        try:
            answer = _getaddrinfo(host, port, version)
        except (OSError, UnicodeError) as error:
            answer = not_resolved(host, port, version, error.errno if isinstance(error, socket.gaierror) else None, error)
        try:
            loop.call_soon_threadsafe(_answer, future, answer)
        except RuntimeError:  # the loop was closed meanwhile: nobody waits for this any more
            return

    _submit(ask)
    return future


def not_resolved(host: str, port: int, version: int, code: int | None, cause: Exception | None = None) -> DNSError:
    """The error of a name that gave no address; `code` is getaddrinfo's."""
    meaning = MEANING.get(code) if code is not None else None
    error = DNSError(
        f"{meaning or cause or f'getaddrinfo says {code}'} (IPv{version})",
        endpoint=HostPort(host, port),
        phase=Phase.RESOLVING,
        code=code,
        hint="Check the spelling, or ask `getent ahosts` on this machine.",
    )
    error.__cause__ = cause
    return error


def _getaddrinfo(host: str, port: int, version: int) -> list[HostPort]:
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, 0)
    addresses = [from_sockaddr(sockaddr) for *_, sockaddr in found]
    return list(dict.fromkeys(address for address in addresses if isinstance(address, HostPort)))


def _answer(future: asyncio.Future[list[HostPort]], answer: list[HostPort] | DNSError) -> None:
    if future.done():
        return
    if isinstance(answer, DNSError):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _submit(ask: Callable[[], None]) -> None:
    global _threads, _waiting
    with _lock:
        _waiting += 1
        if _waiting > _threads and _threads < THREADS:
            _threads += 1
            threading.Thread(target=_work, name=f"tieline-resolver-{_threads}", daemon=True).start()
    _requests.put(ask)


def _work() -> None:
    global _waiting
    while True:
        ask = _requests.get()
        try:
            ask()
        finally:
            with _lock:
                _waiting -= 1
