"""Whatever happens to a network, once it is quiet each group is joined where it can be, and hears exactly what was sent there."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tieline import (
    UDP,
    ChannelClosedError,
    ConnectError,
    ConnectionGroup,
    GroupState,
    MulticastGroup,
    NetworkConnection,
    Parameters,
)
from tieline.testing import Host, Link, NetworkInterface, SimulatedNetwork

MEMBERS = MulticastGroup("239.255.0.1:5000", "[ff02::114]:5000")
QUIET = 1.0  # seconds in which everything that was under way has arrived, and everybody has noticed what changed
OPERATIONS = 40
EXAMPLES = settings().max_examples
SHARES = 10 if EXAMPLES > 1000 else 1  # so that none takes longer than the limit for a test


class World:
    """Three hosts with two interfaces each, links between some of them, and some groups."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.network = SimulatedNetwork(seed)
        self.hosts = [self.network.host(f"host{number}.test") for number in range(3)]
        for number, host in enumerate(self.hosts):
            host.interface("eth1", f"10.9.0.{number}", f"2001:db8:9::{number}")
        self.links: list[Link] = []
        pairs = list(itertools.combinations([one for host in self.hosts for one in host.interfaces], 2))
        for one, other in self.chance.sample([pair for pair in pairs if pair[0].node is not pair[1].node], 5):
            self.links.append(self.network.link(one, other))
        self.addresses = {one: list(one.addresses) for host in self.hosts for one in host.interfaces}
        self.groups: list[tuple[Host, ConnectionGroup[UDP]]] = []
        self.calls: list[asyncio.Task[object]] = []
        self.numbers = itertools.count()

    # What may happen

    def open(self) -> None:
        host = self.chance.choice(self.hosts)
        with host:
            group = ConnectionGroup(MEMBERS, Parameters(UDP(), waits_for_connectivity=self.chance.random() < 0.5))
            self.groups.append((host, group.start()))

    def close(self) -> None:
        if self.groups:
            self.groups.pop(self.chance.randrange(len(self.groups)))[1].abort()

    def change_link(self) -> None:
        link = self.chance.choice(self.links)
        (link.down if link.is_up else link.up)()

    def change_interface(self) -> None:
        interface = self.chance.choice(list(self.addresses))
        self.chance.choice([interface.down, interface.up])()

    def change_address(self) -> None:
        interface = self.chance.choice(list(self.addresses))
        address = self.chance.choice(self.addresses[interface])
        (interface.remove_address if address in interface.addresses else interface.add_address)(address)

    def send(self) -> None:
        if self.groups:
            _, group = self.chance.choice(self.groups)
            self.calls.append(asyncio.ensure_future(group.send(b"noise")))

    def receive(self) -> None:
        if self.groups:
            host, group = self.chance.choice(self.groups)
            with host:
                self.calls.append(asyncio.ensure_future(self.hear(group)))

    async def hear(self, group: ConnectionGroup[UDP]) -> None:
        message = await group.receive()
        choice = self.chance.random()
        if choice < 0.3:
            await message.reply(b"noise")
        elif choice < 0.5:
            connection: NetworkConnection[UDP] = message.extract_connection()
            async with connection:
                await connection.send(b"noise")
                await asyncio.sleep(0.1)

    def cancel(self) -> None:
        if self.calls:
            self.chance.choice(self.calls).cancel()

    # What must be true

    def joined(self, host: Host) -> dict[NetworkInterface, set[int]]:
        """Over which IP versions a group of a host is joined on which interface."""
        running = [one for one in host.interfaces if one.is_running and one.addresses]
        return {one: {6 if ":" in address else 4 for address in one.addresses} for one in running}

    def expected(self, sender: Host) -> Counter[int]:
        """How many copies of a message each group hears, by its place among the groups."""
        copies: Counter[int] = Counter()
        for interface, versions in self.joined(sender).items():
            for number, (host, _) in enumerate(self.groups):
                if host is sender:
                    copies[number] += len(versions)
                for link in interface.links:
                    peer = link.other(interface)
                    if link.is_up and peer.node is host:
                        copies[number] += len(versions & self.joined(host).get(peer, set()))
        return copies

    async def check(self) -> None:
        await asyncio.sleep(QUIET)
        for call in self.calls:
            call.cancel()
        for call in await asyncio.gather(*self.calls, return_exceptions=True):
            if isinstance(call, Exception):
                assert isinstance(call, (ConnectError, ChannelClosedError, RuntimeError)), call
        self.calls.clear()
        await asyncio.sleep(QUIET)
        for host, group in self.groups:
            assert [one.name for one in group.interfaces] == [one.name for one in self.joined(host)]
            assert group.state is (GroupState.READY if self.joined(host) else GroupState.WAITING)
            await self.drain(group)
        for host, group in self.groups:
            if group.state is GroupState.READY:
                content = b"%d" % next(self.numbers)
                await group.send(content)
                await asyncio.sleep(QUIET)
                heard = Counter({number: len(await self.drain(one, content)) for number, (_, one) in enumerate(self.groups)})
                assert +heard == +self.expected(host)

    async def drain(self, group: ConnectionGroup[UDP], content: bytes = b"noise") -> list[bytes]:
        found: list[bytes] = []
        while group._flow._inbox:
            found.append((await group.receive()).content)
        assert set(found) <= {content}
        return found


@pytest.mark.parametrize("share", range(SHARES))
@settings(max_examples=EXAMPLES // SHARES)
@given(seed=st.integers(0, 2**32 - 1))
def test_whatever_happens(share: int, seed: int) -> None:
    world = World(seed)

    async def main() -> None:
        operations = [
            world.open, world.open, world.close, world.change_link, world.change_link, world.change_interface,
            world.change_address, world.send, world.send, world.receive, world.receive, world.cancel,
        ]  # fmt: skip
        for number in range(OPERATIONS):
            world.chance.choice(operations)()
            await asyncio.sleep(world.chance.choice([0, 0, 0.0005, 0.002, 0.1]))
            if number % 10 == 9:
                await world.check()
        while world.groups:
            world.close()
        await asyncio.sleep(QUIET)
        assert not [socket for host in world.hosts for socket in host.sockets]

    world.network.run(main)
