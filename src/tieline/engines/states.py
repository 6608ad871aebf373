"""The life of a connection, of a listener and of a group, as tables. Whatever is not in the table cannot happen.

SETUP ──start──▶ PREPARING ──established──▶ READY ──break──▶ FAILED
                  ▲     │  ╲                 │
            retry │     │   ╲──refused for good──▶ FAILED
                  │     ▼                    │
                 WAITING ◀───next endpoint, none left
any but the last two ──close──▶ CANCELLED
"""

from __future__ import annotations

import enum

__all__ = ["CONNECTION", "GROUP", "LISTENER", "Event", "GroupState", "ListenerState", "State"]


class Standing(enum.Enum):
    """Where something that is started and ends stands."""

    is_final: bool

    def __init__(self, text: str) -> None:
        self.is_final = text in ("failed", "cancelled")

    __hash__ = object.__hash__  # there is one of each, and the tables below look them up


class State(Standing):
    """Where a connection stands. `FAILED` and `CANCELLED` are final; `connection.error` says why it is `WAITING` or `FAILED`."""

    SETUP = "setup"
    WAITING = "waiting"
    PREPARING = "preparing"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ListenerState(Standing):
    """Where a listener stands. `WAITING` is for an interface that it may use; `FAILED` and `CANCELLED` are final."""

    SETUP = "setup"
    WAITING = "waiting"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"


class GroupState(Standing):
    """Where a connection group stands: `READY` while it is joined on some interface, `WAITING` while there is none.

    `FAILED` and `CANCELLED` are final; `group.error` says why it is `WAITING` or `FAILED`.
    """

    SETUP = "setup"
    WAITING = "waiting"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Event(enum.Enum):
    """What moves a connection, listener or group from state to state."""

    START = "start"
    RETRY = "retry"
    ESTABLISHED = "established"
    UNAVAILABLE = "unavailable"  # for now: it may heal
    REFUSED = "refused"  # for good: the peer or the system said no
    BROKEN = "broken"
    NEXT_ENDPOINT = "next endpoint"
    CLOSE = "close"

    __hash__ = object.__hash__


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
    (ListenerState.READY, Event.UNAVAILABLE): ListenerState.WAITING,
    (ListenerState.SETUP, Event.CLOSE): ListenerState.CANCELLED,
    (ListenerState.WAITING, Event.CLOSE): ListenerState.CANCELLED,
    (ListenerState.READY, Event.CLOSE): ListenerState.CANCELLED,
}

GROUP: dict[tuple[GroupState, Event], GroupState] = {
    (GroupState.SETUP, Event.ESTABLISHED): GroupState.READY,
    (GroupState.SETUP, Event.UNAVAILABLE): GroupState.WAITING,
    (GroupState.SETUP, Event.REFUSED): GroupState.FAILED,
    (GroupState.WAITING, Event.ESTABLISHED): GroupState.READY,
    (GroupState.WAITING, Event.REFUSED): GroupState.FAILED,
    (GroupState.READY, Event.UNAVAILABLE): GroupState.WAITING,
    (GroupState.SETUP, Event.CLOSE): GroupState.CANCELLED,
    (GroupState.WAITING, Event.CLOSE): GroupState.CANCELLED,
    (GroupState.READY, Event.CLOSE): GroupState.CANCELLED,
}
