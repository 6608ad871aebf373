"""Datagrams that the kernel takes and hands over several at once: whole, in order, and each by itself for whoever receives."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from typing import Any

import pytest

from tieline import IP, UDP, MessageTooLargeError, NetworkConnection, NetworkListener
from tieline.drivers.asyncio.udp import LARGEST_SEGMENTS, SEGMENTS, runs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="GSO and GRO are Linux's")

SOL_UDP, UDP_SEGMENT = 17, 103


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([5], [[5]]),
        ([5, 5, 5], [[5, 5, 5]]),
        ([5, 5, 7, 5], [[5, 5], [7], [5]]),
        ([0, 0], [[0], [0]]),  # an empty datagram is one, and no segment
        ([1] * (SEGMENTS + 1), [[1] * SEGMENTS, [1]]),
        ([30_000] * 5, [[30_000] * 2, [30_000] * 2, [30_000]]),
        ([LARGEST_SEGMENTS], [[LARGEST_SEGMENTS]]),
        ([65_507, 65_507], [[65_507], [65_507]]),  # more than may go at once: the kernel says what it thinks of them
    ],
)
def test_what_goes_at_once(sizes: list[int], expected: list[list[int]]) -> None:
    datagrams = [bytes(size) for size in sizes]
    found = runs(datagrams)
    assert [[len(one) for one in run] for run in found] == expected
    assert all(len(run) == 1 or sum(map(len, run)) <= LARGEST_SEGMENTS for run in found)


@pytest.mark.parametrize("count", [1, 9, 10, 11, 20, 25])
async def test_what_came_at_once(count: int) -> None:
    """Segments for a listener: the kernel hands them over as they were sent once several have come in a row."""
    data = bytes(range(count))
    expected = [data[start : start + 10] for start in range(0, count, 10)]
    sends = 5
    came: list[bytes] = []
    done = asyncio.Event()

    async def handler(connection: NetworkConnection[UDP]) -> None:
        async for content, _ in connection:
            came.append(content)
            if len(came) % len(expected) == 0:
                done.set()

    async with NetworkListener(UDP(), on="127.0.0.1:0").serving(handler) as listener, asyncio.timeout(10):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.connect(("127.0.0.1", listener.port))
            for _ in range(sends):
                peer.sendmsg([data], [(SOL_UDP, UDP_SEGMENT, (10).to_bytes(2, sys.byteorder))])
                await done.wait()
                done.clear()
    assert came == expected * sends


SIZES = [100] * 70 + [50, 0, 0, 7] + [1200] * 60 + [1, 2, 3]


async def arrived(channel: Any, count: int) -> list[bytes]:
    received: list[bytes] = []
    async with asyncio.timeout(10):
        while len(received) < count:
            received += [content for content, _ in await channel.receive_many()]
    return received


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_many_of_several_sizes_stay_whole_and_in_order(host: str) -> None:
    datagrams = [bytes([number]) * size for number, size in enumerate(SIZES)]
    seen: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()

    async def handler(connection: NetworkConnection[UDP]) -> None:
        seen.set_result(await arrived(connection, len(SIZES)))
        await connection.send_many(datagrams)

    async with NetworkListener(UDP(), on=(host, 0)).serving(handler) as listener:  # noqa: SIM117
        async with NetworkConnection(listener.endpoint, UDP()) as client:
            await client.send_many(datagrams)
            assert await seen == datagrams
            assert await arrived(client, len(SIZES)) == datagrams  # an open socket sends to one of many in batches, too
            report = await client.data_transfer_report()
            assert report.aggregate.received_application_byte_count == sum(SIZES)
            assert report.aggregate.sent_application_byte_count == sum(SIZES)


async def test_what_a_foreign_socket_sends_at_once(pair_over: Any) -> None:
    """Beside time stamps, which come as ancillary data as well."""
    seen: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()

    async def handler(connection: NetworkConnection[UDP]) -> None:
        seen.set_result(await arrived(connection, 21))

    stack = UDP(IP(receive_time_calculated=True))
    async with NetworkListener(stack, on="127.0.0.1:0").serving(handler) as listener:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            data = bytes(range(205))
            peer.sendmsg([data], [(SOL_UDP, UDP_SEGMENT, (10).to_bytes(2, sys.byteorder))], 0, ("127.0.0.1", listener.port))
            assert await seen == [data[start : start + 10] for start in range(0, 205, 10)]


class Refusing:
    """A socket that does not take several at once."""

    def __init__(self, real: Any, code: int) -> None:
        self._real = real
        self._code = code
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def sendmsg(self, *_: Any) -> int:
        self.refused += 1
        raise OSError(self._code, os.strerror(self._code))


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL])
async def test_a_card_that_cannot_cut_segments(pair_over: Any, code: int) -> None:
    async with pair_over("udp") as (client, server):
        below = client._flow.socket
        below._sock = refusing = Refusing(below._sock, code)
        for _ in range(2):
            await client.send_many([b"a", b"b", b"c"])
            assert await arrived(server, 3) == [b"a", b"b", b"c"]
        assert refusing.refused == (1 if code == errno.EIO else 2)  # EIO is about the card, EINVAL about these


async def test_what_the_kernel_has_no_room_for_goes_later(pair_over: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair_over("udp") as (client, server):
        below = client._flow.socket
        send_many, room = below.send_many, 2

        def take(datagrams: Any, remote: Any = None, metadata: Any = None) -> int:
            nonlocal room
            some = datagrams[:room]
            room = 0
            return send_many(some, remote) if some else 0

        monkeypatch.setattr(below, "send_many", take)
        sending = asyncio.create_task(client.send_many([b"%d" % number for number in range(6)]))
        assert await arrived(server, 2) == [b"0", b"1"]
        assert not sending.done()
        room = 6
        client._flow.writable()
        await sending
        assert await arrived(server, 4) == [b"2", b"3", b"4", b"5"]


async def test_one_that_becomes_too_large_on_the_way_is_told(pair_over: Any) -> None:
    """The kernel refuses one in the middle: those before it have gone, and it is told what is wrong."""
    async with pair_over("udp") as (client, server):
        below = client._flow.socket
        below._towards(None).learn(100_000, float("inf"))  # which was true some time ago
        with pytest.raises(MessageTooLargeError) as caught:
            await client.send_many([b"a", b"b", bytes(70_000), b"c"])
        assert (caught.value.size, caught.value.limit) == (70_000, 65_507)
        assert await arrived(server, 2) == [b"a", b"b"]


async def test_a_wide_path_is_asked_about_again(pair_over: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair_over("udp") as (client, _):
        below = client._flow.socket
        first = client.maximum_datagram_size
        monkeypatch.setattr(below, "_ask_maximum_size", lambda _: 1000)
        assert client.maximum_datagram_size == first
        monkeypatch.setattr("tieline.drivers.asyncio.udp.LIMIT_LIFETIME", 0.0)
        below._towards(None).forget()
        assert client.maximum_datagram_size == 1000


async def test_a_socket_with_much_in_it_is_read_more_than_once_in_a_turn() -> None:
    """Datagrams of several peers do not come together. Where one at a time comes, a second read is hardly ever tried."""
    single: list[int] = []

    async def handler(connection: NetworkConnection[UDP]) -> None:
        async for _ in connection:
            below = connection._flow.socket
            single.append(below._single)

    async with NetworkListener(UDP(), on="127.0.0.1:0").serving(handler) as listener, asyncio.timeout(10):
        peers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]

        async def came(count: int) -> None:
            while len(single) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

        try:
            for number in range(20):
                peers[0].sendto(b"x", ("127.0.0.1", listener.port))
                await came(number + 1)
            assert single[2] > 0
            for _ in range(40):
                for peer in peers:
                    peer.sendto(b"x", ("127.0.0.1", listener.port))
            await came(180)
            assert single[100] == 0
        finally:
            for peer in peers:
                peer.close()
