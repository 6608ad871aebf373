"""Looking at the network for one event loop: from the kernel's bytes, from a source that tells, and from one that is polled."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieline import Interface, InterfaceType, Path, PathMonitor, set_interface_policy
from tieline.drivers.asyncio import network as watching
from tieline.drivers.asyncio.network import SystemNetwork
from tieline.drivers.interfaces import linux, portable, rtnetlink
from tieline.paths import Network, Route

from ..peers import until

ETH0 = Interface("eth0", 2, InterfaceType.WIRED, ("192.0.2.2",))
WLAN0 = Interface("wlan0", 3, InterfaceType.WIFI, ("192.0.2.3",))


def attribute(kind: int, value: bytes) -> bytes:
    return rtnetlink.ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def number(kind: int, value: int) -> bytes:
    return attribute(kind, rtnetlink.NUMBER.pack(value))


def route(family: int, length: int, *attributes: bytes, table: int = 254, kind: int = 1, flags: int = 0) -> list[Route]:
    header = rtnetlink.ROUTE.pack(family, length, 0, 0, table, 4, 0, kind, flags)
    return list(rtnetlink.routes_of(memoryview(header + b"".join(attributes))))


def test_routes_from_bytes() -> None:
    block, router = attribute(rtnetlink.RTA_DST, bytes([10, 1, 0, 0])), bytes([192, 0, 2, 1])
    over = number(rtnetlink.RTA_OIF, 2)
    gateway = attribute(rtnetlink.RTA_GATEWAY, router)
    metric = number(rtnetlink.RTA_PRIORITY, 100)
    assert route(socket.AF_INET, 16, block, over, gateway, metric) == [Route.to("10.1.0.0/16", 2, "192.0.2.1", 100)]
    assert route(socket.AF_INET, 0, over) == [Route.to("0.0.0.0/0", 2)]
    assert route(socket.AF_INET, 16, block, kind=7) == [Route.to("10.1.0.0/16", None)]  # unreachable
    assert route(socket.AF_INET, 0, over, number(rtnetlink.RTA_TABLE, 51820)) == [
        replace(Route.to("0.0.0.0/0", 2), by_policy=True)
    ]
    hops = b"".join(rtnetlink.NEXT_HOP.pack(8 + len(gateway), 0, 0, index) + gateway for index in (2, 3))
    both = [Route.to("0.0.0.0/0", index, "192.0.2.1") for index in (2, 3)]
    assert route(socket.AF_INET, 0, attribute(rtnetlink.RTA_MULTIPATH, hops)) == both
    link_local = socket.inet_pton(socket.AF_INET6, "fe80::1")
    via = rtnetlink.FAMILY.pack(socket.AF_INET6) + link_local
    assert route(socket.AF_INET, 0, over, attribute(rtnetlink.RTA_VIA, via)) == [Route.to("0.0.0.0/0", 2, "fe80::1")]
    # Of this machine itself, of the cache, for many, and of other protocols.
    assert route(socket.AF_INET, 16, block, over, table=255) == route(socket.AF_INET, 16, block, over, flags=0x200) == []
    assert route(socket.AF_INET, 16, block, over, kind=5) == route(7, 16, block, over) == []


def test_links_and_addresses_from_bytes() -> None:
    info = attribute(rtnetlink.IFLA_INFO_KIND, b"veth\0")
    body = rtnetlink.LINK.pack(0, 1, 7, 0x41, 0) + attribute(rtnetlink.IFLA_IFNAME, b"v0\0") + attribute(18, info)
    assert rtnetlink.link_of(memoryview(body)) == rtnetlink.Link("v0", 7, True, False, "veth")
    own = attribute(rtnetlink.IFA_LOCAL, bytes([192, 0, 2, 7])) + attribute(rtnetlink.IFA_ADDRESS, bytes([192, 0, 2, 8]))
    assert rtnetlink.address_of(memoryview(rtnetlink.ADDRESS.pack(2, 24, 0, 0, 7) + own)) == (7, "192.0.2.7")
    tentative = rtnetlink.ADDRESS.pack(2, 24, 0x40, 0, 7) + own
    assert rtnetlink.address_of(memoryview(tentative)) is None


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(data: bytes) -> None:
    for header in (b"", rtnetlink.HEADER.pack(len(data) + 16, 24, 0, 0, 0)):
        for _, _, body in rtnetlink.messages(header + data):
            list(rtnetlink.routes_of(body))
    rtnetlink.link_of(memoryview(data))
    rtnetlink.address_of(memoryview(data))
    list(rtnetlink.routes_of(memoryview(rtnetlink.ROUTE.pack(2, 0, 0, 0, 254, 0, 0, 1, 0) + data)))


def test_one_look_leaves_nothing_open() -> None:
    source = linux.Source()
    assert any("127.0.0.1" in one.addresses for one in source.look().interfaces)
    source.close()


async def test_a_source_that_does_not_tell_is_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "POLLING", 0.01)
    present: tuple[Interface, ...] = (ETH0,)
    known = SystemNetwork(asyncio.get_running_loop(), lambda: portable.Source(lambda: present))
    told: list[Network] = []
    watch = known.watch(told.append)
    await asyncio.sleep(0.1)
    assert told == []
    present = (ETH0, WLAN0)
    await until(lambda: len(told) == 1, 1.0)
    assert told[0].interfaces == present and known.now() == told[0]
    watch.cancel()
    present = ()
    await asyncio.sleep(0.05)
    assert [network.interfaces for network in told if not network.interfaces] == []


class Telling:
    """A source that tells when a test says so."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.network = Network((ETH0,))
        self.looks = 0

    def look(self) -> Network:
        self.looks += 1
        return self.network

    def subscribe(self) -> socket.socket:
        return self.near

    def hear(self) -> bool:
        try:
            return bool(self.near.recv(4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        self.near.close()
        self.far.close()


async def test_a_storm_of_notices_is_few_looks_and_one_change() -> None:
    source = Telling()
    known = SystemNetwork(asyncio.get_running_loop(), lambda: source)
    told: list[Network] = []
    watch = known.watch(told.append)
    for _ in range(50):
        source.far.send(b"!")
        await asyncio.sleep(0.001)
    source.network = Network((ETH0, WLAN0))
    source.far.send(b"!")
    await until(lambda: bool(told), 1.0)
    await asyncio.sleep(0.1)
    assert told == [source.network] and source.looks < 20
    watch.cancel()


async def test_who_asks_in_between_takes_no_change_from_others() -> None:
    """There and back before the others were told: they are told in any case."""
    source = Telling()
    known = SystemNetwork(asyncio.get_running_loop(), lambda: source)
    told: list[Network] = []
    watch = known.watch(told.append)
    before, source.network = source.network, Network((WLAN0,))
    source.far.send(b"!")
    assert known.now() == source.network
    source.network = before
    source.far.send(b"!")
    await until(lambda: told == [before], 1.0)
    watch.cancel()


async def test_the_policy_has_the_last_word() -> None:
    paths: list[Path] = []
    try:
        set_interface_policy(lambda one: replace(one, is_expensive=True, is_constrained=one.name == "lo"))
        paths.append(PathMonitor().current_path)
        assert paths[0].is_expensive
        assert not PathMonitor(expensive_paths_prohibited=True).current_path.is_satisfied
        set_interface_policy(lambda one: replace(one, name="another"))
        with pytest.raises(TypeError, match="returns the interface it was given"):
            _ = PathMonitor().current_path
    finally:
        set_interface_policy(None)
    with pytest.raises(TypeError, match="a function of an Interface"):
        set_interface_policy("lo")  # type: ignore[arg-type]
