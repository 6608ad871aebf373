"""The group that holds the commands, and how a command ends."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn

import click

from tieline.errors import NetworkError

__all__ = ["program", "run"]

INTERRUPTED = 130  # what shells report for SIGINT: 128 + 2


class Program(click.Group):
    """Imports a command when it is asked for: `connect` does without the progress bars of `demo`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["connect", "listen", "paths", "demo"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "connect":
            from tieline.cli.connect import connect

            return connect
        if cmd_name == "listen":
            from tieline.cli.listen import listen

            return listen
        if cmd_name == "paths":
            from tieline.cli.paths import paths

            return paths
        if cmd_name == "demo":
            from tieline.cli.demo import demo

            return demo
        return None


def version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        try:
            click.echo(f"tieline {metadata.version('tieline')}")
        except metadata.PackageNotFoundError:
            click.echo("tieline, run from its sources")
        context.exit()


@click.command(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=version, help="Show the version.")
def program() -> None:
    """Connections and listeners from the command line.

    \b
    tieline connect example.com:443 --tls     bytes from standard input, bytes to standard output
    tieline listen 9000                       the other end
    tieline paths                             the network of this machine, and its changes
    tieline demo                              see it work, on this machine
    """


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a command's coroutine, and turn what it raises into a message and an exit code."""
    try:
        asyncio.run(work)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except NetworkError as error:
        fail(str(error))
    except BrokenPipeError:
        return  # who read our output has seen enough
    except OSError as error:
        fail(f"standard input or output: {error.strerror or error}")


def fail(message: str) -> NoReturn:
    """One message, exit code 1."""
    raise click.ClickException(message)
