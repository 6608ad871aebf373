"""Memory pairs: what they are, how they fail, and that their sockets behave as the port says."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tieline import (
    TCP,
    TLS,
    UDP,
    ChannelClosedError,
    HandshakeTimeoutError,
    HostPort,
    Parameters,
    PeerAuthentication,
    PeerResetError,
    State,
    TLSError,
    drivers,
)
from tieline.errors import ConnectRefusedError
from tieline.testing import VirtualClock
from tieline.testing.certificates import certificates
from tieline.testing.memory import LARGEST, MemoryDatagrams, MemoryStream, memory_pair

AUTHORITY = certificates()
IDENTITY = AUTHORITY.identity("localhost")
CLIENT, SERVER = TLS(trust=AUTHORITY.trust), TLS(identity=IDENTITY)


# Pairs


@pytest.mark.parametrize(("client", "server"), [(TCP(), None), (CLIENT, SERVER), (UDP(), None)], ids=["tcp", "tls", "udp"])
async def test_a_pair_is_ready_and_reports(client: Any, server: Any) -> None:
    near, far = await memory_pair(client, server)
    async with near, far:
        assert (near.state, far.state) == (State.READY, State.READY)
        assert near.local_endpoint == far.remote_endpoint == HostPort("127.0.0.1", 49152)
        assert near.remote_endpoint == far.local_endpoint == HostPort("127.0.0.1", 443)
        await near.ready()
        await near.send(b"question")
        assert (await far.receive()).content == b"question"
        await far.send(b"an answer")
        assert (await near.receive()).content == b"an answer"
        report = (await near.data_transfer_report()).aggregate
        assert (report.sent_application_byte_count, report.received_application_byte_count) == (8, 9)
        assert report.sent_transport_byte_count and report.sent_transport_byte_count >= 8
        assert report.received_transport_byte_count and report.received_transport_byte_count >= 9
        handshakes = [] if client == UDP() else ["TCP", "TLS"][: len(client.layers) - 1]
        for side in (near, far):
            established = await side.establishment_report()
            assert [one.protocol for one in established.handshakes] == handshakes and established.duration >= 0
            assert side.current_path is not None and str(await side.data_transfer_report())
    assert (near.state, far.state) == (State.CANCELLED, State.CANCELLED)


async def test_tls_is_real() -> None:
    near, far = await memory_pair(TLS(trust=AUTHORITY.trust, alpn=["b", "a"]), TLS(identity=IDENTITY, alpn=["a", "b"]))
    async with near, far:
        session = near.metadata(TLS)
        assert (session.version, session.negotiated_alpn, session.server_name) == ("TLSv1.3", "a", "localhost")
        assert session.peer_certificates == (IDENTITY.certificate,)
        with pytest.raises(RuntimeError, match="TCP has no metadata here"):
            near.metadata(TCP)


async def test_both_sides_may_have_the_same_stack() -> None:
    both = TLS(trust=AUTHORITY.trust, identity=IDENTITY, peer_authentication=PeerAuthentication.REQUIRED)
    near, far = await memory_pair(Parameters(both, send_limit=1000))
    async with near, far:
        assert far.metadata(TLS).peer_certificates == (IDENTITY.certificate,)
        assert near.parameters is far.parameters


ASKING = TLS(identity=IDENTITY, trust=AUTHORITY.trust, peer_authentication=PeerAuthentication.REQUIRED)
STRANGER = certificates().identity("somebody")


@pytest.mark.parametrize(
    ("client", "server", "reason", "where"),
    [
        (CLIENT, TLS(identity=STRANGER), "unknown_authority", "localhost:443"),
        (CLIENT, TLS(identity=AUTHORITY.identity("localhost", valid_until=timedelta(days=-1))), "expired", "localhost:443"),
        (CLIENT, TLS(identity=AUTHORITY.identity("elsewhere.example")), "wrong_name", "localhost:443"),
        (TLS(trust=AUTHORITY.trust, alpn=["a"]), TLS(identity=IDENTITY, alpn=["b"]), "no_common_alpn", "127.0.0.1:49152"),
        # These two are found when the client is ready already.
        (CLIENT, ASKING, "certificate_required", "127.0.0.1:49152"),
        (TLS(trust=AUTHORITY.trust, identity=STRANGER), ASKING, "unknown_authority", "127.0.0.1:49152"),
    ],
)
async def test_who_finds_the_fault_raises(client: TLS, server: TLS, reason: str, where: str) -> None:
    with pytest.raises(TLSError) as caught:
        await memory_pair(client, server)
    assert (caught.value.reason, str(caught.value.endpoint)) == (reason, where)


async def test_stacks_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="a pair has streams or datagrams on both sides, got TCP and UDP"):
        await memory_pair(TCP(), UDP())
    with pytest.raises(ValueError, match="a server needs a certificate and a key"):
        await memory_pair(CLIENT)
    with pytest.raises(ValueError, match="capacity must be at least 1"):
        await memory_pair(TCP(), capacity=0)
    with pytest.raises(TypeError, match="wants a protocol stack"):
        await memory_pair("tcp")  # type: ignore[call-overload]


async def test_a_validator_decides() -> None:
    async def accept(certificates: list[bytes], server_name: str) -> bool:
        await asyncio.sleep(0)
        return certificates == [IDENTITY.certificate] and server_name == "localhost"

    near, far = await memory_pair(TLS(certificate_validator=accept), SERVER)
    async with near, far:
        await far.send(b"hello")
        assert (await near.receive()).content == b"hello"


async def test_cancelled_during_the_handshake() -> None:
    asked = asyncio.Event()

    async def think(certificates: list[bytes], server_name: str) -> bool:
        asked.set()
        await asyncio.Event().wait()
        return True

    pairing = asyncio.create_task(memory_pair(TLS(certificate_validator=think), SERVER))
    await asked.wait()
    pairing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pairing


async def test_a_handshake_that_is_not_answered_in_time() -> None:
    with pytest.raises(HandshakeTimeoutError, match=r"handshake_timeout=0\.05 s"):
        await memory_pair(TLS(trust=AUTHORITY.trust, handshake_timeout=0.05), TCP())


async def test_try_next_endpoint_has_none() -> None:
    near, far = await memory_pair(TCP())
    async with near, far:
        with pytest.raises(RuntimeError, match="no other candidate"):
            near.try_next_endpoint()


async def test_a_pair_that_is_dropped_warns() -> None:
    near, far = await memory_pair(TCP())
    with pytest.warns(ResourceWarning, match="unclosed <NetworkConnection"):
        del near
    with pytest.raises(PeerResetError):
        await far.receive()


def test_a_pair_that_outlives_its_loop() -> None:
    with asyncio.Runner() as runner:
        pair = runner.run(memory_pair(TCP()))
    for connection in pair:
        connection.abort()
        assert connection.state is State.CANCELLED


async def test_datagrams_to_a_peer_that_has_gone() -> None:
    near, far = await memory_pair(UDP())
    async with near:
        await far.aclose()
        assert near.maximum_datagram_size == LARGEST
        await near.send(b"anybody there?")
        with pytest.raises(ConnectRefusedError):
            await near.receive()
    with pytest.raises(ChannelClosedError):
        await near.send(b"")


def test_on_a_loop_with_a_clock_of_its_own() -> None:
    async def main() -> float:
        near, far = await memory_pair(CLIENT, SERVER)
        async with near, far:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3600):
                    await near.receive()
            await far.send(b"late")
            assert (await near.receive()).content == b"late"
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualClock) as runner:
        assert runner.run(main()) == pytest.approx(3600, abs=1)


# The stream sockets


class Log:
    """A handler that writes down what it is told, and whether that came from inside of somebody's call."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.on_received: Callable[[], object] | None = None

    def take(self) -> list[str]:
        said, self.said = self.said, []
        return said

    def connected(self) -> None:
        self.said.append("connected")

    def received(self, data: Any, remote: Any = None, metadata: Any = None) -> None:
        self.said.append(bytes(data).decode())
        if self.on_received is not None:
            self.on_received()

    def received_end(self) -> None:
        self.said.append("end")

    def writable(self) -> None:
        self.said.append("writable")

    def failed(self, error: OSError) -> None:
        assert error.errno is not None
        self.said.append(errno.errorcode[error.errno])


def streams(capacity: int = 10) -> tuple[MemoryStream, Log, MemoryStream, Log]:
    near, far = MemoryStream.pair(drivers.current(), capacity)
    logs = Log(), Log()
    near.handler, far.handler = logs
    near.resume()
    far.resume()
    return near, logs[0], far, logs[1]


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def refusal(socket: MemoryStream) -> str:
    with pytest.raises(OSError) as caught:  # noqa: PT011
        socket.send(b"x")
    assert caught.value.errno is not None
    return errno.errorcode[caught.value.errno]


async def test_a_send_takes_what_there_is_room_for() -> None:
    near, log, far, _ = streams()
    far.pause()
    assert near.send(b"0123456") == 7
    assert near.send(b"789abc") == 3
    assert near.send(b"x") == 0
    assert far.unread() and not near.unread()
    await turns()
    assert log.take() == []
    far.resume()
    assert log.take() == []  # not from inside of a call
    await turns()
    assert log.take() == ["writable"] and not far.unread()
    assert (near.counters().sent_bytes, far.counters().received_bytes) == (10, 10)
    near.abort()


async def test_nobody_is_called_from_inside_of_a_call() -> None:
    near, log, far, other = streams()
    for act in (lambda: near.send(b"data"), lambda: far.send(b"back"), far.end, near.abort):
        act()
        assert (log.take(), other.take()) == ([], [])
        await turns()
        assert log.take() or other.take()
    far.close()


async def test_each_direction_ends_on_its_own() -> None:
    near, log, far, other = streams()
    near.send(b"last")
    near.end()
    near.end()
    assert refusal(near) == "EPIPE"
    await turns()
    assert other.take() == ["last", "end"]
    far.send(b"answer")
    far.close()
    await turns()
    assert log.take() == ["answer", "end"] and other.take() == []
    near.close()


async def test_closing_with_unread_input_resets() -> None:
    near, log, far, _ = streams()
    near.pause()
    far.send(b"read this")
    near.pause()
    near.send(b"kept")
    far.pause()
    near.close()
    near.close()
    far.resume()
    await turns()
    assert refusal(near) == "EBADF"
    handler: Any = far.handler
    assert handler.take() == ["kept", "ECONNRESET"] and log.take() == []


async def test_an_abort_is_told_once() -> None:
    for told in ("the reader", "the writer"):
        near, _, far, other = streams()
        near.send(b"before")
        near.abort()
        near.abort()
        if told == "the writer":
            assert [refusal(far), refusal(far)] == ["ECONNRESET", "EPIPE"]
        far.end()
        await turns()
        assert other.take() == ["before", "ECONNRESET" if told == "the reader" else "end"]
        far.close()


async def test_writing_to_a_peer_that_has_gone() -> None:
    near, log, far, _ = streams()
    far.close()
    await turns()
    assert log.take() == ["end"]
    assert near.send(b"it leaves, and what comes back is a reset") == 41
    assert [refusal(near), refusal(near)] == ["EPIPE", "EPIPE"]
    await turns()
    assert log.take() == []  # the end has been told
    near.abort()


async def test_a_writer_that_waits_is_told_when_the_peer_goes() -> None:
    near, log, far, _ = streams()
    far.pause()
    assert near.send(bytes(20)) == 10
    far.abort()
    await turns()
    assert log.take() == ["writable", "ECONNRESET"]


async def test_after_close_nothing_is_called() -> None:
    near, log, far, other = streams()
    near.send(b"on its way")
    near.end()
    far.close()
    near.abort()
    await turns()
    assert (log.take(), other.take()) == ([], [])
    near, log, far, other = streams()
    other.on_received = far.close
    near.send(b"data")
    near.end()
    await turns()
    assert other.take() == ["data"]
    near.abort()


async def test_a_file_is_sent_as_far_as_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789abcdef")
    near, log, far, other = streams()
    with path.open("rb") as file:
        assert near.send_file(file.fileno(), 0, 16) == 10
        assert near.send_file(file.fileno(), 10, 6) is None
        await turns()
        assert (log.take(), other.take()) == (["writable"], ["0123456789"])
        assert near.send_file(file.fileno(), 10, 6) == 6
        assert near.send_file(file.fileno(), 16, 6) == 0
        far.abort()
        await turns()
    assert log.take() == ["ECONNRESET"]
    near, far = await memory_pair(TCP(), capacity=1000)  # type: ignore[assignment]
    connection: Any
    peer: Any
    connection, peer = near, far
    path.write_bytes(bytes(range(256)) * 100)
    async with connection, peer:
        with path.open("rb") as file:
            sending = asyncio.create_task(connection.send_file(file))
            assert (await peer.receive(exactly=25_600)).content == path.read_bytes()
            assert await sending == 25_600


# The datagram sockets


async def test_datagrams_wait_for_room() -> None:
    near, far = MemoryDatagrams.pair(drivers.current(), Parameters(UDP()), Parameters(UDP()), 10)
    log, other = Log(), Log()
    near.handler, far.handler = log, other
    assert near.send(b"much more than there is room for")  # one always fits
    assert not near.send(b"")
    await turns()
    assert (log.take(), other.take()) == (["writable"], ["much more than there is room for"])
    assert near.send(b"12345") and near.send(b"67890") and not near.send(b"x")
    far.close()
    await turns()
    assert (log.take(), other.take()) == (["writable"], [])
    with pytest.raises(OSError, match="too long"):
        near.send(bytes(LARGEST + 1))
    assert near.send(b"anybody?")
    near.close()
    near.close()
    await turns()
    assert log.take() == []
