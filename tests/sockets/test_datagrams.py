"""Datagrams over UDP: whole or not at all, in order, and never more kept than the limit."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from tieline import (
    UDP,
    ChannelClosedError,
    EndOfStreamError,
    MessageTooLargeError,
    NetworkConnection,
    NetworkListener,
    Parameters,
)
from tieline.protocols.udp import UDPMetadata


class Instead:
    """A flow's socket, but for how it sends."""

    def __init__(self, socket: Any, send: Any) -> None:
        self._socket = socket
        self.send = send

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def test_datagrams_stay_whole_and_in_order(pair_over: Any) -> None:
    async with pair_over("udp") as (client, server):
        for content in (b"one", bytearray(b"two"), memoryview(b"three"), b""):
            await client.send(content)
        assert [(await server.receive()).content for _ in range(4)] == [b"one", b"two", b"three", b""]
        await server.send(b"answer")
        assert (await client.receive()).content == b"answer"


async def test_batches(pair_over: Any) -> None:
    async with pair_over("udp") as (client, server):
        datagrams = [b"%d" % number for number in range(100)]
        await client.send_many(datagrams)
        received: list[bytes] = []
        while len(received) < 100:
            batch = await server.receive_many(at_most=30)
            assert 1 <= len(batch) <= 30
            received += [content for content, _ in batch]
        assert received == datagrams
        await client.send_many([])
        with pytest.raises(ValueError, match="at_most"):
            await server.receive_many(at_most=0)


async def test_receives_are_answered_in_their_order(pair_over: Any) -> None:
    async with pair_over("udp") as (client, server):
        calls = [asyncio.create_task(server.receive()) for _ in range(4)]
        await turns()
        calls[1].cancel()
        await turns()
        await client.send_many([b"a", b"b", b"c"])
        assert [(await calls[number]).content for number in (0, 2, 3)] == [b"a", b"b", b"c"]


async def test_one_cancelled_in_the_turn_it_was_woken_loses_nothing(pair_over: Any) -> None:
    async with pair_over("udp") as (client, server):
        first = asyncio.create_task(server.receive())
        second = asyncio.create_task(server.receive())
        await turns()
        first.add_done_callback(lambda _: second.cancel())
        await client.send_many([b"a", b"b"])
        assert (await first).content == b"a"
        (second_answer,) = await asyncio.gather(second, return_exceptions=True)
        if isinstance(second_answer, BaseException):
            second_answer = await server.receive()
        assert second_answer.content == b"b"


async def test_too_large_sends_nothing(pair_over: Any) -> None:
    async with pair_over("udp") as (client, server):
        limit = client.maximum_datagram_size
        assert 1400 < limit <= 65507
        with pytest.raises(MessageTooLargeError) as caught:
            await client.send(bytes(limit + 1))
        assert caught.value.limit == limit and caught.value.size == limit + 1
        with pytest.raises(MessageTooLargeError):
            await client.send_many([b"first", bytes(70_000)])
        await client.send(bytes(limit))
        assert len((await server.receive()).content) == limit
        assert server.maximum_datagram_size == limit


async def test_maximum_datagram_size_before_ready_and_on_streams(pair_over: Any) -> None:
    assert NetworkConnection("127.0.0.1:9", UDP()).maximum_datagram_size == 0
    async with pair_over("tcp") as (client, _):
        assert client.maximum_datagram_size == 0


async def test_too_large_in_the_first_send_of_all() -> None:
    """The limit is known only once there is a socket, and holds all the same."""
    async with NetworkConnection("127.0.0.1:9", UDP()) as connection:
        with pytest.raises(MessageTooLargeError):
            await connection.send(bytes(70_000))


@pytest.mark.parametrize("size", [0, 500])
async def test_beyond_the_receive_limit_the_newest_are_dropped_and_counted(pair_over: Any, size: int) -> None:
    async with pair_over("udp", server={"receive_limit": 10_000}) as (client, server):
        kept = 10_000 // (size + 64)
        for number in range(kept + 20):
            await client.send(bytes([number % 256]) * size)
            await asyncio.sleep(0)
        await until(lambda: server.metadata(UDP).dropped_datagram_count == 20)
        assert server.metadata(UDP) == UDPMetadata(20)
        received = [content async for content, _ in limited(server, kept)]
        assert received == [bytes([number % 256]) * size for number in range(kept)]
        await client.send(b"room again")
        assert (await server.receive()).content == b"room again"


async def limited(connection: NetworkConnection[Any], count: int) -> Any:
    async for message in connection.messages:
        yield message
        count -= 1
        if not count:
            return


async def test_nobody_there_is_said_once_and_the_connection_goes_on() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        port = peer.getsockname()[1]
    async with NetworkConnection(f"127.0.0.1:{port}", UDP()) as connection:
        receiving = asyncio.create_task(connection.receive())
        await connection.send(b"hello?")
        with pytest.raises(ConnectionRefusedError, match="ICMP"):
            await receiving
        assert connection.state.value == "ready"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", port))
            await connection.send(b"again")
            data, address = await asyncio.to_thread(peer.recvfrom, 100)
            assert data == b"again"
            peer.sendto(b"here", address)
            assert (await connection.receive()).content == b"here"


async def test_a_refusal_that_nobody_waited_for_is_told_to_the_next_call() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        port = peer.getsockname()[1]
    async with NetworkConnection(f"127.0.0.1:{port}", UDP()) as connection:
        await connection.send(b"hello?")
        await until(lambda: connection._flow._notice is not None)
        with pytest.raises(ConnectionRefusedError):
            await connection.send(b"again")
        receiving = asyncio.create_task(connection.receive())
        await turns()
        assert not receiving.done()  # once
        receiving.cancel()


async def test_an_idle_flow_ends() -> None:
    ended: asyncio.Queue[list[bytes]] = asyncio.Queue()

    async def handler(connection: NetworkConnection[Any]) -> None:
        received = [content async for content, _ in connection]
        with pytest.raises(EndOfStreamError):
            await connection.receive()
        with pytest.raises(EndOfStreamError):
            await connection.receive_many()
        ended.put_nowait(received)

    async with (
        NetworkListener(UDP(idle_timeout=0.2), on="127.0.0.1:0").serving(handler) as listener,
        NetworkConnection(listener.endpoint, UDP()) as connection,
    ):
        await connection.send_many([b"a", b"b"])
        assert await ended.get() == [b"a", b"b"]
        await connection.send(b"c")
        assert await ended.get() == [b"c"]


async def test_flows_of_several_peers_do_not_mix() -> None:
    async def echo(connection: NetworkConnection[Any]) -> None:
        async for content, _ in connection:
            await connection.send(content.upper())

    async with (
        NetworkListener(UDP(), on="127.0.0.1:0").serving(echo) as listener,
        NetworkConnection(listener.endpoint, UDP()) as one,
        NetworkConnection(listener.endpoint, UDP()) as two,
    ):
        for _ in range(3):
            await one.send(b"one")
            await two.send(b"two")
            assert (await one.receive()).content == b"ONE"
            assert (await two.receive()).content == b"TWO"


async def test_calls_after_the_close(pair_over: Any) -> None:
    async with pair_over("udp") as (client, server):
        receiving = asyncio.create_task(server.receive())
        await turns()
        await server.aclose()
        with pytest.raises(ChannelClosedError):
            await receiving
        for call in (server.receive(), server.send(b"x"), server.send_many([b"x"]), server.receive_many()):
            with pytest.raises(ChannelClosedError):
                await call
        await client.aclose()
        with pytest.raises(ChannelClosedError):
            [message async for message in client]


async def test_sends_wait_while_the_kernel_has_no_room(pair_over: Any) -> None:
    """In order, and each told by itself when it has gone. The kernel's buffer cannot be filled on loopback, so we pretend."""
    async with pair_over("udp") as (client, server):
        flow_socket = client._flow.socket
        full = True

        def blocked(datagram: Any, remote: Any = None, metadata: Any = None) -> bool:
            return False if full else flow_socket.send(datagram, remote)

        client._flow.socket = Instead(flow_socket, blocked)
        sends = [asyncio.create_task(client.send(b"%d" % number)) for number in range(3)]
        await turns()
        assert not any(one.done() for one in sends)
        sends[1].cancel()
        await turns()
        full = False
        client._flow.writable()
        await asyncio.gather(sends[0], sends[2])
        assert [(await server.receive()).content for _ in range(2)] == [b"0", b"2"]


async def test_parameters_of_a_datagram_connection(pair_over: Any) -> None:
    async with pair_over("udp", receive_limit=5) as (client, server):
        await server.send(b"one larger datagram than the limit is kept when it is alone")
        assert len((await client.receive()).content) > 5
        assert isinstance(client.parameters, Parameters)


async def test_a_second_receive_learns_of_the_end() -> None:
    """The flow ends while one datagram is being handed out: the receive behind it can never be answered."""
    results: list[object] = []
    flow: asyncio.Future[NetworkConnection[UDP]] = asyncio.get_running_loop().create_future()

    async def handler(connection: NetworkConnection[UDP]) -> None:
        await connection.receive()
        receives = [asyncio.create_task(connection.receive()) for _ in range(2)]
        await asyncio.sleep(0)
        flow.set_result(connection)
        results.extend(await asyncio.gather(*receives, return_exceptions=True))

    async with NetworkListener(UDP(), on="127.0.0.1:0").serving(handler) as listener:  # noqa: SIM117
        async with NetworkConnection(listener.endpoint, UDP()) as client:
            await client.send(b"first")
            connection = await flow
            connection._flow.received(b"last", None)
            connection._flow.end()
            await until(lambda: len(results) == 2)
    assert [getattr(result, "content", type(result)) for result in results] == [b"last", EndOfStreamError]


async def test_one_too_large_among_many_before_ready() -> None:
    seen: list[bytes] = []

    async def handler(connection: NetworkConnection[UDP]) -> None:
        async for datagram, _ in connection.messages:
            seen.append(datagram)

    async with NetworkListener(UDP(), on="127.0.0.1:0").serving(handler) as listener:  # noqa: SIM117
        async with NetworkConnection(listener.endpoint, UDP()) as client:
            with pytest.raises(MessageTooLargeError):
                await client.send_many([b"a", bytes(70_000), b"c"])
            await client.send(b"alone")
            await until(lambda: seen)
    assert seen == [b"alone"]


async def test_sends_keep_their_order_behind_a_full_kernel(pair_over: Any) -> None:
    async with pair_over("udp") as (client, _):
        socket = client._flow.socket
        sent: list[bytes] = []
        room = 2

        def send(datagram: bytes, remote: object = None, metadata: object = None) -> bool:
            if len(sent) >= room:
                return False
            sent.append(bytes(datagram))
            return True

        client._flow.socket = Instead(socket, send)
        sends = [asyncio.create_task(client.send(b"%d" % number)) for number in range(5)]
        await asyncio.sleep(0.01)
        room = 3
        socket.handler.writable()
        sends.append(asyncio.create_task(client.send(b"5")))
        await asyncio.sleep(0.01)
        room = 10
        socket.handler.writable()
        await asyncio.gather(*sends)
    assert sent == [b"0", b"1", b"2", b"3", b"4", b"5"]


async def test_sending_without_end_lets_others_run() -> None:
    with pytest.raises(TimeoutError):  # noqa: PT012
        async with NetworkListener(UDP(), on="127.0.0.1:0").serving(NetworkConnection.receive) as listener:  # noqa: SIM117
            async with NetworkConnection(listener.endpoint, UDP()) as client, asyncio.timeout(0.1):
                while True:
                    await client.send(b"x")
