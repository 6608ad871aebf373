"""The QUIC engine as Python sees it: two endpoints that exchange datagrams in memory.

What it does on the wire is tested in Rust (rust/engine/tests/quic).
"""

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.engines.test_tls_engine import Identity, make_identity

from tieline._engine.quic import QuicClient, QuicClose, QuicConnection, QuicEndpoint, QuicError, QuicTransport
from tieline._engine.tls import TlsConfig, TlsFailure

CLIENT, SERVER = ("127.0.0.1", 2000), ("::1", 443, 0, 7)
LATENCY = 0.005


class Pair:
    """Two endpoints, and a network that delays each datagram."""

    def __init__(
        self, identity: Identity, *, transport: QuicTransport | None = None, early_data: bool = False, **settings: Any
    ) -> None:
        self.identity = identity
        self.now = 100.0
        server = TlsConfig.server(
            alpn=[b"test"], certificate_chain=[identity.der], private_key=identity.key_der, early_data=early_data
        )
        self.transport = transport or QuicTransport()
        self.client = QuicEndpoint()
        self.server = QuicEndpoint(server=server, transport=self.transport, **settings)
        self.events: dict[QuicEndpoint, list[tuple[int, str, Any]]] = {self.client: [], self.server: []}

    def connect(self, **tls: Any) -> tuple[QuicConnection, QuicConnection]:
        connection = self.start(**tls)
        self.run(0.1)
        [handle] = [handle for handle, kind, _ in self.events[self.server] if kind == "incoming"]
        for endpoint in (self.client, self.server):
            assert "connected" in [kind for _, kind, _ in self.take(endpoint)]
        return connection, self.server.connection(handle)

    def start(self, **tls: Any) -> QuicConnection:
        options = {"alpn": [b"test"], "trust": "certificates", "certificates": [self.identity.der]} | tls
        client = QuicClient(TlsConfig.client(**options), self.transport)
        return self.client.connect(self.now, client, SERVER, "localhost")

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            for ours, theirs, address in ((self.client, self.server, CLIENT), (self.server, self.client, SERVER)):
                if sent := ours.transmit(self.now):
                    assert all(0 < len(data) <= 65_535 and ecn in (0, 2) for data, _, _, ecn, _ in sent)
                    self.now += LATENCY / 10
                    theirs.receive(
                        self.now,
                        [(memoryview(data), address, "127.0.0.1", ecn, size or len(data)) for data, _, _, ecn, size in sent],
                    )
                self.events[ours] += ours.events()
                self.events[theirs] += theirs.events()
            timeouts = [timeout for endpoint in (self.client, self.server) if (timeout := endpoint.timeout()) is not None]
            self.now += LATENCY
            if self.now > end:
                return
            for endpoint in (self.client, self.server):
                if (timeout := endpoint.timeout()) is not None and timeout <= self.now:
                    endpoint.handle_timeout(self.now)
                    assert endpoint.timeout() != timeout
            if not timeouts:
                self.now = end

    def take(self, endpoint: QuicEndpoint) -> list[tuple[int, str, Any]]:
        self.events[endpoint], events = [], self.events[endpoint]
        return events


@pytest.fixture(scope="module")
def identity() -> Identity:
    return make_identity()


def test_streams_both_ways(identity: Identity) -> None:
    pair = Pair(identity)
    client, server = pair.connect()
    assert not client.handshaking and not client.closed and not client.has_early_data
    info = client.info()
    assert (info.version, info.alpn, info.server_name) == ("TLSv1.3", "test", "localhost")
    assert info.peer_certificates == [identity.der]
    assert server.info().group == info.group == "X25519MLKEM768"
    assert client.remote_address == SERVER and server.remote_address == CLIENT
    assert server.local_ip == "127.0.0.1"
    parameters = client.parameters()
    assert (parameters.idle_timeout, parameters.initial_max_bidirectional_streams, parameters.migration) == (30, 100, True)
    assert client.peer_maximum_streams(True) == (100, True)
    assert client.export(b"label", b"", 32) == server.export(b"label", b"", 32)

    stream = client.open(True)
    assert stream == 0
    data = bytes(range(256)) * 1000
    assert client.write(stream, data, end=True) == len(data)
    pair.run(0.5)
    assert (server.handle, "opened", True) in pair.take(pair.server)
    assert server.accept(True) == stream and server.accept(True) is None
    received, end = bytearray(), False
    while not end:
        piece, end = server.read(stream, 100_000)
        received += piece
    assert received == data
    assert server.write(stream, bytearray(b"thanks")) == 6
    server.set_priority(stream, 5)
    server.finish(stream)
    pair.run(0.5)
    assert {"readable", "finished"} <= {kind for _, kind, value in pair.take(pair.client) if value == stream}
    assert client.read(stream) == (b"thanks", True)
    with pytest.raises(QuicError, match="no such stream") as caught:
        client.read(stream)
    assert caught.value.reason == "unknown"
    statistics = client.statistics()
    assert statistics.rtt > 0 and statistics.mtu >= 1200 and statistics.udp_bytes_sent > len(data)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_buffers(identity: Identity, kind: type[Any]) -> None:
    pair = Pair(identity)
    client, server = pair.connect()
    stream = client.open(False)
    assert stream is not None
    content = bytes(range(256)) * 12_288  # 3 MiB, three times what is held
    rest: Any = memoryview(content)
    received, end = bytearray(), False
    while not end:
        written = kind(rest)
        count = client.write(stream, written, end=True)
        if kind is bytearray:
            written[:] = bytes(len(written))  # the engine has what it took
        rest = rest[count:]
        pair.run(0.1)
        server.accept(False)
        piece, end = server.read(stream, len(content))
        received += piece
    assert received == content


def test_shared_bytes_are_let_go(identity: Identity) -> None:
    pair = Pair(identity)
    client, _ = pair.connect()
    stream = client.open(False)
    assert stream is not None
    content = bytes(100_000)
    before = sys.getrefcount(content)
    assert client.write(stream, content) == len(content)
    assert sys.getrefcount(content) > before  # kept, not copied
    pair.run(0.5)
    assert sys.getrefcount(content) == before  # acknowledged


def test_what_is_not_taken_is_not_copied(identity: Identity) -> None:
    pair = Pair(identity)
    client, _ = pair.connect()
    stream = client.open(False)
    assert stream is not None
    client.write(stream, bytes(2 * 1024 * 1024))
    content = memoryview(bytes(64 * 1024 * 1024))
    # Both by the processor's time, which others on a busy machine do not add to.
    begun = time.process_time()
    for _ in range(10):
        bytes(content)
    copied = time.process_time()
    assert [client.write(stream, content) for _ in range(10)] == [0] * 10
    assert time.process_time() - copied < (copied - begun) / 4


def test_giving_up_and_limits(identity: Identity) -> None:
    pair = Pair(identity, transport=QuicTransport(maximum_unidirectional_streams=1, send_window=1000))
    client, server = pair.connect()
    stream = client.open(False)
    assert stream == 2 and client.open(False) is None
    assert client.write(stream, bytes(5000), end=True) == 1000
    pair.run(0.2)
    assert (client.handle, "writable", stream) in pair.take(pair.client)
    assert server.accept(False) == stream
    client.reset(stream, 42)
    pair.run(0.2)
    with pytest.raises(QuicError, match="42") as caught:
        server.read(stream)
    assert (caught.value.reason, caught.value.code) == ("reset", 42)
    with pytest.raises(QuicError) as caught:
        server.write(stream, b"x")
    assert caught.value.reason == "wrong_direction"
    pair.run(0.2)
    assert (client.handle, "available", False) in pair.take(pair.client)
    server.set_maximum_streams(False, 5)
    other = client.open(True)
    assert other is not None
    client.write(other, b"x")
    pair.run(0.2)
    assert server.accept(True) == other
    server.stop_sending(other, 7)
    pair.run(0.2)
    assert (client.handle, "stopped", (other, 7)) in pair.take(pair.client)
    with pytest.raises(ValueError, match=r"2\*\*62"):
        client.reset(other, 2**62)


def test_datagrams(identity: Identity) -> None:
    pair = Pair(identity, transport=QuicTransport(max_datagram_frame_size=65_535, datagram_send_buffer=5000))
    client, server = pair.connect()
    size = client.maximum_datagram_size
    assert size is not None and 1100 < size < 1452
    assert client.send_datagrams([bytes([number]) * 1000 for number in range(6)]) == 4
    assert client.send_datagrams([bytes(1000)]) == 0
    pair.run(0.2)
    assert (client.handle, "datagrams_unblocked", None) in pair.take(pair.client)
    assert (server.handle, "datagrams", None) in pair.take(pair.server)
    assert server.receive_datagrams(1) == [bytes(1000)]
    assert [datagram[0] for datagram in server.receive_datagrams()] == [1, 2, 3]
    assert client.statistics().datagrams_refused == 2
    # What is wrong with one is told when it is the first.
    assert client.send_datagrams([b"x", bytes(5000)]) == 1
    with pytest.raises(QuicError, match="at most") as caught:
        client.send_datagrams([bytes(5000), b"x"])
    assert caught.value.reason == "too_large" and caught.value.code == client.maximum_datagram_size
    client, _ = Pair(identity).connect()
    assert client.maximum_datagram_size is None
    with pytest.raises(QuicError) as caught:
        client.send_datagrams([b"x"])
    assert caught.value.reason == "disabled"


def test_ends(identity: Identity) -> None:
    def lost(endpoint: QuicEndpoint) -> QuicClose:
        [close] = [value for _, kind, value in pair.take(endpoint) if kind == "lost"]
        assert isinstance(close, QuicClose)
        return close

    pair = Pair(identity)
    client, server = pair.connect()
    client.close(pair.now, 4711, b"enough")
    pair.run(5)
    assert lost(pair.client).kind == "local"
    close = lost(pair.server)
    assert (close.kind, close.code, close.reason, close.received) == ("application", 4711, b"enough", True)
    assert close.message.endswith("with code 4711: enough")
    client.release(pair.now)
    server.release(pair.now)
    assert pair.client.connections == pair.server.connections == 0
    with pytest.raises(RuntimeError, match="no such QUIC connection"):
        client.open(True)

    client, server = pair.connect()
    client.set_keepalive(pair.now, 5)
    assert client.keepalive == 5
    pair.run(100)
    assert not client.closed
    client.set_keepalive(pair.now, None)
    pair.run(100)
    assert lost(pair.client).kind == lost(pair.server).kind == "idle_timeout"

    pair.start(certificates=[make_identity().der])
    pair.run(1)
    close = lost(pair.client)
    assert close.kind == "tls" and isinstance(close.tls, TlsFailure)
    assert close.tls.reason == "unknown_authority" and close.message == str(close.tls)
    assert lost(pair.server).received

    pair.server.stop()
    pair.start()
    pair.run(1)
    close = lost(pair.client)
    assert (close.kind, close.code, close.name, close.received) == ("transport", 2, "CONNECTION_REFUSED", True)
    accepted, retried, refused, failed = pair.server.counters
    assert (accepted, retried, failed) == (3, 0, 0) and refused > 0


def test_validators(identity: Identity) -> None:
    asked = []

    def validator(chain: list[bytes], name: str) -> bool:
        asked.append((chain, name))
        with pytest.raises(RuntimeError, match="in use"):
            pair.client.events()
        raise LookupError("on purpose")

    pair = Pair(identity)
    connection = pair.start(trust="validator", certificates=[], validator=validator)
    pair.run(1)
    assert asked == [([identity.der], "localhost")]
    assert isinstance(connection.take_validator_error(), LookupError)
    assert connection.take_validator_error() is None and connection.take_decision() is None
    assert connection.closed


def test_retry_server_ids_and_qlog(identity: Identity, tmp_path: Path) -> None:
    transport = QuicTransport(qlog=str(tmp_path))
    pair = Pair(identity, transport=transport, retry_above=0, server_id=b"abc", reset_key=bytes(32), token_key=bytes(32))
    client, _ = pair.connect()
    assert pair.server.counters[1] > 0
    client.migrate(pair.now)
    client.update_keys()
    client.ping()
    pair.run(1)
    assert not client.closed
    for endpoint in (pair.client, pair.server):
        endpoint.connection(1).release(pair.now)
    pair.run(5)
    logs = [log.read_text() for log in tmp_path.iterdir()]
    assert len(logs) == 2 and all("recovery:metrics_updated" in log for log in logs)


def test_early_data_and_key_log(identity: Identity, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    pair = Pair(identity, early_data=True)
    tls = TlsConfig.client(
        alpn=[b"test"], trust="certificates", certificates=[identity.der], early_data=True, keylog_file=str(keys)
    )
    config = QuicClient(tls, pair.transport)
    first = pair.client.connect(pair.now, config, SERVER, "localhost")
    assert not first.has_early_data
    pair.run(1)
    assert "CLIENT_TRAFFIC_SECRET_0" in keys.read_text()
    pair.take(pair.server)
    second = pair.client.connect(pair.now, config, SERVER, "localhost")
    assert second.has_early_data and second.handshaking
    stream = second.open(True)
    assert stream == 0
    second.write(stream, b"early", end=True)
    pair.run(1)
    handle, kind, _ = pair.take(pair.server)[0]
    assert kind == "incoming"
    server = pair.server.connection(handle)
    assert server.accept(True) == stream and server.read(stream) == (b"early", True)
    assert server.info().early_data_accepted and second.info().early_data_accepted
    second.set_send_window(10)
    server.set_receive_window(10_000)
    stream = second.open(True)
    assert stream is not None and second.write(stream, bytes(20)) == 10


def test_what_cannot_be_made(identity: Identity) -> None:
    endpoints: list[tuple[dict[str, Any], str]] = [
        ({"server_id": bytes(14)}, "1 to 13 bytes"),
        ({"server_id": b"x", "server_id_rotation": 7}, "0 to 6"),
        ({"maximum_udp_payload": 1000}, "1200 to 65527"),
        ({"server": TlsConfig.client(alpn=[], trust="none")}, "server's configuration"),
    ]
    for settings, text in endpoints:
        with pytest.raises(ValueError, match=text):
            QuicEndpoint(**settings)
    transports: list[tuple[dict[str, Any], str]] = [
        ({"idle_timeout": -1.0}, "no time"),
        ({"congestion": "reno"}, "cubic, newreno or bbr"),
        ({"initial_mtu": 1000}, "1200 at least"),
        ({"receive_window": 2**62}, r"2\*\*62"),
    ]
    for options, text in transports:
        with pytest.raises(ValueError, match=text):
            QuicTransport(**options)
    with pytest.raises(ValueError, match=r"1\.3"):
        QuicClient(TlsConfig.client(alpn=[], trust="none", maximum_version="TLSv1.2"))
    endpoint = QuicEndpoint()
    client = QuicClient(TlsConfig.client(alpn=[], trust="none"))
    for now, remote, name, text in (
        (float("nan"), SERVER, "localhost", "no time"),
        (-1.0, SERVER, "localhost", "no time"),
        (0.0, ("localhost", 443), "localhost", "no IP address"),
        (0.0, ("127.0.0.1", 0), "localhost", "nobody can be reached"),
        (0.0, SERVER, "not a name", "neither a host name"),
    ):
        with pytest.raises(ValueError, match=text):
            endpoint.connect(now, client, remote, name)
    assert endpoint.timeout() is None and endpoint.transmit(0) == [] and endpoint.events() == []
    assert not endpoint.poisoned
