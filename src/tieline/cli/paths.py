"""`tieline paths`: the path that this machine has to the network, and each change of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import click

from tieline.cli.options import INTERFACE_TYPES, usage
from tieline.cli.program import run
from tieline.monitor import PathMonitor
from tieline.paths import LinkQuality, Path

__all__ = ["paths"]


@click.command()
@click.option("--type", "required", type=click.Choice(list(INTERFACE_TYPES)), help="Only interfaces of this type.")
@click.option("--prohibit", type=click.Choice(list(INTERFACE_TYPES)), multiple=True,
              help="No interfaces of this type; may be repeated.")  # fmt: skip
@click.option("--once", is_flag=True, help="Only the present path, and not its changes.")
def paths(required: str | None, prohibit: Sequence[str], once: bool) -> None:
    """Show the interfaces that can be used, best first, and what is known of them; again after each change.

    Exit code 1 of --once tells that there is no usable path.
    """
    with usage():
        monitor = PathMonitor(
            required_interface_type=None if required is None else INTERFACE_TYPES[required],
            prohibited_interface_types=[INTERFACE_TYPES[one] for one in prohibit],
        )
    run(show(monitor, once=once))


async def show(monitor: PathMonitor, *, once: bool) -> None:
    """Print paths until interrupted."""
    async for path in monitor:
        click.echo(f"{datetime.now().astimezone():%H:%M:%S.%f} {described(path)}")
        if once:
            if not path.is_satisfied:
                raise SystemExit(1)
            return


def described(path: Path) -> str:
    """A path in a few lines."""
    if path.unsatisfied_reason is not None:
        return f"{path.status.value}: {path.unsatisfied_reason.value}"
    versions = [name for name, there in (("IPv4", path.supports_ipv4), ("IPv6", path.supports_ipv6)) if there]
    facts = [" and ".join(versions) or "this machine only"]
    facts += ["DNS"] if path.supports_dns else []
    facts += [word for word, holds in (("expensive", path.is_expensive), ("constrained", path.is_constrained)) if holds]
    if path.gateways:
        facts.append("by way of " + ", ".join(gateway.host for gateway in path.gateways))
    lines = [f"{path.status.value}: {'; '.join(facts)}"]
    for one in path.available_interfaces:
        quality = "" if one.link_quality is LinkQuality.UNKNOWN else f", {one.link_quality.value} link"
        lines.append(f"    {one.name} ({one.type.value}{quality}): {', '.join(one.addresses)}")
    return "\n".join(lines)
