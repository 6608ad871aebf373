"""Parameters: a protocol stack, and the settings that belong to no single protocol."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import KW_ONLY, fields, replace
from ipaddress import ip_address
from types import NoneType
from typing import Any, ClassVar, Generic, TypeVar

from tieline.endpoints import EndpointLike, HostPort, UnixEndpoint, URLEndpoint, to_endpoint
from tieline.errors import UnexpectedEndpointTypeError
from tieline.paths import InterfaceType, Restrictions
from tieline.protocols.checks import require_at_least, require_range, require_seconds
from tieline.protocols.ip import IP, ServiceClass
from tieline.protocols.roles import MultiplexProtocol, NetworkProtocol
from tieline.protocols.websocket import standing
from tieline.values import Value, value

__all__ = ["Multipath", "Parameters"]

P = TypeVar("P", bound=NetworkProtocol)
S = TypeVar("S", bound=NetworkProtocol)
T = TypeVar("T")

TIMES = ("resolution_timeout", "resolution_delay", "attempt_delay", "close_timeout", "grace_period")
MAY_BE_ZERO = ("resolution_delay", "grace_period")


class Multipath(enum.Enum):
    """What a connection does with more than one interface. A string of the same text does, too.

    Over QUIC, `HANDOVER` moves the connection to the best interface that there is, without losing a byte; QUIC has no more than
    that, so the others are refused. Over TCP each of them asks the peer for Multipath TCP (RFC 8684): which interfaces are used,
    and how, is then a setting of the system (``ip mptcp``); ``metadata(TCP).multipath`` says whether the peer agreed.
    """

    DISABLED = "disabled"
    HANDOVER = "handover"
    INTERACTIVE = "interactive"
    AGGREGATE = "aggregate"


@value(slots=False)  # what an instance does not have is taken from its class: see `of`
class Parameters(Value, Generic[P]):
    """How to connect or listen: the stack, and what concerns the connection as a whole. Times in seconds, sizes in bytes.

    Where from and over what:

    - `local_endpoint`: address and port to bind; `local_port` binds the port on the wildcard address. One of the two.
    - `local_endpoint_reuse_allowed`: several sockets may bind the same local endpoint.
    - `required_interface`: only this interface, by name. `required_interface_type`, `prohibited_interfaces` and
      `prohibited_interface_types` restrict likewise; so do `expensive_paths_prohibited` and `constrained_paths_prohibited`.
    - `local_only`: only peers on a link of this machine, without a router in between.
    - `multipath`: whether the connection may use several interfaces, one after another or at once (`Multipath`).
    - `service_class`: what the traffic is: sets the DSCP of its packets (`ServiceClass.dscp`), for the network, and their
      priority in this machine's queues.

    Establishing:

    - `waits_for_connectivity`: calls stay pending while the connection is `WAITING`, instead of raising its reason.
    - `fast_open_allowed`: `send_idempotent` before ready may ride on the first flight.
    - `resolution_timeout`: for a name to be resolved.
    - `resolution_delay`, `attempt_delay`: of the race between addresses (RFC 8305 section 8).

    Moving data:

    - `receive_limit`: bytes kept for a reader that does not come; the peer is then made to wait.
    - `send_limit`: bytes accepted from a sender and not yet given to the kernel.
    - `close_timeout`: without progress, after which a graceful close gives up.
    - `busy_poll`: for how long the event loop goes on turning, instead of sleeping, after something has come; at most 0.001, and
      0 not at all. By default it does so where that pays: where things come so soon after each other that to sleep and be woken
      would take longer. A round trip within one machine or rack then takes a fraction of the time, and less of the processor's;
      what is spent in vain is a hundredth of the time at most.

    Listening:

    - `maximum_pending_handshakes`: that may run before their connections reach a handler.
    - `grace_period`: for handlers to finish when the listener stops.
    - `backlog`: connections that the kernel holds for us.
    """

    stack: P
    _: KW_ONLY
    local_endpoint: EndpointLike | None = None
    local_port: int | None = None
    local_endpoint_reuse_allowed: bool = False
    required_interface: str | None = None
    required_interface_type: InterfaceType | None = None
    prohibited_interfaces: tuple[str, ...] = ()
    prohibited_interface_types: tuple[InterfaceType, ...] = ()
    expensive_paths_prohibited: bool = False
    constrained_paths_prohibited: bool = False
    local_only: bool = False
    multipath: Multipath | str = Multipath.DISABLED
    service_class: ServiceClass = ServiceClass.BEST_EFFORT
    waits_for_connectivity: bool = False
    fast_open_allowed: bool = False
    resolution_timeout: float = 30.0
    resolution_delay: float = 0.05
    attempt_delay: float = 0.25
    receive_limit: int = 256 * 1024
    send_limit: int = 256 * 1024
    close_timeout: float = 5.0
    busy_poll: float | None = None
    maximum_pending_handshakes: int = 256
    grace_period: float = 5.0
    backlog: int = 1024

    _kept: ClassVar[dict[Any, Any]] = {}  # an instance has one of its own as soon as there is something to keep

    def __post_init__(self) -> None:
        self._check_stack()
        given = vars(self)
        if all(given[name] is default for name, default in DEFAULTS):
            return  # which are good, and most connections have them
        require_range("local_port", self.local_port, 0, 65535, optional=True)
        if self.local_endpoint is not None:
            endpoint = to_endpoint(self.local_endpoint)
            if not isinstance(endpoint, UnixEndpoint) and not (isinstance(endpoint, HostPort) and endpoint.is_literal):
                raise UnexpectedEndpointTypeError(
                    "local_endpoint must be an address", endpoint=endpoint, expected="an IP address with a port, or a Unix path"
                )
            if self.local_port is not None:
                raise ValueError(f"local_endpoint={endpoint} and local_port={self.local_port} exclude each other: give one")
            object.__setattr__(self, "local_endpoint", endpoint)
        self._check_interfaces()
        self._check_multipath()
        for option in ("expensive_paths_prohibited", "constrained_paths_prohibited", "local_only"):
            if not isinstance(getattr(self, option), bool):
                raise TypeError(f"{option} must be True or False, got {getattr(self, option)!r}")
        if not isinstance(self.service_class, ServiceClass):
            raise TypeError(f"service_class must be a ServiceClass, got {self.service_class!r}")
        for option in TIMES:
            if getattr(self, option) is None:
                raise TypeError(f"{option} must be a number of seconds, got None")
            require_seconds(option, getattr(self, option), zero=option in MAY_BE_ZERO)
        require_seconds("busy_poll", self.busy_poll, zero=True, optional=True)
        # RFC 8305 section 8 for the first two; the third is time that a whole event loop loses.
        for option, low, high in (("resolution_delay", 0.0, 2.0), ("attempt_delay", 0.01, 2.0), ("busy_poll", 0.0, 0.001)):
            value = getattr(self, option)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{option} must be from {low} to {high} seconds, got {value}")
        for option in ("receive_limit", "send_limit", "maximum_pending_handshakes", "backlog"):
            require_at_least(option, getattr(self, option), 1)

    def _check_stack(self) -> None:
        if not isinstance(self.stack, NetworkProtocol):
            raise TypeError(f"Parameters wants a protocol stack such as TLS() or UDP(), got {self.stack!r}")
        ip: IP | None = self.stack.find(IP)
        if ip is not None and ip.describes and not self.stack.is_datagrams:
            option = "metadata_received" if ip.metadata_received else "receive_time_calculated"
            raise ValueError(f"IP({option}=True) is for datagrams of UDP: nothing is told of the packets of {self.stack.name}")

    def _check_interfaces(self) -> None:
        if self.required_interface is not None and not isinstance(self.required_interface, str):
            raise TypeError(f"required_interface must be an interface's name, got {self.required_interface!r}")
        if self.required_interface == "":
            raise ValueError("required_interface must be an interface's name, got ''")
        if not isinstance(self.required_interface_type, (InterfaceType, NoneType)):
            raise TypeError(f"required_interface_type must be an InterfaceType, got {self.required_interface_type!r}")
        for option, required, kind in (
            ("prohibited_interfaces", self.required_interface, str),
            ("prohibited_interface_types", self.required_interface_type, InterfaceType),
        ):
            given = getattr(self, option)
            if isinstance(given, (str, InterfaceType)) or not all(isinstance(one, kind) for one in given):
                what = "interface names" if kind is str else "InterfaceType members"
                raise TypeError(f"{option} must be a sequence of {what}, got {given!r}")
            if required is not None and required in given:
                raise ValueError(f"{option}={tuple(given)} rules out what is required, {required!r}")
            object.__setattr__(self, option, tuple(given))

    def _check_multipath(self) -> None:
        try:
            multipath = Multipath(self.multipath)
        except ValueError:
            values = ", ".join(repr(one.value) for one in Multipath)
            raise ValueError(f"multipath must be one of {values}, got {self.multipath!r}") from None
        object.__setattr__(self, "multipath", multipath)
        single = isinstance(self.stack, MultiplexProtocol) and multipath in (Multipath.INTERACTIVE, Multipath.AGGREGATE)
        if single:
            raise ValueError(
                f"multipath={multipath.value!r} is not to be had over {self.stack.name}, which uses one path at a time"
            )

    @staticmethod
    def of(using: S | Parameters[S]) -> Parameters[S]:
        """`using` as parameters: a bare stack gets the defaults."""
        if isinstance(using, Parameters):
            return using
        global _latest
        latest: Any = _latest
        if latest is not None and latest.stack is using:  # as with one connection after the other
            return latest  # type: ignore[no-any-return]
        # What is not in an instance is in its class: the defaults need neither be set nor checked for each connection.
        parameters: Parameters[S] = Parameters.__new__(Parameters)  # pyright: ignore[reportUnknownVariableType]
        object.__setattr__(parameters, "stack", using)
        parameters._check_stack()
        _latest = parameters
        return parameters

    def kept(self, make: Callable[[Parameters[Any]], T]) -> T:
        """What `make` makes of these parameters, which do not change: made once. Raises what that raises."""
        kept = self._kept
        if make not in kept:
            made = make(self)
            kept = vars(self)["_kept"] = {**self._kept, make: made}
        return kept[make]  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_kept"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def standing(self, endpoint: object = None, bottom: NetworkProtocol | None = None) -> Parameters[P]:
        """With what is below a `WebSocket` that was given nothing: `bottom`, or what the URL says."""
        stack = standing(self.stack, endpoint.scheme if isinstance(endpoint, URLEndpoint) else None, bottom)
        return self if stack is self.stack else replace(self, stack=stack)

    def bound_to(self, interface: str | None) -> Parameters[P]:
        """The same, for a socket on one interface; None leaves it to the system."""
        return self if interface is None else replace(self, required_interface=interface)

    @property
    def have_address(self) -> bool:
        """Whether they give the local address, and with it the interface."""
        local = self.local_endpoint
        return isinstance(local, HostPort) and not ip_address(local.host.partition("%")[0]).is_unspecified

    @property
    def restrictions(self) -> Restrictions | None:
        """Which interfaces these parameters allow, None for all."""
        if not (
            self.required_interface
            or self.required_interface_type
            or self.prohibited_interfaces
            or self.prohibited_interface_types
            or self.expensive_paths_prohibited
            or self.constrained_paths_prohibited
        ):
            return None  # most have none, and each connection asks
        return Restrictions(**{name: getattr(self, name) for name in RESTRICTIONS})


_latest: Parameters[Any] | None = None  # of a bare stack
RESTRICTIONS = [field.name for field in fields(Restrictions)]
DEFAULTS = [(field.name, field.default) for field in fields(Parameters) if field.name != "stack"]
