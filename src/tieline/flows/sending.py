"""The outbound half of a byte stream: a send is accepted when its rest fits the buffer, in the order of the calls.

    send(data) ──▶ writers (suspended calls) ──▶ pipeline ──▶ accepted (at most `limit` bytes) ──▶ kernel

The kernel is tried first. Only what it does not take is kept: without a copy while the call is suspended (its buffer is the
caller's), with one when the rest is small enough to be accepted, so that the caller may go on and reuse its buffer.

What most sends do is compiled (`tieline._engine.stream.Sending`): nobody is before them, and the kernel takes all of it.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, BinaryIO

from tieline._engine.stream import Sending
from tieline.errors import ChannelClosedError, MessageTooLargeError, NetworkError, Phase, raisable
from tieline.flows.content import misuse, octets
from tieline.flows.files import FileSource
from tieline.flows.writer import End, Writer

if TYPE_CHECKING:
    from tieline.drivers.port import Buffer
    from tieline.flows.stream import StreamFlow

__all__ = ["StreamSending"]

NONE, DUE, CLOSING, DONE = End  # before Python 3.12, to look one up there takes longer than what is done with it
NO_SENDFILE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO})  # sendfile(2): it is the file's fault


class StreamSending(Sending):
    """Gives bytes to the pipeline and the socket."""

    __slots__ = ("__dict__",)

    _flow: StreamFlow
    _accepted: list[Buffer]
    _writers: list[Writer]

    # Of the class until they change, which most of them never do.
    _end = NONE
    error: NetworkError | None = None  # the peer takes nothing any more
    lost = False  # and did not take what was accepted
    first: bytearray | bytes = b""  # idempotent bytes from before ready: they may ride on the first flight

    # Called by the application

    def _unexpected(self, option: str) -> None:
        raise misuse(self._flow, f"send() has no {option}=")

    async def _send(self, content: Any, end_of_stream: bool) -> None:
        """What is not simply given to the kernel."""
        await self._queue(Writer(memoryview(octets(content, self._flow)), end_of_stream))

    async def _keep(self, wire: bytes, taken: int) -> None:
        """The kernel has taken the beginning of a send."""
        self._full = True
        rest = memoryview(wire)[taken:]
        if self._flow.machine is not None:
            self._accept(rest)
            return
        self.count -= len(rest)
        await self._queue(Writer(rest))

    def _refused(self, error: OSError) -> NetworkError:
        told = self._told(self._broken(error))
        told.__cause__ = error
        return told

    async def _gone(self) -> None:
        """It went at once. After many in a row, let other tasks, and the timer of an `asyncio.timeout()`, have their turn."""
        if self._rests():
            await self._flow.next_turn()

    async def send_file(self, file: BinaryIO, offset: int = 0, count: int | None = None) -> int:
        try:
            source = FileSource(file, offset, count)
        except TypeError as error:
            raise misuse(self._flow, str(error)) from None
        writer = Writer(memoryview(b""), source=source)
        await self._queue(writer)
        return writer.count

    def send_idempotent(self, content: Any, *, end_of_stream: bool = False) -> None:
        flow = self._flow
        data = bytes(octets(content, flow))
        self._require_open()
        waiting = self.remaining
        if waiting + len(data) > self._limit:
            raise MessageTooLargeError(
                "an idempotent send does not wait for room, and there is none",
                limit=self._limit,
                size=waiting + len(data),
                endpoint=flow.endpoint,
                phase=Phase.TRANSFER,
                expected=f"at most {max(0, self._limit - waiting):,} bytes now",
                got=f"{len(data):,}",
                hint="Await send(), or raise Parameters(send_limit=...).",
            )
        if flow.socket is None and not self._writers:
            self.first = self.first or bytearray()
            self.first += data
            data = b""
        if data or end_of_stream:
            self.ended = end_of_stream
            self._writers.append(Writer(memoryview(data), end_of_stream, promised=True))
        flow.need()
        self.pump()

    # Waiting for room

    def _require_open(self) -> None:
        if self.error is not None:
            raise self._told(self.error)
        if self.ended:
            self._flow.need()  # if the whole connection was closed, that is the better answer
            raise ChannelClosedError(
                "nothing can be sent after the end of the stream",
                endpoint=self._flow.endpoint,
                phase=Phase.TRANSFER,
                hint="send(..., end_of_stream=True) came before.",
            )

    async def _queue(self, writer: Writer) -> None:
        """Put a call in its place and wait until everything of it has been taken or accepted."""
        flow = self._flow
        self._require_open()
        flow.need()
        self.ended = writer.end
        self._writers.append(writer)
        if self._writers[0] is writer:
            self.pump()
        if writer.error is not None:
            raise writer.error
        if writer not in self._writers:
            return await self._gone()
        writer.waiter = flow.waiter()
        try:
            await writer.waiter
        except BaseException:
            if writer in self._writers and writer.withdraw():  # the rest is the caller's again, and its end will not follow
                self._writers.remove(writer)
                self.ended = self.ended and not writer.end
                self.pump()
            raise

    @staticmethod
    def _answer(writer: Writer, error: BaseException | None) -> None:
        writer.error = error  # for a call that is just being made, and has no waiter yet
        if writer.waiter is not None and not writer.waiter.done():
            if error is None:
                writer.waiter.set_result(None)
            else:
                writer.waiter.set_exception(error)

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
                if not (self._write(writer) if flushed else self._fits(writer)):
                    return
                if self._writers and self._writers[0] is writer:  # it has not failed by its own file
                    if writer.end:
                        self._end = DUE
                    self._answer(self._writers.pop(0), None)
        except OSError as error:
            self._broken(error)

    def _give(self, data: Buffer) -> int:
        """What the kernel takes of this; not asked again until it says so."""
        socket = self._flow.socket
        if self._full or socket is None:
            return 0
        taken = socket.send(data)
        self._full = taken < len(data)
        return taken

    def _flush(self) -> bool:
        """Whether everything that was accepted has gone to the kernel."""
        accepted = self._accepted
        if not accepted:
            return True
        if self._full:
            return False
        data = accepted[0] if len(accepted) == 1 else b"".join(accepted)  # one system call for many small sends
        taken = self._give(data)
        self._size -= taken
        accepted.clear()
        if taken < len(data):
            accepted.append(memoryview(data)[taken:])
        return not accepted

    def _write(self, writer: Writer) -> bool:
        """Everything before this call has gone: move its bytes until the kernel is full. True when it is done with."""
        machine, source = self._flow.machine, writer.source
        if source is not None and machine is None and source.sendfile:
            return self._write_file(writer, source)
        while True:
            if not writer.rest and source is not None:
                try:
                    writer.rest = memoryview(source.read(self._slice))
                except Exception as error:  # of the file, not of the connection: its caller has to know
                    self._answer(self._writers.pop(0), error)
                    return True
            if not writer.rest:
                return True
            if machine is None:
                self._count(writer, self._give(writer.rest))
                if writer.rest:
                    return self._fits(writer)
            else:
                self._through(writer)
                if not self._flush():
                    return self._fits(writer)

    def _write_file(self, writer: Writer, source: FileSource) -> bool:
        socket = self._flow.socket
        assert socket is not None and source.fileno is not None
        while source.chunk and not self._full:
            try:
                sent = socket.send_file(source.fileno, source.offset, source.chunk)
            except OSError as error:
                if error.errno not in NO_SENDFILE:
                    raise
                source.sendfile = False
                return self._write(writer)
            if sent is None:
                self._full = True
                break
            if sent == 0:
                return True
            source.advance(sent)
            self.count += sent
            writer.count += sent
        return not source.chunk

    def _fits(self, writer: Writer) -> bool:
        """The kernel is full: accept the rest of this call if there is room for it."""
        if writer.source is not None or self._size + len(writer.rest) > self._limit:
            return False
        if self._flow.machine is None:
            self._accept(bytes(writer.rest))
            self._count(writer, len(writer.rest))
        else:
            while writer.rest:
                self._through(writer)
        return True

    def _through(self, writer: Writer) -> None:
        """Send one slice through the pipeline."""
        machine = self._flow.machine
        assert machine is not None
        piece = writer.rest[: self._slice]
        self._accept(machine.send(piece))
        self._count(writer, len(piece))

    def _count(self, writer: Writer, taken: int) -> None:
        writer.rest = writer.rest[taken:]
        writer.count += taken
        self.count += taken

    def emit(self, wire: bytes) -> None:
        """Bytes that the pipeline sends of its own accord."""
        self._accept(wire)
        self.pump()

    def writable(self) -> None:
        """The kernel has room again."""
        self._full = False
        self.pump()

    # Ending

    def end(self) -> bool:
        """End our direction once what was accepted has gone; whether it has. Suspended calls have been failed before."""
        if not self.ended:
            self.ended = True
            if self._flow.pipeline is None and self._flow.closed and self.idle:  # the flow ends its socket, and nobody waits
                return True
            self._end = DUE
        if self.idle:
            return True
        self.pump()
        return self.idle

    def _finish(self) -> None:
        """Nothing is left to send: end our direction if that was asked for."""
        socket, machine = self._flow.socket, self._flow.machine
        assert socket is not None
        if self._end is DUE:
            self._end = CLOSING
            if machine is not None:
                self._accept(machine.end())
        if self._end is CLOSING:
            if not self._flush():
                return
            self._end = DONE
            if not self._flow.closed:  # or the flow ends its socket when it has nothing more to hear
                socket.end()
        self._flow.wake_close()

    @property
    def idle(self) -> bool:
        """Whether everything accepted, and the end if one is due, has gone to the kernel."""
        return not self._waits and not self._end.is_under_way

    @property
    def remaining(self) -> int:
        """Bytes that were accepted and have not gone to the kernel."""
        return len(self.first) + self._size + sum(len(writer.rest) for writer in self._writers if writer.promised)

    @property
    def ends_early(self) -> bool:
        """Whether the end of our direction follows right after `first`."""
        return bool(self._writers) and self._writers[0].is_end

    # The flow's socket comes, goes and breaks

    def attached(self, wire: bytes, early: int) -> None:
        """A socket is there. `wire` ends its handshake; of the idempotent bytes, `early` have gone with the first flight."""
        if wire:
            self._accept(wire)
        if self.first:
            rest = bytes(self.first[early:])
            self.count += early
            self.first = b""
            if rest:
                self._writers.insert(0, Writer(memoryview(rest), promised=True))
        if self._accepted or self._writers:
            self.pump()

    def detached(self) -> None:
        """What was accepted, and our end of it, was for the peer that is given up; suspended calls are for the next one."""
        self._drop()
        self.error = None
        self.ended = any(writer.end for writer in self._writers)

    def raise_pending(self, error: NetworkError) -> None:
        """Every suspended call raises. What was accepted, as idempotent data are at once, still goes when it can."""
        writers = self._writers.copy()
        self._writers[:] = [writer for writer in writers if writer.promised]
        for writer in writers:
            if not writer.promised:
                self.ended = self.ended and not writer.end
                self._answer(writer, self._told(error))

    def _told(self, error: NetworkError) -> NetworkError:
        """For a call to raise. A close need not tell it again."""
        self.lost = False
        return raisable(error)

    def _broken(self, error: OSError) -> NetworkError:
        """The peer no longer takes anything. What it has sent before can still be read, so only this half fails."""
        failure = self._flow.translate(error)
        self.fail(failure)
        return failure

    def fail(self, error: NetworkError) -> None:
        """Nothing can be sent any more: suspended calls raise, and what was accepted is lost."""
        if self.error is None:
            self.error = error
            self.lost = self.remaining > 0
        self.raise_pending(error)
        self._writers.clear()
        self._drop()
        self._flow.wake_close()

    def _drop(self) -> None:
        self._accepted.clear()
        self._size = 0
        self._end = NONE
