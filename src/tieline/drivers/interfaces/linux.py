"""The network on Linux: links, addresses and routes from the kernel, the medium of a link from sysfs, DNS servers from a file.

Whether a link is metered says NetworkManager, where it runs.

sysfs shows the network namespace that it was mounted in, which need not be ours; the interface's index tells. Everything here
works as an ordinary user.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tieline.drivers.interfaces import networkmanager, portable, rtnetlink
from tieline.drivers.interfaces.rtnetlink import Link
from tieline.drivers.lingering import LingeringSocket
from tieline.paths import Interface, InterfaceType, LinkQuality, Network, Route

if TYPE_CHECKING:
    from tieline.drivers.interfaces.inotify import FileWatch
    from tieline.drivers.interfaces.networkmanager import NetworkManager

__all__ = ["Source"]

SYSFS = "/sys/class/net"
SIGNALS = "/proc/net/wireless"
NAMESPACE = "/proc/thread-self/ns/net"

# linux/netlink.h and linux/rtnetlink.h
GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # links; addresses and routes of both IP versions
SOL_NETLINK, NETLINK_NO_ENOBUFS = 270, 5
LARGEST = 1 << 16  # bytes of one answer
PATIENCE = 2.0  # seconds; the kernel answers at once
TRIES = 3  # while what is asked for changes under the answer

# include/uapi/linux/if.h and if_arp.h
_IFF_LOOPBACK = 0x8
_ARPHRD_ETHER, _ARPHRD_RAWIP, _ARPHRD_LOOPBACK = 1, 519, 772

_STACKED = ("bond", "ipvlan", "macvlan", "macvtap", "vlan")  # DEVTYPEs of links that share another link's medium
_STACKING_LIMIT = 8  # of the kernel itself: MAX_NEST_DEV in include/linux/netdevice.h

# dBm from which a signal is so good; of NWPath.LinkQuality's meanings, with the usual thresholds of Wi-Fi.
GOOD, MODERATE = -65.0, -75.0


class Source:
    """The kernel's routing socket, in the network namespace where it was made. Raises OSError where there is none."""

    def __init__(self, resolver_file: str = portable.RESOLVER_FILE) -> None:
        self._resolver_file = resolver_file
        self._socket = _routing_socket()
        self._events: LingeringSocket | None = None
        self._resolver: FileWatch | None = None
        self._manager: NetworkManager | None = None
        self._namespace = 0  # where it lingers

    def look(self) -> Network:
        """The network as it is now. Raises OSError if the kernel does not tell."""
        links = [link for body in self._ask(rtnetlink.LINKS) if (link := rtnetlink.link_of(body)) is not None]
        addresses = [one for body in self._ask(rtnetlink.ADDRESSES) if (one := rtnetlink.address_of(body)) is not None]
        routes = [route for body in self._ask(rtnetlink.ROUTES) for route in rtnetlink.routes_of(body)]
        metered = networkmanager.glance() if self._manager is None else self._manager.metered()
        return network(links, addresses, routes, portable.dns_servers(self._resolver_file), metered)

    def subscribe(self) -> Sequence[int]:
        """Descriptors for the kernel, for the file that names the DNS servers, and for NetworkManager. Raises OSError."""
        descriptors = self._listen()
        self._manager = networkmanager.running()
        if self._manager is not None:
            try:
                descriptors.append(self._manager.subscribe())
            except OSError:  # it has gone meanwhile
                self._manager.close()
                self._manager = None
        return descriptors

    def linger(self) -> float:
        """The kernel and the file are listened to; NetworkManager is asked again after a while, if it is there."""
        try:
            self._listen()
        except OSError:  # a sandbox that only answers; too many descriptors
            return 0.0
        if self._events is None or self._resolver is None:
            return 0.0
        self._socket.lingers = self._events.lingers = True
        self._namespace = network_namespace()
        return networkmanager.LIFETIME

    def _listen(self) -> list[int]:
        from tieline.drivers.interfaces.inotify import FileWatch  # takes in ctypes

        self._events = _routing_socket(GROUPS)
        self._events.setblocking(False)
        # What does not fit need not be told: what it is about is looked up later than that.
        self._events.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
        try:
            self._resolver = FileWatch(self._resolver_file)
        except OSError:  # each user has only so many of them: fs.inotify.max_user_instances
            return [self._events.fileno()]
        return [self._events.fileno(), self._resolver.fileno()]

    @property
    def tells_all(self) -> bool:
        """Whether the DNS servers' file is watched, too."""
        return self._resolver is not None

    def hear(self) -> bool:
        """Whether something has changed since the last time. Raises OSError if one that tells is gone, or tells of elsewhere."""
        if self._namespace and self._namespace != network_namespace():
            raise OSError(errno.ESTALE, "this thread is in another network namespace now")
        heard = self._resolver is not None and self._resolver.hear()
        if self._manager is not None:
            heard = self._manager.hear() or heard
        while self._events is not None:
            try:
                self._events.recv(LARGEST)
            except (BlockingIOError, InterruptedError):
                break
            heard = True
        return heard

    def close(self) -> None:
        """Ask and hear no more."""
        for one in (self._socket, self._events, self._resolver, self._manager):
            if one is not None:
                one.close()

    def _ask(self, what: int) -> list[memoryview]:
        answer: list[tuple[int, memoryview]] = []
        for _ in range(TRIES):
            self._socket.send(rtnetlink.request(what))
            answer = list(self._answer())
            if not any(flags & rtnetlink.INTERRUPTED for flags, _ in answer):
                break
        return [body for _, body in answer]

    def _answer(self) -> Iterator[tuple[int, memoryview]]:
        while True:
            for kind, flags, body in rtnetlink.messages(self._socket.recv(LARGEST)):
                if kind == rtnetlink.DONE:
                    return
                if kind == rtnetlink.ERROR:
                    raise OSError(errno.EPROTO, "the kernel's routing socket refused a question")
                yield flags, body


def network_namespace() -> int:
    """That of this thread, as a number; 0 where the system does not show it."""
    try:
        return os.stat(NAMESPACE).st_ino
    except OSError:
        return 0


def _routing_socket(groups: int = 0) -> LingeringSocket:
    made = LingeringSocket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        made.bind((0, groups))
        made.settimeout(PATIENCE)
    except BaseException:
        made.close()
        raise
    return made


def network(
    links: list[Link],
    addresses: list[tuple[int, str]],
    routes: list[Route],
    dns_servers: tuple[str, ...] | None = None,
    metered: Mapping[str, bool] | None = None,
    root: str = SYSFS,
    signals: str = SIGNALS,
) -> Network:
    """What was told, as a network: interfaces that are up, running and have an address, and the routes over those."""
    own: dict[int, list[str]] = {}
    for index, address in addresses:
        own.setdefault(index, []).append(address)
    metered = metered or {}
    running = sorted((link for link in links if link.is_running and link.index in own), key=lambda link: link.index)
    types = {link.index: medium(link, root) for link in running}
    levels = _levels(signals) if InterfaceType.WIFI in types.values() else {}
    return Network(
        tuple(
            Interface(
                link.name,
                link.index,
                types[link.index],
                tuple(own[link.index]),
                is_expensive=metered.get(link.name, types[link.index] is InterfaceType.CELLULAR),
                link_quality=quality(levels.get(link.name)),
            )
            for link in running
        ),
        tuple(route for route in routes if route.interface is None or route.interface in types),
        dns_servers,
    )


def medium(link: Link, root: str = SYSFS) -> InterfaceType:
    """The type of an interface: what sysfs says, or what can be known where sysfs shows another network namespace."""
    if link.is_loopback:
        return InterfaceType.LOOPBACK
    if _read(root, link.name, "ifindex") == str(link.index):
        return type_of(link.name, root)
    if link.kind:
        return InterfaceType.WIRED if link.kind == "veth" else InterfaceType.OTHER
    return portable.type_by_name(link.name)


def quality(level: float | None) -> LinkQuality:
    """What a signal of so many dBm is good for."""
    if level is None:
        return LinkQuality.UNKNOWN
    return LinkQuality.GOOD if level >= GOOD else LinkQuality.MODERATE if level >= MODERATE else LinkQuality.MINIMAL


def _levels(path: str) -> dict[str, float]:
    """The signal of each Wi-Fi interface in dBm. Some drivers tell none, or count otherwise: such numbers are not below 0."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            rows = [line.split() for line in file.readlines()[2:]]
    except OSError:
        return {}
    levels: dict[str, float] = {}
    for row in rows:
        try:
            name, level = row[0].rstrip(":"), float(row[3])
        except (IndexError, ValueError):
            continue
        if level < 0:
            levels[name] = level
    return levels


def type_of(name: str, root: str = SYSFS, _depth: int = 0) -> InterfaceType:
    """The medium of one interface; what shares the medium of a lower link has that link's type."""
    kind = _read(root, name, "type")
    if kind == str(_ARPHRD_LOOPBACK) or _flags(root, name) & _IFF_LOOPBACK:
        return InterfaceType.LOOPBACK
    device = next((line[8:] for line in _read(root, name, "uevent").splitlines() if line.startswith("DEVTYPE=")), "")
    # Not by hardware type: a Wi-Fi station reports Ethernet.
    if device == "wlan" or _has(root, name, "phy80211") or _has(root, name, "wireless"):
        return InterfaceType.WIFI
    if device == "wwan" or kind == str(_ARPHRD_RAWIP):
        return InterfaceType.CELLULAR
    if device and device not in _STACKED:
        return InterfaceType.OTHER  # bridge, vxlan, wireguard and other kinds that the kernel names
    if _depth < _STACKING_LIMIT and (lower := _lower_links(root, name)):
        types = {type_of(link, root, _depth + 1) for link in lower}
        return types.pop() if len(types) == 1 else InterfaceType.OTHER
    if kind != str(_ARPHRD_ETHER) or _has(root, name, "tun_flags"):
        return InterfaceType.OTHER
    # veth has no mark of its own. It is the one Ethernet link without device and DEVTYPE that knows a speed, besides a
    # macvlan whose lower link lies in another namespace; either is a container's wire. Dummy and tunnel links know no
    # speed.
    return InterfaceType.WIRED if _has(root, name, "device") or _read(root, name, "speed") else InterfaceType.OTHER


def _lower_links(root: str, name: str) -> list[str]:
    if active := _read(root, name, "bonding", "active_slave"):
        return [active]
    try:
        return [entry[6:] for entry in os.listdir(f"{root}/{name}") if entry.startswith("lower_")]
    except OSError:
        return []  # the interface went meanwhile


def _flags(root: str, name: str) -> int:
    return int(_read(root, name, "flags") or "0", 16)


def _has(root: str, *parts: str) -> bool:
    return os.path.exists("/".join((root, *parts)))


def _read(root: str, *parts: str) -> str:
    """What the file says, empty if there is none or the kernel has no answer (it refuses to tell some speeds)."""
    try:
        with open("/".join((root, *parts)), encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
