"""WebSocket: echo, and messages one way, without compression. Each library as its documentation writes it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import picows
import websockets
from aiohttp import web

from benchmarks.workloads import Client, Ready, Server
from tieline import TCP, NetworkConnection, NetworkListener, WebSocket

END = b"end"  # after it, the receiver of messages one way tells how many came
LARGEST = 2**24

# Tieline


async def tieline_serve(handler: Any, ready: Ready) -> None:
    async with NetworkListener(WebSocket(), on="127.0.0.1:0").serving(handler) as listener:
        ready(listener.port)
        await asyncio.Event().wait()


async def tieline_echo(tls: bool, ready: Ready) -> None:
    async def echo(connection: NetworkConnection[WebSocket]) -> None:
        async for content, _ in connection:
            await connection.send(content)

    await tieline_serve(echo, ready)


async def tieline_count(tls: bool, ready: Ready) -> None:
    async def count(connection: NetworkConnection[WebSocket]) -> None:
        messages = 0
        async for content, _ in connection:
            if content == END:
                break
            messages += 1
        await connection.send(str(messages))

    await tieline_serve(count, ready)


async def tieline_ping(tls: bool, port: int, size: int, count: int) -> float:
    message = bytes(size)
    async with NetworkConnection(f"ws://127.0.0.1:{port}/", WebSocket(TCP())) as connection:
        await connection.ready()
        begun = time.perf_counter()
        for _ in range(count):
            await connection.send(message)
            await connection.receive()
        return count / (time.perf_counter() - begun)


async def tieline_pour(tls: bool, port: int, size: int, count: int) -> float:
    message = bytes(size)
    async with NetworkConnection(f"ws://127.0.0.1:{port}/", WebSocket()) as connection:
        await connection.ready()
        begun = time.perf_counter()
        for _ in range(count):
            await connection.send(message)
        await connection.send(END)
        content, _ = await connection.receive()
        assert int(content) == count
        return count / (time.perf_counter() - begun)


# picows: callbacks


class Echo(picows.WSListener):
    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type == picows.WSMsgType.CLOSE:
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_bytes())


class Count(picows.WSListener):
    messages = 0

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        content = frame.get_payload_as_bytes()
        if content == END:
            transport.send(picows.WSMsgType.TEXT, str(self.messages).encode())
        self.messages += 1


class Pings(picows.WSListener):
    """Sends a message, and the next when it is back."""

    def __init__(self, size: int, count: int) -> None:
        self.message = bytes(size)
        self.left = count
        self.done = asyncio.get_running_loop().create_future()

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        self.answer = frame.get_payload_as_bytes()
        self.left -= 1
        if self.left:
            transport.send(picows.WSMsgType.BINARY, self.message)
        else:
            self.done.set_result(None)


async def picows_serve(listener: type[picows.WSListener], ready: Ready) -> None:
    server = await picows.ws_create_server(lambda _: listener(), "127.0.0.1", 0, max_frame_size=LARGEST)
    ready(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def picows_echo(tls: bool, ready: Ready) -> None:
    await picows_serve(Echo, ready)


async def picows_count(tls: bool, ready: Ready) -> None:
    await picows_serve(Count, ready)


async def picows_ping(tls: bool, port: int, size: int, count: int) -> float:
    url = f"ws://127.0.0.1:{port}/"
    transport, pings = await picows.ws_connect(lambda: Pings(size, count), url, max_frame_size=LARGEST)
    begun = time.perf_counter()
    transport.send(picows.WSMsgType.BINARY, pings.message)
    await pings.done
    speed = count / (time.perf_counter() - begun)
    transport.disconnect()
    return speed


async def picows_pour(tls: bool, port: int, size: int, count: int) -> float:
    transport, pings = await picows.ws_connect(lambda: Pings(size, 1), f"ws://127.0.0.1:{port}/")
    message = pings.message
    begun = time.perf_counter()
    for number in range(count):
        transport.send(picows.WSMsgType.BINARY, message)
        if number % 100 == 0:
            await asyncio.sleep(0)  # it has no flow control to wait for: this lets its buffer drain
    transport.send(picows.WSMsgType.BINARY, END)
    await pings.done
    assert int(pings.answer) == count
    speed = count / (time.perf_counter() - begun)
    transport.disconnect()
    return speed


# websockets


async def websockets_serve(handler: Any, ready: Ready) -> None:
    async with websockets.serve(handler, "127.0.0.1", 0, compression=None, max_size=None) as server:
        ready(next(iter(server.sockets)).getsockname()[1])
        await asyncio.Event().wait()


async def websockets_echo(tls: bool, ready: Ready) -> None:
    async def echo(connection: websockets.ServerConnection) -> None:
        async for content in connection:
            await connection.send(content)

    await websockets_serve(echo, ready)


async def websockets_count(tls: bool, ready: Ready) -> None:
    async def counting(connection: websockets.ServerConnection) -> None:
        messages = 0
        async for content in connection:
            if content == END:
                break
            messages += 1
        await connection.send(str(messages))

    await websockets_serve(counting, ready)


async def websockets_ping(tls: bool, port: int, size: int, count: int) -> float:
    message = bytes(size)
    async with websockets.connect(f"ws://127.0.0.1:{port}/", compression=None, max_size=None) as connection:
        begun = time.perf_counter()
        for _ in range(count):
            await connection.send(message)
            await connection.recv()
        return count / (time.perf_counter() - begun)


async def websockets_pour(tls: bool, port: int, size: int, count: int) -> float:
    message = bytes(size)
    async with websockets.connect(f"ws://127.0.0.1:{port}/", compression=None) as connection:
        begun = time.perf_counter()
        for _ in range(count):
            await connection.send(message)
        await connection.send(END)
        assert int(await connection.recv()) == count
        return count / (time.perf_counter() - begun)


# aiohttp


async def aiohttp_serve(handler: Any, ready: Ready) -> None:
    application = web.Application()
    application.router.add_get("/", handler)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    ready(runner.addresses[0][1])
    await asyncio.Event().wait()


async def aiohttp_echo(tls: bool, ready: Ready) -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse(compress=False, max_msg_size=0)
        await response.prepare(request)
        async for message in response:
            await response.send_bytes(message.data)
        return response

    await aiohttp_serve(echo, ready)


async def aiohttp_count(tls: bool, ready: Ready) -> None:
    async def counting(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse(compress=False)
        await response.prepare(request)
        messages = 0
        async for message in response:
            if message.data == END:
                break
            messages += 1
        await response.send_str(str(messages))
        return response

    await aiohttp_serve(counting, ready)


async def aiohttp_ping(tls: bool, port: int, size: int, count: int) -> float:
    message = bytes(size)
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"ws://127.0.0.1:{port}/", compress=0, max_msg_size=0) as connection,
    ):
        begun = time.perf_counter()
        for _ in range(count):
            await connection.send_bytes(message)
            await connection.receive_bytes()
        return count / (time.perf_counter() - begun)


async def aiohttp_pour(tls: bool, port: int, size: int, count: int) -> float:
    message = bytes(size)
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"ws://127.0.0.1:{port}/", compress=0) as connection,
    ):
        begun = time.perf_counter()
        for _ in range(count):
            await connection.send_bytes(message)
        await connection.send_bytes(END)
        assert int(await connection.receive_str()) == count
        return count / (time.perf_counter() - begun)


ECHO: dict[str, tuple[Server, Client]] = {
    "tieline": (tieline_echo, tieline_ping),
    "picows": (picows_echo, picows_ping),
    "websockets": (websockets_echo, websockets_ping),
    "aiohttp": (aiohttp_echo, aiohttp_ping),
}
ONE_WAY: dict[str, tuple[Server, Client]] = {
    "tieline": (tieline_count, tieline_pour),
    "picows": (picows_count, picows_pour),
    "websockets": (websockets_count, websockets_pour),
    "aiohttp": (aiohttp_count, aiohttp_pour),
}
