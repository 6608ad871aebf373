"""Ends: a graceful close drains, an abort resets, and what broke is told apart from what ended."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import struct
import warnings
from typing import Any

import pytest

from tieline import (
    TCP,
    TLS,
    ChannelClosedError,
    CloseTimeoutError,
    Identity,
    NetworkConnection,
    NetworkListener,
    Parameters,
    PeerResetError,
)

MEGABYTE = 1 << 20


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


# Graceful


async def test_a_close_drains_to_a_slow_reader(pair: Any) -> None:
    """50 MB are accepted, and the reader takes them only while we close."""
    size = 50 * MEGABYTE
    async with pair(send_limit=size) as (client, server):
        await client.send(bytes(size))
        closing = asyncio.create_task(client.aclose())
        received = 0
        while content := (await server.receive(at_most=MEGABYTE)).content:
            received += len(content)
        assert received == size
        await closing


async def test_a_close_drains_also_after_the_peers_end(pair: Any) -> None:
    """That the peer has nothing more to say is news, and no reason to give up."""
    size = 8 * MEGABYTE
    async with pair(send_limit=size) as (client, server):
        await client.send(bytes(size))
        closing = asyncio.create_task(client.aclose())
        await turns()
        await server.send(b"", end_of_stream=True)
        await turns(50)
        received = 0
        while content := (await server.receive(at_most=MEGABYTE)).content:
            received += len(content)
        assert received == size
        await closing


async def test_a_close_gives_up_when_the_peer_reads_nothing(pair: Any) -> None:
    async with pair(send_limit=50 * MEGABYTE, close_timeout=0.2) as (client, server):
        await client.send(bytes(50 * MEGABYTE))
        with pytest.raises(CloseTimeoutError, match=r"close_timeout=0\.2") as caught:
            await client.aclose()
        assert isinstance(caught.value, TimeoutError)
        assert client.state.value == "cancelled"
        if not str(server.remote_endpoint).startswith("unix") and server.remote_endpoint is not None:
            with pytest.raises(PeerResetError):  # noqa: PT012
                while (await server.receive(at_most=MEGABYTE)).content:
                    pass


async def test_progress_keeps_a_close_alive(pair_over: Any) -> None:
    async with pair_over("tcp", send_limit=30 * MEGABYTE, close_timeout=0.3) as (client, server):
        await client.send(bytes(30 * MEGABYTE))
        closing = asyncio.create_task(client.aclose())
        received = 0
        for _ in range(10):  # ten times a tenth of a second is more than close_timeout
            received += len((await server.receive(exactly=2 * MEGABYTE)).content)
            await asyncio.sleep(0.1)
        received += len((await server.receive(exactly=10 * MEGABYTE)).content)
        assert (await server.receive()).metadata.end_of_stream
        await closing


async def test_unread_input_does_not_destroy_our_last_bytes(pair: Any) -> None:
    async with pair() as (client, server):
        await client.send(b"x" * 100_000)
        await until(lambda: server._flow.receiving.inbox.size)
        await server.send(b"last words")
        closing = asyncio.create_task(server.aclose())
        await asyncio.sleep(0.05)
        assert not closing.done()  # until the peer has ended, too
        await client.send(b"y" * 100_000)
        await turns(20)
        assert (await client.receive(exactly=10)).content == b"last words"
        assert (await client.receive()).metadata.end_of_stream
        await client.aclose()
        await closing


async def test_a_peer_that_goes_on_sending_does_not_keep_us_for_ever(pair: Any) -> None:
    async with pair(close_timeout=0.2) as (client, server):
        await server.send(b"unread")
        await until(lambda: client._flow.receiving.inbox.size)
        with pytest.raises(CloseTimeoutError, match="nobody reads"):
            await client.aclose()


async def test_a_client_that_only_sends_closes_at_once(pair: Any) -> None:
    """A TLS server's session tickets are input that nobody asked for; they are no reason to wait."""
    async with pair(close_timeout=0.5) as (client, server):
        await client.send(b"all there is")
        await client.aclose()
        assert [content async for content, _ in server] == [b"all there is"]


async def test_what_is_sent_before_an_end_arrives_before_it(pair: Any) -> None:
    async with pair() as (client, server):
        await client.send(b"a")
        client.send_idempotent(b"b")
        await client.aclose()
        assert (await server.receive(at_least=3)).content == b"ab"
        assert (await server.receive()).metadata.end_of_stream


async def test_close_is_idempotent_and_concurrent(pair: Any) -> None:
    async with pair() as (client, server):
        await asyncio.gather(*(client.aclose() for _ in range(5)))
        await client.aclose()
        client.abort()
        assert client.state.value == "cancelled"
        assert (await server.receive()).metadata.end_of_stream


async def test_a_close_raises_in_pending_calls(pair: Any) -> None:
    async with pair() as (client, server):
        receiving = [asyncio.create_task(client.receive(exactly=5)) for _ in range(2)]
        sending = asyncio.create_task(client.send(bytes(64 * MEGABYTE)))
        await asyncio.sleep(0.1)
        closing = asyncio.create_task(client.aclose())
        for call in (*receiving, sending):
            with pytest.raises(ChannelClosedError):
                await call
        received = 0
        while content := (await server.receive(at_most=MEGABYTE)).content:
            received += len(content)
        assert received < 64 * MEGABYTE
        await closing


@pytest.mark.parametrize("how", ["aclose", "abort"])
async def test_calls_after_the_close(pair: Any, how: str) -> None:
    async with pair() as (client, server):
        await server.send(b"unread", end_of_stream=True)
        await until(lambda: client._flow.receiving.inbox.ended)
        if how == "aclose":
            await client.aclose()
        else:
            client.abort()
        for call in (
            client.send(b"x"),
            client.receive(),
            client.receive(exactly=1),
            client.receive(until=b"x"),
            client.receive_into(bytearray(1)),
            client.ready(),
        ):
            with pytest.raises(ChannelClosedError):
                await call
        with pytest.raises(ChannelClosedError):
            client.send_idempotent(b"x")
        with pytest.raises(ChannelClosedError):
            [message async for message in client]


async def test_leaving_the_block_normally_and_by_an_exception() -> None:
    ends: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(connection: NetworkConnection[Any]) -> None:
        try:
            ends.put_nowait([content async for content, _ in connection])
        except PeerResetError as error:
            ends.put_nowait(error)

    async with NetworkListener(TCP(), on="127.0.0.1:0").serving(handler) as listener:
        async with NetworkConnection(listener.endpoint, TCP()) as connection:
            await connection.send(b"bye")
        assert await ends.get() == [b"bye"]
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with NetworkConnection(listener.endpoint, TCP()) as connection:
                await connection.ready()
                raise ZeroDivisionError
        assert isinstance(await ends.get(), PeerResetError)


# Resets and truncation


@pytest.mark.parametrize("over", ["tcp", "tls"])
async def test_an_abort_is_a_reset_for_the_peer(pair_over: Any, over: str) -> None:
    async with pair_over(over) as (client, server):
        await client.send(b"received")
        assert (await server.receive(exactly=8)).content == b"received"
        await client.send(b"unread")
        await until(lambda: server._flow.receiving.inbox.size)
        waiting = asyncio.create_task(server.receive(exactly=100))
        await turns()
        client.abort()
        with pytest.raises(ConnectionResetError) as caught:
            await waiting
        assert isinstance(caught.value, PeerResetError)
        assert (await server.receive()).content == b"unread"  # what came before stays receivable
        for _ in range(2):
            with pytest.raises(PeerResetError):
                await server.receive()
        with pytest.raises(PeerResetError):
            await server.send(b"x")
        assert server.state.value == "failed" and isinstance(server.error, PeerResetError)


async def test_everything_before_a_reset_is_received_however_much_it_is() -> None:
    """More than one read takes, and the reset is there before the first."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with NetworkConnection(listening.getsockname(), TCP()) as connection:
            await connection.ready()
            peer, _ = listening.accept()
            size = 60_000  # within the first window
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.sendall(bytes(size))
            peer.close()  # and the event loop has not run in between
            assert len((await connection.receive(exactly=size)).content) == size
            with pytest.raises(PeerResetError):
                await connection.receive()


async def test_sending_to_a_peer_that_reset(pair_over: Any) -> None:
    """A send notices the reset first: the kernel tells it once, and the reader must not take what follows for an end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with NetworkConnection(listening.getsockname(), TCP()) as connection:
            await connection.ready()
            peer, _ = listening.accept()
            peer.sendall(b"last words")
            await until(lambda: connection._flow.receiving.inbox.size)
            connection._flow.socket.pause()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            with pytest.raises(ConnectionResetError) as caught:  # noqa: PT012
                for _ in range(100):
                    await connection.send(b"x")
                    await asyncio.sleep(0.001)
            assert isinstance(caught.value, PeerResetError)
            connection._flow.socket.resume()
            assert (await connection.receive(exactly=10)).content == b"last words"
            with pytest.raises(PeerResetError):
                await connection.receive()


async def test_lost_data_are_told_at_the_close(pair_over: Any) -> None:
    async with pair_over("tcp", send_limit=20 * MEGABYTE) as (client, server):
        await client.send(bytes(20 * MEGABYTE))
        closing = asyncio.create_task(client.aclose())
        await turns()
        server.abort()
        with pytest.raises(PeerResetError):
            await closing


async def test_a_break_that_a_call_was_told_is_not_told_again(pair_over: Any) -> None:
    async with pair_over("tcp", send_limit=8 * MEGABYTE) as (client, server):
        await client.send(bytes(8 * MEGABYTE))
        server.abort()
        with pytest.raises(PeerResetError):  # noqa: PT012
            while True:
                await client.send(b"x")
        await client.aclose()


async def test_a_tls_stream_that_is_cut_short_did_not_end(pair_over: Any) -> None:
    async with pair_over("tls") as (client, server):
        await client.send(b"half")
        client._flow.socket.end()  # FIN without close_notify
        assert (await server.receive(exactly=4)).content == b"half"
        with pytest.raises(PeerResetError, match="close_notify"):
            await server.receive()


async def test_close_notify_is_a_clean_end() -> None:
    identity = Identity.self_signed("localhost")
    received: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(connection: NetworkConnection[Any]) -> None:
        received.put_nowait([content async for content, _ in connection])
        await connection.send(b"after your end", end_of_stream=True)

    def foreign(port: int) -> bytes:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        layer = context.wrap_bio(incoming, outgoing)
        answer = b""
        with socket.create_connection(("127.0.0.1", port)) as sock:

            def step(call: Any) -> Any:
                while True:
                    try:
                        result = call()
                    except ssl.SSLWantReadError:
                        result = None
                    if outgoing.pending:
                        sock.sendall(outgoing.read())
                    if result is not None:
                        return result
                    incoming.write(sock.recv(65536))

            step(lambda: layer.do_handshake() or True)
            step(lambda: layer.write(b"hello"))
            try:
                layer.unwrap()
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
            while data := sock.recv(65536):
                incoming.write(data)
                answer += data
        return answer

    async with NetworkListener(TLS(identity=identity), on="127.0.0.1:0").serving(handler) as listener:
        answer = await asyncio.to_thread(foreign, listener.port)
        assert await received.get() == [b"hello"]
        assert answer


async def test_try_next_endpoint_gives_up_what_the_first_peer_sent() -> None:
    if len({one[4][0] for one in socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)}) < 2:
        pytest.skip("localhost has one address here")

    async def greet(connection: NetworkConnection[Any], text: bytes) -> None:
        await connection.send(text, end_of_stream=True)
        await connection.receive(exactly=1)

    async with (
        NetworkListener(TCP(), on="[::1]:0").serving(lambda one: greet(one, b"wrong")) as first,
        NetworkListener(TCP(), on=f"127.0.0.1:{first.port}").serving(lambda one: greet(one, b"right")),
        NetworkConnection(("localhost", first.port), TCP()) as connection,
    ):
        await connection.ready()
        before = connection.remote_endpoint
        await until(lambda: connection._flow.receiving.inbox.ended)
        await connection.send(b"", end_of_stream=True)
        connection.try_next_endpoint()
        content = (await connection.receive(exactly=5)).content
        assert connection.remote_endpoint != before
        assert content in (b"right", b"wrong")
        assert (await connection.receive()).metadata.end_of_stream


# Leaks


async def test_dropping_an_unclosed_connection_warns_and_closes(pair: Any) -> None:
    async def handler(connection: NetworkConnection[Any]) -> None:
        with pytest.raises(PeerResetError):
            await connection.receive()

    async with NetworkListener(TCP(), on="127.0.0.1:0").serving(handler) as listener:
        connection = NetworkConnection(listener.endpoint, TCP())
        await connection.ready()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del connection
            gc.collect()
        assert [one.category for one in caught] == [ResourceWarning]
        assert "unclosed" in str(caught[0].message)


async def test_dropping_a_connection_that_was_never_started_is_silent() -> None:
    NetworkConnection("127.0.0.1:9", Parameters(TCP()))
    gc.collect()
