"""The `tieline` command."""

import sys
from importlib import import_module

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process, and exit."""
    try:
        for package in ("click", "rich"):
            import_module(package)
    except ModuleNotFoundError as missing:
        sys.exit(f"The tieline command needs the package {missing.name}. Install it with: pip install 'tieline[cli]'")
    try:
        from tieline.cli.program import program

        program(prog_name="tieline")
    except KeyboardInterrupt:
        sys.exit(130)
