"""The Autobahn test suite, both roles, strict: every case is OK or only informs, and every close is clean.

`make test` leaves out the heavy cases (limits, and the matrix of compression), `make test-all` takes them all: AUTOBAHN=all. The
suite lies in an environment of its own, .venv/autobahn, which both make.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tieline import Deflate, NetworkConnection, NetworkError, NetworkListener, WebSocket

from ..peers import free_port

HERE = Path(__file__).resolve().parent / "autobahn"
PYTHON = Path(sys.prefix) / "autobahn" / "bin" / "python"
EVERYTHING = os.environ.get("AUTOBAHN") == "all"
HEAVY = ["9.*", "12.*", "13.*"]
LIMITS = [(1, 2, 12), (3, 4, 18), (5, 6, 12), (7, 8, 12)]
# The cases of each part, and how many they are: no test may take longer than faulthandler_timeout. In each section of compression
# the first nine cases take as long as the two of the largest messages in the smallest fragments.
PARTS: dict[str, tuple[list[str], int]] = {"*": (["*"], 247)}
if EVERYTHING:
    PARTS |= {f"9.{first}-{last}": ([f"9.{n}.*" for n in range(first, last + 1)], cases) for first, last, cases in LIMITS}
    for section in (*(f"12.{n}" for n in range(1, 6)), *(f"13.{n}" for n in range(1, 8))):
        for first, last in ((1, 9), (10, 13), (14, 15), (16, 16), (17, 18)):
            PARTS[f"{section}.{first}-{last}"] = ([f"{section}.{n}" for n in range(first, last + 1)], last - first + 1)
FINE = {"OK", "INFORMATIONAL"}

pytestmark = [pytest.mark.asyncio_only, pytest.mark.timeout(300), pytest.mark.parametrize("part", PARTS)]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the converted suite."""
    if not PYTHON.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{PYTHON} does not exist; CI runs the Autobahn test suite", pytrace=False)
        pytest.skip("the Autobahn test suite is not installed: make .venv/autobahn")
    if importlib.util.find_spec("lib2to3") is None:
        pytest.skip("the Autobahn test suite is converted by lib2to3, which Python has until 3.12")
    where = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    found = subprocess.run([PYTHON, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    folder = tmp_path_factory.mktemp("autobahn")
    subprocess.run([PYTHON, HERE / "convert.py", Path(found) / "autobahntestsuite", folder], check=True, capture_output=True)
    return folder


def stack() -> WebSocket:
    return WebSocket(compression=Deflate(threshold=0), maximum_message_size=2**24)


async def echo(connection: NetworkConnection[WebSocket]) -> None:
    async for content, _ in connection:
        await connection.send(content)


@asynccontextmanager
async def running(suite: Path, mode: str, chosen: list[str], **settings: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """The suite's program, which writes its verdicts to `suite`/reports."""
    settings |= {
        "outdir": str(suite / "reports"),
        "cases": chosen,
        "exclude-cases": HEAVY if chosen == ["*"] else [],
        "exclude-agent-cases": {},
    }
    specification = suite / f"{mode}.json"
    specification.write_text(json.dumps(settings))
    program = "from autobahntestsuite.wstest import run; run()"
    with (suite / f"{mode}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(PYTHON, "-c", program, "-m", mode, "-s", specification, "-u", "0"),
            env={**os.environ, "PYTHONPATH": str(suite)},
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def judge(part: str, run: Callable[[list[str]], Awaitable[dict[str, Any]]]) -> None:
    """Every case is fine. The suite gives a close one second of the clock, which a busy machine may not have: up to three that
    are late are run again, alone."""
    cases, count = PARTS[part]
    verdicts = await run(cases)
    assert len(verdicts) == count
    late = [case for case, one in verdicts.items() if one["behavior"] in FINE and one["behaviorClose"] == "UNCLEAN"]
    if 0 < len(late) <= 3:
        verdicts |= await run(late)
    worse = {
        case: (verdict["behavior"], verdict["behaviorClose"])
        for case, verdict in verdicts.items()
        if not {verdict["behavior"], verdict["behaviorClose"]} <= FINE
    }
    assert not worse
    assert Counter(verdict["behavior"] for verdict in verdicts.values())["INFORMATIONAL"] == (3 if part == "*" else 0)


def verdicts_on(agent: str, suite: Path) -> dict[str, Any]:
    verdicts: dict[str, Any] = json.loads((suite / "reports" / "index.json").read_text())[agent]
    return verdicts


async def test_as_a_server(suite: Path, part: str) -> None:
    async with NetworkListener(stack(), on="127.0.0.1:0").serving(echo) as listener:
        servers = [{"agent": "server", "url": f"ws://127.0.0.1:{listener.port}"}]

        async def run(chosen: list[str]) -> dict[str, Any]:
            async with running(suite, "fuzzingclient", chosen, servers=servers) as process:
                assert await process.wait() == 0, (suite / "fuzzingclient.log").read_text()[-2000:]
            return verdicts_on("server", suite)

        await judge(part, run)


async def test_as_a_client(suite: Path, part: str) -> None:
    async def run(chosen: list[str]) -> dict[str, Any]:
        port = free_port()
        async with running(suite, "fuzzingserver", chosen, url=f"ws://127.0.0.1:{port}") as process:
            for number in range(1, await asked(port, process) + 1):
                url = f"ws://127.0.0.1:{port}/runCase?case={number}&agent=client"
                try:
                    async with NetworkConnection(url, stack()) as connection:
                        await echo(connection)
                except NetworkError:
                    continue  # that it fails is what many cases want; the suite judges how
            async with NetworkConnection(f"ws://127.0.0.1:{port}/updateReports?agent=client", stack()) as connection:
                await echo(connection)
        return verdicts_on("client", suite)

    await judge(part, run)


async def asked(port: int, process: asyncio.subprocess.Process) -> int:
    """How many cases the server has, as soon as it is there."""
    while process.returncode is None:
        try:
            async with NetworkConnection(f"ws://127.0.0.1:{port}/getCaseCount", stack()) as connection:
                return int((await connection.receive()).content)
        except OSError:
            await asyncio.sleep(0.05)
    raise AssertionError("the suite ended before it served")
