"""What IP packets say: as a foreign socket sees those that are sent, and as a program sees those that a foreign socket sends."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import pytest

from tieline import (
    ECN,
    IP,
    QUIC,
    UDP,
    Coder,
    CoderMetadata,
    ConnectError,
    IPMetadata,
    NetworkConnection,
    NetworkListener,
    Parameters,
    ServiceClass,
)
from tieline.drivers.asyncio import options
from tieline.drivers.asyncio.udp import UDPSocket
from tieline.testing.conformance import PACKET_CHECKS, Check

from .. import quic

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the control messages are Linux's")

HOSTS = ["127.0.0.1", "::1"]
SOL_UDP, UDP_SEGMENT, SO_RCVPRIORITY, IP_RECVTTL, IPV6_RECVHOPLIMIT = 17, 103, 82, 12, 51
INT = struct.Struct("=i")
DESCRIBED = UDP(IP(metadata_received=True))


class Seen(NamedTuple):
    """A packet as a foreign socket receives it: its content, the byte with DSCP and ECN, its hop limit and its priority."""

    content: bytes
    traffic_class: int
    hop_limit: int
    priority: int | None


class Foreign:
    """A plain UDP socket, which asks the kernel for everything about what it receives."""

    def __init__(self, host: str) -> None:
        self.v6 = ":" in host
        self.socket = socket.socket(socket.AF_INET6 if self.v6 else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.socket.settimeout(5)
        self.address = self.socket.getsockname()[:2]
        self.level = socket.IPPROTO_IPV6 if self.v6 else socket.IPPROTO_IP
        self.class_kind = socket.IPV6_TCLASS if self.v6 else socket.IP_TOS
        self.hops_kind = socket.IPV6_HOPLIMIT if self.v6 else socket.IP_TTL
        self.socket.setsockopt(self.level, socket.IPV6_RECVTCLASS if self.v6 else socket.IP_RECVTOS, 1)
        self.socket.setsockopt(self.level, IPV6_RECVHOPLIMIT if self.v6 else IP_RECVTTL, 1)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVPRIORITY, 1)
            self.tells_priority = True
        except OSError:  # before Linux 6.15
            self.tells_priority = False

    def receive(self) -> Seen:
        content, ancillary, _, self.peer = self.socket.recvmsg(65536, 256)
        said = {(level, kind): int.from_bytes(data, sys.byteorder) for level, kind, data in ancillary}
        priority = said.get((socket.SOL_SOCKET, socket.SO_PRIORITY))
        return Seen(content, said[self.level, self.class_kind], said[self.level, self.hops_kind], priority)

    def send(self, content: bytes, to: Any, traffic_class: int = 0, hop_limit: int = 64, segment: int | None = None) -> None:
        ancillary = [
            (self.level, self.class_kind, INT.pack(traffic_class)),
            (self.level, self.hops_kind, INT.pack(hop_limit)),
        ]
        if segment is not None:
            ancillary.append((SOL_UDP, UDP_SEGMENT, struct.pack("=H", segment)))
        self.socket.sendmsg([content], ancillary, 0, to)


@pytest.fixture(params=HOSTS, ids=["IPv4", "IPv6"])
def foreign(request: pytest.FixtureRequest) -> Iterator[Foreign]:
    foreign = Foreign(request.param)
    with foreign.socket:
        yield foreign


@asynccontextmanager
async def flow(foreign: Foreign, using: Any = DESCRIBED, first: bytes = b"first") -> AsyncIterator[NetworkConnection[Any]]:
    """What a listener makes of the foreign socket's first datagram, and the address to send more to."""
    arrived: asyncio.Future[NetworkConnection[Any]] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def handler(connection: NetworkConnection[Any]) -> None:
        arrived.set_result(connection)
        await over.wait()

    async with NetworkListener(using, on=(foreign.address[0], 0)).serving(handler) as listener:
        foreign.socket.sendto(first, (foreign.address[0], listener.port))
        connection = await arrived
        await connection.receive()
        yield connection
        over.set()


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("check", PACKET_CHECKS, ids=str)
async def test_conformance(check: Check, host: str) -> None:
    async with AsyncExitStack() as stack:

        async def make_pair() -> Any:
            described = UDP(IP(metadata_received=True, receive_time_calculated=True))
            arrived: asyncio.Queue[NetworkConnection[Any]] = asyncio.Queue()

            async def handler(connection: NetworkConnection[Any]) -> None:
                arrived.put_nowait(connection)
                await asyncio.Event().wait()

            listener = NetworkListener(Parameters(described, grace_period=0.0), on=(host, 0))
            await stack.enter_async_context(listener.serving(handler))
            near = await stack.enter_async_context(NetworkConnection(listener.endpoint, described))
            await near.send(b"")
            far = await arrived.get()
            await far.receive()
            return near, far

        await check(make_pair)


# Sending

VOICE, SIGNALING, BACKGROUND = ServiceClass.INTERACTIVE_VOICE, ServiceClass.SIGNALING, ServiceClass.BACKGROUND

SENT: list[tuple[IPMetadata | None, int, int, int]] = [  # what is said, and what is seen: the byte, the hop limit, the priority
    (None, 0, 64, 0),
    (IPMetadata(), 0, 64, 0),
    (IPMetadata(ecn=ECN.ECT_0), 2, 64, 0),
    (IPMetadata(ecn=ECN.ECT_1), 1, 64, 0),
    (IPMetadata(ecn=ECN.CE), 3, 64, 0),
    (IPMetadata(service_class=VOICE), 46 << 2, 64, 6),
    (IPMetadata(service_class=SIGNALING, ecn=ECN.ECT_0), 40 << 2 | 2, 64, 4),
    (IPMetadata(service_class=BACKGROUND), 1 << 2, 64, 1),
    (IPMetadata(hop_limit=1), 0, 1, 0),
    (IPMetadata(hop_limit=255, fragmentation_disabled=True), 0, 255, 0),
    (IPMetadata(ecn=ECN.NOT_ECT, service_class=VOICE, hop_limit=9, fragmentation_disabled=True), 46 << 2, 9, 6),
]

ON_SIGNALING: list[tuple[IPMetadata | None, int, int]] = [  # what is said on a connection for signaling: the byte, the priority
    (None, 40 << 2, 4),
    (IPMetadata(ecn=ECN.ECT_0), 40 << 2 | 2, 4),
    (IPMetadata(service_class=VOICE), 46 << 2, 6),
    (IPMetadata(service_class=ServiceClass.BEST_EFFORT), 0, 0),
    (IPMetadata(hop_limit=3), 40 << 2, 4),
    (IPMetadata(dscp=0), 0, -1),
    (IPMetadata(dscp=63, ecn=ECN.CE), 255, -1),
]


async def check_sent(channel: Any, foreign: Foreign, metadata: IPMetadata | None, byte: int, hops: int, priority: int) -> None:
    """One with that metadata, and after it one without any, which is as usual."""
    await channel.send(b"described", metadata=metadata)
    seen = foreign.receive()
    assert seen[:3] == (b"described", byte, hops), metadata
    if foreign.tells_priority and priority >= 0:
        assert seen.priority == priority, metadata


@pytest.mark.parametrize("side", ["connection", "flow of a listener"])
async def test_what_is_said_of_one_datagram_is_in_its_packet(foreign: Foreign, side: str) -> None:
    made = NetworkConnection(foreign.address, UDP()) if side == "connection" else flow(foreign, UDP())
    async with made as channel:
        for metadata, byte, hops, priority in SENT:
            await check_sent(channel, foreign, metadata, byte, hops, priority)
            await check_sent(channel, foreign, None, 0, 64, 0)


@pytest.mark.parametrize("side", ["connection", "flow of a listener"])
async def test_the_rest_follows_the_connection(foreign: Foreign, side: str) -> None:
    parameters = Parameters(UDP(IP(hop_limit=17)), service_class=SIGNALING)
    made = NetworkConnection(foreign.address, parameters) if side == "connection" else flow(foreign, parameters)
    async with made as channel:
        for metadata, byte, priority in ON_SIGNALING:
            hops = 17 if metadata is None or metadata.hop_limit is None else metadata.hop_limit
            await check_sent(channel, foreign, metadata, byte, hops, priority)
            await check_sent(channel, foreign, None, 40 << 2, 17, 4)


async def test_many_at_once_say_the_same(foreign: Foreign) -> None:
    """Also those that the kernel takes together, because they have the same size."""
    datagrams = [b"same size %d" % number for number in range(8)] + [b"", b"another size", b"last"]
    said = IPMetadata(ecn=ECN.ECT_1, service_class=VOICE, hop_limit=5, fragmentation_disabled=True)
    async with NetworkConnection(foreign.address, UDP()) as connection:
        await connection.send_many(datagrams, metadata=said)
        await connection.send_many([b"usual", b"too"])
    expected = [(content, 46 << 2 | 1, 5) for content in datagrams] + [(b"usual", 0, 64), (b"too", 0, 64)]
    assert [foreign.receive()[:3] for _ in expected] == expected


async def test_sends_that_wait_keep_what_they_say(foreign: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    async with NetworkConnection(foreign.address, UDP()) as connection:
        early = asyncio.create_task(connection.send(b"0", metadata=IPMetadata(hop_limit=10)))  # before it is ready
        await early
        send, full = UDPSocket.send, True

        def blocked(self: Any, datagram: Any, remote: Any = None, metadata: Any = None) -> bool:
            return False if full else send(self, datagram, remote, metadata)

        monkeypatch.setattr(UDPSocket, "send", blocked)
        sends = [
            asyncio.create_task(connection.send(b"%d" % number, metadata=IPMetadata(hop_limit=10 + number)))
            for number in range(1, 5)
        ]
        await asyncio.sleep(0)
        sends.pop(1).cancel()
        await asyncio.sleep(0)
        full = False
        connection._flow.writable()
        await asyncio.gather(*sends)
    assert [foreign.receive()[:3] for _ in range(4)] == [(b"%d" % number, 0, 10 + number) for number in (0, 1, 3, 4)]


class Recording:
    """A socket that writes down what it is asked."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._real, name)
        if not callable(call):
            return call

        def recorded(*arguments: Any) -> Any:
            self.calls.append(name)
            return call(*arguments)

        return recorded


async def test_what_says_nothing_costs_nothing(foreign: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    async with NetworkConnection(foreign.address, UDP()) as connection:
        await connection.ready()
        below = connection._flow.socket
        below._sock = recording = Recording(below._sock)
        said: list[Any] = []
        give = below._give
        monkeypatch.setattr(below, "_give", lambda *given: (said.append(given[2]), give(*given))[1])
        await connection.send(b"usual")
        await connection.send_many([b"usual", b"usual"])
        assert recording.calls == ["getsockopt"] and not said  # the path's MTU, once a second; the rest is compiled
        await connection.send(b"marked", metadata=IPMetadata(ecn=ECN.ECT_0))
        assert recording.calls == ["getsockopt"] and len(said) == 1 and len(said[0]) == 1


async def test_before_linux_6_14(foreign: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel knows no priority of one packet: the rest is done, and it is asked once."""
    async with NetworkConnection(foreign.address, UDP()) as connection:
        await connection.ready()
        below = connection._flow.socket
        give, gave = below._give, 0

        def old(datagrams: Any, remote: Any, control: Any) -> int:
            nonlocal gave
            gave += 1
            if any(kind == socket.SO_PRIORITY for _, kind, _ in control):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return give(datagrams, remote, control)  # type: ignore[no-any-return]

        monkeypatch.setattr(below, "_give", old)
        for calls in (2, 3):
            await connection.send(b"voice", metadata=IPMetadata(service_class=VOICE, hop_limit=8))
            assert foreign.receive()[:3] == (b"voice", 46 << 2, 8)
            assert gave == calls


async def test_dont_fragment_is_for_one_datagram(foreign: Foreign) -> None:
    if foreign.v6:
        pytest.skip("IPv6 has a control message for it")
    async with NetworkConnection(foreign.address, UDP()) as connection:
        await connection.ready()
        sock = connection._flow.socket._sock
        for usual in (0, 1):
            sock.setsockopt(socket.IPPROTO_IP, options.IP_MTU_DISCOVER, usual)
            await connection.send(b"whole", metadata=IPMetadata(fragmentation_disabled=True))
            assert sock.getsockopt(socket.IPPROTO_IP, options.IP_MTU_DISCOVER) == usual
            connection._flow.socket._towards(None).learn(100_000, float("inf"))  # which was true some time ago
            with pytest.raises(ValueError, match="at most 65507 bytes on this path, got 65508"):
                await connection.send(bytes(65_508), metadata=IPMetadata(fragmentation_disabled=True))
            assert sock.getsockopt(socket.IPPROTO_IP, options.IP_MTU_DISCOVER) == usual


async def test_what_cannot_be_said(foreign: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    async with NetworkConnection(foreign.address, UDP()) as connection:
        for wrong in ({"ecn": 1}, (IPMetadata(),), ECN.CE):
            with pytest.raises(TypeError, match=r"^UDP: metadata must be an IPMetadata, got .*Its calls: send"):
                await connection.send(b"x", metadata=wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"receive_time is of datagrams that were received, got 1\.5 for one to send"):
            await connection.send(b"x", metadata=IPMetadata(receive_time=1.5))
        with pytest.raises(ValueError, match="hop_limit must be at least 1"):
            await connection.send_many([b"x"], metadata=IPMetadata(hop_limit=0))
        await connection.send(b"y")
        assert foreign.receive().content == b"y"
        monkeypatch.setattr(options, "LINUX", False)
        with pytest.raises(ConnectError, match="nothing can be said of the packet of one datagram on linux"):
            await connection.send(b"x", metadata=IPMetadata(hop_limit=1))


async def test_streams_and_datagrams_of_quic_have_no_packets_of_their_own(pair_over: Any) -> None:
    async with pair_over("tcp") as (stream, _):
        with pytest.raises(TypeError, match=r"^TCP: .*metadata"):
            await stream.send(b"x", metadata=IPMetadata())
    async with quic.connected(max_datagram_frame_size=1200) as (client, _, _):
        datagrams = await client.datagrams()
        with pytest.raises(TypeError, match="QUIC datagrams: its datagrams share packets with other data"):
            await datagrams.send(b"x", metadata=IPMetadata())


async def test_values_in_datagrams(foreign: Foreign) -> None:
    async with flow(foreign, Coder(dict[str, int], DESCRIBED), b'{"a":0}') as connection:
        await connection.send({"a": 1}, metadata=IPMetadata(hop_limit=4))
        assert foreign.receive()[:3] == (b'{"a":1}', 0, 4)
        foreign.send(b'{"b":2}', foreign.peer, traffic_class=3, hop_limit=6)
        content, metadata = await connection.receive()
        assert content == {"b": 2} and isinstance(metadata, CoderMetadata)
        assert metadata.other[0].ip == IPMetadata(ecn=ECN.CE, dscp=0, hop_limit=6)


NOBODY = 65534
ORDINARY = """
import asyncio, os, sys
from tieline import ECN, IP, TCP, UDP, IPMetadata, NetworkConnection, NetworkListener, Parameters, ServiceClass

async def answer(connection):
    async for content, metadata in connection:
        await connection.send(content + repr(getattr(metadata, "ip", "stream")).encode())

async def main(tell):
    described = UDP(IP(metadata_received=True, receive_time_calculated=True))
    for stack in (described, TCP()):
        for one in ServiceClass:
            using = Parameters(stack, service_class=one, grace_period=0.0)
            async with NetworkListener(using, on="127.0.0.1:0").serving(answer) as listener:
                async with NetworkConnection(listener.endpoint, using) as connection:
                    said = {}
                    if stack is described:
                        said["metadata"] = IPMetadata(ecn=ECN.CE, service_class=one, hop_limit=255, fragmentation_disabled=True)
                    await connection.send(b"?", **said)
                    tell(one.name, (await connection.receive()).content.decode())

asyncio.run(main(lambda *_: None))  # imports what this user may not even see
os.setuid(int(sys.argv[1]))
asyncio.run(main(print))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user_may_say_all_of_it() -> None:
    command = [sys.executable, "-c", ORDINARY, str(NOBODY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(ServiceClass)
    for one, line in zip(ServiceClass, lines, strict=False):
        assert f"{one.name} ?IPMetadata(ecn=<ECN.CE: 3>, service_class=None, dscp={one.dscp}, hop_limit=255" in line


# What connections of other protocols say


@pytest.mark.parametrize("one", [ServiceClass.BEST_EFFORT, VOICE, BACKGROUND])
async def test_packets_of_quic_have_ecn_beside_their_dscp(foreign: Foreign, one: ServiceClass) -> None:
    """And the priority stays, which Linux changes with the byte (IPv4)."""
    parameters = Parameters(QUIC(alpn=["x"]), service_class=one)
    connection = NetworkConnection(foreign.address, parameters)
    try:
        connecting = asyncio.create_task(connection.ready())
        seen = await asyncio.to_thread(foreign.receive)
        assert seen.traffic_class == one.dscp << 2 | ECN.ECT_0
        if foreign.tells_priority:
            assert seen.priority == options.PRIORITY[one]
        connecting.cancel()
        await asyncio.wait([connecting])
    finally:
        connection.abort()


# Receiving


async def test_what_a_packet_says_comes_with_its_datagram(foreign: Foreign) -> None:
    async with flow(foreign) as connection:
        await connection.send(b"!")
        foreign.receive()
        for byte in range(256):
            foreign.send(b"%d" % byte, foreign.peer, byte, 1 + byte % 255)
            content, metadata = await connection.receive()
            assert content == b"%d" % byte
            assert metadata.ip == IPMetadata(ecn=ECN(byte & 3), dscp=byte >> 2, hop_limit=1 + byte % 255)
            assert metadata.other == (metadata.ip,)


async def test_a_connection_hears_of_packets_too(foreign: Foreign) -> None:
    async with NetworkConnection(foreign.address, DESCRIBED) as connection:
        await connection.send(b"!")
        foreign.receive()
        foreign.send(b"?", foreign.peer, 46 << 2 | 1, 3)
        async for content, metadata in connection:
            assert content == b"?" and metadata.ip == IPMetadata(ecn=ECN.ECT_1, dscp=46, hop_limit=3)
            break


async def test_a_packet_that_should_not_have_come_this_far(foreign: Foreign) -> None:
    """A hop limit of 0 on the last link: a receiver takes it (RFC 8200 section 3)."""
    if not foreign.v6:
        pytest.skip("Linux sends none over IPv4")
    async with flow(foreign) as connection:
        await connection.send(b"!")
        foreign.receive()
        foreign.send(b"?", foreign.peer, 0, 0)
        assert (await connection.receive()).metadata.ip == IPMetadata(ecn=ECN.NOT_ECT, dscp=0, hop_limit=0)


async def test_nothing_is_told_that_was_not_asked_for(foreign: Foreign) -> None:
    expected: dict[IP, tuple[bool, bool]] = {
        IP(): (False, False),
        IP(metadata_received=True): (True, False),
        IP(receive_time_calculated=True): (False, True),
        IP(metadata_received=True, receive_time_calculated=True): (True, True),
    }
    for ip, (told, timed) in expected.items():
        async with NetworkConnection(foreign.address, UDP(ip)) as connection:
            await connection.send(b"!")
            foreign.receive()
            foreign.send(b"?", foreign.peer, 2, 7)
            found = (await connection.receive()).metadata
            if not (told or timed):
                assert found.ip is None and found.other == ()
                continue
            assert found.ip is not None
            assert (found.ip.ecn, found.ip.dscp, found.ip.hop_limit) == ((ECN.ECT_0, 0, 7) if told else (None, None, None))
            assert (found.ip.receive_time is not None) is timed


async def test_several_that_come_at_once(foreign: Foreign) -> None:
    async with flow(foreign, UDP(IP(metadata_received=True, receive_time_calculated=True))) as connection:
        await connection.send(b"!")
        foreign.receive()
        foreign.send(bytes(range(205)), foreign.peer, 1, 9, segment=10)
        foreign.send(b"another", foreign.peer, 2, 8)
        found: list[Any] = []
        while len(found) < 22:
            found += await connection.receive_many(at_most=4)
        assert b"".join(content for content, _ in found[:21]) == bytes(range(205))
        assert [(one.metadata.ip.ecn, one.metadata.ip.hop_limit) for one in found] == [(1, 9)] * 21 + [(2, 8)]


@pytest.mark.parametrize("many", [False, True])
async def test_each_keeps_what_its_own_packet_said(foreign: Foreign, many: bool) -> None:
    """Also beside receives that are cancelled, and datagrams that are dropped because there is no room for more."""
    kept = 50
    async with flow(foreign, Parameters(DESCRIBED, receive_limit=kept * (64 + 3))) as connection:
        await connection.send(b"!")
        foreign.receive()
        waiting = [asyncio.create_task(connection.receive()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting.pop(1).cancel()
        await asyncio.sleep(0)
        for number in range(100, 160):
            foreign.send(b"%d" % number, foreign.peer, number, number)
        found = [await task for task in waiting]
        while len(found) < kept:
            found += await connection.receive_many(at_most=7) if many else [await connection.receive()]
        for content, metadata in found:
            number = int(content)
            assert metadata.ip == IPMetadata(ecn=ECN(number & 3), dscp=number >> 2, hop_limit=number)
        foreign.send(b"200", foreign.peer, 200, 200)
        while int((last := await connection.receive()).content) < 200:
            pass
        assert last.metadata.ip is not None and last.metadata.ip.hop_limit == 200


async def test_the_time_of_arrival_is_that_of_the_kernel(foreign: Foreign) -> None:
    """And not when the program came to look: here it is busy. (Linux begins to stamp a moment after the first one asks.)"""
    loop = asyncio.get_running_loop()
    clock = loop.time if isinstance(loop, asyncio.BaseEventLoop) else time.monotonic
    async with flow(foreign, UDP(IP(receive_time_calculated=True))) as connection:
        await connection.send(b"!")
        foreign.receive()
        for attempt in range(5):
            before = clock()
            foreign.send(b"?", foreign.peer)
            sent = clock()
            time.sleep(0.1)  # noqa: ASYNC251
            metadata = (await connection.receive()).metadata
            assert metadata.ip is not None and metadata.ip.receive_time is not None
            if metadata.ip.receive_time < sent + 0.05 or attempt == 4:
                assert before - 0.001 <= metadata.ip.receive_time <= sent + 0.05 < clock()
                break


async def test_a_calendar_that_is_set_back_makes_no_time_to_come(foreign: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    async with flow(foreign, UDP(IP(receive_time_calculated=True))) as connection:
        await connection.send(b"!")
        foreign.receive()
        monkeypatch.setattr("tieline.drivers.asyncio.ancillary.time.time_ns", lambda: 0)
        foreign.send(b"?", foreign.peer)
        metadata = (await connection.receive()).metadata
        assert metadata.ip is not None and metadata.ip.receive_time is not None
        assert metadata.ip.receive_time <= connection.driver.time()
