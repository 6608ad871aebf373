"""QUIC as users write it, and the channels that a QUIC connection gives rise to."""

from __future__ import annotations

import itertools
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from tieline.channel import NetworkChannel
from tieline.engines.states import State
from tieline.errors import ChannelClosedError, NetworkError, PeerResetError, Phase
from tieline.establishment.stacks import stream_pipeline
from tieline.establishment.stream import StreamAttempt
from tieline.parameters import Parameters
from tieline.protocols.checks import require_range
from tieline.protocols.quic import LARGEST_INTEGER, Directionality, Initiator, QUICOptions
from tieline.protocols.roles import OneToOneProtocol

if TYPE_CHECKING:
    from tieline.drivers.port import Driver, StreamSocket, Waiter
    from tieline.flows.sending import StreamSending
    from tieline.multiplex.datagrams import QUICDatagramSocket
    from tieline.multiplex.early import EarlyStream
    from tieline.multiplex.stream import QUICStreamSocket
    from tieline.multiplexed import MultiplexedChannel

__all__ = ["QUIC", "QUICDatagramChannel", "QUICStreamChannel"]

P_co = TypeVar("P_co", bound=OneToOneProtocol, covariant=True)

_ids = itertools.count(1)


class _Child(NetworkChannel[P_co], Generic[P_co]):
    """A channel that belongs to a QUIC connection, lives no longer than that, and warns nobody when it is dropped."""

    driver: Driver

    def __init__(self, parent: MultiplexedChannel[Any], parameters: Parameters[Any], kind: str) -> None:
        self._number = next(_ids)
        self._kind = kind
        self._parent = parent
        self._parameters = parameters
        self._state = State.READY
        self._error: NetworkError | None = None
        self.driver = parent.driver
        self._make_flow(parent._name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} of {self._parent!r}, {self._state.value}>"

    def __hash__(self) -> int:
        return self._number  # the same in each run, which an address in memory is not

    @property
    def id(self) -> str:
        """A text that no other channel of this process has."""
        return f"{self._parent.id}.{self._kind}{self._number}"

    @property
    def parent(self) -> Any:
        """The connection that it belongs to."""
        return self._parent

    @property
    def error(self) -> NetworkError | None:
        """Why it is `FAILED`; None in other states."""
        return self._error

    # The flow's owner

    def needed(self) -> None:
        """A call waits: the channel was ready from its beginning, and is so no longer."""
        self._parent.needed()

    def flow_failed(self, error: NetworkError | None) -> None:
        """The channel broke, or this side has closed the whole connection. The flow has told the calls that wait."""
        if isinstance(error, ChannelClosedError):
            self._flow.abort()
            error = None
        if not self._state.is_final:
            self._state, self._error = State.CANCELLED if error is None else State.FAILED, error


class StreamHandshake(StreamAttempt):
    """What the layers on a stream agree on before it may be used."""

    sending: StreamSending

    def receive_failed(self, error: NetworkError) -> None:
        """The peer has broken its direction off."""
        self._fail(error)


def handshake_mistake(error: Exception, endpoint: object) -> NetworkError:
    failure = NetworkError(
        f"the handshake on the stream ended in {error!r}, which is a mistake in the program",
        endpoint=endpoint,
        phase=Phase.HANDSHAKE,
    )
    failure.__cause__ = error
    return failure


class QUICStreamChannel(_Child[P_co]):
    """A stream of a QUIC connection. `NetworkConnection.open_stream` and `inbound_streams` give them.

    ``async with stream:`` ends it like a connection: normally by `aclose`, by an exception with a reset.
    """

    def __init__(self, parent: MultiplexedChannel[Any], socket: QUICStreamSocket | None, parameters: Parameters[Any]) -> None:
        self._socket: QUICStreamSocket | EarlyStream
        self._early: EarlyStream | None = None  # until the stream is opened
        self._closing: list[Waiter] | None = None  # tasks that wait for another one to close the stream
        super().__init__(parent, parameters, "s")
        self._handshake: StreamHandshake | None = None
        is_ours = socket is None or socket.is_ours
        self._pipeline = stream_pipeline(parameters.stack, parent._name, is_ours=is_ours)
        if socket is not None:
            self._take(socket, 0)
            socket.start()

    @classmethod
    def early(
        cls, parent: MultiplexedChannel[Any], early: dict[EarlyStream, None], parameters: Parameters[Any], bidirectional: bool
    ) -> QUICStreamChannel[Any]:
        """A stream that is among the `early` ones of a connection that is not ready yet."""
        from tieline.multiplex.early import EarlyStream

        self: QUICStreamChannel[Any] = cls(parent, None, parameters)
        self._state = State.PREPARING
        self._flow.waiter = self.driver.waiter
        self._socket = self._early = EarlyStream(
            early, self._flow, bidirectional, rides=self._pipeline is None, opened=self._opened, failed=self._not_opened
        )
        if not bidirectional:
            self._flow.receiving.ended()
        return self

    def _opened(self, socket: QUICStreamSocket, early: int) -> None:
        self._state, self._early = State.READY, None
        self._take(socket, early)
        self.driver.call_soon(socket.start)

    def _not_opened(self, error: NetworkError) -> None:
        self._early = None
        self._flow.fail(error)
        self.flow_failed(error)

    def _take(self, socket: QUICStreamSocket, early: int) -> None:
        self._socket = socket
        if self._pipeline is None:
            self._flow.attach(socket, None, b"", b"", early)
            self._attached()
            return
        self._state = State.PREPARING
        handshake = self._handshake = StreamHandshake(
            self.driver,
            self._parameters,
            self._parent._name,
            self._pipeline,
            succeeded=self._ready,
            failed=self._handshake_failed,
        )
        handshake.sending = self._flow.sending
        handshake.accept(cast("StreamSocket", socket))  # its handler is more than a stream socket's

    def _attached(self) -> None:
        if not self._socket.may_send:
            what = "the stream has one direction, and it is the peer's"
            self._flow.sending.ended = True
            self._flow.sending.error = ChannelClosedError(what, endpoint=self._parent._name, phase=Phase.TRANSFER)
        if not self._socket.may_receive:
            self._flow.receiving.ended()

    def _ready(self) -> None:
        handshake, self._handshake = self._handshake, None
        assert handshake is not None  # it says so once
        self._state = State.READY
        handshake.hand_over(self._flow)
        self._attached()

    def _handshake_failed(self, error: Exception) -> None:
        self._handshake = None
        failure = error
        if not isinstance(failure, NetworkError):
            what = f"the stream's handshake ended in {error!r}, which is a mistake in the program"
            failure = NetworkError(what, endpoint=self._parent._name, phase=Phase.HANDSHAKE)
            failure.__cause__ = error
        self._flow.fail(failure)
        self.flow_failed(failure)

    @property
    def stream_id(self) -> int:
        """The number that the stream has on the wire (RFC 9000 section 2.1). Raises `RuntimeError` before it has one."""
        return self._socket.number

    @property
    def directionality(self) -> Directionality:
        """Who may send on it."""
        both = self._socket.may_send and self._socket.may_receive
        return Directionality.BIDIRECTIONAL if both else Directionality.UNIDIRECTIONAL

    @property
    def initiator(self) -> Initiator:
        """Who opened it."""
        return Initiator.SERVER if self._socket.by_server else Initiator.CLIENT

    @property
    def application_error_code(self) -> int:
        """The code of a reset by this side, 0 at first; after a reset or a refusal by the peer, its code."""
        reset = self._flow.receiving.error
        if isinstance(reset, PeerResetError) and reset.code is not None:
            return reset.code
        code = self._socket.peer_code
        return self._socket.error_code if code is None else code

    @application_error_code.setter
    def application_error_code(self, code: int) -> None:
        require_range("application_error_code", code, 0, LARGEST_INTEGER)
        self._socket.error_code = code

    @property
    def priority(self) -> int:
        """What is queued here is sent before streams of a lower priority, and takes turns with equal ones; 0 at first."""
        return self._socket.priority

    @priority.setter
    def priority(self, priority: int) -> None:
        require_range("priority", priority, -(2**31), 2**31 - 1)
        self._socket.set_priority(priority)

    async def reset(self, code: int | None = None) -> None:
        """Give up sending: what the peer has not received is dropped, and it is told the code (`application_error_code`).

        Receiving goes on. Cancelling: it has been done.
        """
        if code is not None:
            self.application_error_code = code
        if self._state.is_final:
            return
        self._flow.sending.fail(self._flow.closed_error())
        self._flow.sending.ended = True
        self._flow.sending.lost = False  # on purpose: no close has to tell it
        self._socket.reset(self._socket.error_code)

    def stop_sending(self, code: int | None = None) -> None:
        """Receive nothing more: what has come is dropped, and the peer is asked to stop, with the code. Sending goes on."""
        if code is not None:
            self.application_error_code = code
        if self._state.is_final or not self._socket.may_receive:
            return
        self._flow.receiving.clear()
        self._flow.receiving.failed(self._flow.closed_error())
        self._socket.stop_sending(self._socket.error_code)

    async def aclose(self) -> None:
        """End our direction after what was sent, and receive nothing more. Idempotent. Raises `NetworkError`.

        What `send_idempotent` accepted before the connection was ready leaves as well, so this waits for that, at most for
        `close_timeout` seconds.

        Cancelling: the stream is reset, unless another task is closing it already.
        """
        if self._state.is_final:
            return
        if self._closing is not None:
            waiter = self.driver.waiter()
            self._closing.append(waiter)
            await waiter
            return
        self._closing = []
        try:
            self._flow.receiving.clear()  # nothing has to be read first: the other direction is its own
            from tieline.flows.layered import LayeredFlow  # which a program without messages does not need

            if not isinstance(self._flow, LayeredFlow):  # whose layer may want an answer to its end, as to a close frame
                self._socket.stop_sending(self._socket.error_code)
            if self._early is not None:
                self._flow.raise_pending(self._flow.closed_error())
                await self._early.drain(self.driver, self._parameters.close_timeout)
            await self._flow.finish()
        finally:
            self.abort()
            for waiter in self._closing:
                if not waiter.done():
                    waiter.set_result(None)

    def abort(self) -> None:
        """Reset both directions at once, with `application_error_code`. Idempotent."""
        if self._early is not None:
            self._early.withdraw()
        if not self._state.is_final:
            self._state = State.CANCELLED
        if self._handshake is not None:
            self._handshake.cancel()
            self._handshake = None
        self._flow.abort()

    async def __aenter__(self) -> Self:
        """Nothing is to be waited for.

        Cancelling: nothing has been done.
        """
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close gracefully, or reset if the block raised.

        Cancelling: the stream is reset.
        """
        if kind is None:
            await self.aclose()
        else:
            self.abort()


class QUICDatagramChannel(_Child[P_co]):
    """The datagrams of a QUIC connection. ``await connection.datagrams()`` gives them."""

    def __init__(self, parent: MultiplexedChannel[Any], socket: QUICDatagramSocket, parameters: Parameters[Any]) -> None:
        super().__init__(parent, parameters, "d")
        self._flow.attach(socket)
        socket.lost_to = self._lost
        socket.readable()

    def _lost(self, error: NetworkError, is_clean: bool) -> None:
        """The connection has ended."""
        if is_clean:
            self._flow.end()
        self._flow.fail(error)
        self.flow_failed(None if is_clean else error)


class QUIC(QUICOptions):
    """QUIC (RFC 9000): one connection, many streams, and datagrams. Its options are those of `QUICOptions`."""

    __slots__ = ()

    if TYPE_CHECKING:  # no form of alias within a class is one for both mypy and pyright

        class Stream(QUICStreamChannel[P_co]): ...

        class Datagrams(QUICDatagramChannel[P_co]): ...
    else:
        Stream = QUICStreamChannel
        Datagrams = QUICDatagramChannel
