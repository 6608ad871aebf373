"""What tests/typing/ asserts holds in mypy and in pyright, and the examples are well typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ASSERTIONS = ROOT / "tests" / "typing"


def test_mypy() -> None:
    command = [sys.executable, "-m", "mypy", "--no-incremental", "--warn-unused-ignores", str(ASSERTIONS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pyright(tmp_path: Path) -> None:
    # pyright takes mypy's ignores for its own and counts the needless ones.
    settings = {
        "include": [os.path.relpath(ASSERTIONS, tmp_path)],  # it passes over absolute ones
        "extraPaths": [str(ROOT / "src")],
        "typeCheckingMode": "standard",
        "pythonVersion": "3.11",
        "reportUnnecessaryTypeIgnoreComment": "error",
        "reportMissingModuleSource": False,
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--project", str(tmp_path), "--pythonpath", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["summary"]["filesAnalyzed"] == len(list(ASSERTIONS.glob("*.py")))
