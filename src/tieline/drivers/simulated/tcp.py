"""TCP for the simulated network, as a machine: segments and the time come in, segments go out.

It does what an application can notice of TCP (RFC 9293): connection set-up by three segments, ordered bytes under loss,
reordering and duplication, acknowledgements, retransmission by timer (RFC 6298) and after three duplicates (RFC 5681), slow
start, a receive window that a slow reader closes and probes that find it open again, both directions ending by themselves,
resets, keepalive, and giving up. It leaves out what only costs work: options, urgent data, simultaneous opening, Nagle's
algorithm, delayed and selective acknowledgements. Sequence numbers begin with the SYN at 0 and do not wrap.

    write() ──▶ _outgoing (unacknowledged, then unsent) ──▶ segments
    read()  ◀── incoming (in order, or too early)       ◀── segments
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable
from math import inf

from tieline.drivers.simulated.congestion import CongestionWindow, RoundTripTime
from tieline.drivers.simulated.packets import Packet, TransportProtocol, no_socket_answer
from tieline.drivers.simulated.reassembly import Reassembly
from tieline.endpoints import HostPort

__all__ = ["TCPMachine", "TCPState"]

SYN_RETRIES, SYN_ACK_RETRIES = 6, 5  # tcp_syn_retries and tcp_synack_retries of Linux
DROP_AFTER = 924.6  # seconds of unanswered retransmission: tcp_retries2 of Linux


class TCPState(enum.Enum):
    """What of a connection's life its ends have to tell apart; who has ended, the machine says."""

    CLOSED = "closed"
    SYN_SENT = "SYN sent"
    SYN_RECEIVED = "SYN received"
    ESTABLISHED = "established"


class _Waiting(enum.Enum):
    """What the timer is for."""

    NOTHING = 0
    ACKNOWLEDGEMENT = 1
    WINDOW = 2
    SILENCE = 3


class TCPMachine:
    """One end of one connection."""

    def __init__(
        self,
        local: HostPort,
        remote: HostPort,
        send: Callable[[Packet], None],
        *,
        maximum_segment: int,
        send_capacity: int,
        receive_capacity: int,
        drop_after: float | None = None,
        keepalive: tuple[float, float, int] | None = None,
    ) -> None:
        self.local = local
        self.remote = remote
        self.connection = 0  # see Packet
        self.state = TCPState.CLOSED
        self.error = 0  # errno, once
        self.deadline = inf  # when `expired` wants to be called
        self.maximum_segment = maximum_segment
        self._send = send
        self._drop_after, self._keepalive = drop_after, keepalive
        # Out
        self._capacity = send_capacity
        self._outgoing = bytearray()  # begins with the byte that has the number `_unacknowledged`
        self._unacknowledged = self._next = self._highest = 0
        self._end: int | None = None  # the number of our FIN, once nothing more will be written
        self._window = 0
        self._window_from = (0, 0)  # the segment that said so: sequence and acknowledgement (RFC 9293 section 3.10.7.4)
        self._congestion = CongestionWindow(maximum_segment)
        # In
        self.incoming = Reassembly(receive_capacity)
        self._advertised = 0
        # Time
        self.rtt = RoundTripTime()
        self._waiting, self._waiting_since = _Waiting.NOTHING, 0.0
        self._back_off = 0  # timeouts since something was acknowledged
        self._timed: tuple[int, float] | None = None  # a number, and when it was sent first
        self._probes, self._heard = 0, 0.0
        # What a report tells
        self.sent_segments = self.received_segments = self.sent_bytes = self.retransmitted_bytes = 0

    # Opening

    def connect(self, now: float) -> None:
        """Send the SYN."""
        self._open(TCPState.SYN_SENT, "S", now)

    def accept(self, syn: Packet, now: float) -> None:
        """Answer a SYN."""
        self.incoming.expected = 1
        self.connection = syn.connection
        self._window = syn.window
        self._open(TCPState.SYN_RECEIVED, "SA", now)

    def _open(self, state: TCPState, flags: str, now: float) -> None:
        self.state = state
        self._next = self._highest = 1
        self._waiting_since = self._heard = now
        self._emit(flags, 0)
        self.deadline = now + self.rtt.timeout(0)

    # For the socket

    @property
    def room(self) -> int:
        """Bytes that `write` would take."""
        return max(0, self._capacity - len(self._outgoing)) if self.writable else 0

    @property
    def writable(self) -> bool:
        """Whether our direction is open."""
        return self.state is TCPState.ESTABLISHED and self._end is None

    @property
    def unacknowledged(self) -> int:
        """Bytes that were written and not acknowledged."""
        return len(self._outgoing)

    @property
    def finished(self) -> bool:
        """Whether our end has been acknowledged."""
        return self._end is not None and self._unacknowledged > self._end

    def write(self, data: bytes | bytearray | memoryview, now: float) -> int:
        """Take as much as there is room for; returns how much."""
        taken = min(self.room, len(data))
        if taken:
            self._outgoing += data[:taken]
            self._push(now)
        return taken

    def read(self, at_most: int) -> bytes:
        """Take what has arrived; the peer is told of the room once it is worth a segment (RFC 9293 section 3.8.6.2.2)."""
        incoming = self.incoming
        data = incoming.take(at_most)
        worth = max(1, min(2 * self.maximum_segment, incoming.capacity // 2))
        if self.state is TCPState.ESTABLISHED and not incoming.ended and incoming.window - self._advertised >= worth:
            self._acknowledge()
        return data

    def end(self, now: float) -> None:
        """Our direction ends after what was written."""
        if self.writable:
            self._end = self._unacknowledged + len(self._outgoing)
            self._push(now)

    def reset(self) -> None:
        """Break the connection off, and tell the peer."""
        if self.state in (TCPState.ESTABLISHED, TCPState.SYN_RECEIVED):
            self._emit("RA", self._highest)
        self.vanish()

    def vanish(self) -> None:
        """End without a word."""
        self.state = TCPState.CLOSED
        self.deadline = inf
        self._outgoing.clear()

    def unreachable(self, code: int) -> None:
        """The network says so: that ends an attempt, and is no more than a hint later (RFC 9293 section 3.9.2.2)."""
        if self.state is TCPState.SYN_SENT:
            self._fail(code)

    def shrink(self, maximum_segment: int, lost: int, now: float) -> None:
        """The path takes no more than this: send anew from the segment that was lost for being larger."""
        if maximum_segment < self.maximum_segment:
            self.maximum_segment = maximum_segment
            if self.state is TCPState.ESTABLISHED:
                self._next = min(self._next, max(self._unacknowledged, lost))
                self._push(now)

    # Segments

    def arrived(self, packet: Packet, now: float) -> None:
        """Take a segment of the peer."""
        self.received_segments += 1
        self._heard = now
        self._probes = 0
        if "R" in packet.flags:
            self._reset_by_peer(packet)
        elif self.state is TCPState.SYN_SENT:
            if packet.acknowledgement != 1 or "S" not in packet.flags:  # of an earlier connection (RFC 9293 section 3.5.1)
                answer = no_socket_answer(packet, errno.ECONNREFUSED)
                if answer is not None:
                    self._send(answer)
            else:
                self.incoming.expected = 1
                self._established(packet, now)
                self._acknowledge()
        elif "S" in packet.flags:  # our answer to it was lost
            if self.state is TCPState.SYN_RECEIVED:
                self._emit("SA", 0)
            elif self.state is TCPState.ESTABLISHED:
                self._acknowledge()
        elif self.state is not TCPState.CLOSED:
            if self.state is TCPState.SYN_RECEIVED:
                if packet.acknowledgement != 1:
                    return
                self._established(packet, now)
            self._acknowledged(packet, now)
            self._take(packet)
            self._push(now)

    def _reset_by_peer(self, packet: Packet) -> None:
        if self.state is TCPState.SYN_SENT:
            if packet.acknowledgement == self._next:
                self._fail(errno.ECONNREFUSED)
        elif self.state is TCPState.SYN_RECEIVED:
            self.vanish()
        elif 0 <= packet.sequence - self.incoming.expected <= self.incoming.window:
            self._fail(errno.EPIPE if self.incoming.ended else errno.ECONNRESET)

    def _established(self, packet: Packet, now: float) -> None:
        self.state = TCPState.ESTABLISHED
        if self._back_off == 0:
            self.rtt.measured(now - self._waiting_since)
        self._unacknowledged = 1
        self._back_off = 0
        self._window = packet.window
        self._window_from = (packet.sequence, packet.acknowledgement)
        self._wait(now, anew=True)

    def _acknowledged(self, packet: Packet, now: float) -> None:
        number = packet.acknowledgement
        if number > self._highest:
            return  # of something that was never sent
        newer = number > self._unacknowledged
        if newer:
            count = number - self._unacknowledged
            del self._outgoing[:count]
            self._unacknowledged = number
            self._next = max(self._next, number)
            self._back_off = 0
            if self._timed is not None and number > self._timed[0]:
                self.rtt.measured(now - self._timed[1])
                self._timed = None
            if self._congestion.acknowledged(count, number):
                self._retransmit(now)
            self._wait(now, anew=True)
        elif (
            number == self._unacknowledged < self._next and not packet.payload and "F" not in packet.flags
            and packet.window == self._window and self._congestion.duplicate(self._next - number, self._next)
        ):  # fmt: skip
            self._retransmit(now)
        if newer or (number == self._unacknowledged and (packet.sequence, number) >= self._window_from):
            if packet.window and self._waiting is _Waiting.WINDOW:
                self._back_off = 0
            self._window = packet.window
            self._window_from = (packet.sequence, number)

    def _take(self, packet: Packet) -> None:
        """The bytes of a segment, and its end."""
        ends = "F" in packet.flags
        if packet.payload or ends:
            self.incoming.arrived(packet.sequence, packet.payload, ends)
            self._acknowledge()
        elif packet.sequence < self.incoming.expected:  # a probe wants an answer
            self._acknowledge()

    # Sending

    def _push(self, now: float) -> None:
        """Send what both windows allow."""
        if self.state is not TCPState.ESTABLISHED or self.finished:
            return
        end = self._unacknowledged + len(self._outgoing)
        limit = self._unacknowledged + min(self._congestion.size, self._window)
        while self._next < end and self._next < limit:
            size = min(self.maximum_segment, end - self._next, limit - self._next)
            if size < min(self.maximum_segment, end - self._next) and self._next > self._unacknowledged:
                break  # a sliver of the window: what is acknowledged next makes it larger (RFC 9293 section 3.8.6.2.1)
            self._segment(self._next, size, now)
            self._next += size
        if self._next == self._end:
            self._emit("FA", self._next)
            self._next += 1
        self._highest = max(self._highest, self._next)
        self._wait(now)

    def _segment(self, sequence: int, size: int, now: float) -> None:
        start = sequence - self._unacknowledged
        if sequence < self._highest:
            self.retransmitted_bytes += size
            self._timed = None  # nobody knows which of them is acknowledged (RFC 6298 section 3)
        elif self._timed is None:
            self._timed = sequence, now
        self.sent_bytes += size
        self._emit("A", sequence, bytes(self._outgoing[start : start + size]))

    def _retransmit(self, now: float) -> None:
        """The first segment that is not acknowledged, once more; nothing behind it that was not sent yet."""
        size = min(self.maximum_segment, len(self._outgoing), self._highest - self._unacknowledged)
        if size:
            self._segment(self._unacknowledged, size, now)
        elif self._end == self._unacknowledged:
            self._emit("FA", self._unacknowledged)

    def _acknowledge(self) -> None:
        self._emit("A", self._highest)  # also while old numbers are sent again: the peer sees by it how new this is

    def _emit(self, flags: str, sequence: int, payload: bytes = b"") -> None:
        self.sent_segments += 1
        self._advertised = self.incoming.window
        number = self.incoming.expected if "A" in flags else 0
        ends = TransportProtocol.TCP, self.local, self.remote
        self._send(Packet(*ends, payload, flags, sequence, number, self._advertised, self.connection))

    # Time

    def _wait(self, now: float, *, anew: bool = False) -> None:
        """For what has to be acknowledged, or else for a closed window, or else for silence. A timer that runs goes on."""
        if self._unacknowledged < self._next:
            waiting = _Waiting.ACKNOWLEDGEMENT
        elif self._outgoing:
            waiting = _Waiting.WINDOW
        else:
            waiting = _Waiting.NOTHING if self._keepalive is None else _Waiting.SILENCE
        if waiting is self._waiting and not anew:
            return
        self._waiting = waiting
        self._waiting_since = now
        self._set_deadline(now)

    def _set_deadline(self, now: float) -> None:
        if self._waiting is _Waiting.NOTHING:
            self.deadline = inf
        elif self._waiting is _Waiting.SILENCE and self._keepalive is not None:
            self.deadline = max(now, self._heard + self._keepalive[0]) if not self._probes else now + self._keepalive[1]
        else:
            self.deadline = min(now + self.rtt.timeout(self._back_off), self._given_up_at)

    @property
    def _given_up_at(self) -> float:
        """When there has been no answer for too long; with an option for it (RFC 5482), no progress."""
        heard = self._waiting is _Waiting.WINDOW and self._drop_after is None
        return (self._heard if heard else self._waiting_since) + (self._drop_after or DROP_AFTER)

    def expired(self, now: float) -> None:
        """The deadline is over."""
        self.deadline = inf
        if self.state is TCPState.ESTABLISHED:
            if self._waiting is _Waiting.ACKNOWLEDGEMENT:
                self._resend(now)
            elif self._waiting is _Waiting.WINDOW:
                self._probe_window(now)
            elif self._keepalive is not None:
                self._probe_silence(now, *self._keepalive)
        elif self.state is not TCPState.CLOSED:
            opening = self.state is TCPState.SYN_SENT
            self._back_off += 1
            if self._back_off > (SYN_RETRIES if opening else SYN_ACK_RETRIES):
                self._fail(errno.ETIMEDOUT)
                return
            self._emit("S" if opening else "SA", 0)
            self.deadline = now + self.rtt.timeout(self._back_off)

    def _resend(self, now: float) -> None:
        if now >= self._given_up_at:
            self._fail(errno.ETIMEDOUT)
            return
        self._congestion.timed_out(self._next - self._unacknowledged)
        self._back_off += 1
        self._next = self._unacknowledged
        self._push(now)
        self._set_deadline(now)

    def _probe_window(self, now: float) -> None:
        """The peer's window is closed, and that it opened again may have been lost (RFC 9293 section 3.8.6.1)."""
        if now >= self._given_up_at:
            self._fail(errno.ETIMEDOUT)
            return
        self._emit("A", self._unacknowledged - 1)
        self._back_off += 1
        self._set_deadline(now)

    def _probe_silence(self, now: float, idle: float, interval: float, count: int) -> None:
        if self.finished and self.incoming.ended:
            return
        if self._probes >= count:
            self._fail(errno.ETIMEDOUT)
            return
        if now >= self._heard + idle:  # as the deadline was reckoned: the difference may be less than `idle` by rounding
            self._probes += 1
            self._emit("A", self._highest - 1)
        self._set_deadline(now)

    def _fail(self, code: int) -> None:
        self.error = code
        self.vanish()
