"""Groups with socat, on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from tieline import UDP, ConnectionGroup, InterfaceType, MulticastGroup, Parameters

from ..peers import free_port

ADDRESS = "239.255.114.7"


@contextlib.asynccontextmanager
async def running(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def ours(port: int, **options: int) -> ConnectionGroup[UDP]:
    parameters = Parameters(UDP(), required_interface_type=InterfaceType.LOOPBACK, **options)
    return ConnectionGroup(MulticastGroup(f"{ADDRESS}:{port}"), parameters)


async def test_socat_asks_and_is_answered(peer: Callable[[str], str]) -> None:
    port = free_port()
    async with ours(port) as group:
        await group.ready()
        async with running(peer("socat"), "-t", "5", "-", f"UDP4-DATAGRAM:{ADDRESS}:{port},ip-multicast-if=127.0.0.1") as socat:
            assert socat.stdin is not None and socat.stdout is not None
            socat.stdin.write(b"who is there?")
            message = await group.receive()
            assert message.content == b"who is there?"
            await message.reply(b"we are\n")
            assert await socat.stdout.readline() == b"we are\n"


async def test_socat_listens_beside_us(peer: Callable[[str], str]) -> None:
    port = free_port()
    place = f"UDP4-RECV:{port},ip-add-membership={ADDRESS}:127.0.0.1,reuseaddr"
    async with ours(port, local_port=0) as group, running(peer("socat"), "-u", place, "-") as socat:
        assert socat.stdout is not None
        reading = asyncio.create_task(socat.stdout.readline())
        while not reading.done():  # it says nothing when it has joined
            await group.send(b"hello\n")
            assert (await group.receive()).content == b"hello\n"
            await asyncio.wait([reading], timeout=0.05)
        assert await reading == b"hello\n"
