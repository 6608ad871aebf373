"""A byte stream over one socket: the socket below, the pipeline between, the waiting calls above.

    receive() ◀── StreamReceiving ◀── pipeline ◀── received()
                                                              socket
    send()    ──▶ StreamSending   ──▶ pipeline ──▶ send()

The flow exists from the construction of its connection, so calls can wait in it before there is a socket. Establishment
*attaches* one; `try_next_endpoint` detaches it and another takes its place while the calls go on waiting.
"""

from __future__ import annotations

import errno
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tieline.errors import ChannelClosedError, NetworkError, Phase, raisable, translate
from tieline.flows.alarm import Alarm, AttendedPipeline
from tieline.flows.owner import FlowOwner, present
from tieline.flows.progress import progress
from tieline.flows.receiving import StreamReceiving
from tieline.flows.sending import StreamSending

if TYPE_CHECKING:
    from tieline.drivers.port import Buffer, Counted, StreamSocket, Waiter
    from tieline.engines.pipeline import Layer, Pipeline
    from tieline.parameters import Parameters

__all__ = ["StreamFlow"]


class StreamFlow:
    """Moves bytes both ways for one connection."""

    __slots__ = (
        "__weakref__", "_alarm", "_discarded", "_failure", "_news", "_owner", "_parameters",
        "closed", "endpoint", "machine", "name", "pipeline", "receiving", "sending", "socket", "waiter",
    )  # fmt: skip

    takes_bytes = True  # what comes goes to the inbox as it is, but for what a pipeline does with it
    farewell: NetworkError | None = None  # a peer's end is the end of one direction
    calls = (
        "send(data, end_of_stream=), send_file(), send_idempotent(), receive(exactly=|at_least=, at_most=|as_=|until=), "
        "receive_into() and iteration"
    )

    def __init__(self, owner: FlowOwner, parameters: Parameters[Any], endpoint: object) -> None:
        self._owner = weakref.ref(owner)
        self._parameters = parameters
        self.name = parameters.stack.name
        self.endpoint = endpoint
        self.socket: StreamSocket | None = None
        self.pipeline: Pipeline | None = None
        self.machine: Pipeline | Layer | None = None  # what data go through: a pipeline of one layer is that layer
        self.waiter: Callable[[], Waiter]  # the driver's, as soon as there is one
        self.receiving = StreamReceiving(self, parameters.receive_limit)
        self.sending = StreamSending(self, parameters.send_limit)
        self._alarm: Alarm | None = None  # of layers that act by themselves
        self._failure: NetworkError | None = None
        self.closed = False
        self._discarded = False  # the peer sent what nobody will read
        self._news: Waiter | None = None

    # For the halves

    def need(self) -> None:
        """Raise if no byte can come or go any more, or see to it that some can."""
        if self.closed:
            raise self.closed_error()
        if self._failure is not None:
            raise raisable(self._failure)
        if self.socket is None:
            owner = present(self._owner)
            owner.needed()
            self.waiter = owner.driver.waiter

    def translate(self, error: OSError) -> NetworkError:
        return translate(error, self.endpoint)

    def closed_error(self) -> ChannelClosedError:
        """For a call after this side has closed."""
        return ChannelClosedError("the connection was closed by this side", endpoint=self.endpoint, phase=Phase.TRANSFER)

    # For the connection

    def attach(self, socket: StreamSocket, pipeline: Pipeline | None, plaintext: bytes, wire: bytes, early: int) -> None:
        """Go on with an established socket: `plaintext` came with its handshake, `wire` still has to leave."""
        owner = present(self._owner)
        self.waiter = owner.driver.waiter
        self.socket, self.pipeline = socket, pipeline
        if pipeline is not None and pipeline.messages:
            self._alarm = Alarm(owner.driver, pipeline.messages, self._rung)
        self.machine = None if pipeline is None else self._lower(pipeline)
        quiet = self.receiving._begin(self.waiter)
        waiting = self.sending._link(socket, self.machine)
        socket.handler = self
        if self.machine is None:
            socket.sink = self.receiving if self.takes_bytes else None
        elif self.takes_bytes:
            cipher = self.receiving.cipher = self.sending.cipher = getattr(self.machine, "cipher", None)
            socket.sink = self.receiving if cipher is not None else None
        if quiet and not plaintext:
            socket.resume()
        else:
            self.receiving.attached(plaintext)
        if waiting or wire or self.sending.first:
            self.sending.attached(wire, early)
        if pipeline is not None and pipeline.ended:
            self.receiving.ended()

    def _lower(self, pipeline: Pipeline) -> Pipeline | Layer | None:
        """What the application's bytes go through."""
        if self._alarm is not None:
            return AttendedPipeline(pipeline, self._alarm)
        return pipeline.layers[0] if len(pipeline.layers) == 1 else pipeline

    def detach(self) -> None:
        """Give up the socket; the calls go on waiting for the next."""
        if self.socket is not None:
            self.socket.abort()
            self._no_socket()
            self.receiving.clear()
            self.sending.detached()

    def _no_socket(self) -> None:
        self.socket = None
        self.receiving._link(None)
        self.sending._link(None, None)
        if self._alarm is not None and self.pipeline is not None:
            self._alarm.stop()
            self.pipeline.closed()

    def raise_pending(self, error: NetworkError) -> None:
        """What waits raises, but the flow can still be attached later."""
        self.receiving.fail(error)
        self.sending.raise_pending(error)

    def fail(self, error: NetworkError) -> None:
        """It is over: what waits raises, and so does what comes after what has already been received."""
        if self._failure is None:
            self._failure = error
        if self.socket is not None:
            self.socket.abort()
            self._no_socket()
        self.receiving.fail(error)
        self.sending.fail(error)

    def abort(self) -> None:
        """Close with a reset, at once."""
        if self.closed and self.socket is None and not self.sending._waits:  # it was closed before
            return
        self._close_calls()
        self.sending.fail(self.closed_error())
        if self.socket is not None:
            self.socket.abort()
            self._no_socket()
        self.wake_close()

    def _close_calls(self) -> None:
        if not self.closed:
            self.closed = True
            self.receiving._link(None)
            if self.socket is not None:
                self.socket.sink = None
            inbox = self.receiving.inbox
            self._discarded = inbox.size > 0
            inbox.clear()
            if self.has_calls:
                self.raise_pending(self.closed_error())

    @property
    def has_calls(self) -> bool:
        """Whether a call may wait."""
        return self.receiving.has_calls or self.sending._waits

    def finish_at_once(self) -> bool:
        """Close gracefully, if nothing waits on either side and nothing has to be said first, as mostly; whether it was so."""
        socket, sending, receiving = self.socket, self.sending, self.receiving
        if self.closed or socket is None or self.pipeline is not None or not self.takes_bytes or sending._waits or sending.error:
            return False
        if receiving.has_calls or receiving.inbox.size or socket.unread():
            return False
        self.closed = sending.ended = True
        socket.finish()
        self._no_socket()
        return True

    async def finish(self) -> None:
        """Close gracefully: what was accepted drains, then our end goes out, and unread input is discarded until the peer's.

        Input that nobody reads must not be left in the kernel: closing would then reset the connection and could destroy
        what the peer has not read yet. That the peer goes on sending is no progress, or it could keep us for ever.

        Raises CloseTimeoutError when nothing moves for `close_timeout` seconds, and PeerResetError when the peer did not
        take what had been accepted.
        """
        self._close_calls()
        socket = self.socket
        if socket is None:
            return
        if not self.sending.end():
            socket.resume()
            await progress(self, lambda: self.sending.idle, "the peer takes no more of what was sent")
        while self.socket is not None and not self._discarded and socket.unread():
            socket.resume()
            await self.next_turn()
        if self._discarded and self.socket is not None:
            socket.resume()
            self.socket.end()  # again, perhaps, which does nothing
            await progress(self, lambda: self.receiving.inbox.ended, "the peer has sent what nobody reads, and has not ended")
        if self.socket is not None:
            self.socket.finish()
            self._no_socket()
        if self.sending.lost and self.sending.error is not None:
            raise raisable(self.sending.error)

    async def next_turn(self) -> None:
        """Let everything else run that is due."""
        waiter = self.waiter()
        self.soon(lambda: None if waiter.done() else waiter.set_result(None))
        await waiter

    def soon(self, callback: Callable[[], None]) -> None:
        """Have something called at the loop's next turn."""
        present(self._owner).driver.call_soon(callback)

    def wake_close(self) -> None:
        """Something happened that a graceful close may have waited for."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    @property
    def lost(self) -> bool:
        """Whether something that was accepted did not get to the peer, and no call has said so."""
        return self.sending.lost

    @property
    def is_open(self) -> bool:
        """Whether there is a socket."""
        return self.socket is not None

    # For the socket

    def connected(self) -> None:
        """Establishment is over before the flow gets its socket."""

    def received(self, data: Buffer) -> None:
        machine = self.machine
        if machine is None:
            if self.closed:
                self._discarded = True
            else:
                self.receiving.arrived(data if type(data) is bytes else bytes(data))
            return
        try:
            piece = machine.receive(data)
        except NetworkError as error:
            self.violated(error)
        else:
            self.opened(piece)

    def opened(self, piece: bytes) -> None:
        """What the machine has made of what came, and what else it wants."""
        machine = self.machine
        assert machine is not None  # it has made that
        output = machine.output()
        if output:
            self.sending.emit(output)
        ended = machine.ended and not self.receiving.inbox.ended
        if ended:
            self.receiving.inbox.ended = True
        socket = self.socket
        if piece and self.closed:
            self._discarded = True
        elif piece:
            self.receiving.arrived(piece)  # may run the program, and that may have gone on to the next endpoint
        if self.socket is not socket:
            return
        if ended:
            self._end_received()
        elif output and piece and socket is not None:
            # A fault behind good data raises at the next call, and an alert is all that shows it.
            self.received(b"")

    def received_end(self) -> None:
        if self.receiving.inbox.ended:
            return
        broken = self.sending.error
        if broken is not None and isinstance(broken, OSError) and broken.errno == errno.ECONNRESET:
            # The kernel tells of a reset once. A send was told, so this is not the end that it looks like.
            self._fail(broken)
            return
        try:
            self._receive_end()
        except NetworkError as error:
            if not self.closed:
                self.violated(error)
                return
        self._end_received()

    def _receive_end(self) -> None:
        """Tell the layers. Raises NetworkError if that cuts one short."""
        if self.machine is not None:
            self.machine.receive_end()

    def _rung(self) -> None:
        """A layer wanted to be woken now."""
        if self._alarm is None or self.socket is None:
            return
        try:
            self._alarm.wake(reading=not self.receiving.is_paused)
        except NetworkError as error:
            self.violated(error)
            return
        self._after()
        self._alarm.look()

    def _after(self) -> None:
        """Layers have done something of their own: send what they say."""
        if self.machine is not None and (output := self.machine.output()):
            self.sending.emit(output)

    def _end_received(self) -> None:
        self.receiving.ended()
        if self._news is not None:
            self.wake_close()

    def violated(self, error: NetworkError) -> None:
        """What came cannot be: tell the peer what the pipeline wants to tell it, and end."""
        if self.machine is not None and self.socket is not None:
            alert = self.machine.output()
            if alert:
                try:
                    self.socket.send(alert)
                    self.socket.end()
                except OSError:
                    alert = b""  # the peer is gone: nobody is left to be told
        if self.socket is not None:
            self.socket.close()
            self._no_socket()
        self._fail(error)

    def writable(self) -> None:
        self.sending.writable()

    def receive_failed(self, error: NetworkError) -> None:
        """The peer has broken its direction off, as QUIC's streams can; ours goes on."""
        self.receiving.failed(error)
        self.wake_close()

    def failed(self, error: OSError) -> None:
        self._no_socket()
        failure = self.translate(error)
        if self.closed:
            self.sending.fail(failure)
        else:
            self._fail(failure)

    def _fail(self, error: NetworkError) -> None:
        self.fail(error)
        owner = self._owner()
        if owner is not None:
            owner.flow_failed(error)

    # Measuring

    def metadata(self, protocol: type[Any]) -> Any:
        """What one layer knows of this connection, None without a connection."""
        if self.socket is None:
            return None
        for layer in self.pipeline.layers if self.pipeline is not None else ():
            if layer.name == protocol.name:
                return layer.metadata()
        return self.socket.metadata()

    def measured(self) -> tuple[Counted | None, int, int]:
        """What the transport has counted, and the bytes of the application that were received and sent."""
        return None if self.socket is None else self.socket.counters(), self.receiving.count, self.sending.count
