"""What permessage-deflate is agreed on with: the handshake's parameters (RFC 7692 section 7.1), without the compressing."""

from __future__ import annotations

import re
from typing import TypeAlias

from tieline.protocols.websocket import Deflate
from tieline.values import Value, value

__all__ = ["Agreement", "accept", "answer", "offer", "parse"]

NAME = "permessage-deflate"
FLAGS = ("server_no_context_takeover", "client_no_context_takeover")
BITS: tuple[str, ...] = ("server_max_window_bits", "client_max_window_bits")

_PART = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*(?:"([^"\\]*)"|([!#$%&\'*+.^_`|~0-9A-Za-z-]+))\s*)?([;,]|$)')

Parameters: TypeAlias = dict[str, str | None]


@value
class Agreement(Value):
    """Window bits and context takeover of both directions; None for a direction that we do not compress."""

    sending: tuple[int, bool] | None
    receiving: tuple[int, bool]


def parse(value: str) -> list[tuple[str, Parameters]]:
    """The extensions in a ``Sec-WebSocket-Extensions`` header, with parameters. Raises ValueError (RFC 6455 section 9.1)."""
    extensions: list[tuple[str, Parameters]] = []
    position, begins = 0, True
    while position < len(value):
        match = _PART.match(value, position)
        if match is None:
            raise ValueError(f"{value[position : position + 40]!r} is no extension and no parameter of one")
        name, quoted, plain, end = match.groups()
        argument = plain if quoted is None else quoted
        if begins:
            if argument is not None:
                raise ValueError(f"an extension's name has no value, got {name}={argument}")
            extensions.append((name, {}))
        else:
            parameters = extensions[-1][1]
            if name in parameters:
                raise ValueError(f"the parameter {name} occurs twice")
            parameters[name] = argument
        begins = end != ";"
        position = match.end()
    return extensions


def offer(options: Deflate) -> str:
    """What a client asks for."""
    bits = options.send_window_bits
    parts = [NAME, "client_max_window_bits" if bits == 15 else f"client_max_window_bits={bits}"]
    if options.receive_window_bits < 15:
        parts.append(f"server_max_window_bits={options.receive_window_bits}")
    if not options.send_context_takeover:
        parts.append("client_no_context_takeover")
    if not options.receive_context_takeover:
        parts.append("server_no_context_takeover")
    return "; ".join(parts)


def accept(options: Deflate, parameters: Parameters) -> Agreement:
    """A client reads what the server made of its offer. Raises ValueError where that is not what was offered."""
    theirs = _checked(parameters, bare=False)
    receive_bits = theirs["server_max_window_bits"] or 15
    if receive_bits > options.receive_window_bits:
        raise ValueError(f"server_max_window_bits is {receive_bits}, and at most {options.receive_window_bits} was asked for")
    if not options.receive_context_takeover and "server_no_context_takeover" not in parameters:
        raise ValueError("server_no_context_takeover was asked for, and is missing")
    send_bits = min(options.send_window_bits, theirs["client_max_window_bits"] or 15)
    takeover = options.send_context_takeover and "client_no_context_takeover" not in parameters
    return Agreement(
        (send_bits, takeover) if send_bits > 8 else None,  # the compressor knows no window of 8 bits
        (receive_bits, "server_no_context_takeover" not in parameters),
    )


def answer(options: Deflate, extensions: list[tuple[str, Parameters]]) -> tuple[str, Agreement] | None:
    """A server takes the first offer that it can fulfil: its answer, and what is agreed on with that."""
    for name, parameters in extensions:
        if name == NAME:
            try:
                theirs = _checked(parameters, bare=True)
            except ValueError:
                continue  # an offer that cannot be read is declined (RFC 7692 section 7)
            if theirs["server_max_window_bits"] != 8:
                return _agreed(options, parameters, theirs)
    return None


def _agreed(options: Deflate, parameters: Parameters, theirs: dict[str, int]) -> tuple[str, Agreement]:
    send_bits = min(options.send_window_bits, theirs["server_max_window_bits"] or 15)
    receive_bits = 15
    if "client_max_window_bits" in parameters:  # or else the client does not know how to keep to it
        receive_bits = min(options.receive_window_bits, theirs["client_max_window_bits"] or 15)
    send_takeover = options.send_context_takeover and "server_no_context_takeover" not in parameters
    receive_takeover = options.receive_context_takeover and "client_no_context_takeover" not in parameters
    parts = [NAME]
    if send_bits < 15 or "server_max_window_bits" in parameters:
        parts.append(f"server_max_window_bits={send_bits}")
    if receive_bits < 15:
        parts.append(f"client_max_window_bits={receive_bits}")
    if not send_takeover:
        parts.append("server_no_context_takeover")
    if not receive_takeover:
        parts.append("client_no_context_takeover")
    return "; ".join(parts), Agreement((send_bits, send_takeover), (receive_bits, receive_takeover))


def _checked(parameters: Parameters, *, bare: bool) -> dict[str, int]:
    """The window bits, 0 where they are not limited. A client's own may be `bare` in its offer. Raises ValueError."""
    bits: dict[str, int] = dict.fromkeys(BITS, 0)
    for name, given in parameters.items():
        if name in FLAGS:
            if given is not None:
                raise ValueError(f"{name} has no value, got {given!r}")
        elif name not in BITS:
            raise ValueError(f"{NAME} has no parameter {name}")
        elif given is None:
            if not bare or name == "server_max_window_bits":
                raise ValueError(f"{name} needs a value")
        elif not (given.isascii() and given.isdigit() and not given.startswith("0") and 8 <= int(given) <= 15):
            raise ValueError(f"{name} must be 8 to 15, got {given!r}")
        else:
            bits[name] = int(given)
    return bits
