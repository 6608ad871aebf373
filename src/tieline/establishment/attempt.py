"""One attempt: a way to one address, until it is ready or given up.

It ends once, in `succeeded` or `failed`; after `cancel` it says nothing.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from tieline.errors import Phase
from tieline.establishment.guard import guarded
from tieline.protocols.tcp import TCP

if TYPE_CHECKING:
    from tieline.drivers.port import Address, Buffer, Counted, Driver, StreamSocket, Timer
    from tieline.flows.stream import StreamFlow
    from tieline.parameters import Parameters

__all__ = ["Attempt", "Connecting", "Shaken", "TransportAttempt"]

CONNECTING = Phase.CONNECTING  # before Python 3.12, to look a member up in its class takes longer than what is done with it

Shaken: TypeAlias = "tuple[str, float, float | Counted | None]"
"""A handshake for the report: its protocol, how long it took, and the round trip, or counters with that."""


class Attempt(ABC):
    """One way to one address, until it is ready or given up."""

    __slots__ = ()

    begun: float
    phase: Phase
    handshakes: Sequence[Shaken]

    @abstractmethod
    def counters(self) -> Counted | None:
        """What the transport has moved so far."""

    @abstractmethod
    def hand_over(self, flow: Any) -> Any:
        """Give everything to the flow that goes on with it; what comes back knows both addresses."""

    @abstractmethod
    def cancel(self) -> None:
        """Give up, and tell nobody."""


class Connecting(Attempt):
    """Connects one stream socket. A subclass says what follows."""

    __slots__ = ("_counters", "_driver", "_parameters", "_socket", "_timer", "begun", "handshakes")

    phase = CONNECTING

    def __init__(self, driver: Driver, parameters: Parameters[Any]) -> None:
        self._driver = driver
        self._parameters = parameters
        self._socket: StreamSocket | None = None
        self._timer: Timer | None = None
        self._counters: Counted | None = None  # when the transport was up
        self.begun = driver.time()
        self.handshakes: Sequence[Shaken] = ()

    @abstractmethod
    def _succeeded(self) -> None:
        """The transport is up."""

    @abstractmethod
    def _failed(self, error: Exception) -> None:
        """It will not be."""

    def connect(self, address: Address, first: bytes = b"", *, awaited: bool = False) -> None:
        """Begin towards an address. `first` are bytes that may ride on the SYN. Raises OSError.

        It succeeds from the event loop, or where a call waits for it (`awaited`) perhaps at once, and never fails at once.
        """
        socket = self._socket = self._driver.connect(address, self._parameters, self, first)
        if not socket.is_made:
            timeout = (self._parameters.stack.find(TCP) or TCP()).connection_timeout
            self._timer = self._driver.call_later(timeout, self._connect_expired, timeout)
        elif awaited:
            self._made()
        else:
            self._driver.call_soon(self.connected)

    def accept(self, socket: StreamSocket) -> None:
        """Begin on a socket that a listener accepted."""
        self._socket = socket
        socket.handler = self
        self.connected()

    @guarded
    def connected(self) -> None:
        self._made()

    def _made(self) -> None:
        socket = self._socket
        if socket is None:  # given up meanwhile
            return
        if self._timer is not None:
            self._stop_timer()
        counted = self._counters = socket.counters()
        self.handshakes = ((TCP.name, self._driver.time() - self.begun, counted),)
        self._succeeded()

    def counters(self) -> Counted | None:
        return self._counters  # nothing has moved since

    def hand_over(self, flow: StreamFlow) -> StreamSocket:
        """Give the socket to the flow that goes on with it."""
        socket, self._socket = self._socket, None
        assert socket is not None  # it succeeded
        flow.attach(socket, None, b"", b"", socket.early)
        return socket

    def cancel(self) -> None:
        self._stop_timer()
        if self._socket is not None:
            self._socket.abort()
            self._socket = None

    def received(self, data: Buffer) -> None:
        """Nothing is read before the flow has the socket."""

    def received_end(self) -> None: ...
    def writable(self) -> None: ...

    @guarded
    def failed(self, error: OSError) -> None:
        self._socket = None
        self._fail(self._translated(error))

    def _translated(self, error: OSError) -> Exception:
        return error  # whoever races attempts makes one error of theirs

    def mistaken(self, error: Exception) -> None:
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._stop_timer()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._failed(error)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _connect_expired(self, timeout: float) -> None:
        self._fail(TimeoutError(errno.ETIMEDOUT, f"no answer within connection_timeout={timeout:g} s"))


class TransportAttempt(Connecting):
    """One where to be connected is all there is to it."""

    def __init__(
        self, driver: Driver, parameters: Parameters[Any], *, succeeded: Callable[[], None], failed: Callable[[Exception], None]
    ) -> None:
        super().__init__(driver, parameters)
        self._tell_success, self._tell_failure = succeeded, failed

    def _succeeded(self) -> None:
        self._tell_success()

    def _failed(self, error: Exception) -> None:
        self._tell_failure(error)
