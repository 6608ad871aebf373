"""Every program in examples/ runs, on either event loop, without a warning, and prints `ok` last."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = sorted((ROOT / "examples").glob("*.py"))
GIVEN = ROOT.parent / "shared" / "examples"
ON_UVLOOP = "import asyncio, runpy, sys, uvloop; uvloop.install(); runpy.run_path(sys.argv[1], run_name='__main__')"


def test_there_are_examples() -> None:
    assert {"tcp_echo", "tls_stream", "udp_flow", "states_and_reports"} <= {program.stem for program in PROGRAMS}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_example(program: Path, loop: str) -> None:
    # uvloop.install() is deprecated in favour of Runner, which an unchanged program does not use.
    how = ["-W", "error", str(program)] if loop == "asyncio" else ["-W", "error::ResourceWarning", "-c", ON_UVLOOP, str(program)]
    done = subprocess.run([sys.executable, *how], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "ok"
    assert not done.stderr


@pytest.mark.skipif(not GIVEN.is_dir(), reason="the programs that were given are not beside this checkout")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_given_examples_are_unchanged(program: Path) -> None:
    given = GIVEN / program.name
    if given.exists():
        assert program.read_text() == given.read_text()
