"""What NetworkManager tells of metered interfaces: a service that speaks as it does, on a bus of a real D-Bus daemon."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tieline import InterfaceType, PathMonitor, set_interface_policy
from tieline.drivers.asyncio import AsyncioDriver
from tieline.drivers.asyncio.network import SystemNetwork
from tieline.drivers.interfaces import linux, networkmanager
from tieline.drivers.interfaces.networkmanager import DEVICE, NAME, PATH
from tieline.paths import Network

from ..peers import until

jeepney: Any = pytest.importorskip("jeepney")
blocking: Any = pytest.importorskip("jeepney.io.blocking")

CONFIGURATION = """<busconfig>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow own="*"/> <allow user="*"/> <allow send_destination="*"/> <allow receive_sender="*"/>
  </policy>
</busconfig>
"""
UNKNOWN, YES, NO, GUESS_YES, GUESS_NO = range(5)


class Bus:
    """A D-Bus daemon."""

    def __init__(self, program: str, folder: Path) -> None:
        (folder / "bus.conf").write_text(CONFIGURATION.format(socket=folder / "bus"))
        command = [program, f"--config-file={folder / 'bus.conf'}", "--nofork", "--nopidfile", "--print-address"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Service:
    """As much of NetworkManager as we ask for, with devices as (interface, interface of its addresses, metered)."""

    def __init__(self) -> None:
        self.devices: dict[str, tuple[str, str, int]] = {}
        self.asked = 0
        self.answers = True
        self._bus = blocking.open_dbus_connection("SYSTEM")
        self._bus.send_and_get_reply(jeepney.message_bus.RequestName(NAME))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        try:
            while True:
                self._answer(self._bus.receive())
        except OSError:  # `end`, or the bus is gone
            self._bus.close()

    def _answer(self, message: Any) -> None:
        fields = message.header.fields
        if message.header.message_type is not jeepney.MessageType.method_call:
            return
        self.asked += 1
        path, member = fields[jeepney.HeaderFields.path], fields[jeepney.HeaderFields.member]
        if not self.answers:
            return
        if member == "GetDevices":
            answer = jeepney.new_method_return(message, "ao", ([*self.devices, f"{PATH}/Devices/gone"],))
        elif path in self.devices:
            interface, of_addresses, metered = self.devices[path]
            properties = {"Interface": ("s", interface), "IpInterface": ("s", of_addresses), "Metered": ("u", metered)}
            answer = jeepney.new_method_return(message, "a{sv}", (properties,))
        else:
            answer = jeepney.new_error(message, "org.freedesktop.DBus.Error.UnknownObject")
        self._bus.send(answer)

    def device(self, number: int, interface: str, metered: int, of_addresses: str = "") -> None:
        """There is one, and it says so."""
        path = f"{PATH}/Devices/{number}"
        is_new = path not in self.devices
        self.devices[path] = interface, of_addresses, metered
        if is_new:
            self._say(PATH, NAME, "DeviceAdded", "o", (path,))
        else:
            changed = {"Metered": ("u", metered)}
            self._say(path, "org.freedesktop.DBus.Properties", "PropertiesChanged", "sa{sv}as", (DEVICE, changed, []))

    def _say(self, path: str, interface: str, member: str, signature: str, body: tuple[Any, ...]) -> None:
        self._bus.send(jeepney.new_signal(jeepney.DBusAddress(path, NAME, interface), member, signature, body))

    def end(self) -> None:
        if self._thread.is_alive():
            self._bus.sock.shutdown(2)
            self._thread.join()


@pytest.fixture
def bus(peer: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    bus = Bus(peer("dbus-daemon"), tmp_path)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
    monkeypatch.setattr(networkmanager, "RUNNING", str(tmp_path))
    monkeypatch.setattr(networkmanager, "LIFETIME", 0.0)
    yield bus
    bus.end()


@pytest.fixture
def service(bus: Bus) -> Iterator[Service]:
    service = Service()
    yield service
    service.end()


def loopback_is_expensive() -> bool:
    [loopback] = PathMonitor(required_interface_type=InterfaceType.LOOPBACK).current_path.available_interfaces
    return loopback.is_expensive


@pytest.mark.parametrize("metered", [UNKNOWN, YES, NO, GUESS_YES, GUESS_NO])
async def test_what_is_metered_is_expensive(service: Service, metered: int) -> None:
    service.device(1, "lo", metered)
    expensive = metered in (YES, GUESS_YES)
    assert loopback_is_expensive() is expensive
    path = PathMonitor(required_interface_type=InterfaceType.LOOPBACK, expensive_paths_prohibited=True).current_path
    assert path.is_satisfied is not expensive


async def test_the_policy_has_the_last_word(service: Service) -> None:
    service.device(1, "lo", YES)
    set_interface_policy(lambda one: replace(one, is_expensive=False))
    try:
        assert not loopback_is_expensive()
    finally:
        set_interface_policy(None)


def test_a_modem_is_not_expensive_if_the_user_says_so(service: Service) -> None:
    """Its device has another name than the interface. What nobody has a word on is as the kernel has it."""
    service.device(1, "cdc-wdm0", NO, of_addresses="wwan0")
    service.device(2, "wwan1", UNKNOWN)
    manager = networkmanager.running()
    assert manager is not None
    metered = manager.metered()
    manager.close()
    assert metered == {"wwan0": False}
    links = [linux.Link(name, index, True, False, "") for index, name in enumerate(("wwan0", "wwan1"), 90)]
    known = linux.network(links, [(90, "192.0.2.1"), (91, "192.0.2.2")], [], metered=metered)
    assert [(one.type, one.is_expensive) for one in known.interfaces] == [
        (InterfaceType.CELLULAR, False), (InterfaceType.CELLULAR, True),
    ]  # fmt: skip


async def test_changes_are_told(service: Service) -> None:
    told: list[bool] = []
    known = SystemNetwork(asyncio.get_running_loop())
    watch = known.watch(lambda network: told.append(expensive(network)))
    service.device(1, "lo", YES)
    await until(lambda: told == [True], 2.0)
    asked = service.asked
    assert expensive(known.now()) and service.asked == asked, "it is not asked again while nothing has changed"
    service.device(1, "lo", GUESS_NO)
    await until(lambda: told == [True, False], 2.0)
    service.device(1, "lo", YES)
    await until(lambda: told == [True, False, True], 2.0)
    service.end()  # and with it what it knew
    await until(lambda: told == [True, False, True, False], 2.0)
    watch.cancel()


def expensive(network: Network) -> bool:
    return next(one.is_expensive for one in network.interfaces if one.name == "lo")


async def test_the_bus_ends(bus: Bus, service: Service) -> None:
    """The network is watched without it."""
    service.device(1, "lo", YES)
    told: list[bool] = []
    known = SystemNetwork(asyncio.get_running_loop())
    watch = known.watch(lambda network: told.append(expensive(network)))
    assert expensive(known.now())
    before = len(os.listdir("/proc/self/fd"))
    bus.end()
    await until(lambda: told == [False], 2.0)
    service.end()
    assert not expensive(known.now())
    await until(lambda: len(os.listdir("/proc/self/fd")) < before, 2.0)
    watch.cancel()


async def test_it_is_not_asked_for_each_connection(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.device(1, "lo", YES)
    assert loopback_is_expensive()
    monkeypatch.setattr(networkmanager, "LIFETIME", 60.0)
    asked = service.asked
    assert loopback_is_expensive() and service.asked == asked
    monkeypatch.setattr(networkmanager, "LIFETIME", 0.0)
    AsyncioDriver.current()._network._glances.end()  # which holds as long as that said
    assert loopback_is_expensive() and service.asked > asked


async def test_one_that_does_not_answer_is_not_waited_for(service: Service) -> None:
    service.device(1, "lo", YES)
    service.answers = False
    loop = asyncio.get_running_loop()
    begun = loop.time()
    assert not loopback_is_expensive()
    assert loop.time() - begun < 2 * networkmanager.PATIENCE


async def test_nobody_is_there(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bus without it, no bus, no address of one, and no directory."""
    assert not loopback_is_expensive()
    bus.end()
    assert not loopback_is_expensive()
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "nonsense")
    assert networkmanager.running() is None
    monkeypatch.setattr(networkmanager, "RUNNING", "/nowhere")
    assert networkmanager.running() is None
