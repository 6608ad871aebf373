"""Reports add up, know what they do not know, and read well."""

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieline.endpoints import HostPort, UnixEndpoint, URLEndpoint
from tieline.paths import Interface, InterfaceType
from tieline.reports import (
    DataTransferReport,
    DNSProtocol,
    EstablishmentReport,
    Handshake,
    PathReport,
    RadioType,
    Resolution,
    ResolutionSource,
    TransportCounters,
)

ETH0 = Interface("eth0", 2, InterfaceType.WIRED, ("192.0.2.2",))
WLAN0 = Interface("wlan0", 3, InterfaceType.WIFI, ("192.0.2.3",))

RESOLUTION = Resolution(ResolutionSource.QUERY, 0.0012, 2, HostPort("::1", 443), HostPort("127.0.0.1", 443), DNSProtocol.UDP)
ESTABLISHED = EstablishmentReport(0.0123, 0.0, 0, (RESOLUTION,), (Handshake("TCP", 0.0004, 0.00031), Handshake("TLS", 0.0081)))
WIRED = PathReport(
    interface=ETH0,
    received_ip_packet_count=1240,
    sent_ip_packet_count=912,
    received_transport_byte_count=1_600_000,
    sent_transport_byte_count=2000,
    retransmitted_transport_byte_count=100,
    transport_smoothed_rtt=0.00031,
    transport_minimum_rtt=0.0002,
    transport_rtt_variance=0.00004,
    received_application_byte_count=1_570_000,
    sent_application_byte_count=7,
)
WIRELESS = PathReport(
    interface=WLAN0,
    radio_type=RadioType.WIFI_AX,
    received_ip_packet_count=3,
    sent_ip_packet_count=4,
    received_application_byte_count=5,
    sent_application_byte_count=6,
)


def test_between_two_readings() -> None:
    start = TransportCounters(10, 20, 1000, 1, 2, 5000, 500, 0.9, 0.8, 0.7)
    end = TransportCounters(15, 27, 3000, 4, 6, 9000, 700, 0.03, 0.02, 0.01)
    assert PathReport.between(
        start, end, interface=ETH0, received_application_byte_count=1900, sent_application_byte_count=3700
    ) == PathReport(
        interface=ETH0,
        received_ip_packet_count=5,
        sent_ip_packet_count=7,
        received_transport_byte_count=2000,
        received_transport_duplicate_byte_count=3,
        received_transport_out_of_order_byte_count=4,
        sent_transport_byte_count=3800,  # 4000 left, of which 200 for the second time
        retransmitted_transport_byte_count=200,
        transport_smoothed_rtt=0.03,
        transport_minimum_rtt=0.02,
        transport_rtt_variance=0.01,
        received_application_byte_count=1900,
        sent_application_byte_count=3700,
    )


def between(start: TransportCounters, end: TransportCounters) -> PathReport:
    return PathReport.between(start, end, interface=None, received_application_byte_count=0, sent_application_byte_count=0)


def test_what_one_reading_lacks_is_unknown() -> None:
    everything = TransportCounters(1, 1, 1, 1, 1, 1, 1, 1.0, 1.0, 1.0)
    nothing = PathReport(received_application_byte_count=0, sent_application_byte_count=0)
    assert between(everything, TransportCounters()) == nothing
    assert between(TransportCounters(), everything._replace(smoothed_rtt=None)) == replace(
        nothing, transport_minimum_rtt=1.0, transport_rtt_variance=1.0
    )


def test_without_a_count_of_retransmissions_all_sent_bytes_count() -> None:
    report = between(TransportCounters(sent_bytes=10), TransportCounters(sent_bytes=30))
    assert (report.sent_transport_byte_count, report.retransmitted_transport_byte_count) == (20, None)


def test_packet_counts_of_32_bits_may_wrap() -> None:
    report = between(TransportCounters(received_packets=2**32 - 5), TransportCounters(received_packets=3))
    assert report.received_ip_packet_count == 8


def test_aggregate_sums_and_takes_the_rest_from_the_primary_path() -> None:
    total = PathReport.aggregate([WIRED, WIRELESS])
    assert total == replace(
        WIRED,
        received_ip_packet_count=1243,
        sent_ip_packet_count=916,
        received_transport_byte_count=None,  # one path does not tell, so there is no sum
        sent_transport_byte_count=None,
        retransmitted_transport_byte_count=None,
        received_application_byte_count=1_570_005,
        sent_application_byte_count=13,
    )
    assert PathReport.aggregate([WIRELESS]) == WIRELESS
    with pytest.raises(ValueError, match="expected at least one path report to aggregate, got none"):
        PathReport.aggregate([])


def test_a_path_report_has_the_fields_of_the_reference() -> None:
    assert len(fields(PathReport)) == 14


def test_established_at_once() -> None:
    assert (
        str(ESTABLISHED)
        == """\
Established in 12.3 ms, at the first attempt
  resolution          1.20 ms  2 endpoints from query over UDP
    tried first                [::1]:443
    succeeded                  127.0.0.1:443
  TCP                 0.40 ms  round trip 0.31 ms
  TLS                 8.10 ms  round trip –"""
    )


def test_established_late_through_a_proxy() -> None:
    proxy = HostPort("proxy.example", 1080)
    late = EstablishmentReport(
        1.5,
        62.1,
        1,
        (Resolution(ResolutionSource.CACHE, 0.0, 1, None, None, DNSProtocol.UNKNOWN),),
        (Handshake("TCP", 0.0234, None),),
        used_proxy=True,
        proxy_configured=True,
        proxy_endpoint=proxy,
    )
    assert (
        str(late)
        == """\
Established in 1.50 s, after 1 attempt in 62.10 s
  resolution          0.00 ms  1 endpoint from cache
    tried first                –
    succeeded                  –
  TCP                 23.4 ms  round trip –
  proxy                  used  proxy.example:1080"""
    )
    assert "\n  proxy              not used  proxy.example:1080" in str(replace(late, used_proxy=False))


def test_established_without_anything_to_tell() -> None:
    assert str(EstablishmentReport(0.0, 0.0, 0, (), ())) == "Established in 0.00 ms, at the first attempt"


def test_transferred_over_one_path() -> None:
    assert (
        str(DataTransferReport(1.25, (WIRED,), WIRED))
        == """\
Data transfer during 1.25 s over eth0 (wired)
                     received        sent
  application         1.5 MiB         7 B
  transport           1.5 MiB     2.0 KiB
    out of order            –
    duplicate               –
    retransmitted                   100 B
  IP packets            1,240         912
  round trip          0.31 ms  smoothed
                      0.20 ms  minimum
                      0.04 ms  variance"""
    )


def test_transferred_over_two_paths() -> None:
    text = str(DataTransferReport(0.25, (WIRED, WIRELESS), PathReport.aggregate([WIRED, WIRELESS])))
    whole, wired, wireless = text.split("\n\n")
    assert whole.startswith("Data transfer during 250.0 ms over eth0 (wired) and wlan0 (Wi-Fi ax)\n")
    assert wired == f"of which over eth0 (wired)\n{WIRED}"
    assert wireless == f"of which over wlan0 (Wi-Fi ax)\n{WIRELESS}"
    assert "  transport                 –           –\n" in wireless


def test_a_path_without_interface_is_unknown() -> None:
    assert str(DataTransferReport(0, (between(TransportCounters(), TransportCounters()),), WIRED)).startswith(
        "Data transfer during 0.00 ms over –\n"
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (1024**2 - 1, "1024.0 KiB"),
        (1024**2, "1.0 MiB"), (1024**3, "1.0 GiB"), (1024**4, "1.0 TiB"), (5 * 1024**5, "5120.0 TiB"),
    ],
)  # fmt: skip
def test_sizes(count: int, text: str) -> None:
    assert f" {text} " in str(replace(WIRED, received_application_byte_count=count)).splitlines()[1]


def test_a_terminal_shows_each_line_whole() -> None:
    long = URLEndpoint(f"wss://example.com/{'x' * 100}")
    evil = UnixEndpoint("/run/\x1b[31m\n\udc80")
    text = str(replace(ESTABLISHED, resolutions=(replace(RESOLUTION, preferred_endpoint=long, successful_endpoint=evil),)))
    assert len(text.splitlines()) == 6
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.splitlines()[2].endswith("xxx…")
    assert text.splitlines()[3].endswith("unix:/run/�[31m��")
    text.encode()


counts = st.none() | st.integers(0, 2**64)
seconds = st.none() | st.floats(0, 1e6)
path_reports = st.builds(
    PathReport,
    interface=st.none() | st.sampled_from([ETH0, WLAN0]),
    radio_type=st.none() | st.sampled_from(RadioType),
    received_ip_packet_count=counts,
    sent_ip_packet_count=counts,
    received_transport_byte_count=counts,
    sent_transport_byte_count=counts,
    transport_smoothed_rtt=seconds,
    received_application_byte_count=st.integers(0, 2**64),
    sent_application_byte_count=st.integers(0, 2**64),
)


@given(st.floats(0, 1e6), st.lists(path_reports, min_size=1, max_size=3))
def test_any_report_is_a_table_that_fits(duration: float, paths: list[PathReport]) -> None:
    text = str(DataTransferReport(duration, tuple(paths), PathReport.aggregate(paths)))
    assert all(len(line) <= 80 and line == line.rstrip() for line in text.splitlines())
    tables = 1 if len(paths) == 1 else len(paths) + 1
    assert text.count("received") == tables and "None" not in text


def test_reports_are_values() -> None:
    report: Any = ESTABLISHED
    with pytest.raises(AttributeError):
        report.duration = 1.0
    assert hash(ESTABLISHED) == hash(replace(ESTABLISHED))
    assert replace(WIRED) == WIRED != WIRELESS
