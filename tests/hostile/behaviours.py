"""What a hostile or broken peer does, in either role, once the connection is there."""

from __future__ import annotations

import asyncio
import random

from ..peers import Conversation, Peer

__all__ = ["ALERT", "BEHAVIOURS", "DATA", "HANDSHAKE", "SILENT", "leaving", "record", "reflect"]

NOISE = random.Random(3).randbytes(1 << 16)
HANDSHAKE, ALERT, DATA, CHANGE_CIPHER_SPEC = 0x16, 0x15, 0x17, 0x14


def record(content_type: int, body: bytes, length: int | None = None) -> bytes:
    return bytes([content_type, 3, 3]) + (len(body) if length is None else length).to_bytes(2, "big") + body


def saying(data: bytes) -> Conversation:
    """Say it at once, and wait for the other side to go."""

    async def say(peer: Peer) -> None:
        await peer.send(data)
        await peer.gone()

    return say


def leaving(data: bytes) -> Conversation:
    """Say it, and end."""

    async def leave(peer: Peer) -> None:
        await peer.send(data)
        peer.end()
        await peer.gone()

    return leave


def resetting(data: bytes) -> Conversation:
    async def reset(peer: Peer) -> None:
        await peer.send(data)
        peer.reset()

    return reset


async def reflect(peer: Peer) -> None:
    """An echo server, or a client that says what the server said. Says nothing of its own accord."""
    while data := await peer.receive():
        await peer.send(data)


async def flood(peer: Peer) -> None:
    """More than anybody wants, as fast as it goes."""
    while True:
        await peer.send(bytes(1 << 16))


async def drip(peer: Peer) -> None:
    """The beginning of something good, one byte at a time: slow enough never to come to an end."""
    for byte in record(HANDSHAKE, NOISE, 0x0400):
        await peer.send(bytes([byte]))
        await asyncio.sleep(0.02)  # it is what this peer is about: no event, only time


async def never_speak(peer: Peer) -> None:
    await peer.gone()


SILENT: dict[str, Conversation] = {
    "never speaks": never_speak,
    "speaks one byte at a time": drip,
    "half a record header": saying(b"\x16\x03"),
    "half a record": saying(record(HANDSHAKE, b"\x02\x00\x00", 100)),
}
"""Ends only with the timer."""

BEHAVIOURS: dict[str, tuple[Conversation, frozenset[str]]] = {
    "random bytes": (saying(b"\xf5" + NOISE), frozenset({"not_tls"})),
    "zeros without end": (flood, frozenset({"not_tls"})),
    "a request in plain HTTP": (saying(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), frozenset({"not_tls"})),
    "a response in plain HTTP": (saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"), frozenset({"not_tls"})),
    "SSL 2": (saying(b"\x80\x2e\x01\x00\x02" + NOISE[:41]), frozenset({"not_tls", "no_common_version"})),
    "SSH": (saying(b"SSH-2.0-OpenSSH_9.2p1\r\n"), frozenset({"not_tls"})),
    "a record that is too long": (saying(record(HANDSHAKE, NOISE[:40000], 0xFFFF)), frozenset({"record_too_large"})),
    "a record that is just too long": (
        saying(record(HANDSHAKE, NOISE[:18433], 18433)),
        frozenset({"record_too_large"}),
    ),
    "an unknown content type": (saying(record(0x63, b"\0" * 16)), frozenset({"not_tls", "protocol_violation"})),
    "a handshake message of noise": (saying(record(HANDSHAKE, NOISE[:512])), frozenset({"protocol_violation"})),
    "a handshake message of 16 MiB": (
        saying(record(HANDSHAKE, b"\x02\xff\xff\xff" + NOISE[:8000]) * 20),
        frozenset({"protocol_violation", "record_too_large"}),
    ),
    "a handshake message of 16 MiB, announced": (
        saying(record(HANDSHAKE, b"\x01\xff\xff\xff")),
        frozenset({"protocol_violation"}),
    ),
    "data before the handshake": (saying(record(DATA, NOISE[:512])), frozenset({"protocol_violation"})),
    "an alert nobody knows": (saying(record(ALERT, b"\x02\xfe")), frozenset({"alert_received", "protocol_violation"})),
    "half an alert": (saying(record(ALERT, b"\x02")), frozenset({"protocol_violation"})),
    "close_notify at once": (leaving(record(ALERT, b"\x01\x00")), frozenset({"reset", "alert_received"})),
    "empty records without end": (saying(record(HANDSHAKE, b"") * 5000), frozenset({"protocol_violation"})),
    "change_cipher_spec without end": (
        saying(record(CHANGE_CIPHER_SPEC, b"\x01") * 5000),
        frozenset({"protocol_violation"}),
    ),
    "leaves at once": (leaving(b""), frozenset({"reset"})),
    "leaves within a record header": (leaving(b"\x16\x03"), frozenset({"reset"})),
    "leaves within a record": (leaving(record(HANDSHAKE, b"\x02\x00\x00", 100)), frozenset({"reset"})),
    "resets at once": (resetting(b""), frozenset({"reset"})),
    "resets within a record": (resetting(record(HANDSHAKE, b"\x02\x00\x00", 100)), frozenset({"reset"})),
}
"""Each with the reasons of TLSError that may be given for it; ``reset`` is no TLSError but one of a connection."""
