"""The `tieline` command as a user meets it: processes, pipes, exit codes, and foreign programs on the other side."""

from __future__ import annotations

import asyncio
import os
import pty
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import pytest

from tieline import QUIC, NetworkConnection, NetworkListener, Trust
from tieline.identity import Identity

from .peers import free_port

pytest.importorskip("click")
pytest.importorskip("rich")

pytestmark = pytest.mark.timeout(60)

PATIENCE = 30  # seconds until a process that should have ended is a failure
DATA = random.Random(7).randbytes(8 * 1024 * 1024)
DIGEST = sha256(DATA).hexdigest()
LOCAL = "127.0.0.1:0"
SECURITY = {  # by name, the options of the listener and of who connects to it
    "plain": ([], []),
    "tls": (["--tls", "--self-signed", "localhost"], ["--tls", "--insecure", "--server-name", "localhost"]),
    "quic": (["--quic", "--self-signed", "localhost"], ["--quic", "--insecure"]),
}
QUIC_SERVE, QUIC_REACH = SECURITY["quic"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tieline", *arguments]


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts programs, and sees to it that none outlives the test."""
    with ExitStack() as stack:

        def start_one(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            process = subprocess.Popen(arguments, **{**pipes, **options})
            stack.callback(stop, process)
            return process

        yield start_one


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None and not stream.closed:
            try:
                stream.close()
            except BrokenPipeError:
                continue  # what it did not want to read
    process.wait()


class Listener:
    """A running `tieline listen` that says where."""

    def __init__(self, start: Start, *arguments: str, on: str = LOCAL, **options: Any) -> None:
        self.process = start(*command("listen", *arguments, on), **options)
        self.said = line_of(self.process.stderr, rb"listening on ([^\n]*)\n")
        self.endpoint = re.findall(r"listening on (\S+)", self.said)[0]
        self.port = int(self.endpoint.rpartition(":")[2]) if not self.endpoint.startswith("unix:") else 0

    @property
    def fingerprint(self) -> str:
        return str(re.findall(r"SHA-256 ([0-9a-f]{64})", self.said)[0])


def line_of(stream: IO[bytes] | None, pattern: bytes) -> str:
    """All that a program says until it has said this; the test's timeout is the limit."""
    assert stream is not None
    said = b""
    while not re.search(pattern, said):
        piece = os.read(stream.fileno(), 4096)
        assert piece, f"the program ended; it said: {said.decode()}"
        said += piece
    return said.decode()


def ran(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """A command that is given nothing to read, and ends by itself."""
    options = {"input": b"", **options}
    return subprocess.run(command(*arguments), capture_output=True, timeout=PATIENCE, check=False, **options)


def connect(*arguments: str, content: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
    done = ran("connect", *arguments, input=content)
    assert done.returncode == code, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return done


def finish(process: subprocess.Popen[bytes], content: bytes | None = None, code: int = 0) -> tuple[bytes, bytes]:
    output, errors = process.communicate(content, timeout=PATIENCE)
    assert process.returncode == code, errors.decode()
    assert b"Traceback" not in errors
    return output, errors


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    """A certificate for localhost with its key, in one file."""
    path = tmp_path / "localhost.pem"
    path.write_text("".join(Identity.self_signed("localhost", "127.0.0.1").pem()))
    return path


# Against itself


@pytest.mark.parametrize(
    ("security", "place"), [("plain", "address"), ("plain", "unix"), ("tls", "address"), ("tls", "unix"), ("quic", "address")]
)
def test_both_ways_at_once(start: Start, tmp_path: Path, security: str, place: str) -> None:
    serve, reach = SECURITY[security]
    there = tmp_path / "there"
    there.write_bytes(DATA[::-1])
    with there.open("rb") as file, (tmp_path / "arrived").open("wb") as arrived:
        on = f"unix:{tmp_path}/s" if place == "unix" else LOCAL
        listener = Listener(start, *serve, on=on, stdin=file, stdout=arrived)
    done = connect(*reach, listener.endpoint, content=DATA)
    finish(listener.process)
    assert sha256((tmp_path / "arrived").read_bytes()).hexdigest() == DIGEST
    assert done.stdout == DATA[::-1]


@pytest.mark.parametrize("security", SECURITY)
def test_a_file_goes_out_and_its_echo_comes_back(start: Start, tmp_path: Path, security: str) -> None:
    serve, reach = SECURITY[security]
    listener = Listener(start, "--keep", "--echo", *serve)
    (tmp_path / "file").write_bytes(DATA)
    with (tmp_path / "file").open("rb") as file:
        file.seek(1000)
        process = start(*command("connect", *reach, listener.endpoint), stdin=file)
        output, _ = finish(process)
    assert output == DATA[1000:]


def test_the_end_of_one_direction_leaves_the_other(start: Start) -> None:
    listener = Listener(start)
    client = start(*command("connect", listener.endpoint))
    assert client.stdin and client.stdout and listener.process.stdin and listener.process.stdout
    listener.process.stdin.write(b"first from the listener")
    listener.process.stdin.close()
    assert client.stdout.read() == b"first from the listener"  # read() returns: the client passed the end on
    client.stdin.write(b"then from the client")
    client.stdin.close()
    assert listener.process.stdout.read() == b"then from the client"
    assert client.wait(PATIENCE) == 0
    assert listener.process.wait(PATIENCE) == 0


def test_no_input_and_no_output_at_all(start: Start) -> None:
    listener = Listener(start, "--keep", "--echo")
    for redirection in ("</dev/null", "<&-", "<&- >&-", "</dev/null >&-", "< /proc/self/status"):
        shell = f'exec "$0" -m tieline connect {listener.endpoint} {redirection}'
        done = subprocess.run(["sh", "-c", shell, sys.executable], capture_output=True, timeout=PATIENCE, check=False)
        assert (done.returncode, done.stderr) == (0, b""), redirection
        assert (b"Name:" in done.stdout) == ("proc" in redirection)


def test_who_has_read_enough_ends_it_quietly(start: Start, tmp_path: Path) -> None:
    (tmp_path / "endless").write_bytes(DATA)
    with (tmp_path / "endless").open("rb") as file:
        listener = Listener(start, stdin=file)
        client = start(*command("connect", listener.endpoint))
    assert client.stdout and client.stdout.read(1000) == DATA[:1000]
    client.stdout.close()
    assert client.wait(PATIENCE) == 0
    assert client.stderr and client.stderr.read() == b""


def test_a_terminal_needs_no_end_of_input(start: Start) -> None:
    listener = Listener(start)
    ours, theirs = pty.openpty()
    try:
        client = start(*command("connect", listener.endpoint), stdin=theirs)
        os.write(ours, b"typed\n")
        assert listener.process.stdout and listener.process.stdout.read(6) == b"typed\n"
        finish(listener.process, b"bye")
        assert finish(client)[0] == b"bye"
        assert os.get_blocking(theirs)  # the terminal is as it was
    finally:
        os.close(ours)
        os.close(theirs)


def test_input_is_not_read_ahead_of_the_peer(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = start(*command("connect", f"127.0.0.1:{server.getsockname()[1]}"))
        peer, _ = server.accept()
        with peer:
            assert client.stdin
            os.set_blocking(client.stdin.fileno(), False)
            accepted, quiet = 0, 0
            while quiet < 10:  # nothing moves for a while: everything between us is full
                try:
                    accepted += os.write(client.stdin.fileno(), DATA[: 1024 * 1024])
                    quiet = 0
                except BlockingIOError:
                    quiet += 1
                    assert client.poll() is None
                    signal.sigtimedwait([], 0.05)
            assert 0 < accepted < 64 * 1024 * 1024
            peer.shutdown(socket.SHUT_WR)
            client.stdin.close()
            received = 0
            while piece := peer.recv(1 << 20):
                received += len(piece)
            assert received == accepted
        assert client.wait(PATIENCE) == 0


# Datagrams


def test_datagrams_and_their_answers(start: Start) -> None:
    listener = Listener(start, "--udp", "--keep", "--echo")
    assert connect("--udp", "--linger", "0.5", listener.endpoint, content=b"a datagram").stdout == b"a datagram"
    listener = Listener(start, "--udp", "--idle", "0.5", stdin=subprocess.DEVNULL)
    connect("--udp", "--linger", "0", listener.endpoint, content=b"for the listener")
    assert finish(listener.process)[0] == b"for the listener"


def test_nobody_receives_datagrams() -> None:
    port = free_port()
    assert b"nobody receives datagrams there" in connect("--udp", f"127.0.0.1:{port}", content=b"?", code=1).stderr


# QUIC


def test_one_direction_of_a_quic_stream_ends_before_the_other(start: Start) -> None:
    listener = Listener(start, *QUIC_SERVE)
    client = start(*command("connect", *QUIC_REACH, listener.endpoint))
    assert client.stdin and client.stdout and listener.process.stdin and listener.process.stdout
    client.stdin.write(b"I begin")  # or the listener does not know of the stream
    client.stdin.flush()
    assert listener.process.stdout.read(7) == b"I begin"
    listener.process.stdin.write(b"first from the listener")
    listener.process.stdin.close()
    assert client.stdout.read() == b"first from the listener"
    client.stdin.write(b", then I end")
    client.stdin.close()
    assert listener.process.stdout.read() == b", then I end"
    assert (client.wait(PATIENCE), listener.process.wait(PATIENCE)) == (0, 0)


def test_what_nobody_has_read_yet_outlives_the_quic_connection(start: Start, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(DATA[::-1])
    with (tmp_path / "there").open("rb") as file:
        listener = Listener(start, *QUIC_SERVE, stdin=file)
    connect(*QUIC_REACH, listener.endpoint, content=DATA[:500_000])  # more than a pipe holds, and nobody reads it
    assert sha256(finish(listener.process)[0]).hexdigest() == sha256(DATA[:500_000]).hexdigest()


def test_quic_and_certificates(start: Start, pem: Path, tmp_path: Path) -> None:
    listener = Listener(start, "--keep", "--echo", "--quic", "--cert", str(pem), "--alpn", "a/1")
    there = ["--quic", "--alpn", "a/1", f"localhost:{listener.port}", "-4"]
    assert connect(*there, "--ca", str(pem), "--keylog", str(tmp_path / "keys"), content=b"x").stdout == b"x"
    assert "CLIENT_TRAFFIC_SECRET_0" in (tmp_path / "keys").read_text()
    refused = connect(*there, content=b"x", code=1).stderr.decode()
    assert refused.startswith("Error: localhost:") and "certificate" in refused and refused.count("\n") == 1
    assert b"elsewhere.example" in connect(*there, "--ca", str(pem), "--server-name", "elsewhere.example", code=1).stderr
    assert b"ALPN" in connect(*QUIC_REACH, listener.endpoint, code=1).stderr
    pinned = Listener(start, "--keep", "--echo", *QUIC_SERVE)
    assert connect("--quic", "--pin", pinned.fingerprint, pinned.endpoint, content=b"x").stdout == b"x"
    assert b"is not one of those pinned" in connect("--quic", "--pin", "00" * 32, pinned.endpoint, code=1).stderr


def test_quic_and_client_certificates(start: Start, pem: Path) -> None:
    listener = Listener(start, "--keep", "--echo", "--quic", "--cert", str(pem), "--client-ca", str(pem))
    there = ["--quic", "--ca", str(pem), listener.endpoint]
    assert connect(*there, "--cert", str(pem), content=b"x").stdout == b"x"
    assert b"certificate" in connect(*there, content=b"x", code=1).stderr


def test_what_verbose_tells_of_quic(start: Start) -> None:
    listener = Listener(start, "-v", *QUIC_SERVE, "--echo")
    said = connect("--report", "-v", *QUIC_REACH, listener.endpoint, content=b"x" * 1000).stderr.decode()
    agreed = r"TLSv1\.3, \S+, TLS_\S+, ALPN tieline\n"
    assert re.search(rf"preparing\nready from 127\.0\.0\.1:\d+ to {re.escape(listener.endpoint)} with {agreed}", said)
    assert "peer allows 100 two-way, 0 one-way streams; no datagrams; idle 30 s\n" in said
    assert re.search(r"QUIC +\d\S* ms", said) and re.search(r"application +1000 B +1000 B", said)
    assert re.search(rf"connection from 127\.0\.0\.1:\d+ with {agreed}", finish(listener.process)[1].decode())


def over_quic(listener: Listener, contents: list[bytes], *, stays: bool = False) -> list[bytes]:
    """What comes back on streams of one connection that begin in this order and end in the other one."""
    return asyncio.run(on_streams(listener, contents, stays=stays))


async def on_streams(listener: Listener, contents: list[bytes], *, stays: bool) -> list[bytes]:
    protocol = QUIC(alpn=["tieline"], trust=Trust.fingerprints(listener.fingerprint))
    async with NetworkConnection(listener.endpoint, protocol) as connection:
        streams = [await connection.open_stream() for _ in contents]
        for stream, content in zip(streams, contents, strict=True):
            await stream.send(content)
        answers = []
        for stream in reversed(streams):
            await stream.send(b"", end_of_stream=True)
            answers.insert(0, b"".join([piece async for piece, _ in stream]))
        if stays:
            await connection.inbound_streams(streams[0].receive)  # nothing comes; returns when the peer closes
        return answers


def test_every_quic_stream_is_served(start: Start) -> None:
    listener = Listener(start, *QUIC_SERVE, "--echo")
    assert over_quic(listener, [b"one", b"two", b"three"]) == [b"one", b"two", b"three"]
    finish(listener.process)  # with the connection
    listener = Listener(start, *QUIC_SERVE, "--keep", "--exec", "tr a-z A-Z")
    assert over_quic(listener, [b"one", b"two" * 10_000]) == [b"ONE", b"TWO" * 10_000]
    assert over_quic(listener, [b"three"]) == [b"THREE"]


def test_standard_input_goes_to_the_first_quic_stream(start: Start, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"input")
    with (tmp_path / "input").open("rb") as file:
        listener = Listener(start, *QUIC_SERVE, stdin=file)
    assert over_quic(listener, [b"one", b"two"], stays=True) == [b"input", b""]
    assert finish(listener.process)[0] == b"one"  # it does not wait for ever for the client to close


def test_nobody_listens_for_quic() -> None:
    place = f"127.0.0.1:{free_port()}"
    said = connect(*QUIC_REACH, place, code=1).stderr.decode()
    assert re.search(rf"^Error: {re.escape(place)}, handshake: connection refused.*\n\Z", said, re.MULTILINE)
    said = connect(*QUIC_REACH, "--wait", "--timeout", "0.3", place, code=1).stderr.decode()
    assert "not connected within 0.3 s" in said and "refused" in said


def test_a_quic_peer_allows_no_stream(start: Start) -> None:
    """The command says what it waits for. It cannot know whether the peer will ever allow one."""

    async def main() -> None:
        async def nobody(stream: object) -> None:
            raise AssertionError(stream)

        async def handler(connection: NetworkConnection[QUIC]) -> None:
            await connection.inbound_streams(nobody)

        identity = Identity.self_signed("localhost")
        protocol = QUIC(alpn=["tieline"], identity=identity, initial_max_bidirectional_streams=0)
        async with NetworkListener(protocol, on=LOCAL).serving(handler) as listener:
            client = start(*command("connect", *QUIC_REACH, str(listener.endpoint)))
            said = await asyncio.to_thread(line_of, client.stderr, rb"Waiting[^\n]*\n")
            assert "the peer allows no bidirectional stream yet" in said
            client.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(client.wait, PATIENCE) == 130

    asyncio.run(main())


@pytest.mark.parametrize("who", ["client", "listener"])
def test_a_quic_peer_is_interrupted(start: Start, who: str) -> None:
    listener = Listener(start, *QUIC_SERVE)
    client = start(*command("connect", *QUIC_REACH, listener.endpoint))
    assert client.stdin and listener.process.stdout
    client.stdin.write(b"x")
    client.stdin.flush()
    assert listener.process.stdout.read(1) == b"x"
    interrupted, other = (client, listener.process) if who == "client" else (listener.process, client)
    interrupted.send_signal(signal.SIGINT)
    finish(interrupted, code=130)
    assert other.wait(PATIENCE) == 1  # while its input is still open
    assert b"the peer closed the connection with code 1: 'interrupted'" in finish(other, code=1)[1]


# Trust


def test_certificates(start: Start, pem: Path, tmp_path: Path) -> None:
    listener = Listener(start, "--keep", "--echo", "--tls", "--cert", str(pem), "--alpn", "a/1")
    there = ["--tls", "--alpn", "a/1", f"localhost:{listener.port}", "-4"]
    assert connect(*there, "--ca", str(pem), content=b"x").stdout == b"x"
    refused = connect(*there, content=b"x", code=1).stderr.decode()
    assert refused.startswith("Error: localhost:") and "certificate" in refused and refused.count("\n") == 1
    wrong_name = connect(*there, "--ca", str(pem), "--server-name", "elsewhere.example", code=1).stderr.decode()
    assert "elsewhere.example" in wrong_name
    assert "ALPN" in connect("--tls", "--insecure", "--alpn", "b/1", listener.endpoint, code=1).stderr.decode()
    unverified = connect(*there, "--insecure", "-v", content=b"x")
    assert unverified.stdout == b"x" and b"Warning: --insecure" in unverified.stderr and b"TLSv1.3" in unverified.stderr
    there += ["--keylog", str(tmp_path / "keys")]
    older = connect(*there, "--ca", str(pem), "--tls-max", "1.2", "-v", content=b"x")
    assert b"TLSv1.2" in older.stderr and "CLIENT_RANDOM" in (tmp_path / "keys").read_text()


def test_a_pinned_certificate(start: Start) -> None:
    listener = Listener(start, "--keep", "--echo", "--tls", "--self-signed", "anything.example")
    assert connect("--tls", "--pin", listener.fingerprint, listener.endpoint, content=b"x").stdout == b"x"
    assert b"is not one of those pinned" in connect("--tls", "--pin", "00" * 32, listener.endpoint, code=1).stderr


def test_client_certificates(start: Start, pem: Path) -> None:
    listener = Listener(start, "--keep", "--echo", "--tls", "--cert", str(pem), "--client-ca", str(pem))
    there = ["--tls", "--ca", str(pem), listener.endpoint]
    assert connect(*there, "--cert", str(pem), content=b"x").stdout == b"x"
    assert b"certificate" in connect(*there, content=b"x", code=1).stderr


# How it ends


def test_nobody_listens() -> None:
    port = free_port()
    said = connect(f"127.0.0.1:{port}", code=1).stderr.decode()
    assert re.fullmatch(rf"Error: 127\.0\.0\.1:{port}, connecting: .*refused.*\n", said)


def test_a_peer_that_resets(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = start(*command("connect", "-v", f"127.0.0.1:{server.getsockname()[1]}"))
        peer, _ = server.accept()
        line_of(client.stderr, b"ready")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        _, errors = finish(client, code=1)
    assert b"the peer reset the connection" in errors


@pytest.mark.parametrize("security", ["plain", "tls"])
def test_websocket(start: Start, security: str) -> None:
    serving, reaching = SECURITY[security]
    listener = Listener(start, *serving, "--websocket", "--keep", "--echo")
    url = f"{'ws' if security == 'plain' else 'wss'}://{listener.endpoint}/"
    reaching = [option for option in reaching if option != "--tls"]
    lines = "grüße\n\nlast line".encode()
    assert connect(*reaching, "--linger", "0.5", url, content=lines).stdout == lines + b"\n"
    assert connect(*reaching, "--linger", "0.5", url, content=b"\xff\n").stdout == b"\xff"
    listener = Listener(start, *serving, "--websocket", stdin=subprocess.PIPE)
    url = f"{'ws' if security == 'plain' else 'wss'}://{listener.endpoint}/"
    connect(*reaching, "--linger", "0", url, content=b"for the listener\n")
    assert listener.process.communicate(timeout=PATIENCE)[0] == b"for the listener\n"


def test_connecting_takes_too_long(start: Start) -> None:
    said = connect("--wait", "--timeout", "0.3", f"127.0.0.1:{free_port()}", code=1).stderr.decode()
    assert "not connected within 0.3 s" in said and "refused" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["connect", "nowhere"], "expected host:port"),
        (["connect", "localhost:99999"], "port must be 0 to 65535"),
        (["connect", "--pin", "00" * 32, "localhost:1"], "--pin: needs --tls"),
        (["connect", "--tls", "--pin", "zz", "localhost:1"], "64 hex digits"),
        (["connect", "--tls", "--udp", "localhost:1"], "exclude each other"),
        (["connect", "--udp", "unix:/s"], "UDP does not run over Unix sockets"),
        (["connect", "-4", "-6", "localhost:1"], "exclude each other"),
        (["connect", "--tls", "--insecure", "--pin", "00" * 32, "localhost:1"], "exclude each other"),
        (["connect", "--tls", "--cert", "/nowhere", "localhost:1"], "does not exist"),
        (["connect", "--quic", "--udp", "localhost:1"], "--udp and --quic exclude each other"),
        (["connect", "--quic", "--tls", "localhost:1"], "--tls and --quic exclude each other"),
        (["connect", "--quic", "unix:/s"], "UDP does not run over Unix sockets"),
        (["connect", "--quic", "--tls-max", "1.2", "localhost:1"], "QUIC has TLS 1.3 only"),
        (["listen", "--quic", "9000"], "--quic needs --cert, or --self-signed"),
        (["listen", "--tls", "9000"], "--tls needs --cert, or --self-signed"),
        (["listen", "--keep", "9000"], "--keep needs --echo"),
        (["listen", "--udp", "--exec", "cat", "9000"], "--exec needs a stream"),
        (["invent"], "No such command"),
    ],
)
def test_mistakes_of_the_command_line(arguments: list[str], said: str) -> None:
    done = ran(*arguments)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.decode().split())


def test_an_address_in_use(start: Start) -> None:
    listener = Listener(start)
    done = ran("listen", listener.endpoint)
    assert done.returncode == 1 and b"in use" in done.stderr


@pytest.mark.parametrize("way", ["connecting", "connected", "listening", "serving"])
@pytest.mark.parametrize("security", ["plain", "quic"])
def test_interrupted(start: Start, way: str, security: str) -> None:
    serve, reach = SECURITY[security]
    listener = Listener(start, *serve, "--keep", "--echo") if way == "serving" else Listener(start, *serve)
    process = listener.process
    if way.startswith("connect"):
        place = listener.endpoint if way == "connected" else f"127.0.0.1:{free_port()}"
        process = start(*command("connect", "-v", "--wait", *reach, place))
        line_of(process.stderr, b"ready" if way == "connected" else b"waiting")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == (0 if way == "serving" else 130)
    assert b"Traceback" not in errors and b"Abort" not in errors


def test_a_command_for_each_connection(start: Start) -> None:
    listener = Listener(start, "--keep", "--exec", "tr a-z A-Z")
    for content in (b"one", b"two" * 100_000):
        assert connect(listener.endpoint, content=content).stdout == content.upper()
    listener = Listener(start, "--keep", "--exec", "echo enough")  # it does not read what it is sent
    assert connect(listener.endpoint, content=b"").stdout == b"enough\n"


def test_reports_and_states(start: Start) -> None:
    listener = Listener(start, "--keep", "--echo")
    said = connect("--report", "-v", listener.endpoint, content=b"x").stderr.decode()
    assert re.search(r"preparing\nready from 127\.0\.0\.1:\d+ to 127\.0\.0\.1:\d+\n", said)
    assert "Established in" in said and "Data transfer during" in said and said.endswith("cancelled\n")


# Other people's programs


def test_openssl_serves(start: Start, peer: Callable[[str], str], pem: Path) -> None:
    server = start(peer("openssl"), "s_server", "-accept", LOCAL, "-cert", str(pem), "-quiet", "-naccept", "1", "-rev")
    port = listening_port(server)
    client = start(*command("connect", "--tls", "--ca", str(pem), f"127.0.0.1:{port}"))
    assert client.stdin and client.stdout
    client.stdin.write(b"drawer\n")
    client.stdin.flush()
    assert client.stdout.readline() == b"reward\n"


def test_openssl_connects(start: Start, peer: Callable[[str], str], pem: Path) -> None:
    openssl = peer("openssl")
    listener = Listener(start, "--tls", "--cert", str(pem), "--echo")
    trust = ["-CAfile", str(pem), "-partial_chain", "-verify_return_error", "-verify_hostname", "localhost"]
    client = start(openssl, "s_client", "-connect", listener.endpoint, "-quiet", *trust)
    assert client.stdin and client.stdout
    client.stdin.write(b"echo\n")
    client.stdin.flush()
    assert client.stdout.readline() == b"echo\n"


@pytest.mark.parametrize("kind", ["TCP", "UNIX"])
def test_socat_on_either_side(start: Start, peer: Callable[[str], str], tmp_path: Path, kind: str) -> None:
    socat = peer("socat")
    path = str(tmp_path / "s")
    listener = Listener(start, "--echo", on=LOCAL if kind == "TCP" else f"unix:{path}")
    there = f"TCP:{listener.endpoint}" if kind == "TCP" else f"UNIX-CONNECT:{path}"
    assert finish(start(socat, "-t", "20", "-", there), DATA)[0] == DATA
    finish(listener.process)
    (tmp_path / "s").unlink(missing_ok=True)
    here = "TCP-LISTEN:0,bind=127.0.0.1" if kind == "TCP" else f"UNIX-LISTEN:{path}"
    server = start(socat, "-d", "-d", here, "EXEC:cat")
    line_of(server.stderr, b"listening on")
    place = f"127.0.0.1:{listening_port(server)}" if kind == "TCP" else f"unix:{path}"
    assert sha256(connect(place, content=DATA).stdout).hexdigest() == DIGEST


def test_ncat_on_either_side(start: Start, peer: Callable[[str], str], pem: Path, tmp_path: Path) -> None:
    ncat = peer("ncat")
    with (tmp_path / "arrived").open("wb") as arrived:
        listener = Listener(start, "--tls", "--cert", str(pem), stdin=subprocess.DEVNULL, stdout=arrived)
    finish(start(ncat, "--ssl", "--send-only", "127.0.0.1", str(listener.port)), DATA)
    _, errors = finish(listener.process, code=1)  # ncat ends without close_notify, as an attacker could
    got = (tmp_path / "arrived").read_bytes()
    if b"the peer reset the connection" in errors:  # it had not read our tickets yet: the kernel throws away what is under way
        assert DATA.startswith(got)
    else:
        assert b"TLS cut short" in errors and got == DATA
    port = free_port()
    server = start(ncat, "-v", "-l", "127.0.0.1", str(port), "--ssl", "--exec", "/bin/cat", stdin=subprocess.DEVNULL)
    line_of(server.stderr, b"Listening on")
    client = start(*command("connect", "--tls", "--insecure", f"127.0.0.1:{port}"))
    assert client.stdin and client.stdout
    client.stdin.write(b"through ncat\n")
    client.stdin.flush()
    assert client.stdout.readline() == b"through ncat\n"


def test_socat_and_datagrams(start: Start, peer: Callable[[str], str]) -> None:
    listener = Listener(start, "--udp", "--keep", "--echo")
    assert finish(start(peer("socat"), "-t", "1", "-", f"UDP:{listener.endpoint}"), b"a datagram")[0] == b"a datagram"


def listening_port(process: subprocess.Popen[bytes]) -> int:
    """The port that a foreign program listens on, from the kernel: each says it in its own way, or not at all."""
    inodes: set[str] = set()
    while process.poll() is None:
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                inodes.update(re.findall(r"socket:\[(\d+)\]", os.readlink(link)))
        for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            cells = row.split()
            if cells[3] == "0A" and cells[9] in inodes:  # 0A is LISTEN
                return int(cells[1].partition(":")[2], 16)
    raise AssertionError(f"it ended before it listened: {process.communicate()[1].decode()}")


# The rest


@pytest.mark.parametrize("plain", [[], ["--plain"]])
def test_the_demo(plain: list[str]) -> None:
    done = ran("demo", "--size", "8", *plain)
    said = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")
    protocols = ["TCP"] if plain else ["TLS", "QUIC"]
    sent, *received = re.findall(r"^(?:|TCP|TLS|QUIC) +([0-9a-f]{64})$", said.partition("of what was sent")[2], re.MULTILINE)
    assert received == [sent] * len(protocols)
    assert said.count("8 of 8 MiB") == said.count("8 MiB in") == len(protocols)
    assert said.count("TLSv1.3") == (0 if plain else 2)
    for fact in ("established in", *(f"handshake of {protocol}" for protocol in protocols), "rate without", "round trip"):
        assert re.search(rf"^ *{fact}.*( \d.*){{{len(protocols)}}}$" if fact[0] != "h" else fact, said, re.MULTILINE), fact
    if not plain:
        assert "8 streams of 1 MiB at once: 8 arrived as they were sent" in said
        assert re.search(r"100 datagrams of 1,000 B there and back: \d+ returned", said)


def test_help_and_version() -> None:
    for arguments in (["--help"], ["connect", "--help"], ["listen", "-h"], ["demo", "--help"]):
        assert b"Usage: tieline" in ran(*arguments).stdout
    assert ran("--version").stdout.startswith(b"tieline")


def test_missing_packages_are_named() -> None:
    program = "import sys; sys.modules['click'] = None; from tieline.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert done.stderr == b"The tieline command needs the package click. Install it with: pip install 'tieline[cli]'\n"


def test_paths_shows_the_present_network(start: Start) -> None:
    output, errors = finish(start(*command("paths", "--once", "--type", "loopback")))
    assert b"satisfied: this machine only" in output and b"lo (loopback): 127.0.0.1" in output and not errors
