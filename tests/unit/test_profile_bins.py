"""Bins: equal, honest about their edges, and on the calendar's own borders."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from jobs.handlers.profiling.bins import plan_bins, plan_calendar_bins, plan_integer_bins


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def days(edges: tuple[float, ...]) -> list[str]:
    return [datetime.fromtimestamp(edge, UTC).date().isoformat() for edge in edges]


def test_fractions_get_equal_bins_that_contain_both_ends() -> None:
    bins = plan_bins(0.0, 1.0, 4)
    assert bins is not None
    assert bins.edges == (0.0, 0.25, 0.5, 0.75, 1.0)
    bounds = bins.upper_bounds()
    assert bounds[0] < 0.25
    assert bounds[-1] == 1.0


def test_one_value_gets_one_bin_and_an_endless_span_none() -> None:
    single = plan_bins(2.5, 2.5, 20)
    assert single is not None
    assert single.edges == (2.5, 2.5)
    assert plan_bins(-1.7e308, 1.7e308, 20) is None
    assert plan_bins(1.0, math.nextafter(1.0, 2.0), 20) is None


@pytest.mark.parametrize(
    ("low", "high", "limit"), [(0, 9, 20), (1, 100, 20), (46, 230, 20), (0, 399, 200), (5, 5, 1)]
)
def test_integers_are_never_split_and_the_last_bin_is_well_filled(
    low: int, high: int, limit: int
) -> None:
    bins = plan_integer_bins(low, high, limit)
    assert bins is not None
    edges = bins.edges
    width = edges[1] - edges[0]
    assert len(edges) - 1 <= limit
    assert width == int(width)
    assert edges[0] == low - 0.5
    assert 0 <= edges[-1] - (high + 0.5) < width


def test_wide_and_huge_integers_get_as_many_bins_as_asked_for() -> None:
    for high in (1e6, 1e30):
        bins = plan_integer_bins(0, high, 20)
        assert bins is not None
        assert len(bins.edges) == 21


def test_dates_fall_into_years_quarters_months_or_days() -> None:
    years = plan_calendar_bins(seconds("1970-01-01"), seconds("1982-01-01"), 20, whole_days=True)
    quarters = plan_calendar_bins(seconds("2012-01-01"), seconds("2015-12-31"), 20, whole_days=True)
    single = plan_calendar_bins(seconds("2024-02-29"), seconds("2024-02-29"), 20, whole_days=True)
    assert years is not None
    assert quarters is not None
    assert single is not None
    assert days(years.edges) == [f"{year}-01-01" for year in range(1970, 1984)]
    assert days(quarters.edges)[:3] == ["2012-01-01", "2012-04-01", "2012-07-01"]
    assert days(quarters.edges)[-1] == "2016-01-01"
    assert days(single.edges) == ["2024-02-29", "2024-03-01"]


def test_times_fall_into_hours_and_weeks_begin_on_monday() -> None:
    hours = plan_calendar_bins(
        seconds("2024-03-01T08:20:00"), seconds("2024-03-01T20:10:00"), 20, whole_days=False
    )
    weeks = plan_calendar_bins(seconds("2024-01-03"), seconds("2024-05-01"), 20, whole_days=True)
    assert hours is not None
    assert weeks is not None
    assert hours.edges[0] == seconds("2024-03-01T08:00:00")
    assert len(hours.edges) == 14
    assert all(datetime.fromtimestamp(edge, UTC).weekday() == 0 for edge in weeks.edges)


def test_the_calendar_ends() -> None:
    beginning, end = seconds("0001-01-01"), seconds("9999-12-31")
    whole = plan_calendar_bins(beginning, end, 20, whole_days=True)
    assert whole is not None
    assert len(whole.edges) <= 21
    assert days(whole.edges)[0] == "0001-01-01"
    assert days(whole.edges)[-1] == "9999-12-31"
    assert plan_calendar_bins(beginning, end + 1e15, 20, whole_days=True) is None
    assert plan_calendar_bins(beginning, end, 1, whole_days=True) is None
