"""Python's other QUIC libraries as peers, in both roles: aioquic, and qh3, which has its interface on a machine in Rust.

They run in the test's own event loop. What arrives at one is kept until the test asks for it.
"""

from __future__ import annotations

import asyncio
import importlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..authority import LOCALHOST, ROOT, save
from ..peers import until

__all__ = ["ALPN", "LIBRARIES", "Foreign", "Library", "ServedByThem", "connected", "connecting", "serving"]

ALPN = "interop"  # of its own: sessions are resumed between equal options, and their tickets are no good for other servers


class Library:
    """One of them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.configuration = importlib.import_module(f"{name}.quic.configuration").QuicConfiguration
        self.connection = importlib.import_module(f"{name}.quic.connection").QuicConnection
        self.events = importlib.import_module(f"{name}.quic.events")
        self.tls = importlib.import_module(f"{name}.tls")
        module = importlib.import_module(f"{name}.asyncio")
        self.serve = module.serve
        self.protocol = type("Foreign", (Foreign, module.QuicConnectionProtocol), {"library": self})

    def configured(self, **options: Any) -> Any:
        """What both roles say of themselves, if the test does not say otherwise."""
        return self.configuration(**{"alpn_protocols": [ALPN], "max_datagram_frame_size": 65536, **options})


class Foreign:
    """One connection of the library's: mixed into its own protocol class."""

    library: Library
    _quic: Any
    _loop: asyncio.AbstractEventLoop
    transmit: Callable[[], None]
    echoes = False
    heard_from = 0  # the port that the latest datagram came from

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.happened: list[Any] = []
        self.streams: dict[int, bytearray] = defaultdict(bytearray)
        self.ended: set[int] = set()
        self._waiters: list[asyncio.Future[None]] = []

    def quic_event_received(self, event: Any) -> None:
        if isinstance(event, self.library.events.StreamDataReceived):
            if self.echoes and not event.stream_id & 2:
                self._quic.send_stream_data(event.stream_id, event.data, event.end_stream)
            else:
                self.streams[event.stream_id] += event.data
            if event.end_stream:
                self.ended.add(event.stream_id)
        self.happened.append(event)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until this is true after some event; returns it."""
        while not (value := condition()):
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            try:
                await asyncio.wait_for(waiter, 20)
            except TimeoutError:
                last = [type(one).__name__ for one in self.happened[-9:]]
                raise AssertionError(f"still waiting; what happened last: {last}") from None
        return value

    async def event(self, kind: str) -> Any:
        """The first event of this kind, which is then forgotten."""
        wanted = getattr(self.library.events, kind)
        found = await self.until(lambda: [one for one in self.happened if isinstance(one, wanted)])
        self.happened.remove(found[0])
        return found[0]

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        self._quic.send_stream_data(stream, data, end)
        self.transmit()

    def open(self, data: bytes = b"", *, end: bool = False, unidirectional: bool = False) -> int:
        """Open a stream with these first bytes; returns its number."""
        number: int = self._quic.get_next_available_stream_id(is_unidirectional=unidirectional)
        self.send(number, data, end=end)
        return number

    async def received(self, stream: int) -> bytes:
        """Everything up to the end of a stream."""
        await self.until(lambda: stream in self.ended)
        return bytes(self.streams.pop(stream))

    async def open_when_allowed(self, data: bytes) -> int:
        """Open a stream with this and its end, as soon as the other side allows it. aioquic waits by itself, qh3 raises."""
        number: int = self._quic.get_next_available_stream_id()
        while True:
            try:
                self.send(number, data, end=True)
                return number
            except ValueError:
                await asyncio.sleep(0.001)

    def reset(self, stream: int, code: int) -> None:
        self._quic.reset_stream(stream, code)
        self.transmit()

    def stop(self, stream: int, code: int) -> None:
        self._quic.stop_stream(stream, code)
        self.transmit()

    def datagram(self, data: bytes) -> None:
        self._quic.send_datagram_frame(data)
        self.transmit()

    def update_keys(self) -> None:
        self._quic.request_key_update()
        self._quic.send_ping(1)  # the new keys are used with the next packet
        self.transmit()

    def end(self, code: int, reason: str = "") -> None:
        self._quic.close(error_code=code, reason_phrase=reason)
        self.transmit()

    @property
    def key_phase(self) -> int:
        """Which of two keys the other side sends with, as far as is known here (RFC 9001 section 6)."""
        if self.library.name == "qh3":
            return int(self._quic._core.receive_key_phase)
        return int(self._quic._cryptos[self.library.tls.Epoch.ONE_RTT].recv.key_phase)

    @property
    def was_told_versions(self) -> bool:
        """Whether the server has refused the first version and named others."""
        name = "_version_negotiated" if self.library.name == "qh3" else "_version_negotiated_incompatible"
        return bool(getattr(self._quic, name))

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.heard_from = int(address[1])
        super().datagram_received(data, address)  # type: ignore[misc]

    async def move(self) -> None:
        """Go on from another port, as behind a NAT that has forgotten us: this side notices nothing."""
        before = self._transport
        await self._loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))  # type: ignore[arg-type,return-value]
        before.close()
        self._quic.send_ping(2)
        self.transmit()

    _transport: asyncio.DatagramTransport


LIBRARIES = {name: Library(name) for name in ("aioquic", "qh3")}


def quiet(protocol: Any) -> None:
    """It has said that it closes: do not wait until its peer must have heard that."""
    if protocol._timer is not None:
        protocol._timer.cancel()


# The library as client


@asynccontextmanager
async def connecting(
    library: Library, port: int, *, tickets: list[Any] | None = None, early: bytes = b"", **options: Any
) -> AsyncIterator[Any]:
    """A client of the library's, whose handshake is under way; with `early` bytes on its first stream."""
    options = {"server_name": "localhost", "cadata": ROOT.pem.encode(), **options}
    quic = library.connection(
        configuration=library.configured(is_client=True, **options),
        session_ticket_handler=None if tickets is None else tickets.append,
    )
    protocol: Any = library.protocol(quic)
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: protocol, local_addr=("127.0.0.1", 0))
    if early:
        if library.name == "qh3":
            quic.connect(("127.0.0.1", port), now=loop.time())
        else:
            protocol.connect(("127.0.0.1", port), transmit=False)
        protocol.open(early, end=True)
    else:
        protocol.connect(("127.0.0.1", port))
    try:
        yield protocol
    finally:
        protocol.close()
        quiet(protocol)
        protocol._transport.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def connected(library: Library, port: int, **options: Any) -> AsyncIterator[Any]:
    """A client of the library's, whose handshake is done."""
    async with connecting(library, port, **options) as protocol:
        await protocol.wait_connected()
        yield protocol


# The library as server


@dataclass
class ServedByThem:
    """A server of the library's."""

    library: Library
    configuration: Any
    port: int = 0
    tickets: dict[bytes, Any] = field(default_factory=dict)
    connections: list[Any] = field(default_factory=list)
    asks_for_certificate: bool = False

    def make(self, quic: Any, *, echoes: bool, **options: Any) -> Any:
        protocol: Any = self.library.protocol(quic, **options)
        protocol.echoes = echoes
        if self.asks_for_certificate:  # there is no public way
            initialize = quic._initialize

            def ask(*arguments: Any) -> None:
                initialize(*arguments)
                quic.tls._request_client_certificate = True

            quic._initialize = ask
        self.connections.append(protocol)
        return protocol

    @property
    def connection(self) -> Any:
        """The latest one."""
        return self.connections[-1]

    async def wait_for(self, condition: Callable[[], Any]) -> Any:
        """Wait until this is true of the latest connection, which is returned."""
        await until(lambda: bool(condition()))
        return self.connection


@asynccontextmanager
async def serving(
    library: Library,
    folder: Path,
    *,
    identity: Any = LOCALHOST,
    echoes: bool = True,
    retry: bool = False,
    asks_for_certificate: bool = False,
    **options: Any,
) -> AsyncIterator[ServedByThem]:
    """A server of the library's, which sends back what comes on streams that have two directions."""
    configuration = library.configured(is_client=False, **options)
    configuration.load_cert_chain(*map(str, save(folder, "server", identity)))
    there = ServedByThem(library, configuration, asks_for_certificate=asks_for_certificate)
    server = await library.serve(
        "127.0.0.1",
        0,
        configuration=configuration,
        create_protocol=partial(there.make, echoes=echoes),
        session_ticket_fetcher=there.tickets.get,
        session_ticket_handler=lambda ticket: there.tickets.__setitem__(ticket.ticket, ticket),
        retry=retry,
    )
    there.port = server._transport.get_extra_info("sockname")[1]
    try:
        yield there
    finally:
        server.close()
        for protocol in there.connections:
            quiet(protocol)
        await asyncio.sleep(0)
