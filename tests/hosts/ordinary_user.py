"""A program that an ordinary user runs: it gives up every privilege, uses the library, and tells on standard output how it went.

Started as root with a server's address and the ports of its TCP, UDP and QUIC; ``refused`` as last argument lets the kernel
refuse SO_BINDTODEVICE, as Linux before 5.7 does and some sandboxes do.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import json
import os
import pkgutil
import platform
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import tieline
from tieline import (
    QUIC,
    TCP,
    UDP,
    HostPort,
    NetworkConnection,
    NetworkError,
    NetworkListener,
    Parameters,
    PathMonitor,
    PeerAuthentication,
    ServiceClass,
)

NOBODY = 65534
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2  # linux/prctl.h, linux/seccomp.h
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h
ALLOW, REFUSE = 0x7FFF0000, 0x00050001  # SECCOMP_RET_ERRNO with EPERM
SETSOCKOPT = {"x86_64": 54, "aarch64": 208}
NUMBER, LEVEL, OPTION = 0, 24, 32  # where struct seccomp_data has the call and the low halves of its second and third argument


def refuse_devices() -> None:
    """From now on SO_BINDTODEVICE is not permitted."""

    def step(code: int, value: int, otherwise: int = 0) -> bytes:
        return struct.pack("=HBBI", code, 0, otherwise, value)

    steps = (
        step(LOAD, NUMBER), step(JUMP_EQUAL, SETSOCKOPT[platform.machine()], 5),
        step(LOAD, LEVEL), step(JUMP_EQUAL, socket.SOL_SOCKET, 3),
        step(LOAD, OPTION), step(JUMP_EQUAL, socket.SO_BINDTODEVICE, 1),
        step(RETURN, REFUSE), step(RETURN, ALLOW),
    )  # fmt: skip
    code = ctypes.create_string_buffer(b"".join(steps))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot filter system calls")


def become_nobody() -> str:
    """Give up root; the capabilities that are left."""
    modules = [module.name for module in pkgutil.walk_packages(tieline.__path__, "tieline.")]
    skipped = ("tieline.cli", "tieline.testing", "tieline.__main__")
    for name in (*modules, "encodings.ascii", "encodings.idna"):
        if not name.startswith(skipped):
            importlib.import_module(name)  # later the files may be out of reach
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))


async def left_from(to: tuple[str, int], stack: Any, **options: Any) -> str:
    """The local address of a connection, and its interface."""
    async with NetworkConnection(to, Parameters(stack, **options)) as connection:
        await connection.ready()
        assert isinstance(connection.local_endpoint, HostPort)
        path = connection.current_path
        told = f"{connection.local_endpoint.host} {path and path.interface and path.interface.name}"
        connection.abort()
        return told


async def listens(on: int, **options: Any) -> str:
    """Where."""
    async with NetworkListener(Parameters(TCP(), **options), on=on).serving(lambda _: asyncio.sleep(0)) as listener:
        return str(listener.endpoint.host) if isinstance(listener.endpoint, HostPort) else ""


async def outcome(work: Awaitable[str]) -> str:
    try:
        return await work
    except NetworkError as error:
        return f"{type(error).__name__}: {error}"


async def next_path() -> str:
    """The interfaces after a change, for which the test is asked."""
    async for path in PathMonitor():
        names = " ".join(one.name for one in path.available_interfaces)
        if "cl1" not in names:
            return names
        print(json.dumps(["change", names]), flush=True)
    raise AssertionError("it goes on for ever")


async def main(host: str, tcp: int, udp: int, quic: int, *, refused: bool) -> None:
    over_quic = QUIC(alpn=["test"], peer_authentication=PeerAuthentication.NONE)
    cl1: Callable[..., Awaitable[str]] = lambda port, stack: left_from((host, port), stack, required_interface="cl1")  # noqa: E731
    work: dict[str, Awaitable[str]] = {
        "plain": left_from((host, tcp), TCP()),
        "prohibited": left_from((host, tcp), TCP(), prohibited_interfaces=("cl0",)),
        "tcp": cl1(tcp, TCP()),
        "udp": cl1(udp, UDP()),
        "quic": cl1(quic, over_quic),
        "listen": listens(0, required_interface="cl1"),
        "low port": listens(80),
    }
    if not refused:
        work["multipath"] = left_from((host, tcp), TCP(), multipath="aggregate", service_class=ServiceClass.INTERACTIVE_VOICE)
        work["change"] = next_path()
    for name, one in work.items():
        print(json.dumps([name, await outcome(one)]), flush=True)


if __name__ == "__main__":
    server, *ports = sys.argv[1:5]
    is_refused = sys.argv[5:] == ["refused"]
    if is_refused:
        refuse_devices()
    print(json.dumps(["capabilities", become_nobody()]), flush=True)
    asyncio.run(main(server, *map(int, ports), refused=is_refused))
