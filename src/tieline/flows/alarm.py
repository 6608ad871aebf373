"""One timer for what the layers of a connection want to be woken for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tieline.engines.pipeline import Pipeline

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from tieline.drivers.port import Driver, Timer
    from tieline.engines.framing import MessageLayer

__all__ = ["Alarm", "AttendedPipeline"]


class Alarm:
    """Tells layers the time before each interaction, and looks at their deadlines after it."""

    __slots__ = ("_driver", "_due", "_expired", "_layers", "_timer")

    def __init__(self, driver: Driver, layers: tuple[MessageLayer, ...], expired: Callable[[], None]) -> None:
        self._driver = driver
        self._layers = layers
        self._expired = expired
        self._due: float | None = None
        self._timer: Timer | None = None

    def tell(self) -> None:
        """Before an interaction."""
        now = self._driver.time()
        for layer in self._layers:
            layer.now = now

    def look(self) -> None:
        """After an interaction."""
        due: float | None = None
        for layer in self._layers:
            deadline = layer.deadline
            if deadline is not None and (due is None or deadline < due):
                due = deadline
        if due != self._due:
            self._set(due)

    def _set(self, due: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = due
        if due is not None:
            self._timer = self._driver.call_later(max(0.0, due - self._driver.time()), self._ring)

    def _ring(self) -> None:
        self._due = self._timer = None
        self._expired()

    def wake(self, *, reading: bool) -> None:
        """Call those layers whose time has come. May raise NetworkError."""
        self.tell()
        for layer in self._layers:
            if layer.deadline is not None and layer.deadline <= layer.now:
                layer.timeout(reading=reading)

    def stop(self) -> None:
        """It is over."""
        self._set(None)


class AttendedPipeline(Pipeline):
    """A pipeline that is ready, with layers that act by themselves: each use of it is an interaction."""

    def __init__(self, pipeline: Pipeline, alarm: Alarm) -> None:
        super().__init__(pipeline.layers)
        self.be_ready()
        self._alarm = alarm

    def receive(self, data: Buffer) -> bytes:
        self._alarm.tell()
        try:
            return super().receive(data)
        finally:
            self._alarm.look()

    def send(self, data: Buffer) -> bytes:
        self._alarm.tell()
        try:
            return super().send(data)
        finally:
            self._alarm.look()
