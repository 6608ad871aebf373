"""Streams that were opened before their connection was ready.

    open_stream() ──▶ EarlyStream ──▶ rides on the first flight of every attempt whose ticket allows it (0-RTT)
                          │               └─▶ accepted: goes on there
                          └─▶ refused, or it could not ride: opened once the connection is ready, in the order of the calls

A refusal leaves nothing behind: the streams of the first flight are void, their numbers begin anew, and all that was accepted is
still here (RFC 9001 section 4.6.2). The same is true of attempts that lose against another address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tieline.errors import CloseTimeoutError, NetworkError, Phase, raisable

if TYPE_CHECKING:
    from tieline.drivers.port import Driver, Waiter
    from tieline.flows.stream import StreamFlow
    from tieline.multiplex.stream import QUICStreamSocket

__all__ = ["EarlyStream"]


class EarlyStream:
    """What a stream's channel has in place of a socket until it is opened. It keeps what the socket is to be told."""

    may_send = True
    by_server = False
    peer_code = None

    def __init__(
        self,
        early: dict[EarlyStream, None],
        flow: StreamFlow,
        bidirectional: bool,
        *,
        rides: bool,
        opened: Callable[[QUICStreamSocket, int], None],
        failed: Callable[[NetworkError], None],
    ) -> None:
        self._early = early  # those of its connection, in the order of the calls; it is among them until it is opened
        self._flow = flow
        self._rides = rides  # what is accepted is what leaves: no layer is between them
        self._opened = opened
        self._failed = failed
        self._reset: int | None = None
        self._stopped: int | None = None
        self._closing: Waiter | None = None
        self.may_receive = bidirectional
        self.error_code = 0
        self.priority = 0
        early[self] = None

    @property
    def number(self) -> int:
        raise RuntimeError("the stream has no number yet: it gets one when the connection is ready")

    # For its channel

    def reset(self, code: int) -> None:
        """Give up sending; what is queued is dropped."""
        self._reset = code
        self._flow.sending.first = b""

    def stop_sending(self, code: int) -> None:
        """Want nothing of what may come."""
        self._stopped = code

    def set_priority(self, priority: int) -> None:
        """The larger, the earlier."""
        self.priority = priority

    def withdraw(self) -> None:
        """Nobody wants it any more."""
        self._early.pop(self, None)
        self._wake(None)

    async def drain(self, driver: Driver, timeout: float) -> None:
        """Wait until it is opened, if something of it is promised to leave. Raises why that will not be, or not in time."""
        if not self.is_promised:
            return
        waiter = self._closing = driver.waiter()
        late = CloseTimeoutError(
            "what send_idempotent() had accepted was never sent",
            endpoint=self._flow.endpoint,
            phase=Phase.CLOSING,
            expected=f"a stream within close_timeout={timeout:g} s",
            got="none",
        )
        timer = driver.call_later(timeout, self._wake, late)
        try:
            await waiter
        finally:
            timer.cancel()
            self._closing = None

    def _wake(self, error: NetworkError | None) -> None:
        if self._closing is not None and not self._closing.done():
            if error is None:
                self._closing.set_result(None)
            else:
                self._closing.set_exception(raisable(error))

    # For its connection

    @property
    def is_promised(self) -> bool:
        """Whether something was accepted, be it only the end."""
        sending = self._flow.sending
        return sending.remaining > 0 or (sending.ended and not sending.idle)

    def ride(self, socket: QUICStreamSocket) -> int:
        """Send what may leave before the handshake is done; returns how many bytes that was."""
        socket.set_priority(self.priority)
        sending = self._flow.sending
        first = bytes(sending.first) if self._rides else b""
        taken = socket.send(first) if first else 0
        # An end alone would be lost if the server wants to see our address first (Retry): quinn-proto repeats only bytes.
        if first and taken == len(first) and sending.ends_early:
            socket.end()
        return taken

    def opened(self, socket: QUICStreamSocket, early: int) -> None:
        """The connection is ready. `early` bytes have gone with the first flight."""
        self._early.pop(self, None)
        socket.error_code = self.error_code
        socket.set_priority(self.priority)
        self._opened(socket, early)
        if self._reset is not None:
            socket.reset(self._reset)
        if self._stopped is not None:
            socket.stop_sending(self._stopped)
        self._wake(None)

    def raise_pending(self, error: NetworkError) -> None:
        """There is no connection for now: what waits raises, and what was accepted goes later."""
        self._flow.raise_pending(error)
        self._wake(error)

    def fail(self, error: NetworkError) -> None:
        """There will be no connection, or it has ended before the peer allowed this stream."""
        self._early.pop(self, None)
        self._failed(error)
        self._wake(error)
