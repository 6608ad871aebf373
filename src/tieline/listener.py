"""NetworkListener: hands out inbound connections, one child task each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from tieline import drivers
from tieline.connection import NetworkConnection
from tieline.endpoints import EndpointLike, HostPort, UnixEndpoint, to_endpoint
from tieline.engines.states import LISTENER, Event, ListenerState
from tieline.errors import NetworkError, UnexpectedEndpointTypeError, is_about, raisable
from tieline.establishment.stacks import prepare_server
from tieline.parameters import Parameters
from tieline.protocols.checks import require_at_least, require_range
from tieline.protocols.roles import MultiplexProtocol, NetworkProtocol
from tieline.updates import UpdateIterator, Updates

if TYPE_CHECKING:
    from tieline.drivers.port import Address, Driver, Task, Waiter
    from tieline.establishment.binding import Place
    from tieline.inbound.places import Places
    from tieline.inbound.side import Side

__all__ = ["NetworkListener"]

P = TypeVar("P", bound=NetworkProtocol)
Handler = Callable[[NetworkConnection[P]], Awaitable[object]]


class NetworkListener(Generic[P]):
    """Accepts connections over a protocol stack (or `Parameters` with one).

    `on` says where: a port number, an endpoint or its text form; by default any free port on all addresses, IPv4 and IPv6. A
    name is bound at each of its addresses, with one port. `new_connection_limit` is a budget: it goes down by one for each
    connection handed out, and at 0 nothing is accepted until it is raised; None is no limit.

    What the parameters say of interfaces holds for listening, too: there is a socket on each interface that they allow, and these
    come and go with the network. While there is none, the listener is `WAITING`, and `error` is the reason; starting lasts until
    there is one. What was handed out lives on.

    Raises `TypeError` and `ValueError` for bad options, such as TLS without an identity.
    """

    def __init__(
        self,
        using: P | Parameters[P],
        *,
        on: int | EndpointLike | None = None,
        service: None = None,
        new_connection_limit: int | None = None,
    ) -> None:
        from tieline.establishment.binding import check_listening  # most programs never listen

        self._parameters = Parameters.of(using).standing()
        self._on = listening_place(on, self._parameters)
        check_listening(self._on, self._parameters)
        if service is not None:
            raise UnexpectedEndpointTypeError("services cannot be advertised yet", endpoint=service)
        self._limit = checked_limit(new_connection_limit)
        self._state = ListenerState.SETUP
        self._error: NetworkError | None = None
        self._states: Updates[Any, ListenerState] = Updates()
        self._side: Side | None = None
        self._places: Places | None = None
        self._tasks: dict[Task, NetworkConnection[P]] = {}
        self._failed: Callable[[], None] | None = None
        self._handler: Handler[P] | None = None
        self._on_served = self._served  # one for all tasks
        self.on_handler_error: Callable[[NetworkConnection[P], Exception], object] | None = None
        """Called with the connection and what its handler raised, after it was logged."""

    def __repr__(self) -> str:
        place = f"port {self._on}" if isinstance(self._on, int) else self._on
        where = ", ".join(map(str, self.endpoints)) or place
        return f"<NetworkListener on {where} for {self._parameters.stack.name}, {self._state.value}>"

    # Serving

    async def run(self, handler: Handler[P]) -> None:
        """Listen, and run ``handler(connection)`` as a child task for each connection, until cancelled. Once per listener.

        A handler gets a `READY` connection, which is closed gracefully when the handler returns. Raises `NetworkError` if
        the listener cannot be bound, or fails, and `RuntimeError` at a second call.

        Cancelling: nothing is accepted any more, and the handlers are cancelled and waited for.
        """
        driver = await self._open(handler)
        stopped: Waiter = driver.waiter()
        self._failed = lambda: None if stopped.done() else stopped.set_result(None)
        try:
            await stopped
        finally:
            await self._stop(driver, grace=0.0)
        assert self._error is not None  # only a failure completes the wait
        raise raisable(self._error)

    def serving(self, handler: Handler[P]) -> Serving[P]:
        """``async with listener.serving(handler):`` does what `run` does, in the background, and enters once it is ready.

        Leaving normally stops accepting, ends the iteration of UDP flows, gives the other handlers `grace_period` seconds and
        then cancels them; leaving by an exception cancels them at once. A listener that fails cancels the body of the block
        and raises from it.
        """
        return Serving(self, handler)

    async def _open(self, handler: Handler[P]) -> Driver:
        from tieline.inbound.places import Places

        if self._handler is not None:
            raise RuntimeError(f"{self!r} has been run before: a listener runs once, make another")
        self._handler = handler
        driver = drivers.current()
        side: Side = self._side_type()(driver, self._parameters, accepted=self._accepted, failed=self.failed)
        self._side = side
        side.limit(self._limit)
        try:
            prepare_server(self._parameters.stack)
            self._places = Places(driver, self._on, self._parameters, side, self)
            await self._places.open()
        except BaseException as error:
            if isinstance(error, NetworkError):
                self._become(Event.REFUSED, error)
            await self._stop(driver, grace=0.0)
            raise
        return driver

    def _side_type(self) -> Any:
        stack = self._parameters.stack
        if isinstance(stack, MultiplexProtocol):
            from tieline.inbound.sessions import SessionSide  # takes in QUIC's engine

            return SessionSide
        if stack.is_datagrams:
            from tieline.inbound.datagrams import DatagramSide

            return DatagramSide
        from tieline.inbound.streams import StreamSide

        return StreamSide

    def _accepted(self, connection: NetworkConnection[P]) -> None:
        if self._limit is not None:
            self._limit -= 1
            assert self._side is not None
            self._side.limit(self._limit)
        name = f"tieline handler for {connection._remote}"
        task = connection.driver.spawn(self._serve(connection), name)
        self._tasks[task] = connection
        task.add_done_callback(self._on_served)

    async def _serve(self, connection: NetworkConnection[P]) -> None:
        assert self._handler is not None
        try:
            await self._handler(connection)
            await connection.aclose()
        except Exception as error:
            if is_about(error, connection._name):
                from tieline.inbound.side import logger

                logger().info("connection from %s ended: %s", connection.remote_endpoint, error)
            else:
                self._handler_raised(connection, error)

    def _served(self, task: Task) -> None:
        """A handler has ended, perhaps cancelled before it began."""
        connection = self._tasks.pop(task)
        connection.abort()
        if self._side is not None:
            self._side.release(connection)

    def _handler_raised(self, connection: NetworkConnection[P], error: Exception) -> None:
        from tieline.inbound.side import logger

        logger().error("the handler of %r raised", connection, exc_info=error)
        if self.on_handler_error is not None:
            try:
                self.on_handler_error(connection, error)
            except Exception:
                logger().exception("on_handler_error of %r raised", self)

    # The owner of its places

    def listening(self) -> None:
        self._become(Event.ESTABLISHED)

    def nowhere(self, error: NetworkError) -> None:
        if self._state is ListenerState.WAITING:  # for another reason by now
            self._error = error
        else:
            self._become(Event.UNAVAILABLE, error)

    def failed(self, error: NetworkError) -> None:
        """A listening socket failed for good."""
        if self._state in (ListenerState.READY, ListenerState.WAITING):
            self._become(Event.BROKEN if self._state is ListenerState.READY else Event.REFUSED, error)
            if self._failed is not None:
                self._failed()

    async def _stop(self, driver: Driver, grace: float) -> None:
        """Stop accepting, and wait for the handlers: first for `grace` seconds, then until their cancellation is done."""
        assert self._side is not None
        self._failed = None
        if self._places is not None:
            self._places.close()
        self._side.close()
        try:
            if grace and self._tasks:
                await driver.wait(tuple(self._tasks), grace)
        finally:
            for task in self._tasks:
                task.cancel()
            try:
                while self._tasks:
                    await driver.wait(tuple(self._tasks), None)
            finally:
                self._side.abort()
                if not self._state.is_final:
                    self._become(Event.CLOSE)

    # States

    def _become(self, event: Event, error: NetworkError | None = None) -> None:
        self._state = LISTENER[self._state, event]
        self._error = error
        self._states.publish(self, self._state, last=self._state.is_final)

    @property
    def state(self) -> ListenerState:
        """Where the listener stands now."""
        return self._state

    @property
    def error(self) -> NetworkError | None:
        """Why the listener is `WAITING` or `FAILED`."""
        return self._error

    def on_state_update(self, handler: Callable[[Self, ListenerState], object]) -> Self:
        """Call ``handler(listener, state)`` on each transition, in place of an earlier handler. Returns the listener."""
        self._states.handler = handler
        return self

    def state_updates(self) -> UpdateIterator[ListenerState]:
        """Each transition from now on as an asynchronous iterator, which ends after the final state."""
        return self._states.iterate(ended=self._state.is_final)

    # Inspecting

    @property
    def parameters(self) -> Parameters[P]:
        """What the listener was made with."""
        return self._parameters

    @property
    def new_connection_limit(self) -> int | None:
        """How many connections will still be handed out; None is no limit. Raising it lets a listener at 0 go on."""
        return self._limit

    @new_connection_limit.setter
    def new_connection_limit(self, limit: int | None) -> None:
        self._limit = checked_limit(limit)
        if self._side is not None:
            self._side.limit(self._limit)

    @property
    def failed_handshake_count(self) -> int:
        """How many inbound connections failed before they reached a handler."""
        return 0 if self._side is None else self._side.failed_handshakes

    @property
    def endpoints(self) -> tuple[Address, ...]:
        """Every address that is listened on; empty before ready, and while there is none."""
        return () if self._places is None else self._places.endpoints

    @property
    def port(self) -> int:
        """The bound port. Raises `RuntimeError` before ready, and on a Unix socket, which has none."""
        if self._places is not None and self._places.port is not None:
            return self._places.port
        if self.endpoints:
            raise RuntimeError(f"{self.endpoints[0]} is a Unix socket and has no port: use listener.endpoint")
        raise self._no_address()

    @property
    def endpoint(self) -> Address:
        """An endpoint that a client on this machine can connect to; where the loopback may not be used, one for others.

        Raises `RuntimeError` before ready, and while there is none.
        """
        nearest = None if self._places is None else self._places.nearest
        if nearest is None:
            raise self._no_address()
        return nearest

    def _no_address(self) -> RuntimeError:
        return RuntimeError(f"the listener has no address: it is {self._state.value}")


class Serving(Generic[P]):
    """The block of `NetworkListener.serving`."""

    def __init__(self, listener: NetworkListener[P], handler: Handler[P]) -> None:
        self._listener = listener
        self._handler = handler
        self._cancelled = False

    async def __aenter__(self) -> NetworkListener[P]:
        """Listen. Raises `NetworkError` if no address could be bound.

        Cancelling: nothing is left open.
        """
        self._driver = await self._listener._open(self._handler)
        body = self._driver.current_task()

        def cancel_body() -> None:
            self._cancelled = True
            body.cancel()

        self._body = body
        self._listener._failed = cancel_body
        return self._listener

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop: gracefully, or at once if the block raised.

        Cancelling: the handlers are cancelled and waited for.
        """
        grace = self._listener.parameters.grace_period if kind is None else 0.0
        failure = self._listener.error
        unseen: BaseException | None = None
        if self._cancelled:
            try:
                await self._turn()
            except BaseException as cancellation:  # the body came to its end without meeting it
                unseen = cancellation
        try:
            await self._listener._stop(self._driver, grace)
        finally:
            if self._cancelled:
                others = self._body.uncancel()
                if not others and failure is not None:
                    raise raisable(failure) from failure
                if unseen is not None:
                    raise unseen

    async def _turn(self) -> None:
        waiter = self._driver.waiter()
        self._driver.call_soon(lambda: None if waiter.done() else waiter.set_result(None))
        await waiter


def listening_place(on: int | EndpointLike | None, parameters: Parameters[Any]) -> Place:
    """Where to listen: an address, a name, or a port on all addresses."""
    local = parameters.local_endpoint
    if on is not None and (local is not None or parameters.local_port is not None):
        option = "local_port" if local is None else "local_endpoint"
        raise ValueError(f"on={on} and Parameters({option}={getattr(parameters, option)}) exclude each other: give one")
    if on is None:
        if local is not None:
            return local  # type: ignore[return-value]  # Parameters made it an address
        return parameters.local_port or 0
    if isinstance(on, int):
        require_range("on", on, 0, 65535)
        return on
    endpoint = to_endpoint(on)
    if not isinstance(endpoint, (HostPort, UnixEndpoint)):
        raise UnexpectedEndpointTypeError(
            "cannot listen there", endpoint=endpoint, expected="a port, a host with a port, or a Unix path"
        )
    return endpoint


def checked_limit(limit: int | None) -> int | None:
    """A budget of connections: 0 or more, or None."""
    if limit is not None:
        require_at_least("new_connection_limit", limit, 0)
    return limit
