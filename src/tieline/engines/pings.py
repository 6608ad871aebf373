"""Pings of a WebSocket: those that a program sends and waits for, and the keepalive's."""

from __future__ import annotations

import weakref
from collections import deque
from typing import Protocol

__all__ = ["Keepalive", "Pings", "RoundTrip", "SilentError"]

CROWD = 16  # pings under way, from which on it is looked whether anybody still waits for their answers


class RoundTrip(Protocol):
    """What wants to know how long the answer to a ping took."""

    def answered(self, seconds: float) -> None: ...


class Pings:
    """The pings that have gone out, the first one first. They do not keep those alive that wait for the answers."""

    def __init__(self) -> None:
        self._sent: deque[tuple[bytes, float, weakref.ref[RoundTrip]]] = deque()
        self._crowd = CROWD

    def __len__(self) -> int:
        return len(self._sent)

    def went(self, payload: bytes, now: float, trip: RoundTrip) -> None:
        """A ping goes out. Those that nobody waits for any more are forgotten now and then."""
        if len(self._sent) >= self._crowd:
            self._sent = deque(ping for ping in self._sent if ping[2]() is not None)
            self._crowd = max(CROWD, 2 * len(self._sent))
        self._sent.append((payload, now, weakref.ref(trip)))

    def answered(self, payload: bytes, now: float) -> None:
        """A pong answers the ping whose payload it has, and those before it (RFC 6455 section 5.5.3)."""
        if not any(sent == payload for sent, _, _ in self._sent):
            return  # nobody asked for it
        while self._sent:
            sent, when, reference = self._sent.popleft()
            trip = reference()
            if trip is not None:
                trip.answered(now - when)
            if sent == payload:
                return


class SilentError(Exception):
    """Nothing was heard for too long."""


class Keepalive:
    """When to ask a silent peer whether it lives, and when to give it up. Any received bytes count as life."""

    def __init__(self, silence: float | None, patience: float) -> None:
        self._silence = silence
        self._patience = patience
        self._asked: float | None = None  # when the ping went out that is not answered yet
        self.heard = 0.0

    def begin(self, now: float) -> float | None:
        """The connection is open: when to look for the first time."""
        self.heard = now
        return None if self._silence is None else now + self._silence

    def look(self, now: float, *, reading: bool) -> tuple[bool, float | None]:
        """Whether to ask now, and when to look again. Raises SilentError.

        While we are not `reading`, what came may still be in the kernel, so the time for an answer begins anew.
        """
        if self._silence is None:
            return False, None
        if self._asked is not None and self.heard < self._asked:
            if reading and now >= self._asked + self._patience:
                raise SilentError
            if not reading:
                self._asked = now
            return False, self._asked + self._patience
        self._asked = None
        if now < self.heard + self._silence:
            return False, self.heard + self._silence
        self._asked = now
        return True, now + self._patience
