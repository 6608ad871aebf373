"""The life of a connection and of a listener, as tables. Whatever is not in the table cannot happen.

SETUP ──start──▶ PREPARING ──established──▶ READY ──break──▶ FAILED
                  ▲     │  ╲                 │
            retry │     │   ╲──refused for good──▶ FAILED
                  │     ▼                    │
                 WAITING ◀───next endpoint, none left
any but the last two ──close──▶ CANCELLED
"""

from __future__ import annotations

import enum

__all__ = ["CONNECTION", "LISTENER", "Event", "ListenerState", "State"]


class State(enum.Enum):
    """Where a connection stands. `FAILED` and `CANCELLED` are final; `connection.error` says why it is `WAITING` or `FAILED`."""

    SETUP = "setup"
    WAITING = "waiting"
    PREPARING = "preparing"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in (State.FAILED, State.CANCELLED)


class ListenerState(enum.Enum):
    """Where a listener stands. `FAILED` and `CANCELLED` are final."""

    SETUP = "setup"
    WAITING = "waiting"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in (ListenerState.FAILED, ListenerState.CANCELLED)


class Event(enum.Enum):
    """What moves a connection or listener from state to state."""

    START = "start"
    RETRY = "retry"
    ESTABLISHED = "established"
    UNAVAILABLE = "unavailable"  # for now: it may heal
    REFUSED = "refused"  # for good: the peer or the system said no
    BROKEN = "broken"
    NEXT_ENDPOINT = "next endpoint"
    CLOSE = "close"


CONNECTION: dict[tuple[State, Event], State] = {
    (State.SETUP, Event.START): State.PREPARING,
    (State.PREPARING, Event.ESTABLISHED): State.READY,
    (State.PREPARING, Event.UNAVAILABLE): State.WAITING,
    (State.PREPARING, Event.REFUSED): State.FAILED,
    (State.WAITING, Event.RETRY): State.PREPARING,
    (State.READY, Event.BROKEN): State.FAILED,
    (State.READY, Event.NEXT_ENDPOINT): State.PREPARING,
    (State.SETUP, Event.CLOSE): State.CANCELLED,
    (State.PREPARING, Event.CLOSE): State.CANCELLED,
    (State.WAITING, Event.CLOSE): State.CANCELLED,
    (State.READY, Event.CLOSE): State.CANCELLED,
}

LISTENER: dict[tuple[ListenerState, Event], ListenerState] = {
    (ListenerState.SETUP, Event.ESTABLISHED): ListenerState.READY,
    (ListenerState.SETUP, Event.UNAVAILABLE): ListenerState.WAITING,
    (ListenerState.SETUP, Event.REFUSED): ListenerState.FAILED,
    (ListenerState.WAITING, Event.ESTABLISHED): ListenerState.READY,
    (ListenerState.WAITING, Event.REFUSED): ListenerState.FAILED,
    (ListenerState.READY, Event.BROKEN): ListenerState.FAILED,
    (ListenerState.SETUP, Event.CLOSE): ListenerState.CANCELLED,
    (ListenerState.WAITING, Event.CLOSE): ListenerState.CANCELLED,
    (ListenerState.READY, Event.CLOSE): ListenerState.CANCELLED,
}
