"""What happened to a connection, and when: for a test that looks at the whole story, or prints it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from tieline import drivers
from tieline.paths import Path
from tieline.values import Value, value

if TYPE_CHECKING:
    from tieline.connection import NetworkConnection
    from tieline.engines.states import State
    from tieline.updates import Updates

__all__ = ["ConnectionEvent", "EventKind", "EventRecorder", "record_events"]

EventKind = Literal["state", "path", "viability", "better path"]


@value
class ConnectionEvent(Value):
    """One update. `time` is the event loop's; `value` is what the handler of that kind is given.

    - ``"state"``: a `State`.
    - ``"path"``: a `Path`.
    - ``"viability"`` and ``"better path"``: a bool.
    """

    time: float
    kind: EventKind
    value: Any

    def __str__(self) -> str:
        return self._line(0.0)

    def _line(self, start: float) -> str:
        shown = self.value
        if isinstance(shown, Path):
            name = "" if shown.interface is None else f" over {shown.interface.name}"
            shown = f"{shown.status.value}{name}, {shown.local_endpoint} to {shown.remote_endpoint}"
        elif not isinstance(shown, bool):
            shown = shown.value
        return f"{self.time - start:10.6f} s  {self.kind:<11}  {shown}"


def record_events(connection: NetworkConnection[Any]) -> EventRecorder:
    """Note every update of a connection from now on, until `stop`, or the end of a ``with`` block.

    The connection's own handlers and iterators go on as before. Whoever drops the recorder stops it. Raises `RuntimeError`
    outside of an event loop, which tells the time.
    """
    return EventRecorder(connection)


class EventRecorder:
    """What `record_events` gives: `events` in their order, and views of them. `str()` is a table that begins at time 0."""

    def __init__(self, connection: NetworkConnection[Any]) -> None:
        time = drivers.current().time
        self._start = time()
        self.events: list[ConnectionEvent] = []
        sources: tuple[tuple[EventKind, Updates[Any, Any]], ...] = (
            ("state", connection._states),
            ("path", connection._watching.paths),
            ("viability", connection._watching.viability),
            ("better path", connection._watching.better_paths),
        )
        self._notes = tuple(Notes(self.events, time, kind, updates) for kind, updates in sources)
        connection._watching.wanted()

    def stop(self) -> None:
        """Note nothing more; what was noted stays. Idempotent."""
        for notes in self._notes:
            notes.updates.unfollow(notes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    @property
    def states(self) -> list[State]:
        """The states that the connection came to."""
        return [event.value for event in self.events if event.kind == "state"]

    @property
    def kinds(self) -> list[EventKind]:
        """What each event was about."""
        return [event.kind for event in self.events]

    def __iter__(self) -> Iterator[ConnectionEvent]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    def __str__(self) -> str:
        return "\n".join(event._line(self._start) for event in self.events)


class Notes:
    """Follows the updates of one kind. It does not know the recorder, so that this goes as soon as it is dropped."""

    def __init__(
        self, events: list[ConnectionEvent], time: Callable[[], float], kind: EventKind, updates: Updates[Any, Any]
    ) -> None:
        self._events = events
        self._time = time
        self._kind: EventKind = kind
        self.updates = updates
        updates.follow(self)

    def _push(self, value: object, last: bool, /) -> None:
        self._events.append(ConnectionEvent(self._time(), self._kind, value))
