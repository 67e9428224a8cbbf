"""What the demo prints: the table of a profile, and log lines with their process's name."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from interlock.local.report import profile_table, short, sparkline, top_values
from interlock.local.screen import LogFollower, Screen, Terminal

RESULT = {
    "rows": 1461,
    "columns": [
        {
            "name": "wind",
            "type": "DOUBLE",
            "missing": 3,
            "minimum": 0.4,
            "maximum": 9.5,
            "quantiles": {"0.25": 2.2, "0.5": 3.0, "0.75": 4.0},
            "top": [{"value": 2.6, "count": 88}],
            "histogram": {"edges": [0, 1, 2, 3], "counts": [1, 8, 0]},
        },
        {
            "name": "[bold]",
            "type": "VARCHAR",
            "missing": 0,
            "top": [{"value": "sun", "count": 714}, {"value": "fog", "count": 411}],
        },
    ],
}


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def screen(output: io.StringIO) -> Screen:
    return Screen(Console(file=output, width=80, highlight=False))


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ([], ""),
        ([0, 0], "  "),
        ([1, 0, 7], "▂ █"),
        ([5] * 20, "████████"),  # groups of unequal size look equal
    ],
)
def test_sparkline(counts: list[float], line: str) -> None:
    assert sparkline(counts, 8) == line


def test_short_cuts_text_and_rounds_numbers() -> None:
    assert short(None) == ""
    assert short(3.14159265) == "3.142"
    assert short(1461) == "1461"
    assert short("abcdefgh", 5) == "abcd…"


def test_top_values_show_as_many_as_fit() -> None:
    column = RESULT["columns"][1]  # type: ignore[index]  # a literal of mixed types
    assert top_values(column, 20) == "sun 714, fog 411"
    assert top_values(column, 10) == "sun 714"


def test_the_table_fits_a_narrow_terminal_and_reads_names_as_text(
    screen: Screen, output: io.StringIO
) -> None:
    screen.say(profile_table("weather.csv", RESULT))
    printed = output.getvalue()
    assert "weather.csv: 1,461 rows" in printed
    assert "[bold]" in printed
    assert "sun 714, fog 411" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_followed_logs_are_prefixed_and_never_cut_in_a_line(
    screen: Screen, output: io.StringIO, tmp_path: Path
) -> None:
    log = tmp_path / "api.log"
    log.write_text("from an earlier run\n")
    follower = LogFollower(screen, [("api", log), ("worker", tmp_path / "worker.log")])
    with log.open("a") as stream:
        stream.write("first [x]\nsecond")
        stream.flush()
        follower.copy_once()
        stream.write(" half\n")
        stream.flush()
        follower.copy_once()
    assert output.getvalue().splitlines() == ["api    | first [x]", "api    | second half"]


def test_a_terminal_that_went_away_is_no_error() -> None:
    screen = Screen(Terminal(file=_Broken()))
    screen.plain("x")
    screen.say("x")


class _Broken(io.StringIO):
    def write(self, _text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError
