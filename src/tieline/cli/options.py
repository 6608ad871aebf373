"""The options that `connect` and `listen` share, and the protocol stack that they make."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from tieline.endpoints import Endpoint
from tieline.identity import Identity, Trust
from tieline.paths import InterfaceType
from tieline.protocols.ip import IP, IPVersion
from tieline.protocols.roles import NetworkProtocol
from tieline.protocols.security import PeerAuthentication, TLSVersion
from tieline.protocols.tcp import TCP
from tieline.protocols.tls import TLS
from tieline.protocols.udp import UDP
from tieline.quic import QUIC
from tieline.values import Value, value

__all__ = [
    "ENDPOINT",
    "FILE",
    "INTERFACE_TYPES",
    "Security",
    "adding",
    "ip_options",
    "ip_version",
    "security_options",
    "usage",
]

Command = TypeVar("Command", bound=Callable[..., Any])

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
QUIC_ALPN = "tieline"  # QUIC does not go without a name, so this one stands for bytes of no particular protocol
QUIC_KEEPALIVE = 10.0  # seconds; a third of the default idle timeout, so that a lost packet or two do no harm
VERSIONS = {"1.2": TLSVersion.TLSv1_2, "1.3": TLSVersion.TLSv1_3}


class EndpointType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    """An endpoint in its text form."""

    name = "endpoint"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Endpoint:
        try:
            return value if isinstance(value, Endpoint) else Endpoint.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


ENDPOINT = EndpointType()


def adding(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """A decorator that adds several options, which the help shows in this order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


ip_options = adding(
    click.option("-4", "ipv4", is_flag=True, help="IPv4 only."),
    click.option("-6", "ipv6", is_flag=True, help="IPv6 only."),
    click.option("--interface", metavar="NAME", help="Over this network interface only."),
)

INTERFACE_TYPES = {"wired": InterfaceType.WIRED, "wifi": InterfaceType.WIFI, "cellular": InterfaceType.CELLULAR,
                   "other": InterfaceType.OTHER, "loopback": InterfaceType.LOOPBACK}  # fmt: skip


def ip_version(*, ipv4: bool, ipv6: bool) -> IP:
    """The network layer that the options ask for."""
    if ipv4 and ipv6:
        raise click.UsageError("-4 and -6 exclude each other")
    return IP(version=IPVersion.V4 if ipv4 else IPVersion.V6 if ipv6 else IPVersion.ANY)


# fmt: off
security_options = adding(
    click.option("--tls", is_flag=True, help="TLS over TCP. https:// and wss:// URLs mean it too."),
    click.option("--quic", is_flag=True, help="QUIC over UDP, which has TLS inside."),
    click.option("--alpn", metavar="NAME", multiple=True,
                 help=f"Application protocol to agree on; may be repeated. QUIC: {QUIC_ALPN} if not told."),
    click.option("--cert", type=FILE, metavar="FILE", help="Our certificate chain, PEM."),
    click.option("--key", type=FILE, metavar="FILE", help="Its private key, PEM, if that is not in the same file."),
    click.option("--tls-min", type=click.Choice(list(VERSIONS)), help="The oldest version of TLS to accept."),
    click.option("--tls-max", type=click.Choice(list(VERSIONS)), help="The newest version of TLS to accept."),
    click.option("--keylog", type=click.Path(dir_okay=False), metavar="FILE", help="Append secrets, for Wireshark."),
)
# fmt: on


@value(kw_only=True)
class Security(Value):
    """What the command line says about security. All but `tls` and `quic` need one of these."""

    tls: bool
    quic: bool
    alpn: Sequence[str]
    cert: Path | None
    key: Path | None
    tls_min: str | None
    tls_max: str | None
    keylog: str | None
    server_name: str | None = None
    ca: Path | None = None
    pin: Sequence[str] = ()
    insecure: bool = False
    self_signed: str | None = None
    client_ca: Path | None = None

    def require_sense(self, *, udp: bool) -> None:
        """Raise if an option was given that would be ignored: security that was asked for must not be missing."""
        chosen = [f"--{name}" for name, is_chosen in (("udp", udp), ("tls", self.tls), ("quic", self.quic)) if is_chosen]
        if len(chosen) > 1:
            raise click.UsageError(f"{' and '.join(chosen)} exclude each other")
        given = [one.name for one in fields(self) if getattr(self, one.name)]
        if given and not (self.tls or self.quic):
            raise click.UsageError(f"{', '.join(f'--{name}' for name in given).replace('_', '-')}: needs --tls or --quic")

    @property
    def identity(self) -> Identity | None:
        """Who we are."""
        if self.self_signed is not None:
            if self.cert is not None:
                raise click.UsageError("--self-signed and --cert exclude each other")
            return Identity.self_signed(self.self_signed)
        if self.key is not None and self.cert is None:
            raise click.UsageError("--key needs --cert")
        return None if self.cert is None else Identity.from_files(self.cert, self.key)

    @property
    def trust(self) -> Trust:
        """Whom we believe."""
        if sum(map(bool, (self.ca, self.pin, self.insecure))) > 1:
            raise click.UsageError("--ca, --pin and --insecure exclude each other")
        roots = self.ca or self.client_ca
        if roots is not None:
            return Trust.certificates(roots.read_bytes())
        return Trust.fingerprints(*self.pin) if self.pin else Trust.system()

    @property
    def peer_authentication(self) -> PeerAuthentication | None:
        """How far the peer must prove who it is; None is as usual for the role."""
        if self.client_ca is not None:
            return PeerAuthentication.REQUIRED
        return PeerAuthentication.NONE if self.insecure else None

    def stack(self, ip: IP, **quic: Any) -> NetworkProtocol:
        """TLS or QUIC as the options say, or TCP alone; `quic` are options of QUIC's own."""
        if not (self.tls or self.quic):
            return TCP(ip)
        options: dict[str, Any] = {
            "alpn": self.alpn,
            "identity": self.identity,
            "trust": self.trust,
            "server_name": self.server_name,
            "peer_authentication": self.peer_authentication,
            "minimum_version": VERSIONS[self.tls_min] if self.tls_min else None,
            "maximum_version": VERSIONS[self.tls_max] if self.tls_max else None,
            "keylog_file": self.keylog,
        }
        if self.tls:
            return TLS(TCP(ip), **options)
        # Nothing that either command does needs unidirectional streams.
        options |= {"alpn": self.alpn or [QUIC_ALPN], "initial_max_unidirectional_streams": 0, "keepalive": QUIC_KEEPALIVE}
        return QUIC(UDP(ip), **options, **quic)


@contextmanager
def usage() -> Generator[None]:
    """What the library refuses to construct is a mistake of the command line."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None
