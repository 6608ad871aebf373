"""Options: each is seen on the real socket, or refused by name when it is used; and values are checked when given."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import errno
import os
import pickle
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from tieline import (
    IP,
    QUIC,
    TCP,
    TLS,
    UDP,
    AddressPreference,
    Coder,
    ConnectError,
    EndOfStreamError,
    HostPort,
    Identity,
    IPMetadata,
    IPVersion,
    Keepalive,
    MessageTooLargeError,
    NetworkConnection,
    NetworkListener,
    Parameters,
    ServiceClass,
    State,
    Trust,
)
from tieline.drivers.asyncio import options

HOSTS = {"IPv4": "127.0.0.1", "IPv6": "::1"}
SOL, TCP_, V4, V6 = socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6
# linux/in.h, linux/in6.h, linux/tcp.h, asm-generic/socket.h
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, IPV6_ADDR_PREFERENCES = 10, 23, 72
IP_RECVTTL, IP_RECVTOS, IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS = 12, 13, 51, 66
SO_NO_CHECK, SO_TIMESTAMPNS, TCP_CORK, TCP_FASTOPEN, TCP_FASTOPEN_CONNECT = 11, 35, 3, 23, 30
BOTH = ("client", "server")


def socket_of(connection: NetworkConnection[Any]) -> socket.socket:
    sock: socket.socket = connection._flow.socket._sock
    return sock


@asynccontextmanager
async def pair(host: str, using: Any) -> AsyncIterator[dict[str, NetworkConnection[Any]]]:
    """Both ends of a connection whose sides have the same options."""
    accepted: asyncio.Future[NetworkConnection[Any]] = asyncio.get_running_loop().create_future()

    async def echo(connection: NetworkConnection[Any]) -> None:
        accepted.set_result(connection)
        async for content, _ in connection:
            await connection.send(content)

    parameters = Parameters.of(using)
    async with (
        NetworkListener(parameters, on=(host, 0)).serving(echo) as listener,
        NetworkConnection(listener.endpoint, replace(parameters, local_endpoint=None, local_port=None)) as connection,
    ):
        await connection.send(b"hello")
        assert (await connection.receive()).content == b"hello"
        yield {"client": connection, "server": await accepted}


# What can be seen on the socket: what to set, then level, option and value by IP version, and on which sides.

Seen = tuple[int, int, int]


def seen(level: int, option: int, value: int) -> dict[str, Seen]:
    return {"IPv4": (level, option, value), "IPv6": (level, option, value)}


CODE_POINTS = {  # RFC 4594 figure 3, RFC 8622
    ServiceClass.BEST_EFFORT: 0b000000,
    ServiceClass.BACKGROUND: 0b000001,
    ServiceClass.INTERACTIVE_VIDEO: 0b100010,
    ServiceClass.INTERACTIVE_VOICE: 0b101110,
    ServiceClass.RESPONSIVE_DATA: 0b010010,
    ServiceClass.SIGNALING: 0b101000,
}


def code_points(stack: Any) -> dict[str, tuple[Any, dict[str, Seen], tuple[str, ...]]]:
    """The byte with the DSCP of each service class."""
    return {
        f"DSCP of {one.value}": (
            Parameters(stack, service_class=one),
            {"IPv4": (V4, socket.IP_TOS, dscp << 2), "IPv6": (V6, socket.IPV6_TCLASS, dscp << 2)},
            BOTH,
        )
        for one, dscp in CODE_POINTS.items()
    }


STREAM: dict[str, tuple[TCP | Parameters[TCP], dict[str, Seen], tuple[str, ...]]] = {
    "no_delay by default": (TCP(), seen(TCP_, socket.TCP_NODELAY, 1), BOTH),
    "no_delay off": (TCP(no_delay=False), seen(TCP_, socket.TCP_NODELAY, 0), BOTH),
    "no_push": (TCP(no_push=True), seen(TCP_, TCP_CORK, 1), BOTH),
    "no_push off": (TCP(), seen(TCP_, TCP_CORK, 0), BOTH),
    "keepalive off": (TCP(), seen(SOL, socket.SO_KEEPALIVE, 0), BOTH),
    "keepalive": (TCP(keepalive=Keepalive()), seen(SOL, socket.SO_KEEPALIVE, 1), BOTH),
    "keepalive idle": (TCP(keepalive=Keepalive(idle=11)), seen(TCP_, socket.TCP_KEEPIDLE, 11), BOTH),
    "keepalive interval": (TCP(keepalive=Keepalive(interval=12)), seen(TCP_, socket.TCP_KEEPINTVL, 12), BOTH),
    "keepalive count": (TCP(keepalive=Keepalive(count=13)), seen(TCP_, socket.TCP_KEEPCNT, 13), BOTH),
    "drop time": (TCP(retransmit_connection_drop_time=1.5), seen(TCP_, socket.TCP_USER_TIMEOUT, 1500), BOTH),
    "shortest drop time": (TCP(retransmit_connection_drop_time=1e-9), seen(TCP_, socket.TCP_USER_TIMEOUT, 1), BOTH),
    "longest drop time": (
        TCP(retransmit_connection_drop_time=2_147_483),
        seen(TCP_, socket.TCP_USER_TIMEOUT, 2_147_483_000),
        BOTH,
    ),
    "hop_limit": (
        TCP(IP(hop_limit=7)),
        {"IPv4": (V4, socket.IP_TTL, 7), "IPv6": (V6, socket.IPV6_UNICAST_HOPS, 7)},
        BOTH,
    ),
    "fragmentation_disabled": (
        TCP(IP(fragmentation_disabled=True)),
        {"IPv4": (V4, IP_MTU_DISCOVER, 2), "IPv6": (V6, IPV6_MTU_DISCOVER, 2)},
        BOTH,
    ),
    "local endpoint reused": (
        Parameters(TCP(), local_endpoint_reuse_allowed=True),
        seen(SOL, socket.SO_REUSEPORT, 1),
        BOTH,
    ),
    "local endpoint not reused": (TCP(), seen(SOL, socket.SO_REUSEPORT, 0), BOTH),
    **{
        f"service class {one.value}": (
            Parameters(TCP(), service_class=one),
            seen(SOL, socket.SO_PRIORITY, number),
            BOTH,
        )
        for one, number in options.PRIORITY.items()
    },
    **code_points(TCP()),
}

DATAGRAM: dict[str, tuple[UDP | Parameters[UDP], dict[str, Seen], tuple[str, ...]]] = {
    "hop_limit": (
        UDP(IP(hop_limit=7)),
        {"IPv4": (V4, socket.IP_TTL, 7), "IPv6": (V6, socket.IPV6_UNICAST_HOPS, 7)},
        BOTH,
    ),
    "hop_limit of multicast": (
        UDP(IP(hop_limit=7)),
        {"IPv4": (V4, socket.IP_MULTICAST_TTL, 7), "IPv6": (V6, socket.IPV6_MULTICAST_HOPS, 7)},
        BOTH,
    ),
    "multicast_loopback_disabled": (
        UDP(IP(multicast_loopback_disabled=True)),
        {"IPv4": (V4, socket.IP_MULTICAST_LOOP, 0), "IPv6": (V6, socket.IPV6_MULTICAST_LOOP, 0)},
        BOTH,
    ),
    "multicast loopback by default": (
        UDP(),
        {"IPv4": (V4, socket.IP_MULTICAST_LOOP, 1), "IPv6": (V6, socket.IPV6_MULTICAST_LOOP, 1)},
        BOTH,
    ),
    "fragmentation_disabled": (
        UDP(IP(fragmentation_disabled=True)),
        {"IPv4": (V4, IP_MTU_DISCOVER, 2), "IPv6": (V6, socket.IPV6_DONTFRAG, 1)},
        BOTH,
    ),
    "receive_time_calculated": (UDP(IP(receive_time_calculated=True)), seen(SOL, SO_TIMESTAMPNS, 1), BOTH),
    "receive time by default": (UDP(), seen(SOL, SO_TIMESTAMPNS, 0), BOTH),
    "metadata_received": (
        UDP(IP(metadata_received=True)),
        {"IPv4": (V4, IP_RECVTOS, 1), "IPv6": (V6, IPV6_RECVTCLASS, 1)},
        BOTH,
    ),
    "metadata_received, hop limit": (
        UDP(IP(metadata_received=True)),
        {"IPv4": (V4, IP_RECVTTL, 1), "IPv6": (V6, IPV6_RECVHOPLIMIT, 1)},
        BOTH,
    ),
    "metadata by default": (UDP(), {"IPv4": (V4, IP_RECVTOS, 0), "IPv6": (V6, IPV6_RECVTCLASS, 0)}, BOTH),
    "no_checksum_preferred": (
        UDP(no_checksum_preferred=True),
        {"IPv4": (SOL, SO_NO_CHECK, 1), "IPv6": (SOL, SO_NO_CHECK, 0)},  # IPv6 always has a checksum
        BOTH,
    ),
    "local endpoint reused": (
        Parameters(UDP(), local_endpoint_reuse_allowed=True),
        seen(SOL, socket.SO_REUSEPORT, 1),
        BOTH,
    ),
    **{
        f"service class {one.value}": (
            Parameters(UDP(), service_class=one),
            seen(SOL, socket.SO_PRIORITY, number),
            BOTH,
        )
        for one, number in options.PRIORITY.items()
    },
    **code_points(UDP()),
}


@pytest.mark.parametrize("version", HOSTS)
@pytest.mark.parametrize("name", STREAM)
@pytest.mark.asyncio_only
async def test_stream_sockets_have_the_option(name: str, version: str) -> None:
    using, expected, sides = STREAM[name]
    await check_socket(version, using, expected, sides)


@pytest.mark.parametrize("version", HOSTS)
@pytest.mark.parametrize("name", DATAGRAM)
@pytest.mark.asyncio_only
async def test_datagram_sockets_have_the_option(name: str, version: str) -> None:
    using, expected, sides = DATAGRAM[name]
    await check_socket(version, using, expected, sides)


async def check_socket(version: str, using: Any, expected: dict[str, Seen], sides: tuple[str, ...]) -> None:
    level, option, value = expected[version]
    async with pair(HOSTS[version], using) as ends:
        for side in sides:
            assert socket_of(ends[side]).getsockopt(level, option) == value, side


@pytest.mark.asyncio_only
async def test_options_below_tls_reach_the_socket() -> None:
    identity = Identity.self_signed("localhost")
    tls = TLS(
        TCP(IP(hop_limit=9), keepalive=Keepalive(idle=21), fast_open_allowed=True),
        identity=identity,
        trust=Trust.certificates(identity),
        server_name="localhost",
    )
    async with pair("127.0.0.1", tls) as ends:
        for connection in ends.values():
            assert socket_of(connection).getsockopt(V4, socket.IP_TTL) == 9
            assert socket_of(connection).getsockopt(TCP_, socket.TCP_KEEPIDLE) == 21
        assert socket_of(ends["client"]).getsockopt(TCP_, TCP_FASTOPEN_CONNECT) == 1


@pytest.mark.asyncio_only
async def test_listening_sockets_have_their_options() -> None:
    parameters = Parameters(TCP(fast_open_allowed=True), backlog=17)
    async with NetworkListener(parameters, on="127.0.0.1:0").serving(never) as listener:
        sock = next(iter(listener._side._acceptors.values()))._sock  # type: ignore[union-attr]
        assert sock.getsockopt(SOL, socket.SO_REUSEADDR) == 1
        assert sock.getsockopt(TCP_, TCP_FASTOPEN) == 17
        information = sock.getsockopt(TCP_, socket.TCP_INFO, 104)
        assert struct.unpack_from("=I", information, 28)[0] == 17  # tcpi_sacked: of a listening socket, its backlog


async def never(connection: NetworkConnection[Any]) -> None:
    raise AssertionError(f"nobody connects here, but {connection!r} did")


@pytest.mark.parametrize("version", HOSTS)
@pytest.mark.parametrize(
    ("tcp", "largest"),
    [
        (TCP(maximum_segment_size=1000), {"IPv4": 1000, "IPv6": 1000}),
        (TCP(IP(use_minimum_mtu=True)), {"IPv4": 65535, "IPv6": 1280 - 60}),
        (TCP(IP(use_minimum_mtu=True), maximum_segment_size=1000), {"IPv4": 1000, "IPv6": 1000}),
        (TCP(IP(use_minimum_mtu=True), maximum_segment_size=9000), {"IPv4": 9000, "IPv6": 1280 - 60}),
    ],
)
@pytest.mark.asyncio_only
async def test_segment_size(tcp: TCP, largest: dict[str, int], version: str) -> None:
    """TCP's own options count towards it."""
    async with pair(HOSTS[version], tcp) as ends:
        for connection in ends.values():
            assert min(largest[version], 32768) - 40 <= connection.metadata(TCP).maximum_segment_size <= largest[version]


@pytest.mark.parametrize(
    ("host", "chosen", "largest"), [("::1", True, 1280 - 48), ("::1", False, 65535 - 48), ("127.0.0.1", True, 65535 - 28)]
)
async def test_minimum_mtu_of_datagrams(host: str, chosen: bool, largest: int) -> None:
    """What would not fit is refused, and not fragmented."""
    async with pair(host, UDP(IP(use_minimum_mtu=chosen))) as ends:
        await ends["client"].send(bytes(largest))
        assert len((await ends["client"].receive()).content) == largest  # the other side sends it back
        for connection in ends.values():
            assert connection.maximum_datagram_size == largest
            with pytest.raises(MessageTooLargeError):
                await connection.send(bytes(largest + 1))


@pytest.mark.skipif(os.geteuid() != 0, reason="binding to an interface may need root")
@pytest.mark.parametrize("stack", [TCP(), UDP()], ids=lambda stack: stack.name)
@pytest.mark.asyncio_only
async def test_required_interface(stack: TCP | UDP) -> None:
    async with pair("127.0.0.1", Parameters(stack, required_interface="lo")) as ends:
        for connection in ends.values():
            device = socket_of(connection).getsockopt(SOL, socket.SO_BINDTODEVICE, 16)
            assert device.rstrip(b"\0") == b"lo"


@pytest.mark.parametrize("preference", AddressPreference)
@pytest.mark.parametrize("stack", [TCP, UDP])
@pytest.mark.asyncio_only
async def test_local_address_preference(stack: Callable[[IP], Any], preference: AddressPreference) -> None:
    async with pair("::1", stack(IP(local_address_preference=preference))) as ends:
        for connection in ends.values():
            flags = socket_of(connection).getsockopt(V6, IPV6_ADDR_PREFERENCES)
            assert bool(flags & 0x1) == (preference is AddressPreference.TEMPORARY)
            assert bool(flags & 0x2) == (preference is AddressPreference.STABLE)


# Where from


@pytest.mark.parametrize("stack", [TCP(), UDP()], ids=lambda stack: stack.name)
async def test_local_endpoint_and_port(stack: TCP | UDP) -> None:
    with socket.socket(type=socket.SOCK_STREAM if isinstance(stack, TCP) else socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with NetworkListener(stack, on="127.0.0.1:0").serving(until_end) as listener:
        from_address = Parameters(stack, local_endpoint="127.0.0.9:0")
        async with NetworkConnection(listener.endpoint, from_address) as connection:
            await connection.ready()
            assert isinstance(connection.local_endpoint, HostPort) and connection.local_endpoint.host == "127.0.0.9"
        from_port = Parameters(stack, local_port=port, local_endpoint_reuse_allowed=True)
        async with NetworkConnection(listener.endpoint, from_port) as connection:
            await connection.ready()
            assert connection.local_endpoint == HostPort("127.0.0.1", port)


async def until_end(connection: NetworkConnection[Any]) -> None:
    async for _ in connection:
        pass


async def test_two_listeners_share_an_endpoint_if_both_allow_it() -> None:
    shared, own = Parameters(TCP(), local_endpoint_reuse_allowed=True), TCP()
    async with NetworkListener(shared, on="127.0.0.1:0").serving(never) as first:
        async with NetworkListener(shared, on=first.endpoint).serving(never) as second:
            assert second.endpoint == first.endpoint
        with pytest.raises(ConnectError, match="Address already in use"):
            await NetworkListener(own, on=first.endpoint).run(never)


@pytest.mark.parametrize(("version", "host"), [(IPVersion.V4, "127.0.0.1"), (IPVersion.V6, "::1")])
async def test_a_listener_on_any_address_keeps_to_its_version(version: IPVersion, host: str) -> None:
    async with NetworkListener(TCP(IP(version=version))).serving(until_end) as listener:
        (bound,) = listener.endpoints
        assert isinstance(bound, HostPort) and bound.version == version.value
        async with NetworkConnection((host, bound.port), TCP()) as connection:
            await connection.ready()


# UDP flows of a listener


async def test_idle_flows_end() -> None:
    ended = asyncio.Event()

    async def receive_until_end(connection: NetworkConnection[UDP]) -> None:
        await connection.receive()
        with pytest.raises(EndOfStreamError):
            await connection.receive()
        ended.set()

    async with (
        NetworkListener(UDP(idle_timeout=0.05), on="127.0.0.1:0").serving(receive_until_end) as listener,
        NetworkConnection(listener.endpoint, UDP(idle_timeout=0.05)) as connection,
    ):
        await connection.send(b"hello")
        await ended.wait()
        assert connection.state is State.READY  # a client's flow never ends by itself


async def test_further_flows_are_dropped() -> None:
    async def name(connection: NetworkConnection[UDP]) -> None:
        async for _ in connection:
            await connection.send(str(connection.remote_endpoint).encode())

    async with (
        NetworkListener(UDP(maximum_flows=1), on="127.0.0.1:0").serving(name) as listener,
        NetworkConnection(listener.endpoint, UDP()) as first,
        NetworkConnection(listener.endpoint, UDP()) as second,
    ):
        await first.send(b"?")
        assert (await first.receive()).content.decode() == str(first.local_endpoint)
        await second.send(b"?")
        await first.send(b"?")  # behind the one that was dropped
        assert (await first.receive()).content.decode() == str(first.local_endpoint)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await second.receive()


# What Linux cannot do for one connection

REFUSED = {
    "no_options=True": TCP(no_options=True),
    "retransmit_fin_drop=True": TCP(retransmit_fin_drop=True),
    "ecn_disabled=True": TCP(ecn_disabled=True),
    "persist_timeout=3.0": TCP(persist_timeout=3.0),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refused_by_name(name: str) -> None:
    async with NetworkConnection("127.0.0.1:9", REFUSED[name]) as connection:
        with pytest.raises(ConnectError, match=re.escape(f"TCP({name}) cannot be set")) as caught:
            await connection.ready()
        assert connection.state is State.FAILED
        assert caught.value.errno == errno.ENOPROTOOPT
        assert str(connection.error) == str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
async def test_listeners_refuse_by_name(name: str) -> None:
    with pytest.raises(ConnectError, match=re.escape(f"TCP({name}) cannot be set")) as caught:
        await NetworkListener(REFUSED[name], on="127.0.0.1:0").run(never)
    assert caught.value.errno == errno.ENOPROTOOPT


async def test_refusals_come_together_and_below_tls() -> None:
    tls = TLS(TCP(no_options=True, ecn_disabled=True))
    async with NetworkConnection("127.0.0.1:9", tls) as connection:
        with pytest.raises(ConnectError, match=r"TCP\(no_options=True\), TCP\(ecn_disabled=True\) cannot be set"):
            await connection.ready()


@pytest.mark.parametrize(
    ("using", "host", "text"),
    [
        (Parameters(TCP(), multipath="aggregate", service_class=ServiceClass.SIGNALING), "127.0.0.1", None),
        (
            Parameters(TCP(), multipath="aggregate", service_class=ServiceClass.SIGNALING),
            "::1",
            "Multipath TCP over IPv6 does not take all of Parameters(service_class=ServiceClass.SIGNALING) on linux: ",
        ),
        (
            Parameters(TCP(IP(hop_limit=7), no_push=True), multipath="aggregate"),
            "127.0.0.1",
            "Multipath TCP over IPv4 does not take all of TCP(no_push=True), IP(hop_limit=7) on linux: leave that out",
        ),
    ],
)
@pytest.mark.asyncio_only
async def test_what_multipath_tcp_does_not_take_is_named(using: Parameters[TCP], host: str, text: str | None) -> None:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, options.IPPROTO_MPTCP).close()
    except OSError as error:
        pytest.skip(f"there is no Multipath TCP: {error}")
    if text is None:
        async with pair(host, using) as ends:
            for connection in ends.values():
                assert socket_of(connection).getsockopt(V4, socket.IP_TOS) >> 2 == 40
        return
    async with NetworkConnection((host, 9), using) as connection:
        with pytest.raises(ConnectError, match=re.escape(text)):
            await connection.ready()


@pytest.mark.parametrize("ip", [IP(metadata_received=True), IP(receive_time_calculated=True)])
@pytest.mark.parametrize(
    "make", [TCP, lambda ip: TLS(TCP(ip)), lambda ip: Coder(int, TCP(ip)), lambda ip: QUIC(UDP(ip), alpn=["x"])]
)
def test_nothing_is_told_of_packets_that_a_program_does_not_see(make: Callable[[IP], Any], ip: IP) -> None:
    option = "metadata_received" if ip.metadata_received else "receive_time_calculated"
    with pytest.raises(
        ValueError, match=rf"IP\({option}=True\) is for datagrams of UDP: nothing is told of the packets of {make(ip).name}"
    ):
        NetworkConnection("127.0.0.1:9", make(ip))
    with pytest.raises(ValueError, match="is for datagrams of UDP"):
        NetworkListener(make(ip), on=9)


@pytest.mark.parametrize(
    ("using", "names"),
    [
        (TCP(no_push=True, ack_stretching_disabled=True), ["TCP(no_push=True)", "TCP(ack_stretching_disabled=True)"]),
        (TCP(retransmit_connection_drop_time=2.0), ["TCP(retransmit_connection_drop_time=2.0)"]),
        (TCP(fast_open_allowed=True), ["TCP(fast_open_allowed=True)"]),
        (UDP(IP(use_minimum_mtu=True)), ["IP(use_minimum_mtu=True)"]),
        (UDP(IP(fragmentation_disabled=True)), ["IP(fragmentation_disabled=True)"]),
        (UDP(IP(metadata_received=True)), ["IP(metadata_received=True)"]),
        (UDP(IP(receive_time_calculated=True)), ["IP(receive_time_calculated=True)"]),
        (
            UDP(IP(local_address_preference=AddressPreference.STABLE)),
            ["IP(local_address_preference=AddressPreference.STABLE)"],
        ),
        (UDP(no_checksum_preferred=True), ["UDP(no_checksum_preferred=True)"]),
        (Parameters(UDP(), required_interface="en0"), ["Parameters(required_interface='en0')"]),
        (
            Parameters(UDP(), service_class=ServiceClass.BACKGROUND),
            ["Parameters(service_class=ServiceClass.BACKGROUND)"],
        ),
        (TCP(), []),
    ],
)
def test_other_systems_refuse_what_only_linux_has(using: Any, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "LINUX", False)
    if not names:
        options.require_supported(Parameters.of(using))
        return
    with pytest.raises(OSError, match="cannot be set for one connection") as caught:
        options.require_supported(Parameters.of(using))
    assert caught.value.errno == errno.ENOPROTOOPT
    for name in names:
        assert name in str(caught.value)


# Values

VALUES: list[tuple[type[Any], dict[str, Any], type[Exception], str]] = [
    (IP, {"hop_limit": 0}, ValueError, "hop_limit must be from 1 to 255, got 0"),
    (IP, {"hop_limit": 256}, ValueError, "hop_limit must be from 1 to 255, got 256"),
    (IP, {"hop_limit": 1.5}, TypeError, "hop_limit must be an int from 1 to 255 or None, got 1.5"),
    (IP, {"hop_limit": True}, TypeError, "hop_limit must be an int from 1 to 255 or None, got True"),
    (IP, {"version": 4}, TypeError, "version must be an IPVersion, got 4"),
    (IP, {"local_address_preference": 1}, TypeError, "local_address_preference must be an AddressPreference, got 1"),
    *(
        (IP, {name: "no"}, TypeError, f"{name} must be True or False, got 'no'")
        for name in (
            "use_minimum_mtu",
            "fragmentation_disabled",
            "metadata_received",
            "receive_time_calculated",
            "multicast_loopback_disabled",
        )
    ),
    (Keepalive, {"idle": 0}, ValueError, r"Keepalive\.idle must be from 1 to 32767, got 0"),
    (Keepalive, {"interval": 32768}, ValueError, r"Keepalive\.interval must be from 1 to 32767, got 32768"),
    (Keepalive, {"count": 128}, ValueError, r"Keepalive\.count must be from 1 to 127, got 128"),
    (Keepalive, {"idle": None}, TypeError, r"Keepalive\.idle must be an int from 1 to 32767, got None"),
    (Keepalive, {"idle": 1.5}, TypeError, r"Keepalive\.idle must be an int from 1 to 32767, got 1\.5"),
    (TCP, {"keepalive": 60}, TypeError, "keepalive must be a Keepalive or None, got 60"),
    (TCP, {"maximum_segment_size": 87}, ValueError, "maximum_segment_size must be from 88 to 32767, got 87"),
    (TCP, {"maximum_segment_size": 32768}, ValueError, "maximum_segment_size must be from 88 to 32767, got 32768"),
    (TCP, {"maximum_segment_size": "1"}, TypeError, "maximum_segment_size must be an int .* or None, got '1'"),
    (TCP, {"connection_timeout": 0}, ValueError, "connection_timeout must be a finite number .* above 0, got 0"),
    (TCP, {"connection_timeout": -1.5}, ValueError, "connection_timeout must be .* above 0, got -1.5"),
    (TCP, {"connection_timeout": float("inf")}, ValueError, "connection_timeout must be .* above 0, got inf"),
    (TCP, {"connection_timeout": float("nan")}, ValueError, "connection_timeout must be .* above 0, got nan"),
    (TCP, {"connection_timeout": None}, TypeError, "connection_timeout must be a number of seconds, got None"),
    (TCP, {"connection_timeout": "1"}, TypeError, "connection_timeout must be a number of seconds, got '1'"),
    (TCP, {"connection_timeout": True}, TypeError, "connection_timeout must be a number of seconds, got True"),
    (TCP, {"persist_timeout": 0}, ValueError, "persist_timeout must be a finite number of seconds above 0, got 0"),
    (
        TCP,
        {"retransmit_connection_drop_time": 0},
        ValueError,
        "retransmit_connection_drop_time must be a finite number of seconds above 0, got 0",
    ),
    (
        TCP,
        {"retransmit_connection_drop_time": 2_147_484},
        ValueError,
        "retransmit_connection_drop_time must be at most 2,147,483 seconds, got 2147484",
    ),
    *(
        (TCP, {name: 1}, TypeError, f"{name} must be True or False, got 1")
        for name in (
            "no_delay",
            "no_push",
            "no_options",
            "retransmit_fin_drop",
            "ack_stretching_disabled",
            "ecn_disabled",
            "fast_open_allowed",
        )
    ),
    (IPMetadata, {"ecn": 2}, TypeError, "ecn must be an ECN or None, got 2"),
    (IPMetadata, {"service_class": "voice"}, TypeError, "service_class must be a ServiceClass or None, got 'voice'"),
    (IPMetadata, {"dscp": 64}, ValueError, "dscp must be from 0 to 63, got 64"),
    (IPMetadata, {"dscp": "EF"}, TypeError, "dscp must be an int from 0 to 63 or None, got 'EF'"),
    (
        IPMetadata,
        {"dscp": 46, "service_class": ServiceClass.SIGNALING},
        ValueError,
        r"service_class=ServiceClass.SIGNALING and dscp=46 exclude each other: give one",
    ),
    (IPMetadata, {"hop_limit": 256}, ValueError, "hop_limit must be from 0 to 255, got 256"),
    (IPMetadata, {"hop_limit": -1}, ValueError, "hop_limit must be from 0 to 255, got -1"),
    (IPMetadata, {"fragmentation_disabled": 1}, TypeError, "fragmentation_disabled must be True or False, got 1"),
    (UDP, {"no_checksum_preferred": None}, TypeError, "no_checksum_preferred must be True or False, got None"),
    (UDP, {"idle_timeout": 0}, ValueError, "idle_timeout must be a finite number of seconds above 0, got 0"),
    (UDP, {"idle_timeout": None}, TypeError, "idle_timeout must be a number of seconds, got None"),
    (UDP, {"maximum_flows": 0}, ValueError, "maximum_flows must be at least 1, got 0"),
    (UDP, {"maximum_flows": "many"}, TypeError, "maximum_flows must be an int of at least 1, got 'many'"),
    *(
        (Parameters, {name: 0}, ValueError, f"{name} must be at least 1, got 0")
        for name in ("receive_limit", "send_limit", "maximum_pending_handshakes", "backlog")
    ),
    *(
        (Parameters, {name: -1}, ValueError, f"{name} must be a finite number of seconds .*, got -1")
        for name in ("resolution_timeout", "close_timeout", "grace_period")
    ),
    *(
        (Parameters, {name: None}, TypeError, f"{name} must be a number of seconds, got None")
        for name in ("resolution_timeout", "close_timeout", "grace_period")
    ),
    (Parameters, {"resolution_delay": 2.5}, ValueError, "resolution_delay must be from 0.0 to 2.0 seconds, got 2.5"),
    (Parameters, {"attempt_delay": 0.001}, ValueError, "attempt_delay must be from 0.01 to 2.0 seconds, got 0.001"),
    (Parameters, {"local_port": 65536}, ValueError, "local_port must be from 0 to 65535, got 65536"),
    (Parameters, {"local_port": "80"}, TypeError, "local_port must be an int from 0 to 65535 or None, got '80'"),
    (
        Parameters,
        {"local_port": 1, "local_endpoint": "127.0.0.1:1"},
        ValueError,
        r"local_endpoint=127\.0\.0\.1:1 and local_port=1 exclude each other: give one",
    ),
]


@pytest.mark.parametrize(("kind", "values", "error", "text"), VALUES, ids=lambda value: repr(value)[:40])
def test_bad_values_are_refused_at_once(kind: type[Any], values: dict[str, Any], error: type[Exception], text: str) -> None:
    positional = (TCP(),) if kind is Parameters else ()
    with pytest.raises(error, match=text):
        kind(*positional, **values)


# Stacks


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: TCP(TCP()), "TCP stands on IP, got TCP"),  # type: ignore[arg-type]
        (lambda: TCP(UDP()), "TCP stands on IP, got UDP"),  # type: ignore[arg-type]
        (lambda: TCP(IP), "TCP stands on IP, got the class IP: write IP()"),  # type: ignore[arg-type]
        (lambda: TCP(UDP), "TCP stands on IP, got the class UDP"),  # type: ignore[arg-type]
        (lambda: TCP(None), "TCP stands on IP, got NoneType"),  # type: ignore[arg-type]
        (lambda: UDP(TCP()), "UDP stands on IP, got TCP"),  # type: ignore[arg-type]
        (lambda: TLS(UDP()), "TLS stands on TCP, got UDP"),  # type: ignore[arg-type]
        (lambda: TLS(TLS()), "TLS stands on TCP, got TLS"),  # type: ignore[arg-type]
        (lambda: TLS(IP()), "TLS stands on TCP, got IP"),  # type: ignore[arg-type]
        (lambda: Parameters(TCP), "Parameters wants a protocol stack such as TLS() or UDP(), got <class"),  # type: ignore[type-var]
        (lambda: Parameters("tcp"), "Parameters wants a protocol stack such as TLS() or UDP(), got 'tcp'"),  # type: ignore[type-var]
        (lambda: NetworkConnection("127.0.0.1:9", IP()), "connection wants a stack such as TCP(), TLS(...), UDP() or"),
        (lambda: NetworkListener(IP()), "listener wants a stack such as TCP(), TLS(...), UDP() or"),
        (lambda: NetworkConnection("127.0.0.1:9", TCP), "Parameters wants a protocol stack"),  # type: ignore[arg-type]
    ],
)
def test_illegal_stacks_say_what_may_stand_there(make: Callable[[], object], text: str) -> None:
    with pytest.raises(TypeError, match=re.escape(text)):
        make()


@pytest.mark.parametrize("kind", [IP, Keepalive])
def test_options_have_names(kind: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="positional"):
        kind(4)
    for above in (TCP, UDP):
        with pytest.raises(TypeError, match="positional"):
            above(IP(), True)  # type: ignore[call-arg]


def test_layers_left_out_are_filled_in() -> None:
    assert [layer.name for layer in TCP().layers] == ["TCP", "IP"]
    assert TCP() == TCP(IP()) and UDP() == UDP(IP())
    stack = TCP(IP(hop_limit=3))
    assert stack.find(IP) == IP(hop_limit=3) and stack.find(TCP) is stack and stack.find(UDP) is None


# Values are values


@pytest.mark.parametrize(
    ("value", "other"),
    [
        (IP(hop_limit=3), IP(hop_limit=4)),
        (Keepalive(idle=3), Keepalive()),
        (TCP(IP(hop_limit=3), keepalive=Keepalive(idle=3)), TCP(IP(hop_limit=4), keepalive=Keepalive(idle=3))),
        (UDP(idle_timeout=1), UDP(idle_timeout=2)),
        (Parameters(TCP(), local_endpoint="127.0.0.1:1"), Parameters(UDP(), local_endpoint="127.0.0.1:1")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_frozen_equal_hashable(value: Any, other: Any) -> None:
    same = replace(value)
    assert value == same and hash(value) == hash(same) and value != other
    assert {value: 1}[same] == 1
    assert copy.copy(value) == value and pickle.loads(pickle.dumps(value)) == value
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, None)


def test_repr_names_every_option() -> None:
    assert repr(Keepalive()) == "Keepalive(idle=60, interval=10, count=6)"
    assert repr(TCP()).startswith("TCP(below=IP(version=<IPVersion.ANY: 0>, hop_limit=None, ")
    assert "idle_timeout=60.0" in repr(UDP())
