"""Errors staged on real sockets, and what they say.

A stage raises one error. What is expected of it stands beside it: its class, its whole text, and its attributes.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import socket
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tieline import (
    IP,
    TCP,
    TLS,
    UDP,
    ChannelClosedError,
    CloseTimeoutError,
    ConnectError,
    DNSError,
    EndOfStreamError,
    ErrorDomain,
    HandshakeTimeoutError,
    HostPort,
    IdleTimeoutError,
    IncompleteReceiveError,
    InterfaceType,
    IPVersion,
    MessageTooLargeError,
    NetworkConnection,
    NetworkError,
    NetworkListener,
    Parameters,
    PeerAuthentication,
    PeerResetError,
    Phase,
    ServiceEndpoint,
    State,
    TLSError,
    TLSVersion,
    Trust,
    UInt32,
    UnexpectedEndpointTypeError,
    UnixEndpoint,
    errors,
)
from tieline.errors import ConnectRefusedError, ConnectResetError, ConnectTimeoutError

from .authority import EXPIRED, FUTURE, LOCALHOST, OTHER_NAME, STRANGER, TRUST
from .peers import Peer, conversing
from .test_errors import BUILT_IN, MADE, check

BIG = bytes(1 << 20)
CLIENT = TLS(trust=TRUST, server_name="localhost")
SERVER = TLS(identity=LOCALHOST)


@dataclass
class Scene:
    """What a stage may use."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    caplog: pytest.LogCaptureFixture


Act = Callable[[Scene], Awaitable[object]]


@dataclass(frozen=True)
class Stage:
    act: Act
    kind: type[NetworkError]
    text: re.Pattern[str]
    attributes: dict[str, Any]


STAGES: dict[str, Stage] = {}


def stage(kind: type[NetworkError], text: str, **attributes: Any) -> Callable[[Act], Act]:
    """The decorated coroutine function raises an error of this class whose whole text matches."""

    def register(act: Act) -> Act:
        STAGES[act.__name__] = Stage(act, kind, re.compile(text, re.DOTALL), attributes)
        return act

    return register


def refuse(certificates: list[bytes], server_name: str) -> bool:
    return False


async def refuse_later(certificates: list[bytes], server_name: str) -> bool:
    return False


async def hold(connection: NetworkConnection[Any]) -> None:
    """A handler that keeps its connection until the other side has gone."""
    async for _ in connection:
        pass


async def send_to(to: Any, using: Any) -> None:
    async with NetworkConnection(to, using) as connection:
        await connection.send(b"hello")


async def shake_hands(client: TLS, server: TLS = SERVER, host: str = "127.0.0.1") -> None:
    async with (
        NetworkListener(server, on=f"{host}:0").serving(hold) as listener,
        NetworkConnection(listener.endpoint, client) as connection,
    ):
        await connection.send(b"hello")
        await connection.receive()


async def talk(converse: Callable[[Peer], Awaitable[object]], using: Any, do: Callable[[Any], Awaitable[object]]) -> None:
    async with conversing(converse) as there, NetworkConnection(there, using) as connection:
        await connection.ready()
        await do(connection)


async def silence(peer: Peer) -> None:
    await peer.gone()


async def wait_unread(peer: Peer) -> None:
    await asyncio.get_running_loop().create_future()  # until the test is over


def receive(connection: Any) -> Awaitable[object]:
    return connection.receive()  # type: ignore[no-any-return]


AT, NAMED = r"127\.0\.0\.1:\d+", r"localhost:\d+"
AFTER = r" \(after \d+ ms\)"

# No connection


@stage(
    ConnectRefusedError,
    rf"{AT}, connecting: connection refused: nobody listens there{AFTER}",
    phase=Phase.CONNECTING,
    code=errno.ECONNREFUSED,
    errno=errno.ECONNREFUSED,
    domain=ErrorDomain.POSIX,
)
async def nobody_listens(scene: Scene) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        await send_to(unused.getsockname(), TCP())


@stage(
    ConnectRefusedError,
    rf"{NAMED}, connecting: connection refused: nobody listens there \({AT}, after \d+ ms\)",
    phase=Phase.CONNECTING,
    errno=errno.ECONNREFUSED,
)
async def nobody_listens_on_that_name(scene: Scene) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        await send_to(("localhost", unused.getsockname()[1]), TCP(IP(version=IPVersion.V4)))


@stage(
    ConnectRefusedError,
    rf"two\.example:\d+, connecting: none of 2 addresses could be connected\n"
    rf"  {AT}  connecting  +\d+ ms  connection refused: nobody listens there\n"
    r"  127\.0\.0\.2:\d+  connecting  +\d+ ms  connection refused: nobody listens there",
    phase=Phase.CONNECTING,
    errno=errno.ECONNREFUSED,
)
async def nobody_listens_on_either_address(scene: Scene) -> None:
    def both(host: str, port: int, *_: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", port)) for last in (1, 2)]

    scene.monkeypatch.setattr(socket, "getaddrinfo", both)
    with socket.socket() as unused:
        unused.bind(("0.0.0.0", 0))
        await send_to(("two.example", unused.getsockname()[1]), TCP(IP(version=IPVersion.V4)))


@stage(
    ConnectTimeoutError,
    rf"{AT}, connecting: no answer within connection_timeout=0\.2 s{AFTER}",
    phase=Phase.CONNECTING,
    code=errno.ETIMEDOUT,
)
async def nobody_answers(scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        await send_to(full.getsockname(), TCP(connection_timeout=0.2))


@stage(ConnectError, rf"unix:.*, connecting: there is no such socket file{AFTER}", code=errno.ENOENT)
async def no_unix_socket(scene: Scene) -> None:
    await send_to(UnixEndpoint(str(scene.folder / "none")), TCP())


@stage(ConnectRefusedError, rf"unix:.*, connecting: connection refused: nobody listens there{AFTER}")
async def dead_unix_socket(scene: Scene) -> None:
    path = str(scene.folder / "dead")
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(path)
    await send_to(UnixEndpoint(path), TCP())


@stage(
    ConnectError,
    rf"255\.255\.255\.255:9, connecting: no route to this network{AFTER}",
    code=errno.ENETUNREACH,
    phase=Phase.CONNECTING,
)
async def no_route(scene: Scene) -> None:
    await send_to("255.255.255.255:9", TCP())


@stage(
    ConnectError,
    rf"{AT}, connecting: the local address is not one of this machine, or no port is free{AFTER}",
    code=errno.EADDRNOTAVAIL,
)
async def foreign_local_address(scene: Scene) -> None:
    await send_to("127.0.0.1:9", Parameters(TCP(), local_endpoint="203.0.113.7:0"))


@stage(
    ConnectError,
    rf"{AT}, connecting: TCP\(no_options=True\), TCP\(persist_timeout=2\.0\) cannot be set for one connection on linux: "
    rf"leave it out{AFTER}",
    code=errno.ENOPROTOOPT,
)
async def option_refused(scene: Scene) -> None:
    async with NetworkConnection("127.0.0.1:9", TCP(no_options=True, persist_timeout=2.0)) as connection:
        with pytest.raises(ConnectError):
            await connection.ready()
        assert connection.state is State.FAILED
        await connection.send(b"hello")


@stage(
    ConnectError,
    rf"{AT}, connecting: no usable network: the required interface .*",
    code=errno.ENETDOWN,
    phase=Phase.CONNECTING,
)
async def no_such_interface(scene: Scene) -> None:
    await send_to("127.0.0.1:9", Parameters(TCP(), required_interface="nope0"))


@stage(
    ConnectError,
    rf"{AT}, connecting: the route leads through lo, which the parameters rule out{AFTER}",
    code=errno.ENETUNREACH,
)
async def interface_ruled_out(scene: Scene) -> None:
    await send_to("127.0.0.1:9", Parameters(TCP(), prohibited_interface_types=(InterfaceType.LOOPBACK,)))


@stage(
    DNSError,
    r"no-such-host\.example:80, resolving: no such name \(IPv[46]\)\. Check the spelling, or ask `getent ahosts` on this "
    r"machine\.",
    phase=Phase.RESOLVING,
    code=socket.EAI_NONAME,
    errno=socket.EAI_NONAME,
    domain=ErrorDomain.DNS,
)
async def no_such_name(scene: Scene) -> None:
    def fail(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    scene.monkeypatch.setattr(socket, "getaddrinfo", fail)
    await send_to("no-such-host.example:80", TCP())


@stage(
    DNSError,
    r"slow\.example:80, resolving: the resolver did not answer within resolution_timeout=0\.05 s",
    phase=Phase.RESOLVING,
)
async def resolver_hangs(scene: Scene) -> None:
    answer = threading.Event()
    scene.monkeypatch.setattr(socket, "getaddrinfo", lambda *_: answer.wait() and [])
    try:
        await send_to("slow.example:80", Parameters(TCP(), resolution_timeout=0.05))
    finally:
        answer.set()


@stage(DNSError, r"empty\.example:80, resolving: the name has no address that may be used", code=None)
async def name_without_address(scene: Scene) -> None:
    scene.monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    await send_to("empty.example:80", TCP())


# TLS


def tls_stage(reason: str, text: str, alert: str | None, **attributes: Any) -> Callable[[Act], Act]:
    return stage(
        TLSError,
        rf"{AT}, handshake: {text}",
        reason=reason,
        alert=alert,
        phase=attributes.pop("phase", Phase.HANDSHAKE),
        domain=ErrorDomain.TLS,
        errno=None,
        **attributes,
    )


@tls_stage(
    "unknown_authority",
    r"the peer's certificate is not signed by a known authority\. Trust it with Trust\.certificates\(\.\.\.\) or pin it "
    r"with Trust\.fingerprints\(\.\.\.\)",
    "unknown_ca",
    code=48,
)
async def unknown_authority(scene: Scene) -> None:
    await shake_hands(replace(CLIENT, trust=Trust.certificates(STRANGER.certificate)))


@tls_stage("expired", r"the peer's certificate has expired; .*got valid until \d{4}-.*", "certificate_expired", code=45)
async def expired(scene: Scene) -> None:
    await shake_hands(CLIENT, TLS(identity=EXPIRED))


@tls_stage("not_yet_valid", r"the peer's certificate is not valid yet; .*got valid from \d{4}-.*", "certificate_expired")
async def not_yet_valid(scene: Scene) -> None:
    await shake_hands(CLIENT, TLS(identity=FUTURE))


@tls_stage(
    "wrong_name",
    r"the peer's certificate is for another name; expected localhost, got other\.example\. Connect by a name .*",
    "bad_certificate",
)
async def wrong_name(scene: Scene) -> None:
    await shake_hands(CLIENT, TLS(identity=OTHER_NAME))


@tls_stage("wrong_fingerprint", r"the peer's certificate is not one of those pinned; .*", "certificate_unknown")
async def wrong_fingerprint(scene: Scene) -> None:
    await shake_hands(TLS(trust=Trust.fingerprints("00" * 32)))


@tls_stage("refused_by_validator", "certificate_validator refused the peer's certificate", "access_denied")
async def refused_by_validator(scene: Scene) -> None:
    await shake_hands(TLS(certificate_validator=refuse))


@tls_stage("refused_by_validator", "certificate_validator refused the peer's certificate", None)
async def refused_by_slow_validator(scene: Scene) -> None:
    await shake_hands(TLS(certificate_validator=refuse_later))


@tls_stage(
    "no_common_alpn",
    r"no application protocol in common \(ALPN\) .*Compare alpn.*",
    "no_application_protocol",
    code=120,
)
async def no_common_alpn(scene: Scene) -> None:
    await shake_hands(replace(CLIENT, alpn=["one"]), replace(SERVER, alpn=["two"]))


@tls_stage("no_common_version", r"no TLS version in common .*Compare minimum_version.*", "protocol_version", code=70)
async def no_common_version(scene: Scene) -> None:
    await shake_hands(replace(CLIENT, maximum_version=TLSVersion.TLSv1_2), replace(SERVER, minimum_version=TLSVersion.TLSv1_3))


@tls_stage("alert_received", r"the peer refused the handshake \(alert handshake_failure\)\. .*", "handshake_failure", code=40)
async def no_common_cipher(scene: Scene) -> None:
    await shake_hands(
        replace(CLIENT, cipher_suites=["TLS_AES_128_GCM_SHA256"]),
        replace(SERVER, cipher_suites=["TLS_AES_256_GCM_SHA384"]),
    )


@tls_stage(
    "not_tls",
    r"the peer does not speak TLS; expected a TLS record, got \"HTTP/1\.1 400 Bad Request\"\. Check the port.*",
    "decode_error",
)
async def not_tls(scene: Scene) -> None:
    async def answer_as_http(peer: Peer) -> None:
        await peer.receive()
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.gone()

    await talk(answer_as_http, CLIENT, receive)


@stage(
    TLSError,
    rf"{AT}, transfer: the peer requires a client certificate, and it got none \(alert certificate_required\)\. "
    r"Set identity=\.\.\.",
    reason="certificate_required",
    alert="certificate_required",
    code=116,
)
async def client_certificate_required(scene: Scene) -> None:
    await shake_hands(CLIENT, replace(SERVER, trust=TRUST, peer_authentication=PeerAuthentication.REQUIRED))


@stage(
    ConnectTimeoutError,
    rf"{AT}, handshake: the handshake was not complete within handshake_timeout=0\.1 s; "
    rf"expected an answer of the peer, got none{AFTER}",
    phase=Phase.HANDSHAKE,
    errno=errno.ETIMEDOUT,
)
async def server_never_speaks(scene: Scene) -> None:
    await talk(silence, replace(CLIENT, handshake_timeout=0.1), receive)


@stage(
    ConnectResetError,
    rf"{AT}, handshake: the peer broke off; expected a TLS handshake, got the end of the stream{AFTER}",
    phase=Phase.HANDSHAKE,
)
async def handshake_ended(scene: Scene) -> None:
    async def leave(peer: Peer) -> None:
        await peer.receive()

    await talk(leave, CLIENT, receive)


@stage(ConnectResetError, rf"{AT}, handshake: the peer reset the connection{AFTER}", errno=errno.ECONNRESET)
async def handshake_reset(scene: Scene) -> None:
    async def reset(peer: Peer) -> None:
        await peer.receive()
        peer.reset()

    await talk(reset, CLIENT, receive)


@stage(
    HandshakeTimeoutError,
    rf"{AT}, handshake: the handshake was not complete within handshake_timeout=0\.1 s; "
    "expected an answer of the peer, got none",
    phase=Phase.HANDSHAKE,
    errno=errno.ETIMEDOUT,
)
async def client_never_speaks(scene: Scene) -> None:
    """No handler is told of it, but the log is."""
    scene.caplog.set_level(logging.DEBUG, "tieline.listener")
    async with NetworkListener(replace(SERVER, handshake_timeout=0.1), on="127.0.0.1:0").serving(hold) as listener:
        assert isinstance(listener.endpoint, HostPort)
        with await Peer.connect(listener.endpoint) as peer:
            await peer.gone()
        assert listener.failed_handshake_count == 1
    (record,) = scene.caplog.records
    assert isinstance(record.args, tuple)
    error = record.args[-1]
    assert isinstance(error, NetworkError)
    raise error


# An established connection


async def reset_at_once(peer: Peer) -> None:
    await peer.receive()
    peer.reset()


@stage(PeerResetError, rf"{AT}, transfer: the peer reset the connection", code=errno.ECONNRESET, phase=Phase.TRANSFER)
async def reset_while_receiving(scene: Scene) -> None:
    async def ask(connection: NetworkConnection[TCP]) -> None:
        await connection.send(b"?")
        await connection.receive()

    await talk(reset_at_once, TCP(), ask)


@stage(PeerResetError, rf"{AT}, transfer: the peer reset the connection", phase=Phase.TRANSFER)
async def reset_while_sending(scene: Scene) -> None:
    async def insist(connection: NetworkConnection[TCP]) -> None:
        while True:
            await connection.send(BIG)

    await talk(reset_at_once, TCP(), insist)


@stage(
    PeerResetError,
    rf"{AT}, transfer: TLS cut short: the stream ended without close_notify \(RFC 8446 section 6\.1\)\. What has been received "
    r"may be incomplete\.",
    phase=Phase.TRANSFER,
)
async def tls_cut_short(scene: Scene) -> None:
    async def cut(connection: NetworkConnection[TLS]) -> None:
        connection._flow.socket.end()  # what a man in the middle can do at any time
        await hold(connection)

    async with (
        NetworkListener(SERVER, on="127.0.0.1:0").serving(cut) as listener,
        NetworkConnection(listener.endpoint, CLIENT) as connection,
    ):
        await connection.receive()


@stage(
    TLSError,
    rf"{AT}, transfer: a TLS record or signature failed its check: it was damaged or forged on the way",
    reason="decrypt_error",
    alert="bad_record_mac",
    code=20,
)
async def tls_record_damaged(scene: Scene) -> None:
    async def forge(connection: NetworkConnection[TLS]) -> None:
        connection._flow.socket.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        await hold(connection)

    async with (
        NetworkListener(SERVER, on="127.0.0.1:0").serving(forge) as listener,
        NetworkConnection(listener.endpoint, CLIENT) as connection,
    ):
        await connection.receive()


@stage(
    IncompleteReceiveError,
    rf"{AT}, transfer: the peer ended the stream early; expected 1,000 bytes, got 3",
    partial=b"abc",
    expected=1000,
)
async def incomplete_count(scene: Scene) -> None:
    await talk(lambda peer: peer.send(b"abc"), TCP(), lambda connection: connection.receive(exactly=1000))


@stage(
    IncompleteReceiveError,
    rf"{AT}, transfer: the peer ended the stream early; expected the separator, got 3 bytes without it",
    partial=b"abc",
    expected=None,
)
async def incomplete_line(scene: Scene) -> None:
    await talk(lambda peer: peer.send(b"abc"), TCP(), lambda connection: connection.receive(until=b"\n"))


@stage(
    IncompleteReceiveError,
    rf"{AT}, transfer: the peer ended the stream early; expected 4 bytes, got 3",
    partial=b"abc",
    expected=4,
)
async def incomplete_integer(scene: Scene) -> None:
    await talk(lambda peer: peer.send(b"abc"), TCP(), lambda connection: connection.receive(as_=UInt32))


@stage(
    MessageTooLargeError,
    rf"{AT}, transfer: the separator did not come in time; nothing was consumed; "
    r"expected b'\\n' within 2 bytes, got 3 bytes without it\. Raise at_most if the peer may send that much\.",
    limit=2,
    size=3,
)
async def line_too_long(scene: Scene) -> None:
    async def read(connection: NetworkConnection[TCP]) -> None:
        await connection.receive(at_least=3, at_most=3)  # all three have come, and three more
        await connection.receive(until=b"\n", at_most=2)

    async def speak(peer: Peer) -> None:
        await peer.send(b"abcdef")
        await peer.gone()

    await talk(speak, TCP(), read)


@stage(
    MessageTooLargeError,
    rf"{AT}, transfer: an idempotent send does not wait for room, and there is none; expected at most 10 bytes now, got 11\. "
    r"Await send\(\), or raise Parameters\(send_limit=\.\.\.\)\.",
    limit=10,
    size=11,
)
async def no_room_for_idempotent(scene: Scene) -> None:
    async def send(connection: NetworkConnection[TCP]) -> None:
        connection.send_idempotent(bytes(11))

    await talk(silence, Parameters(TCP(), send_limit=10), send)


@stage(ChannelClosedError, rf"{AT}, (transfer|closing): the connection was closed by this side", code=None)
async def used_after_close(scene: Scene) -> None:
    async def use(connection: NetworkConnection[TCP]) -> None:
        await connection.aclose()
        await connection.receive()

    await talk(silence, TCP(), use)


@stage(
    ChannelClosedError,
    rf"{AT}, transfer: nothing can be sent after the end of the stream\. send\(\.\.\., end_of_stream=True\) .*came "
    r"before\.",
)
async def sent_after_end(scene: Scene) -> None:
    async def send(connection: NetworkConnection[TCP]) -> None:
        await connection.send(b"bye", end_of_stream=True)
        await connection.send(b"one more thing")

    await talk(silence, TCP(), send)


@stage(
    CloseTimeoutError,
    rf"{AT}, closing: the peer takes no more of what was sent; expected progress within close_timeout=0\.1 s, got none; the "
    "connection was reset, and the last bytes may be lost",
    phase=Phase.CLOSING,
)
async def peer_takes_no_more(scene: Scene) -> None:
    parameters = Parameters(TCP(), close_timeout=0.1, send_limit=1 << 24)
    async with (
        conversing(wait_unread, receive_buffer=4096) as there,
        NetworkConnection(there, parameters) as connection,
    ):
        await connection.send(bytes(1 << 23))


@stage(
    IdleTimeoutError,
    rf"{AT}, transfer: the peer stopped answering",
    code=errno.ETIMEDOUT,
    phase=Phase.TRANSFER,
)
async def peer_stops_answering(scene: Scene) -> None:
    """The kernel counts a window that stays closed as no answer, too."""
    tcp = TCP(retransmit_connection_drop_time=0.2)
    async with conversing(wait_unread, receive_buffer=4096) as there, NetworkConnection(there, tcp) as connection:
        while True:
            await connection.send(BIG)


# UDP


@stage(
    ConnectRefusedError,
    rf"{AT}, transfer: nobody receives datagrams there \(ICMP port unreachable\)",
    code=errno.ECONNREFUSED,
    phase=Phase.TRANSFER,
)
async def nobody_receives_datagrams(scene: Scene) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    async with NetworkConnection(("127.0.0.1", port), UDP()) as connection:
        await connection.send(b"?")
        await connection.receive()


@stage(
    MessageTooLargeError,
    rf"{AT}, transfer: the datagram is too large; expected at most 65507 bytes on this path, got 70000\. "
    r"Split the data; maximum_datagram_size tells the limit\.",
    limit=65507,
    size=70000,
)
async def datagram_too_large(scene: Scene) -> None:
    await shake_udp(lambda connection: connection.send(bytes(70_000)))


async def shake_udp(do: Callable[[NetworkConnection[UDP]], Awaitable[object]]) -> None:
    async with (
        NetworkListener(UDP(), on="127.0.0.1:0").serving(hold) as listener,
        NetworkConnection(listener.endpoint, UDP()) as connection,
    ):
        await connection.ready()
        await do(connection)


@stage(EndOfStreamError, rf"{AT}, transfer: the flow has ended", phase=Phase.TRANSFER)
async def flow_ended(scene: Scene) -> None:
    """A listener ends its flows when it stops."""
    came: asyncio.Future[NetworkError] = asyncio.get_running_loop().create_future()
    arrived = asyncio.Event()

    async def receive_twice(connection: NetworkConnection[UDP]) -> None:
        await connection.receive()
        arrived.set()
        try:
            await connection.receive()
        except NetworkError as error:
            came.set_result(error)

    async with NetworkListener(UDP(), on="127.0.0.1:0").serving(receive_twice) as listener:
        await send_to(listener.endpoint, UDP())
        await arrived.wait()
    raise came.result()


# Listening


@stage(
    ConnectError,
    rf"{AT}, listening: no address could be listened on \({AT}: Address already in use\)\. Another socket has this address; "
    "`ss -ltnp` shows which.",
    code=errno.EADDRINUSE,
    phase=Phase.LISTENING,
)
async def address_in_use(scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        await NetworkListener(TCP(), on=other.getsockname()).run(hold)


@stage(
    ConnectError,
    r"203\.0\.113\.7:80, listening: no address could be listened on \(203\.0\.113\.7:80: Cannot assign requested address\)",
    code=errno.EADDRNOTAVAIL,
)
async def address_of_another_machine(scene: Scene) -> None:
    await NetworkListener(TCP(), on="203.0.113.7:80").run(hold)


@stage(ConnectError, r"unix:.*/x, listening: no address could be listened on .*", code=errno.ENOENT, phase=Phase.LISTENING)
async def no_such_folder(scene: Scene) -> None:
    await NetworkListener(TCP(), on=UnixEndpoint(str(scene.folder / "none" / "x"))).run(hold)


@stage(DNSError, r"no-such-host\.example:80, resolving: no such name .*", phase=Phase.RESOLVING)
async def listen_on_unknown_name(scene: Scene) -> None:
    def fail(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    scene.monkeypatch.setattr(socket, "getaddrinfo", fail)
    await NetworkListener(TCP(), on="no-such-host.example:80").run(hold)


# The wrong kind of endpoint


@stage(UnexpectedEndpointTypeError, r"unix:/x: UDP does not run over Unix sockets; expected a host with a port")
async def udp_over_unix(scene: Scene) -> None:
    NetworkConnection("unix:/x", UDP())


@stage(
    UnexpectedEndpointTypeError,
    r"\[::1\]:80: IP\(version=IPVersion\.V4\) never reaches this address; expected an IPv4 address",
)
async def other_ip_version(scene: Scene) -> None:
    NetworkConnection("[::1]:80", TCP(IP(version=IPVersion.V4)))


@stage(
    UnexpectedEndpointTypeError,
    r"service:Attic\._game\._tcp\.local\.: cannot connect to a discovered service; expected a host with a port, a URL or a Unix "
    "path",
    endpoint=ServiceEndpoint("Attic", "_game._tcp"),
)
async def service_not_resolved(scene: Scene) -> None:
    NetworkConnection(ServiceEndpoint("Attic", "_game._tcp"), TCP())


@stage(
    UnexpectedEndpointTypeError,
    r"localhost:0: local_endpoint must be an address; expected an IP address with a port, or a Unix path",
)
async def local_name(scene: Scene) -> None:
    Parameters(TCP(), local_endpoint="localhost:0")


@pytest.mark.parametrize("name", STAGES)
async def test_staged(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    staged = STAGES[name]
    with pytest.raises(NetworkError) as caught:
        await staged.act(Scene(tmp_path, monkeypatch, caplog))
    error = caught.value
    assert type(error) is staged.kind
    assert staged.text.fullmatch(str(error)), str(error)
    for attribute, value in staged.attributes.items():
        assert getattr(error, attribute) == value, attribute
    check(error)


def test_no_error_is_missing() -> None:
    """Whoever adds an error to the tree stages it here."""
    every = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, NetworkError)}
    assert {kind for kind in every if not kind.__name__.startswith("_")} == set(BUILT_IN)
    assert {staged.kind for staged in STAGES.values()} | {type(error) for error, _ in MADE} == set(BUILT_IN)
