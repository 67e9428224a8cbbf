"""What is asked about a column, and how the answers become a ColumnProfile.

Two questions per column, each one aggregate over a scan of the file: the survey (counts,
extremes, moments, sketches) and, once the range is known, the tally (histogram, exact counts
of the frequent values). Every aggregate has bounded state, whatever the number of rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from jobs.handlers.profiling.bins import (
    Bins,
    plan_bins,
    plan_calendar_bins,
    plan_integer_bins,
)
from jobs.handlers.profiling.engine import identifier
from jobs.handlers.profiling.report import (
    MAX_TEXT,
    ColumnProfile,
    Histogram,
    Kind,
    Scalar,
    TextLengths,
    TopValue,
)

QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
EXACT_DISTINCT: Final = 2_000
"""Up to this many distinct values (as estimated) a column's values are counted one by one."""
SMALL_ROWS: Final = 10_000
"""Up to this many rows everything is counted, and quantiles are exact."""
_SKETCH: Final = 64
_POINTS: Final = ", ".join(str(point) for point in QUANTILES)
# Squares of larger numbers overflow a double.
_LARGEST_SQUARABLE: Final = 1e150
_INTEGERS: Final = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?$")
_FRACTIONS: Final = re.compile(r"(FLOAT|DOUBLE|DECIMAL\(.*)$")
_TEXTUAL_TIME: Final = re.compile(r"(\d{4,}-\d\d-\d\d) (\d\d:.*)")

Answers = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the relation; ``index`` numbers it within a statement."""

    index: int
    name: str
    type: str

    @property
    def kind(self) -> Kind:
        if _INTEGERS.match(self.type) or _FRACTIONS.match(self.type):
            return "number"
        if self.type == "DATE" or self.type.startswith("TIMESTAMP"):
            return "temporal"
        if self.type == "BOOLEAN":
            return "boolean"
        return "text" if self.type == "VARCHAR" else "other"

    @property
    def integral(self) -> bool:
        return _INTEGERS.match(self.type) is not None

    def projection(self) -> str:
        """``r`` the raw column, ``v`` the value that is compared, ``d`` its number if any."""
        raw, kind = identifier(self.name), self.kind
        number = "NULL"
        if kind == "number":
            value = raw if self.integral else f"CAST({raw} AS DOUBLE)"
            value = value if self.integral else f"CASE WHEN isfinite({value}) THEN {value} END"
            number = f"CAST({value} AS DOUBLE)"
        elif kind == "temporal":
            value = f"CASE WHEN isfinite({raw}) THEN {raw} END"
            number = f"epoch({value})"
        elif kind == "boolean":
            value = raw
        else:
            value = f"left(CAST({raw} AS VARCHAR), {MAX_TEXT})"
        i = self.index
        return f"{raw} AS r{i}, {value} AS v{i}, {number} AS d{i}"


def survey_sql(column: Column) -> str:
    """The first aggregate: one struct per column."""
    i, kind = column.index, column.kind
    # Texts are counted whole, numbers without their NaN.
    counted = f"v{i}" if kind in ("number", "temporal") else f"r{i}"
    fields = {
        "present": f"count(r{i})",
        "kept": f"count(v{i})",
        "distinct_values": f"approx_count_distinct({counted})",
        "frequent": f"approx_top_k(v{i}, {_SKETCH})",
    }
    if kind in ("number", "temporal"):
        fields |= {
            "low": f"min(d{i})",
            "high": f"max(d{i})",
            "quantiles": f"approx_quantile(d{i}, [{_POINTS}])",
        }
    if kind == "number":
        squarable = f"CASE WHEN abs(d{i}) < {_LARGEST_SQUARABLE} THEN d{i} END"
        fields |= {"mean": f"avg(d{i})", "stddev": f"stddev_samp({squarable})"}
    if kind in ("number", "text"):
        fields |= {"minimum": f"min(v{i})", "maximum": f"max(v{i})"}
    if kind == "temporal":
        # As text: the driver would need time zone libraries and lose nanoseconds.
        fields |= {
            "minimum": f"CAST(min(v{i}) AS VARCHAR)",
            "maximum": f"CAST(max(v{i}) AS VARCHAR)",
            "frequent": f"CAST(approx_top_k(v{i}, {_SKETCH}) AS VARCHAR[])",
        }
    if kind == "text":
        fields |= {
            "shortest": f"min(length(r{i}))",
            "longest": f"max(length(r{i}))",
            "average": f"avg(length(r{i}))",
        }
    return _struct(fields, i)


@dataclass(frozen=True, slots=True)
class Tally:
    """The second aggregate of a column, with its parameters.

    ``exact``: all values are counted, else only the sketch's ``candidates``.
    """

    column: Column
    exact: bool
    top: int
    candidates: tuple[Any, ...]
    bins: Bins | None
    sql: str
    parameters: tuple[object, ...]


def plan_tally(column: Column, rows: int, survey: Answers, bins: int, top: int) -> Tally:
    """Decide what to count in the second scan."""
    i = column.index
    exact = rows <= SMALL_ROWS or survey["distinct_values"] <= EXACT_DISTINCT
    fields: dict[str, str] = {}
    parameters: list[object] = []
    candidates: list[Any] = []
    if top and exact:
        key = "CAST(e.key AS VARCHAR)" if column.kind == "temporal" else "e.key"
        # Ascending by the negated count: most frequent first, ties by value.
        entry = f"lambda e: {{'n': -CAST(e.value AS BIGINT), 'v': {key}}}"
        entries = f"list_transform(map_entries(histogram(v{i})), {entry})"
        fields["counted"] = f"list_sort({entries})[:{top}]"
    elif top:
        candidates = list(survey["frequent"] or [])[: max(2 * top, 10)]
        fields["counted"] = _recount(column)
        parameters.append(candidates)
    if exact:
        fields["values"] = f"cardinality(histogram(v{i}))"
    if rows <= SMALL_ROWS and "quantiles" in survey:
        fields["quantiles"] = f"quantile_cont(d{i}, [{_POINTS}])"
    plan = _bins_for(column, survey, bins)
    if plan is not None:
        fields["bins"] = f"map_values(histogram(d{i}, ?::DOUBLE[]))"
        parameters.append(plan.upper_bounds())
    return Tally(column, exact, top, tuple(candidates), plan, _struct(fields, i), tuple(parameters))


def profile_of(
    column: Column, rows: int, survey: Answers, tally: Tally, counts: Answers
) -> ColumnProfile:
    """Put both answers together."""
    numeric = column.kind in ("number", "temporal")
    distinct, exact = _distinct(survey, tally, counts)
    return ColumnProfile(
        name=clean(column.name),
        type=clean(column.type.strip('"')),
        kind=column.kind,
        missing=rows - survey["present"],
        nonfinite=survey["present"] - survey["kept"] if numeric else 0,
        distinct=distinct,
        distinct_exact=exact,
        minimum=_extreme(column, survey, "minimum"),
        maximum=_extreme(column, survey, "maximum"),
        mean=_finite(survey.get("mean")),
        stddev=_stddev(survey),
        quantiles=_quantiles(column, survey, counts),
        lengths=_lengths(survey),
        top=_top(column, tally, counts),
        histogram=_histogram(column, tally, counts),
    )


def clean(text: str) -> str:
    """Cut, and without NUL, which PostgreSQL refuses in JSON."""
    return text[:MAX_TEXT].replace("\0", "\ufffd")


def iso_from_epoch(seconds: float, kind: str) -> str | None:
    """ISO 8601 for DuckDB's temporal type ``kind``; None outside the years 1 to 9999."""
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    except OverflowError:
        return None
    if kind == "DATE":
        return moment.date().isoformat()
    return (moment if "TIME ZONE" in kind else moment.replace(tzinfo=None)).isoformat()


def _struct(fields: Mapping[str, str], index: int) -> str:
    packed = ", ".join(f"{name} := {sql}" for name, sql in fields.items()) or "nothing := NULL"
    return f"struct_pack({packed}) AS c{index}"


def _recount(column: Column) -> str:
    """How often each candidate occurs: entries of its position, from 1, and its rows.

    By position, because a histogram of filtered texts holds on to every text it has seen and
    grows with the file.
    """
    value_type = {"text": "VARCHAR", "other": "VARCHAR"}.get(column.kind, column.type)
    if column.kind == "number" and not column.integral:
        value_type = "DOUBLE"
    given = "?::VARCHAR[]" if column.kind == "temporal" else "?"
    position = f"list_position({given}::{value_type}[], v{column.index})"
    return f"map_entries(histogram({position}))"


def _bins_for(column: Column, survey: Answers, limit: int) -> Bins | None:
    low, high = survey.get("low"), survey.get("high")
    if low is None or high is None:
        return None
    if column.kind == "temporal":
        return plan_calendar_bins(low, high, limit, whole_days=column.type == "DATE")
    return (plan_integer_bins if column.integral else plan_bins)(low, high, limit)


def _distinct(survey: Answers, tally: Tally, counts: Answers) -> tuple[int, bool]:
    # Longer texts are counted by their beginning, so only short ones are counted exactly.
    whole = tally.column.kind != "other" and (survey.get("longest") or 0) <= MAX_TEXT
    if tally.exact and (whole or not survey["present"]):
        return counts.get("values") or 0, True
    return min(survey["distinct_values"], survey["present"]), False


def _extreme(column: Column, survey: Answers, key: str) -> int | float | str | None:
    value: int | float | str | None = survey.get(key)
    if isinstance(value, str):
        return iso_text(value) if column.kind == "temporal" else clean(value)
    return value


def iso_text(text: str) -> str:
    """DuckDB's text of a date or timestamp in ISO 8601."""
    match = _TEXTUAL_TIME.fullmatch(text)
    if match is None:
        return text
    date, time = match.groups()
    return f"{date}T{time[:-3]}+00:00" if time.endswith("+00") else f"{date}T{time}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _stddev(survey: Answers) -> float | None:
    low, high = survey.get("low"), survey.get("high")
    if low is None or high is None or max(abs(low), abs(high)) >= _LARGEST_SQUARABLE:
        return None
    return _finite(survey.get("stddev"))


def _quantiles(column: Column, survey: Answers, counts: Answers) -> dict[str, float | str] | None:
    estimates = counts.get("quantiles") or survey.get("quantiles")
    if estimates is None:
        return None
    quantiles: dict[str, float | str] = {}
    for point, estimate in zip(QUANTILES, estimates, strict=True):
        # The sketch interpolates and may step over the ends.
        value = min(max(estimate, survey["low"]), survey["high"])
        shown = iso_from_epoch(value, column.type) if column.kind == "temporal" else value
        if shown is None:
            return None
        quantiles[str(point)] = shown
    return quantiles


def _lengths(survey: Answers) -> TextLengths | None:
    if survey.get("shortest") is None:
        return None
    return TextLengths(
        minimum=survey["shortest"], mean=survey["average"], maximum=survey["longest"]
    )


def _top(column: Column, tally: Tally, counts: Answers) -> list[TopValue]:
    found = counts.get("counted") or []
    if tally.exact:
        pairs = [(entry["v"], -entry["n"]) for entry in found]
    else:
        pairs = [(tally.candidates[entry["key"] - 1], entry["value"]) for entry in found]
        pairs = sorted(
            (pair for pair in pairs if pair[1] > 1), key=lambda pair: (-pair[1], pair[0])
        )
    return [
        TopValue(value=_scalar(column, value), count=count) for value, count in pairs[: tally.top]
    ]


def _scalar(column: Column, value: Scalar) -> Scalar:
    if isinstance(value, str):
        return iso_text(value) if column.kind == "temporal" else clean(value)
    return value


def _histogram(column: Column, tally: Tally, counts: Answers) -> Histogram | None:
    if tally.bins is None:
        return None
    edges: list[float | str] = list(tally.bins.edges)
    if column.kind == "temporal":
        named = [iso_from_epoch(edge, column.type) for edge in tally.bins.edges]
        if None in named:
            return None
        edges = [name for name in named if name is not None]
    # A count beyond the last bound is none of ours: the bounds reach to the maximum.
    return Histogram(edges=edges, counts=list(counts["bins"])[: len(edges) - 1])
