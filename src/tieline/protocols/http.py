"""HTTP/1.1 requests and responses as values: what a WebSocket's handshake consists of."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tieline.protocols.checks import require_range
from tieline.values import Value, value

__all__ = ["BODILESS", "HTTPRequest", "HTTPResponse", "Headers", "checked_headers", "header"]

Headers = tuple[tuple[str, str], ...]

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""What a header's name consists of, and a subprotocol's (RFC 9110 section 5.6.2)."""
BODILESS = (204, 304)
_VALUE = re.compile(r"[\t \x21-\x7e\x80-\xff]*")


def header(headers: Iterable[tuple[str, str]], name: str) -> str | None:
    """The value of a header, its case aside; of several the list (RFC 9110 section 5.3); None without one."""
    values = [value for key, value in headers if key.lower() == name.lower()]
    return ", ".join(values) if values else None


def checked_headers(option: str, headers: Iterable[tuple[str, str]]) -> Headers:
    """Pairs of name and value, as a tuple. Raises TypeError and ValueError for what cannot be sent."""
    checked: list[tuple[str, str]] = []
    pair: Any
    for pair in headers:
        match pair:
            case (str(name), str(value)):
                pass
            case _:
                raise TypeError(f"each of {option} must be a (name, value) pair of texts, got {pair!r}")
        if not TOKEN.fullmatch(name):
            raise ValueError(f"each of {option} must have a header's name, got {name!r}")
        if not _VALUE.fullmatch(value) or value != value.strip():
            raise ValueError(f"{option}: {name} must be Latin-1 without control characters and outer spaces, got {value!r}")
        checked.append((name, value))
    return tuple(checked)


@value
class HTTPRequest(Value):
    """What a client asked for: `target` is the path and the query, `headers` are as they came, repeated ones too."""

    method: str
    target: str
    headers: Headers = ()

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def header(self, name: str) -> str | None:
        """The value of a header, its case aside; of several the list; None without one."""
        return header(self.headers, name)


@value
class HTTPResponse(Value):
    """What a server answers. ``Content-Length`` and ``Connection: close`` are added; a text `body` is sent as UTF-8.

    Without a ``Content-Type`` among `headers`, a text is ``text/plain``. Status 204 and 304 have no body (RFC 9110 section 15).
    """

    status: int = 200
    headers: Iterable[tuple[str, str]] = ()
    body: bytes | str = b""

    def __post_init__(self) -> None:
        require_range("status", self.status, 200, 599)
        object.__setattr__(self, "headers", checked_headers("headers", self.headers))
        if not isinstance(self.body, (bytes, str)):
            raise TypeError(f"body must be bytes or a text, got {self.body!r}")
        if self.body and self.status in BODILESS:
            raise ValueError(f"status {self.status} has no body, got one of {len(self.body):,}")
        for name in ("Content-Length", "Transfer-Encoding"):
            if header(self.headers, name) is not None:
                raise ValueError(f"{name} follows from the body, got it among headers")
