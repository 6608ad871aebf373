"""Bytes and datagrams with socat, ncat and asyncio's own streams, plain and over TLS, both ways and with half-close."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tieline import TCP, TLS, UDP, Endpoint, HostPort, NetworkConnection, NetworkListener, TLSError, UnixEndpoint

from ..authority import EXPIRED, LOCALHOST, OTHER_NAME, ROOT, TRUST, save
from ..peers import free_port
from .payload import FROM_CLIENT, FROM_SERVER, SIZE, digest, receive_payload
from .programs import running

SOCKETS = ["TCP, IPv4", "TCP, IPv6", "Unix", "abstract Unix"]
CLIENT_TLS = TLS(trust=TRUST, server_name="localhost")
SERVER_TLS = TLS(identity=LOCALHOST)


async def everything(connection: NetworkConnection[Any]) -> bytes:
    """All bytes up to the end."""
    return b"".join([content async for content, _ in connection])


async def send_and_end(connection: NetworkConnection[Any], data: bytes) -> None:
    await connection.send(data)
    await connection.send(b"", end_of_stream=True)


async def echo_at_end(connection: NetworkConnection[Any]) -> None:
    """Nothing comes back before the client has ended its half."""
    await connection.send(await everything(connection))


async def check_echo(to: Any, using: Any) -> None:
    """Our client against an echo server: it can still receive after it has ended its own direction."""
    async with NetworkConnection(to, using) as connection:
        received, _ = await asyncio.gather(everything(connection), send_and_end(connection, FROM_CLIENT))
        assert digest(received) == digest(FROM_CLIENT)
        assert (await connection.receive()) == (b"", (await connection.receive()).metadata)


async def check_client(*command: str | Path) -> None:
    """A foreign client against our listener, which echoes at the end."""
    async with running(*command) as program:
        await program.send(FROM_CLIENT)
        program.end()
        assert digest(await program.rest()) == digest(FROM_CLIENT)
        assert await program.ended() == 0


def place(kind: str, folder: Path) -> Endpoint:
    return {
        "TCP, IPv4": HostPort("127.0.0.1", 0),
        "TCP, IPv6": HostPort("::1", 0),
        "Unix": UnixEndpoint(str(folder / "socket")),
        "abstract Unix": UnixEndpoint(f"@tieline test {folder}"[:100]),
    }[kind]


def socat_address(at: Any, tcp: str, unix: str, abstract: str) -> str:
    if isinstance(at, UnixEndpoint):
        path = str(at).removeprefix("unix:")
        return f"{abstract}:{path[1:]}" if path.startswith("@") else f"{unix}:{path}"
    host = f"[{at.host}]" if ":" in at.host else at.host
    return tcp.format(version=at.version, host=host, port=at.port)


# socat


@pytest.mark.parametrize("kind", SOCKETS)
async def test_client_to_socat(peer: Callable[[str], str], tmp_path: Path, kind: str) -> None:
    at = place(kind, tmp_path)
    listening = socat_address(at, "TCP{version}-LISTEN:0,bind={host}", "UNIX-LISTEN", "ABSTRACT-LISTEN")
    async with running(peer("socat"), "-d", "-d", "-t", "20", listening, "EXEC:cat", log=True) as socat:
        found = await socat.expect(rb"listening on AF=\d+ (?:\S*:(\d+))?[^\n]*\n")
        await check_echo(HostPort(at.host, int(found[1])) if isinstance(at, HostPort) else at, TCP())


@pytest.mark.parametrize("kind", SOCKETS)
async def test_listener_for_socat(peer: Callable[[str], str], tmp_path: Path, kind: str) -> None:
    async with NetworkListener(TCP(), on=place(kind, tmp_path)).serving(echo_at_end) as listener:
        there = socat_address(listener.endpoint, "TCP{version}:{host}:{port}", "UNIX-CONNECT", "ABSTRACT-CONNECT")
        await check_client(peer("socat"), "-t", "20", "STDIO", there)


async def test_tls_client_to_socat(peer: Callable[[str], str], tmp_path: Path) -> None:
    certificate, key = save(tmp_path, "server", LOCALHOST)
    listening = f"OPENSSL-LISTEN:0,bind=127.0.0.1,cert={certificate},key={key},verify=0"
    async with running(peer("socat"), "-d", "-d", "-t", "20", listening, "EXEC:cat", log=True) as socat:
        found = await socat.expect(rb"listening on AF=2 \S*:(\d+)\n")
        await check_echo(("127.0.0.1", int(found[1])), CLIENT_TLS)


async def test_tls_listener_for_socat(peer: Callable[[str], str], tmp_path: Path) -> None:
    root = tmp_path / "root.crt"
    root.write_text(ROOT.pem)
    async with NetworkListener(SERVER_TLS, on="127.0.0.1:0").serving(echo_at_end) as listener:
        there = f"OPENSSL:{listener.endpoint},cafile={root},commonname=localhost"
        await check_client(peer("socat"), "-t", "20", "STDIO", there)


DATAGRAMS = [b"one", b"", b"x" * 1400, b"y" * 8192]


async def test_udp_client_to_socat(peer: Callable[[str], str]) -> None:
    port = free_port()
    serving = f"UDP4-RECVFROM:{port},bind=127.0.0.1,fork"
    async with running(peer("socat"), "-d", "-d", "-b", "65536", serving, "PIPE", log=True) as socat:
        await socat.expect(rb"receiving on AF=2 127\.0\.0\.1:\d+\n")
        async with NetworkConnection(("127.0.0.1", port), UDP()) as connection:
            for datagram in filter(None, DATAGRAMS):  # socat takes an empty one for the end
                await connection.send(datagram)
                assert (await connection.receive()).content == datagram


async def test_udp_listener_for_socat(peer: Callable[[str], str]) -> None:
    async def shout(connection: NetworkConnection[UDP]) -> None:
        async for datagram, _ in connection.messages:
            await connection.send(datagram.upper())

    async with (
        NetworkListener(UDP(), on="127.0.0.1:0").serving(shout) as listener,
        running(peer("socat"), "-b", "65536", "STDIO", f"UDP4:{listener.endpoint}") as socat,
    ):
        for datagram in filter(None, DATAGRAMS):
            await socat.send(datagram)
            assert await socat.take(len(datagram)) == datagram.upper()


# ncat


@pytest.mark.parametrize("kind", ["TCP", "Unix", "TLS"])
async def test_client_to_ncat(peer: Callable[[str], str], tmp_path: Path, kind: str) -> None:
    port, path = free_port(), tmp_path / "socket"
    certificate, key = save(tmp_path, "server", LOCALHOST)
    where = {
        "TCP": ["127.0.0.1", str(port)],
        "Unix": ["-U", str(path)],
        "TLS": ["--ssl", "--ssl-cert", str(certificate), "--ssl-key", str(key), "127.0.0.1", str(port)],
    }[kind]
    async with running(peer("ncat"), "-v", "-l", *where, log=True) as ncat:
        await ncat.expect(rb"Listening on [^\n]*\n")
        to = UnixEndpoint(str(path)) if kind == "Unix" else HostPort("127.0.0.1", port)
        async with NetworkConnection(to, CLIENT_TLS if kind == "TLS" else TCP()) as connection:
            printed, received, *_ = await asyncio.gather(
                ncat.take_data(SIZE),
                receive_payload(connection, len(FROM_SERVER)),
                ncat.send(FROM_SERVER),
                connection.send(FROM_CLIENT),
            )
            assert digest(printed) == digest(FROM_CLIENT) and digest(received) == digest(FROM_SERVER)


@pytest.mark.parametrize("kind", ["TCP", "Unix", "TLS"])
async def test_listener_for_ncat(peer: Callable[[str], str], tmp_path: Path, kind: str) -> None:
    root = tmp_path / "root.crt"
    root.write_text(ROOT.pem)

    async def answer(connection: NetworkConnection[Any]) -> None:
        assert digest(await receive_payload(connection, SIZE)) == digest(FROM_CLIENT)
        await connection.send(FROM_SERVER)

    at = UnixEndpoint(str(tmp_path / "socket")) if kind == "Unix" else HostPort("127.0.0.1", 0)
    async with NetworkListener(SERVER_TLS if kind == "TLS" else TCP(), on=at).serving(answer) as listener:
        there = ["-U", at.path] if isinstance(at, UnixEndpoint) else ["127.0.0.1", str(listener.port)]
        if kind == "TLS":
            there = ["--ssl-verify", "--ssl-trustfile", str(root), "--ssl-servername", "localhost", *there]
        async with running(peer("ncat"), *there) as ncat:
            sending = asyncio.create_task(ncat.send(FROM_CLIENT))
            assert digest(await ncat.take(len(FROM_SERVER))) == digest(FROM_SERVER)
            await sending


# asyncio


@pytest.fixture
def server_context(tmp_path: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*save(tmp_path, "server", LOCALHOST))
    return context


@pytest.fixture
def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=ROOT.pem)


@asynccontextmanager
async def asyncio_echo(context: ssl.SSLContext | None) -> AsyncIterator[HostPort]:
    """asyncio's TLS knows no half-close: the count says when to answer."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = await reader.readexactly(SIZE)
        writer.write(received)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        yield HostPort("127.0.0.1", server.sockets[0].getsockname()[1])


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
async def test_client_to_asyncio(server_context: ssl.SSLContext, secure: bool) -> None:
    async with (
        asyncio_echo(server_context if secure else None) as there,
        NetworkConnection(there, CLIENT_TLS if secure else TCP()) as connection,
    ):
        received, _ = await asyncio.gather(everything(connection), connection.send(FROM_CLIENT))
        assert digest(received) == digest(FROM_CLIENT)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
async def test_listener_for_asyncio(client_context: ssl.SSLContext, secure: bool) -> None:
    async def answer(connection: NetworkConnection[Any]) -> None:
        assert digest(await receive_payload(connection, SIZE)) == digest(FROM_CLIENT)
        await connection.send(FROM_SERVER)
        await everything(connection)  # uvloop's streams lose what they have not read when TLS ends before them

    async with NetworkListener(SERVER_TLS if secure else TCP(), on="127.0.0.1:0").serving(answer) as listener:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            listener.port,
            ssl=client_context if secure else None,
            server_hostname="localhost" if secure else None,
        )
        writer.write(FROM_CLIENT)
        await writer.drain()
        assert digest(await reader.readexactly(len(FROM_SERVER))) == digest(FROM_SERVER)
        writer.close()
        await writer.wait_closed()


async def test_half_close_with_asyncio() -> None:
    async with NetworkListener(TCP(), on="127.0.0.1:0").serving(echo_at_end) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(FROM_CLIENT)
        writer.write_eof()
        assert digest(await reader.read()) == digest(FROM_CLIENT)
        writer.close()
        await writer.wait_closed()


# TLS by a context of the standard library, in either role, against our own engine and against itself


@pytest.mark.parametrize("client_engine", ["ours", "ssl"])
@pytest.mark.parametrize("server_engine", ["ours", "ssl"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLSv1.2", "TLSv1.3"])
async def test_contexts(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    client_engine: str,
    server_engine: str,
    version: ssl.TLSVersion,
) -> None:
    for context in (client_context, server_context):
        context.maximum_version = version
        context.set_alpn_protocols(["one"])
    client = TLS(ssl_context=client_context, server_name="localhost")
    server = TLS(ssl_context=server_context)
    if client_engine == "ours":
        client = TLS(trust=TRUST, server_name="localhost", alpn=["one"])
    if server_engine == "ours":
        server = TLS(identity=LOCALHOST, alpn=["one"])
    async with (
        NetworkListener(server, on="127.0.0.1:0").serving(echo_at_end) as listener,
        NetworkConnection(listener.endpoint, client) as connection,
    ):
        received, _ = await asyncio.gather(everything(connection), send_and_end(connection, FROM_CLIENT))
        assert digest(received) == digest(FROM_CLIENT)
        session = connection.metadata(TLS)
        assert session.negotiated_alpn == "one" and session.peer_certificates[0] == LOCALHOST.certificate
        if "ssl" in (client_engine, server_engine):
            assert session.version.replace(".", "_") == version.name


@pytest.mark.parametrize(
    ("identity", "reason"), [(EXPIRED, "expired"), (OTHER_NAME, "wrong_name")], ids=["expired", "wrong name"]
)
async def test_context_refuses(client_context: ssl.SSLContext, identity: Any, reason: str) -> None:
    async with NetworkListener(TLS(identity=identity), on="127.0.0.1:0").serving(echo_at_end) as listener:
        client = TLS(ssl_context=client_context, server_name="localhost")
        async with NetworkConnection(listener.endpoint, client) as connection:
            with pytest.raises(TLSError) as caught:
                await connection.ready()
    assert caught.value.reason == reason
    assert re.match(r"127\.0\.0\.1:\d+, handshake: the peer's certificate ", str(caught.value))
