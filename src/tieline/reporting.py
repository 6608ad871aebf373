"""What a connection notes about itself while it lives, and makes reports of when asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from tieline.engines.states import State
from tieline.establishment.attempt import Attempt, Shaken
from tieline.reports import (
    DataTransferReport,
    EstablishmentReport,
    Handshake,
    PathReport,
    Resolution,
    TransportCounters,
)
from tieline.watching import connected_path, current_network

if TYPE_CHECKING:
    from tieline.connection import NetworkConnection
    from tieline.drivers.port import Counted, Driver
    from tieline.establishment.direct import Direct
    from tieline.establishment.establishment import Establishment

__all__ = ["PendingDataTransferReport", "Reading", "Reporting"]


UNKNOWN = TransportCounters()


def counters_in(counted: Counted | None, driver: Driver) -> TransportCounters:
    """What was counted, as it is reported."""
    if counted is None:
        return UNKNOWN
    return driver.counters_in(counted) if isinstance(counted, bytes) else counted


Reading: TypeAlias = "tuple[float, Counted | None, int, int]"
"""At one time: that, what the transport has counted, and the bytes of the application that were received and sent."""


class Reporting:
    """The notes of one connection."""

    __slots__ = (
        "_at_ready", "_attempt_started", "_handshakes", "_previous_attempts", "_resolutions", "_started", "at_close",
    )  # fmt: skip

    def __init__(self) -> None:
        self._started: float | None = None
        self._attempt_started = 0.0
        self._previous_attempts = 0
        self._resolutions: tuple[Resolution, ...] = ()
        self._handshakes: Sequence[Shaken] = ()
        self._at_ready: Reading | None = None
        self.at_close: Reading | None = None  # once the socket has gone

    def attempt_began(self, now: float) -> None:
        """An attempt began; the first one is the start."""
        if self._started is None:
            self._started = now
        self._attempt_started = now

    def accepted(self, attempt: Attempt | None, now: float, flow: Any) -> None:
        """A listener has handed the connection out; its only attempt began when the socket was accepted."""
        self._started = self._attempt_started = now if attempt is None else attempt.begun
        if attempt is not None:
            self._handshakes = attempt.handshakes
        counted, received, sent = flow.measured()
        self._at_ready = now, counted if attempt is None else attempt.counters() or counted, received, sent

    def attempt_failed(self) -> None:
        """An attempt ended in waiting or failure."""
        self._previous_attempts += 1

    def established(self, establishment: Direct | Establishment, won: Attempt, now: float, flow: Any) -> None:
        """An attempt succeeded. Its flow does not have the socket yet: what leaves with that moment counts."""
        self._attempt_started = establishment.started  # later than it began, after `try_next_endpoint`
        self._resolutions = establishment.resolutions()
        self._handshakes = establishment.handshakes
        counted, received, sent = flow.measured()
        self._at_ready = now, won.counters() or counted, received, sent

    def freeze(self, flow: Any, driver: Driver) -> None:
        """The socket goes: keep what it counted, so that a closed connection can still be asked."""
        if self.at_close is None:
            self.at_close = driver.time(), *flow.measured()

    def establishment(self, driver: Driver) -> EstablishmentReport:
        """How establishment went. The connection is ready."""
        assert self._at_ready is not None  # or there is nothing to tell
        return EstablishmentReport(
            duration=self._at_ready[0] - self._attempt_started,
            attempt_started_after=self._attempt_started - (self._started or 0.0),
            previous_attempt_count=self._previous_attempts,
            resolutions=self._resolutions,
            handshakes=tuple(
                Handshake(protocol, took, counters_in(rtt, driver).smoothed_rtt if isinstance(rtt, (bytes, tuple)) else rtt)
                for protocol, took, rtt in self._handshakes
            ),
        )

    def read(self, connection: NetworkConnection[Any]) -> Reading:
        """The counters now, or at the close."""
        return self.at_close or (connection.driver.time(), *connection._flow.measured())

    def transfer(self, connection: NetworkConnection[Any], start: Reading | None = None) -> DataTransferReport:
        """What was transferred from `start`, by default from ready, until now."""
        ready, start = self._at_ready, start or self._at_ready
        if ready is None or start is None:
            raise RuntimeError(f"nothing was transferred: {connection!r} has never been ready")
        driver = connection.driver
        (begun, counted_before, received_before, sent_before), (ended, counted, received, sent) = start, self.read(connection)
        if begun < ready[0]:  # another socket since (`try_next_endpoint`), which counts from zero
            counted_before = ready[1]
        path = connection.current_path or connected_path(
            current_network(driver), connection.local_endpoint, connection.remote_endpoint
        )
        report = PathReport.between(
            counters_in(counted_before, driver),
            counters_in(counted, driver),
            interface=path.interface,
            received_application_byte_count=received - received_before,
            sent_application_byte_count=sent - sent_before,
        )
        return DataTransferReport(ended - begun, (report,), PathReport.aggregate([report]))


class PendingDataTransferReport:
    """A measurement that runs until `collect`, or until the connection ends."""

    def __init__(self, connection: NetworkConnection[Any], reporting: Reporting) -> None:
        self._connection = connection
        self._reporting = reporting
        self._start = reporting.read(connection) if connection.state is State.READY else None
        self._collected: DataTransferReport | None = None

    async def collect(self) -> DataTransferReport:
        """End the measurement and give its report; again, the same one. Raises as `NetworkConnection.ready` does.

        Cancelling: the measurement goes on.
        """
        if self._collected is None:
            if not self._connection.state.is_final:
                await self._connection.ready()
            self._collected = self._reporting.transfer(self._connection, self._start)
        return self._collected
