"""One file in, one report out: the passes over the file, their order and their progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import duckdb

from jobs.errors import PermanentFailure
from jobs.handlers.profiling.columns import (
    Answers,
    Column,
    Tally,
    clean,
    plan_tally,
    profile_of,
    survey_sql,
)
from jobs.handlers.profiling.engine import Limits, Session, session
from jobs.handlers.profiling.reader import Reader, failure_of, open_reader
from jobs.handlers.profiling.report import (
    MAX_BINS,
    MAX_COLUMNS,
    MAX_TOP_VALUES,
    ColumnProfile,
    ProfileReport,
    RequestedFormat,
)
from jobs.handlers.profiling.source import SourceFile, inspect
from jobs.handlers.profiling.watch import ProfileWatch

_BATCH: Final = 50
"""Columns per scan: bounds the state of the aggregates, costs a scan for each 50 columns."""
_NAMED: Final = 20
"""How many column names an error lists."""


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """What to profile and how finely; see the handler for the ranges."""

    format: RequestedFormat = "auto"
    bins: int = 20
    top: int = 5
    columns: Sequence[str] | None = None
    limits: Limits = field(default_factory=Limits)


def profile_file(path: Path, options: ProfileOptions, watch: ProfileWatch) -> ProfileReport:
    """Profile one file in two scans for each 50 columns, streaming, within ``options.limits``.

    Raises PermanentFailure with a reason in words if the file is no readable table or a
    requested column does not exist, and whatever ``watch`` raises to stop the work.
    """
    started = time.monotonic()
    source = inspect(path, options.format)
    packed = "" if source.compression == "none" else f", {source.compression}"
    watch.log(f"reading {source.format}{packed}, {source.bytes:,} bytes")
    watch.progress(0.0, "looking at the file")
    with session(path, f".{source.format}", options.limits, watch) as opened:
        try:
            report = _profile(opened, source, options, watch)
        except duckdb.Error as error:
            raise failure_of(error, opened, source) from error
    watch.log(
        f"profiled {report.rows:,} rows in {len(report.columns)} of {report.column_count} columns "
        f"({report.format}) in {time.monotonic() - started:.2f} s"
    )
    return report


def _profile(
    opened: Session, source: SourceFile, options: ProfileOptions, watch: ProfileWatch
) -> ProfileReport:
    reader = open_reader(opened, source, watch)
    if reader.skipped_lines:
        watch.log(f"skipped {reader.skipped_lines} lines before the table's header", "warning")
    while True:
        try:
            return _scan(reader, options, watch)
        except duckdb.Error as error:
            if not reader.repair(error):
                raise


def _scan(reader: Reader, options: ProfileOptions, watch: ProfileWatch) -> ProfileReport:
    everything = reader.columns()
    wanted = _wanted(everything, options.columns)
    kept = wanted[:MAX_COLUMNS]
    if len(kept) < len(wanted):
        watch.log(f"profiling the first {MAX_COLUMNS} of {len(wanted)} columns", "warning")
    options = replace(
        options,
        bins=min(options.bins, MAX_BINS // len(kept)),
        top=min(options.top, MAX_TOP_VALUES // len(kept)),
    )
    batches = [kept[i : i + _BATCH] for i in range(0, len(kept), _BATCH)]
    steps = _Steps(2 * len(batches), watch)
    rows, profiles = 0, list[ColumnProfile]()
    for batch in batches:
        columns = [Column(i, name, kind) for i, (name, kind) in enumerate(batch)]
        rows, done = _profile_batch(reader, columns, options, steps)
        profiles += done
    return ProfileReport(
        format=reader.format,
        bytes=reader.source.bytes,
        rows=rows,
        column_count=len(everything),
        truncated=len(kept) < len(wanted),
        skipped_lines=reader.skipped_lines,
        columns=profiles,
    )


def _wanted(
    everything: Sequence[tuple[str, str]], requested: Sequence[str] | None
) -> list[tuple[str, str]]:
    if not everything:
        raise PermanentFailure("the file has no columns")
    if any("\0" in name for name, _ in everything):
        raise PermanentFailure("a column name contains a NUL character")
    if requested is None:
        return list(everything)
    types = dict(everything)
    for name in requested:
        if name not in types:
            listed = ", ".join(repr(clean(known)) for known in list(types)[:_NAMED])
            more = f" and {len(types) - _NAMED} more" if len(types) > _NAMED else ""
            raise PermanentFailure(
                f"columns: {clean(name)!r} is not in the file; it has {listed}{more}"
            )
    return [(name, types[name]) for name in dict.fromkeys(requested)]


def _profile_batch(
    reader: Reader, columns: Sequence[Column], options: ProfileOptions, steps: _Steps
) -> tuple[int, list[ColumnProfile]]:
    last = columns[-1].name if len(columns) > 1 else ""
    span = f"{clean(columns[0].name)} ... {clean(last)}" if last else clean(columns[0].name)
    inner = ", ".join(column.projection() for column in columns)
    relation = f"(SELECT {inner} FROM {reader.relation})"

    asked = ", ".join(survey_sql(column) for column in columns)
    [(rows, *surveys)] = reader.session.query(
        f"SELECT count(*), {asked} FROM {relation}", (), steps.begin(f"measuring {span}")
    )
    tallies = [
        plan_tally(column, rows, survey, options.bins, options.top)
        for column, survey in zip(columns, surveys, strict=True)
    ]
    [counts] = reader.session.query(
        f"SELECT {', '.join(tally.sql for tally in tallies)} FROM {relation}",
        [parameter for tally in tallies for parameter in tally.parameters],
        steps.begin(f"counting {span}"),
    )
    steps.end()
    return rows, [_joined(rows, *parts) for parts in zip(surveys, tallies, counts, strict=True)]


def _joined(rows: int, survey: Answers, tally: Tally, counts: Answers) -> ColumnProfile:
    return profile_of(tally.column, rows, survey, tally, counts)


class _Steps:
    """Spreads the scans evenly over the progress from 2 to 95 percent."""

    def __init__(self, total: int, watch: ProfileWatch) -> None:
        self._total = total
        self._watch = watch
        self._begun = 0

    def begin(self, message: str) -> Callable[[float], None]:
        before, self._begun = self._begun, self._begun + 1

        def advance(part: float) -> None:
            self._watch.progress(0.02 + 0.93 * (before + part) / self._total, message)

        advance(0.0)
        return advance

    def end(self) -> None:
        self._watch.progress(0.02 + 0.93 * self._begun / self._total, "counted")
