"""One attempt over QUIC: a socket to one address and the handshake on it, which is connecting and securing in one."""

from __future__ import annotations

import errno
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tieline.engines import quic
from tieline.engines.quic import close_error
from tieline.engines.tls_failures import tls_error
from tieline.errors import Phase
from tieline.establishment.attempt import Attempt, Shaken
from tieline.establishment.failures import handshake_expired
from tieline.establishment.guard import guarded
from tieline.multiplex.endpoint import QUICEndpoint
from tieline.multiplex.flow import session_counters
from tieline.protocols.quic import QUICOptions
from tieline.reports import TransportCounters

if TYPE_CHECKING:
    from tieline._engine.quic import QuicClose
    from tieline.drivers.port import Address, Driver, Task, Timer
    from tieline.multiplex.early import EarlyStream
    from tieline.multiplex.flow import MultiplexFlow
    from tieline.multiplex.session import Session
    from tieline.parameters import Parameters

__all__ = ["QUICAttempt", "SessionHandshake"]


class SessionHandshake(Attempt):
    """Brings one session to the point where streams may be opened: the engine's handshake, and the validator's decision."""

    farewell: tuple[int, str] | None = None
    """A code of the transport's, and a reason, for a session that comes to nothing. None: it is simply closed."""

    def __init__(
        self,
        driver: Driver,
        parameters: Parameters[Any],
        endpoint: object,
        *,
        succeeded: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._driver = driver
        self._parameters = parameters
        self._endpoint = endpoint
        self._succeeded = succeeded
        self._failed = failed
        self._timer: Timer | None = None
        self._decision: Task | None = None
        self._over = False
        self.session: Session | None = None
        self.server_name: str | None = None
        self.begun = driver.time()
        self.phase = Phase.HANDSHAKE
        self.handshakes: Sequence[Shaken] = ()

    def watch(self, session: Session) -> None:
        """Begin."""
        self.session = session
        session.owner = self
        timeout = self._parameters.stack.find(QUICOptions).handshake_timeout
        if timeout is not None:
            self._timer = self._driver.call_later(timeout, self._expired, timeout)

    def counters(self) -> TransportCounters | None:
        return None if self.session is None else session_counters(self.session)

    # The session's owner

    @guarded
    def connected(self) -> None:
        session = self.session
        if session is None or self._over:
            return
        decision = session.connection.take_decision()
        if decision is None and session.connection.needs_validation:
            info = session.connection.info()
            validator = self._parameters.stack.find(QUICOptions).certificate_validator
            verdict = validator(info.peer_certificates, self.server_name or info.server_name or "")
            if inspect.isawaitable(verdict):
                decision = verdict
            elif verdict is not True:
                self._refuse(None)
                return
        if decision is None:
            self._succeed()
        else:
            self._decision = self._driver.spawn(self._decide(decision), "tieline certificate validator")

    async def _decide(self, decision: Any) -> None:
        reason: BaseException | None = None
        try:
            accepted = await decision
        except Exception as error:
            accepted, reason = False, error
        if not isinstance(accepted, bool):  # a coroutine that was forgotten to be awaited is true, too
            reason, accepted = TypeError(f"a validator's awaitable gives a bool, got {accepted!r}"), False
        self._decision = None
        if self._over:
            return
        if accepted:
            self._succeed()
        else:
            self._refuse(reason)

    def _refuse(self, reason: BaseException | None) -> None:
        error = tls_error("refused_by_validator", endpoint=self._endpoint, phase=Phase.HANDSHAKE)
        error.__cause__ = reason
        self.farewell = quic.BAD_CERTIFICATE, "the certificate was refused"
        self._fail(error)

    @guarded
    def ended(self, close: QuicClose) -> None:
        error = close_error(close, endpoint=self._endpoint, phase=Phase.HANDSHAKE)
        if close.kind == "idle_timeout":
            self._fail(TimeoutError(errno.ETIMEDOUT, "no answer within idle_timeout"))
            return
        if self.session is not None:
            error.__cause__ = self.session.connection.take_validator_error()
        self._fail(error)

    def opened(self) -> None:
        """The peer's streams wait until the connection is ready."""

    def peer_moved(self) -> None: ...

    @guarded
    def local_address_gone(self, error: OSError) -> None:
        """Only what is ready can move (RFC 9000 section 9): another attempt may do better than wait here."""
        if not self._over:
            self._fail(error)

    # Ending

    def _succeed(self) -> None:
        assert self.session is not None
        self._end()
        elapsed = self._driver.time() - self.begun
        self.handshakes = ((QUICOptions.name, elapsed, self.session.connection.statistics().rtt),)
        self._succeeded()

    def mistaken(self, error: Exception) -> None:
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._over:
            self.cancel()
            self._failed(error)

    def hand_over(self, flow: MultiplexFlow) -> Any:
        session, self.session = self.session, None
        assert session is not None  # it succeeded
        flow.attach(session, self._close_socket, self.server_name)
        return self

    def _close_socket(self) -> None:
        """The socket is shared with other sessions."""

    def cancel(self) -> None:
        self._end()
        session, self.session = self.session, None
        if session is not None:
            session.owner = None
            if session.is_open:
                if self.farewell is None:
                    session.connection.close(self._driver.time(), 0)
                else:
                    session.connection.refuse(self._driver.time(), *self.farewell)
            session.endpoint.flush()

    def _end(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._decision is not None:
            self._decision.cancel()
            self._decision = None

    def _expired(self, timeout: float) -> None:
        if self.farewell is not None:
            self.farewell = self.farewell[0], "the handshake took too long"
        self._fail(handshake_expired(timeout, self._endpoint, deciding=self._decision is not None))


class QUICAttempt(SessionHandshake):
    """A client's: it owns a socket for the connection alone."""

    def connect(
        self, address: Address, server_name: str, early: Sequence[EarlyStream] = (), interface: str | None = None
    ) -> None:
        """Begin towards an address, over one interface if that is given. Raises OSError.

        `early` streams ride on the first flight if a ticket allows it.
        """
        from tieline.endpoints import HostPort

        assert isinstance(address, HostPort)  # QUIC runs over UDP
        options: QUICOptions = self._parameters.stack.find(QUICOptions)
        self.server_name = server_name
        self.remote = address
        self._port = QUICEndpoint(self._driver, quic.client_endpoint(options, self._driver.seed()), failed=self._unreachable)
        self._port.open(None, address, self._parameters, interface)
        try:
            session = self._port.connect(quic.client(options), self._port.peer, server_name)
            if session.connection.has_early_data:
                session.ride(early)
            self.watch(session)
        except BaseException:
            self._port.close()
            raise

    @guarded
    def _unreachable(self, error: OSError) -> None:
        """The network says that nobody is there. Later than the handshake, anybody could have said so."""
        if not self._over:
            self._fail(error)

    def cancel(self) -> None:
        super().cancel()
        self._port.close()

    def _close_socket(self) -> None:
        self._port.leave()

    @property
    def local_address(self) -> Address:
        """The socket's."""
        return self._port.local_address

    @property
    def remote_address(self) -> Address:
        """The peer's."""
        return self.remote
