"""Destination ordering: RFC 6724 section 6 and the interleaving of RFC 8305 section 4."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieline.endpoints import HostPort
from tieline.establishment.ordering import interleave, sort_destinations


def sort(*routes: tuple[str, str | None]) -> list[str]:
    """Sort pairs of destination and source and return the destinations."""
    sources = dict(routes)
    addresses = [HostPort(destination, 443) for destination in sources]
    return [address.host for address in sort_destinations(addresses, lambda address: sources[address.host])]


def alternate(*hosts: str, first_family_count: int = 1) -> list[str]:
    return [address.host for address in interleave([HostPort(host, 443) for host in hosts], first_family_count)]


# The better route, the worse one. Those marked § are the examples of RFC 6724 section 10.2; its two about home and
# deprecated addresses need rules 4 and 3.
RULES = {
    "1 a route beats none": (("192.0.2.1", "192.0.2.9"), ("2001:db8::1", None)),
    "1 a bad route beats none": (("2002:c633:6401::1", "fe80::2"), ("2001:db8::1", None)),
    "2 scope beats precedence §": (("198.51.100.121", "198.51.100.117"), ("2001:db8:1::1", "fe80::1")),
    "2 matching scope §": (("2001:db8:1::1", "2001:db8:1::2"), ("198.51.100.121", "169.254.13.78")),
    "2 site-local is a scope of its own": (("3ffe::1", "2001:db8::2"), ("fec0::1", "fd00::2")),
    "5 matching label §": (("2002:c633:6401::1", "2002:c633:6401::2"), ("2001:db8:1::1", "2002:c633:6401::2")),
    "5 private IPv4 beats a mismatched ULA": (("192.0.2.1", "10.0.0.2"), ("2001:db8::1", "fd00::2")),
    "6 IPv6 beats IPv4 §": (("2001:db8:1::1", "2001:db8:1::2"), ("10.1.2.3", "10.1.2.4")),
    "6 native beats 6to4 §": (("2001:db8:1::1", "2001:db8:1::2"), ("2002:c633:6401::1", "2002:c633:6401::2")),
    "6 IPv4 beats Teredo": (("192.0.2.1", "192.0.2.9"), ("2001::1", "2001::2")),
    "6 IPv4 beats ULA": (("192.0.2.1", "10.0.0.2"), ("fd00::1", "fd00::2")),
    "6 ULA beats site-local": (("fd00::1", "fd00::2"), ("fec0::1", "fec0::2")),
    "6 loopback beats all": (("::1", "::1"), ("2001:db8::1", "2001:db8::2")),
    "6 IPv6 loopback beats IPv4 loopback": (("::1", "::1"), ("127.0.0.1", "127.0.0.1")),
    "8 smaller scope §": (("fe80::1", "fe80::2"), ("2001:db8:1::1", "2001:db8:1::2")),
    "8 a scope identifier changes nothing": (("fe80::1%eth0", "fe80::2%eth0"), ("2001:db8::1", "2001:db8::2")),
    "8 multicast by its own scope": (("ff02::fb", "fe80::2"), ("ff0e::fb", "2001:db8::2")),
    "8 IPv4 link-local": (("169.254.1.1", "169.254.1.2"), ("192.0.2.1", "192.0.2.9")),
    "8 IPv4 loopback": (("127.0.0.1", "127.0.0.1"), ("192.0.2.1", "192.0.2.9")),
    "9 longest prefix §": (("2001:db8:1::1", "2001:db8:1::2"), ("2001:db8:3ffe::1", "2001:db8:3f44::2")),
}


@pytest.mark.parametrize("name", RULES)
def test_rules_decide_whatever_the_order_of_the_answers(name: str) -> None:
    better, worse = RULES[name]
    assert sort(better, worse) == [better[0], worse[0]]
    assert sort(worse, better) == [better[0], worse[0]]


@pytest.mark.parametrize(
    "routes",
    [
        pytest.param((("10.0.0.200", "10.0.0.2"), ("10.0.0.3", "10.0.0.2")), id="IPv4 prefixes mean nothing"),
        pytest.param((("2001:db8::ff", "2001:db8::2"), ("2001:db8::3", "2001:db8::2")), id="interface identifiers"),
        pytest.param((("2001:db8::1", None), ("2001:db8:1::1", None)), id="no route at all"),
    ],
)
def test_the_order_of_the_answers_stays_where_no_rule_decides(routes: tuple[tuple[str, str | None], ...]) -> None:
    hosts = [destination for destination, _ in routes]
    assert sort(*routes) == hosts
    assert sort(*reversed(routes)) == hosts[::-1]


def test_unreachable_addresses_go_last_and_are_still_sorted() -> None:
    assert sort(("192.0.2.1", None), ("2001:db8::1", None), ("192.0.2.2", "192.0.2.9")) == [
        "192.0.2.2",
        "2001:db8::1",
        "192.0.2.1",
    ]


def test_the_source_is_asked_once_per_address() -> None:
    asked: list[HostPort] = []

    def source_of(address: HostPort) -> None:
        asked.append(address)

    addresses = [HostPort(f"192.0.2.{number}", 443) for number in range(9)]
    sort_destinations(addresses, source_of)
    assert asked == addresses


def test_families_alternate_beginning_with_the_first() -> None:
    assert alternate("2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2") == [
        "2001:db8::1",
        "192.0.2.1",
        "2001:db8::2",
        "192.0.2.2",
    ]
    assert alternate("192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8::3") == [
        "192.0.2.1",
        "2001:db8::1",
        "2001:db8::2",
        "2001:db8::3",
    ]


def test_the_first_family_may_lead_by_more() -> None:
    assert alternate("::1", "::2", "::3", "192.0.2.1", "192.0.2.2", first_family_count=2) == [
        "::1",
        "::2",
        "192.0.2.1",
        "::3",
        "192.0.2.2",
    ]


def test_a_first_family_count_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="first_family_count must be 1 or more, not 0"):
        alternate("::1", first_family_count=0)


@given(
    st.lists(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str), unique=True),
    st.integers(min_value=1, max_value=3),
)
def test_interleaving_loses_nothing_and_keeps_the_order_inside_a_family(hosts: list[str], count: int) -> None:
    result = alternate(*hosts, first_family_count=count)
    for is_ipv6 in (False, True):
        assert [host for host in result if (":" in host) is is_ipv6] == [host for host in hosts if (":" in host) is is_ipv6]


@given(st.lists(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str), unique=True))
def test_every_address_has_a_rank_and_sorting_again_changes_nothing(hosts: list[str]) -> None:
    once = sort(*((host, host) for host in hosts))
    assert sorted(once) == sorted(hosts)
    assert sort(*((host, host) for host in once)) == once
