"""Looking at the network for one event loop: from the kernel's bytes, from a source that tells, and from one that is polled."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieline import (
    TCP,
    DNSError,
    HostPort,
    Interface,
    InterfaceType,
    ListenerState,
    NetworkConnection,
    NetworkListener,
    Parameters,
    PathMonitor,
    State,
    set_interface_policy,
)
from tieline import Path as NetworkPath
from tieline.drivers.asyncio import AsyncioDriver
from tieline.drivers.asyncio import network as watching
from tieline.drivers.asyncio.network import SystemNetwork
from tieline.drivers.interfaces import inotify, linux, portable, rtnetlink
from tieline.errors import Phase
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

    tells_all = True

    def subscribe(self) -> tuple[int, ...]:
        return (self.near.fileno(),)

    def hear(self) -> bool:
        try:
            return bool(self.near.recv(4096))
        except BlockingIOError:
            return False

    lifetime = 0.0

    def linger(self) -> float:
        return self.lifetime

    def close(self) -> None:
        self.near.close()
        self.far.close()

    @property
    def is_closed(self) -> bool:
        return self.near.fileno() < 0


class Made(list[Telling]):
    """Sources that may be kept, in the order in which they were wanted."""

    def __call__(self) -> Telling:
        self.append(Telling())
        self[-1].lifetime = 60.0
        return self[-1]


async def test_who_looks_again_soon_is_told_what_is_known() -> None:
    made = Made()
    known = SystemNetwork(asyncio.get_running_loop(), made)
    assert [known.now().interfaces for _ in range(4)] == [(ETH0,)] * 4
    first, kept = made
    assert (first.looks, kept.looks) == (1, 1) and first.is_closed and not kept.is_closed
    kept.network = Network((WLAN0,))
    kept.far.send(b"!")
    assert known.now() == known.now() == kept.network and kept.looks == 2
    kept.lifetime = known._glances._lifetime = 0.0  # it does not hear of everything
    assert known.now() == kept.network and kept.looks == 3
    kept.close()
    assert known.now().interfaces == (ETH0,), "another source, as that one is gone"
    assert len(made) == 3


async def test_a_source_is_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "SOON", 1.0)
    made = Made()
    known = SystemNetwork(asyncio.get_running_loop(), made)
    for _ in range(15):  # for longer than that altogether
        known.now()
        await asyncio.sleep(0.1)
    assert len(made) == 2 and not made[1].is_closed
    await until(lambda: made[1].is_closed, 2.0)
    known.now()
    assert made[2].is_closed, "who looks once needs nothing kept"


async def test_a_source_that_is_gone_leaves_nothing() -> None:
    made = Made()
    known = SystemNetwork(asyncio.get_running_loop(), made)
    known.now()
    for _ in range(5):
        known.now()
        timer = known._glances._timer
        assert timer is not None and not timer.cancelled()
        made[-1].close()
        known.now()
        assert timer.cancelled()


async def test_a_system_that_lets_nobody_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(groups: int = 0) -> object:
        if groups:
            raise PermissionError(errno.EPERM, "not here")
        return routing_socket()

    routing_socket = linux._routing_socket
    monkeypatch.setattr(linux, "_routing_socket", refused)
    known = SystemNetwork(asyncio.get_running_loop(), linux.Source)
    for _ in range(3):
        assert any("127.0.0.1" in one.addresses for one in known.now().interfaces)
    assert known._glances._kept is None


async def test_another_network_namespace_is_another_network(monkeypatch: pytest.MonkeyPatch) -> None:
    known = SystemNetwork(asyncio.get_running_loop(), linux.Source)
    for _ in range(3):
        known.now()
    kept = known._glances._kept
    assert kept is not None
    monkeypatch.setattr(linux, "network_namespace", lambda: 1)
    known.now()
    assert known._glances._kept is not None and known._glances._kept[0] is not kept[0]


def test_a_loop_that_has_ended_can_still_be_asked() -> None:
    made = Made()

    async def look() -> SystemNetwork:
        known = SystemNetwork(asyncio.get_running_loop(), made)
        known.now()
        return known

    known = asyncio.run(look())
    assert [known.now().interfaces for _ in range(3)] == [(ETH0,)] * 3
    assert all(one.is_closed for one in made)


def test_a_loop_that_runs_again_is_heard_ending_again() -> None:
    made = Made()
    loop = asyncio.new_event_loop()

    async def look() -> None:
        known.now()
        known.now()

    known = SystemNetwork(loop, made)
    for _ in range(2):
        loop.run_until_complete(look())
        assert not made[-1].is_closed
        loop.run_until_complete(loop.shutdown_asyncgens())
        assert made[-1].is_closed
        loop._asyncgens_shutdown_called = False  # type: ignore[attr-defined]  # as if it were another
    loop.close()


def test_nothing_is_kept_beyond_an_event_loop() -> None:
    made = Made()

    async def look() -> None:
        known = SystemNetwork(asyncio.get_running_loop(), made)
        known.now()
        known.now()
        assert not made[1].is_closed

    asyncio.run(look())
    assert made[1].is_closed


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
    paths: list[NetworkPath] = []
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


# The file that names the DNS servers


def servers(path: Path, *addresses: str) -> str:
    text = "".join(f"nameserver {address}\n" for address in addresses)
    path.write_text(text)
    return text


class Following:
    """A loop's network with a resolver file of its own, and the DNS servers that it told of."""

    def __init__(self, path: Path) -> None:
        self.known = SystemNetwork(asyncio.get_running_loop(), lambda: linux.Source(str(path)))
        self.told: list[tuple[str, ...] | None] = []
        self.watch = self.known.watch(lambda network: self.told.append(network.dns_servers))

    async def tells(self, *addresses: str, within: float = 1.0) -> None:
        await until(lambda: bool(self.told) and self.told[-1] == addresses, within)
        assert self.known.now().dns_servers == addresses


async def test_a_file_that_is_written_to_and_replaced_and_removed(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    servers(file, "192.0.2.53")
    following = Following(file)
    servers(file, "192.0.2.54", "2001:db8::53")
    await following.tells("192.0.2.54", "2001:db8::53")
    servers(tmp_path / "new", "192.0.2.55")
    (tmp_path / "new").rename(file)
    await following.tells("192.0.2.55")
    servers(file, "192.0.2.56")  # the new one is watched, too
    await following.tells("192.0.2.56")
    count = len(following.told)
    servers(tmp_path / "another", "192.0.2.57")
    file.touch()
    await asyncio.sleep(0.1)
    assert len(following.told) == count, "another file, or another date, is no change"
    file.unlink()
    await until(lambda: following.told[-1] is None, 1.0)
    servers(file, "192.0.2.58")
    await following.tells("192.0.2.58")
    following.watch.cancel()


async def test_a_link_into_a_directory_that_a_daemon_makes_later(tmp_path: Path) -> None:
    file, run = tmp_path / "resolv.conf", tmp_path / "run" / "resolve"
    file.symlink_to("run/resolve/stub.conf")
    following = Following(file)
    assert following.known.now().dns_servers is None
    run.mkdir(parents=True)
    await asyncio.sleep(0.05)
    servers(run / "stub.conf", "127.0.0.53")
    await following.tells("127.0.0.53")
    servers(run / "other.conf", "192.0.2.53")
    file.unlink()
    file.symlink_to(run / "other.conf")
    await following.tells("192.0.2.53")
    count = len(following.told)
    servers(run / "stub.conf", "192.0.2.1")  # nothing leads there any more
    servers(run / "other.conf", "192.0.2.54")
    await following.tells("192.0.2.54")
    assert len(following.told) == count + 1
    following.watch.cancel()


async def test_a_file_that_is_written_to_under_another_name(tmp_path: Path) -> None:
    """As in a container, where the file of the host is mounted."""
    file, outside = tmp_path / "etc" / "resolv.conf", tmp_path / "outside" / "resolv.conf"
    for one in (file, outside):
        one.parent.mkdir()
    servers(outside, "192.0.2.53")
    file.hardlink_to(outside)
    following = Following(file)
    servers(outside, "192.0.2.54")
    await following.tells("192.0.2.54")
    following.watch.cancel()


async def test_a_file_is_polled_where_there_is_no_inotify_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(inotify, "FileWatch", refuse)
    monkeypatch.setattr(watching, "POLLING", 0.02)
    file = tmp_path / "resolv.conf"
    following = Following(file)
    servers(file, "192.0.2.53")
    await following.tells("192.0.2.53")
    following.watch.cancel()


async def test_nothing_is_left_of_a_watch(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    following = Following(tmp_path / "resolv.conf")
    assert len(set(os.listdir("/proc/self/fd")) - before) == 3  # two routing sockets and the file's
    following.watch.cancel()
    assert set(os.listdir("/proc/self/fd")) == before


async def test_a_connection_that_waits_for_dns_tries_again_with_other_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "resolv.conf"
    known = SystemNetwork(asyncio.get_running_loop(), lambda: linux.Source(str(file)))
    monkeypatch.setattr(AsyncioDriver.current(), "_network", known)

    async def resolve(_: object, host: str, port: int, version: int) -> list[HostPort]:
        if not file.exists():
            raise DNSError("no server answers", endpoint=host, phase=Phase.RESOLVING)
        return [HostPort("127.0.0.1", port)] if version == 4 else []

    monkeypatch.setattr(AsyncioDriver, "resolve", resolve)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with NetworkConnection(("host.test", listening.getsockname()[1]), TCP()) as connection:
            with pytest.raises(DNSError):
                await connection.ready()
            await asyncio.sleep(1.2)  # it has tried again once, and the next time is two seconds away
            await until(lambda: connection.state is State.WAITING)
            servers(file, "192.0.2.53")
            await until(lambda: connection.state is State.READY, 0.5)
            connection.abort()


# Restrictions, where the system binds no sockets to interfaces (elsewhere: tests/hosts and tests/simulated)


async def test_each_address_of_an_interface_is_listened_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "POLLING", 0.01)
    loopback = Interface("lo0", 1, InterfaceType.LOOPBACK, ("127.0.0.1", "::1"))
    wifi = Interface("en0", 4, InterfaceType.WIFI, ("127.0.0.7", "127.0.0.8"))
    present: list[Interface] = [loopback, wifi]
    source = portable.Source(lambda: tuple(present))
    known = SystemNetwork(asyncio.get_running_loop(), lambda: source)
    monkeypatch.setattr(AsyncioDriver.current(), "_network", known)
    listener = NetworkListener(Parameters(TCP(), prohibited_interface_types=(InterfaceType.LOOPBACK,)))
    async with listener.serving(lambda _: asyncio.Event().wait()):
        port = listener.port
        assert listener.endpoints == (HostPort("127.0.0.7", port), HostPort("127.0.0.8", port))
        assert listener.endpoint == listener.endpoints[0]
        for host, code in (("127.0.0.7", 0), ("127.0.0.8", 0), ("127.0.0.1", errno.ECONNREFUSED)):
            with socket.socket() as peer:
                assert peer.connect_ex((host, port)) == code
        present.remove(wifi)
        await until(lambda: listener.state is ListenerState.WAITING, 1.0)
        assert "every remaining interface is of a prohibited type" in str(listener.error)
        present.append(replace(wifi, addresses=("127.0.0.8",)))
        await until(lambda: listener.state is ListenerState.READY, 1.0)
        assert listener.endpoints == (HostPort("127.0.0.8", port),)
