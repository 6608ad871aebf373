"""What type checkers know of QUIC connections, streams and datagrams. Checked by tests/test_typing.py, never run."""

from collections.abc import AsyncIterator
from typing import assert_type

from tieline import (
    QUIC,
    TCP,
    TLS,
    ApplicationError,
    DatagramMetadata,
    Directionality,
    Initiator,
    Message,
    NetworkConnection,
    NetworkListener,
    Parameters,
    QUICDatagram,
    QUICStream,
    StreamMetadata,
    TLSMetadata,
    UInt32,
)


async def streams(connection: NetworkConnection[QUIC]) -> None:
    stream = await connection.open_stream()
    assert_type(stream, QUIC.Stream[QUICStream])
    assert_type(await connection.open_stream(directionality=Directionality.UNIDIRECTIONAL), QUIC.Stream[QUICStream])
    assert_type(await connection.open_stream(using=QUICStream()), QUIC.Stream[QUICStream])
    assert_type(await connection.open_stream(using=Parameters(QUICStream(), send_limit=9)), QUIC.Stream[QUICStream])
    assert_type(await stream.receive(exactly=5), Message[bytes, StreamMetadata])
    assert_type(await stream.receive(as_=UInt32), Message[int, StreamMetadata])
    assert_type(await stream.receive_into(bytearray(9)), int)
    await stream.send(UInt32(7))
    await stream.send(memoryview(b"abc"), end_of_stream=True)
    assert_type(stream.__aiter__(), AsyncIterator[Message[bytes, StreamMetadata]])
    assert_type(stream.stream_id, int)
    assert_type(stream.directionality, Directionality)
    assert_type(stream.initiator, Initiator)
    stream.priority = 5
    await stream.reset(7)
    stream.stop_sending(7)
    async with stream as same:
        assert_type(same, QUIC.Stream[QUICStream])
    await stream.send("text")  # type: ignore[arg-type]
    await stream.send_many([b"x"])  # type: ignore[misc]
    await connection.open_stream(directionality="both")  # type: ignore[call-overload]


async def inbound(connection: NetworkConnection[QUIC]) -> None:
    async def handler(stream: QUIC.Stream[QUICStream]) -> None:
        await stream.send((await stream.receive()).content)

    async def wrong(connection: NetworkConnection[TCP]) -> None: ...

    await connection.inbound_streams(handler)
    await connection.inbound_streams(handler, using=QUICStream())
    await connection.inbound_streams(wrong)  # type: ignore[arg-type]


async def datagrams(connection: NetworkConnection[QUIC]) -> None:
    channel = await connection.datagrams()
    assert_type(channel, QUIC.Datagrams[QUICDatagram])
    assert_type(await channel.receive(), Message[bytes, DatagramMetadata])
    assert_type(await channel.receive_many(), list[Message[bytes, DatagramMetadata]])
    await channel.send_many([b"x", bytearray(b"y")])
    async for content, metadata in channel.messages:
        assert_type(content, bytes)
        assert_type(metadata, DatagramMetadata)
    await channel.receive(exactly=3)  # type: ignore[call-arg]


async def properties(connection: NetworkConnection[QUIC]) -> None:
    assert_type(connection.application_error, ApplicationError)
    connection.application_error = ApplicationError(7, "because")
    assert_type(connection.keepalive, float | None)
    connection.keepalive = 5
    assert_type(connection.negotiated_alpn, str | None)
    assert_type(connection.remote_idle_timeout, float | None)
    assert_type(connection.remote_max_streams_bidirectional, int)
    assert_type(connection.usable_datagram_frame_size, int)
    assert_type(connection.security_metadata, TLSMetadata)
    await connection.migrate()
    await connection.migrate("127.0.0.1:0")
    connection.keepalive = "5"  # type: ignore[assignment]
    connection.application_error = 7  # type: ignore[assignment]


async def only_there(quic: NetworkConnection[QUIC], tcp: NetworkConnection[TCP], tls: NetworkConnection[TLS]) -> None:
    await quic.send(b"x")  # type: ignore[misc]
    await quic.receive()  # type: ignore[misc]
    quic.__aiter__()  # type: ignore[misc]
    await tcp.open_stream()  # type: ignore[misc]
    await tls.datagrams()  # type: ignore[misc]
    await tls.migrate()  # type: ignore[misc]


async def listening() -> None:
    async def handler(connection: NetworkConnection[QUIC]) -> None:
        await connection.inbound_streams(on_stream)

    async def on_stream(stream: QUIC.Stream[QUICStream]) -> None: ...

    async with NetworkListener(QUIC(alpn=["test"])).serving(handler) as listener:
        assert_type(listener, NetworkListener[QUIC])
