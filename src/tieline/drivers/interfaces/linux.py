"""Interfaces on Linux: names and addresses from the kernel, the rest from sysfs.

sysfs shows the network namespace that it was mounted in, which need not be ours; the interface's index tells.
"""

import os
import socket
from collections.abc import Callable, Iterable, Mapping

from tieline.drivers.interfaces import portable
from tieline.paths import Interface, InterfaceType

SYSFS = "/sys/class/net"

# include/uapi/linux/if.h and if_arp.h
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8
_ARPHRD_ETHER, _ARPHRD_RAWIP, _ARPHRD_LOOPBACK = 1, 519, 772

_STACKED = ("bond", "ipvlan", "macvlan", "macvtap", "vlan")  # DEVTYPEs of links that share another link's medium
_STACKING_LIMIT = 8  # of the kernel itself: MAX_NEST_DEV in include/linux/netdevice.h


def current(
    root: str = SYSFS,
    addresses: Callable[[], Mapping[int, tuple[str, ...]]] = portable.addresses,
    indexes: Callable[[], Iterable[tuple[int, str]]] = socket.if_nameindex,
) -> tuple[Interface, ...]:
    """The interfaces that are up, running and have an address, by index."""
    found: list[Interface] = []
    having = addresses()
    for index, name in sorted(indexes()):
        own = having.get(index)
        if not own:
            continue
        if _read(root, name, "ifindex") != str(index):
            found.append(Interface(name, index, portable.type_by_name(name), own))
        elif _is_running(root, name):
            found.append(Interface(name, index, type_of(name, root), own))
    return tuple(found)


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


def _is_running(root: str, name: str) -> bool:
    # As the kernel computes IFF_RUNNING, which sysfs leaves out of the flags; loopback and tunnels stay "unknown".
    return bool(_flags(root, name) & _IFF_UP) and _read(root, name, "operstate") in ("up", "unknown")


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
