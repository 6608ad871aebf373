"""One send that waits for room."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tieline.drivers.port import Waiter
    from tieline.flows.files import FileSource

__all__ = ["Writer"]


class Writer:
    """`rest` is what nobody has taken yet. If it is `promised`, its caller does not wait for it."""

    __slots__ = ("count", "end", "error", "promised", "rest", "source", "waiter")

    def __init__(self, rest: memoryview, end: bool = False, *, source: FileSource | None = None, promised: bool = False) -> None:
        self.rest = rest
        self.end = end
        self.source = source
        self.promised = promised
        self.waiter: Waiter | None = None
        self.error: BaseException | None = None
        self.count = 0
