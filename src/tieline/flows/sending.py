"""The outbound half of a byte stream: a send is accepted when its rest fits the buffer, in the order of the calls.

    send(data) ──▶ writers (suspended calls) ──▶ pipeline ──▶ accepted (at most `limit` bytes) ──▶ kernel

The kernel is tried first. Only what it does not take is kept: without a copy while the call is suspended (its buffer is the
caller's), with one when the rest is small enough to be accepted, so that the caller may go on and reuse its buffer.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, Any, BinaryIO

from tieline.errors import ChannelClosedError, MessageTooLargeError, NetworkError, Phase, raisable
from tieline.flows.content import octets
from tieline.flows.files import FileSource

if TYPE_CHECKING:
    from tieline.drivers.port import Buffer, Waiter
    from tieline.flows.stream import StreamFlow

__all__ = ["StreamSending"]

SLICE = 128 * 1024  # of plaintext that goes through the pipeline at once: eight TLS records


class Writer:
    """One send that waits for room: `rest` is what nobody has taken yet."""

    __slots__ = ("count", "end", "rest", "source", "waiter")

    def __init__(self, rest: memoryview, end: bool, waiter: Waiter | None, source: FileSource | None = None) -> None:
        self.rest = rest
        self.end = end
        self.waiter = waiter
        self.source = source
        self.count = 0


class End(enum.Enum):
    """How far the end of our direction has come."""

    NONE = 0
    DUE = 1  # once everything accepted has gone
    CLOSING = 2  # the pipeline's own end is on its way
    DONE = 3


class StreamSending:
    """Gives bytes to the pipeline and the socket."""

    __slots__ = ("_accepted", "_end", "_error", "_flow", "_limit", "_size", "_slice", "_writers", "count", "ended", "first")

    def __init__(self, flow: StreamFlow, limit: int) -> None:
        self._flow = flow
        self._limit = limit
        self._accepted: deque[Buffer] = deque()
        self._size = 0  # of what is accepted
        self._writers: deque[Writer] = deque()
        self._slice = min(SLICE, limit)
        self._end = End.NONE
        self._error: NetworkError | None = None
        self.ended = False  # our direction: nothing more may be sent
        self.count = 0
        self.first = bytearray()  # idempotent bytes from before ready: they may ride on the first flight

    # Called by the application

    async def send(self, content: Any, *, end_of_stream: bool = False) -> None:
        if type(content) is not bytes:
            content = octets(content)
        flow = self._flow
        socket = flow.socket
        if socket is None or self._accepted or self._writers or end_of_stream or self.ended or self._error or not content:
            await self._queue(Writer(memoryview(content), end_of_stream, None))
            return
        pipeline = flow.pipeline
        if pipeline is None:
            wire = content
        elif len(content) <= self._slice:
            wire = pipeline.send(content)
        else:
            await self._queue(Writer(memoryview(content), False, None))
            return
        try:
            taken = socket.send(wire)
        except OSError as error:
            raise raisable(self._broken(error)) from error
        self.count += len(content)
        if taken < len(wire):
            rest = memoryview(wire)[taken:]
            if pipeline is not None:
                self._accept(rest)
            else:
                self.count -= len(rest)
                await self._queue(Writer(rest, False, None))

    async def send_file(self, file: BinaryIO, offset: int = 0, count: int | None = None) -> int:
        writer = Writer(memoryview(b""), False, None, FileSource(file, offset, count))
        await self._queue(writer)
        return writer.count

    def send_idempotent(self, content: Any, *, end_of_stream: bool = False) -> None:
        data = bytes(octets(content))
        self._require_open()
        waiting = len(self.first) + self._size
        if waiting + len(data) > self._limit:
            raise MessageTooLargeError(
                "an idempotent send does not wait for room, and there is none",
                limit=self._limit,
                size=waiting + len(data),
                endpoint=self._flow.endpoint,
                phase=Phase.TRANSFER,
                expected=f"at most {self._limit - waiting:,} bytes now",
                got=f"{len(data):,}",
                hint="Await send(), or raise Parameters(send_limit=...).",
            )
        if self._flow.socket is None and not self._writers:
            self.first += data
            if not end_of_stream:
                self._flow.need()
                return
            data = b""
        self.ended = self.ended or end_of_stream
        self._writers.append(Writer(memoryview(data), end_of_stream, None))
        self._flow.need()
        if self._flow.socket is not None:
            self.pump()

    # Waiting for room

    def _require_open(self) -> None:
        if self._error is not None:
            raise raisable(self._error)
        if self.ended:
            raise ChannelClosedError(
                "nothing can be sent after the end of the stream",
                endpoint=self._flow.endpoint,
                phase=Phase.TRANSFER,
                hint="send(..., end_of_stream=True) or a close came before.",
            )

    async def _queue(self, writer: Writer) -> None:
        """Put a call in its place and wait until everything of it has been taken or accepted."""
        flow = self._flow
        self._require_open()
        flow.need()
        if writer.end:
            self.ended = True
        self._writers.append(writer)
        if flow.socket is not None and self._writers[0] is writer:
            self.pump()
        if writer not in self._writers:
            if self._error is not None and (writer.rest or writer.source is not None):
                raise raisable(self._error)
            return
        writer.waiter = flow.waiter()
        try:
            await writer.waiter
        except BaseException:
            if writer in self._writers:  # the rest is the caller's again; the end, if it was to follow, will not
                self._writers.remove(writer)
                self.ended = self.ended and not writer.end
                self.pump()
            raise
        finally:
            if writer.source is not None:
                writer.source.close()

    def _accept(self, data: Buffer) -> None:
        if len(data):
            self._accepted.append(data)
            self._size += len(data)

    # Moving bytes

    def pump(self) -> None:
        """Give the kernel what it takes: what was accepted, then the suspended calls in their order."""
        flow = self._flow
        try:
            while flow.socket is not None:
                flushed = self._flush()
                if not self._writers:
                    if flushed:
                        self._finish()
                    return
                writer = self._writers[0]
                taken = self._write(writer) if flushed else self._fits(writer)
                if not taken:
                    return
                self._writers.popleft()
                if writer.end:
                    self._end = End.DUE
                if writer.waiter is not None and not writer.waiter.done():
                    writer.waiter.set_result(None)
        except OSError as error:
            self._broken(error)

    def _flush(self) -> bool:
        """Whether everything that was accepted has gone to the kernel."""
        accepted, socket = self._accepted, self._flow.socket
        assert socket is not None
        if not accepted:
            return True
        data = accepted[0] if len(accepted) == 1 else b"".join(accepted)
        accepted.clear()
        taken = socket.send(data)
        self._size -= taken
        if taken < len(data):
            accepted.append(memoryview(data)[taken:])
            return False
        return True

    def _write(self, writer: Writer) -> bool:
        """Everything before this call has gone: move its bytes until the kernel is full. True when it is done with."""
        flow = self._flow
        socket, pipeline = flow.socket, flow.pipeline
        assert socket is not None
        if writer.source is not None and pipeline is None and writer.source.fileno is not None:
            return self._write_file(writer, writer.source)
        while True:
            if not writer.rest and writer.source is not None:
                writer.rest = memoryview(writer.source.read(self._slice))
            if not writer.rest:
                return True
            if pipeline is None:
                taken = socket.send(writer.rest)
                self._count(writer, taken)
                if writer.rest:
                    return self._fits(writer)
            else:
                self._through(writer)
                if not self._flush():
                    return self._fits(writer)

    def _write_file(self, writer: Writer, source: FileSource) -> bool:
        socket = self._flow.socket
        assert socket is not None and source.fileno is not None
        while source.left is None or source.left > 0:
            sent = socket.send_file(source.fileno, source.offset, source.chunk)
            if sent is None:
                return False
            if sent == 0:
                return True
            source.advance(sent)
            self.count += sent
            writer.count += sent
        return True

    def _fits(self, writer: Writer) -> bool:
        """The kernel is full: accept the rest of this call if there is room for it."""
        if writer.source is not None or self._size + len(writer.rest) > self._limit:
            return False
        if self._flow.pipeline is None:
            self._accept(bytes(writer.rest))
            self._count(writer, len(writer.rest))
        else:
            while writer.rest:
                self._through(writer)
        return True

    def _through(self, writer: Writer) -> None:
        """Send one slice through the pipeline."""
        pipeline = self._flow.pipeline
        assert pipeline is not None
        piece = writer.rest[: self._slice]
        self._accept(pipeline.send(piece))
        self._count(writer, len(piece))

    def _count(self, writer: Writer, taken: int) -> None:
        writer.rest = writer.rest[taken:]
        writer.count += taken
        self.count += taken

    def emit(self, wire: bytes) -> None:
        """Bytes that the pipeline sends of its own accord."""
        self._accept(wire)
        self.pump()

    # Ending

    def end(self) -> None:
        """End our direction once what was accepted has gone. Suspended calls have been failed before."""
        if not self.ended:
            self.ended = True
            self._end = End.DUE
        self.pump()

    def _finish(self) -> None:
        """Nothing is left to send: end our direction if that was asked for."""
        socket, pipeline = self._flow.socket, self._flow.pipeline
        assert socket is not None
        if self._end is End.DUE:
            self._end = End.CLOSING
            if pipeline is not None:
                self._accept(pipeline.end())
        if self._end is End.CLOSING:
            if not self._flush():
                return
            self._end = End.DONE
            socket.end()
        self._flow.wake_close()

    @property
    def idle(self) -> bool:
        """Whether everything accepted, and the end if one is due, has gone to the kernel."""
        return not self._accepted and not self._writers and self._end in (End.NONE, End.DONE)

    @property
    def remaining(self) -> int:
        """Bytes that were accepted and have not gone to the kernel."""
        return self._size

    def attached(self, early: int) -> None:
        """A socket is there. Of the idempotent bytes, `early` have already gone with the first flight."""
        rest = bytes(self.first[early:])
        self.count += early
        self.first.clear()
        if rest:
            self._writers.appendleft(Writer(memoryview(rest), False, None))
        self.pump()

    def _broken(self, error: OSError) -> NetworkError:
        """The peer no longer takes anything. What it has sent before can still be read, so only this half fails."""
        failure = self._flow.translate(error)
        self._error = failure
        self.fail(failure)
        return failure

    def fail(self, error: NetworkError) -> None:
        """Every suspended call raises, and what was accepted is lost."""
        for writer in self._writers:
            if writer.waiter is not None and not writer.waiter.done():
                writer.waiter.set_exception(raisable(error))
        self._writers.clear()
        if self._error is not None:
            self._accepted.clear()
            self._size = 0
            self._end = End.NONE
        self._flow.wake_close()
