"""The `tieline` command."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process, and exit."""
    try:
        import click as _click  # noqa: F401
        import rich as _rich  # noqa: F401
    except ModuleNotFoundError as missing:
        sys.exit(f"The tieline command needs the package {missing.name}. Install it with: pip install 'tieline[cli]'")
    try:
        from tieline.cli.program import program

        program(prog_name="tieline")
    except KeyboardInterrupt:
        sys.exit(130)
