"""Every error that tieline raises, in one tree.

    NetworkError                          endpoint, phase, domain, code
    ├── ConnectError                      attempts; also OSError and the built-in that all attempts share
    │   └── DNSError                      also socket.gaierror
    ├── TLSError                          alert, reason; also OSError
    ├── PeerResetError                    also ConnectionResetError
    ├── ConnectionAbortedByPeerError      reason; also ConnectionAbortedError
    ├── IdleTimeoutError                  also TimeoutError
    ├── CloseTimeoutError                 also TimeoutError
    ├── HandshakeTimeoutError             also TimeoutError
    ├── EndOfStreamError                  also EOFError
    │   └── IncompleteReceiveError        partial, expected
    ├── ChannelClosedError
    ├── MessageTooLargeError              limit, size; also ValueError
    ├── DecodingError                     also ValueError
    ├── EncodingError                     also ValueError
    ├── ProtocolViolationError
    └── UnexpectedEndpointTypeError       also TypeError

Who did it is in the class: an end is not a reset, and neither is "we closed it". What happened is in the text, which is
always built from the same parts: where, in which phase, what, what was expected and what came instead, and what to do.
A mistake in the program that calls us is a plain ``TypeError``, ``ValueError`` or ``RuntimeError``.
"""

from __future__ import annotations

import copy
import enum
import errno
import os
from _socket import gaierror  # `socket` has it from there, and takes five times as long to import
from collections.abc import Sequence
from typing import Any, cast

from tieline.values import Value, value

__all__ = [
    "Attempt",
    "ChannelClosedError",
    "CloseTimeoutError",
    "ConnectError",
    "ConnectionAbortedByPeerError",
    "DNSError",
    "DecodingError",
    "EncodingError",
    "EndOfStreamError",
    "ErrorDomain",
    "HandshakeTimeoutError",
    "IdleTimeoutError",
    "IncompleteReceiveError",
    "MessageTooLargeError",
    "NetworkError",
    "PeerResetError",
    "Phase",
    "ProtocolViolationError",
    "TLSError",
    "UnexpectedEndpointTypeError",
]


class Phase(enum.StrEnum):
    """What a connection or listener was doing when the error came."""

    RESOLVING = "resolving"
    CONNECTING = "connecting"
    HANDSHAKE = "handshake"
    TRANSFER = "transfer"
    CLOSING = "closing"
    LISTENING = "listening"


class ErrorDomain(enum.StrEnum):
    """Whose numbers `NetworkError.code` counts in."""

    POSIX = "posix"
    DNS = "dns"
    TLS = "tls"
    PROTOCOL = "protocol"


class NetworkError(Exception):
    """The root of everything that goes wrong on the network.

    `endpoint` and `phase` say where, `domain` and `code` carry the number of the layer that knew (an errno, a
    resolver's code, a TLS alert), all of them None where there is none.
    """

    domain: ErrorDomain | None = None

    def __init__(
        self,
        summary: str,
        *,
        endpoint: object = None,
        phase: Phase | None = None,
        expected: str | None = None,
        got: str | None = None,
        hint: str | None = None,
        code: int | None = None,
    ) -> None:
        super().__init__(summary)
        self.summary = summary
        self.endpoint = endpoint
        self.phase = phase
        self.code = code
        self._expected = expected
        self._got = got
        self.hint = hint

    def __str__(self) -> str:
        where = ", ".join(str(part) for part in (self.endpoint, self.phase) if part is not None)
        text = f"{where}: {self._what}" if where else self._what
        if self.hint is not None:
            text += f"\n{self.hint}" if "\n" in text else f". {self.hint}"  # behind a table on a line of its own
        return text

    @property
    def _what(self) -> str:
        """The text without where it was and what to do."""
        text = self.summary
        if self._expected is not None:
            text += f"; expected {self._expected}"
        if self._got is not None:
            text += f", got {self._got}" if self._expected is not None else f"; got {self._got}"
        return text


class _OSNetworkError(NetworkError, OSError):
    """A NetworkError that `except OSError` catches, with `errno` where the system gave one."""

    domain = ErrorDomain.POSIX

    def __init__(self, summary: str, *, code: int | None = None, **where: Any) -> None:
        super().__init__(summary, code=code, **where)
        if self.domain is ErrorDomain.POSIX:
            self.errno = code

    def __setstate__(self, state: dict[str, Any] | None) -> None:
        self.__dict__.update(state or {})
        self.errno = self.code if self.domain in (ErrorDomain.POSIX, ErrorDomain.DNS) else None


@value
class Attempt(Value):
    """One address that was tried while connecting: how far it came, how long it took (seconds), and why it ended."""

    endpoint: object
    phase: Phase
    elapsed: float
    error: BaseException

    def __str__(self) -> str:
        return f"{self.endpoint}  {self.phase}  {self.elapsed * 1000:.0f} ms  {_reason(self.error)}"


class ConnectError(_OSNetworkError):
    """No candidate could be connected; `attempts` has one entry for each that was tried, in the order of the trial.

    It also derives from the built-in error that all attempts share, so `except ConnectionRefusedError` and
    `except TimeoutError` work. Made by `ConnectError.of`.
    """

    attempts: tuple[Attempt, ...] = ()

    @classmethod
    def of(cls, attempts: Sequence[Attempt], *, endpoint: object, hint: str | None = None) -> ConnectError:
        """The error for these attempts: its text is their table, its class follows from the reason that they share."""
        if len(attempts) == 1:
            (only,) = attempts
            address = "" if only.endpoint == endpoint else f"{only.endpoint}, "
            summary = f"{_reason(only.error)} ({address}after {only.elapsed * 1000:.0f} ms)"
            phase = only.phase
            if hint is None and isinstance(only.error, NetworkError):
                hint = only.error.hint
        else:
            rows = [(str(one.endpoint), str(one.phase), f"{one.elapsed * 1000:.0f} ms", _reason(one.error)) for one in attempts]
            widths = [max(len(row[column]) for row in rows) for column in range(3)]
            lines = [
                f"  {where:<{widths[0]}}  {phase_:<{widths[1]}}  {elapsed:>{widths[2]}}  {reason}"
                for where, phase_, elapsed, reason in rows
            ]
            summary = f"none of {len(attempts)} addresses could be connected\n" + "\n".join(lines)
            phase = Phase.CONNECTING
        shared = next((kind for kind in _SHARED if all(isinstance(one.error, kind.__bases__[1]) for one in attempts)), cls)
        codes = {one.error.errno for one in attempts if isinstance(one.error, OSError)}
        error = shared(
            summary,
            endpoint=endpoint,
            phase=phase,
            hint=hint,
            code=codes.pop() if len(codes) == 1 else None,
        )
        error.attempts = tuple(attempts)
        if len(attempts) == 1:
            error.__cause__ = attempts[0].error
        return error


def raisable(error: NetworkError) -> NetworkError:
    """A copy of an error that several calls raise: each gets a traceback of its own."""
    again = copy.copy(error)
    again.__cause__ = error.__cause__
    return again


def is_about(error: BaseException, endpoint: object) -> bool:
    """Whether a connection's peer or the network made this error: no mistake of its handler. Task groups wrap such errors."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return all(is_about(one, endpoint) for one in group.exceptions)
    return isinstance(error, NetworkError) and error.endpoint == endpoint


def translate(error: OSError, endpoint: object, phase: Phase = Phase.TRANSFER) -> NetworkError:
    """What the kernel says of a connected socket, in our words; what is in our words already stays."""
    if isinstance(error, NetworkError):
        return error
    where: dict[str, Any] = {"endpoint": endpoint, "phase": phase, "code": error.errno}
    failure: NetworkError
    if error.errno in (errno.ECONNRESET, errno.EPIPE):
        failure = PeerResetError("the peer reset the connection", **where)
    elif error.errno == errno.ETIMEDOUT:
        failure = IdleTimeoutError("the peer stopped answering", **where)
    else:
        reason = error.strerror or str(error)
        failure = ConnectionAbortedByPeerError(f"the connection broke: {reason}", reason=reason, **where)
        failure.domain, failure.errno = ErrorDomain.POSIX, error.errno  # the code is the kernel's, not the peer's
    failure.__cause__ = error
    return failure


_MEANING = {
    errno.ECONNREFUSED: "connection refused: nobody listens there",
    errno.ECONNRESET: "the peer reset the connection",
    errno.ETIMEDOUT: "no answer",
    errno.EHOSTUNREACH: "the host cannot be reached",
    errno.ENETUNREACH: "no route to this network",
    errno.ENETDOWN: "the network is down",
    errno.EACCES: "the system does not permit it (a firewall, a route, or the rights of this process)",
    errno.EPERM: "the system does not permit it (a firewall, or the rights of this process)",
    errno.EADDRINUSE: "the local address is in use",
    errno.EADDRNOTAVAIL: "the local address is not one of this machine, or no port is free",
    errno.EAFNOSUPPORT: "this machine does not have this kind of address",
    errno.ENOENT: "there is no such socket file",
    errno.ENOTSOCK: "this is not a socket",
    errno.EPROTOTYPE: "this socket is of another kind",
    errno.EAGAIN: "the peer's queue of waiting connections is full",  # of a Unix socket; TCP would let us wait
    errno.EMFILE: "this process has too many files and sockets open",
    errno.ENFILE: "this machine has too many files and sockets open",
    errno.ENODEV: "there is no such interface",
}
"""What the kernel means when a connection cannot be made."""


def _reason(error: BaseException) -> str:
    """An attempt's table has its own columns for endpoint and phase, so the reason comes without them."""
    if isinstance(error, NetworkError):
        return error._what
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        standard = error.strerror == os.strerror(error.errno)  # or else somebody who knew more has written it
        return _MEANING.get(error.errno, error.strerror) if standard else error.strerror
    return str(error) or type(error).__name__


class ConnectRefusedError(ConnectError, ConnectionRefusedError):
    """Every address answered that nobody listens there."""


class ConnectTimeoutError(ConnectError, TimeoutError):
    """No address answered in time."""


class ConnectResetError(ConnectError, ConnectionResetError):
    """Every peer broke the connection off while it was being set up."""


_SHARED: tuple[type[ConnectError], ...] = (ConnectRefusedError, ConnectTimeoutError, ConnectResetError)


class DNSError(ConnectError, gaierror):
    """The name could not be resolved, so nothing was tried. `code` is the resolver's (an ``EAI_`` number)."""

    domain = ErrorDomain.DNS

    def __init__(self, summary: str, *, code: int | None = None, **where: Any) -> None:
        super().__init__(summary, code=code, **where)
        self.errno = code


class TLSError(_OSNetworkError):
    """The TLS handshake or a TLS record failed.

    `reason` is a stable slug (``expired``, ``wrong_name``, ``unknown_authority``, ``refused_by_validator``, …); `alert`
    names the TLS alert that was sent or received (RFC 8446 section 6), None if there was none; `attempts` is set while
    connecting.
    """

    domain = ErrorDomain.TLS
    attempts: tuple[Attempt, ...] = ()

    def __init__(self, summary: str, *, reason: str = "handshake_failure", alert: str | None = None, **where: Any) -> None:
        super().__init__(summary, **where)
        self.reason = reason
        self.alert = alert


class PeerResetError(_OSNetworkError, ConnectionResetError):
    """The peer broke off: a TCP reset, a reset stream, or TLS cut short without close_notify."""


class ConnectionAbortedByPeerError(_OSNetworkError, ConnectionAbortedError):
    """The peer closed the whole connection with a code and a reason."""

    domain = ErrorDomain.PROTOCOL

    def __init__(self, summary: str, *, reason: str = "", **where: Any) -> None:
        super().__init__(summary, **where)
        self.reason = reason


class IdleTimeoutError(_OSNetworkError, TimeoutError):
    """Nothing was heard from the peer for the time that was agreed on."""


class CloseTimeoutError(_OSNetworkError, TimeoutError):
    """A graceful close made no progress for `close_timeout` seconds, and the connection was aborted."""


class HandshakeTimeoutError(_OSNetworkError, TimeoutError):
    """A handshake above the transport did not end in time."""


class EndOfStreamError(NetworkError, EOFError):
    """The peer ended its direction cleanly, and everything it sent has been received."""


class IncompleteReceiveError(EndOfStreamError):
    """The stream ended before what was asked for was complete. `partial` is what had come; it has been consumed.

    `expected` is the number of bytes asked for, None for ``receive(until=...)``.
    """

    def __init__(self, summary: str, *, partial: bytes = b"", expected_bytes: int | None = None, **where: Any) -> None:
        super().__init__(summary, **where)
        self.partial = partial
        self.expected = expected_bytes


class ChannelClosedError(NetworkError):
    """The channel was used after this side had closed it."""


class MessageTooLargeError(NetworkError, ValueError):
    """A message or datagram exceeds a limit: `size` bytes where `limit` are allowed. Nothing was sent or consumed."""

    def __init__(self, summary: str, *, limit: int = 0, size: int = 0, **where: Any) -> None:
        super().__init__(summary, **where)
        self.limit = limit
        self.size = size


class DecodingError(NetworkError, ValueError):
    """A received message could not be decoded; the next one can still be received."""

    domain = ErrorDomain.PROTOCOL


class EncodingError(NetworkError, ValueError):
    """A value could not be encoded; nothing was sent."""

    domain = ErrorDomain.PROTOCOL


class ProtocolViolationError(NetworkError):
    """The peer broke a protocol's rules; the text names the section of the RFC."""

    domain = ErrorDomain.PROTOCOL


class UnexpectedEndpointTypeError(NetworkError, TypeError):
    """The operation cannot handle this kind of endpoint; `endpoint` is it."""
