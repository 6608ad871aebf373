"""A call of a stream is no coroutine of Python's, and is to behave like one wherever a program could tell."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import threading
import weakref
from collections.abc import Awaitable, Coroutine, Generator

import pytest

from tieline import TCP, ChannelClosedError, EndOfStreamError, HostPort, NetworkConnection, NetworkListener, UInt16
from tieline._engine.stream import Waiters

from .conftest import Pair


async def test_it_is_what_a_coroutine_is(pair: Pair) -> None:
    async with pair() as (client, server):
        for call in (client.send(b"x"), server.receive(), server.receive_into(bytearray(1))):
            assert isinstance(call, Coroutine) and isinstance(call, Awaitable) and asyncio.iscoroutine(call)
            assert not asyncio.isfuture(call)
            call.close()


async def test_tasks_gather_and_time_limits_take_it(pair: Pair) -> None:
    async with pair() as (client, server):
        first, second = await asyncio.gather(server.receive(exactly=1), client.send(b"ab"))
        assert first.content == b"a" and second is None
        task = asyncio.create_task(server.receive(exactly=2), name="mine")
        assert "receive" in repr(task)
        await client.send(b"c")
        assert (await task).content == b"bc"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(server.receive(), 0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await server.receive()
        await client.send(b"d")
        assert (await server.receive()).content == b"d"


async def test_one_that_is_never_awaited_warns_and_does_nothing(pair: Pair) -> None:
    async with pair() as (client, server):
        with pytest.warns(RuntimeWarning, match="coroutine 'send' was never awaited"):
            client.send(b"never")  # type: ignore[unused-coroutine]
        with pytest.warns(RuntimeWarning, match="coroutine 'receive' was never awaited"):
            server.receive()  # type: ignore[unused-coroutine]
        await client.send(b"sent")
        assert (await server.receive()).content == b"sent"


async def test_it_is_awaited_once(pair: Pair) -> None:
    async with pair() as (client, server):
        call = client.send(b"x")
        await call
        with pytest.raises(RuntimeError, match="already awaited"):
            await call
        waiting = server.receive()
        assert (await waiting).content == b"x"
        with pytest.raises(RuntimeError, match="already awaited"):
            await waiting


async def test_cancelled_before_it_has_begun_it_has_done_nothing(pair: Pair) -> None:
    async with pair() as (client, server):
        for call in (client.send(b"never"), server.receive()):
            task = asyncio.create_task(call)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await client.send(b"sent")
        assert (await server.receive()).content == b"sent"


async def test_closed_while_it_waits_it_leaves_the_queue(pair: Pair) -> None:
    async with pair() as (client, server):
        call = server.receive(exactly=100)
        assert call.send(None) is not None
        behind = asyncio.create_task(server.receive(exactly=2))
        await asyncio.sleep(0)
        await client.send(b"ab")
        call.close()
        assert (await behind).content == b"ab"


async def test_what_is_thrown_into_it_comes_out(pair: Pair) -> None:
    async with pair() as (_, server):
        for thrown in (KeyError("key"), KeyError):
            call = server.receive()
            call.send(None)
            with pytest.raises(KeyError):
                call.throw(thrown)
        assert not server._flow.receiving.has_calls


async def test_what_was_cancelled_while_it_waited_keeps_nothing() -> None:
    class Marked:
        pass

    async def wait(connection: NetworkConnection[TCP], marked: Marked) -> None:
        await connection.receive()

    listener = NetworkListener(TCP(), on="127.0.0.1:0")
    async with listener.serving(lambda _: asyncio.Event().wait()):
        connection = NetworkConnection(listener.endpoint, TCP())
        marked = Marked()
        seen = weakref.ref(marked)
        waiting = wait(connection, marked)
        del marked
        task = asyncio.create_task(waiting)
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        await connection.aclose()
        del waiting, task, connection
        gc.collect()
        assert seen() is None


async def test_a_call_and_its_arguments_are_not_kept(pair: Pair) -> None:
    async with pair() as (client, server):
        content = b"x" * 1000
        before = sys.getrefcount(content)
        for _ in range(10):
            await client.send(content)
            assert (await server.receive(exactly=1000)).content == content
        assert sys.getrefcount(content) == before
        assert (await asyncio.gather(server.receive(as_=UInt16), client.send(UInt16(7))))[0].content == 7


async def test_iterating_is_a_call_for_each_piece(pair: Pair) -> None:
    async with pair() as (client, server):
        await client.send(b"one")
        iterator = aiter(server)
        assert (await anext(iterator)).content == b"one"
        await client.send(b"two", end_of_stream=True)
        assert [message.content async for message in server] == [b"two"]
        with pytest.raises(StopAsyncIteration):
            await anext(iterator)


async def test_arguments_that_no_call_has(pair: Pair) -> None:
    async with pair() as (client, _):
        with pytest.raises(TypeError, match=r": send\(\) has no metadata=\. Its calls: send\(data, end_of_stream=\)"):
            await client.send(b"x", metadata=1)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="bogus"):
            await client.receive(bogus=1)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match=r": receive\(\) takes one of its forms"):
            await client.receive(exactly=1, until=b"x")  # type: ignore[call-overload]


async def test_after_the_close_each_call_says_so(pair: Pair) -> None:
    async with pair() as (client, server):
        await client.aclose()
        for call in (client.send(b"x"), client.receive()):
            with pytest.raises(ChannelClosedError):
                await call
        assert (await server.receive()).metadata.end_of_stream


def test_a_waiter_is_a_future_of_its_loop() -> None:
    loop = asyncio.new_event_loop()
    try:
        waiter = Waiters(loop)()
        assert asyncio.isfuture(waiter) and waiter._loop is loop and not waiter.done()
        waiter.set_result(None)
        assert waiter.done() and not waiter.cancel()
        for complete in (lambda: waiter.set_result(None), lambda: waiter.set_exception(OSError())):
            with pytest.raises(asyncio.InvalidStateError):
                complete()

        async def await_it(raised: BaseException | None) -> None:
            one = Waiters(loop)()
            if raised is None:
                loop.call_soon(one.resume)
            else:
                loop.call_soon(one.set_exception, raised)
            await one

        loop.run_until_complete(await_it(None))
        with pytest.raises(EndOfStreamError):
            loop.run_until_complete(await_it(EndOfStreamError("the end")))

        class Late:
            """Completed when its task has it and has not said yet by what it wants to be told."""

            def __await__(self) -> Generator[object, None, str]:
                one = Waiters(loop)()
                asked = next(iter(one.__await__()))
                one.set_result(None)
                yield asked
                return "told"

        async def late() -> str:
            return await asyncio.wait_for(Late(), 10)

        assert loop.run_until_complete(late()) == "told"
        cancelled = Waiters(loop)()
        assert cancelled.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            cancelled.result()
    finally:
        loop.close()


def test_a_connection_may_be_made_here_and_used_in_another_thread() -> None:
    received: list[bytes] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        await writer.drain()
        writer.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        connection = NetworkConnection(HostPort(*listening.getsockname()), TCP())

        async def main() -> None:
            nonlocal connection
            async with await asyncio.start_server(echo, sock=listening), connection:
                await connection.send(b"hello")
                received.append((await connection.receive(exactly=5)).content)
            del connection
            gc.collect()

        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        thread.join()
    assert received == [b"hello"]
