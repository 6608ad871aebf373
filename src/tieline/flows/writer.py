"""One send that waits for room."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tieline.drivers.port import Buffer, Waiter
    from tieline.flows.files import FileSource

__all__ = ["End", "MessageWriter", "Writer"]


class Writer:
    """`rest` is what nobody has taken yet. If it is `promised`, its caller does not wait for it."""

    __slots__ = ("count", "end", "error", "promised", "rest", "source", "waiter", "whole")

    def __init__(
        self,
        rest: memoryview,
        end: bool = False,
        *,
        source: FileSource | None = None,
        promised: bool = False,
        whole: bool = False,
    ) -> None:
        self.rest = rest
        self.end = end
        self.source = source
        self.promised = promised
        self.whole = whole  # what has begun to leave must not stop in the middle
        self.waiter: Waiter | None = None
        self.error: BaseException | None = None
        self.count = 0

    @property
    def is_end(self) -> bool:
        """Whether it is the end of our direction and nothing else, and is to come whatever its caller does."""
        return self.end and self.promised and not self.rest

    def withdraw(self) -> bool:
        """Its caller waits no more: whether it may be taken out of the queue."""
        if self.whole and self.count:
            self.rest = memoryview(bytes(self.rest))  # the caller's buffer is its own again
            self.promised = True
            return False
        return True


class End(enum.Enum):
    """How far the end of our direction has come."""

    NONE = 0
    DUE = 1  # once everything accepted has gone
    CLOSING = 2  # the pipeline's own end is on its way
    DONE = 3

    is_under_way: bool

    def __init__(self, number: int) -> None:
        self.is_under_way = number in (1, 2)


class MessageWriter(Writer):
    """One message that waits for its turn: `message` is its content and options until it is encoded."""

    __slots__ = ("message",)

    def __init__(self, content: Any, options: dict[str, Any], end: bool) -> None:
        super().__init__(memoryview(b""), end, whole=True)
        self.message: tuple[Any, dict[str, Any]] | None = (content, options)

    def begun(self, record: Buffer) -> MessageWriter:
        """It is encoded, and leaves whole from here on."""
        self.message = None
        self.rest = memoryview(record)
        return self

    def withdraw(self) -> bool:
        if self.message is None:
            self.promised = True
            return False
        return True
