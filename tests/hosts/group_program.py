"""A program that joins groups: it tells line by line what it hears, answers questions, and sends what it is told to.

Started with Parameters' options as JSON, and the members. Its lines are JSON: "ready", or content, sender, where it was sent to
and the interface. What begins with "?" is a question, and is answered by reply. Each line of its input is sent to all members.
"""

from __future__ import annotations

import asyncio
import json
import sys

from tieline import UDP, ConnectionGroup, MulticastGroup, Parameters


async def main(options: str, *members: str) -> None:
    async with ConnectionGroup(MulticastGroup(*members), Parameters(UDP(), **json.loads(options))) as group:
        await group.ready()
        print(json.dumps("ready"), flush=True)
        orders = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
        async with asyncio.TaskGroup() as tasks:
            hearing = tasks.create_task(hear(group))
            async for line in orders:
                await group.send(line.strip())
            hearing.cancel()


async def hear(group: ConnectionGroup[UDP]) -> None:
    async for message in group:
        facts = message.content.decode(), str(message.remote_endpoint), str(message.local_endpoint)
        print(json.dumps([*facts, message.interface and message.interface.name]), flush=True)
        if message.content.startswith(b"?"):
            await message.reply(b"!" + message.content)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
