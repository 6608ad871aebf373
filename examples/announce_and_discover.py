"""Announce and discover: a client asks everybody at once, and each service that fits answers it alone."""

import asyncio
from dataclasses import dataclass

from tieline import UDP, Coder, ConnectionGroup, InterfaceType, MulticastGroup, Parameters

GROUP = MulticastGroup("239.255.81.14:8114")


@dataclass
class Notice:
    service: str
    port: int = 0  # of an offer; a question has none


def over_loopback(local_port: int | None = None) -> Parameters[Coder[Notice, Notice]]:
    # Without the requirement it is every interface but the loopback, which a demonstration has no business on.
    return Parameters(Coder(Notice, UDP()), required_interface_type=InterfaceType.LOOPBACK, local_port=local_port)


async def serve(service: str, port: int, joined: asyncio.Event) -> None:
    async with ConnectionGroup(GROUP, over_loopback()) as group:
        await group.ready()
        joined.set()
        async for message in group:
            if message.content == Notice(service):
                await message.reply(Notice(service, port))


async def discover(service: str) -> tuple[str, int]:
    # A port of its own, so that answers reach this program and no other of this machine.
    async with ConnectionGroup(GROUP, over_loopback(local_port=0)) as group:
        await group.send(Notice(service))
        async for message in group:
            if message.content.service == service and message.content.port:
                return message.remote_endpoint.host, message.content.port
    raise AssertionError("a group does not end by itself")


async def main() -> None:
    services = {"printer": 631, "scanner": 6566}
    async with asyncio.TaskGroup() as tasks:
        running = []
        for service, port in services.items():
            joined = asyncio.Event()
            running.append(tasks.create_task(serve(service, port, joined)))
            await joined.wait()
        for service in services:
            host, port = await discover(service)
            print(f"{service}: {host}:{port}")
            assert (host, port) == ("127.0.0.1", services[service])
        for task in running:
            task.cancel()
    print("ok")


asyncio.run(main())
