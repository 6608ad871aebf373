"""Messages in datagrams, one in each: a Coder, TLV or framer, and those on each other, over UDP or QUIC's datagrams.

    receive() ◀── unpack ◀── datagrams        send() ──▶ pack ──▶ datagram

Nothing is unpacked before a call takes it, and no message spans two datagrams. What a framer says by itself, such as an answer,
goes out in one of its own, and may be lost as any.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from tieline.engines.coder import CoderCodec
from tieline.engines.framing import UnitCodec
from tieline.engines.tlv import TLVCodec
from tieline.errors import EndOfStreamError, NetworkError
from tieline.flows.alarm import Alarm
from tieline.flows.content import misuse, octets, sendable
from tieline.flows.datagram import DatagramFlow
from tieline.flows.owner import FlowOwner, present
from tieline.protocols.coder import Coder
from tieline.protocols.framer import Framer
from tieline.protocols.ip import IPMetadata
from tieline.protocols.message import Message
from tieline.protocols.roles import DatagramProtocol
from tieline.protocols.tlv import TLV

if TYPE_CHECKING:
    from tieline.drivers.port import Address, DatagramSocket
    from tieline.engines.framer import FramerLayer
    from tieline.parameters import Parameters
    from tieline.protocols.roles import NetworkProtocol

__all__ = ["UnitFlow"]


class UnitFlow(DatagramFlow):
    """Moves messages, each in a datagram of its own."""

    __slots__ = ("_alarm", "_codecs", "_framers", "_option", "_stack", "_takes_bytes", "calls")

    send_many = receive_many = None  # type: ignore[assignment]  # one message that is no good would hide the others

    def __init__(self, owner: FlowOwner, parameters: Parameters[Any], endpoint: object) -> None:
        super().__init__(owner, parameters, endpoint)
        stack: Any = parameters.stack
        self._stack = stack
        self._takes_bytes = not issubclass(type(stack), Coder)
        self._option = "type" if isinstance(stack, TLV) else "metadata" if isinstance(stack, Framer) else ""  # of `send`
        given = "data" if self._takes_bytes else "value"
        options = {self._option: None, **({"metadata": None} if self.has_packets else {})}
        named = ", ".join((given, *(f"{option}=" for option in options if option)))
        self.calls = f"send({named}), receive(), messages and iteration"
        self._alarm: Alarm | None = None  # of framers that have started
        self._make_codecs()

    def _make_codecs(self) -> None:
        self._codecs: list[UnitCodec] = []  # top first
        self._framers: list[FramerLayer] = []  # those among them
        for protocol in self._stack.layers:
            if isinstance(protocol, DatagramProtocol):
                return
            if isinstance(protocol, TLV):
                self._codecs.append(TLVCodec(protocol, self.endpoint))
            elif isinstance(protocol, Framer):
                from tieline.engines.framer import FramerLayer

                framer = FramerLayer(protocol, self.endpoint, no_layer)
                self._codecs.append(framer)
                self._framers.append(framer)
            else:
                self._codecs.append(CoderCodec(protocol, self.endpoint))

    # Called by the application

    async def send(self, content: Any, **options: Any) -> None:
        packet = options.get("metadata")  # what is said of it, unless that is a framer's
        if self._option != "metadata" or isinstance(packet, IPMetadata):
            packet = sendable(options.pop("metadata", None), self)
        else:
            packet = None
        for option in options:
            if option != self._option:
                raise misuse(self, f"send() has no {option} over datagrams")
        if self._takes_bytes:
            content = octets(content, self)
        if self.socket is None or self._senders:
            await super().send_many(())  # wait for the turn: a framer starts when there is a socket
        self._tell()
        try:
            datagram = self._packed(self._codecs, content, options)
        finally:
            self._looked()
        await super().send(datagram, metadata=packet)

    async def receive(self) -> Message[Any, Any]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        while True:
            content, metadata = await super().receive()
            self._tell()
            try:
                unit = self._unpacked(content, metadata)
            finally:
                self._looked()
                self._tidy()
            if unit is not None:
                return Message(*unit)

    async def next_piece(self) -> Message[Any, Any]:
        try:
            return await self.receive()
        except EndOfStreamError:
            raise StopAsyncIteration from None

    @staticmethod
    def _packed(codecs: Iterable[UnitCodec], content: Any, options: dict[str, Any]) -> Any:
        for codec in codecs:
            content, options = codec.pack(content, **options), {}
        return content

    def _unpacked(self, content: Any, metadata: Any) -> tuple[Any, Any] | None:
        """The message of a datagram, None if it is only for a framer."""
        for codec in reversed(self._codecs):
            unit = codec.unpack(content, metadata)
            if unit is None:
                return None
            content, metadata = unit
        return content, metadata

    # Framers

    def attach(self, socket: DatagramSocket, remote: Address | None = None) -> None:
        super().attach(socket, remote)
        if not self._framers:
            return
        self._tidy()
        self._make_codecs()  # one for each attempt
        self._alarm = Alarm(present(self._owner).driver, tuple(self._framers), self._rung)
        self._tell()
        try:
            for framer in reversed(self._framers):
                framer.local, framer.remote = socket.local_address, remote or socket.remote_address
                self._say(framer, framer.start())
                if not framer.ready:
                    raise framer.error(
                        "it is not ready at once: a framer with a handshake stands on a byte stream, or on what is on one",
                        expected="start() to return True over datagrams",
                        got="False",
                    )
        except NetworkError as error:
            self._broken(error)
        self._looked()

    def _tell(self) -> None:
        if self._alarm is not None:
            self._alarm.tell()

    def _looked(self) -> None:
        """After an interaction with the framers."""
        for framer in reversed(self._framers if self._alarm is not None and self.socket is not None else ()):
            self._say(framer, framer.output())
            if len(framer.inbox) and framer.failure is None:
                framer.failure = framer.error("a message was delivered that no datagram has brought")
            if framer.failure is not None:
                self._broken(framer.failure)
                return
        if self._alarm is not None and self.socket is not None:
            self._alarm.look()

    def _say(self, framer: FramerLayer, said: bytes) -> None:
        """Send a datagram of the framer's own."""
        if not said or self.socket is None:
            return
        try:
            datagram = self._packed(self._codecs[self._codecs.index(framer) + 1 :], said, {})
        except NetworkError as error:
            self._broken(error)
            return
        try:
            gone = self.socket.send(datagram, self.remote)
        except OSError as error:
            self.failed(error)
            return
        if gone:  # or it is lost, as on its way
            self._sent(1, len(datagram))

    def _rung(self) -> None:
        """A framer wanted to be woken now."""
        if self._alarm is None or self.socket is None:
            return
        try:
            self._alarm.wake(reading=True)
        except NetworkError as error:
            self._broken(error)
        self._looked()

    def _broken(self, error: NetworkError) -> None:
        """A framer cannot go on, nor can the connection."""
        self._clear()
        self.fail(error)
        owner = self._owner()
        if owner is not None:
            owner.flow_failed(error)

    def _tidy(self) -> None:
        """Framers are done with when nothing can come any more, and what came has been received."""
        if self._alarm is not None and self.socket is None and not self.waiting:
            self._alarm = None
            for framer in self._framers:
                framer.closed()

    def detach(self) -> None:
        super().detach()
        if self._alarm is not None:
            self._alarm.stop()
            self._tidy()

    async def finish(self) -> None:
        self._tell()
        for framer in self._framers if self._alarm is not None and self.socket is not None else ():
            try:
                self._say(framer, framer.end())
            except NetworkError as error:
                self._broken(error)
                break
        await super().finish()


def no_layer(protocol: NetworkProtocol) -> NoReturn:
    raise TypeError(f"{protocol.name} cannot be prepended over datagrams: they may be lost, and it wants a stream")
