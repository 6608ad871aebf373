"""Stream sockets of a simulated host: what the port promises, on top of the TCP machine.

They behave as Linux's do. What has arrived can still be read after a reset, which is told once; closing with unread input
resets; what was sent before a close is still delivered, by a machine that outlives its socket.
"""

from __future__ import annotations

import contextvars
import errno
import os
from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from tieline.drivers.port import Buffer, StreamHandler
from tieline.drivers.simulated.tcp import TCPMachine, TCPState
from tieline.endpoints import HostPort
from tieline.protocols.tcp import TCPMetadata
from tieline.reports import TransportCounters

if TYPE_CHECKING:
    from tieline._engine.stream import Receiving
    from tieline.drivers.simulated.network import ScheduledEvent
    from tieline.drivers.simulated.packets import Packet
    from tieline.drivers.simulated.sockets import SocketTable

__all__ = ["SimulatedAcceptor", "SimulatedStream"]

LARGEST_READ = 64 * 1024
FIN_TIMEOUT = 60.0  # seconds that a closed socket's machine waits for the peer's end: tcp_fin_timeout of Linux


def broken(code: int) -> OSError:
    """The exception of an errno."""
    return OSError(code, os.strerror(code))


class SimulatedStream:
    """One stream socket, connecting or connected."""

    def __init__(self, table: SocketTable, machine: TCPMachine, *, connecting: bool) -> None:
        self._table = table
        self._context = contextvars.copy_context()  # of whoever made it: the program on its host
        self._event: ScheduledEvent | None = None
        self._connecting = connecting
        self._reading = self._blocked = self._end_told = self._closed = self._soon = False
        self.machine = machine
        self.acceptor: SimulatedAcceptor | None = None  # until the program has been given the socket
        self.early = 0  # there is no Fast Open here
        self.is_made = False
        self.handler: StreamHandler
        self.sink: Receiving | None = None

    @property
    def local_address(self) -> HostPort | None:
        return None if self._connecting else self.machine.local

    @property
    def remote_address(self) -> HostPort:
        return self.machine.remote

    # Below: the network. These are called by events, never from inside a call of the program.

    def arrived(self, packet: Packet) -> None:
        """A segment for this connection."""
        machine = self.machine
        opening = machine.state is TCPState.SYN_RECEIVED
        before = machine.incoming.readable
        machine.arrived(packet, self._table.now)
        if self._closed and machine.incoming.readable > before:  # nobody will read it
            machine.reset()
        elif opening and self.acceptor is not None:
            self.acceptor.opened(self)
        self.progressed()

    def unreachable(self, code: int) -> None:
        """The network could not deliver one of our segments."""
        self.machine.unreachable(code)
        self.progressed()

    def shrink(self, maximum_segment: int, lost: int) -> None:
        """The path takes no larger segments: the one with this number did not get through."""
        self.machine.shrink(maximum_segment, lost, self._table.now)
        self._watch_time()

    def progressed(self) -> None:
        """The machine has moved: keep its time, tell the program."""
        self._watch_time()
        self._forget_if_over()
        self._tell()

    def _watch_time(self) -> None:
        deadline = self.machine.deadline
        if deadline < (inf if self._event is None else self._event.when):
            if self._event is not None:
                self._event.cancel()
            self._event = self._table.schedule(deadline, self._due)

    def _due(self) -> None:
        self._event = None
        if self._table.now >= self.machine.deadline:
            self.machine.expired(self._table.now)
        self.progressed()

    def _forget_if_over(self) -> None:
        machine = self.machine
        if machine.state is TCPState.CLOSED:
            self._table.forget(self)
        elif machine.finished and machine.incoming.ended:
            self._table.forget(self, lingering=True)

    def _tell(self) -> None:
        """Tell the program what it has not heard yet, one thing after the other: each may change what comes next."""
        if self.acceptor is not None:
            return
        machine = self.machine
        if self._connecting and not self._closed:
            if machine.error:
                self._fail()
            elif machine.state is TCPState.ESTABLISHED:
                self._connecting = False
                self._reading = True
                self._context.run(self.handler.connected)
        if self._blocked and not self._closed and (machine.room or not machine.writable):
            self._blocked = False
            self._context.run(self.handler.writable)
        while self._reading and not self._closed and machine.incoming.readable:
            if self.sink is None:
                self._context.run(self.handler.received, machine.read(LARGEST_READ))
            else:
                self._context.run(self.sink.feed, machine.read(LARGEST_READ))
            self._watch_time()
        if not self._reading or self._closed or machine.incoming.readable:
            return
        if machine.error:
            self._fail()
        elif not self._end_told and (machine.incoming.ended or machine.state is TCPState.CLOSED):
            self._end_told = True
            self._context.run(self.handler.received_end)

    def _fail(self) -> None:
        self._closed = True
        code, self.machine.error = self.machine.error, 0
        self._context.run(self.handler.failed, broken(code))

    def killed(self) -> None:
        """The host has crashed: nothing more happens here, and nobody is told."""
        self._closed = True
        if self._event is not None:
            self._event.cancel()
        self.machine.vanish()

    # Above: the program

    def send(self, data: Buffer, /) -> int:
        machine = self.machine
        if machine.error:  # told once
            code, machine.error = machine.error, 0
            raise broken(code)
        if not machine.writable:
            raise broken(errno.EPIPE)
        taken = machine.write(data, self._table.now)
        self._watch_time()
        if taken < len(data):
            self._blocked = True
        return taken

    def send_file(self, file: int, offset: int, count: int, /) -> int | None:
        room = self.machine.room
        if not room and self.machine.writable:
            self._blocked = True
            return None
        return self.send(os.pread(file, min(count, room), offset)) if room else self.send(b" ")

    def end(self) -> None:
        self.machine.end(self._table.now)
        self._watch_time()
        self._forget_if_over()

    def pause(self) -> None:
        self._reading = False

    def resume(self) -> None:
        if not self._reading and not self._closed and not self._connecting:
            self._reading = True
            if not self._soon:
                self._soon = True
                self._table.call_soon(self._resumed)

    def _resumed(self) -> None:
        self._soon = False
        self._tell()

    def finish(self) -> None:
        self.end()
        self.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        machine = self.machine
        if machine.state is not TCPState.ESTABLISHED or machine.incoming.readable:
            machine.reset()
        else:
            machine.end(self._table.now)
            self._table.schedule(self._table.now + FIN_TIMEOUT, self._finished_waiting)
        self._watch_time()
        self._forget_if_over()

    def _finished_waiting(self) -> None:
        """Nobody is there to read what may still come; but what was sent is still delivered, however long that takes."""
        if self.machine.finished or self.machine.state is TCPState.CLOSED:
            self.machine.vanish()
            self._forget_if_over()
        else:
            self._table.schedule(self._table.now + FIN_TIMEOUT, self._finished_waiting)

    def abort(self) -> None:
        if not self._closed:
            self._closed = True
            self.machine.reset()
            self._forget_if_over()

    # Measuring

    def unread(self) -> bool:
        return not self._closed and self.machine.incoming.readable > 0

    def counters(self) -> TransportCounters:
        machine = self.machine
        rtt = machine.rtt
        return TransportCounters(
            received_packets=machine.received_segments,
            sent_packets=machine.sent_segments,
            received_bytes=machine.incoming.count,
            sent_bytes=machine.sent_bytes,
            retransmitted_bytes=machine.retransmitted_bytes,
            smoothed_rtt=rtt.smoothed,
            minimum_rtt=rtt.minimum,
            rtt_variance=None if rtt.smoothed is None else rtt.variance,
        )

    def metadata(self) -> TCPMetadata | None:
        if self._closed:
            return None
        return TCPMetadata(
            receive_buffer_bytes=self.machine.incoming.readable,
            unacknowledged_bytes=self.machine.unacknowledged,
            maximum_segment_size=self.machine.maximum_segment,
            fast_open=False,
        )


class SimulatedAcceptor:
    """A listening stream socket. `backlog` connections wait in it to be accepted; further SYNs are not answered."""

    def __init__(self, table: SocketTable, local: HostPort, parameters: Any, accepted: Callable[[SimulatedStream], None]) -> None:
        self._table = table
        self._context = contextvars.copy_context()
        self._accepted = accepted
        self._accepting = self._soon = self._closed = False
        self._opening: dict[SimulatedStream, None] = {}
        self._waiting: deque[SimulatedStream] = deque()
        self.parameters = parameters
        self.device: str | None = parameters.required_interface
        self.local_address = local

    @property
    def is_full(self) -> bool:
        """Whether no further connection can wait here."""
        backlog: int = self.parameters.backlog
        return len(self._opening) + len(self._waiting) >= backlog

    def opening(self, stream: SimulatedStream) -> None:
        """A SYN has come."""
        stream.acceptor = self
        self._opening[stream] = None

    def opened(self, stream: SimulatedStream) -> None:
        """A connection is open, or it was reset."""
        if stream not in self._opening:
            return
        if stream.machine.state is TCPState.CLOSED:
            del self._opening[stream]
        elif stream.machine.state is TCPState.ESTABLISHED:
            del self._opening[stream]
            self._waiting.append(stream)
            self._accept()

    def forget(self, stream: SimulatedStream) -> None:
        """A connection is over before it was open."""
        self._opening.pop(stream, None)

    def resume(self) -> None:
        if not self._accepting:
            self._accepting = True
            if self._waiting and not self._soon:
                self._soon = True
                self._table.call_soon(self._resumed)

    def _resumed(self) -> None:
        self._soon = False
        self._accept()

    def pause(self) -> None:
        self._accepting = False

    def _accept(self) -> None:
        while self._accepting and not self._closed and self._waiting:
            stream = self._waiting.popleft()
            stream.acceptor = None
            stream._context = self._context.copy()
            self._context.run(self._accepted, stream)

    def killed(self) -> None:
        """The host has crashed."""
        self._closed = True
        self._opening.clear()
        self._waiting.clear()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._table.stop_listening(self)
            for stream in (*self._opening, *self._waiting):
                stream.acceptor = None
                stream.abort()
            self._opening.clear()
            self._waiting.clear()
