"""Multicast between hosts: three on one bridge, and on the first of them, where the test runs, a second interface.

here   e0 10.78.0.1 fd78::1 ┐
there  e0 10.78.0.2 fd78::2 ├─ bridge          here  e1 10.79.0.1 ──── e1 10.79.0.3  yonder
yonder e0 10.78.0.3 fd78::3 ┘                  if a test wants it: `Wire.second_link`
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tieline import (
    IP,
    UDP,
    ConnectError,
    ConnectionGroup,
    GroupMessage,
    GroupState,
    HostPort,
    MulticastGroup,
    Parameters,
)

from ..peers import until
from .conftest import enter, living_in

PORT = 5114
GROUPS = {4: HostPort("239.255.114.1", PORT), 6: HostPort("ff02::114", PORT)}
PROGRAM = Path(__file__).with_name("group_program.py")
PROMPT = 0.5  # seconds from a change of the network until the group has followed it
_numbers = itertools.count()


class Wire:
    """What a test does to the network between its three hosts."""

    def __init__(self) -> None:
        name = f"tieline-mc-{os.getpid()}-{next(_numbers)}"
        self.switch, self.here, self.there, self.yonder = (f"{name}-{role}" for role in ("switch", "here", "there", "yonder"))

    def ip(self, *arguments: str, on: str = "") -> None:
        """Run ip(8) on the first host, unless another is named."""
        subprocess.run(["ip", "-n", on or self.here, *arguments], check=True, capture_output=True, text=True)

    def set_up(self) -> None:
        for host in (self.switch, self.here, self.there, self.yonder):
            subprocess.run(["ip", "netns", "add", host], check=True)
            options = [f"net.ipv6.conf.{which}.accept_dad=0" for which in ("all", "default")]
            options += [f"net.ipv4.conf.{which}.rp_filter=0" for which in ("all", "default")]
            subprocess.run(["ip", "netns", "exec", host, "sysctl", "-qw", *options], check=True)
            self.ip("link", "set", "lo", "up", on=host)
        self.ip("link", "add", "br0", "type", "bridge", "mcast_snooping", "0", on=self.switch)
        self.ip("link", "set", "br0", "up", on=self.switch)
        for number, host in enumerate((self.here, self.there, self.yonder), 1):
            self.plug(number, host)
        for number, host in enumerate((self.here, self.there, self.yonder), 1):
            self.await_carrier(host, "e0")
            while self.look(self.switch, f"p{number}")["linkinfo"]["info_slave_data"]["state"] != "forwarding":
                continue

    @staticmethod
    def look(host: str, device: str) -> Any:
        """What ip(8) tells of a device."""
        command = ["ip", "-n", host, "-d", "-j", "addr", "show", "dev", device]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)[0]

    def await_carrier(self, host: str, device: str) -> None:
        """The kernel takes a while to notice that both ends of a link are up; what is sent before is lost."""
        while True:
            known = self.look(host, device)
            if known["operstate"] == "UP" and any(one["local"].startswith("fe80:") for one in known["addr_info"]):
                return

    def plug(self, number: int, host: str) -> None:
        """Connect a host to the bridge."""
        self.ip("link", "add", "e0", "type", "veth", "peer", "name", f"p{number}", "netns", self.switch, on=host)
        self.ip("link", "set", f"p{number}", "master", "br0", "up", on=self.switch)
        self.ip("addr", "add", f"10.78.0.{number}/24", "dev", "e0", on=host)
        self.ip("addr", "add", f"fd78::{number}/64", "dev", "e0", "nodad", on=host)
        self.ip("link", "set", "e0", "up", on=host)

    def limit(self, device: str, rate: str) -> None:
        """Let no more than that leave the first host there."""
        command = ["tc", "-n", self.here, "qdisc", "add", "dev", device, "root", "tbf", "rate", rate, "burst", "4kb"]
        subprocess.run([*command, "limit", "10mb"], check=True, capture_output=True)

    def second_link(self) -> None:
        """Another way between the first and the third."""
        self.ip("link", "add", "e1", "type", "veth", "peer", "name", "e1", "netns", self.yonder)
        for number, host in ((1, self.here), (3, self.yonder)):
            self.ip("addr", "add", f"10.79.0.{number}/24", "dev", "e1", on=host)
            self.ip("link", "set", "e1", "up", on=host)
        for host in (self.here, self.yonder):
            self.await_carrier(host, "e1")

    def tear_down(self) -> None:
        for host in (self.switch, self.here, self.there, self.yonder):
            subprocess.run(["ip", "netns", "del", host], check=False, capture_output=True)

    @contextlib.contextmanager
    def plain(
        self, host: str, version: int, device: str = "e0", *, joined: bool = False, bound: str = ""
    ) -> Iterator[socket.socket]:
        """A socket of a program on another host that knows nothing of us; `joined` if it hears the group."""
        enter(f"/run/netns/{host}")
        try:
            sock = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_DGRAM)
            index = socket.if_nametoindex(device)
        finally:
            enter(f"/run/netns/{self.here}")
        with sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            address = socket.inet_pton(sock.family, GROUPS[version].host)
            if version == 6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
                if joined:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, address + index.to_bytes(4, sys.byteorder))
            else:
                place = bytes(4) + index.to_bytes(4, sys.byteorder)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, bytes(4) + place)
                if joined:
                    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, address + place)
            sock.bind((bound, PORT if joined else 0))
            sock.settimeout(5)
            yield sock


@pytest.fixture
def wire(peer: Callable[[str], str]) -> Iterator[Wire]:
    for command in ("ip", "sysctl", "tc"):
        peer(command)
    wire = Wire()
    with living_in(wire, wire.here):
        yield wire


class Program:
    """The program beside this file, on some host."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def heard(self) -> Any:
        """What it tells next."""
        assert self._process.stdout is not None
        async with asyncio.timeout(10):
            return json.loads(await self._process.stdout.readline())

    def send(self, text: str) -> None:
        """Let it send that to its members."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n".encode())


@contextlib.asynccontextmanager
async def program(host: str, *members: HostPort, **options: Any) -> AsyncIterator[Program]:
    """It runs, and has joined."""
    command = ["ip", "netns", "exec", host, sys.executable, "-W", "error", str(PROGRAM), json.dumps(options)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, *map(str, members), stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        running = Program(process)
        assert await running.heard() == "ready"
        yield running
    finally:
        assert process.stdin is not None
        process.stdin.close()
        _, errors = await process.communicate()
    assert process.returncode == 0 and not errors, errors.decode()


def group(*members: HostPort, source: str | None = None, using: UDP | None = None, **options: Any) -> ConnectionGroup[UDP]:
    return ConnectionGroup(MulticastGroup(*members, source=source), Parameters(using or UDP(), **options))


async def hears_nothing(one: ConnectionGroup[UDP], seconds: float = 0.3) -> None:
    """For a while, which is long for a wire."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await one.receive()


async def others(one: ConnectionGroup[UDP], count: int) -> list[GroupMessage[bytes, UDP]]:
    """What comes from elsewhere, without what was sent to the group from here."""
    found: list[GroupMessage[bytes, UDP]] = []
    while len(found) < count:
        message = await one.receive()
        if message.remote_endpoint.port != PORT or message.remote_endpoint.host.split(".")[-1] != "1":
            found.append(message)
    return found


def interface(message: GroupMessage[Any, Any]) -> str | None:
    return None if message.interface is None else message.interface.name


@pytest.mark.parametrize("version", [4, 6])
async def test_three_hosts(wire: Wire, version: int) -> None:
    member = GROUPS[version]
    async with program(wire.there, member) as there, program(wire.yonder, member) as yonder, group(member, local_port=0) as ours:
        await ours.send(b"?who is there")
        own, *answers = sorted([await ours.receive() for _ in range(3)], key=lambda one: one.content, reverse=True)
        assert own.content == b"?who is there" and interface(own) == "e0"
        for one in (there, yonder):
            assert await one.heard() == ["?who is there", str(own.remote_endpoint), str(member), "e0"]
        assert [(one.content, interface(one), one.local_endpoint) for one in answers] == [
            (b"!?who is there", "e0", own.remote_endpoint)
        ] * 2
        senders = {one.remote_endpoint.host for one in answers}
        assert len(senders) == 2 and own.remote_endpoint.host not in senders
        path = answers[0].path
        assert path.is_satisfied and path.interface is not None and path.interface.name == "e0"
        there.send("to all")
        assert (await yonder.heard())[0] == (await there.heard())[0] == "to all" == (await ours.receive()).content.decode()
        await ours.send(b"you alone", to=answers[0].remote_endpoint)
        heard = [asyncio.ensure_future(one.heard()) for one in (there, yonder)]
        done, waiting = await asyncio.wait(heard, return_when=asyncio.FIRST_COMPLETED)
        assert [one.result()[0] for one in done] == ["you alone"]
        for one in waiting:
            one.cancel()
        await asyncio.wait(waiting)


@pytest.mark.parametrize("version", [4, 6])
async def test_plain_sockets(wire: Wire, version: int) -> None:
    member = GROUPS[version]
    async with group(member) as ours:
        with wire.plain(wire.there, version, joined=True) as there, wire.plain(wire.yonder, version) as asking:
            await ours.send(b"from us")
            content, sender = await asyncio.to_thread(there.recvfrom, 100)
            assert content == b"from us" and sender[1] == PORT
            await ours.receive()
            asking.sendto(b"who?", (member.host, PORT))
            message = await ours.receive()
            assert message.content == b"who?" and interface(message) == "e0"
            await message.reply(b"we are")
            content, sender = await asyncio.to_thread(asking.recvfrom, 100)
            assert content == b"we are" and sender[1] == PORT
            connection = message.extract_connection()
            assert (await asyncio.to_thread(there.recvfrom, 100))[0] == b"who?"
            asking.sendto(b"line", sender)
            assert (await connection.receive()).content == b"line"
            assert isinstance(connection.local_endpoint, HostPort)
            assert connection.local_endpoint.host.partition("%")[0] == sender[0].partition("%")[0]
            await connection.aclose()


async def test_it_follows_the_network(wire: Wire) -> None:
    """No interface at first, then one, another, an address less, none; down and up again loses nothing."""
    wire.ip("link", "del", "e0")
    ours = group(*GROUPS.values(), waits_for_connectivity=True)
    states, interfaces = ours.state_updates(), ours.interfaces_updates()

    async def next_interfaces() -> list[str]:
        began = time.monotonic()
        async with asyncio.timeout(10):
            names = [one.name for one in await anext(interfaces)]
        assert time.monotonic() - began < PROMPT + 1.0, "a carrier takes its time, and no more"
        return names

    async with ours:
        assert ours.state is GroupState.WAITING
        assert await anext(states) is GroupState.WAITING and await anext(interfaces) == ()
        sending = asyncio.create_task(ours.send(b"as soon as possible"))
        with wire.plain(wire.there, 4, joined=True) as there:
            wire.plug(1, wire.here)
            await sending
            assert await next_interfaces() == ["e0"] and await anext(states) is GroupState.READY
            assert (await asyncio.to_thread(there.recvfrom, 100))[0] == b"as soon as possible"
            await until(lambda: all("fd78::1" in one.addresses for one in ours.interfaces))
            wire.second_link()
            await until(lambda: len(ours.interfaces) == 2)
            with wire.plain(wire.yonder, 4, "e1", joined=True) as yonder:
                await ours.send(b"both ways", to=GROUPS[4])
                assert (await asyncio.to_thread(yonder.recvfrom, 100))[0] == b"both ways"
                assert (await asyncio.to_thread(there.recvfrom, 100))[0] == b"both ways"
                wire.ip("link", "set", "e1", "down")
                await until(lambda: [one.name for one in ours.interfaces] == ["e0"])
                wire.ip("link", "set", "e1", "up")
                await until(lambda: len(ours.interfaces) == 2)
                while (await ours.receive()).content != b"both ways":
                    continue
                await ours.receive()
                yonder.sendto(b"here we are", (GROUPS[4].host, PORT))
                (message,) = await others(ours, 1)
                assert message.content == b"here we are" and interface(message) == "e1"
            wire.ip("link", "del", "e1")
            await until(lambda: [one.name for one in ours.interfaces] == ["e0"])
            assert not message.path.is_satisfied
            with pytest.raises(ConnectError):
                await message.reply(b"x")
            wire.ip("addr", "del", "10.78.0.1/24", "dev", "e0")
            await until(lambda: all("10.78.0.1" not in one.addresses for one in ours.interfaces))
            with pytest.raises(ConnectError, match="joined on no interface"):
                await ours.send(b"x", to=GROUPS[4])
            await ours.send(b"over IPv6")
        wire.ip("link", "set", "e0", "down")
        await until(lambda: ours.state is GroupState.WAITING)
        assert ours.interfaces == () and "no usable network" in str(ours.error)
    assert ours.state is GroupState.CANCELLED


async def test_a_link_that_flaps_loses_no_membership(wire: Wire) -> None:
    async with group(*GROUPS.values()) as ours:
        await ours.ready()
        for _ in range(3):
            wire.ip("link", "set", "e0", "down")
            wire.ip("link", "set", "e0", "up")
        wire.await_carrier(wire.here, "e0")
        while wire.look(wire.switch, "p1")["linkinfo"]["info_slave_data"]["state"] != "forwarding":
            continue
        await until(lambda: bool(ours.interfaces) and any(one.startswith("fe80:") for one in ours.interfaces[0].addresses))
        for version in (4, 6):
            with wire.plain(wire.there, version) as there:
                there.sendto(b"still there?", (GROUPS[version].host, PORT))
                message = await ours.receive()
                assert message.content == b"still there?" and message.local_endpoint == GROUPS[version]


async def test_senders_wait_for_a_slow_wire(wire: Wire) -> None:
    wire.limit("e0", "2mbit")
    quiet = UDP(IP(multicast_loopback_disabled=True))
    with wire.plain(wire.there, 4, joined=True) as there:
        async with group(GROUPS[4], using=quiet) as ours:
            await ours.ready()
            read = lambda: [int(there.recv(2000).split()[0]) for _ in range(300)]  # noqa: E731
            hearing = asyncio.get_running_loop().run_in_executor(None, read)
            began = time.monotonic()
            for number in range(300):
                await ours.send(b"%d " % number + bytes(1000))
            assert time.monotonic() - began > 0.5, "the kernel has no room for all of them at once"
            assert await hearing == list(range(300))


@pytest.mark.parametrize("unicast_disabled", [False, True])
@pytest.mark.parametrize("command", ["link del e0", "addr del 10.78.0.1/24 dev e0"])
async def test_and_no_longer_than_there_is_one(wire: Wire, unicast_disabled: bool, command: str) -> None:
    """Also when the socket is given up that they wait for, which has no room for long."""
    slow = unicast_disabled or "link" in command
    wire.limit("e0", "8kbit" if slow else "2mbit")
    wanted = MulticastGroup(GROUPS[4], unicast_disabled=unicast_disabled)
    async with ConnectionGroup(wanted, UDP(IP(multicast_loopback_disabled=True))) as ours:
        await ours.ready()
        calls = [asyncio.create_task(ours.send(bytes(1000))) for _ in range(300)]
        await asyncio.sleep(0.1)
        assert not calls[-1].done()
        wire.ip(*command.split())
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert outcomes[0] is None and (isinstance(outcomes[-1], ConnectError) or not slow)
        await until(lambda: ours.state is GroupState.WAITING)


async def test_a_broadcast_is_answered(wire: Wire) -> None:
    async with group(GROUPS[4]) as ours:
        await ours.ready()
        with wire.plain(wire.there, 4) as there:
            there.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            there.sendto(b"anybody?", ("10.78.0.255", PORT))
            message = await ours.receive()
            assert message.local_endpoint == HostPort("10.78.0.255", PORT) and interface(message) == "e0"
            await message.reply(b"yes")
            assert await asyncio.to_thread(there.recvfrom, 100) == (b"yes", ("10.78.0.1", PORT))


async def test_an_answer_leaves_by_the_interface_that_the_question_came_in_by(wire: Wire) -> None:
    """Also if the system would go another way to its sender."""
    wire.second_link()
    wire.ip("addr", "add", "10.99.0.1/32", "dev", "lo", on=wire.yonder)
    wire.ip("route", "add", "10.99.0.1/32", "via", "10.78.0.2")  # where nobody knows it
    async with group(GROUPS[4]) as ours:
        with wire.plain(wire.yonder, 4, "e1", bound="10.99.0.1") as yonder:
            yonder.sendto(b"?", (GROUPS[4].host, PORT))
            message = await ours.receive()
            assert message.remote_endpoint.host == "10.99.0.1" and interface(message) == "e1"
            await message.reply(b"!")
            assert await asyncio.to_thread(yonder.recvfrom, 100) == (b"!", ("10.79.0.1", PORT))
            async with message.extract_connection() as connection:
                await connection.send(b"and again")
                assert await asyncio.to_thread(yonder.recvfrom, 100) == (b"and again", ("10.79.0.1", PORT))
                assert connection.local_endpoint == HostPort("10.79.0.1", PORT)


async def test_only_from_the_own_links(wire: Wire) -> None:
    wire.ip("route", "add", "default", "via", "10.78.0.2")
    wire.ip("addr", "add", "198.51.100.1/32", "dev", "lo", on=wire.yonder)
    with (
        wire.plain(wire.yonder, 4, bound="198.51.100.1") as far,
        wire.plain(wire.there, 4, bound="10.78.0.2") as near,
    ):
        async with group(GROUPS[4], local_only=True) as ours, group(GROUPS[4]) as other:
            await ours.ready()
            await other.ready()
            far.sendto(b"from afar", (GROUPS[4].host, PORT))
            assert (await other.receive()).content == b"from afar"
            near.sendto(b"from near by", (GROUPS[4].host, PORT))
            assert (await ours.receive()).content == (await other.receive()).content == b"from near by"
            await ours.send(b"answer", to=near.getsockname())
            assert (await asyncio.to_thread(near.recvfrom, 100))[0] == b"answer"
            with pytest.raises(ConnectError, match=r"it is on no link of this machine \(local_only=True\)"):
                await ours.send(b"x", to="198.51.100.1:9")


@pytest.mark.parametrize("option", [{"required_interface": "e1"}, {"prohibited_interfaces": ("e0",)}])
async def test_only_interfaces_that_are_allowed(wire: Wire, option: dict[str, Any]) -> None:
    wire.second_link()
    with wire.plain(wire.there, 4, joined=True) as there, wire.plain(wire.yonder, 4, "e1", joined=True) as yonder:
        async with group(GROUPS[4], **option) as ours:
            await ours.send(b"over e1")
            assert [one.name for one in ours.interfaces] == ["e1"]
            assert (await asyncio.to_thread(yonder.recvfrom, 100))[0] == b"over e1"
            there.settimeout(0.3)
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(there.recvfrom, 100)
            await ours.receive()
            there.sendto(b"over e0", (GROUPS[4].host, PORT))
            there.sendto(b"over e0", ("10.78.0.1", PORT))
            await hears_nothing(ours)
            with pytest.raises(ConnectError, match="no route through an interface that the parameters allow"):
                await ours.send(b"x", to="10.78.0.2:9")
            await ours.send(b"x", to=("10.79.0.3", PORT))
            assert await asyncio.to_thread(yonder.recvfrom, 100) == (b"x", ("10.79.0.1", PORT))


@pytest.mark.parametrize("version", [4, 6])
async def test_only_one_source(wire: Wire, version: int) -> None:
    source = {4: "10.78.0.3", 6: "fd78::3"}[version]
    member = HostPort({4: "232.1.1.1", 6: "ff3e::114"}[version], PORT)  # RFC 4607 section 1
    async with group(member, source=source) as ours:
        await ours.ready()
        with (
            wire.plain(wire.there, version, bound={4: "10.78.0.2", 6: "fd78::2"}[version]) as stranger,
            wire.plain(wire.yonder, version, bound=source) as known,
        ):
            for _ in range(3):
                stranger.sendto(b"stranger", (member.host, PORT))
            known.sendto(b"known", (member.host, PORT))
            message = await ours.receive()
            assert message.content == b"known" and message.remote_endpoint.host == source
            wire.ip("link", "set", "e0", "down")
            await until(lambda: ours.state is GroupState.WAITING)
            wire.ip("link", "set", "e0", "up")
            await until(lambda: ours.state is GroupState.READY)
            stranger.sendto(b"stranger", (member.host, PORT))
            known.sendto(b"known again", (member.host, PORT))
            assert (await ours.receive()).content == b"known again"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("unicast_disabled", [False, True])
async def test_two_programs_of_one_host(wire: Wire, version: int, unicast_disabled: bool) -> None:
    """Both hear everything; who sends from a port of its own gets its answers, and another program's groups stay its own."""
    member, other = GROUPS[version], HostPort({4: "239.255.114.2", 6: "ff02::115"}[version], PORT)
    wanted = MulticastGroup(member, unicast_disabled=unicast_disabled)
    async with (
        program(wire.here, member, other, local_port=0) as beside,
        program(wire.there, member) as there,
        ConnectionGroup(wanted, UDP()) as ours,
    ):
        await ours.ready()
        there.send("to all")
        assert (await ours.receive()).content == b"to all"
        assert (await beside.heard())[0] == (await there.heard())[0] == "to all"
        beside.send("?question")  # to both members, so it hears itself twice, and answers itself twice
        assert (await there.heard())[0] == "?question"
        assert (await ours.receive()).content == b"?question"
        assert sorted([(await beside.heard())[0] for _ in range(5)]) == ["!?question"] * 3 + ["?question"] * 2
        await hears_nothing(ours)


@pytest.mark.parametrize("version", [4, 6])
async def test_without_loopback_only_others_hear(wire: Wire, version: int) -> None:
    member = GROUPS[version]
    quiet = UDP(IP(multicast_loopback_disabled=True, hop_limit=3))
    async with group(member, using=quiet) as ours, group(member) as beside, program(wire.there, member) as there:
        await beside.ready()
        await ours.send(b"away")
        assert (await there.heard())[0] == "away"
        await hears_nothing(beside)
        await hears_nothing(ours, 0.05)


async def test_a_member_with_a_scope_is_joined_there_only(wire: Wire) -> None:
    wire.second_link()
    scoped = HostPort("ff02::114%e1", PORT)
    async with group(scoped) as ours, group(GROUPS[6]) as everywhere:
        await until(lambda: len(ours.interfaces) == 1 and len(everywhere.interfaces) == 2)
        assert [one.name for one in ours.interfaces] == ["e1"]
        await everywhere.send(b"on e0", to="[ff02::114%e0]:5114")
        await everywhere.send(b"on e1", to=scoped)
        assert (await ours.receive()).content == b"on e1"
        assert [(await everywhere.receive()).content for _ in range(2)] == [b"on e0", b"on e1"]


async def test_a_host_without_ipv6_joins_the_others(wire: Wire) -> None:
    command = ["ip", "netns", "exec", wire.here, "sysctl", "-qw", "net.ipv6.conf.e0.disable_ipv6=1"]
    await asyncio.to_thread(subprocess.run, command, check=True)
    async with group(*GROUPS.values()) as ours:
        await ours.send(b"x")
        message = await ours.receive()
        assert message.local_endpoint == GROUPS[4]
        with pytest.raises(ConnectError, match="IPv6, so there is no socket for it"):
            await ours.send(b"x", to="[fd78::2]:9")
        await hears_nothing(ours, 0.05)
    async with group(GROUPS[6]) as ours:
        with pytest.raises(ConnectError, match="no interface but the loopback is up with an IPv6 address"):
            await ours.ready()


async def test_the_widest_datagram_of_the_narrowest_interface(wire: Wire) -> None:
    wire.second_link()
    wire.ip("link", "set", "e1", "mtu", "1300")
    async with group(GROUPS[4]) as ours:
        await ours.ready()
        assert ours.maximum_datagram_size == 1300 - 28
    async with group(GROUPS[4], required_interface="e0") as ours:
        await ours.ready()
        assert ours.maximum_datagram_size == 1500 - 28
