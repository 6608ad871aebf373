"""The tree of errors: what each is caught by, that it reads well, and that it survives copying and pickling.

tests/test_staged_failures.py brings them about. Here are those of protocols that are not there yet, and of things that no test
can bring about.
"""

from __future__ import annotations

import copy
import errno
import os
import pickle
import re
import socket
from typing import Any

import pytest

from tieline import (
    Attempt,
    ChannelClosedError,
    CloseTimeoutError,
    ConnectError,
    ConnectionAbortedByPeerError,
    DecodingError,
    DNSError,
    EncodingError,
    EndOfStreamError,
    ErrorDomain,
    HandshakeTimeoutError,
    HostPort,
    IdleTimeoutError,
    IncompleteReceiveError,
    MessageTooLargeError,
    NetworkError,
    PeerResetError,
    Phase,
    ProtocolViolationError,
    TLSError,
    UnexpectedEndpointTypeError,
)
from tieline.errors import ConnectRefusedError, ConnectResetError, ConnectTimeoutError, raisable, translate

# Made, not staged

HERE: dict[str, Any] = {"endpoint": HostPort("example.com", 443), "phase": Phase.TRANSFER}
MADE: list[tuple[NetworkError, str]] = [
    (
        translate(OSError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED)), HERE["endpoint"]),
        "example.com:443, transfer: the connection broke: Software caused connection abort",
    ),
    (
        DecodingError("the message is no JSON", expected="a value", got="'}'", **HERE),
        "example.com:443, transfer: the message is no JSON; expected a value, got '}'",
    ),
    (
        EncodingError("a set cannot be encoded", hint="Send a list.", **HERE),
        "example.com:443, transfer: a set cannot be encoded. Send a list.",
    ),
    (
        ProtocolViolationError("a frame with a reserved opcode (RFC 6455 section 5.2)", got="opcode 3", **HERE),
        "example.com:443, transfer: a frame with a reserved opcode (RFC 6455 section 5.2); got opcode 3",
    ),
    (
        ConnectionAbortedByPeerError("the peer closed the connection with code 7 (bye)", reason="bye", code=7, **HERE),
        "example.com:443, transfer: the peer closed the connection with code 7 (bye)",
    ),
    (NetworkError("something went wrong"), "something went wrong"),
]


@pytest.mark.parametrize(("error", "text"), MADE, ids=lambda value: type(value).__name__)
def test_made(error: NetworkError, text: str) -> None:
    assert str(error) == text
    check(error)


# What holds for all of them

BUILT_IN: dict[type[NetworkError], tuple[type[BaseException], ...]] = {
    NetworkError: (),
    ConnectError: (OSError,),
    ConnectRefusedError: (ConnectError, ConnectionRefusedError),
    ConnectTimeoutError: (ConnectError, TimeoutError),
    ConnectResetError: (ConnectError, ConnectionResetError),
    DNSError: (ConnectError, socket.gaierror),
    TLSError: (OSError,),
    PeerResetError: (ConnectionResetError,),
    ConnectionAbortedByPeerError: (ConnectionAbortedError,),
    IdleTimeoutError: (TimeoutError,),
    CloseTimeoutError: (TimeoutError,),
    HandshakeTimeoutError: (TimeoutError,),
    EndOfStreamError: (EOFError,),
    IncompleteReceiveError: (EndOfStreamError, EOFError),
    ChannelClosedError: (),
    MessageTooLargeError: (ValueError,),
    DecodingError: (ValueError,),
    EncodingError: (ValueError,),
    ProtocolViolationError: (),
    UnexpectedEndpointTypeError: (TypeError,),
}


def check(error: NetworkError) -> None:
    """It is caught by what a Python programmer would write, reads well, and survives copying and pickling."""
    kind = type(error)
    assert isinstance(error, (NetworkError, *BUILT_IN[kind]))
    text = str(error)
    assert re.search("[a-z]{3}", text)
    for ugly in ("Errno", "None", "object at 0x", "<", "\n\n"):
        assert ugly not in text, text
    for part in (error.endpoint, error.phase):
        assert part is None or str(part) in text
    assert error.domain is None or error.domain in ErrorDomain
    error.__notes__ = ["seen by a test"]
    for again in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error)), raisable(error)):
        assert type(again) is kind and str(again) == text and repr(again) == repr(error)
        assert facts(again) == facts(error)
        assert getattr(again, "errno", None) == getattr(error, "errno", None)
        assert again.__traceback__ is None
    assert raisable(error).__cause__ is error.__cause__


def facts(error: NetworkError) -> dict[str, Any]:
    """The attributes, with attempts as texts: exceptions are equal only to themselves."""
    return {name: str(value) if name == "attempts" else value for name, value in vars(error).items()}


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda kind: kind.__name__)
def test_every_error_says_what_it_is(kind: type[NetworkError]) -> None:
    assert kind.__doc__ and kind.__doc__.strip()


# Several attempts are one error

FIRST, SECOND = HostPort("192.0.2.1", 443), HostPort("2001:db8::1", 443)


def attempt(error: Exception, endpoint: HostPort = FIRST, phase: Phase = Phase.CONNECTING) -> Attempt:
    return Attempt(endpoint, phase, 0.0123, error)


def system_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


REFUSED, UNREACHABLE = system_error(errno.ECONNREFUSED), system_error(errno.EHOSTUNREACH)
RESET = PeerResetError("the peer broke off", code=errno.ECONNRESET, hint="Try again.")


@pytest.mark.parametrize(
    ("reasons", "kind", "code"),
    [
        ([REFUSED], ConnectRefusedError, errno.ECONNREFUSED),
        ([REFUSED, system_error(errno.ECONNREFUSED)], ConnectRefusedError, errno.ECONNREFUSED),
        ([REFUSED, UNREACHABLE], ConnectError, None),
        ([UNREACHABLE, UNREACHABLE], ConnectError, errno.EHOSTUNREACH),
        ([system_error(errno.ETIMEDOUT), HandshakeTimeoutError("too slow")], ConnectTimeoutError, None),
        ([system_error(errno.ECONNRESET), RESET], ConnectResetError, errno.ECONNRESET),
        ([RESET, TLSError("no")], ConnectError, None),
    ],
)
def test_attempts_decide_the_class(reasons: list[Exception], kind: type[ConnectError], code: int | None) -> None:
    attempts = [attempt(reason) for reason in reasons]
    error = ConnectError.of(attempts, endpoint="example.com:443")
    assert type(error) is kind and (error.code, error.errno) == (code, code)
    assert error.attempts == tuple(attempts)
    check(error)


def test_one_attempt_is_a_sentence() -> None:
    error = ConnectError.of([attempt(RESET, phase=Phase.HANDSHAKE)], endpoint=HostPort("example.com", 443))
    assert str(error) == "example.com:443, handshake: the peer broke off (192.0.2.1:443, after 12 ms). Try again."
    assert error.__cause__ is RESET


def test_several_attempts_are_a_table() -> None:
    wrong = TLSError("the peer's certificate is for another name", expected="example.com", got="example.org")
    error = ConnectError.of(
        [attempt(REFUSED), attempt(wrong, SECOND, Phase.HANDSHAKE)], endpoint="example.com:443", hint="Look at the DNS."
    )
    assert str(error).splitlines() == [
        "example.com:443, connecting: none of 2 addresses could be connected",
        "  192.0.2.1:443      connecting  12 ms  connection refused: nobody listens there",
        (
            "  [2001:db8::1]:443  handshake   12 ms  the peer's certificate is for another name; "
            "expected example.com, got example.org"
        ),
        "Look at the DNS.",
    ]
    assert str(error.attempts[0]) == "192.0.2.1:443  connecting  12 ms  connection refused: nobody listens there"


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_no_reason_is_a_bare_number(number: int) -> None:
    text = str(ConnectError.of([attempt(system_error(number))], endpoint=FIRST))
    assert "Errno" not in text and re.fullmatch(r"192\.0\.2\.1:443, connecting: [^\d]{6,}.* \(after 12 ms\)", text)


def test_what_has_no_text_has_its_class() -> None:
    assert "TimeoutError (after 12 ms)" in str(ConnectError.of([attempt(TimeoutError())], endpoint=FIRST))


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ECONNRESET, PeerResetError),
        (errno.EPIPE, PeerResetError),
        (errno.ETIMEDOUT, IdleTimeoutError),
        (errno.ECONNABORTED, ConnectionAbortedByPeerError),
        (errno.EHOSTUNREACH, ConnectionAbortedByPeerError),
    ],
)
def test_what_the_kernel_says_of_a_connection(number: int, kind: type[NetworkError]) -> None:
    reason = system_error(number)
    error = translate(reason, FIRST)
    assert type(error) is kind and error.__cause__ is reason
    assert (error.code, error.domain) == (number, ErrorDomain.POSIX) and isinstance(error, OSError) and error.errno == number
    check(error)


def test_a_raised_copy_has_its_own_traceback() -> None:
    error = PeerResetError("the peer reset the connection")
    error.__cause__ = REFUSED
    with pytest.raises(PeerResetError) as caught:
        raise raisable(error)
    assert caught.value is not error and caught.value.__cause__ is REFUSED and error.__traceback__ is None
