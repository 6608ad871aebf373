"""ConnectionGroup: one to many, and many to one.

send ──▶ every member, on every interface ──▶ their hosts
message ◀── anybody who sends to a member, or to us ──▶ reply: the sender alone, the way it came
                                                  ──▶ extract_connection: a channel of its own
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from tieline import drivers
from tieline.endpoints import EndpointLike, HostPort, to_endpoint
from tieline.engines.coder import CoderCodec
from tieline.engines.states import GROUP, Event, GroupState
from tieline.errors import (
    ChannelClosedError,
    ConnectError,
    DecodingError,
    NetworkError,
    Phase,
    UnexpectedEndpointTypeError,
    raisable,
)
from tieline.flows.content import octets, sendable
from tieline.flows.datagram import describing
from tieline.flows.group import GroupFlow, Way
from tieline.group.memberships import Memberships, require_joinable
from tieline.group.message import GroupMessage
from tieline.group.multicast import MulticastGroup
from tieline.group.sources import Sources
from tieline.parameters import Parameters
from tieline.paths import Interface, Path
from tieline.protocols.coder import Coder
from tieline.protocols.roles import NetworkProtocol
from tieline.protocols.udp import UDP, UDPMetadata
from tieline.updates import UpdateIterator, Updates, Waiters
from tieline.watching import connected_path

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from tieline.connection import NetworkConnection
    from tieline.drivers.port import Arrival, Driver
    from tieline.protocols.ip import IPMetadata

__all__ = ["ConnectionGroup"]

P_co = TypeVar("P_co", bound=NetworkProtocol, covariant=True)
R = TypeVar("R")
S = TypeVar("S")


class ConnectionGroup(Generic[P_co]):
    """Multicast: what is sent reaches everybody who has joined, and what anybody sends to the members is received.

    `using` is `UDP`, a `Coder` on it, or `Parameters` with one of them. The group is joined on every interface that the
    parameters allow, follows the network, and is `WAITING` while there is none. The loopback counts only if it is required
    (``required_interface_type=InterfaceType.LOOPBACK``): other programs of this machine are reached over any interface.

    Making it does nothing on the network. ``async with`` starts it; so does the first data call. Leaving the block leaves the
    groups and closes the sockets.

    - `local_port` sends from that port (0: any free one) instead of the group's, which programs of this machine share: what is
      sent to it reaches this group and nobody else here.
    - `receive_limit` bounds what is kept for a reader that does not come; ``metadata(UDP)`` tells how many were dropped.
    - `IP.hop_limit` is 1 by default for members: what is sent stays on the link (RFC 1112 section 6.1).

    Raises `TypeError` and `ValueError` for bad options.
    """

    driver: Driver

    def __init__(self, descriptor: MulticastGroup, using: P_co | Parameters[P_co]) -> None:
        if not isinstance(descriptor, MulticastGroup):
            raise TypeError(f"a ConnectionGroup is for a MulticastGroup, got {descriptor!r}")
        self._descriptor = descriptor
        self._parameters: Parameters[Any] = Parameters.of(using)
        require_joinable(descriptor, self._parameters)
        self._state = GroupState.SETUP
        self._error: NetworkError | None = None
        self._states: Updates[Any, GroupState] = Updates()
        self._interfaces: Updates[Any, tuple[Interface, ...]] = Updates()
        self._becoming_ready = Waiters()
        self._flow = GroupFlow(self, self._parameters, descriptor)
        self._sources = Sources(self._flow)
        self._memberships: Memberships | None = None
        stack: Any = self._parameters.stack
        self._codec = CoderCodec(stack, descriptor) if issubclass(type(stack), Coder) else None

    def __repr__(self) -> str:
        return f"<ConnectionGroup of {self._descriptor} over {self._parameters.stack.name}, {self._state.value}>"

    # Lifetime

    async def __aenter__(self) -> Self:
        """Start, and return at once.

        Cancelling: nothing has been started.
        """
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.abort()

    def start(self) -> Self:
        """Join, if nobody has yet. Further calls do nothing."""
        if self._state is GroupState.SETUP and self._memberships is None:
            self.driver = drivers.current()
            self._memberships = Memberships(self.driver, self._descriptor, self._parameters, self, self._sources)
            self._memberships.start()
        return self

    async def ready(self) -> None:
        """Start and wait until the group is joined on some interface. Raises `ConnectError`, `ChannelClosedError` after a close.

        While `WAITING`, the reason is raised unless the parameters say ``waits_for_connectivity=True``.

        Cancelling: the group goes on waiting.
        """
        self.start()
        if self._state is GroupState.READY:
            return
        self._flow.need()
        if self._error is not None and not self._parameters.waits_for_connectivity:
            raise raisable(self._error)
        await self._becoming_ready.wait(self.driver)

    async def aclose(self) -> None:
        """Leave the groups and close the sockets: pending calls raise `ChannelClosedError`. Idempotent.

        The same as `abort`, for nothing is left to drain: a datagram goes to the system at once.

        Cancelling: it is closed.
        """
        self.abort()

    def abort(self) -> None:
        """Leave the groups and close the sockets at once. Idempotent."""
        if self._state.is_final:
            return
        self._end(None)

    def _end(self, error: NetworkError | None) -> None:
        if self._memberships is not None:
            self._memberships.close()
        self._sources.close()
        if error is None:
            self._flow.close()
        else:
            self._flow.fail(error)
        closed = ChannelClosedError("the group was closed by this side", endpoint=self._descriptor, phase=Phase.CLOSING)
        self._becoming_ready.release(error or closed)
        self._become(Event.CLOSE if error is None else Event.REFUSED, error)

    def __del__(self) -> None:
        state = getattr(self, "_state", GroupState.SETUP)
        if state is not GroupState.SETUP and not state.is_final:
            self._states.handler = None
            try:
                warnings.warn(f"unclosed {self!r}: use `async with` or aclose()", ResourceWarning, source=self, stacklevel=1)
            finally:
                self.abort()

    # States

    @property
    def state(self) -> GroupState:
        """Where the group stands now."""
        return self._state

    @property
    def error(self) -> NetworkError | None:
        """Why the group is `WAITING` or `FAILED`; None in other states."""
        return self._error

    def on_state_update(self, handler: Callable[[Self, GroupState], object]) -> Self:
        """Call ``handler(group, state)`` on each transition, in place of an earlier handler. Returns the group."""
        self._states.handler = handler
        return self

    def state_updates(self) -> UpdateIterator[GroupState]:
        """Each transition from now on as an asynchronous iterator, which ends after the final state."""
        return self._states.iterate(ended=self._state.is_final)

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """On which the group is joined now."""
        return () if self._memberships is None else self._memberships.interfaces

    def on_interfaces_update(self, handler: Callable[[Self, tuple[Interface, ...]], object]) -> Self:
        """Call ``handler(group, interfaces)`` when it is joined on others than before. Returns the group."""
        self._interfaces.handler = handler
        return self

    def interfaces_updates(self) -> UpdateIterator[tuple[Interface, ...]]:
        """The same as an asynchronous iterator, from now on; it ends with the group."""
        return self._interfaces.iterate(ended=self._state.is_final)

    def _become(self, event: Event, error: NetworkError | None = None) -> None:
        state = self._state = GROUP[self._state, event]
        self._error = error
        self._states.publish(self, state, last=state.is_final)
        if state is self._state is not GroupState.READY:  # a handler may have closed it meanwhile
            self._interfaces.publish(self, (), last=state.is_final)

    # Told by the memberships

    def joined(self, interfaces: tuple[Interface, ...]) -> None:
        if self._state is not GroupState.READY:
            self._becoming_ready.release()
            self._become(Event.ESTABLISHED)
        if self._state is GroupState.READY:
            self._interfaces.publish(self, interfaces)

    def not_joined(self, error: ConnectError, *, final: bool) -> None:
        if final:
            self._end(error)
            return
        if not self._parameters.waits_for_connectivity:
            self._becoming_ready.release(error)
        if self._state is GroupState.WAITING:
            self._error = error
        else:
            self._become(Event.UNAVAILABLE, error)

    # For the flow

    def needed(self) -> None:
        """A call waits: start."""
        self.start()

    def flow_failed(self, error: NetworkError | None) -> None:
        """A flow of many senders does not fail by itself."""

    # Sending

    @overload
    async def send(
        self: ConnectionGroup[UDP], content: Buffer, *, to: EndpointLike | None = None, metadata: IPMetadata | None = None
    ) -> None: ...
    @overload
    async def send(
        self: ConnectionGroup[Coder[S, Any]], content: S, *, to: EndpointLike | None = None, metadata: IPMetadata | None = None
    ) -> None: ...
    async def send(
        self: ConnectionGroup[Any], content: Any, *, to: EndpointLike | None = None, metadata: IPMetadata | None = None
    ) -> None:
        """Send to every member on every interface that is joined; or to one address only, a member or not a group at all.

        `metadata` is what its IP packets say. An error on some interfaces and not on the others is no error. Raises
        `MessageTooLargeError` above `maximum_datagram_size` (nothing was sent), `ConnectError` if it left by no interface, and as
        `ready` does; `ValueError` for a group that is no member, `UnexpectedEndpointTypeError` for what is no address.

        Cancelling: it may have been sent to some of the members.
        """
        datagram = self._encode(content)
        address = None if to is None else self._address(to)
        await self.ready()
        await self._flow.send(datagram, self._ways(address), sendable(metadata, self._flow))

    def _encode(self, content: Any) -> Any:
        return octets(content, self._flow) if self._codec is None else self._codec.pack(content)

    def _address(self, to: EndpointLike) -> HostPort:
        endpoint = to_endpoint(to)
        if not isinstance(endpoint, HostPort) or not endpoint.is_literal:
            raise UnexpectedEndpointTypeError(
                "a group sends to addresses", endpoint=endpoint, expected="an IP address with a port"
            )
        if endpoint.is_multicast and not self._descriptor.has_member(endpoint):
            raise ValueError(f"{endpoint} is no member of this group, whose members are {self._descriptor}")
        return endpoint

    def _ways(self, to: HostPort | None) -> list[Way]:
        try:
            return self._joined_memberships.ways(to)
        except OSError as error:
            reason = error.strerror or str(error)
            failure = ConnectError(reason, endpoint=to or self._descriptor, phase=Phase.TRANSFER, code=error.errno)
            raise failure from error

    @property
    def _joined_memberships(self) -> Memberships:
        assert self._memberships is not None  # it was started
        return self._memberships

    async def _reply(self, arrival: Arrival, content: Any, metadata: IPMetadata | None) -> None:
        datagram = self._encode(content)
        self._flow.need()
        way = self._joined_memberships.way_back(arrival)
        await self._flow.send(datagram, [way], sendable(metadata, self._flow))

    # Receiving

    @overload
    async def receive(self: ConnectionGroup[UDP]) -> GroupMessage[bytes, UDP]: ...
    @overload
    async def receive(self: ConnectionGroup[Coder[S, R]]) -> GroupMessage[R, Coder[S, R]]: ...
    async def receive(self: ConnectionGroup[Any]) -> GroupMessage[Any, Any]:
        """Receive a message; waits also while the group is `WAITING`.

        Raises `DecodingError`, whose `endpoint` is the sender, for what is no value of a Coder (the next can be received),
        `ChannelClosedError` after a close, and `ConnectError` if the group failed.

        Cancelling: a cancelled receive has consumed nothing.
        """
        self.start()
        arrival = await self._flow.receive()
        content: Any = arrival.content
        if self._codec is not None:
            try:
                content = self._codec.decode_value(content)
            except DecodingError as error:
                error.endpoint = arrival.remote
                raise
        interface = self._joined_memberships.interface_of(arrival)
        return GroupMessage(content, arrival.remote, arrival.local, interface, describing(arrival.metadata), self, arrival)

    def __aiter__(self) -> Self:
        """Messages as they come. The iteration raises what `receive` does; after a `DecodingError` it can go on."""
        return self

    __anext__ = receive

    # Connections to single senders

    def extract_connection(self, to: EndpointLike) -> NetworkConnection[P_co]:
        """A connection to one sender or receiver: what it sends comes there and not to the group, until that is closed.

        The connection uses the group's socket and ends with the group. Raises `RuntimeError` if there is one already,
        `ConnectError` if no way leads there at present, `ChannelClosedError` after the group's end, and
        `UnexpectedEndpointTypeError` for what is no address of a single host.
        """
        address = self._address(to)
        if address.is_multicast:
            raise UnexpectedEndpointTypeError("a connection has one peer", endpoint=address, expected="the address of a host")
        self.start()
        self._flow.need()
        if self._error is not None:
            raise raisable(self._error)
        (way,) = self._ways(address)
        return self._connection(way)

    def _extract(self, arrival: Arrival) -> NetworkConnection[Any]:
        self._flow.need()
        return self._connection(self._joined_memberships.way_back(arrival))

    def _connection(self, way: Way) -> NetworkConnection[Any]:
        local = self._joined_memberships.local_of(way)
        return self._sources.extract(self.driver, self._parameters, way, local)

    # Inspecting

    @property
    def descriptor(self) -> MulticastGroup:
        """The members and what is heard of them."""
        return self._descriptor

    @property
    def parameters(self) -> Parameters[P_co]:
        """What the group was made with."""
        return self._parameters

    @property
    def local_endpoints(self) -> tuple[HostPort, ...]:
        """Where its sockets are bound, with the ports that it sends from; empty before ready."""
        return () if self._memberships is None else self._memberships.local_endpoints

    @property
    def maximum_datagram_size(self) -> int:
        """The largest datagram that can be sent to all members, in bytes; 0 unless the group is ready."""
        if self._state is not GroupState.READY:
            return 0
        return min(way.maximum_size for way in self._joined_memberships.ways(None))

    def metadata(self, protocol: type[UDP]) -> UDPMetadata:
        """What UDP knows of this group: how many datagrams were dropped. Raises `ValueError` for any other protocol."""
        if protocol is not UDP:
            raise ValueError(f"a group has metadata of UDP only, not of {protocol!r}")
        return UDPMetadata(self._flow.dropped)

    def _path_of(self, arrival: Arrival) -> Path:
        memberships = self._joined_memberships
        network, interface = memberships.network, memberships.interface_of(arrival)
        way = memberships.way_back(arrival)
        local = memberships.local_of(way)
        if interface is not None:
            network = replace(network, interfaces=(interface,))
        return connected_path(network, local, arrival.remote, viable=interface is not None)
