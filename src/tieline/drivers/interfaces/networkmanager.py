"""What NetworkManager knows of interfaces and the kernel does not: whether somebody pays for the traffic.

It is asked over D-Bus, where it runs and the extra ``tieline[networkmanager]`` (jeepney) is installed; nobody starts it for this.
What it has answered holds until it says that something is different, or, where nobody listens to it, for a second. It is a daemon
of the system's and answers within a few milliseconds; one that does not is not waited for, and knows nothing.
"""

from __future__ import annotations

import importlib
import os
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

__all__ = ["NetworkManager", "glance", "running"]

RUNNING = "/run/NetworkManager"  # a directory that it makes
NAME, PATH = "org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager"
DEVICE = f"{NAME}.Device"
PATIENCE = 0.25  # seconds for an answer
LIFETIME = 1.0  # seconds that an answer at a glance holds
TRIES = 3  # while what is asked for changes under the answer

# NMMetered, of which NetworkManager itself advises to take the two yes for metered and everything else for not.
UNKNOWN, YES, GUESS_YES = 0, 1, 3


def running() -> NetworkManager | None:
    """A connection to it, None where it does not run or cannot be asked."""
    if not os.path.isdir(RUNNING):
        return None
    try:
        return NetworkManager()
    except (ImportError, OSError):  # without the extra; without a system bus
        return None


_glance: tuple[float, Mapping[str, bool]] = float("-inf"), {}


def glance() -> Mapping[str, bool]:
    """What `NetworkManager.metered` tells, without listening to it; nothing where it does not run."""
    global _glance
    now = time.monotonic()
    if now - _glance[0] >= LIFETIME:
        manager = running()
        metered: Mapping[str, bool] = {}
        if manager is not None:
            try:
                metered = manager.metered()
            finally:
                manager.close()
        _glance = now, metered
    return _glance[1]


class NetworkManager:
    """NetworkManager as seen from the system bus. Raises ImportError without jeepney, and OSError without a bus."""

    def __init__(self) -> None:
        self._jeepney: Any = importlib.import_module("jeepney")
        blocking: Any = importlib.import_module("jeepney.io.blocking")
        try:
            sock = blocking.prep_socket(blocking.get_bus("SYSTEM"), timeout=PATIENCE)
        except (RuntimeError, ValueError) as error:  # no address that can be connected to; it does not know us
            raise ConnectionRefusedError(str(error)) from error
        try:
            self._bus: Any = blocking.DBusConnection(sock)
        except self._jeepney.DBusErrorResponse as error:
            sock.close()
            raise ConnectionRefusedError(str(error)) from error
        except BaseException:
            sock.close()
            raise
        self._address = self._jeepney.DBusAddress(PATH, NAME, NAME)
        self._said: deque[Any] = deque(maxlen=1)
        self._known: Mapping[str, bool] | None = None

    def subscribe(self) -> int:
        """A file descriptor that is readable when it may have said something. Raises OSError."""
        rule = self._jeepney.MatchRule
        devices = rule(type="signal", sender=NAME, interface=NAME, path=PATH)  # they come and go
        properties = rule(type="signal", sender=NAME, interface="org.freedesktop.DBus.Properties", member="PropertiesChanged")
        properties.add_arg_condition(0, DEVICE)
        lifetime = rule(type="signal", sender="org.freedesktop.DBus", member="NameOwnerChanged")  # its own
        lifetime.add_arg_condition(0, NAME)
        for one in (devices, properties, lifetime):
            self._ask(self._jeepney.message_bus.AddMatch(one))
        self._bus.filter(rule(type="signal"), queue=self._said)  # no others come
        return int(self._bus.sock.fileno())

    def hear(self) -> bool:
        """Whether it has said that something is different. Raises OSError when the bus is gone."""
        self._take_in()
        if not self._said:
            return False
        self._known = None
        return True

    def metered(self) -> Mapping[str, bool]:
        """By interface, whether its traffic is metered; without those of which it does not know."""
        for _ in range(TRIES if self._known is None else 0):
            self._said.clear()
            try:
                self._known = self._look()
                self._take_in()
            except OSError:  # it does not answer
                self._known = {}
            if not self._said:
                break
        return self._known or {}

    def close(self) -> None:
        """Ask and hear no more."""
        self._bus.close()

    def _look(self) -> dict[str, bool]:
        found: dict[str, bool] = {}
        devices = self._ask(self._jeepney.new_method_call(self._address, "GetDevices"))
        for path in () if devices is None else devices[0]:
            answer = self._ask(self._jeepney.Properties(self._jeepney.DBusAddress(path, NAME, DEVICE)).get_all())
            if answer is None:  # it went meanwhile
                continue
            properties: dict[str, tuple[str, Any]] = answer[0]
            _, metered = properties.get("Metered", ("u", UNKNOWN))
            if metered != UNKNOWN:
                # A modem's own device has another name than the interface with its addresses.
                name = properties["IpInterface"][1] or properties["Interface"][1]
                found[name] = metered in (YES, GUESS_YES)
        return found

    def _take_in(self) -> None:
        """What has come and nobody has asked for."""
        while True:
            try:
                self._bus.recv_messages(timeout=0)
            except TimeoutError:
                return

    def _ask(self, call: Any) -> Any:
        """What it answers; None if that is an error. Raises OSError if it does not."""
        call.header.flags |= self._jeepney.MessageFlag.no_auto_start
        reply = self._bus.send_and_get_reply(call, timeout=PATIENCE)
        return None if reply.header.message_type is self._jeepney.MessageType.error else reply.body
