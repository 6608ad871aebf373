"""The machine of `Framer`: runs a user's framing protocol between the bytes of a connection and its messages."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tieline.engines.framer_context import Context
from tieline.engines.framing import CONSUMED, MessageLayer, outsized
from tieline.errors import DecodingError, NetworkError, PeerResetError, Phase, ProtocolViolationError
from tieline.protocols.framer import Framer, FramerMetadata, FramerProtocol

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from typing_extensions import Buffer

    from tieline.engines.pipeline import Layer
    from tieline.protocols.roles import NetworkProtocol

__all__ = ["FramerLayer"]

SLACK = 64 * 1024  # of unread input beside a message: what surrounds it

logger = logging.getLogger("tieline.connection")

MakeLayer = Callable[["NetworkProtocol"], "Layer"]


class FramerLayer(MessageLayer):
    """One connection's framer. User code runs in it; what that raises becomes the cause of the error that ends the connection."""

    name = Framer.name

    def __init__(self, options: Framer, endpoint: object, make_layer: MakeLayer) -> None:
        super().__init__()
        self.handshake_timeout = options.handshake_timeout
        self._options = options
        self._endpoint = endpoint
        self._make_layer = make_layer
        self._framer: FramerProtocol | None = None
        self._context = Context(self, options.options)
        self._upper: Layer | None = None  # what was prepended
        self._marked = False
        self._stopping = self._stopped = False
        self._rises = False  # and has started
        self._delivered: list[bytes] = []  # for it
        self._closed = False

    # For the context

    def error(self, summary: str, **details: Any) -> ProtocolViolationError:
        phase = Phase.TRANSFER if self.ready else Phase.HANDSHAKE
        return ProtocolViolationError(f"{self._label}: {summary}", endpoint=self._endpoint, phase=phase, **details)

    def outsized(self, size: int) -> ProtocolViolationError:
        phase = Phase.TRANSFER if self.ready else Phase.HANDSHAKE
        return outsized(f"{self._label} message", size, self.limit, self._endpoint, phase=phase)

    @property
    def limit(self) -> int:
        return self._options.maximum_message_size

    def mark_ready(self) -> None:
        self._marked = True

    def prepend(self, protocol: NetworkProtocol) -> None:
        if self._upper is not None or self.ready:
            raise RuntimeError("prepend() is for once, before the framer is ready")
        self._upper = self._make_layer(protocol)
        if isinstance(self._upper, MessageLayer):
            self.inbox = self._upper.inbox
            self._upper.local, self._upper.remote = self.local, self.remote

    def deliver(self, content: bytes, metadata: dict[str, Any] | None) -> None:
        if self._upper is None:
            self.inbox.append(content, FramerMetadata(framer={} if metadata is None else metadata), len(content))
        else:
            self._delivered.append(content)

    def _feed(self) -> None:
        """What was prepended hears what was delivered, as soon as it has started."""
        upper = self._upper
        if upper is None or not self._rises or not self._delivered:
            return
        data = b"".join(self._delivered)
        self._delivered.clear()
        piece = b""
        try:
            piece = upper.receive(data)
        finally:
            self._run(lambda _: self._lower(upper.output()))
        if piece:
            self.inbox.append(piece, FramerMetadata(), len(piece))
        self._rise()

    def _lower(self, data: bytes) -> None:
        """What was prepended sends through the framer."""
        if data:
            self._frame(data, None)

    # The layer's verbs

    @property
    def decision(self) -> Awaitable[bool] | None:  # type: ignore[override]
        return None if self._upper is None or self.ready else self._upper.decision

    def decided(self, accepted: bool, error: BaseException | None = None) -> bytes:
        upper = self._upper
        assert upper is not None  # nobody else asks
        piece = upper.decided(accepted, error)
        if piece:
            self.inbox.append(piece, FramerMetadata(), len(piece))
        self._run(lambda _: self._lower(upper.output()))
        self._rise()
        return b""

    def start(self) -> bytes:
        self._context.local_endpoint, self._context.remote_endpoint = self.local, self.remote

        def begin(_: Any) -> None:
            self._framer = self._options.framer()
            if self._framer.start(self._context):
                self._marked = True

        self._run(begin)
        self._rise()
        return self.output()

    def _rise(self) -> None:
        """What was prepended shakes hands when the framer has."""
        if not self._marked or self.ready:
            return
        upper = self._upper
        if upper is not None and not self._rises:
            self._rises = True
            self._run(lambda _: self._lower(upper.start()))
            self._feed()
        self.ready = upper is None or upper.ready

    def receive(self, data: Buffer, /) -> bytes:
        piece = bytes(data)
        if piece:
            self._context.arrived(piece)
            self._handle_input()
        return b""

    def _handle_input(self) -> None:
        self._run(self._parse)
        self._rise()
        self._feed()
        if self._context.unread > self.limit + SLACK:
            raise self._failed(
                self.error(
                    "the input grows and grows, and nothing of it is consumed",
                    expected=f"a message within maximum_message_size={self.limit:,} bytes",
                    got=f"{self._context.unread:,} bytes unread",
                )
            )
        self._stop_again()

    def _parse(self, framer: FramerProtocol) -> None:
        if self._context.deliver_pending():
            framer.handle_input(self._context)
        self._context.deliver_passing()

    def receive_end(self) -> None:
        context = self._context
        context.input_ended = True
        if not self.ready:
            raise PeerResetError(
                "the peer ended the stream before the framer was ready", endpoint=self._endpoint, phase=Phase.HANDSHAKE
            )
        if self._upper is not None:
            self._upper.receive_end()
        if context.unread:
            self._handle_input()
        self.inbox.partial = context.rest()
        self.inbox.ended = True

    def encode(self, content: Any, /, *, metadata: dict[str, Any] | None = None, **_: Any) -> bytes:
        upper = self._upper
        if isinstance(upper, MessageLayer):
            content = upper.encode(content)
        elif upper is not None:
            content = upper.send(content)
        mark = len(self._context.written)
        try:
            self._run(lambda _: self._frame(bytes(content), metadata))
        except NetworkError:
            if self.failure is None:
                del self._context.written[mark:]  # of a message that is not sent
            raise
        return self.output()

    # Over datagrams

    pack = encode

    def unpack(self, datagram: bytes, below: object) -> tuple[bytes, FramerMetadata] | None:
        """The message of a datagram, or None if that was for the framer alone. Raises NetworkError unless it was one as a whole.

        The next can be unpacked, unless `failure` says that the framer has failed.
        """
        inbox = self.inbox
        try:
            self.receive(datagram)
            count, left = len(inbox), len(self._context.rest())
            if count > 1 or left:
                raise DecodingError(
                    f"{self._label}: a datagram is not one message",
                    endpoint=self._endpoint,
                    phase=Phase.TRANSFER,
                    expected="one message, and nothing else",
                    got=f"{count} and {left:,} bytes of no message",
                    hint=CONSUMED,
                )
            if not count:
                return None
            content, metadata, _ = inbox.take()
            return content, replace(metadata, other=(below,))
        finally:
            inbox.clear()
            self._context.forget()

    def _frame(self, content: bytes, metadata: dict[str, Any] | None) -> None:
        assert self._framer is not None  # it has started
        if self._context.passes_output:
            self._context.write_output(content)
        else:
            self._framer.handle_output(self._context, content, metadata)

    def end(self) -> bytes:
        if not self._stopping and self._framer is not None:
            self._stopping = True
            if self._upper is not None and self.ready:
                last = self._upper.end()
                self._run(lambda _: self._lower(last))
            self._stop_again()
        return self.output()

    def _stop_again(self) -> None:
        if self._stopping and not self._stopped:

            def stop(framer: FramerProtocol) -> None:
                self._stopped = framer.stop(self._context) is not False

            self._run(stop)

    @property
    def may_end(self) -> bool:
        return self._stopped or not self._stopping

    @property
    def unsaid(self) -> int:
        return sum(map(len, self._context.written))

    def output(self) -> bytes:
        written = self._context.written
        if not written:
            return b""
        data = b"".join(written)
        written.clear()
        return data

    def metadata(self) -> FramerProtocol:
        """The framer itself."""
        assert self._framer is not None  # asked for when it is ready
        return self._framer

    def timeout(self, *, reading: bool) -> None:
        self.deadline = None
        self._run(self._wake)
        self._rise()
        self._feed()
        self._stop_again()

    def _wake(self, framer: FramerProtocol) -> None:
        framer.wakeup(self._context)
        self._context.deliver_passing()

    def closed(self) -> None:
        super().closed()
        if self._closed or self._framer is None:
            return
        self._closed = True
        self._context.written.clear()
        try:
            self._framer.cleanup(self._context)
        except Exception:  # there is no connection left that could fail
            logger.exception("the framer %r raised in cleanup()", self._label)

    # User code

    @property
    def _label(self) -> str:
        return self._options.framer.label

    def _run(self, function: Callable[[Any], None]) -> None:
        """Run user code. Raises NetworkError for whatever it raises, and for `mark_failed`."""
        try:
            function(self._framer)
        except NetworkError:
            raise
        except Exception as error:
            raise self._failed(self._raised(error)) from error
        if self._context.reason is not None:
            reason, self._context.reason = self._context.reason, None
            if isinstance(reason, NetworkError):
                raise self._failed(reason)
            if isinstance(reason, str):
                raise self._failed(self.error(reason))
            raise self._failed(self.error(f"failed: {reason}")) from reason

    def _raised(self, error: Exception) -> NetworkError:
        return NetworkError(
            f"the framer {self._label!r} raised {type(error).__name__}: {error}",
            endpoint=self._endpoint,
            phase=Phase.TRANSFER if self.ready else Phase.HANDSHAKE,
            hint="It is a mistake of the framer's; the cause has its traceback.",
        )

    def _failed(self, error: NetworkError) -> NetworkError:
        self.failure = error
        return error
