"""The calls of a connection that carries no data itself: it opens streams, takes in those of the peer, and has datagrams."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from tieline.channel import NetworkChannel
from tieline.endpoints import EndpointLike, HostPort, to_endpoint
from tieline.errors import ChannelClosedError, NetworkError, UnexpectedEndpointTypeError, is_about
from tieline.parameters import Parameters
from tieline.protocols.checks import require_seconds
from tieline.protocols.quic import ApplicationError, Directionality, QUICDatagram, QUICStream
from tieline.protocols.roles import MultiplexProtocol, NetworkProtocol, OneToOneProtocol
from tieline.quic import QUIC, QUICDatagramChannel, QUICStreamChannel

if TYPE_CHECKING:
    from tieline.drivers.port import Driver, Task
    from tieline.multiplex.flow import MultiplexFlow
    from tieline.multiplex.session import Session
    from tieline.protocols.security import TLSMetadata

__all__ = ["MultiplexedChannel"]

P_co = TypeVar("P_co", bound=NetworkProtocol, covariant=True)
S = TypeVar("S", bound=OneToOneProtocol)

EARLY_STREAMS = 100  # that can be opened before ready; each may hold `send_limit` bytes


class MultiplexedChannel(NetworkChannel[P_co]):
    """What `NetworkConnection` has over QUIC. On any other stack each of these raises `TypeError`."""

    driver: Driver
    _name: object
    _datagram_channel: Any = None
    _serves_streams = False
    _plain_streams: Parameters[QUICStream] | None = None

    async def ready(self) -> None:
        raise NotImplementedError

    def needed(self) -> None:
        raise NotImplementedError

    def _multiplex(self, name: str) -> MultiplexFlow:
        if not isinstance(self._parameters.stack, MultiplexProtocol):
            return self._call(name)  # type: ignore[no-any-return]  # raises, and names the calls that there are
        return self._flow  # type: ignore[no-any-return]

    def _session(self, name: str) -> Session:
        """The session of a connection that is ready. Raises RuntimeError otherwise."""
        session = self._multiplex(name).session
        if session is None:
            raise RuntimeError(f"{name} is not known: the connection is {self._state.value}")
        return session

    # Streams

    @overload
    async def open_stream(
        self: MultiplexedChannel[MultiplexProtocol], *, directionality: Directionality = Directionality.BIDIRECTIONAL
    ) -> QUIC.Stream[QUICStream]: ...
    @overload
    async def open_stream(
        self: MultiplexedChannel[MultiplexProtocol],
        *,
        directionality: Directionality = Directionality.BIDIRECTIONAL,
        using: S | Parameters[S],
    ) -> QUIC.Stream[S]: ...
    async def open_stream(
        self, *, directionality: Directionality = Directionality.BIDIRECTIONAL, using: Any = None
    ) -> QUIC.Stream[Any]:
        """Start, wait until ready, and open a stream, as soon as the peer allows another one.

        `using` is a stack that ends in ``QUICStream()``, or `Parameters` with one. The peer learns of the stream with the first
        bytes on it. Raises `NetworkError` as `ready` does, and if the connection ends meanwhile.

        With ``QUIC(early_data=True)`` and ``Parameters(fast_open_allowed=True)`` this does not wait before ready, except for
        the 101st stream. What `send_idempotent` is given on such a stream in the same turn of the event loop leaves with the
        first flight if the server is one whose ticket allows it (0-RTT, RFC 9001 section 4.6), and once ready if not, or if the
        server refuses it. Everything else waits until ready.

        Cancelling: no stream has been opened.
        """
        flow = self._multiplex("open_stream")
        parameters = self._stream_parameters(using)
        bidirectional = directionality is Directionality.BIDIRECTIONAL
        if self._opens_early(flow):
            flow.require_open()
            self.needed()
            return cast("QUIC.Stream[Any]", QUICStreamChannel.early(self, flow.early, parameters, bidirectional))
        while True:
            session = await self._open_session(flow)
            try:
                socket = await session.open(bidirectional)
            except ChannelClosedError:
                if flow.is_over:
                    raise
                continue  # the connection went on to another endpoint
            if socket is not None:
                stream: QUICStreamChannel[Any] = QUICStreamChannel(self, socket, parameters)
                return cast("QUIC.Stream[Any]", stream)

    def _opens_early(self, flow: MultiplexFlow) -> bool:
        allowed = self._parameters.fast_open_allowed and self._parameters.stack.early_data
        return allowed and flow.session is None and len(flow.early) < EARLY_STREAMS

    async def _open_session(self, flow: MultiplexFlow) -> Session:
        """Wait until there is one. Raises why there will be none."""
        while True:
            flow.require_open()
            await self.ready()
            if flow.session is not None:
                return flow.session

    @overload
    async def inbound_streams(
        self: MultiplexedChannel[MultiplexProtocol], handler: Callable[[QUIC.Stream[QUICStream]], Awaitable[object]]
    ) -> None: ...
    @overload
    async def inbound_streams(
        self: MultiplexedChannel[MultiplexProtocol],
        handler: Callable[[QUIC.Stream[S]], Awaitable[object]],
        *,
        using: S | Parameters[S],
    ) -> None: ...
    async def inbound_streams(self, handler: Callable[[Any], Awaitable[object]], *, using: Any = None) -> None:
        """Run ``handler(stream)`` as a child task for each stream that the peer opens, until no more can come. Once.

        When a handler returns, the stream's sending half ends and its receiving half is stopped; when it raises, the stream is
        reset with its `application_error_code`, the error is logged on ``tieline.connection``, and the others go on. Returns
        when the peer's application has closed the connection and the handlers are done. Raises `NetworkError` if the
        connection ends in another way, and `RuntimeError` at a second call.

        Cancelling: the handlers are cancelled and waited for.
        """
        flow = self._multiplex("inbound_streams")
        parameters = self._stream_parameters(using)
        if self._serves_streams:
            raise RuntimeError("inbound_streams() runs once for each connection, and it has been called before")
        self._serves_streams = True
        if not flow.is_over:
            try:
                await self.ready()
            except NetworkError:
                self._serves_streams = False
                raise
        driver = self.driver
        tasks: dict[QUICStreamChannel[Any], Task] = {}
        try:
            while (socket := await flow.next_inbound(driver)) is not None:
                stream: QUICStreamChannel[Any] = QUICStreamChannel(self, socket, parameters)
                work = self._serve(handler, stream, tasks)
                tasks[stream] = driver.spawn(work, f"tieline handler for stream {stream.stream_id}")
            await driver.wait(tuple(tasks.values()), None)
        finally:
            for task in tasks.values():
                task.cancel()
            await driver.wait(tuple(tasks.values()), None)
        if not flow.peer_closed:
            flow.require_open()  # raises what has ended it

    async def _serve(
        self, handler: Callable[[Any], Awaitable[object]], stream: QUICStreamChannel[Any], tasks: dict[Any, Task]
    ) -> None:
        try:
            await handler(stream)
            await stream.aclose()
        except Exception as error:
            from logging import getLogger

            logger = getLogger("tieline.connection")
            if is_about(error, self._name):
                logger.info("stream %d of %s ended: %s", stream.stream_id, self._name, error)
            else:
                logger.exception("the handler of stream %d of %r raised", stream.stream_id, self)
        finally:
            stream.abort()
            tasks.pop(stream, None)

    def _stream_parameters(self, using: Any) -> Parameters[Any]:
        """What a stream is made with."""
        if using is None:
            if self._plain_streams is None:
                self._plain_streams = replace(self._parameters, stack=QUICStream())
            return self._plain_streams
        return self._child_parameters(using, QUICStream, "a stream")

    def _child_parameters(self, using: Any, bottom: type[Any], what: str) -> Parameters[Any]:
        """A bare stack has the connection's limits."""
        if using is None:
            using = bottom()
        parameters: Parameters[Any] = replace(self._parameters, stack=using) if isinstance(using, NetworkProtocol) else using
        if not isinstance(parameters, Parameters):
            raise TypeError(f"using wants a stack that ends in {bottom.__name__}(), or Parameters with one, got {parameters!r}")
        parameters = parameters.standing(bottom=bottom())
        if parameters.stack.find(bottom) is None:
            raise TypeError(f"a stack on {what} ends in {bottom.__name__}(), got {parameters.stack.name}")
        return parameters

    # Datagrams

    @overload
    async def datagrams(self: MultiplexedChannel[MultiplexProtocol]) -> QUIC.Datagrams[QUICDatagram]: ...
    @overload
    async def datagrams(self: MultiplexedChannel[MultiplexProtocol], *, using: S | Parameters[S]) -> QUIC.Datagrams[S]: ...
    async def datagrams(self, *, using: Any = None) -> QUIC.Datagrams[Any]:
        """Start, wait until ready, and give the channel of the connection's datagrams, the same one each time.

        `using` is a stack that ends in ``QUICDatagram()``, such as a `Coder`, or `Parameters` with one. Raises `NetworkError` as
        `ready` does, and `RuntimeError` if one of both sides accepts none (`max_datagram_frame_size`), or if the channel was made
        with another stack before.

        Cancelling: nothing has been done.
        """
        flow = self._multiplex("datagrams")
        parameters = self._child_parameters(using, QUICDatagram, "datagrams")
        channel = self._datagram_channel
        if channel is None or (channel.state.is_final and not flow.is_over):
            session = await self._open_session(flow)
            if not session.connection.parameters().max_datagram_frame_size:
                raise RuntimeError("the peer accepts no datagrams: it has to set max_datagram_frame_size, too")
            if not self._parameters.stack.max_datagram_frame_size:
                raise RuntimeError("this side accepts no datagrams, so it cannot send any: set max_datagram_frame_size")
            if self._datagram_channel is channel:
                self._datagram_channel = QUICDatagramChannel(self, session.datagrams(), parameters)
        made = self._datagram_channel
        if using is not None and made.parameters.stack != parameters.stack:
            raise RuntimeError(f"the datagrams of this connection are in use with another stack, {made.parameters.stack.name}")
        return made  # type: ignore[no-any-return]  # made above, or by another task meanwhile

    @property
    def usable_datagram_frame_size(self: MultiplexedChannel[MultiplexProtocol]) -> int:
        """Bytes that one datagram can have on the present path, 0 if a side accepts none. Raises `RuntimeError` before ready."""
        session = self._session("usable_datagram_frame_size")
        ours: int = self._parameters.stack.max_datagram_frame_size
        return (session.connection.maximum_datagram_size or 0) if ours else 0

    # The connection's own

    @property
    def application_error(self: MultiplexedChannel[MultiplexProtocol]) -> ApplicationError:
        """What a close by this side will say; after a close by the peer's application, what that said."""
        return self._multiplex("application_error").application_error

    @application_error.setter
    def application_error(self: MultiplexedChannel[MultiplexProtocol], error: ApplicationError) -> None:
        if not isinstance(error, ApplicationError):
            raise TypeError(f"application_error must be an ApplicationError, got {error!r}")
        self._multiplex("application_error").application_error = error

    @property
    def keepalive(self: MultiplexedChannel[MultiplexProtocol]) -> float | None:
        """Seconds of silence after which the peer is asked for a sign of life; None never asks. May be set at any time."""
        return self._multiplex("keepalive").keepalive

    @keepalive.setter
    def keepalive(self: MultiplexedChannel[MultiplexProtocol], seconds: float | None) -> None:
        require_seconds("keepalive", seconds, optional=True)
        self._multiplex("keepalive").keepalive = seconds

    @property
    def negotiated_alpn(self: MultiplexedChannel[MultiplexProtocol]) -> str | None:
        """The application protocol that both sides agreed on. Raises `RuntimeError` before ready."""
        return self._session("negotiated_alpn").connection.info().alpn

    @property
    def remote_idle_timeout(self: MultiplexedChannel[MultiplexProtocol]) -> float | None:
        """The peer's idle timeout in seconds, None for none. Raises `RuntimeError` before ready."""
        return self._session("remote_idle_timeout").connection.parameters().idle_timeout

    @property
    def remote_max_streams_bidirectional(self: MultiplexedChannel[MultiplexProtocol]) -> int:
        """How many bidirectional streams the peer lets us open in all; it may allow more than is known here."""
        known = self._session("remote_max_streams_bidirectional").connection.peer_maximum_streams(True)
        return known[0] if known is not None else 0

    @property
    def remote_max_streams_unidirectional(self: MultiplexedChannel[MultiplexProtocol]) -> int:
        """How many unidirectional streams the peer lets us open in all; it may allow more than is known here."""
        known = self._session("remote_max_streams_unidirectional").connection.peer_maximum_streams(False)
        return known[0] if known is not None else 0

    @property
    def security_metadata(self: MultiplexedChannel[MultiplexProtocol]) -> TLSMetadata:
        """What the handshake agreed on. Raises `RuntimeError` before ready."""
        self._session("security_metadata")
        return self._flow.metadata(type(self._parameters.stack))  # type: ignore[no-any-return]

    def update_keys(self: MultiplexedChannel[MultiplexProtocol]) -> None:
        """Change the keys of both directions (RFC 9001 section 6). Raises `RuntimeError` before ready.

        While the last change is under way, which takes a few round trips, the next one waits; several calls then are one.
        """
        session = self._session("update_keys")
        session.connection.update_keys()
        session.endpoint.touched()

    async def migrate(self: MultiplexedChannel[MultiplexProtocol], local: EndpointLike | None = None) -> None:
        """Go on from another local address, or from another port of the present one (RFC 9000 section 9). For clients.

        `local` is an IP address with a port, 0 for a free one; without it the parameters choose as at the start. The old socket
        is closed as soon as there is a new one. Raises `OSError` if there is none to be had; the connection then goes on with
        the old one. Raises `RuntimeError` before ready, on the server's side, and if the server does not allow it.

        Cancelling: it has been done.
        """
        session = self._session("migrate")
        if not session.is_client:
            raise RuntimeError("only the side that connected can migrate (RFC 9000 section 9)")
        if not session.connection.parameters().migration:
            raise RuntimeError("the peer does not allow migration (disable_active_migration, RFC 9000 section 18.2)")
        self._multiplex("migrate").migrate(None if local is None else _local_address(local, session.remote))

    def move_to(self, interface: str) -> None:
        """Go on over another interface, if the peer allows it. Raises OSError."""
        session = self._session("move_to")
        if session.is_open and session.connection.parameters().migration:
            self._multiplex("move_to").migrate(None, interface)

    def moved(self, local: HostPort | None, remote: HostPort | None) -> None:
        """The connection goes on between other addresses."""
        raise NotImplementedError


def _local_address(local: EndpointLike, remote: HostPort) -> HostPort:
    endpoint = to_endpoint(local)
    if not isinstance(endpoint, HostPort) or not endpoint.is_literal:
        raise UnexpectedEndpointTypeError(
            "a connection migrates to an address of this machine", endpoint=endpoint, expected="an IP address with a port"
        )
    if endpoint.version != remote.version:
        raise ValueError(f"{endpoint} is IPv{endpoint.version}, and {remote} is reached over IPv{remote.version}")
    return endpoint
