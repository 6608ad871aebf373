"""Other people's WebSockets, with one interface: a server that echoes, and a client that sends and receives."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import picows
import websockets
from aiohttp import web

__all__ = ["LIBRARIES", "Client", "Library"]

LARGEST = 2**24


class Client(ABC):
    """One connection of a foreign client."""

    @abstractmethod
    async def send(self, message: str | bytes) -> None: ...
    @abstractmethod
    async def receive(self) -> str | bytes: ...
    @abstractmethod
    async def close(self, code: int, reason: str) -> tuple[int, str]:
        """What the other side answered."""


class Library(ABC):
    """One library, both roles."""

    compresses: bool

    @abstractmethod
    def echo_server(self, compression: bool) -> AbstractAsyncContextManager[int]:
        """Its port."""

    @abstractmethod
    def client(self, url: str, compression: bool) -> AbstractAsyncContextManager[Client]: ...


class WebsocketsClient(Client):
    def __init__(self, connection: websockets.ClientConnection) -> None:
        self._connection = connection

    async def send(self, message: str | bytes) -> None:
        await self._connection.send(message)

    async def receive(self) -> str | bytes:
        return await self._connection.recv()

    async def close(self, code: int, reason: str) -> tuple[int, str]:
        await self._connection.close(code, reason)
        assert self._connection.close_code is not None
        return self._connection.close_code, self._connection.close_reason or ""


class Websockets(Library):
    compresses = True

    @asynccontextmanager
    async def echo_server(self, compression: bool) -> AsyncIterator[int]:
        async def echo(connection: websockets.ServerConnection) -> None:
            async for message in connection:
                await connection.send(message)

        how = "deflate" if compression else None
        async with websockets.serve(echo, "127.0.0.1", 0, compression=how, max_size=None) as server:
            yield next(iter(server.sockets)).getsockname()[1]

    @asynccontextmanager
    async def client(self, url: str, compression: bool) -> AsyncIterator[Client]:
        how = "deflate" if compression else None
        async with websockets.connect(url, compression=how, max_size=None, proxy=None) as connection:
            yield WebsocketsClient(connection)


class AiohttpClient(Client):
    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self._connection = connection

    async def send(self, message: str | bytes) -> None:
        await (self._connection.send_str(message) if isinstance(message, str) else self._connection.send_bytes(message))

    async def receive(self) -> str | bytes:
        message = await self._connection.receive()
        assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY)
        return message.data

    async def close(self, code: int, reason: str) -> tuple[int, str]:
        await self._connection.close(code=code, message=reason.encode())
        assert self._connection.close_code is not None
        return self._connection.close_code, ""


class Aiohttp(Library):
    compresses = True

    @asynccontextmanager
    async def echo_server(self, compression: bool) -> AsyncIterator[int]:
        async def echo(request: web.Request) -> web.WebSocketResponse:
            response = web.WebSocketResponse(compress=compression, max_msg_size=0)
            await response.prepare(request)
            async for message in response:
                if message.type is aiohttp.WSMsgType.TEXT:
                    await response.send_str(message.data)
                else:
                    await response.send_bytes(message.data)
            return response

        application = web.Application()
        application.router.add_get("/{path:.*}", echo)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()

    @asynccontextmanager
    async def client(self, url: str, compression: bool) -> AsyncIterator[Client]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url, compress=15 if compression else 0, max_msg_size=0) as connection,
        ):
            yield AiohttpClient(connection)


class PicowsEcho(picows.WSListener):
    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type == picows.WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_bytes())


class PicowsClient(picows.WSListener, Client):
    def __init__(self) -> None:
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        self.transport: Any = None

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type == picows.WSMsgType.CLOSE:
            code, reason = frame.get_close_code(), frame.get_close_message()
            self._messages.put_nowait((int(code), (reason or b"").decode() if not isinstance(reason, str) else reason))
        elif frame.msg_type == picows.WSMsgType.TEXT:
            self._messages.put_nowait(frame.get_payload_as_utf8_text())
        else:
            self._messages.put_nowait(frame.get_payload_as_bytes())

    async def send(self, message: str | bytes) -> None:
        text = isinstance(message, str)
        data = message.encode() if isinstance(message, str) else message
        self.transport.send(picows.WSMsgType.TEXT if text else picows.WSMsgType.BINARY, data)

    async def receive(self) -> str | bytes:
        return await self._messages.get()  # type: ignore[no-any-return]

    async def close(self, code: int, reason: str) -> tuple[int, str]:
        self.transport.send_close(code, reason.encode())
        return await self._messages.get()  # type: ignore[no-any-return]


class Picows(Library):
    compresses = False

    @asynccontextmanager
    async def echo_server(self, compression: bool) -> AsyncIterator[int]:
        server = await picows.ws_create_server(lambda _: PicowsEcho(), "127.0.0.1", 0, max_frame_size=LARGEST)
        async with server:
            yield server.sockets[0].getsockname()[1]

    @asynccontextmanager
    async def client(self, url: str, compression: bool) -> AsyncIterator[Client]:
        transport, client = await picows.ws_connect(PicowsClient, url, max_frame_size=LARGEST)
        client.transport = transport
        try:
            yield client
        finally:
            transport.disconnect()
            await transport.wait_disconnected()


LIBRARIES: dict[str, Library] = {"websockets": Websockets(), "aiohttp": Aiohttp(), "picows": Picows()}
