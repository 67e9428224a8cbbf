"""The benchmark's tables, percentiles, options and the file that bodies mark."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench import marks
from bench.catalogue import CELLS, chosen
from bench.latency import percentiles
from bench.options import parse, plan_of
from bench.plots import best
from bench.run import Results
from bench.summary import number, shown, spread
from bench.table import grid, report
from bench.targets import ratios


def test_percentiles_are_by_nearest_rank_in_milliseconds() -> None:
    found = percentiles("body", [second / 1000 for second in range(101)])

    assert found == pytest.approx({"body_p50_ms": 50, "body_p95_ms": 95, "body_p99_ms": 99})
    assert percentiles("body", [0.004])["body_p99_ms"] == 4


@pytest.mark.parametrize(
    ("value", "text"), [(12345.6, "12,346"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23")]
)
def test_numbers_show_what_means_something(value: float, text: str) -> None:
    assert number(value) == text


def test_a_single_run_has_no_spread_to_show() -> None:
    assert shown(spread([3.0])) == "3.00"
    assert shown(spread([3.0, 1.0, 8.0])) == "3.00 (1.00–8.00)"
    assert shown(None) == "–"


def test_a_grid_lines_up() -> None:
    assert grid(["a", "long"], [["xyz", "1"]]) == "| a   | long |\n|-----|------|\n| xyz | 1    |"


def test_the_report_names_what_is_missing_and_what_is_not_offered() -> None:
    found = {"interlock": {"enqueue_per_second": spread([700.0]), "cpu_total": spread([1.5])}}

    text = report(found, ratios(found), {"rq": "no\nsuch module"}, {"waiting": "not yet"})

    assert "| Interlock | 700 " in text
    assert "no such module" in text
    assert "## Not offered" in text


def test_a_cell_that_fails_is_kept_with_its_reason_and_its_earlier_figures() -> None:
    results, cell = Results(), CELLS[0]
    results.add(cell, {"figures": {"rate": 1}})
    results.add(cell, {"figures": {"rate": 3}})
    results.add(cell, {"missing": "ended with 1"})

    assert results.figures[cell.name] == {"rate": [1.0, 3.0]}
    assert results.missing == {cell.name: "ended with 1"}


def test_the_quick_run_is_ours_and_three_peers() -> None:
    kinds = [cell.kind for cell in chosen(None, quick=True)]

    assert sorted(kinds) == ["ours", "peer", "peer", "peer"]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(KeyError, match="cellery"):
        chosen(["cellery"], quick=False)
    assert [cell.name for cell in chosen(["rq", "interlock"], quick=True)] == ["interlock", "rq"]


def test_what_is_said_goes_before_what_is_quick() -> None:
    plan = plan_of(parse(["--quick", "--jobs", "7"]))

    assert plan.jobs == 7
    assert plan.bulk < plan_of(parse([])).bulk


def test_bars_show_the_better_figure_of_each_queue() -> None:
    found = {
        "celery": {"enqueue_per_second": spread([9.0]), "drain_per_second": spread([700.0])},
        "pgqueuer": {
            "enqueue_per_second": spread([9.0]),
            "drain_per_second": spread([500.0]),
            "bulk_drain_per_second": spread([900.0]),
        },
        "sql": {"drain_per_second": spread([1.0])},
    }

    bars = best(found, ("drain_per_second", "bulk_drain_per_second"), least=False)

    assert [(name, row["median"]) for name, row in bars] == [("celery", 700), ("pgqueuer", 900)]


def test_marks_know_which_bodies_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = marks.Marks(tmp_path / "marks", 10)
    monkeypatch.setenv(marks.VARIABLE, str(tmp_path / "marks"))
    marks._mapped.cache_clear()
    numbers = seen.take(3)
    before = time.monotonic()

    for number_of in numbers:
        marks.ran(number_of)

    assert before <= seen.wait(numbers, 1) <= time.monotonic()
    with pytest.raises(TimeoutError, match="2 of 2"):
        seen.wait(seen.take(2), 0.01)
    with pytest.raises(ValueError, match="more than 10"):
        seen.take(6)
    marks._mapped.cache_clear()
