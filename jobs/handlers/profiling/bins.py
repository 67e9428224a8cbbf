"""Bins that do not show patterns which the values do not have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

_EXACT_INTEGERS: Final = 2**53
"""Above it a float no longer tells two neighbouring integers apart."""
_MANY_UNITS: Final = 50
"""With so many integers to a bin, one more or less in some is a step of at most 2 percent."""
_SLACK: Final = 0.1
"""How much of the last bin may lie beyond the largest value."""

_DAY: Final = 86_400
_MONDAY: Final = 4 * _DAY
_SECONDS: Final = (
    *(1, 5, 15, 30),
    *(60 * minutes for minutes in (1, 5, 15, 30)),
    *(3600 * hours for hours in (1, 3, 6, 12)),
    *(_DAY * days for days in (1, 2, 7)),
)
_MONTHS: Final = (1, 3, 6, *(12 * n * size for size in (1, 10, 100, 1000) for n in (1, 2, 5)))


@dataclass(frozen=True, slots=True)
class Bins:
    """Ascending edges, one more than bins. Two equal edges are one bin for one value."""

    edges: tuple[float, ...]

    def upper_bounds(self) -> list[float]:
        """The largest number that belongs to each bin: only the last one contains its edge."""
        inner = [math.nextafter(edge, -math.inf) for edge in self.edges[1:-1]]
        return [*inner, self.edges[-1]]


def plan_bins(low: float, high: float, limit: int) -> Bins | None:
    """``limit`` equal bins for fractions; None if the span is not representable."""
    span = high - low
    if not math.isfinite(span):
        return None
    width = span / limit
    # Also true for neighbours among the floats, between which no edge fits.
    if low + width == low or high - width == high:
        return Bins((low, high)) if low == high else None
    inner = (_rounded(low + width * i, width) for i in range(1, limit))
    return Bins((low, *inner, high))


def plan_integer_bins(low: float, high: float, limit: int) -> Bins | None:
    """At most ``limit`` equal bins for integers, which lie in the middle of their bin.

    Each bin covers the same number of integers: otherwise some would hold one possible value
    more than others, and a comb would show that is not in the data. The number of bins is
    lowered, to no less than half, until the last one is well filled.
    """
    if max(abs(low), abs(high)) >= _EXACT_INTEGERS:
        return plan_bins(low, high, limit)
    possible = round(high - low) + 1
    if possible >= limit * _MANY_UNITS:
        return plan_bins(low - 0.5, high + 0.5, limit)
    width = _integers_per_bin(possible, limit)
    count = math.ceil(possible / width)
    return Bins(tuple(low - 0.5 + width * i for i in range(count + 1)))


def plan_calendar_bins(low: float, high: float, limit: int, *, whole_days: bool) -> Bins | None:
    """At most ``limit`` bins between times in seconds since 1970, UTC.

    Edges lie on the finest fit of round clock times, days, Mondays, months, quarters, years:
    equal bins would show the calendar's own irregularity. Times within less than a second get
    equal bins; times outside the years 1 to 9999 none.
    """
    if not whole_days and high - low < 1:
        return plan_bins(low, high, limit)
    for step in _SECONDS:
        if (step >= _DAY or not whole_days) and (high - low) / step <= limit:
            origin = _MONDAY if step == 7 * _DAY else 0
            start = math.floor((low - origin) / step) * step + origin
            count = math.floor((high - start) / step) + 1
            if count <= limit:
                return Bins(tuple(float(start + step * i) for i in range(count + 1)))
    return _month_bins(low, high, limit)


def _month_bins(low: float, high: float, limit: int) -> Bins | None:
    try:
        first, last = (_month(datetime.fromtimestamp(edge, UTC)) for edge in (low, high))
        for step in _MONTHS:
            start = first // step * step
            count = (last - start) // step + 1
            if count <= limit:
                edges = [_month_start(start + step * i) for i in range(count + 1)]
                # 9999-12-31 is a usual word for "never ends" and lies after the last edge.
                return Bins((*edges[:-1], max(edges[-1], high)))
    except (OverflowError, ValueError, OSError):
        return None
    return None


def _month(moment: datetime) -> int:
    return moment.year * 12 + moment.month - 1


def _month_start(month: int) -> float:
    # Centuries begin and end in years that do not exist, 0 and 10000.
    year, index = divmod(min(max(month, 12), 9999 * 12 + 11), 12)
    return datetime(year, index + 1, 1, tzinfo=UTC).timestamp()


def _integers_per_bin(possible: int, limit: int) -> int:
    choices = [math.ceil(possible / count) for count in range(limit, max(limit // 2, 1) - 1, -1)]
    unfilled = {width: (-possible % width) / width for width in choices}
    for width, share in unfilled.items():
        if share <= _SLACK:
            return width
    return min(unfilled, key=unfilled.__getitem__)


def _rounded(value: float, width: float) -> float:
    digits = 6 - math.floor(math.log10(width))
    return round(value, digits) if abs(digits) < 300 else value
