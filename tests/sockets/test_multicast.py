"""Multicast groups on the loopback, with each other and with plain sockets. More hosts are in tests/hosts."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tieline import (
    ECN,
    IP,
    UDP,
    ChannelClosedError,
    Coder,
    ConnectError,
    ConnectionGroup,
    DecodingError,
    GroupMessage,
    GroupState,
    HostPort,
    InterfaceType,
    IPMetadata,
    IPVersion,
    MessageTooLargeError,
    MulticastGroup,
    Parameters,
    ServiceClass,
    UDPMetadata,
)

from ..peers import free_port, until

_numbers = itertools.count(1)
LOOPBACK = InterfaceType.LOOPBACK


def new_group() -> str:
    """An address and a port that no other test uses, in this process or in one beside it."""
    return f"239.{os.getpid() % 250}.{os.getpid() // 250 % 250}.{next(_numbers) % 250}:{free_port()}"


def on_loopback(stack: Any = None, **options: Any) -> Parameters[Any]:
    return Parameters(stack or UDP(), required_interface_type=LOOPBACK, **options)


def group(*members: str, stack: Any = None, source: str | None = None, unicast_disabled: bool = False, **options: Any) -> Any:
    wanted = MulticastGroup(*members, source=source, unicast_disabled=unicast_disabled)
    return ConnectionGroup(wanted, on_loopback(stack, **options))


@contextmanager
def plain(address: str = "127.0.0.1", *, port: int = 0, joined: str | None = None) -> Iterator[socket.socket]:
    """A socket of a program that knows nothing of us."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sock.bind((address, port))
        if joined is not None:
            host = joined.partition(":")[0]
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(host) + socket.inet_aton("127.0.0.1"))
        yield sock


def name(address: str) -> tuple[str, int]:
    host, _, port = address.partition(":")
    return host, int(port)


def port_of(address: str) -> int:
    return name(address)[1]


async def heard(sock: socket.socket) -> tuple[bytes, Any]:
    return await asyncio.get_running_loop().run_in_executor(None, lambda: blocking(sock))


def blocking(sock: socket.socket) -> tuple[bytes, Any]:
    sock.settimeout(5)
    return sock.recvfrom(65535)


async def nothing_more(one: Any) -> None:
    """What is sent to it now comes next, so nothing else has come before."""
    with plain() as sock:
        sock.sendto(b"next", ("127.0.0.1", one.local_endpoints[-1].port))
        assert (await one.receive()).content == b"next"


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# Sending and receiving


async def test_everybody_hears_it_and_the_sender_too() -> None:
    address = new_group()
    async with group(address) as one, group(address) as other, group(address, local_port=0) as third:
        await third.send(b"hello")
        own = third.local_endpoints[1]
        for each in (one, other, third):
            message: GroupMessage[bytes, UDP] = await each.receive()
            assert message.content == b"hello"
            assert message.local_endpoint == HostPort.parse(address)
            assert message.remote_endpoint == HostPort("127.0.0.1", own.port)
            assert message.interface is not None and message.interface.name == "lo"
            path = message.path
            assert path.is_satisfied and path.interface == message.interface
            assert path.remote_endpoint == message.remote_endpoint
        await message.reply(b"to the sender alone")
        answer = await third.receive()
        assert answer.content == b"to the sender alone" and answer.local_endpoint == HostPort("127.0.0.1", own.port)
        await nothing_more(third)


async def test_a_plain_socket_is_heard_and_hears() -> None:
    address = new_group()
    with plain("0.0.0.0", port=port_of(address), joined=address) as peer, plain() as asking:
        async with group(address, local_port=0) as ours:
            await ours.ready()
            await ours.send(b"from us")
            assert (await heard(peer))[0] == b"from us"
            await ours.receive()
            asking.sendto(b"who is there?", name(address))
            async for message in ours:
                assert message.content == b"who is there?"
                assert message.remote_endpoint == HostPort(*asking.getsockname())
                await message.reply(b"we are")
                break
            content, sender = await heard(asking)
            assert content == b"we are" and sender == ("127.0.0.1", ours.local_endpoints[1].port)


async def test_datagrams_of_every_size() -> None:
    """The smallest and the largest that there are arrive whole; what we would send larger is refused."""
    address = new_group()
    with plain() as peer:
        async with group(address, receive_limit=1024 * 1024) as ours:
            await ours.ready()
            for size in (0, 1, 1472, 65507):
                peer.sendto(bytes(size), name(address))
                message = await ours.receive()
                assert message.content == bytes(size)
            limit = ours.maximum_datagram_size
            assert 1200 <= limit <= 65507
            with pytest.raises(MessageTooLargeError, match=f"at most {limit} bytes") as caught:
                await ours.send(bytes(limit + 1))
            assert (caught.value.limit, caught.value.size) == (limit, limit + 1)
            with pytest.raises(MessageTooLargeError):
                await message.reply(bytes(70_000))
            await ours.send(bytes(limit))
            assert len((await ours.receive()).content) == limit


async def test_several_members() -> None:
    one, two = new_group(), new_group()
    async with group(one, two) as ours, group(one) as only_one, group(two) as only_two:
        await ours.send(b"to both")
        assert {(await ours.receive()).local_endpoint for _ in range(2)} == {HostPort.parse(one), HostPort.parse(two)}
        assert (await only_one.receive()).content == (await only_two.receive()).content == b"to both"
        await ours.send(b"to one", to=one)
        assert (await only_one.receive()).content == (await ours.receive()).content == b"to one"
        await ours.send(b"to two", to=HostPort.parse(two))
        assert (await only_two.receive()).content == b"to two"
        with plain() as peer:
            await ours.send(b"to nobody else", to=peer.getsockname())
            content, sender = await heard(peer)
            assert content == b"to nobody else" and sender[1] == port_of(one)
        with pytest.raises(ValueError, match=r"239\.0\.0\.1:9 is no member of this group"):
            await ours.send(b"x", to="239.0.0.1:9")
        with pytest.raises(TypeError, match="a group sends to addresses"):
            await ours.send(b"x", to="localhost:9")
        with pytest.raises(TypeError, match="UDP: bytes, a buffer"):
            await ours.send("text")


async def test_more_members_than_a_socket_has_room_for() -> None:
    """Linux lets a socket join 20 groups (net.ipv4.igmp_max_memberships)."""
    prefix, port = f"239.{os.getpid() % 250}.251", free_port()
    members = [f"{prefix}.{number}:{port}" for number in range(1, 51)]
    with plain() as peer:
        async with group(*members) as ours:
            await ours.ready()
            for each in members:
                peer.sendto(each.encode(), name(each))
                message = await ours.receive()
                assert message.content == each.encode() == str(message.local_endpoint).encode()
            peer.sendto(b"once", ("127.0.0.1", port))
            assert (await ours.receive()).content == b"once"


async def test_what_others_have_joined_is_not_heard() -> None:
    """Linux gives a socket what any socket of the machine has joined, unless it is told not to."""
    address = new_group()
    elsewhere = f"239.250.{next(_numbers)}.1:{port_of(address)}"
    with plain("0.0.0.0", port=port_of(address), joined=elsewhere) as peer, plain() as sender:
        async with group(address) as ours:
            await ours.ready()
            sender.sendto(b"not for us", name(elsewhere))
            assert (await heard(peer))[0] == b"not for us"
            sender.sendto(b"for us", name(address))
            assert (await ours.receive()).content == b"for us"


async def test_only_one_source() -> None:
    address = new_group()
    async with group(address, source="127.0.0.3") as ours:
        await ours.ready()
        with plain("127.0.0.2") as stranger, plain("127.0.0.3") as source:
            stranger.sendto(b"stranger", name(address))
            stranger.sendto(b"stranger", ("127.0.0.1", port_of(address)))
            source.sendto(b"source", name(address))
            message = await ours.receive()
            assert message.content == b"source" and message.remote_endpoint == HostPort(*source.getsockname())
            source.sendto(b"to this machine", ("127.0.0.1", port_of(address)))
            assert (await ours.receive()).content == b"to this machine"


@pytest.mark.parametrize("unicast_disabled", [False, True])
async def test_what_is_sent_to_this_machine(unicast_disabled: bool) -> None:
    """The newest socket of a port gets it, unless it wants none: then whoever had it before keeps it."""
    address = new_group()
    with plain("0.0.0.0", port=port_of(address)) as other, plain() as sender:
        async with group(address, unicast_disabled=unicast_disabled) as ours:
            await ours.ready()
            sender.sendto(b"to this machine", ("127.0.0.1", port_of(address)))
            if unicast_disabled:
                assert (await heard(other))[0] == b"to this machine"
            else:
                assert (await ours.receive()).content == b"to this machine"
            sender.sendto(b"to the group", name(address))
            message = await ours.receive()
            assert message.content == b"to the group"
            await message.reply(b"answer")
            assert (await heard(sender))[0] == b"answer"
            await ours.send(b"to everybody")
            assert (await ours.receive()).content == b"to everybody"


async def test_options_are_on_the_socket() -> None:
    """What is not looped back is on the wire all the same, and that is the loopback itself here."""
    address = new_group()
    async with group(address, stack=UDP(IP(multicast_loopback_disabled=True, hop_limit=7))) as ours:
        await ours.ready()
        sock = ours._memberships._sockets[4, port_of(address)]._sockets["0.0.0.0", port_of(address)][0]
        for option, value in ((socket.IP_MULTICAST_TTL, 7), (socket.IP_TTL, 7), (socket.IP_MULTICAST_LOOP, 0)):
            assert sock.getsockopt(socket.IPPROTO_IP, option) == value


async def test_what_packets_say() -> None:
    address = new_group()
    asking = UDP(IP(metadata_received=True, receive_time_calculated=True))
    async with group(address, stack=asking) as ours, group(address, stack=asking, local_port=0) as other:
        await ours.ready()
        before = asyncio.get_running_loop().time()
        await other.send(b"x", metadata=IPMetadata(hop_limit=9, ecn=ECN.ECT_0, dscp=8, fragmentation_disabled=True))
        message = await ours.receive()
        assert message.metadata.ip is not None and message.metadata.ip.receive_time is not None
        assert (message.metadata.ip.hop_limit, message.metadata.ip.ecn, message.metadata.ip.dscp) == (9, ECN.ECT_0, 8)
        assert before - 0.01 <= message.metadata.ip.receive_time <= asyncio.get_running_loop().time() + 0.01
        assert (await other.receive()).content == b"x"
        await message.reply(b"y", metadata=IPMetadata(service_class=ServiceClass.SIGNALING))
        answer = await other.receive()
        assert answer.metadata.ip is not None and answer.metadata.ip.dscp == ServiceClass.SIGNALING.dscp
        await other.send(b"as usual")
        message = await ours.receive()
        assert message.metadata.ip is not None and (message.metadata.ip.hop_limit, message.metadata.ip.ecn) == (1, ECN.NOT_ECT)
        connection = ours.extract_connection(message.remote_endpoint)
        await other.send(b"z", metadata=IPMetadata(hop_limit=7))
        described = (await connection.receive()).metadata.ip
        assert described is not None and described.hop_limit == 7
        await connection.send(b"back", metadata=IPMetadata(hop_limit=5))
        while (answer := await other.receive()).content != b"back":
            continue
        assert answer.metadata.ip is not None and answer.metadata.ip.hop_limit == 5
        with pytest.raises(ValueError, match="hop_limit must be at least 1"):
            await ours.send(b"x", metadata=IPMetadata(hop_limit=0))
        await connection.aclose()
    async with group(address) as ours:
        await ours.send(b"x")
        assert (await ours.receive()).metadata.other == ()


async def test_values() -> None:
    @dataclass
    class Offer:
        service: str
        port: int

    address = new_group()
    stack = Coder(Offer, UDP())
    async with group(address, stack=stack) as ours, group(address, stack=stack, local_port=0) as asking:
        await asking.send(Offer("printer", 631))
        message = await ours.receive()
        assert message.content == Offer("printer", 631)
        await asking.receive()
        await message.reply(Offer("taken", 0))
        assert (await asking.receive()).content == Offer("taken", 0)
        with plain() as stranger:
            stranger.sendto(b"{", name(address))
            stranger.sendto(b'{"service": "scanner", "port": 1}', name(address))
            with pytest.raises(DecodingError, match="the message is no Offer") as caught:
                await anext(ours)
            assert caught.value.endpoint == HostPort(*stranger.getsockname()) and str(caught.value.endpoint) in str(caught.value)
            assert (await anext(ours)).content == Offer("scanner", 1)
        connection = message.extract_connection()
        await connection.send(Offer("line", 2))
        with pytest.raises(DecodingError):
            await asking.receive()
        assert [(await asking.receive()).content for _ in range(2)] == [Offer("scanner", 1), Offer("line", 2)]
        await connection.aclose()


# What is kept, and what becomes of calls


async def test_beyond_the_limit_the_newest_are_dropped_and_counted() -> None:
    address = new_group()
    async with group(address, receive_limit=10_000) as ours:
        await ours.ready()
        kept = 10_000 // (500 + 64)
        with plain() as sender:
            for number in range(kept + 20):
                sender.sendto(bytes([number]) * 500, name(address))
            await until(lambda: ours.metadata(UDP).dropped_datagram_count == 20)
            assert ours.metadata(UDP) == UDPMetadata(20)
            assert [(await ours.receive()).content for _ in range(kept)] == [bytes([number]) * 500 for number in range(kept)]
            sender.sendto(b"room again", name(address))
            assert (await ours.receive()).content == b"room again"


async def test_receives_are_answered_in_their_order_and_a_cancelled_one_takes_nothing() -> None:
    address = new_group()
    async with group(address) as ours:
        await ours.ready()
        calls = [asyncio.create_task(ours.receive()) for _ in range(4)]
        await turns()
        calls[1].cancel()
        calls[0].add_done_callback(lambda _: calls[2].cancel())  # in the turn in which it is woken
        with plain() as sender:
            for content in (b"a", b"b", b"c"):
                sender.sendto(content, name(address))
            assert (await calls[0]).content == b"a"
            (third,) = await asyncio.gather(calls[2], return_exceptions=True)
            rest = [third.content] if isinstance(third, GroupMessage) else []
            rest.append((await calls[3]).content)
            while len(rest) < 2:
                rest.append((await ours.receive()).content)
            assert rest == [b"b", b"c"]
        assert calls[1].cancelled()


async def test_many_senders_take_turns_and_leave_the_loop_to_others() -> None:
    address = new_group()
    async with group(address, receive_limit=1024 * 1024) as ours:
        await ours.ready()
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        async def send(number: int) -> None:
            for count in range(100):
                await ours.send(b"%d %d" % (number, count))

        ticking = asyncio.create_task(tick())
        await asyncio.gather(*map(send, range(5)))
        ticking.cancel()
        assert ticks >= 5
        received = [(await ours.receive()).content.split() for _ in range(500)]
        for number in range(5):
            assert [count for who, count in received if who == b"%d" % number] == [b"%d" % count for count in range(100)]
        await asyncio.wait([ticking])


@pytest.mark.parametrize("graceful", [True, False])
async def test_closing_ends_every_call(graceful: bool) -> None:
    address = new_group()
    ours = group(address)
    states = ours.state_updates()
    async with ours:
        await ours.ready()
        waiting = [asyncio.create_task(ours.receive()) for _ in range(2)]
        with plain() as sender:
            sender.sendto(b"x", name(address))
            message = await waiting[0]
        connection = message.extract_connection()
        listening = asyncio.create_task(connection.receive())
        await turns()
        for _ in range(2):
            if graceful:
                await ours.aclose()
            else:
                ours.abort()
        for call in (waiting[1], listening):
            with pytest.raises(ChannelClosedError):
                await call
        assert connection.state.value == "cancelled"
        for late in (ours.ready, ours.receive, lambda: ours.send(b"x"), lambda: message.reply(b"x")):
            with pytest.raises(ChannelClosedError, match="the group was closed by this side"):
                await late()
        for call in (message.extract_connection, lambda: ours.extract_connection("127.0.0.1:9")):
            with pytest.raises(ChannelClosedError):
                call()
    assert [state async for state in states] == [GroupState.READY, GroupState.CANCELLED]
    assert ours.interfaces == () and ours.maximum_datagram_size == 0
    assert ours.start().state is GroupState.CANCELLED


async def test_a_group_that_was_never_started() -> None:
    ours = group(new_group())
    assert ours.state is GroupState.SETUP and ours.error is None and ours.interfaces == ours.local_endpoints == ()
    ours.abort()
    with pytest.raises(ChannelClosedError):
        await ours.receive()
    assert ours.state is GroupState.CANCELLED


async def test_a_dropped_group_warns_and_leaves() -> None:
    address = new_group()
    ours = group(address)
    await ours.ready()
    with pytest.warns(ResourceWarning, match=f"unclosed <ConnectionGroup of {address} over UDP, ready>"):
        del ours


# Connections to single senders


async def test_an_extracted_connection_has_its_sender_for_itself() -> None:
    address = new_group()
    async with group(address) as ours:
        await ours.ready()
        with plain() as peer, plain() as other:
            peer.sendto(b"first", name(address))
            message = await ours.receive()
            connection = message.extract_connection()
            assert connection.state.value == "ready"
            assert connection.remote_endpoint == HostPort(*peer.getsockname())
            assert connection.local_endpoint == HostPort("127.0.0.1", port_of(address))
            for again in (message.extract_connection, lambda: ours.extract_connection(peer.getsockname())):
                with pytest.raises(RuntimeError, match=f"there is a connection to {message.remote_endpoint} already"):
                    again()
            await connection.send(b"hello")
            assert await heard(peer) == (b"hello", ("127.0.0.1", port_of(address)))
            await connection.send_many([b"a", b"b"])
            assert [(await heard(peer))[0] for _ in range(2)] == [b"a", b"b"]
            peer.setblocking(False)
            peer.sendto(b"to us", ("127.0.0.1", port_of(address)))
            peer.sendto(b"to the group", name(address))
            other.sendto(b"somebody else", name(address))
            assert [(await connection.receive()).content for _ in range(2)] == [b"to us", b"to the group"]
            assert (await ours.receive()).content == b"somebody else"
            path = connection.current_path
            assert path is not None and path.is_satisfied and path.interface is not None and path.interface.name == "lo"
            assert connection.maximum_datagram_size > 1200
            await connection.aclose()
            peer.sendto(b"after the close", name(address))
            assert (await ours.receive()).content == b"after the close"
            second = ours.extract_connection(peer.getsockname())  # the socket was the group's, and stayed
            await second.send(b"again")
            assert (await heard(peer))[0] == b"again"
            await second.aclose()


async def test_a_connection_to_whom_nothing_was_heard_of() -> None:
    address = new_group()
    async with group(address) as ours:
        await ours.ready()
        with plain() as peer:
            async with ours.extract_connection(peer.getsockname()) as connection:
                await connection.send(b"hello")
                content, sender = await heard(peer)
                assert content == b"hello"
                peer.sendto(b"answer", sender)
                assert (await connection.receive()).content == b"answer"
        with pytest.raises(TypeError, match="a connection has one peer"):
            ours.extract_connection(address)


async def test_a_dropped_connection_gives_its_sender_back() -> None:
    address = new_group()
    async with group(address) as ours:
        await ours.ready()
        with plain() as peer:
            connection = ours.extract_connection(peer.getsockname())
            with pytest.warns(ResourceWarning, match="unclosed <NetworkConnection"):
                del connection
            peer.sendto(b"x", name(address))
            assert (await ours.receive()).content == b"x"


# What cannot be joined


async def test_a_port_that_is_not_shared() -> None:
    address = new_group()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as selfish:
        selfish.bind(("0.0.0.0", port_of(address)))
        ours = group(address)
        async with ours:
            for call in (ours.ready, ours.receive, lambda: ours.send(b"x")):
                with pytest.raises(ConnectError, match=r"could be joined: Address already in use.*ss -lunp"):
                    await call()
            assert ours.state is GroupState.FAILED and isinstance(ours.error, ConnectError)
        assert ours.state is GroupState.FAILED


async def test_what_can_be_joined_is_joined(caplog: pytest.LogCaptureFixture) -> None:
    good, bad = new_group(), new_group()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as selfish:
        selfish.bind(("0.0.0.0", port_of(bad)))
        async with group(bad, good) as ours:
            await ours.send(b"x")
            assert (await ours.receive()).local_endpoint == HostPort.parse(good)
            with pytest.raises(ConnectError, match="joined on no interface"):
                await ours.send(b"x", to=bad)
    assert [record.getMessage() for record in caplog.records] == [f"{bad} is not joined on lo: Address already in use"]


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("option", [socket.SO_REUSEADDR, socket.SO_REUSEPORT])
async def test_who_shares_a_port_in_either_way_can_share_it_with_us(option: int, first: bool) -> None:
    address = new_group()
    ours = group(address)
    if first:
        await ours.ready()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, option, 1)
        other.bind(("0.0.0.0", port_of(address)))
        await ours.ready()
        assert ours.state is GroupState.READY
    await ours.aclose()


@pytest.mark.parametrize("waits", [False, True])
async def test_without_an_interface_it_waits(waits: bool) -> None:
    wanted = Parameters(UDP(), required_interface="none7", waits_for_connectivity=waits)
    async with ConnectionGroup(MulticastGroup(new_group()), wanted) as ours:
        assert ours.state is GroupState.WAITING
        if waits:
            sending = asyncio.create_task(ours.send(b"x"))
            await turns()
            assert not sending.done()
            sending.cancel()
            await asyncio.wait([sending])
            return
        for call in (ours.ready, lambda: ours.send(b"x")):
            with pytest.raises(ConnectError, match=r"no usable network.*required_interface='none7'"):
                await call()
        with pytest.raises(ConnectError, match="no usable network"):
            ours.extract_connection("127.0.0.1:9")
        receiving = asyncio.create_task(ours.receive())
        await turns()
        assert not receiving.done() and ours.error is not None, "a network may come, and so may messages"
        receiving.cancel()
        await asyncio.wait([receiving])


def test_options_are_checked_at_once() -> None:
    members = MulticastGroup("239.0.0.1:9")
    wrong: list[tuple[Any, Any, type[Exception], str]] = [
        ("239.0.0.1:9", UDP(), TypeError, "is for a MulticastGroup, got '239"),
        (members, IP(), TypeError, "a group wants UDP"),
        (members, Parameters(UDP(), local_endpoint="127.0.0.1:9"), ValueError, "give local_port"),
        (members, Parameters(UDP(), local_port=9), ValueError, "local_port=9 is the port of a member"),
        (members, Parameters(UDP(), multipath="handover"), ValueError, "multipath"),
        (MulticastGroup("[ff02::114]:9"), UDP(IP(version=IPVersion.V4)), ValueError, r"never reaches the member \[ff02::114\]:9"),
    ]
    for descriptor, using, kind, text in wrong:
        with pytest.raises(kind, match=text):
            ConnectionGroup(descriptor, using)


@pytest.mark.parametrize(
    ("members", "options", "kind", "text"),
    [
        ((), {}, ValueError, "one member or more"),
        (("192.0.2.1:9",), {}, ValueError, "a member is a multicast address"),
        (("239.0.0.1:0",), {}, ValueError, "a port from 1 to 65535"),
        (("239.0.0.1:9", ("239.0.0.1", 9)), {}, ValueError, r"239\.0\.0\.1:9 is given twice"),
        (("[ff02::1]:9", "[ff02::1%lo]:9"), {}, ValueError, r"\[ff02::1%lo\]:9 is given twice"),
        (("group.test:9",), {}, TypeError, "this is no multicast group"),
        (("unix:/run/x",), {}, TypeError, "this is no multicast group"),
        (("239.0.0.1:9",), {"unicast_disabled": 1}, TypeError, "True or False"),
        (("239.0.0.1:9",), {"source": 7}, TypeError, "an IP address as text"),
        (("239.0.0.1:9",), {"source": "nobody"}, ValueError, "must be an IP address"),
        (("239.0.0.1:9",), {"source": "239.0.0.2"}, ValueError, "the address of one host"),
        (("239.0.0.1:9",), {"source": "::1"}, ValueError, "is IPv6, and cannot send to"),
        (("[ff02::1]:9",), {"source": "fe80::1%lo"}, ValueError, "without scope"),
    ],
)
def test_groups_are_checked_at_once(members: tuple[Any, ...], options: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        MulticastGroup(*members, **options)


def test_groups_are_values() -> None:
    one = MulticastGroup("239.0.0.1:9", ("ff02::114%eth0", 10), source=None)
    assert one == MulticastGroup("239.0.0.1:9", HostPort("ff02::114%eth0", 10)) and len({one, one}) == 1
    assert one.members == (HostPort("239.0.0.1", 9), HostPort("ff02::114%eth0", 10)) and str(one.members[1]) in str(one)
    assert str(MulticastGroup("232.0.0.1:9", source="192.0.2.7")) == "232.0.0.1:9 from 192.0.2.7"
    assert not one.unicast_disabled and one != MulticastGroup("239.0.0.1:9")
