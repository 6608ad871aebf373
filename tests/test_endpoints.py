"""Every endpoint comes back from its text, and what is no endpoint is refused in words that help."""

import ast
import inspect
import ipaddress
import pickle
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tieline.endpoints as module
from tieline.endpoints import (
    Connectable,
    Endpoint,
    HostPort,
    ServiceEndpoint,
    UnixEndpoint,
    URLEndpoint,
    to_endpoint,
)
from tieline.errors import UnexpectedEndpointTypeError

# Every legal value, so also those that look like another kind of text.

ports = st.integers(0, 65535)
labels = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,20}[A-Za-z0-9_])?", fullmatch=True) | st.sampled_from(
    ["unix", "service", "xn--bcher-kva", "bücher", "例え"]
)
names = (
    st.lists(labels, min_size=1, max_size=4)
    .map(".".join)
    .flatmap(lambda name: st.sampled_from([name, f"{name}."]))
    .filter(lambda name: not name.removesuffix(".").rpartition(".")[2].isdigit())
)
interface_names = st.from_regex(r"[A-Za-z0-9_.@-]{1,15}", fullmatch=True).filter(lambda name: "@" not in name)
ipv6 = st.ip_addresses(v=6).map(str)
scoped = st.builds("{}%{}".format, ipv6, interface_names)
hosts = names | st.ip_addresses(v=4).map(str) | ipv6 | scoped | ipv6.map("[{}]".format)
host_ports = st.builds(HostPort, hosts, ports)

service_names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=[*map(chr, range(32)), "\x7f"]) | st.sampled_from(".\\%:@/ "),
    min_size=1,
    max_size=60,
).filter(lambda name: len(name.encode()) <= 63)
services = st.builds(
    ServiceEndpoint,
    service_names,
    st.from_regex(r"_[A-Za-z0-9-]{1,15}\._(tcp|udp)\.?", fullmatch=True),
    st.sampled_from(["local", "local.", "Example.com", r"Building 2\, 4th Floor.example.com."]),
    st.none() | interface_names,
)

paths = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=["\0"]), min_size=1, max_size=26) | st.binary(
    min_size=1, max_size=106
).map(lambda raw: raw.replace(b"\0", b"x").decode("utf-8", "surrogateescape"))
unix = st.builds(UnixEndpoint, (paths | paths.map("\0{}".format) | paths.map("/{}".format)).filter(lambda p: p != "@"))

urls = st.builds(
    "{}://{}{}{}{}".format,
    st.sampled_from(["wss", "ws", "http", "HTTPS", "socks5"]),
    st.sampled_from(["example.com", "Example.com", "user@example.com", "[2001:db8::1]", "[fe80::1%25eth0]", "192.0.2.1"]),
    st.just("") | ports.map(":{}".format),
    st.from_regex(r"(/[A-Za-z0-9%._~:@-]{0,8}){0,3}", fullmatch=True),
    st.from_regex(r"(\?[a-z=&/?]{0,8})?(#[a-z]{0,4})?", fullmatch=True),
).map(URLEndpoint)


@given(host_ports | services | unix | urls)
def test_text_comes_back_as_the_same_endpoint(endpoint: Endpoint) -> None:
    again = Endpoint.parse(str(endpoint))
    assert again == endpoint
    assert type(again) is type(endpoint)
    assert hash(again) == hash(endpoint)
    assert str(again) == str(endpoint)
    assert type(endpoint).parse(str(endpoint)) == endpoint
    assert to_endpoint(endpoint) is endpoint
    assert pickle.loads(pickle.dumps(endpoint)) == endpoint


@given(st.text())
def test_any_text_is_an_endpoint_or_a_value_error(text: str) -> None:
    for candidate in (text, f"{text}:1", f"[{text}]:1", f"unix:{text}", f"service:{text}", f"ws://{text}"):
        try:
            endpoint = Endpoint.parse(candidate)
        except ValueError:
            continue
        assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("text", "endpoint", "back"),
    [
        ("example.com:443", HostPort("example.com", 443), "example.com:443"),
        ("EXAMPLE.com.:https", HostPort("example.com.", 443), "example.com.:443"),
        ("192.0.2.1:any", HostPort("192.0.2.1", 0), "192.0.2.1:0"),
        ("[FE80:0::1%eth0]:443", HostPort("fe80::1%eth0", 443), "[fe80::1%eth0]:443"),
        ("[example.com]:1", HostPort("example.com", 1), "example.com:1"),
        ("[unix]:80", HostPort("unix", 80), "[unix]:80"),
        ("BÜCHER.example:1", HostPort("BÜCHER.example", 1), "BÜCHER.example:1"),
        ("unix:/run/x.sock", UnixEndpoint("/run/x.sock"), "unix:/run/x.sock"),
        ("unix:///run/x.sock", UnixEndpoint("/run/x.sock"), "unix:/run/x.sock"),
        ("unix:@name", UnixEndpoint("\0name"), "unix:@name"),
        ("unix:./@name", UnixEndpoint("./@name"), "unix:./@name"),
        ("unix:80", UnixEndpoint("80"), "unix:80"),
        ("wss://example.com/chat", URLEndpoint("wss://example.com/chat"), "wss://example.com/chat"),
        ("service:Room._game._tcp.local", ServiceEndpoint("Room", "_game._tcp"), "service:Room._game._tcp.local."),
        (
            r"service:Dr\. A\\B._Game._TCP.local.%eth0.5",
            ServiceEndpoint("Dr. A\\B", "_game._tcp", "local.", "eth0.5"),
            r"service:Dr\. A\\B._game._tcp.local.%eth0.5",
        ),
    ],
)
def test_text_forms(text: str, endpoint: Endpoint, back: str) -> None:
    assert Endpoint.parse(text) == endpoint
    assert str(endpoint) == back


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected host:port"),
        ("example.com", "expected host:port"),
        ("::1:443", r"'\[::1\]:443', got '::1:443'"),
        ("::1", "expected host:port"),
        ("/run/x.sock", "unix:path"),
        (":80", "for all addresses use '::' or '0.0.0.0'"),
        ("[::1:443", "expected host:port"),
        ("[::1]443", "expected host:port"),
        ("[::g]:443", r"DNS name or an IP address, got '\[::g\]'"),
        ("300.1.1.1:80", "IP address such as '192.0.2.1', got '300.1.1.1'"),
        ("127.1:80", "got '127.1'"),
        ("192.0.2.1%eth0:80", "got '192.0.2.1%eth0'"),
        ("[fe80::1%]:80", "got"),
        ("[fe80::1%a b]:80", "interface must be a name such as 'eth0' or a number, got 'a b'"),
        ("a b:80", "got 'a b'"),
        ("a..b:80", "got 'a..b'"),
        ("user@example.com:80", "got 'user@example.com'"),
        (f"{'a' * 64}:80", "DNS name or an IP address"),
        (f"{'a.' * 127}b:80", "DNS name or an IP address"),
        ("example.com:", "port must be 0 to 65535 or one of any, ssh,.* got ''"),
        ("example.com:gopher", "got 'gopher' in 'example.com:gopher'"),
        ("example.com:65536", "port must be 0 to 65535, got 65536"),
        ("example.com:-1", "got '-1'"),
        ("example.com:+1", r"got '\+1'"),
        ("example.com:٣", "got '٣'"),
        ("example.com:1_0", "got '1_0'"),
        ("unix:", "must be a path or '@' and an abstract name, got ''"),
        ("unix:@", "got '@'"),
        ("unix:a\0b", r"got 'a\\x00b'"),
        ("unix:" + "é" * 54, "at most 107 bytes, got 108: 'é"),
        ("unix:@" + "a" * 108, "at most 107 bytes, got 108"),
        ("unix:\ud800", "UTF-8"),
        ("service:80", r"expected service:name\._type\._tcp\.domain.*written '\[service\]:port'"),
        ("service:a._game._tcp", "expected service:"),
        (r"service:Living\032Room._game._tcp.local.", "escaped"),
        ("service:a._game._sctp.local.", "must look like '_game._tcp' or '_game._udp', got '_game._sctp'"),
        ("service:a.game._tcp.local.", "got 'game._tcp'"),
        ("service:a._game._tcp.local..", "got 'local..'"),
        ("service:a._game._tcp.local.%a b", "interface must be a name"),
        ("service:a\n._game._tcp.local.", "without control characters"),
        (f"service:{'é' * 32}._game._tcp.local.", r"1 to 63 bytes of UTF-8.*\(64 bytes\)"),
        ("://example.com", "must begin with a scheme"),
        ("1a://example.com", "must begin with a scheme"),
        ("file:///etc/hosts", "must name a host and a port"),
        ("wss:///chat", "must name a host and a port"),
        ("wss://example.com:99999/", "must name a host and a port.*range"),
        ("wss://example.com:x/", "must name a host and a port"),
        ("wss://exa mple.com/", "percent-encoded"),
        ("wss://example.com/a b", "percent-encoded"),
        ("wss://example.com/\r\nX: y", "percent-encoded"),
        ("wss://[::1/", "must name a host and a port"),
        ("http+unix://%2Frun%2Fx.sock/", r"for 'http\+unix' use another endpoint"),
    ],
)
def test_bad_text(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Endpoint.parse(text)


@pytest.mark.parametrize(
    ("make", "values", "said"),
    [
        (HostPort, ("example.com", "443"), "port must be an int, got '443'"),
        (HostPort, ("example.com", True), "port must be an int, got True"),
        (HostPort, (b"example.com", 443), "host must be a str, got b'example.com'"),
        (UnixEndpoint, (b"/run/x",), "Unix socket path must be a str, got b'/run/x'"),
        (URLEndpoint, (None,), "URL must be a str, got None"),
        (ServiceEndpoint, ("a", None), "service type must be a str, got None"),
        (ServiceEndpoint, ("a", "_game._tcp", "local.", 3), "service interface must be a str, got 3"),
        (Endpoint.parse, (443,), "endpoint must be a str, got 443"),
    ],
)
def test_wrong_types(make: Callable[..., Endpoint], values: tuple[Any, ...], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        make(*values)


def test_parse_of_one_kind_refuses_the_others() -> None:
    assert HostPort.parse("a:1").port == 1
    with pytest.raises(ValueError, match="expected the text of a HostPort, got 'unix:a', a UnixEndpoint"):
        HostPort.parse("unix:a")
    with pytest.raises(ValueError, match="port must be 0 to 65535, got -1"):
        HostPort("a", -1)


def test_hosts_of_one_meaning_are_equal() -> None:
    assert HostPort("Example.COM", 1) == HostPort("example.com", 1)
    assert HostPort("2001:DB8:0:0::1", 1) == HostPort("[2001:db8::1]", 1)
    assert HostPort("fe80::1%eth0", 1) != HostPort("fe80::1%eth1", 1)
    assert len({HostPort("A", 1), HostPort("a", 1), HostPort("a", 2)}) == 2


def test_addresses_are_told_from_names() -> None:
    told = [(one.is_literal, one.version, one.interface) for one in map(HostPort, ("a.b", "::1", "1.2.3.4"), (1, 1, 1))]
    assert told == [(False, None, None), (True, 6, None), (True, 4, None)]
    assert HostPort("fe80::1%Eth0", 1).interface == "Eth0"


def test_services_of_one_name_are_equal() -> None:
    assert ServiceEndpoint("A", "_game._tcp.", "local") == ServiceEndpoint("A", "_Game._tcp", "LOCAL.")
    assert ServiceEndpoint("A", "_game._tcp") != ServiceEndpoint("A", "_game._tcp", interface="eth0")
    assert ServiceEndpoint("a.b", "_game._tcp").full_name == r"a\.b._game._tcp.local."


def test_unix_limits() -> None:
    assert UnixEndpoint("a" * 107).path == "a" * 107
    assert UnixEndpoint("@" + "a" * 107).is_abstract
    assert UnixEndpoint("\0@x") == UnixEndpoint("@@x") == Endpoint.parse("unix:@@x")
    assert not UnixEndpoint("/x").is_abstract


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("wss://example.com", ("wss", "example.com", 443, "/", "/")),
        ("WSS://Example.com:8443/a?b=c#d", ("wss", "example.com", 8443, "/a", "/a?b=c")),
        ("http://[2001:db8::1]/", ("http", "2001:db8::1", 80, "/", "/")),
        ("ws://[fe80::1%25eth0]/", ("ws", "fe80::1%eth0", 80, "/", "/")),
        ("https://192.0.2.1:0/x", ("https", "192.0.2.1", 0, "/x", "/x")),
        ("socks5://proxy", ("socks5", "proxy", 0, "/", "/")),
        ("ws://a:/?q", ("ws", "a", 80, "/", "/?q")),
    ],
)
def test_url_parts(url: str, parts: tuple[str, str, int, str, str]) -> None:
    endpoint = URLEndpoint(url)
    assert (endpoint.scheme, endpoint.host, endpoint.port, endpoint.path, endpoint.target) == parts
    assert endpoint.host_port == HostPort(parts[1], parts[2])


class Printer:
    def __init__(self, gives: object) -> None:
        self.gives = gives

    def __repr__(self) -> str:
        return f"Printer({self.gives!r})"

    def to_endpoint(self) -> Any:
        return self.gives


@pytest.mark.parametrize(
    ("value", "endpoint"),
    [
        ("unix:/x", UnixEndpoint("/x")),
        (("Example.com", 443), HostPort("example.com", 443)),
        (("fe80::1", 443, 0, 3), HostPort("fe80::1%3", 443)),
        (("fe80::1%eth0", 443, 0, 3), HostPort("fe80::1%eth0", 443)),
        (("::1", 443, 7, 0), HostPort("::1", 443)),
        (Printer(HostPort("a", 1)), HostPort("a", 1)),
    ],
)
def test_what_stands_for_an_endpoint(value: Any, endpoint: Endpoint) -> None:
    assert to_endpoint(value) == endpoint


def test_addresses_of_real_sockets_are_endpoints() -> None:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with closing(socket.socket(family)) as sock:
            sock.bind((address, 0))
            endpoint = to_endpoint(sock.getsockname())
            assert endpoint == HostPort(address, sock.getsockname()[1])


@pytest.mark.parametrize(
    "value",
    [None, 443, b"a:1", ["a", 1], ("a", "1"), ("a", True), ("a",), ("::1", 1, 0), (1, "a"), Printer("a:1"), Printer],
    ids=repr,
)
def test_other_kinds_are_refused_with_the_value(value: Any) -> None:
    with pytest.raises(TypeError) as caught:
        to_endpoint(value)
    if value is not Printer:  # a class that was not instantiated fails in its own method
        assert isinstance(caught.value, UnexpectedEndpointTypeError)
        assert "expected an endpoint, its text, a (host, port) tuple" in str(caught.value)
        assert caught.value.endpoint == value or isinstance(value, Printer)


def test_connectable_is_a_matter_of_shape() -> None:
    assert isinstance(Printer(None), Connectable)
    assert not isinstance(HostPort("a", 1), Connectable)


def test_endpoints_are_values() -> None:
    endpoint: Any = HostPort("a", 1)
    with pytest.raises(AttributeError):
        endpoint.port = 2
    for cls in (HostPort, ServiceEndpoint, UnixEndpoint, URLEndpoint):
        assert not hasattr(object.__new__(cls), "__dict__")
    assert repr(HostPort("::1", 1)) == "HostPort(host='::1', port=1)"


def test_the_module_does_no_io() -> None:
    tree = ast.walk(ast.parse(inspect.getsource(module)))
    imported = {
        name.split(".")[0]
        for node in tree
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert not imported & {"asyncio", "socket", "ssl"}


@given(st.ip_addresses())
def test_addresses_are_canonical(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert HostPort(address.exploded, 1) == HostPort(str(address), 1)
    assert HostPort(address.exploded, 1).host == str(address)
    assert HostPort(str(address), 1).version == address.version


@pytest.mark.parametrize(
    ("host", "is_multicast"),
    [
        ("224.0.0.0", True), ("239.255.255.255", True), ("ff02::fb", True), ("ff02::fb%eth0", True),
        ("223.255.255.255", False), ("240.0.0.0", False), ("fe80::1%eth0", False), ("example.com", False), ("ff.example", False),
    ],
)  # fmt: skip
def test_multicast_addresses(host: str, is_multicast: bool) -> None:
    assert HostPort(host, 1).is_multicast is is_multicast
