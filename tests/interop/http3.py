"""As much of HTTP/3 (RFC 9114) as foreign programs need to talk to us: one header block each way, and a body."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tieline import QUIC, Directionality, NetworkConnection

__all__ = ["H3_NO_ERROR", "requested", "requested_early", "serve_http3", "start_http3"]

DATA, HEADERS, SETTINGS = 0x00, 0x01, 0x04  # RFC 9114 section 7.2
CONTROL_STREAM = 0x00  # section 6.2.1
H3_NO_ERROR = 0x100  # section 8.1
# RFC 9204: no dynamic table, and lines of the static one (appendix A).
BLOCK = b"\x00\x00"
STATUS_200, METHOD_GET, METHOD_POST, SCHEME_HTTPS = b"\xd9", b"\xd1", b"\xd4", b"\xd7"
AUTHORITY, PATH = 0, 1


def integer(number: int) -> bytes:
    """RFC 9000 section 16."""
    for exponent in range(4):
        size = 1 << exponent
        if number < 1 << (8 * size - 2):
            return (number | exponent << (8 * size - 2)).to_bytes(size, "big")
    raise ValueError(number)


def frame(kind: int, content: bytes) -> bytes:
    return integer(kind) + integer(len(content)) + content


def named(index: int, value: str) -> bytes:
    """A field whose name is in the static table. Its value has less than 127 bytes and is not compressed."""
    content = value.encode()
    return bytes([0x50 | index, len(content)]) + content


def body_of(message: bytes) -> bytes:
    """The contents of all DATA frames."""
    body, at = bytearray(), 0

    def number() -> int:
        nonlocal at
        size = 1 << (message[at] >> 6)
        value = int.from_bytes(message[at : at + size], "big") & (1 << (8 * size - 2)) - 1
        at += size
        return value

    while at < len(message):
        kind, size = number(), number()
        assert at + size <= len(message), "the message ends in the middle of a frame"
        if kind == DATA:
            body += message[at : at + size]
        at += size
    return bytes(body)


async def everything(stream: Any) -> bytes:
    return b"".join([content async for content, _ in stream])


async def start_http3(connection: NetworkConnection[QUIC]) -> Any:
    """Open the control stream. It has to stay open as long as the connection."""
    control = await connection.open_stream(directionality=Directionality.UNIDIRECTIONAL)
    await control.send(integer(CONTROL_STREAM) + frame(SETTINGS, b""))
    return control


async def serve_http3(connection: NetworkConnection[QUIC], answer: Callable[[bytes], bytes]) -> None:
    """Answer each request, given its body, until the client closes."""
    control = await start_http3(connection)

    async def respond(stream: Any) -> None:
        content = await everything(stream)
        if stream.directionality is Directionality.BIDIRECTIONAL:
            message = frame(HEADERS, BLOCK + STATUS_200) + frame(DATA, answer(body_of(content)))
            await stream.send(message, end_of_stream=True)

    await connection.inbound_streams(respond)
    del control


async def requested(connection: NetworkConnection[QUIC], path: str, body: bytes = b"") -> bytes:
    """What the server answers to a GET, or to a POST if there is a body."""
    stream = await connection.open_stream()
    await stream.send(request(path, body), end_of_stream=True)
    return body_of(await everything(stream))


def request(path: str, body: bytes = b"") -> bytes:
    method = METHOD_POST if body else METHOD_GET
    message = frame(HEADERS, BLOCK + method + SCHEME_HTTPS + named(AUTHORITY, "localhost") + named(PATH, path))
    return message + (frame(DATA, body) if body else b"")


async def requested_early(connection: NetworkConnection[QUIC], *paths: str) -> list[bytes]:
    """The same before the connection is ready, with the control stream that belongs to it."""
    control = await connection.open_stream(directionality=Directionality.UNIDIRECTIONAL)
    control.send_idempotent(integer(CONTROL_STREAM) + frame(SETTINGS, b""))
    streams = [await connection.open_stream() for _ in paths]
    for stream, path in zip(streams, paths, strict=True):
        stream.send_idempotent(request(path), end_of_stream=True)
    return [body_of(await everything(stream)) for stream in streams]
