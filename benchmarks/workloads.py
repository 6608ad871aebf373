"""The work, once for each library. A server runs until it is ended; a client returns how much it got done per second."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tieline import TCP, TLS, Identity, NetworkConnection, NetworkListener, Parameters, Trust, UInt64

Ready = Callable[[int], None]
Server = Callable[[bool, Ready], Awaitable[None]]
Client = Callable[[bool, int, int, int], Awaitable[float]]
SUITE = "TLS_AES_256_GCM_SHA384"  # what OpenSSL agrees on with itself, and Python before 3.15 cannot choose another


def identity() -> Identity:
    """One certificate for the run. Made before the processes part, or told to those that start afresh."""
    global _identity
    if _identity is None:
        _identity = Identity.self_signed("localhost")
    return _identity


def adopt(made: Identity | None) -> None:
    """In a new process: the run's certificate."""
    global _identity
    _identity = made


_identity: Identity | None = None


def tieline_stack(tls: bool, *, server: bool, tickets: bool = True) -> TCP | TLS:
    if not tls:
        return TCP()
    if server:
        return TLS(identity=identity(), cipher_suites=[SUITE])
    trust = Trust.certificates(identity().certificate)
    return TLS(trust=trust, server_name="localhost", cipher_suites=[SUITE], tickets=tickets)


def ssl_context(*, server: bool) -> ssl.SSLContext:
    """The standard library with the same certificate, as its documentation makes it."""
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        certificate.write_text(ssl.DER_cert_to_PEM_cert(identity().certificate))
        key.write_bytes(private_key_pem())
        if server:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate, key)
        else:
            context = ssl.create_default_context(cafile=str(certificate))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def private_key_pem() -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    key = form.load_der_private_key(identity().private_key, None)
    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())


# Tieline


async def tieline_echo(tls: bool, ready: Ready) -> None:
    await echo_over(tieline_stack(tls, server=True), ready)


async def sleeping_echo(tls: bool, ready: Ready) -> None:
    await echo_over(Parameters(tieline_stack(tls, server=True), busy_poll=0), ready)


async def echo_over(using: Any, ready: Ready) -> None:
    async def echo(connection: NetworkConnection[TCP]) -> None:
        async for content, _ in connection:
            await connection.send(content)

    async with NetworkListener(using, on="127.0.0.1:0").serving(echo) as listener:
        ready(listener.port)
        await asyncio.Event().wait()


async def tieline_sink(tls: bool, ready: Ready) -> None:
    async def swallow(connection: NetworkConnection[TCP]) -> None:
        count = 0
        async for content, _ in connection:
            count += len(content)
        await connection.send(UInt64(count))

    async with NetworkListener(tieline_stack(tls, server=True), on="127.0.0.1:0").serving(swallow) as listener:  # type: ignore[arg-type]
        ready(listener.port)
        await asyncio.Event().wait()


async def tieline_ping(tls: bool, port: int, size: int, count: int) -> float:
    return await ping_over(tieline_stack(tls, server=False), port, size, count)


async def sleeping_ping(tls: bool, port: int, size: int, count: int) -> float:
    return await ping_over(Parameters(tieline_stack(tls, server=False), busy_poll=0), port, size, count)


async def ping_over(using: Any, port: int, size: int, count: int) -> float:
    message = bytes(size)
    async with NetworkConnection(("127.0.0.1", port), using) as connection:
        await connection.ready()
        begun = time.perf_counter()
        for _ in range(count):
            await connection.send(message)
            await connection.receive(exactly=size)
        return count / (time.perf_counter() - begun)


async def tieline_pour(tls: bool, port: int, size: int, count: int) -> float:
    piece = bytes(size)
    async with NetworkConnection(("127.0.0.1", port), tieline_stack(tls, server=False)) as connection:
        await connection.ready()
        begun = time.perf_counter()
        for _ in range(count):
            await connection.send(piece)  # type: ignore[misc]
        await connection.send(b"", end_of_stream=True)  # type: ignore[misc]
        arrived = (await connection.receive(as_=UInt64)).content  # type: ignore[misc]
        assert arrived == size * count
        return arrived / 1e6 / (time.perf_counter() - begun)


# asyncio streams, as their documentation writes them


async def streams_serve(handle: Callable[..., Awaitable[None]], tls: bool, ready: Ready) -> None:
    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=ssl_context(server=True) if tls else None)
    async with server:
        ready(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()


async def streams_echo(tls: bool, ready: Ready) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while content := await reader.read(65536):
            writer.write(content)
            await writer.drain()
        writer.close()

    await streams_serve(echo, tls, ready)


async def streams_sink(tls: bool, ready: Ready) -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        expected = int.from_bytes(await reader.readexactly(8), "big")  # TLS streams of asyncio have no half-close
        count = 0
        while count < expected and (content := await reader.read(262144)):
            count += len(content)
        writer.write(count.to_bytes(8, "big"))
        await writer.drain()
        writer.close()

    await streams_serve(swallow, tls, ready)


async def streams_open(port: int, context: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if context is None:
        return await asyncio.open_connection("127.0.0.1", port)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    agreed = writer.get_extra_info("cipher")[0]
    assert agreed == SUITE, f"the same suite on both sides: {SUITE}, not {agreed}"
    return reader, writer


async def streams_ping(tls: bool, port: int, size: int, count: int) -> float:
    message = bytes(size)
    reader, writer = await streams_open(port, ssl_context(server=False) if tls else None)
    begun = time.perf_counter()
    for _ in range(count):
        writer.write(message)
        await writer.drain()
        await reader.readexactly(size)
    speed = count / (time.perf_counter() - begun)
    writer.close()
    return speed


async def streams_pour(tls: bool, port: int, size: int, count: int) -> float:
    piece = bytes(size)
    reader, writer = await streams_open(port, ssl_context(server=False) if tls else None)
    begun = time.perf_counter()
    writer.write((size * count).to_bytes(8, "big"))
    for _ in range(count):
        writer.write(piece)
        await writer.drain()
    arrived = int.from_bytes(await reader.readexactly(8), "big")
    assert arrived == size * count
    speed = arrived / 1e6 / (time.perf_counter() - begun)
    writer.close()
    return speed
