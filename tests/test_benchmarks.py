"""What the benchmarks say of their figures, with literals; and one short run of a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from benchmarks import chart, instructions, report
from benchmarks.__main__ import PINGPONG, ROWS
from benchmarks.measuring import COLD, WARM, Figure, Row, measure
from benchmarks.report import compare, markdown, number

ROW = Row("row", False, 64, 10, "round trips/s", {"tieline": PINGPONG["tieline"], "streams": PINGPONG["streams"]})


def rounds(*figures: tuple[float, float, float, float], cpu: float = 1.0) -> list[report.Round]:
    """Tieline and the peer on asyncio, then on uvloop."""
    return [
        {
            ("tieline", "asyncio", WARM): Figure(one[0], cpu),
            ("streams", "asyncio", WARM): Figure(one[1], 1.0),
            ("tieline", "uvloop", WARM): Figure(one[2], cpu),
            ("streams", "uvloop", WARM): Figure(one[3], 1.0),
        }
        for one in figures
    ]


def changed(**options: Any) -> Row:
    return Row(**{**vars(ROW), **options})


def test_the_median_of_the_rounds_ratios() -> None:
    """Not the ratio of the medians: a slow round slows both."""
    figures = rounds((20, 10, 1, 1), (100, 100, 1, 1), (9, 3, 1, 1), cpu=0.5)
    asyncio, uvloop = compare(changed(bars={"streams": {"asyncio": 1.5}}), figures)
    assert (asyncio.ratio, asyncio.lowest, asyncio.highest) == (2, 1, 3)
    assert (asyncio.ours, asyncio.theirs, asyncio.cpu) == (20, 10, 2)
    assert asyncio.bar == 1.5 and asyncio.reached
    assert uvloop.bar is None and uvloop.reached is None


def test_bars() -> None:
    figures = rounds((10, 10, 10, 20))
    assert [one.reached for one in compare(changed(bars={"streams": 1.0}), figures)] == [True, False]
    assert [one.reached for one in compare(changed(bars={"streams": 1.0}, less=True), figures)] == [True, True]
    assert [one.reached for one in compare(changed(bars={"streams": 0.4}, less=True), figures)] == [False, False]


def test_the_better_of_a_peers_two_loops() -> None:
    figures = rounds((10, 5, 10, 20))
    assert [one.theirs for one in compare(changed(best=frozenset({"streams"})), figures)] == [20, 20]
    assert [one.theirs for one in compare(changed(best=frozenset({"streams"}), less=True), figures)] == [5, 5]


def test_a_row_alone() -> None:
    row = changed(programs={"tieline": PINGPONG["tieline"]}, limit=100.0, less=True)
    (one,) = compare(row, [{("tieline", "asyncio", WARM): Figure(80, 1), ("tieline", "uvloop", WARM): Figure(90, 1)}])
    assert (one.ours, one.theirs, one.ratio, one.reached) == (85, 100, 0.85, True)


def test_what_is_written_keeps_the_other_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "HERE", tmp_path)
    names = ["first", "second"]
    report.write(compare(changed(name="second", bars={"streams": 1.0}), rounds((20, 10, 5, 10))), names)
    report.write(compare(changed(name="first"), rounds((1, 1, 1, 1))), names)
    report.write(compare(changed(name="first", bars={"streams": 1.0}), rounds((7, 1, 7, 1))), names)
    kept = json.loads((tmp_path / "results.json").read_text())["comparisons"]
    assert [(one["row"], one["ratio"]) for one in kept] == [("first", 7), ("first", 7), ("second", 2), ("second", 0.5)]
    page = (tmp_path / "results.md").read_text()
    assert page.count("| first |") == 2 and "**missed**" in page and page.count("reached") == 3
    ElementTree.fromstring((tmp_path / "results.svg").read_text())  # well-formed


def test_the_chart_shows_what_has_a_bar() -> None:
    shown = compare(changed(name="a<b", bars={"streams": 1.0}), rounds((20, 10, 5, 10)))
    hidden = compare(changed(name="hidden"), rounds((1, 1, 1, 1)))
    drawn = chart.draw([*shown, *hidden])
    tree = ElementTree.fromstring(drawn)
    texts = [element.text for element in tree.iter() if element.tag.endswith("text")]
    assert "a<b" in texts and "hidden" not in texts
    assert "2" in texts and "0.5" in texts
    assert "prefers-color-scheme: dark" in drawn


@pytest.mark.parametrize(("value", "text"), [(12345.6, "12,346"), (4.789, "4.79"), (0.5, "0.5")])
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text
    assert number(value) in markdown(compare(ROW, rounds((value, value, 1, 1))))


def test_rows_have_names_of_their_own_and_bars_for_peers_that_run() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert set(row.bars) <= set(row.programs), row.name


def test_one_run() -> None:
    """A server and a client in two new processes."""
    figure = measure(changed(count=50), "tieline", "asyncio", COLD)
    assert figure.rate > 0 and figure.cpu > 0


class Counted:
    """Instructions without valgrind."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.kept = folder / "instructions.json"
        self.here = {"python": "3.11.7", "valgrind": "valgrind-3.19.0"}
        self.counts = dict.fromkeys(instructions.SCENARIOS, 1000)
        monkeypatch.setattr(instructions, "COUNTS", self.kept)
        monkeypatch.setattr(instructions, "circumstances", lambda: self.here)
        monkeypatch.setattr(instructions, "count", lambda name: self.counts[name])
        self._patch = monkeypatch

    def run(self, *arguments: str) -> int:
        self._patch.setattr("sys.argv", ["instructions", *arguments])
        return instructions.main()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counted:
    return Counted(monkeypatch, tmp_path)


def test_a_scenario_that_grows_fails_without_a_note(counted: Counted, capsys: pytest.CaptureFixture[str]) -> None:
    assert counted.run("--write") == 0
    assert counted.run() == 0
    counted.counts["tcp bulk, 64 KiB"] = 1020
    assert counted.run() == 0
    counted.counts["tcp bulk, 64 KiB"] = 1021
    assert counted.run() == 1
    assert "grown by more than 2%: tcp bulk, 64 KiB" in capsys.readouterr().out
    assert counted.run("--write") == 1  # not without a reason
    assert counted.run() == 1
    assert counted.run("tcp bulk", "--write", "--note", "it checks more") == 0
    assert counted.run() == 0
    assert json.loads(counted.kept.read_text())["notes"] == {"tcp bulk, 64 KiB": "it checks more"}


def test_what_cannot_be_compared_says_why(counted: Counted, capsys: pytest.CaptureFixture[str]) -> None:
    counted.run("--write")
    counted.counts = dict.fromkeys(counted.counts, 5000)
    counted.here = {**counted.here, "python": "3.12.1"}
    assert counted.run() == 0
    assert "not compared" in capsys.readouterr().out
    counted.here = {**counted.here, "valgrind": "missing"}
    assert counted.run() == 0
    assert "valgrind is missing" in capsys.readouterr().out
