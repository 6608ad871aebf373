"""Every page of docs/ does what it says: its Python runs, and what it quotes is what comes out.

The ``python`` blocks of a page make one module, in their order and on their lines, which pytest runs in a process of its own.
The tests of a block that is fenced as ``python fails`` fail, all others pass. Each ``text`` block is quoted from pytest's output;
a line with nothing but ``…`` stands for lines that were left out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).resolve().parent.parent / "docs").glob("*.md"))
FENCE = re.compile(r"^```(\w+) *(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
TEST = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)
OUTCOME = re.compile(r"^(PASSED|FAILED|ERROR) [\w.]+::(\w+)", re.MULTILINE)
SEED = 1  # of what the pages quote


def module(text: str) -> str:
    """The Python of a page, each line where it is on the page, so that a traceback points there."""
    lines = [""] * len(text.splitlines())
    for block in FENCE.finditer(text):
        if block[1] == "python":
            start = text.count("\n", 0, block.start(3))
            code = block[3].splitlines()
            lines[start : start + len(code)] = code
    return "\n".join(lines) + "\n"


def missing(quote: str, output: str) -> str | None:
    """The first piece of a quotation that does not come, or not after those before it."""
    rest = [line.rstrip() for line in output.splitlines()]
    for piece in filter(None, re.split(r"^…\n", quote, flags=re.MULTILINE)):
        wanted = piece.splitlines()
        found = next((at for at in range(len(rest)) if rest[at : at + len(wanted)] == wanted), None)
        if found is None:
            return piece
        rest = rest[found + len(wanted) :]
    return None


def run(code: str, folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    (folder / name).write_text(code)
    command = [sys.executable, "-m", "pytest", "-rA", "-W", "error", "-p", "no:cacheprovider", f"--network-seed={SEED}", name]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, timeout=50, check=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    blocks = [(block[1], block[2], block[3]) for block in FENCE.finditer(text)]
    assert text.count("\n```") == 2 * len(blocks), "a fence without its other half, or without a language"
    assert {kind for kind, _, _ in blocks} <= {"python", "text", "sh"} and {info for _, info, _ in blocks} <= {"", "fails"}
    expected = {
        name: "FAILED" if info == "fails" else "PASSED"
        for kind, info, code in blocks
        if kind == "python"
        for name in TEST.findall(code)
    }
    done = run(module(text), tmp_path, f"test_{page.stem}.py")
    output = done.stdout + done.stderr
    found: dict[str, set[str]] = {}
    for outcome, name in OUTCOME.findall(output):
        found.setdefault(name, set()).add(outcome)
    assert found == {name: {outcome} for name, outcome in expected.items()}, output
    for kind, _, quote in blocks:
        if kind == "text":
            assert quote, "nothing is quoted"
            piece = missing(quote, output)
            assert piece is None, f"{page.name} quotes what does not come:\n{piece}\namong\n{output}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_form(page: Path) -> None:
    for number, line in enumerate(page.read_text().splitlines(), 1):
        assert len(line) <= 130 and line == line.rstrip(), f"{page.name}:{number}"


def test_quotations_are_compared() -> None:
    output = "one\ntwo  \nthree\nfour\n"
    assert missing("one\ntwo\n", output) is missing("one\n…\nthree\nfour\n…\n", output) is None
    assert missing("one\nthree\n", output) == "one\nthree\n", "without the sign that something is left out"
    assert missing("three\n…\none\n", output) == "one\n", "in another order"
