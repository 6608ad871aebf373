"""What a connection tells of its establishment and its transfer, on real sockets."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tieline import (
    TCP,
    TLS,
    UDP,
    HostPort,
    NetworkConnection,
    NetworkListener,
    State,
)
from tieline.drivers.asyncio import AsyncioDriver
from tieline.reports import DNSProtocol, EstablishmentReport, ResolutionSource

from ..authority import LOCALHOST, TRUST

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's")
SECURE = TLS(identity=LOCALHOST), TLS(trust=TRUST, server_name="localhost")


async def echo(connection: NetworkConnection[Any]) -> None:
    async for piece in connection:
        await connection.send(piece.content)


@asynccontextmanager
async def echoing(server: Any, client: Any) -> AsyncIterator[NetworkConnection[Any]]:
    async with (
        NetworkListener(server, on="127.0.0.1:0").serving(echo) as listener,
        NetworkConnection(listener.endpoint, client) as connection,
    ):
        yield connection


@pytest.mark.parametrize(("stacks", "protocols"), [((TCP(), TCP()), ["TCP"]), (SECURE, ["TCP", "TLS"]), ((UDP(), UDP()), [])])
async def test_an_establishment_report_has_every_handshake(stacks: Any, protocols: list[str]) -> None:
    async with echoing(*stacks) as connection:
        report = await connection.establishment_report()  # starts it, and waits
        assert connection.state is State.READY
        assert [one.protocol for one in report.handshakes] == protocols
        assert all(0 < one.duration < 1 and one.rtt is not None and 0 < one.rtt < 1 for one in report.handshakes)
        assert sum(one.duration for one in report.handshakes) <= report.duration < 1
        assert report.attempt_started_after == 0 and report.previous_attempt_count == 0
        assert report.resolutions == () and not report.used_proxy and not report.proxy_configured
        assert report.proxy_endpoint is None
        assert await connection.establishment_report() == report


async def test_a_and_aaaa_of_one_name_are_one_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(_: object, host: str, port: int, version: int) -> list[HostPort]:
        await asyncio.sleep(0.02)
        return [HostPort(one, port) for one in (("::1",) if version == 6 else ("127.0.0.1", "127.0.0.2"))]

    monkeypatch.setattr(AsyncioDriver, "resolve", resolve)
    async with (
        NetworkListener(TCP(), on="127.0.0.1:0").serving(echo) as listener,
        NetworkConnection(("host.test", listener.port), TCP()) as connection,
    ):
        (resolution,) = (await connection.establishment_report()).resolutions
    assert resolution.endpoint_count == 3 and 0.015 < resolution.duration < 1
    assert resolution.source is ResolutionSource.QUERY and resolution.dns_protocol is DNSProtocol.UNKNOWN
    assert resolution.preferred_endpoint == HostPort("::1", listener.port)
    assert resolution.successful_endpoint == HostPort("127.0.0.1", listener.port)


async def test_attempts_that_ended_in_waiting_are_counted() -> None:
    async with NetworkListener(TCP(), on="127.0.0.1:0").serving(echo) as listener:
        port = listener.port
    connection = NetworkConnection(("127.0.0.1", port), TCP())
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            await connection.establishment_report()
        await asyncio.sleep(0.05)
    async with NetworkListener(TCP(), on=("127.0.0.1", port)).serving(echo), connection:
        report = await connection.establishment_report()
        assert report.previous_attempt_count == 2 and report.attempt_started_after > 0.09
        assert report.duration < 0.09 and "after 2 attempts" in str(report)


@pytest.mark.parametrize(("stacks", "protocols"), [((TCP(), TCP()), ["TCP"]), (SECURE, ["TCP", "TLS"])])
async def test_an_accepted_connection_reports_too(stacks: Any, protocols: list[str]) -> None:
    reports: list[EstablishmentReport] = []

    async def handler(connection: NetworkConnection[Any]) -> None:
        reports.append(await connection.establishment_report())

    async with (
        NetworkListener(stacks[0], on="127.0.0.1:0").serving(handler) as listener,
        NetworkConnection(listener.endpoint, stacks[1]) as connection,
    ):
        assert not [piece async for piece in connection]
    (report,) = reports
    assert [one.protocol for one in report.handshakes] == protocols and 0 <= report.duration < 1


@on_linux
@pytest.mark.parametrize("stacks", [(TCP(), TCP()), SECURE])
async def test_a_transfer_report_of_a_stream_is_complete(stacks: Any) -> None:
    size = 300_000
    async with echoing(*stacks) as connection:
        await connection.ready()
        _, received = await asyncio.gather(connection.send(bytes(size)), connection.receive(exactly=size))
        assert len(received.content) == size
        report = await connection.data_transfer_report()
    (path,) = report.path_reports
    assert path == report.aggregate and 0 < report.duration < 5
    assert path.interface is not None and path.interface.name == "lo" and path.radio_type is None
    assert path.sent_application_byte_count == path.received_application_byte_count == size
    for count in (path.sent_transport_byte_count, path.received_transport_byte_count):
        assert count is not None and size <= count < size * 1.1
    for count in (path.sent_ip_packet_count, path.received_ip_packet_count):
        assert count is not None and 0 < count < 1000
    assert path.retransmitted_transport_byte_count == 0
    for time in (path.transport_smoothed_rtt, path.transport_minimum_rtt, path.transport_rtt_variance):
        assert time is not None and 0 <= time < 1
    # The kernel has no byte counts of these.
    assert path.received_transport_duplicate_byte_count is path.received_transport_out_of_order_byte_count is None


async def test_a_transfer_report_of_datagrams_is_counted_by_us() -> None:
    async with echoing(UDP(), UDP()) as connection:
        for _ in range(3):
            await connection.send(bytes(100))
            await connection.receive()
        path = (await connection.data_transfer_report()).aggregate
    assert path.sent_application_byte_count == path.received_application_byte_count == 300
    assert path.sent_transport_byte_count == path.received_transport_byte_count == 300
    assert path.sent_ip_packet_count == path.received_ip_packet_count == 3
    assert path.transport_smoothed_rtt is None


@pytest.mark.parametrize("stacks", [(TCP(), TCP()), (UDP(), UDP())])
async def test_several_reports_run_at_once_and_each_from_its_own_beginning(stacks: Any) -> None:
    async with echoing(*stacks) as connection:
        whole = connection.start_data_transfer_report()  # before ready: runs from there
        await asyncio.sleep(0.02)

        async def exchange() -> None:
            await connection.send(b"12345")
            await connection.receive()

        await exchange()
        second = connection.start_data_transfer_report()
        await exchange()
        third = connection.start_data_transfer_report()
        await exchange()
        counts = [(await one.collect()).aggregate.received_application_byte_count for one in (whole, second, third)]
        assert counts == [15, 10, 5]
        await exchange()
        assert (await whole.collect()).aggregate.received_application_byte_count == 15, "collected once"
        assert await whole.collect() is await whole.collect()
        report = await connection.data_transfer_report()
        assert report.aggregate.received_application_byte_count == 20
        assert (await whole.collect()).duration < report.duration


@pytest.mark.parametrize("graceful", [True, False])
async def test_a_closed_connection_can_still_be_asked(graceful: bool) -> None:
    async with echoing(TCP(), TCP()) as connection:
        pending = connection.start_data_transfer_report()
        await connection.send(b"12345")
        await connection.receive()
        if graceful:
            await connection.aclose()
        else:
            connection.abort()
        await asyncio.sleep(0.1)
        for report in (await connection.data_transfer_report(), await pending.collect()):
            assert report.aggregate.received_application_byte_count == 5 and report.duration < 0.09
            assert report.aggregate.interface is not None
            if sys.platform == "linux":
                assert report.aggregate.received_transport_byte_count == 5


async def test_a_failed_connection_can_still_be_asked() -> None:
    async def reset(connection: NetworkConnection[Any]) -> None:
        await connection.receive()
        connection.abort()

    async with NetworkListener(TCP(), on="127.0.0.1:0").serving(reset) as listener:
        connection = NetworkConnection(listener.endpoint, TCP())
        await connection.send(b"12345")
        with pytest.raises(ConnectionResetError):
            await connection.receive()
        assert connection.state is State.FAILED
        report = await connection.data_transfer_report()
        await asyncio.sleep(0.02)
        assert (await connection.data_transfer_report()).duration == report.duration
        assert report.aggregate.sent_application_byte_count == 5
        str(report)


async def test_a_connection_that_was_never_ready_has_nothing_to_report() -> None:
    connection = NetworkConnection("127.0.0.1:9", TCP())
    pending = connection.start_data_transfer_report()
    connection.abort()
    for call in (connection.data_transfer_report, pending.collect):
        with pytest.raises(RuntimeError, match="has never been ready"):
            await call()


async def test_the_next_endpoint_counts_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(_: object, host: str, port: int, version: int) -> list[HostPort]:
        return [] if version == 6 else [HostPort("127.0.0.1", port), HostPort("127.0.0.2", port)]

    monkeypatch.setattr(AsyncioDriver, "resolve", resolve)
    async with (
        NetworkListener(TCP(), on=("0.0.0.0", 0)).serving(echo) as listener,
        NetworkConnection(("host.test", listener.port), TCP()) as connection,
    ):
        await connection.send(bytes(1000))
        await connection.receive(exactly=1000)
        pending = connection.start_data_transfer_report()
        connection.try_next_endpoint()
        await connection.send(bytes(10))
        await connection.receive(exactly=10)
        report = await pending.collect()
        assert report.aggregate.sent_application_byte_count == 10
        if sys.platform == "linux":
            assert report.aggregate.sent_transport_byte_count == 10
        assert (await connection.establishment_report()).handshakes[0].protocol == "TCP"


async def test_reports_print_as_tables() -> None:
    async with echoing(*SECURE) as connection:
        await connection.send(b"12345")
        await connection.receive()
        established = str(await connection.establishment_report())
        moved = str(await connection.data_transfer_report())
    print(established, moved, sep="\n")
    assert established.startswith("Established in ") and "TLS" in established and "round trip" in established
    assert moved.startswith("Data transfer during ") and "application" in moved and "5 B" in moved
    assert all(len(line) <= 80 for line in [*established.splitlines(), *moved.splitlines()])


async def test_a_unix_socket_reports_without_tcp(tmp_path: Any) -> None:
    place = f"unix:{tmp_path}/socket"
    async with NetworkListener(TCP(), on=place).serving(echo), NetworkConnection(place, TCP()) as connection:
        await connection.send(b"12345")
        await connection.receive()
        path = (await connection.data_transfer_report()).aggregate
        assert path.sent_application_byte_count == 5 and path.sent_transport_byte_count is None
        assert path.interface is None
        str(await connection.establishment_report())
