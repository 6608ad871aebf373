"""Where a connection goes to or comes from, as values that resolve nothing by themselves.

Every kind has one text form, and ``Endpoint.parse(str(endpoint)) == endpoint``:

    HostPort         example.com:443   192.0.2.1:443   [fe80::1%eth0]:443
    UnixEndpoint     unix:/run/x.sock  unix:@abstract
    URLEndpoint      wss://example.com/chat
    ServiceEndpoint  service:Living Room._game._tcp.local.   service:Dr\\. Who._game._tcp.local.%eth0

What can be written in several ways is brought into one at construction, so that plain equality and hashing suffice.
"""

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeAlias, runtime_checkable

from tieline.errors import UnexpectedEndpointTypeError
from tieline.values import Value, value

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_PORTS: Final = {
    "any": 0, "ssh": 22, "smtp": 25, "http": 80, "pop": 110, "imap": 143, "https": 443, "imaps": 993, "socks": 1080,
}  # fmt: skip
_URL_PORTS: Final = {"https": 443, "wss": 443, "http": 80, "ws": 80}
_HOSTS_KEPT: Final = 1024  # texts whose meaning is remembered: a program has few, and connects to them again and again
_UNIX_PATH_LIMIT: Final = 107  # sun_path of Linux is 108 bytes with the NUL that ends a path or begins an abstract name
_NAME_LIMIT, _LABEL_LIMIT = 253, 63  # RFC 1035 section 2.3.4, in text form

# Text that has a meaning of its own in a text form cannot be part of a host or an interface name.
_PLAIN: Final = re.compile(r"[^\s\x00-\x20\x7f\[\]:/%@?#\\]+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SERVICE_TYPE: Final = re.compile(r"_[a-z0-9_-]{1,62}\._(?:tcp|udp)")
_SERVICE: Final = re.compile(
    r"(?P<name>(?:\\[.\\]|[^.\\])+)\.(?P<type>[^.]+\.[^.]+)\.(?P<domain>[^%]+)(?:%(?P<interface>.+))?", re.DOTALL
)


@value
class Endpoint(Value):
    """One side of a connection: a `HostPort`, `ServiceEndpoint`, `UnixEndpoint` or `URLEndpoint`."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The endpoint that ``str()`` wrote as `text`; a port may also be a name such as ``https``.

        Called on a subclass, it takes that kind only. Raises `ValueError` for any other text.
        """
        _require_str("endpoint", text)
        endpoint: Endpoint
        if text.startswith("unix:"):
            endpoint = UnixEndpoint(text.removeprefix("unix:"))
        elif text.startswith("service:"):
            endpoint = _parse_service(text)
        elif "://" in text:
            endpoint = URLEndpoint(text)
        else:
            endpoint = _parse_host_port(text)
        if not isinstance(endpoint, cls):
            raise ValueError(f"expected the text of a {cls.__name__}, got {text!r}, a {type(endpoint).__name__}")
        return endpoint


@value
class HostPort(Endpoint):
    """A name or an IP address, and a port (0 to 65535; 0 means any).

    An address is kept in its canonical form, an ASCII name in lower case. An IPv6 address may be given in brackets and
    may carry a scope, the interface's name or number after ``%``. Raises `ValueError` for anything that is neither a
    name nor an address, and `TypeError` for a port that is no `int`.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        if type(self.host) is not str or type(self.port) is not int or not 0 <= self.port <= 65535:
            _require_str("host", self.host)
            _require_port(self.port)
        object.__setattr__(self, "host", _normal_host(self.host))

    def __str__(self) -> str:
        # Brackets where the bare host would be read as something else.
        bracketed = ":" in self.host or self.host in ("unix", "service")
        return f"[{self.host}]:{self.port}" if bracketed else f"{self.host}:{self.port}"

    @property
    def is_literal(self) -> bool:
        """Whether the host is an IP address, which needs no resolving."""
        return _literal(self.host) is not None

    @property
    def version(self) -> int | None:
        """The IP version of an address, 4 or 6; `None` for a name."""
        literal = _literal(self.host)
        return None if literal is None else literal.version

    @property
    def is_multicast(self) -> bool:
        """Whether the host is the address of a multicast group (RFC 5771, RFC 4291 section 2.7)."""
        literal = _literal(self.host)
        return literal is not None and literal.is_multicast

    @property
    def interface(self) -> str | None:
        """The scope of an IPv6 address, an interface's name or number as it was given; otherwise `None`."""
        return self.host.partition("%")[2] or None


@value
class ServiceEndpoint(Endpoint):
    """A DNS-SD service instance, found by browsing; `interface` names the one it was seen on, if that matters.

    `name` is free text of at most 63 bytes without control characters; `type` is ``_application._tcp`` or ``._udp``.
    Type and domain are kept in lower case, the type without a dot at its end, the domain with one. Raises `ValueError`.

    The text form is ``service:`` and the full name with the escapes of RFC 6763 section 4.3, that is ``\\.`` and
    ``\\\\`` within `name`, then ``%`` and the interface if there is one.
    """

    name: str
    type: str
    domain: str = "local."
    interface: str | None = None

    def __post_init__(self) -> None:
        for what in ("name", "type", "domain"):
            _require_str(f"service {what}", getattr(self, what))
        size = len(_encoded("service name", self.name, "strict"))
        if not 1 <= size <= _LABEL_LIMIT or _CONTROL.search(self.name):
            raise ValueError(
                f"service name must be 1 to {_LABEL_LIMIT} bytes of UTF-8 without control characters, "
                f"got {self.name!r} ({size} bytes)"
            )
        kind = self.type.lower().removesuffix(".")
        if not _SERVICE_TYPE.fullmatch(kind):
            raise ValueError(f"service type must look like '_game._tcp' or '_game._udp', got {self.type!r}")
        domain = _folded(self.domain.removesuffix("."))
        if not all(domain.split(".")) or len(domain) > _NAME_LIMIT or "%" in domain or _CONTROL.search(domain):
            raise ValueError(f"service domain must be a DNS name such as 'local.', got {self.domain!r}")
        if self.interface is not None:
            _require_str("service interface", self.interface)
            _require_interface(self.interface)
        object.__setattr__(self, "type", kind)
        object.__setattr__(self, "domain", f"{domain}.")

    @property
    def full_name(self) -> str:
        """The DNS name of the instance, with the dots and backslashes of `name` escaped."""
        escaped = self.name.replace("\\", r"\\").replace(".", r"\.")
        return f"{escaped}.{self.type}.{self.domain}"

    def __str__(self) -> str:
        return f"service:{self.full_name}" + (f"%{self.interface}" if self.interface else "")


@value
class UnixEndpoint(Endpoint):
    """The path of a Unix-domain socket, or on Linux an abstract name: ``"@name"``, kept as ``"\\0name"``.

    Bytes that are not UTF-8 are escaped as `os.fsdecode` does. A file whose name begins with ``@`` is ``"./@name"``;
    several slashes at the beginning count as one, so ``unix:///run/x.sock`` is ``/run/x.sock``. Raises `ValueError` if
    the path is empty, contains a NUL or has more than 107 bytes.
    """

    path: str

    def __post_init__(self) -> None:
        _require_str("Unix socket path", self.path)
        path = self.path
        if path.startswith("@"):
            path = "\0" + path[1:]
        elif path.startswith("//"):
            path = "/" + path.lstrip("/")
        abstract = path.startswith("\0")
        name = path[1:] if abstract else path
        size = len(_encoded("Unix socket path", name, "surrogateescape"))
        if size > _UNIX_PATH_LIMIT:
            raise ValueError(f"Unix socket path must have at most {_UNIX_PATH_LIMIT} bytes, got {size}: {self.path!r}")
        if not name or ("\0" in name and not abstract):
            raise ValueError(f"Unix socket path must be a path or '@' and an abstract name, got {self.path!r}")
        object.__setattr__(self, "path", path)

    @property
    def is_abstract(self) -> bool:
        """Whether the name lives in Linux's abstract namespace and not in the file system."""
        return self.path.startswith("\0")

    def __str__(self) -> str:
        return f"unix:@{self.path[1:]}" if self.is_abstract else f"unix:{self.path}"


@value
class URLEndpoint(Endpoint):
    """A URL with scheme and host; the port defaults to 443 for https and wss, 80 for http and ws, 0 for others.

    The text is kept as it was given. Raises `ValueError` for a URL without scheme or host, with spaces or control
    characters, or of a kind that stands for a Unix socket (`UnixEndpoint` does that).
    """

    url: str

    def __post_init__(self) -> None:
        _require_str("URL", self.url)
        scheme = _SCHEME.match(self.url)
        if scheme is None:
            raise ValueError(f"URL must begin with a scheme, such as 'wss://example.com/chat', got {self.url!r}")
        kind = scheme[1].lower()
        if kind in ("unix", "service") or kind.endswith("+unix"):
            raise ValueError(f"URL must name a host and a port; for {kind!r} use another endpoint, got {self.url!r}")
        if _CONTROL.search(self.url) or " " in self.url:
            raise ValueError(f"URL must have its spaces and control characters percent-encoded, got {self.url!r}")
        try:
            self.host_port  # noqa: B018  # what it raises is what is wrong
        except ValueError as error:
            raise ValueError(f"URL must name a host and a port, got {self.url!r}: {error}") from None

    def __str__(self) -> str:
        return self.url

    @property
    def _parts(self) -> "SplitResult":
        from urllib.parse import urlsplit

        return urlsplit(self.url)

    @property
    def scheme(self) -> str:
        """The scheme in lower case."""
        return self._parts.scheme

    @property
    def host(self) -> str:
        """The host as in `HostPort.host`."""
        return self.host_port.host

    @property
    def port(self) -> int:
        """The port of the URL, else the default of the scheme, else 0."""
        return self.host_port.port

    @property
    def path(self) -> str:
        """The path without the query, ``"/"`` if the URL has none."""
        return self._parts.path or "/"

    @property
    def target(self) -> str:
        """What an HTTP request line takes: the path and, after ``?``, the query."""
        return f"{self.path}?{self._parts.query}" if self._parts.query else self.path

    @property
    def host_port(self) -> HostPort:
        """Where to connect to."""
        parts = self._parts
        # The "%" before an IPv6 scope is itself percent-encoded in a URL: RFC 6874.
        host = (parts.hostname or "").replace("%25", "%", 1)
        return HostPort(host, _URL_PORTS.get(parts.scheme, 0) if parts.port is None else parts.port)


@runtime_checkable
class Connectable(Protocol):
    """Anything besides an endpoint that a connection can be made to, such as a browser's result."""

    def to_endpoint(self) -> Endpoint:
        """The endpoint to connect to."""
        ...


_host_port = lru_cache(_HOSTS_KEPT)(HostPort)
EndpointLike: TypeAlias = Endpoint | str | tuple[str, int] | tuple[str, int, int, int] | Connectable


def to_endpoint(value: EndpointLike) -> Endpoint:
    """`value` as an endpoint: one already, its text, a `Connectable`, or a tuple as sockets name an Internet address.

    The fourth item of an IPv6 tuple becomes the scope. Raises `UnexpectedEndpointTypeError` for a value of another
    kind, and `ValueError` for text or a tuple that is no endpoint.
    """
    if type(value) is tuple and len(value) == 2 and type(value[0]) is str and type(value[1]) is int:
        return _host_port(value[0], value[1])
    match value:
        case Endpoint():
            return value
        case str():
            return Endpoint.parse(value)
        case tuple((str(host), int(port))) if not isinstance(port, bool):
            return HostPort(host, port)
        case tuple((str(host), int(port), int(), int(scope))) if not isinstance(port, bool):
            return HostPort(f"{host}%{scope}" if scope and "%" not in host else host, port)
        case Connectable():
            endpoint = value.to_endpoint()
            if isinstance(endpoint, Endpoint):  # pyright: ignore[reportUnnecessaryIsInstance]
                return endpoint
        case _:
            pass
    raise UnexpectedEndpointTypeError(
        f"expected an endpoint, its text, a (host, port) tuple or something with to_endpoint(), got {value!r}",
        endpoint=value,
    )


def _parse_host_port(text: str) -> HostPort:
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        raise ValueError(
            f"expected host:port, [IPv6 address]:port, unix:path, service:name or a URL, such as 'example.com:443' or "
            f"'[::1]:443', got {text!r}"
        )
    if port.isascii() and port.isdigit() and len(port) <= 5:
        return HostPort(host, int(port))
    if port not in _PORTS:
        raise ValueError(f"port must be 0 to 65535 or one of {', '.join(_PORTS)}, got {port!r} in {text!r}")
    return HostPort(host, _PORTS[port])


def _parse_service(text: str) -> ServiceEndpoint:
    match = _SERVICE.fullmatch(text.removeprefix("service:"))
    if match is None:
        raise ValueError(
            f"expected service:name._type._tcp.domain. with '.' and '\\' of the name escaped by '\\', got {text!r} "
            f"(a host of this name is written '[service]:port')"
        )
    name, kind, domain, interface = match.group("name", "type", "domain", "interface")
    return ServiceEndpoint(re.sub(r"\\(.)", r"\1", name), kind, domain, interface)


def ip_of(endpoint: HostPort) -> IPv4Address | IPv6Address:
    """The address of an endpoint that has one and no name, with its scope."""
    address = _literal(endpoint.host)
    assert address is not None  # the caller knows
    return address


@lru_cache(_HOSTS_KEPT)
def is_loopback(host: str) -> bool:
    """Whether a host is an address of this machine for itself."""
    address = _literal(host)
    return address is not None and address.is_loopback


@lru_cache(_HOSTS_KEPT)
def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


@lru_cache(_HOSTS_KEPT)
def _normal_host(host: str) -> str:
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    literal = _literal(bare)
    if literal is not None:
        if isinstance(literal, IPv6Address) and literal.scope_id is not None:
            _require_interface(literal.scope_id)
        return str(literal)
    labels = bare.removesuffix(".").split(".")
    longest = max(len(label) for label in labels)
    if not _PLAIN.fullmatch(bare) or not all(labels) or longest > _LABEL_LIMIT or len(bare) > _NAME_LIMIT + 1:
        hint = "; for all addresses use '::' or '0.0.0.0'" if not host else ""
        raise ValueError(f"host must be a DNS name or an IP address, got {host!r}{hint}")
    # No top-level domain is a number, and resolvers read such names as addresses of their own making ("127.1").
    if len(labels) > 1 and labels[-1].isdigit():
        raise ValueError(f"host must be a DNS name or an IP address such as '192.0.2.1', got {host!r}")
    return _folded(bare)


def _folded(name: str) -> str:
    """DNS compares ASCII letters without case; what other letters do is for IDNA to say, when the name is resolved."""
    return name.lower() if name.isascii() else name


def _encoded(what: str, text: str, errors: str) -> bytes:
    try:
        return text.encode("utf-8", errors)
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} must be text that UTF-8 can encode, got {text!r}: {error.reason}") from None


def _require_interface(name: str) -> None:
    if not _PLAIN.fullmatch(name):
        raise ValueError(f"interface must be a name such as 'eth0' or a number, got {name!r}")


def _require_port(port: object) -> None:
    # bool is an int to Python, but True is no port to anybody.
    if not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"port must be an int, got {port!r}")
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be 0 to 65535, got {port}")


def _require_str(what: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, got {value!r}")
