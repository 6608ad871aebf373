"""The attempt of datagrams: a socket that knows its peer. Nothing is asked of the peer, so it succeeds at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tieline.errors import Phase
from tieline.establishment.attempt import Attempt

if TYPE_CHECKING:
    from tieline.drivers.port import Address, DatagramSocket, Driver
    from tieline.flows.datagram import DatagramFlow
    from tieline.parameters import Parameters
    from tieline.protocols.ip import IPMetadata
    from tieline.reports import TransportCounters

__all__ = ["DatagramAttempt"]


class DatagramAttempt(Attempt):
    """Opens one datagram socket."""

    phase = Phase.CONNECTING
    handshakes = ()

    def __init__(self, driver: Driver, parameters: Parameters[Any], address: Address, succeeded: Callable[[], None]) -> None:
        """Raises OSError."""
        self.begun = driver.time()
        self._socket: DatagramSocket = driver.bind(None, address, parameters, SilentHandler())
        driver.call_soon(succeeded)

    def counters(self) -> TransportCounters | None:
        return None  # the flow counts

    def hand_over(self, flow: DatagramFlow) -> DatagramSocket:
        flow.attach(self._socket)
        return self._socket

    def cancel(self) -> None:
        self._socket.close()


class SilentHandler:
    """Of a datagram socket between its creation and the flow that takes it over."""

    def received(self, datagram: bytes, remote: Address | None, metadata: IPMetadata | None = None) -> None:
        """Nothing can come before the flow has sent something."""

    def received_all(self, datagrams: list[bytes], remote: Address | None, metadata: IPMetadata | None = None) -> None:
        """Nothing can come."""

    def writable(self) -> None: ...
    def failed(self, error: OSError) -> None: ...
