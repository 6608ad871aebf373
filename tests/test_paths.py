"""Interfaces become paths by rule, and Linux's types come out of sysfs as they should."""

import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieline import paths
from tieline.drivers import interfaces
from tieline.drivers.interfaces import linux, portable
from tieline.drivers.interfaces.rtnetlink import Link
from tieline.endpoints import HostPort, UnixEndpoint
from tieline.paths import (
    Interface,
    InterfaceType,
    LinkQuality,
    Network,
    Path,
    PathStatus,
    Restrictions,
    Route,
    UnsatisfiedReason,
)

LO = Interface("lo", 1, InterfaceType.LOOPBACK, ("127.0.0.1", "::1"))
ETH0 = Interface("eth0", 2, InterfaceType.WIRED, ("192.0.2.2", "fe80::1"))
WLAN0 = Interface("wlan0", 3, InterfaceType.WIFI, ("2001:db8::3", "fe80::1"))
WWAN0 = Interface("wwan0", 4, InterfaceType.CELLULAR, ("10.0.0.4",))
TUN0 = Interface("tun0", 5, InterfaceType.OTHER, ("10.8.0.5",))
ETH1 = Interface("eth1", 6, InterfaceType.WIRED, ("198.51.100.6",))
ALL = (LO, TUN0, ETH1, WWAN0, WLAN0, ETH0)


def evaluate(interfaces: Iterable[Interface], **restrictions: Any) -> Path:
    return paths.evaluate(Network(tuple(interfaces)), Restrictions(**restrictions))


def current() -> tuple[Interface, ...]:
    source = interfaces.source()
    try:
        return source.look().interfaces
    finally:
        source.close()


def test_order_is_by_type_and_then_by_index() -> None:
    assert evaluate(ALL).available_interfaces == (ETH0, ETH1, WLAN0, WWAN0, TUN0, LO)
    assert evaluate(ALL) == evaluate(reversed(ALL))


def test_a_path_over_nothing_says_so() -> None:
    for nothing in ((), (Interface("eth0", 2, InterfaceType.WIRED),)):
        path = evaluate(nothing)
        assert path == Path(PathStatus.UNSATISFIED, UnsatisfiedReason.NOT_AVAILABLE)
        assert not path.is_satisfied


def test_the_rule_that_removed_the_last_interface_is_the_reason() -> None:
    wired, wifi = InterfaceType.WIRED, InterfaceType.WIFI
    refused = {
        UnsatisfiedReason.INTERFACE_REQUIRED: evaluate(ALL, required_interface="eth7"),
        UnsatisfiedReason.INTERFACE_TYPE_REQUIRED: evaluate((LO, ETH0), required_interface_type=wifi),
        UnsatisfiedReason.INTERFACE_PROHIBITED: evaluate((LO, ETH0), prohibited_interfaces=("lo", "eth0")),
        UnsatisfiedReason.INTERFACE_TYPE_PROHIBITED: evaluate(
            (LO, ETH0), prohibited_interfaces=("lo",), prohibited_interface_types=[wired]
        ),
    }
    for reason, path in refused.items():
        assert path == Path(PathStatus.UNSATISFIED, reason)


def test_restrictions_leave_what_they_allow() -> None:
    assert evaluate(ALL, required_interface="tun0").available_interfaces == (TUN0,)
    assert evaluate(ALL, required_interface_type=InterfaceType.WIRED).available_interfaces == (ETH0, ETH1)
    left = evaluate(ALL, prohibited_interface_types={InterfaceType.WIRED, InterfaceType.LOOPBACK})
    assert left.available_interfaces == (WLAN0, WWAN0, TUN0)
    assert evaluate(ALL, required_interface_type=InterfaceType.WIRED, prohibited_interfaces=("eth0",)).is_satisfied


def test_ip_versions_are_those_that_reach_beyond_the_link() -> None:
    assert [(path.supports_ipv4, path.supports_ipv6) for path in map(evaluate, ((LO,), (ETH0,), (WLAN0,), ALL))] == [
        (False, False),
        (True, False),
        (False, True),
        (True, True),
    ]


def test_what_no_source_tells_yet_is_unknown() -> None:
    path = evaluate(ALL)
    assert (path.supports_dns, path.is_expensive, path.link_quality) == (None, False, LinkQuality.UNKNOWN)
    assert (path.gateways, path.local_endpoint, path.remote_endpoint, path.unsatisfied_reason) == ((), None, None, None)


def test_a_changed_address_is_another_path() -> None:
    assert evaluate((ETH0,)) == evaluate((replace(ETH0),))
    assert evaluate((ETH0,)) != evaluate((replace(ETH0, addresses=("192.0.2.3", "fe80::1")),))
    assert len({evaluate((ETH0,)), evaluate((ETH0,)), evaluate((ETH1,))}) == 2


def test_a_monitors_path_may_use_each_of_its_types() -> None:
    path = evaluate((LO, ETH0))
    assert path.interface is None
    assert path.uses_interface_type(InterfaceType.WIRED) and path.uses_interface_type(InterfaceType.LOOPBACK)
    assert not path.uses_interface_type(InterfaceType.WIFI)


@pytest.mark.parametrize(
    ("local", "interface"),
    [
        (HostPort("127.0.0.1", 1), LO),
        (HostPort("192.0.2.2", 1), ETH0),
        (HostPort("fe80::1%wlan0", 1), WLAN0),
        (HostPort("fe80::1%2", 1), ETH0),
        (HostPort("203.0.113.1", 1), None),
        (UnixEndpoint("/run/x"), None),
    ],
)
def test_a_connections_path_knows_its_interface(local: HostPort | UnixEndpoint, interface: Interface | None) -> None:
    path = replace(evaluate(ALL), local_endpoint=local)
    assert path.interface == interface
    if interface is not None:
        assert [type for type in InterfaceType if path.uses_interface_type(type)] == [interface.type]


@given(
    st.lists(st.sampled_from(ALL), unique=True),
    st.none() | st.sampled_from(InterfaceType),
    st.sets(st.sampled_from(InterfaceType)),
    st.none() | st.sampled_from([one.name for one in ALL]),
    st.sets(st.sampled_from([one.name for one in ALL])),
)
def test_a_path_is_satisfied_by_exactly_the_allowed(
    given_: list[Interface],
    type: InterfaceType | None,
    no_types: set[InterfaceType],
    name: str | None,
    no_names: set[str],
) -> None:
    path = evaluate(
        given_,
        required_interface_type=type,
        prohibited_interface_types=no_types,
        required_interface=name,
        prohibited_interfaces=no_names,
    )
    allowed = {
        one
        for one in given_
        if (type is None or one.type is type)
        and one.type not in no_types
        and (name is None or one.name == name)
        and one.name not in no_names
    }
    assert set(path.available_interfaces) == allowed
    assert path.is_satisfied == bool(allowed) == (path.unsatisfied_reason is None)


class Sysfs:
    """A tree like /sys/class/net."""

    def __init__(self, root: FilePath) -> None:
        self.root = root

    def add(self, name: str, index: int, *also: str, **files: str) -> None:
        """A running Ethernet link; `also` are paths that exist in its folder, `files` those with a text."""
        usual = {"type": "1", "flags": "0x1003", "operstate": "up", "ifindex": str(index)}
        uevent = {"uevent": f"INTERFACE={name}\nIFINDEX={index}"}
        (self.root / name).mkdir()
        for file, text in {**usual, **uevent, **files}.items():
            path = self.root / name / file.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{text}\n")
        for folder in also:
            (self.root / name / folder).mkdir()

    def type(self, name: str) -> str:
        return linux.type_of(name, str(self.root)).name

    def current(self, addresses: Mapping[int, tuple[str, ...]], *links: Link) -> tuple[Interface, ...]:
        pairs = [(index, address) for index, several in addresses.items() for address in several]
        return linux.network([*links], pairs, [], root=str(self.root)).interfaces


def link(name: str, index: int, *, running: bool = True, kind: str = "") -> Link:
    return Link(name, index, running, name == "lo", kind)


@pytest.fixture
def sysfs(tmp_path: FilePath) -> Sysfs:
    return Sysfs(tmp_path)


def devtype(name: str) -> str:
    return f"DEVTYPE={name}\nINTERFACE=any"


def test_linux_types_by_medium(sysfs: Sysfs) -> None:
    sysfs.add("lo", 1, type="772", flags="0x9", operstate="unknown")
    sysfs.add("odd-loop", 2, flags="0x9")
    sysfs.add("eth0", 3, "device", speed="1000")
    sysfs.add("wlan0", 4, "device", "phy80211", uevent=devtype("wlan"))
    sysfs.add("wlan1", 5, "device", uevent=devtype("wlan"))
    sysfs.add("wlan2", 6, "device", "wireless")
    sysfs.add("wwan0", 7, "device", uevent=devtype("wwan"))
    sysfs.add("wwan1", 8, "device", type="519")
    sysfs.add("veth0", 9, speed="10000")
    sysfs.add("tun0", 10, type="65534", tun_flags="0x1001", speed="10000")
    sysfs.add("tap0", 11, tun_flags="0x1002", speed="10000")
    sysfs.add("br0", 12, speed="10000", uevent=devtype("bridge"))
    sysfs.add("vxlan0", 13, "lower_eth0", speed="10000", uevent=devtype("vxlan"))
    sysfs.add("wg0", 14, type="65534", uevent=devtype("wireguard"))
    sysfs.add("dummy0", 15)
    sysfs.add("ppp0", 16, type="512", uevent=devtype("ppp"))
    types = {path.name: sysfs.type(path.name) for path in sysfs.root.iterdir()}
    expected = {
        "LOOPBACK": ["lo", "odd-loop"],
        "WIRED": ["eth0", "veth0"],
        "WIFI": ["wlan0", "wlan1", "wlan2"],
        "CELLULAR": ["wwan0", "wwan1"],
        "OTHER": ["br0", "dummy0", "ppp0", "tap0", "tun0", "vxlan0", "wg0"],
    }
    assert {kind: sorted(name for name in types if types[name] == kind) for kind in expected} == expected


def test_stacked_links_have_the_type_of_what_they_stand_on(sysfs: Sysfs) -> None:
    sysfs.add("eth0", 1, "device")
    sysfs.add("eth1", 2, "device")
    sysfs.add("wlan0", 3, "device", "phy80211")
    sysfs.add("eth0.5", 4, "lower_eth0", uevent=devtype("vlan"))
    sysfs.add("macvlan0", 5, "lower_wlan0", speed="10000")
    sysfs.add("bond0", 6, "lower_eth0", "lower_eth1", uevent=devtype("bond"), bonding__active_slave="")
    sysfs.add("bond1", 7, "lower_eth0", "lower_wlan0", uevent=devtype("bond"), bonding__active_slave="wlan0")
    sysfs.add("bond2", 8, "lower_eth0", "lower_wlan0", uevent=devtype("bond"))
    sysfs.add("bond0.7", 9, "lower_bond0", uevent=devtype("vlan"))
    sysfs.add("vlan-of-dummy", 10, "lower_dummy0", uevent=devtype("vlan"))
    sysfs.add("dummy0", 11)
    sysfs.add("macvlan-in-container", 12, speed="10000")
    names = ("eth0.5", "macvlan0", "bond0", "bond1", "bond2", "bond0.7", "vlan-of-dummy", "macvlan-in-container")
    assert [sysfs.type(name) for name in names] == [
        "WIRED", "WIFI", "WIRED", "WIFI", "OTHER", "WIRED", "OTHER", "WIRED",
    ]  # fmt: skip


def test_links_that_stand_on_each_other_end(sysfs: Sysfs) -> None:
    sysfs.add("a", 1, "lower_b", uevent=devtype("vlan"))
    sysfs.add("b", 2, "lower_a", uevent=devtype("vlan"))
    assert sysfs.type("a") == "OTHER"


def test_only_running_interfaces_with_an_address_count(sysfs: Sysfs) -> None:
    sysfs.add("lo", 1, type="772", flags="0x9")
    sysfs.add("eth0", 2, "device")
    own = {index: (f"192.0.2.{index}",) for index in (1, 2, 3)}
    found = sysfs.current(own, link("bare0", 5), link("down0", 3, running=False), link("eth0", 2), link("lo", 1))
    assert [(one.name, one.index, one.type.name, one.addresses) for one in found] == [
        ("lo", 1, "LOOPBACK", ("192.0.2.1",)),
        ("eth0", 2, "WIRED", ("192.0.2.2",)),
    ]


def test_another_namespaces_sysfs_is_not_believed(sysfs: Sysfs) -> None:
    sysfs.add("eth0", 2, "phy80211")
    own = {index: (f"192.0.2.{index}",) for index in (1, 7, 8, 9, 10)}
    links = link("lo", 1), link("eth0", 7), link("gone0", 8), link("cont0", 9, kind="veth"), link("eth9", 10, kind="bridge")
    found = sysfs.current(own, *links)
    assert [(one.name, one.type.name) for one in found] == [
        ("lo", "LOOPBACK"), ("eth0", "WIRED"), ("gone0", "OTHER"), ("cont0", "WIRED"), ("eth9", "OTHER"),
    ]  # fmt: skip


def test_an_interface_that_went_meanwhile_is_other(sysfs: Sysfs) -> None:
    assert sysfs.type("gone0") == "OTHER"


@pytest.mark.parametrize(
    ("name", "type"),
    [
        ("lo", "LOOPBACK"),
        ("lo0", "LOOPBACK"),
        ("loopback_0", "LOOPBACK"),
        ("en0", "WIRED"),
        ("eth0", "WIRED"),
        ("enp3s0", "WIRED"),
        ("em0", "WIRED"),
        ("ethernet_32769", "WIRED"),
        ("wlan0", "WIFI"),
        ("wlp2s0", "WIFI"),
        ("wireless_32768", "WIFI"),
        ("pdp_ip0", "CELLULAR"),
        ("wwan0", "CELLULAR"),
        ("utun3", "OTHER"),
        ("awdl0", "OTHER"),
        ("bridge0", "OTHER"),
        ("tunnel_1", "OTHER"),
    ],
)
def test_types_by_name(name: str, type: str) -> None:
    assert portable.type_by_name(name).name == type


def test_portable_interfaces_from_given_data() -> None:
    found = portable.current(
        lambda: {4: ("192.0.2.4", "fe80::4"), 1: ("127.0.0.1",), 9: ("192.0.2.9",), 5: ()},
        lambda: [(4, "en0"), (1, "lo0"), (5, "utun0"), (6, "gif0")],
    )
    assert found == (
        Interface("lo0", 1, InterfaceType.LOOPBACK, ("127.0.0.1",)),
        Interface("en0", 4, InterfaceType.WIRED, ("192.0.2.4", "fe80::4")),
    )


def test_this_machine_has_a_loopback() -> None:
    for found in (current(), portable.current()):
        loopback = next(one for one in found if one.type is InterfaceType.LOOPBACK)
        assert "127.0.0.1" in loopback.addresses
        assert socket.if_nametoindex(loopback.name) == loopback.index
        assert [one.index for one in found] == sorted(one.index for one in found)
        for one in found:
            assert one.addresses and all(str(ipaddress.ip_address(address)) == address for address in one.addresses)


def test_other_systems_use_the_portable_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "current", lambda: (WLAN0,))
    monkeypatch.setattr(sys, "platform", "darwin")
    network = interfaces.source().look()
    assert network.interfaces == (WLAN0,) and network.routes is None


def test_looking_is_fast_enough_to_do_when_a_connection_becomes_ready() -> None:
    current()  # imports ifaddr
    times: list[float] = []
    for _ in range(50):
        begun = time.perf_counter()
        current()
        times.append(time.perf_counter() - begun)
    # Per interface, for a host of many containers is slower; the best of many, for other tests run beside this one.
    assert min(times) < 0.002 * max(1, len(current()) / 4)


NAMESPACE = """
mount -t sysfs sysfs /sys
ip link set lo up
ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up
ip address add 192.0.2.1/24 dev v0; ip address add 192.0.2.2/24 dev v1
ip link add m0 link v0 type macvlan; ip link set m0 up; ip address add 198.51.100.1/24 dev m0
ip link add b0 type bridge; ip link set b0 up; ip address add 203.0.113.1/24 dev b0
ip tuntap add t0 mode tap; ip link set t0 up; ip address add 10.0.0.1/24 dev t0
exec "$0" -c 'from tieline.drivers.interfaces import linux
print(*(f"{one.name}:{one.type.name}" for one in linux.Source().look().interfaces))'
"""


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("ip")),
    reason="makes a network namespace, which takes root on Linux and iproute2",
)
def test_a_real_namespace() -> None:
    import tieline

    source = str(FilePath(tieline.__path__[0]).parent)
    run = subprocess.run(
        ["unshare", "-nm", "sh", "-c", NAMESPACE, sys.executable],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
        check=False,
    )
    if "Operation not permitted" in run.stderr or "Unknown device type" in run.stderr:
        pytest.skip(f"no namespace with these links here: {run.stderr}")
    assert run.returncode == 0, run.stderr
    # The tap has nobody behind it, so it is not running.
    assert set(run.stdout.split()) == {"lo:LOOPBACK", "v0:WIRED", "v1:WIRED", "m0:WIRED", "b0:OTHER"}


# Routes


def network(*routes: Route, interfaces: tuple[Interface, ...] = (LO, ETH0, WLAN0, WWAN0)) -> Network:
    return Network(interfaces, routes, ("192.0.2.53",))


def ways(network: Network, host: str) -> list[str] | None:
    found = network.ways(host)
    return None if found is None else [interface.name for interface, _ in found]


def test_only_the_longest_prefix_leads_to_an_address() -> None:
    routes = (
        Route.to("0.0.0.0/0", 2, "192.0.2.1", 100),
        Route.to("0.0.0.0/0", 3, "192.168.0.1", 600),
        Route.to("10.0.0.0/8", 4),
        Route.to("10.1.0.0/16", None),
        Route.to("10.1.1.0/24", 2, metric=50),
        Route.to("10.1.1.0/24", 3, metric=20),
    )
    known = network(*routes)
    assert ways(known, "198.51.100.1") == ["eth0", "wlan0"]
    assert ways(known, "10.200.0.1") == ["wwan0"]
    assert ways(known, "10.1.2.3") == []  # refused by the system
    assert ways(known, "10.1.1.3") == ["wlan0", "eth0"]
    assert ways(known, "2001:db8::1") == []
    assert ways(Network((ETH0,)), "198.51.100.1") is None


def test_where_policy_has_a_say_only_the_system_knows() -> None:
    vpn = replace(Route.to("0.0.0.0/0", 4), by_policy=True)
    assert ways(network(Route.to("0.0.0.0/0", 2), vpn), "198.51.100.1") is None
    assert ways(network(Route.to("0.0.0.0/0", 2), Route.to("::/0", 3), vpn), "2001:db8::1") == ["wlan0"]


def test_a_scope_chooses_the_interface() -> None:
    known = network(Route.to("fe80::/64", 2, metric=256), Route.to("fe80::/64", 3, metric=256))
    assert ways(known, "fe80::9") == ["eth0", "wlan0"]
    assert ways(known, "fe80::9%wlan0") == ["wlan0"] == ways(known, "fe80::9%3")


def test_what_is_on_a_link() -> None:
    routes = (
        Route.to("0.0.0.0/0", 2, "192.0.2.1"),
        Route.to("192.0.2.0/24", 2),
        Route.to("192.0.2.64/26", 2, "192.0.2.2"),
        Route.to("2001:db8::/32", 3),
        Route.to("10.0.0.0/8", None),
        replace(Route.to("172.16.0.0/12", 4), by_policy=True),
        Route.to("::/0", 4),  # a modem: everybody is at its other end
    )
    known = network(*routes)
    near = ["192.0.2.9", "2001:db8::9", "127.0.0.9", "::1", "fe80::9%eth0", "169.254.1.1", *ETH0.addresses]
    assert [host for host in near if not known.is_on_link(host)] == []
    far = ["192.0.2.65", "198.51.100.1", "10.1.1.1", "172.16.0.1", "2001:db9::1"]
    assert [host for host in far if known.is_on_link(host)] == []
    silent = Network((LO, ETH0))
    assert silent.is_on_link(ETH0.addresses[0]) and silent.is_on_link("fe80::9") and not silent.is_on_link("192.0.2.9")


def test_interfaces_are_ordered_as_the_system_prefers_their_default_routes() -> None:
    routes = (
        Route.to("0.0.0.0/0", 4, "10.0.0.1", 20),
        Route.to("0.0.0.0/0", 2, "192.0.2.1", 100),
        Route.to("::/0", 3, "fe80::1", 1024),
    )
    path = paths.evaluate(network(*routes))
    assert [one.name for one in path.available_interfaces] == ["wwan0", "eth0", "wlan0", "lo"]
    assert path.gateways == (HostPort("10.0.0.1", 0), HostPort("192.0.2.1", 0), HostPort("fe80::1%wlan0", 0))
    assert path.supports_ipv4 and path.supports_ipv6 and path.supports_dns


def test_an_address_without_a_route_reaches_nobody() -> None:
    path = paths.evaluate(network(Route.to("192.0.2.0/24", 2), Route.to("fe80::/64", 3)))
    assert path.supports_ipv4 and not path.supports_ipv6


def test_expense_and_constraint() -> None:
    dear = replace(WWAN0, is_expensive=True)
    frugal = replace(WLAN0, is_constrained=True)
    refused = {
        UnsatisfiedReason.EXPENSIVE_PROHIBITED: evaluate((dear,), expensive_paths_prohibited=True),
        UnsatisfiedReason.CONSTRAINED_PROHIBITED: evaluate((frugal,), constrained_paths_prohibited=True),
    }
    for reason, path in refused.items():
        assert path == Path(PathStatus.UNSATISFIED, reason)
    both = evaluate((dear, frugal))
    assert (both.is_expensive, both.is_constrained) == (False, True)  # of the best one
    assert evaluate((dear, frugal), constrained_paths_prohibited=True).is_expensive


def test_signals_become_qualities(tmp_path: FilePath) -> None:
    signals = tmp_path / "wireless"
    rows = ["Inter-| sta-|   Quality", " face | tus | link level", "wlan0: 0000   60.  -50.  -256  0", "wlan1: 0000 9. -70. -256"]
    signals.write_text("\n".join([*rows, "wlan2: 0000 9. -80. 0", "wlan3: 0000 9. 180. 0", "odd"]) + "\n")
    levels = linux._levels(str(signals))
    names = ("wlan0", "wlan1", "wlan2", "wlan3", "eth0")
    qualities = [linux.quality(levels.get(name)).name for name in names]
    assert qualities == ["GOOD", "MODERATE", "MINIMAL", "UNKNOWN", "UNKNOWN"]


def test_dns_servers_from_a_file(tmp_path: FilePath) -> None:
    file = tmp_path / "resolv.conf"
    assert portable.dns_servers(str(file)) is None
    file.write_text("# nameserver 192.0.2.9\nnameserver 192.0.2.53\nsearch test\nnameserver\nnameserver fd00::53 # a note\n")
    assert portable.dns_servers(str(file)) == ("192.0.2.53", "fd00::53")
