"""A framer without a connection: bytes in, messages out, and time that moves when it is told to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tieline.engines.framer import FramerLayer
from tieline.protocols.framer import Framer, FramerMetadata, FramerProtocol
from tieline.protocols.message import Message
from tieline.protocols.tcp import TCP

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from tieline.engines.pipeline import Layer
    from tieline.protocols.roles import NetworkProtocol

__all__ = ["FramerTester"]


class FramerTester:
    """Runs one instance of a framer, which has been started.

    ``tester = FramerTester(Lines)``; then `output`, `receive`, `send`, `advance` and `end` are what a connection would do. All of
    them raise what would fail the connection: a `NetworkError`, whose ``__cause__`` is what the framer raised.
    """

    def __init__(
        self,
        framer: type[FramerProtocol],
        *,
        options: Mapping[str, Any] | None = None,
        maximum_message_size: int = 16 * 1024 * 1024,
        local_endpoint: object = None,
        remote_endpoint: object = None,
    ) -> None:
        stack = Framer(framer, TCP(), options=options or {}, maximum_message_size=maximum_message_size)
        self._layer = FramerLayer(stack, remote_endpoint, _no_layer)
        self._layer.local, self._layer.remote = local_endpoint, remote_endpoint
        self._first = self._layer.start()

    @property
    def is_ready(self) -> bool:
        """Whether its handshake is done."""
        return self._layer.ready

    @property
    def is_stopped(self) -> bool:
        """After `end`: whether nothing more has to come first."""
        return self._layer.may_end

    @property
    def framer(self) -> FramerProtocol:
        """The instance."""
        return self._layer.metadata()

    def output(self) -> bytes:
        """What it has written and nobody has taken yet."""
        first, self._first = self._first, b""
        return first + self._layer.output()

    def receive(self, data: Buffer) -> list[Message[bytes, FramerMetadata]]:
        """Let bytes of the peer arrive; returns the messages that are whole with them."""
        self._layer.receive(data)
        return self._messages()

    def receive_end(self) -> list[Message[bytes, FramerMetadata]]:
        """Let the peer end its direction."""
        self._layer.receive_end()
        return self._messages()

    def _messages(self) -> list[Message[bytes, FramerMetadata]]:
        inbox = self._layer.inbox
        return [Message(*inbox.take()[:2]) for _ in range(len(inbox))]

    def send(self, content: Buffer, metadata: dict[str, Any] | None = None) -> bytes:
        """Send a message; returns all that leaves."""
        return self.output() + self._layer.encode(content, metadata=metadata)

    def advance(self, seconds: float) -> None:
        """Let time pass, with each wakeup that falls into it."""
        until = self._layer.now + seconds
        while self._layer.deadline is not None and self._layer.deadline <= until:
            self._layer.now = self._layer.deadline
            self._layer.timeout(reading=True)
        self._layer.now = until

    def end(self) -> bytes:
        """End our direction; returns all that leaves."""
        return self.output() + self._layer.end()

    def close(self) -> None:
        """The connection is over: `cleanup` is called."""
        self._layer.closed()


def _no_layer(protocol: NetworkProtocol) -> Layer:
    raise RuntimeError(f"{protocol.name} is prepended by a connection only: test that with tieline.testing.memory_pair")
