"""The house rules of ARCHITECTURE.md that a machine can check. The page is read, not repeated here."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "tieline"
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")

LIMITS = {"src/**/*.py": 400, "src/**/*.pyi": 400, "tests/**/*.py": 900, "rust/**/*.rs": 600}
DRAWERS = {"utils", "util", "helpers", "helper", "common", "core", "base", "misc", "shared", "stuff"}
HEAVY = [
    "_hashlib", "asyncio", "click", "cryptography", "datetime", "ifaddr", "logging", "rich", "socket", "ssl",
    "tieline.drivers.asyncio", "tieline.engines.framer", "tieline.engines.quic", "tieline.engines.tls",
    "tieline.engines.websocket", "tieline.establishment.binding", "tieline.establishment.establishment",
    "tieline.establishment.handshaking", "tieline.establishment.racing", "tieline.flows.layered", "tieline.flows.messages",
    "tieline.group", "tieline.inbound", "tieline.multiplex.flow", "urllib.parse",
]  # fmt: skip
"""What only some programs need, and then take in when they first use it."""


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found, f"ARCHITECTURE.md has no section {title!r}"
    return found[1]


ROOMS = re.findall(r"^\d+\. `(\w+)`", section("Rooms, top floor first"), re.MULTILINE)
OUTSIDE = set(re.findall(r"`(\w+)`", section("The outside world").split("\n\n")[0]))
EXCEPTIONS = {
    room_or_module: set(re.findall(r"`([\w.]+)`", imported))
    for room_or_module, imported in re.findall(r"^\* `([\w.]+)`: (.*?)\. ", section("The outside world"), re.MULTILINE)
}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")])
}


def room(module: str) -> str:
    return module.split(".")[0]


class Imports(ast.NodeVisitor):
    """Absolute names of everything that a module imports at run time, early or late."""

    def __init__(self, module: str) -> None:
        self.package = ["tieline", *module.split(".")[:-1]]
        self.found: list[tuple[int, str]] = []

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for statement in node.orelse:
                self.visit(statement)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [(node.lineno, alias.name) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = self.package[: len(self.package) - node.level + 1] if node.level else []
        origin = ".".join([*base, *(node.module or "").split(".")]).strip(".")
        self.found += [(node.lineno, f"{origin}.{alias.name}") for alias in node.names]


def imports(module: str) -> Iterator[tuple[int, str]]:
    visitor = Imports(module)
    visitor.visit(ast.parse(MODULES[module].read_text(encoding="utf-8")))
    yield from visitor.found


def test_the_page_lists_the_rooms_that_there_are() -> None:
    assert len(set(ROOMS)) == len(ROOMS)
    assert set(ROOMS) == {room(module) for module in MODULES}
    assert set(EXCEPTIONS) <= {*ROOMS, *MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downwards(module: str) -> None:
    floor = ROOMS.index(room(module))
    for line, name in imports(module):
        top, _, inner = name.partition(".")
        if top == "tieline":
            target = room(inner) if room(inner) in ROOMS else "__init__"
            assert ROOMS.index(target) >= floor, f"line {line}: {room(module)} imports {target}, which is above it"


@pytest.mark.parametrize("module", MODULES)
def test_only_drivers_touch_the_outside_world(module: str) -> None:
    allowed = EXCEPTIONS.get(module, set()) | EXCEPTIONS.get(room(module), set())
    for line, name in imports(module):
        if name.split(".")[0] in OUTSIDE and room(module) != "drivers":
            granted = name in allowed or name.split(".")[0] in allowed
            assert granted, f"line {line}: only drivers import {name}; see ARCHITECTURE.md, The outside world"


def test_every_exception_is_in_use() -> None:
    for grantee, names in EXCEPTIONS.items():
        used = {name for module in MODULES if grantee in (module, room(module)) for _, name in imports(module)}
        used |= {name.split(".")[0] for name in used}
        assert names <= used, f"{grantee} no longer imports {', '.join(names - used)}"


def test_importing_tieline_takes_in_nothing_heavy() -> None:
    program = f"import sys, tieline; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    heavy = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert not heavy, f"`import tieline` also imports {', '.join(heavy)}; import them where they are used"


@pytest.mark.parametrize("pattern", LIMITS)
def test_files_stay_small(pattern: str) -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.glob(pattern)}
    assert lines, f"nothing matches {pattern}"
    assert not {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > LIMITS[pattern]}


def test_no_drawers() -> None:
    """What has no home lacks a room."""
    names = [path for folder in ("src", "tests", "rust") for path in (ROOT / folder).rglob("*")]
    assert not [str(path.relative_to(ROOT)) for path in names if path.stem in DRAWERS]
