"""What type checkers know of connections and listeners. Checked by tests/test_typing.py, never run.

A `type: ignore` here is an assertion: the line must be an error, or the checker reports the comment as unused.
"""

from collections.abc import AsyncIterator
from typing import Any, assert_type

from tieline import (
    ECN,
    IP,
    TCP,
    TLS,
    UDP,
    Attempt,
    Coder,
    ConnectError,
    DatagramMetadata,
    DataTransferReport,
    EstablishmentReport,
    IncompleteReceiveError,
    IPMetadata,
    Message,
    NetworkConnection,
    NetworkListener,
    Parameters,
    Path,
    PathMonitor,
    ServiceClass,
    State,
    StreamMetadata,
    TCPMetadata,
    TLSMetadata,
    UDPMetadata,
    UInt16,
    UInt32,
)


def constructing() -> None:
    assert_type(NetworkConnection("example.com:443", TLS()), NetworkConnection[TLS])
    assert_type(NetworkConnection(("example.com", 80), Parameters(TCP(), local_port=0)), NetworkConnection[TCP])
    assert_type(Parameters(UDP()), Parameters[UDP])
    assert_type(NetworkListener(UDP(), on=5353), NetworkListener[UDP])
    NetworkConnection("example.com:443", "tls")  # type: ignore[arg-type]
    TLS(UDP())  # type: ignore[arg-type]
    TCP(no_delay=True, keepalive=30)  # type: ignore[arg-type]


async def streams(tcp: NetworkConnection[TCP], tls: NetworkConnection[TLS]) -> None:
    assert_type(await tcp.receive(exactly=5), Message[bytes, StreamMetadata])
    assert_type(await tls.receive(at_least=1, at_most=9), Message[bytes, StreamMetadata])
    assert_type(await tls.receive(until=b"\n"), Message[bytes, StreamMetadata])
    assert_type(await tcp.receive(as_=UInt16), Message[int, StreamMetadata])
    assert_type((await tcp.receive()).metadata.end_of_stream, bool)
    assert_type(await tcp.receive_into(bytearray(9), exactly=True), int)
    await tcp.send(UInt32(7))
    await tls.send(memoryview(b"abc"), end_of_stream=True)
    assert_type(tcp.__aiter__(), AsyncIterator[Message[bytes, StreamMetadata]])
    async for content, metadata in tls:
        assert_type(content, bytes)
        assert_type(metadata, StreamMetadata)
    await tcp.send("text")  # type: ignore[arg-type]
    await tcp.receive(exactly=1, until=b"x")  # type: ignore[call-overload]
    await tcp.receive_many()  # type: ignore[misc]
    await tls.send_many([b"x"])  # type: ignore[misc]


async def datagrams(udp: NetworkConnection[UDP]) -> None:
    assert_type(await udp.receive(), Message[bytes, DatagramMetadata])
    assert_type(await udp.receive_many(), list[Message[bytes, DatagramMetadata]])
    async for content, metadata in udp.messages:
        assert_type(content, bytes)
        assert_type(metadata, DatagramMetadata)
    async for _, metadata in udp:
        assert_type(metadata, DatagramMetadata)
    await udp.send(b"x", end_of_stream=True)  # type: ignore[call-arg]
    await udp.receive(exactly=3)  # type: ignore[call-arg]
    await udp.receive_into(bytearray(1))  # type: ignore[misc]
    udp.send_idempotent(b"x")  # type: ignore[misc]


async def packets(udp: NetworkConnection[UDP], tcp: NetworkConnection[TCP], coder: NetworkConnection[Coder[int, int]]) -> None:
    assert_type(UDP(IP(metadata_received=True, receive_time_calculated=True)), UDP)
    await udp.send(b"x", metadata=IPMetadata(ecn=ECN.ECT_0, hop_limit=1, fragmentation_disabled=True))
    await udp.send_many([b"x"], metadata=IPMetadata(service_class=ServiceClass.SIGNALING))
    await udp.send(b"x", metadata=None)
    await coder.send(7, metadata=IPMetadata(dscp=46))
    ip = (await udp.receive()).metadata.ip
    assert_type(ip, IPMetadata | None)
    if ip is not None:
        assert_type(ip.ecn, ECN | None)
        assert_type(ip.dscp, int | None)
        assert_type(ip.hop_limit, int | None)
        assert_type(ip.receive_time, float | None)
    assert_type(ServiceClass.SIGNALING.dscp, int)
    await udp.send(b"x", metadata=ECN.CE)  # type: ignore[arg-type]
    await udp.send_many([b"x"], metadata={"ecn": 1})  # type: ignore[arg-type]
    await tcp.send(b"x", metadata=IPMetadata())  # type: ignore[call-arg]
    print((await tcp.receive()).metadata.ip)  # type: ignore[attr-defined]
    IPMetadata(ecn=1)  # type: ignore[arg-type]


async def knowing(tls: NetworkConnection[TLS], udp: NetworkConnection[UDP]) -> None:
    assert_type(tls.metadata(TLS), TLSMetadata)
    assert_type(tls.metadata(TCP), TCPMetadata)
    assert_type(udp.metadata(UDP), UDPMetadata)
    assert_type(tls.current_path, Path | None)
    assert_type(await tls.establishment_report(), EstablishmentReport)
    assert_type(await tls.start_data_transfer_report().collect(), DataTransferReport)
    async for state in tls.state_updates():
        assert_type(state, State)
    async for path in PathMonitor():
        assert_type(path, Path)
    tls.on_state_update(lambda connection, state: assert_type(state, State))


async def listening() -> None:
    async def stream_handler(connection: NetworkConnection[TCP]) -> None:
        await connection.send(b"x")

    async def datagram_handler(connection: NetworkConnection[UDP]) -> None:
        await connection.send(b"x")

    async with NetworkListener(TCP()).serving(stream_handler) as listener:
        assert_type(listener, NetworkListener[TCP])
        assert_type(listener.port, int)
    NetworkListener(TCP()).serving(datagram_handler)  # type: ignore[arg-type]
    NetworkListener(TCP()).serving(lambda connection: None)  # type: ignore[arg-type, return-value]


def failing(error: Exception) -> Any:
    if isinstance(error, ConnectError):
        assert_type(error.attempts, tuple[Attempt, ...])
        assert isinstance(error, OSError)
    if isinstance(error, IncompleteReceiveError):
        assert_type(error.partial, bytes)
        assert_type(error.expected, int | None)
