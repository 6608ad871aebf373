"""What stands on what: every pair that may, on real sockets, and every one that may not, with its error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tieline import (
    IP,
    QUIC,
    TCP,
    TLS,
    TLV,
    UDP,
    Coder,
    EndOfStreamError,
    Framer,
    FramerContext,
    FramerProtocol,
    NetworkConnection,
    NetworkListener,
    QUICDatagram,
    QUICStream,
    WebSocket,
)

from ..authority import LOCALHOST, TRUST
from ..quic import connected


class Blocks(FramerProtocol):
    """A length of two bytes before each message."""

    label = "blocks"

    def handle_input(self, framer: FramerContext) -> None:
        while True:
            if not hasattr(self, "size"):
                head = framer.read(2)
                if head is None:
                    return
                self.size = int.from_bytes(head, "big")
            content = framer.read(self.size)
            if content is None:
                return
            del self.size
            framer.deliver_input(content)

    def handle_output(self, framer: FramerContext, content: bytes, metadata: dict[str, Any] | None) -> None:
        framer.write_output(len(content).to_bytes(2, "big"))
        framer.write_output(content)


UPPER: dict[str, Callable[[Any], Any]] = {
    "WebSocket": WebSocket,
    "TLV": TLV,
    "Framer": lambda below: Framer(Blocks, below),
    "Coder": lambda below: Coder(bytes, below, using="msgpack"),
}
CARRIERS = {name: UPPER[name] for name in ("WebSocket", "TLV", "Framer")}
SERVERS = {"TCP": TCP(), "TLS": TLS(identity=LOCALHOST), "QUICStream": QUICStream(), "UDP": UDP(), "QUICDatagram": QUICDatagram()}
CLIENTS = SERVERS | {"TLS": TLS(trust=TRUST, server_name="localhost")}
STREAMS, DATAGRAMS = ("TCP", "TLS", "QUICStream"), ("UDP", "QUICDatagram")
MESSAGES = [b"one", b"", bytes(range(256)) * 4, b"last"]

PAIRS = [(upper,) for upper in UPPER]
PAIRS += [(upper, carrier) for upper in UPPER for carrier in CARRIERS]
ALLOWED = [(*above, stream) for above in PAIRS for stream in STREAMS]
ALLOWED += [(*above, datagrams) for above in PAIRS if "WebSocket" not in above for datagrams in DATAGRAMS]
DEEP = [("Coder", "TLV", "Framer", "WebSocket", "Framer", "TLV", "TCP"), ("Coder", "Framer", "TLV", "Framer", "UDP")]
DEEP += [("WebSocket", "WebSocket", "TLV", "TLV", "QUICStream")]


def stack(names: tuple[str, ...], bottoms: dict[str, Any]) -> Any:
    """The stack of these names, top first."""
    below = bottoms[names[-1]]
    for name in names[-2::-1]:
        below = UPPER[name](below)
    return below


@asynccontextmanager
async def pair(names: tuple[str, ...]) -> AsyncIterator[tuple[Any, Any]]:
    """Channels that lead to each other: of a connection, or on a QUIC connection."""
    ours, theirs = stack(names, CLIENTS), stack(names, SERVERS)
    arrived: asyncio.Queue[Any] = asyncio.Queue()
    over = asyncio.Event()

    async def keep(channel: Any) -> None:
        arrived.put_nowait(channel)
        await over.wait()

    if names[-1] in ("TCP", "TLS", "UDP"):
        async with NetworkListener(theirs, on="127.0.0.1:0").serving(keep) as listener:  # noqa: SIM117
            async with NetworkConnection(listener.endpoint, ours) as client:
                await client.send(b"hello")
                server = await arrived.get()
                assert (await server.receive()).content == b"hello"
                yield client, server
                over.set()
        return
    async with connected(max_datagram_frame_size=65535) as (client, server, _):
        if names[-1] == "QUICDatagram":
            yield await client.datagrams(using=ours), await server.datagrams(using=theirs)
            return
        task = asyncio.create_task(server.inbound_streams(keep, using=theirs))
        stream = await client.open_stream(using=ours)
        await stream.send(b"hello")
        inbound = await arrived.get()
        assert (await inbound.receive()).content == b"hello"
        yield stream, inbound
        over.set()
        await stream.aclose()
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize("names", ALLOWED + DEEP, ids=" on ".join)
async def test_what_may_stand_on_what(names: tuple[str, ...]) -> None:
    async with pair(names) as (ours, theirs):
        for sender, receiver in ((ours, theirs), (theirs, ours)):
            for content in MESSAGES:
                await sender.send(content)
            for content in MESSAGES:
                assert (await receiver.receive()).content == content
        if names[-1] in STREAMS:
            if names[0] == "WebSocket":
                await ours.close()
            else:
                await ours.send(b"the last", last_message=True)
                assert (await theirs.receive()).content == b"the last"
            with pytest.raises(EndOfStreamError):
                await theirs.receive()


REFUSED = [(upper, "Coder", "TCP") for upper in UPPER] + [("WebSocket", "UDP"), ("WebSocket", "QUICDatagram")]
REFUSED += [("WebSocket", carrier, datagrams) for carrier in ("TLV", "Framer") for datagrams in DATAGRAMS]
REFUSED += [(upper, "WebSocket", "UDP") for upper in UPPER]


@pytest.mark.parametrize("names", REFUSED, ids=" on ".join)
def test_what_may_not(names: tuple[str, ...]) -> None:
    with pytest.raises(
        TypeError, match=rf"({'|'.join(UPPER)}) stands on a byte stream such as TCP, TLS or a QUIC stream.*, got "
    ):
        stack(names, SERVERS)


@pytest.mark.parametrize("upper", UPPER)
@pytest.mark.parametrize("below", [IP(), QUIC(alpn=["x"]), TCP, "TCP", None], ids=repr)
def test_what_nothing_stands_on(upper: str, below: Any) -> None:
    if upper == "WebSocket" and below is None:
        assert UPPER[upper](None).below is None  # a URL says what is there
        return
    with pytest.raises(TypeError, match=f"{upper} stands on a byte stream such as TCP, TLS or a QUIC stream.*, got "):
        UPPER[upper](below)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: TCP(TCP()), "TCP stands on IP, got TCP"),  # type: ignore[arg-type]
        (lambda: UDP(TCP()), "UDP stands on IP, got TCP"),  # type: ignore[arg-type]
        (lambda: TLS(UDP()), "TLS stands on TCP, got UDP"),  # type: ignore[arg-type]
        (lambda: TLS(WebSocket(TCP())), "TLS stands on TCP, got WebSocket"),  # type: ignore[arg-type]
        (lambda: QUIC(TCP(), alpn=["x"]), "QUIC stands on UDP, got TCP"),  # type: ignore[arg-type]
        (lambda: TLV(WebSocket(TLV(UDP()))), "WebSocket stands on .*, got TLV over UDP, whose messages may be lost"),
    ],
)
def test_what_transports_cannot_stand_on(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        make()
