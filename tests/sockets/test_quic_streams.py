"""Streams of QUIC connections on real sockets."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest

from tieline import (
    TCP,
    ChannelClosedError,
    ConnectionAbortedByPeerError,
    Directionality,
    IncompleteReceiveError,
    Initiator,
    MessageTooLargeError,
    NetworkConnection,
    NetworkListener,
    Parameters,
    PeerResetError,
    QUICStream,
    State,
    UInt32,
)

from ..peers import until
from ..quic import client_of, collect, connected, echo_streams, gather, receive_for_ever, send_for_ever, server_of, take

ONE_WAY = Directionality.UNIDIRECTIONAL


async def opened(client: Any, server: Any, **options: Any) -> tuple[Any, Any, asyncio.Event]:
    """Both ends of one stream, which begins with one byte; and what ends the handler."""
    stream = await client.open_stream(**options)
    await stream.send(b"!")
    other, over = await take(server)
    assert (await other.receive(exactly=1)).content == b"!"
    return stream, other, over


# Many


async def test_a_thousand_at_once_without_a_task_for_each() -> None:
    count = 1000
    async with connected({"initial_max_bidirectional_streams": count}) as (client, server, _), gather(server, echo_of_all):
        streams = [await client.open_stream() for _ in range(count)]
        tasks = len(asyncio.all_tasks())
        assert tasks <= 4
        for number, stream in enumerate(streams):
            await stream.send(b"%d" % number)
        for number, stream in enumerate(streams):
            await stream.send(b".", end_of_stream=True)
            assert await collect(stream) == b"%d." % number
        assert len({stream.stream_id for stream in streams}) == count


async def test_both_sides_work_at_the_same_time() -> None:
    async with connected() as (client, server, _), gather(server, echo_of_all):
        streams = [await client.open_stream() for _ in range(50)]
        left = client._flow.session.connection.statistics().udp_datagrams_sent
        turns = 0

        def count_turn() -> None:
            nonlocal turns
            turns += 1

        asyncio.get_running_loop().call_soon(count_turn)
        for stream in streams:
            await stream.send(b"question")
        assert turns == 0  # all of that was one turn of the loop
        assert client._flow.session.connection.statistics().udp_datagrams_sent > left  # and the server has work already
        for stream in streams:
            await stream.send(b"?", end_of_stream=True)
            assert await collect(stream) == b"question?"


async def echo_of_all(stream: Any) -> None:
    await stream.send(await collect(stream), end_of_stream=True)


async def test_streams_that_are_done_leave_nothing_behind() -> None:
    async with connected() as (client, server, _), gather(server, echo_of_all):
        for number in range(300):  # more than the peer allows at once, so each must have been given back
            stream = await client.open_stream()
            await stream.send(b"%d" % number, end_of_stream=True)
            assert await collect(stream) == b"%d" % number
        for session in (client._flow.session, server._flow.session):
            await until(lambda session=session: not session.streams and not session.draining)  # type: ignore[misc]
        assert await collect(stream) == b""


async def test_streams_that_a_handler_leaves_unread_are_given_back() -> None:
    async def ignore(stream: Any) -> None:
        await stream.receive(exactly=1)

    async with connected({"initial_max_bidirectional_streams": 5}) as (client, server, _), gather(server, ignore):
        for _ in range(20):
            stream = await client.open_stream()
            await stream.send(bytes(10_000))  # and no end: the server's refusal to read is answered with a reset
        await until(lambda: not client._flow.session.streams)


# Numbers


async def test_directions_initiators_and_numbers() -> None:
    async with connected() as (client, server, _):
        seen: list[Any] = []

        async def note(stream: Any) -> None:
            seen.append(stream)

        async with gather(server, note), gather(client, note):
            for connection, initiator in ((client, Initiator.CLIENT), (server, Initiator.SERVER)):
                for directionality, kind in ((Directionality.BIDIRECTIONAL, 0), (ONE_WAY, 2)):
                    for number in range(2):
                        stream = await connection.open_stream(directionality=directionality)
                        assert stream.stream_id == 4 * number + kind + (initiator is Initiator.SERVER)
                        assert (stream.directionality, stream.initiator) == (directionality, initiator)
                        assert stream.parent is connection and stream.state is State.READY and stream.error is None
                        await stream.send(b"x", end_of_stream=True)
            await until(lambda: len(seen) == 8)
        assert sorted(stream.stream_id for stream in seen) == list(range(8))
        for stream in seen:
            assert stream.parent is (server if stream.initiator is Initiator.CLIENT else client)
        assert len({stream.id for stream in seen}) == len({hash(stream) for stream in seen}) == 8


async def test_one_way() -> None:
    async with connected() as (client, server, _):
        stream, other, over = await opened(client, server, directionality=ONE_WAY)
        assert (await stream.receive()) == (b"", stream_end())
        with pytest.raises(ChannelClosedError, match="one direction") as raised:
            await other.send(b"x")
        assert "end_of_stream" not in str(raised.value)
        await stream.send(b"all", end_of_stream=True)
        assert await collect(other) == b"all"
        await stream.reset(5)
        stream.stop_sending(6)
        over.set()


def stream_end() -> Any:
    from tieline import StreamMetadata

    return StreamMetadata(end_of_stream=True)


async def test_a_stream_is_no_connection() -> None:
    async with connected() as (client, _, _):
        stream = await client.open_stream()
        assert "QUICStreamChannel" in repr(stream) and str(client.remote_endpoint) in repr(stream)
        for name in ("send", "receive", "send_many", "receive_many"):
            with pytest.raises(TypeError, match=r"QUIC: .*open_stream\(\), inbound_streams\(\) and datagrams\(\)"):
                await getattr(client, name)(*[b"x"] * name.startswith("send"))
        with pytest.raises(TypeError):
            aiter(client)
        with pytest.raises(TypeError, match=r"QUIC stream: it has no send_many"):
            stream.send_many([b"x"])
        with pytest.raises(TypeError, match=r"ends in QUICStream\(\), got TCP"):
            await client.open_stream(using=TCP())
        with pytest.raises(TypeError, match=r"ends in QUICStream\(\), got TCP"):
            await client.inbound_streams(collect, using=TCP())
        tcp = NetworkConnection("127.0.0.1:9", TCP())
        for name in ("open_stream", "datagrams"):
            with pytest.raises(TypeError, match=f"TCP: it has no {name}"):
                await getattr(tcp, name)()


# Sending and receiving


async def test_every_form_of_receive() -> None:
    async with connected() as (client, server, _):
        stream, other, over = await opened(client, server)
        await stream.send(b"12345" + bytes(UInt32(77)) + b"line\nrest", end_of_stream=True)
        assert (await other.receive(exactly=5)).content == b"12345"
        assert (await other.receive(as_=UInt32)).content == 77
        assert (await other.receive(until=b"\n")).content == b"line\n"
        buffer = bytearray(2)
        assert await other.receive_into(buffer, exactly=True) == 2 and buffer == b"re"
        assert (await other.receive(at_least=2, at_most=2)).content == b"st"
        assert (await other.receive()).metadata.end_of_stream
        with pytest.raises(IncompleteReceiveError):
            await other.receive(exactly=1)
        assert await collect(other) == b""
        over.set()


async def test_half_close_both_ways() -> None:
    async with connected() as (client, server, _):
        stream, other, over = await opened(client, server)
        await stream.send(b"question", end_of_stream=True)
        assert await collect(other) == b"question"
        with pytest.raises(ChannelClosedError, match="after the end of the stream"):
            await stream.send(b"more")
        await other.send(b"answer")
        assert (await stream.receive(exactly=6)).content == b"answer"
        await other.send(b"", end_of_stream=True)
        assert (await stream.receive()).metadata.end_of_stream
        over.set()


async def test_files_idempotent_bytes_and_integers(tmp_path: Any) -> None:
    content = bytes(range(256)) * 4000
    path = tmp_path / "file"
    path.write_bytes(content)
    async with connected() as (client, server, _), gather(server, echo_of_all):
        stream = await client.open_stream()
        await stream.send(UInt32(1))
        stream.send_idempotent(b"once")
        with path.open("rb") as file:
            reading = asyncio.create_task(collect(stream))
            assert await stream.send_file(file, 10, 900_000) == 900_000
        await stream.send(b"", end_of_stream=True)
        assert await reading == bytes(UInt32(1)) + b"once" + content[10:900_010]


async def test_a_separator_that_does_not_come() -> None:
    async with connected() as (client, server, _):
        stream, other, over = await opened(client, server)
        await stream.send(bytes(100))
        with pytest.raises(MessageTooLargeError):
            await other.receive(until=b"\n", at_most=50)
        assert (await other.receive(exactly=100)).content == bytes(100)
        over.set()


async def test_credit_follows_the_reader() -> None:
    """What a sender gets rid of without a reader is bounded by the windows and the limits of both sides."""
    limit, window = 20_000, 50_000
    async with connected({"initial_max_stream_data": window}, parameters={"send_limit": limit, "receive_limit": limit}) as ends:
        client, server, _ = ends
        stream, other, over = await opened(client, server)
        sent = 0

        async def send() -> None:
            nonlocal sent
            while True:
                await stream.send(bytes(1000))
                sent += 1000

        sending = asyncio.create_task(send())
        await settled(lambda: sent)
        assert window - 1000 <= sent <= 2 * window + 2 * limit + 1000
        assert other._flow.receiving.inbox.size <= window + limit
        before = sent
        await other.receive(exactly=sent)
        await settled(lambda: sent)
        assert sent >= before + window - 1000
        sending.cancel()
        over.set()


async def settled(value: Any) -> None:
    """Until it has not changed for a while."""
    before, calm = value(), 0
    while calm < 10:
        await asyncio.sleep(0.005)
        before, calm = value(), calm + 1 if value() == before else 0


async def test_a_reader_that_pauses_does_not_stop_the_others() -> None:
    async with connected({"initial_max_stream_data": 10_000}, parameters={"receive_limit": 5000, "send_limit": 5000}) as ends:
        client, server, _ = ends
        over = asyncio.Event()

        async def handler(stream: Any) -> None:
            if (await stream.receive(exactly=1)).content == b"p":
                await over.wait()
            else:
                await stream.send(b"%d" % len(await collect(stream)), end_of_stream=True)

        async with gather(server, handler):
            paused = await client.open_stream()
            stuck = asyncio.create_task(paused.send(b"p" + bytes(200_000)))
            stream = await client.open_stream()
            await stream.send(b"g" + bytes(200_000), end_of_stream=True)
            assert await collect(stream) == b"200000"
            assert not stuck.done()
            over.set()
            with pytest.raises(PeerResetError):
                await stuck


async def test_the_windows_are_those_of_the_options() -> None:
    """All streams together stay within `initial_max_data`."""
    window = 100_000
    async with connected({"initial_max_data": window}, parameters={"send_limit": 1, "receive_limit": 1}) as (client, server, _):
        over = asyncio.Event()

        async def wait(_: object) -> None:
            await over.wait()

        async with gather(server, wait):
            streams = [await client.open_stream() for _ in range(10)]
            sending = [asyncio.create_task(stream.send(bytes(60_000))) for stream in streams]
            await settled(lambda: sum(task.done() for task in sending))
            received = sum(stream._flow.receiving.count + stream._flow.receiving.inbox.size for stream in server_streams(server))
            assert received <= window * 2
            for task in sending:
                task.cancel()
            over.set()


def server_streams(server: Any) -> list[Any]:
    return [type("S", (), {"_flow": socket.handler}) for socket in server._flow.session.streams.values()]


# Opening


async def test_opening_waits_at_the_peers_limit_in_order() -> None:
    async with connected({"initial_max_bidirectional_streams": 2}) as (client, server, _):
        release = asyncio.Semaphore(0)

        async def handler(stream: Any) -> None:
            await release.acquire()

        async with gather(server, handler):
            order: list[int] = []

            async def open_one(number: int) -> Any:
                stream = await client.open_stream()
                order.append(number)
                await stream.send(b"x", end_of_stream=True)
                return stream

            first = [await open_one(number) for number in range(2)]
            waiting = [asyncio.create_task(open_one(number)) for number in range(2, 8)]
            one_way = await client.open_stream(directionality=ONE_WAY)
            assert one_way.stream_id == 2  # a limit for each kind
            await settled(lambda: len(order))
            assert order == [0, 1] and client.remote_max_streams_bidirectional == 2
            waiting[1].cancel()  # in the middle
            waiting[0].cancel()  # and the first
            await asyncio.wait(waiting[:2])
            for count in range(3, 7):
                release.release()
                await until(lambda count=count: len(order) == count)  # type: ignore[misc]
            assert order == [0, 1, 4, 5, 6, 7]
            streams = first + [await task for task in waiting[2:]]
            assert [stream.stream_id for stream in streams] == [0, 4, 8, 12, 16, 20]  # nothing was lost
            for _ in range(6):
                release.release()


async def test_a_cancelled_opener_whose_turn_it_was_passes_it_on() -> None:
    async with connected({"initial_max_bidirectional_streams": 1}) as (client, server, _), gather(server, echo_of_all):
        stream = await client.open_stream()
        waiting = [asyncio.create_task(client.open_stream()) for _ in range(3)]
        await asyncio.sleep(0)
        session = client._flow.session
        wake = session._let_open

        def wake_and_cancel(bidirectional: bool) -> None:
            session._let_open = wake
            wake(bidirectional)
            waiting[0].cancel()

        session._let_open = wake_and_cancel
        await stream.send(b"x", end_of_stream=True)
        assert await collect(stream) == b"x"
        second = await waiting[1]
        assert waiting[0].cancelled() and second.stream_id == 4
        await second.send(b"", end_of_stream=True)
        await collect(second)
        assert (await waiting[2]).stream_id == 8


async def test_opening_ends_with_the_connection() -> None:
    for how in ("peer", "abort", "close"):
        async with connected({"initial_max_bidirectional_streams": 1}) as (client, server, _):
            await client.open_stream()
            waiting = [asyncio.create_task(client.open_stream()) for _ in range(2)]
            await asyncio.sleep(0.01)
            if how == "peer":
                server.abort()
            elif how == "abort":
                client.abort()
            else:
                await client.aclose()
            for task in waiting:
                with pytest.raises(ConnectionAbortedByPeerError if how == "peer" else ChannelClosedError):
                    await task
            with pytest.raises(ConnectionAbortedByPeerError if how == "peer" else ChannelClosedError):
                await client.open_stream()


async def test_opening_starts_the_connection() -> None:
    async with NetworkListener(server_of(), on="127.0.0.1:0").serving(echo_streams) as listener:
        connection = NetworkConnection(listener.endpoint, client_of())
        stream = await connection.open_stream()
        assert connection.state is State.READY
        await stream.send(b"x", end_of_stream=True)
        assert await collect(stream) == b"x"
        await connection.aclose()


# Breaking off


async def test_reset_tells_the_code_and_leaves_the_other_direction() -> None:
    async with connected() as (client, server, _):
        stream, other, over = await opened(client, server)
        assert stream.application_error_code == other.application_error_code == 0
        await stream.send(bytes(10_000))
        await stream.reset(77)
        assert stream.application_error_code == 77
        with pytest.raises(ChannelClosedError):
            await stream.send(b"x")
        with pytest.raises(PeerResetError, match="code 77") as raised:
            await receive_for_ever(other)
        assert raised.value.code == 77 and raised.value.errno is None and raised.value.endpoint == server.remote_endpoint
        assert other.application_error_code == 77
        await other.send(b"still here")
        assert (await stream.receive(exactly=10)).content == b"still here"
        await other.send(b"", end_of_stream=True)
        assert await collect(stream) == b""
        assert stream.state is other.state is State.READY
        over.set()


async def test_a_reset_wakes_those_who_wait() -> None:
    async with connected() as (client, server, _):
        stream, other, over = await opened(client, server)
        receiving = asyncio.create_task(other.receive())
        iterating = asyncio.create_task(collect(other))
        await asyncio.sleep(0)
        stream.application_error_code = 3
        await stream.reset()
        for task in (receiving, iterating):
            with pytest.raises(PeerResetError, match="code 3"):
                await task
        over.set()


async def test_reset_drops_what_waits_to_be_sent() -> None:
    async with connected({"initial_max_stream_data": 1000}) as (client, server, _):
        stream, _, over = await opened(client, server)
        sending = asyncio.create_task(stream.send(bytes(2_000_000)))
        await asyncio.sleep(0.01)
        await stream.reset(1)
        with pytest.raises(ChannelClosedError):
            await sending
        await stream.aclose()  # and it is over at once
        over.set()


async def test_stop_sending_tells_the_code_and_leaves_the_other_direction() -> None:
    async with connected({"initial_max_stream_data": 10_000}) as (client, server, _):
        stream, other, over = await opened(client, server)
        sending = asyncio.create_task(stream.send(bytes(2_000_000)))
        await asyncio.sleep(0.01)
        other.stop_sending(99)
        with pytest.raises(ChannelClosedError):
            await other.receive()
        with pytest.raises(PeerResetError, match="STOP_SENDING with code 99") as raised:
            await sending
        assert raised.value.code == stream.application_error_code == 99
        for _ in range(2):
            with pytest.raises(PeerResetError, match="STOP_SENDING with code 99"):
                await stream.send(b"x")
        await other.send(b"back", end_of_stream=True)
        assert await collect(stream) == b"back"
        over.set()


async def test_stop_sending_is_told_at_the_next_send() -> None:
    async with connected() as (client, server, _):
        stream, other, over = await opened(client, server)
        other.stop_sending(2**62 - 1)
        await until(lambda: stream.application_error_code == 2**62 - 1)
        with pytest.raises(PeerResetError, match="STOP_SENDING"):
            await stream.send(b"x")
        over.set()


async def test_codes_are_checked() -> None:
    async with connected() as (client, _, _):
        stream = await client.open_stream()
        for code in (-1, 2**62, "1"):
            for call in (stream.reset, stream.stop_sending):
                with pytest.raises((ValueError, TypeError), match="application_error_code"):
                    await call(code)
            with pytest.raises((ValueError, TypeError), match="application_error_code"):
                stream.application_error_code = code
        assert stream.application_error_code == 0


async def test_priorities() -> None:
    """With a window that is full, what has the higher priority comes first."""
    async with connected({"initial_max_stream_data": 2_000_000}) as (client, server, _):
        order: list[int] = []

        async def handler(stream: Any) -> None:
            await collect(stream)
            order.append(stream.stream_id)

        async with gather(server, handler):
            streams = [await client.open_stream(directionality=ONE_WAY) for _ in range(4)]
            for priority, stream in zip((-5, 1, 0, 2**31 - 1), streams, strict=True):
                assert stream.priority == 0
                stream.priority = priority
                assert stream.priority == priority
            # Nothing leaves before the loop's next turn, and then in order of priority.
            for stream in streams:
                sent = asyncio.ensure_future(stream.send(bytes(200_000), end_of_stream=True))
                await asyncio.sleep(0) if sent.done() else None
            await until(lambda: len(order) == 4)
            assert order.index(14) < order.index(2)
            for wrong in (2**31, "1"):
                with pytest.raises((ValueError, TypeError), match="priority"):
                    streams[0].priority = wrong


# Handlers


async def test_a_handler_that_returns_ends_and_stops_its_stream() -> None:
    async def handler(stream: Any) -> None:
        await stream.receive(exactly=1)
        await stream.send(b"enough")

    async with connected() as (client, server, _), gather(server, handler):
        stream = await client.open_stream()
        await stream.send(bytes(100_000))
        assert await collect(stream) == b"enough"
        with pytest.raises(PeerResetError, match="STOP_SENDING with code 0"):
            await send_for_ever(stream)


async def test_a_handler_that_returns_with_unread_input_returns_at_once() -> None:
    done = asyncio.Event()

    async def handler(stream: Any) -> None:
        await until(lambda: stream._flow.receiving.inbox.size > 100_000)
        done.set()

    async with connected() as (client, server, _), gather(server, handler):
        stream = await client.open_stream()
        await stream.send(bytes(150_000))
        await done.wait()
        async with asyncio.timeout(1):
            assert await collect(stream) == b""


async def test_a_handler_that_raises_resets_its_stream_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(stream: Any) -> None:
        command = await collect(stream) if stream.stream_id else (await stream.receive(exactly=1)).content
        if command == b"raise":
            stream.application_error_code = 12
            raise ValueError("of the handler")
        await stream.send(command, end_of_stream=True)

    with caplog.at_level(logging.INFO):
        async with connected() as (client, server, _), gather(server, handler):
            sibling = await client.open_stream()
            await sibling.send(b"")
            bad = await client.open_stream()
            await bad.send(b"raise", end_of_stream=True)
            with pytest.raises(PeerResetError) as raised:
                await bad.receive()
            assert raised.value.code == bad.application_error_code == 12
            await sibling.send(b"7", end_of_stream=True)
            assert await collect(sibling) == b"7"
    [record] = [one for one in caplog.records if one.name == "tieline.connection"]
    assert record.levelno == logging.ERROR and record.exc_info and "stream 4 of" in record.getMessage()


async def test_the_networks_errors_in_handlers_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(stream: Any) -> None:
        async with asyncio.TaskGroup() as tasks:  # which wraps it
            tasks.create_task(collect(stream))

    async def other(stream: Any) -> None:
        async with NetworkConnection("127.0.0.1:1", TCP()) as connection:
            await connection.ready()  # an error of another connection is the handler's

    for how, level in ((handler, logging.INFO), (other, logging.ERROR)):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            async with connected() as (client, server, _), gather(server, how):
                stream = await client.open_stream()
                await stream.send(b"x")
                await stream.reset(9)
                await until(lambda: bool([one for one in caplog.records if one.name == "tieline.connection"]))
                gc.collect()
        [record] = [one for one in caplog.records if one.name == "tieline.connection"]
        assert record.levelno == level and bool(record.exc_info) is (level == logging.ERROR)


async def test_inbound_streams_runs_once() -> None:
    async with connected() as (client, server, _), gather(server, echo_of_all):
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="runs once"):
            await server.inbound_streams(echo_of_all)
        stream = await client.open_stream()
        await stream.send(b"x", end_of_stream=True)
        assert await collect(stream) == b"x"


async def test_inbound_streams_may_be_called_again_after_it_could_not_begin() -> None:
    async with connected() as (_, _, listener):
        port = listener.port
    connection = NetworkConnection(("127.0.0.1", port), client_of())
    with pytest.raises(ConnectionRefusedError):
        await connection.inbound_streams(echo_of_all)
    with pytest.raises(ConnectionRefusedError):
        await connection.inbound_streams(echo_of_all)
    await connection.aclose()


async def test_cancelling_inbound_streams_cancels_the_handlers_and_waits_for_them() -> None:
    ended: list[int] = []

    async def handler(stream: Any) -> None:
        try:
            await stream.receive(exactly=1)
            await stream.receive()
        finally:
            await asyncio.sleep(0.01)
            ended.append(stream.stream_id)

    async with connected() as (client, server, _):
        serving = asyncio.create_task(server.inbound_streams(handler))
        streams = [await client.open_stream() for _ in range(3)]
        for stream in streams:
            stream.application_error_code = 1
            await stream.send(b"x")
        await until(lambda: len(server._flow.session.streams) == 3)
        await asyncio.sleep(0.01)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert sorted(ended) == [0, 4, 8]
        for stream in streams:
            with pytest.raises(PeerResetError, match="code 0"):
                await stream.receive()
        assert server.state is State.READY


async def test_streams_that_came_before_inbound_streams_was_called() -> None:
    async with connected() as (client, server, _):
        contents = [bytes([number]) * 1000 for number in range(5)]
        for content in contents:
            stream = await client.open_stream(directionality=ONE_WAY)
            await stream.send(content, end_of_stream=True)
        await until(lambda: not client._flow.session.draining)
        received: list[bytes] = []

        async def handler(stream: Any) -> None:
            received.append(await collect(stream))

        async with gather(server, handler):
            await until(lambda: len(received) == 5)
        assert received == contents


async def test_limits_are_those_of_the_connection_unless_the_stream_has_its_own() -> None:
    async with connected(parameters={"send_limit": 1111, "receive_limit": 2222, "close_timeout": 3.0}) as (client, server, _):
        stream = await client.open_stream()
        assert (stream.parameters.send_limit, stream.parameters.receive_limit) == (1111, 2222)
        assert stream.parameters.close_timeout == 3.0 and isinstance(stream.parameters.stack, QUICStream)
        own = await client.open_stream(using=Parameters(QUICStream(), send_limit=5))
        assert (own.parameters.send_limit, own.parameters.receive_limit) == (5, 256 * 1024)
        await stream.send(b"x")
        other, over = await take(server, using=QUICStream())
        assert other.parameters.receive_limit == 2222
        over.set()


# Ends


async def test_the_block_ends_a_stream_like_a_connection() -> None:
    async with connected() as (client, server, _):
        results: asyncio.Queue[Any] = asyncio.Queue()

        async def handler(stream: Any) -> None:
            try:
                results.put_nowait(await collect(stream))
            except PeerResetError as error:
                results.put_nowait(error.code)

        async with gather(server, handler):
            async with await client.open_stream() as stream:
                await stream.send(b"all of it")
            assert await results.get() == b"all of it" and stream.state is State.CANCELLED
            stream = await client.open_stream()
            with pytest.raises(KeyError):
                await raise_in(stream)
            assert await results.get() == 4 and stream.state is State.CANCELLED
            await stream.aclose()
            stream.abort()


async def raise_in(stream: Any) -> None:
    async with stream:
        await stream.send(b"some")
        stream.application_error_code = 4
        raise KeyError


async def test_calls_after_the_end() -> None:
    async with connected() as (client, _, _):
        stream = await client.open_stream()
        await stream.aclose()
        for call in (stream.send(b"x"), stream.receive(), stream.receive_into(bytearray(1)), stream.receive(until=b"x")):
            with pytest.raises(ChannelClosedError, match="closed by this side"):
                await call
        with pytest.raises(ChannelClosedError):
            stream.send_idempotent(b"x")
        with pytest.raises(ChannelClosedError):
            await anext(aiter(stream))
        await stream.reset(1)
        stream.stop_sending(1)
        assert stream.priority == 0 and stream.stream_id == 0


async def test_dropping_a_reference_does_nothing() -> None:
    async with connected() as (client, server, _):
        received: asyncio.Queue[bytes] = asyncio.Queue()

        async def handler(stream: Any) -> None:
            received.put_nowait(await collect(stream))

        async with gather(server, handler):
            stream = await client.open_stream()
            await stream.send(bytes(400_000))
            identifier = stream.stream_id
            del stream
            gc.collect()
            stream = await client.open_stream(directionality=ONE_WAY)
            await stream.send(bytes(3_000_000), end_of_stream=True)  # most of it is still to go
            del stream
            gc.collect()
            assert len(await received.get()) == 3_000_000
            assert identifier in client._flow.session.streams


async def test_what_the_peer_sends_on_a_dropped_stream_costs_no_more_than_the_window() -> None:
    async with connected({}, {"initial_max_stream_data": 10_000}, parameters={"receive_limit": 1000}) as (client, server, _):
        stream = await client.open_stream()
        await stream.send(b"!")
        other, over = await take(server)
        del stream
        gc.collect()
        sending = asyncio.create_task(other.send(bytes(1_000_000)))
        await asyncio.sleep(0.05)
        assert not sending.done()
        sending.cancel()
        over.set()


async def test_connection_loss_reaches_every_stream() -> None:
    async with connected() as (client, server, _):
        stream, other, over = await opened(client, server)
        idle = await client.open_stream()
        receiving = asyncio.create_task(stream.receive())
        await asyncio.sleep(0)
        server.abort()
        with pytest.raises(ConnectionAbortedByPeerError, match="with code 0"):
            await receiving
        assert stream.state is idle.state is State.FAILED and isinstance(idle.error, ConnectionAbortedByPeerError)
        assert stream.application_error_code == 0
        for call in (stream.receive(), idle.send(b"x"), idle.receive()):
            with pytest.raises(ConnectionAbortedByPeerError):
                await call
        assert other.state is State.CANCELLED and other.error is None  # its side has closed the connection
        with pytest.raises(ChannelClosedError):
            await other.receive()
        await stream.aclose()
        over.set()


async def test_what_had_come_can_be_read_after_the_connections_end() -> None:
    content = bytes(range(256)) * 2000
    async with connected(parameters={"receive_limit": 1000}) as (client, server, _):
        stream, other, over = await opened(client, server)
        await stream.send(content, end_of_stream=True)
        await client.aclose()
        await until(lambda: server.state is State.CANCELLED)
        assert await collect(other) == content
        over.set()


async def test_streams_that_nobody_had_taken_can_be_taken_after_the_connections_end() -> None:
    async with connected() as (client, server, _):
        for number in range(5):
            stream = await client.open_stream(directionality=ONE_WAY)
            await stream.send(bytes([number]) * 100_000, end_of_stream=True)
        await client.aclose()
        await until(lambda: server.state is State.CANCELLED)
        received: list[bytes] = []

        async def handler(stream: Any) -> None:
            received.append(await collect(stream))

        await server.inbound_streams(handler)
        assert received == [bytes([number]) * 100_000 for number in range(5)]


async def test_several_tasks_may_close_one_stream() -> None:
    async with connected({"initial_max_stream_data": 10_000}, parameters={"receive_limit": 1000}) as (client, server, _):
        stream, other, over = await opened(client, server)
        await stream.send(bytes(100_000))
        closing = [asyncio.create_task(stream.aclose()) for _ in range(3)]
        await asyncio.sleep(0.01)
        closing[1].cancel()
        await asyncio.wait(closing[1:2])
        assert not closing[0].done() and not closing[2].done()
        assert len(await collect(other)) == 100_000
        async with asyncio.timeout(1):
            await closing[0]
            await closing[2]
        assert stream.state is State.CANCELLED
        over.set()
