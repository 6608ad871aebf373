"""``python -m tieline`` is the `tieline` command."""

from tieline.cli import main

main()
