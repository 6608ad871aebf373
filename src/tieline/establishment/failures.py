"""From what went wrong while connecting to the one error that the caller sees, and to whether waiting may help."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence

from tieline.endpoints import Endpoint
from tieline.errors import (
    Attempt,
    ConnectError,
    ConnectResetError,
    DNSError,
    HandshakeTimeoutError,
    NetworkError,
    Phase,
    ProtocolViolationError,
    TLSError,
)

__all__ = ["decisive", "handshake_expired", "is_final", "mistake", "not_connected", "not_resolved", "nothing_left", "unusable"]

# What another address does not mend: the peer is who it is on all of its addresses. The other reasons say that what answered
# on this one is no TLS server at all.
MENDABLE = frozenset({"not_tls", "protocol_violation", "record_too_large", "decrypt_error"})

# What this system will refuse again: rights, values, options and families do not change by waiting.
FINAL_ERRNOS = frozenset({errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOPROTOOPT, errno.EAFNOSUPPORT})


def decisive(error: Exception) -> bool:
    """Whether one address that fails so speaks for all of them."""
    return type(error) is NetworkError or (isinstance(error, TLSError) and error.reason not in MENDABLE)


def _is_refusal(error: BaseException) -> bool:
    """An exchange that was completed and said no, or a layer of the program's own that did."""
    return type(error) is NetworkError or isinstance(error, (TLSError, ProtocolViolationError))


def is_final(error: NetworkError) -> bool:
    """Whether waiting would not help: a completed exchange that said no, or options that this system refuses."""
    if isinstance(error, DNSError):
        return False
    if isinstance(error, ConnectError) and not isinstance(error, ConnectResetError):
        codes = {one.error.errno for one in error.attempts if isinstance(one.error, OSError)} or {error.errno}
        return codes <= FINAL_ERRNOS
    return True


def not_connected(attempts: Sequence[Attempt], fatal: BaseException | None, endpoint: Endpoint) -> NetworkError:
    """Every address failed, or one did so for all (`fatal`)."""
    refusals = [one.error for one in attempts if _is_refusal(one.error)]
    if refusals and (fatal is not None or len(refusals) == len(attempts)):
        error = fatal if fatal is not None and _is_refusal(fatal) else refusals[0]
        assert isinstance(error, NetworkError)  # refusals are
        if isinstance(error, TLSError):
            error.attempts = tuple(attempts)
        return error
    return ConnectError.of(attempts, endpoint=endpoint)


def not_resolved(reasons: Iterable[Exception], endpoint: Endpoint) -> DNSError:
    """No family has an address. The first reason speaks for both."""
    for reason in reasons:
        assert isinstance(reason, DNSError)
        error = DNSError(reason.summary, endpoint=endpoint, phase=Phase.RESOLVING, code=reason.code, hint=reason.hint)
        error.__cause__ = reason.__cause__
        return error
    return DNSError("the name has no address that may be used", endpoint=endpoint, phase=Phase.RESOLVING)


def nothing_left(endpoint: Endpoint) -> ConnectError:
    """After `try_next_endpoint`."""
    return ConnectError("no other address is left to try", endpoint=endpoint, phase=Phase.CONNECTING)


def handshake_expired(timeout: float, endpoint: object, *, deciding: bool) -> HandshakeTimeoutError:
    """`deciding`: it was not the peer that was waited for, but the program's own validator."""
    return HandshakeTimeoutError(
        f"the handshake was not complete within handshake_timeout={timeout:g} s",
        endpoint=endpoint,
        phase=Phase.HANDSHAKE,
        expected=f"an answer of {'the certificate validator' if deciding else 'the peer'}",
        got="none",
        code=errno.ETIMEDOUT,
    )


def unusable(reason: OSError, endpoint: Endpoint) -> ConnectError:
    """No network may be used, so nothing was tried."""
    error = ConnectError(reason.strerror or str(reason), endpoint=endpoint, phase=Phase.CONNECTING, code=reason.errno)
    error.__cause__ = reason
    return error


def mistake(error: Exception, endpoint: object) -> NetworkError:
    """Ours, or of a program's own function that we called: the cause's traceback shows which."""
    failure = NetworkError(f"establishing ended in {error!r}, which is a mistake in the program", endpoint=endpoint)
    failure.__cause__ = error
    return failure
