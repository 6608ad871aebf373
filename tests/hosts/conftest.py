"""Two hosts in network namespaces of their own, joined by two links. The test itself runs on the first one.

    client  cl0 10.77.1.1 fd77:1::1  ────  sv0 10.77.1.2, .3  fd77:1::2, ::3  server
            cl1 10.77.2.1 fd77:2::1  ────  sv1 10.77.2.2      fd77:2::2
            cl2 10.77.3.1            ────  sv2 10.77.3.2      if a test wants a bad one: `Hosts.impaired`
            cl3 10.77.4.1  ──  10.77.4.254  router  10.77.5.254  ──  sv3 10.77.5.2      if it wants one in between: `Hosts.routed`

Needs root. Without it, or without iproute2 and nftables, the tests are skipped; in CI they fail.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000  # linux/if_tun.h
NETLINK_NETFILTER, NLM_F_REQUEST, NLM_F_ACK, CONNTRACK_DELETE = 12, 1, 4, 0x102  # linux/netlink.h, nfnetlink_conntrack.h
_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)

DROP, PROHIBIT, RESET = "drop", "reject with icmpx type admin-prohibited", "reject with tcp reset"


def enter(namespace: str) -> None:
    """This thread is in that namespace from now on; sockets keep the one that they were made in. (`os.setns` is 3.12's.)"""
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        if _libc.setns(descriptor, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    finally:
        os.close(descriptor)


class Hosts:
    """What a test does to the network between the client, where it runs, and the server."""

    def __init__(self) -> None:
        name = f"tieline-{os.getpid()}-{next(_numbers)}"
        self.client, self.server = f"{name}-client", f"{name}-server"

    def ip(self, *arguments: str, on: str = "") -> None:
        """Run ip(8) on the client, unless another host is named."""
        subprocess.run(["ip", "-n", on or self.client, *arguments], check=True, capture_output=True, text=True)

    def set(self, *settings: str, on: str = "") -> None:
        """Set variables of the kernel as sysctl(8) does: ``net.ipv4.ip_forward=1``."""
        subprocess.run(["ip", "netns", "exec", on or self.client, "sysctl", "-qw", *settings], check=True)

    def filter(self, *rules: str) -> None:
        """Rules for what comes in to the server."""
        self._chain(self.server, "type filter hook input priority 0", *rules)

    def masquerade(self) -> None:
        """The client is behind a router from now on, which gives each new flow a random port of its own."""
        self._chain(self.client, "type nat hook postrouting priority 100", "udp dport 1-65535 masquerade random")

    @staticmethod
    def _chain(host: str, *lines: str) -> None:
        table = "table inet test {{\nchain test {{\n{}\n}}\n}}\n".format("\n".join(lines))
        command = ["ip", "netns", "exec", host, "nft", "-f", "-"]
        subprocess.run(command, input=table, check=True, capture_output=True, text=True)

    @staticmethod
    def forget_mappings() -> None:
        """The router knows no flow any more: what the client sends next is a new one."""
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
            netlink.send(struct.pack("=IHHIIBBH", 20, CONNTRACK_DELETE, NLM_F_REQUEST | NLM_F_ACK, 1, 0, 0, 0, 0))
            (code,) = struct.unpack_from("=i", netlink.recv(4096), 16)
            if code:
                raise OSError(-code, os.strerror(-code))

    @contextlib.contextmanager
    def on_server(self) -> Iterator[None]:
        """Sockets that are made meanwhile are the server's, whoever makes them in this thread."""
        enter(f"/run/netns/{self.server}")
        try:
            yield
        finally:
            enter(f"/run/netns/{self.client}")

    @contextlib.contextmanager
    def listening(self, host: str) -> Iterator[socket.socket]:
        """A socket that listens on the server, and whose queue takes what comes."""
        with self.on_server():
            sock = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        with sock:
            yield sock

    @contextlib.contextmanager
    def impaired(
        self, *, delay: float = 0.0, loss: float = 0.0, reorder: float = 0.0, twice: float = 0.0
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A third link, over which frames take `delay` seconds in each direction, and have these chances (see link.py)."""
        ends: list[int] = []
        with contextlib.ExitStack() as stack:
            for own, (host, name) in enumerate(((self.client, "cl2"), (self.server, "sv2")), 1):
                enter(f"/run/netns/{host}")
                try:
                    ends.append(os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK))
                    stack.callback(os.close, ends[-1])
                    fcntl.ioctl(ends[-1], TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
                finally:
                    enter(f"/run/netns/{self.client}")
                self.ip("addr", "add", f"10.77.3.{own}/24", "dev", name, on=host)
                self.ip("link", "set", name, "up", on=host)
            program = Path(__file__).with_name("link.py")
            numbers = map(str, (*ends, delay, loss, reorder, twice))
            link = subprocess.Popen([sys.executable, program, *numbers], pass_fds=ends)
            try:
                yield link
            finally:
                link.kill()
                link.wait()

    @contextlib.contextmanager
    def routed(self) -> Iterator[Router]:
        """A third host, which forwards between two more links, one to the client and one to the server."""
        router = Router(self, self.client.replace("-client", "-router"))
        try:
            router.set_up()
            yield router
        finally:
            subprocess.run(["ip", "netns", "del", router.name], check=False, capture_output=True)

    def set_up(self) -> None:
        for host in (self.client, self.server):
            subprocess.run(["ip", "netns", "add", host], check=True)
            self.set("net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0", on=host)
            self.ip("link", "set", "lo", "up", on=host)
        for number in (0, 1):
            self.join(number)
        for address in ("10.77.1.3/24", "fd77:1::3/64"):
            self.ip("addr", "add", address, "dev", "sv0", on=self.server)

    def join(self, number: int) -> None:
        """Make one of the two links."""
        names = f"cl{number}", f"sv{number}"
        self.ip("link", "add", names[0], "type", "veth", "peer", "name", names[1], "netns", self.server)
        for own, (host, name) in enumerate(zip((self.client, self.server), names, strict=True), 1):
            for address in (f"10.77.{number + 1}.{own}/24", f"fd77:{number + 1}::{own}/64"):
                self.ip("addr", "add", address, "dev", name, on=host)
            self.ip("link", "set", name, "up", on=host)

    def tear_down(self) -> None:
        for host in (self.client, self.server):
            subprocess.run(["ip", "netns", "del", host], check=False, capture_output=True)


class Router:
    """A host that forwards between the client and the server."""

    LINKS = (("client", "cl3", "10.77.4.1"), ("server", "sv3", "10.77.5.2"))

    def __init__(self, hosts: Hosts, name: str) -> None:
        self._hosts = hosts
        self.name = name

    def set_up(self) -> None:
        hosts = self._hosts
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        for number, (host, interface, address) in enumerate(self.LINKS):
            end = getattr(hosts, host)
            hosts.ip("link", "add", interface, "type", "veth", "peer", "name", f"rt{number}", "netns", self.name, on=end)
            hosts.ip("addr", "add", f"{address}/24", "dev", interface, on=end)
            hosts.ip("link", "set", interface, "up", on=end)
        self.comes_up()
        for (host, _, own), (_, _, other) in itertools.permutations(self.LINKS, 2):
            block, gateway = (f"{one.rpartition('.')[0]}." for one in (other, own))
            hosts.ip("route", "add", f"{block}0/24", "via", f"{gateway}254", on=getattr(hosts, host))

    def goes_down(self) -> None:
        """As when the power goes: no carrier, no addresses, no forwarding. The ends keep what they were told of it."""
        for number in (0, 1):
            self._hosts.ip("link", "set", f"rt{number}", "down", on=self.name)
            self._hosts.ip("addr", "flush", "dev", f"rt{number}", on=self.name)
        self._forward("0")

    def comes_up(self) -> None:
        """Forward, with the addresses that it always has."""
        self._forward("1")
        for number, (_, _, address) in enumerate(self.LINKS):
            self._hosts.ip("addr", "add", f"{address.rpartition('.')[0]}.254/24", "dev", f"rt{number}", on=self.name)
            self._hosts.ip("link", "set", f"rt{number}", "up", on=self.name)

    def _forward(self, value: str) -> None:
        command = ["ip", "netns", "exec", self.name, "sysctl", "-qw", f"net.ipv4.ip_forward={value}"]
        subprocess.run(command, check=True)


class World(Protocol):
    """Hosts in namespaces, and what joins them."""

    def set_up(self) -> None: ...
    def tear_down(self) -> None: ...


@contextlib.contextmanager
def living_in(world: World, host: str) -> Iterator[None]:
    """The world is there, and this process is on one of its hosts."""
    if os.geteuid() != 0:
        reason = "network namespaces need root"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    home = f"/proc/{os.getpid()}/task/{os.getpid()}/ns/net"
    with contextlib.ExitStack() as stack:
        descriptor = os.open(home, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        stack.callback(world.tear_down)
        world.set_up()
        enter(f"/run/netns/{host}")
        stack.callback(enter, f"/proc/self/fd/{descriptor}")
        yield


@pytest.fixture
def hosts(peer: Callable[[str], str]) -> Iterator[Hosts]:
    for command in ("ip", "nft", "sysctl"):
        peer(command)
    hosts = Hosts()
    with living_in(hosts, hosts.client):
        yield hosts
