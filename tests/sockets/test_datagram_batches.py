"""Datagrams that the kernel takes and hands over several at once: whole, in order, and each by itself for whoever receives."""

from __future__ import annotations

import array
import asyncio
import socket
import sys
import threading
from collections import deque
from typing import Any

import pytest

from tieline import IP, UDP, MessageTooLargeError, NetworkConnection, NetworkListener
from tieline.flows.datagram import STREAK

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="GSO and GRO are Linux's")

SOL_UDP, UDP_SEGMENT = 17, 103
SO_NO_CHECK = 11  # asm-generic/socket.h


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


async def test_other_buffers_and_sequences_go_in_batches_too(pair_over: Any) -> None:
    async with pair_over("udp") as (client, server):
        various = [b"one", bytearray(b"two"), memoryview(b"-six-")[1:4], array.array("H", [0, 0])]
        for some in (various, tuple(various), deque(various), (b"a", b"b")):
            await client.send_many(some)
            assert await arrived(server, len(some)) == [bytes(one) for one in some]
        for wrong in ([b"one", "two"], [b"one", 2], ["one"]):
            with pytest.raises(TypeError, match=r"^UDP: bytes, a buffer or a fixed-width integer can be sent, got"):
                await client.send_many(wrong)
        await client.send(b"nothing of those")
        assert await arrived(server, 1) == [b"nothing of those"]


async def test_what_the_program_does_with_its_list_meanwhile(pair_over: Any) -> None:
    """A batch is what it was when it was sent, also while larger ones leave without the interpreter's lock."""
    async with pair_over("udp") as (client, server):
        batch = [bytes([number]) * 1200 for number in range(50)]
        expected = list(batch)
        over = threading.Event()

        def disturb() -> None:
            while not over.is_set():
                batch[:] = reversed(batch)
                batch[:] = reversed(batch)

        thread = threading.Thread(target=disturb)
        thread.start()
        try:
            for _ in range(20):
                await client.send_many(batch)
                assert sorted(await arrived(server, 50)) == expected
        finally:
            over.set()
            thread.join()


def udp_lite() -> socket.socket:
    try:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDPLITE)
    except OSError as error:  # Linux has dropped it
        pytest.skip(f"no UDP-Lite: {error}")


async def test_a_way_out_that_cannot_cut_segments(pair_over: Any) -> None:
    """The kernel says EIO where no checksums can be made of segments: on old network cards, and always with UDP-Lite."""
    async with pair_over("udp") as (client, _):
        below = client._flow.socket
        with udp_lite() as here, udp_lite() as there:
            there.bind(("127.0.0.1", 0))
            here.connect(there.getsockname())
            there.setblocking(False)
            below._open(here.fileno(), True, False, 0.0)
            assert below._segments
            for _ in range(2):
                await client.send_many([b"a", b"b", b"c"])
                assert [there.recv(10) for _ in range(3)] == [b"a", b"b", b"c"]
                assert not below._segments  # it is not tried again
            below._open(below._sock.fileno(), True, False, 0.0)


async def test_datagrams_that_cannot_go_at_once(pair_over: Any) -> None:
    """The kernel says EINVAL where there is to be no checksum: that is about these datagrams, and others may go together."""
    async with pair_over("udp") as (client, server):
        below = client._flow.socket
        below._sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        for _ in range(2):
            await client.send_many([b"a", b"b", b"c"])
            assert await arrived(server, 3) == [b"a", b"b", b"c"]
            assert below._segments


async def test_nobody_there_is_said_of_a_batch() -> None:
    """The answer to the first part is met by the second."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    async with NetworkConnection(f"127.0.0.1:{port}", UDP()) as connection:
        await connection.ready()
        with pytest.raises(ConnectionRefusedError, match="ICMP"):
            await connection.send_many([bytes(1200)] * 200)
        assert 0 < connection._flow.sent_datagrams < 200
        assert connection.state.value == "ready"


async def test_what_the_kernel_has_no_room_for_goes_later(pair_over: Any) -> None:
    async with pair_over("udp") as (client, server):
        below, room = client._flow.socket, 2

        class Full:
            """The socket, but for how much it takes."""

            def __getattr__(self, name: str) -> Any:
                return getattr(below, name)

            def send_many(self, datagrams: Any, remote: Any = None, metadata: Any = None) -> int:
                nonlocal room
                some = datagrams[:room]
                room = 0
                return below.send_many(some, remote) if some else 0

        client._flow.socket = Full()
        sending = asyncio.create_task(client.send_many([b"%d" % number for number in range(6)]))
        assert await arrived(server, 2) == [b"0", b"1"]
        assert not sending.done()
        room = 6
        client._flow.writable()
        await sending
        assert await arrived(server, 4) == [b"2", b"3", b"4", b"5"]
        assert client._flow.sent_datagrams == 7  # and the first, which began the flow


async def test_batches_without_end_let_others_run(pair_over: Any) -> None:
    """A kernel that takes everything makes no sender wait."""
    async with pair_over("udp") as (client, _):
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        running = asyncio.create_task(other())
        for _ in range(200):
            await client.send_many([b"x"] * 64)
        running.cancel()
        assert turns >= 20


async def test_one_that_becomes_too_large_on_the_way_is_told(pair_over: Any) -> None:
    """The kernel refuses one in the middle: those before it have gone, and it is told what is wrong."""
    async with pair_over("udp") as (client, server):
        below = client._flow.socket
        below._towards(None).learn(100_000, float("inf"))  # which was true some time ago
        with pytest.raises(MessageTooLargeError) as caught:
            await client.send_many([b"a", b"b", bytes(70_000), b"c"])
        assert (caught.value.size, caught.value.limit) == (70_000, 65_507)
        assert await arrived(server, 2) == [b"a", b"b"]


async def test_what_is_wrong_with_one_is_told_to_whom_it_belongs() -> None:
    """Flows share a listener's socket. The rest of a batch waits for its turn, and another flow is before it."""
    flows: asyncio.Queue[NetworkConnection[UDP]] = asyncio.Queue()

    async def handler(connection: NetworkConnection[UDP]) -> None:
        flows.put_nowait(connection)
        await asyncio.Event().wait()

    async with NetworkListener(UDP(), on="127.0.0.1:0").serving(handler) as listener, asyncio.timeout(10):  # noqa: SIM117
        async with NetworkConnection(listener.endpoint, UDP()) as one, NetworkConnection(listener.endpoint, UDP()) as other:
            await one.send(b"hello")
            wide = (await flows.get())._flow
            await other.send(b"hello")
            usual = (await flows.get())._flow
            assert wide.socket is usual.socket
            wide.socket._towards(wide.remote).learn(100_000, float("inf"))
            wide._streak = STREAK - 1
            results = await asyncio.gather(
                wide.send_many([b"a", bytes(70_000)]), usual.send_many([b"b", b"c"]), return_exceptions=True
            )
            assert [type(result) for result in results] == [MessageTooLargeError, type(None)]
            assert await arrived(one, 1) == [b"a"]
            assert await arrived(other, 2) == [b"b", b"c"]


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
