"""What a profile says: plain JSON-able values, none of them NaN or infinite."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_TEXT = 100
"""Longest text in a report, in characters: names, types and values are cut to it."""

MAX_COLUMNS = 500
"""Most columns in one report."""

MAX_TOP_VALUES = 5_000
"""Most top values in all columns together; each column then lists fewer than were asked for."""

MAX_BINS = 20_000
"""Most bins in all columns together. With the limits above, the largest possible report is
about 10 MB of ASCII-only JSON; a usual one has some 10 kB."""

FileFormat = Literal["csv", "tsv", "jsonl", "json", "parquet"]
RequestedFormat = Literal["auto", "csv", "tsv", "jsonl", "json", "parquet"]
Kind = Literal["number", "temporal", "boolean", "text", "other"]
Scalar = bool | int | float | str


class Part(BaseModel):
    """Base of the report's parts; a non-finite number in one is a defect and is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TopValue(Part):
    """A frequent value and its exact number of rows."""

    value: Scalar
    count: int


class Histogram(Part):
    """``counts[i]`` values lie in ``[edges[i], edges[i + 1])``; the last bin is closed.

    Edges are numbers, or ISO 8601 strings for a temporal column. Bins of integers hold whole
    numbers of them; those of times begin on the calendar's own borders (hours, days, months,
    years) and so may differ a little in length. One single fraction has a bin of zero width.
    """

    edges: list[float | str]
    counts: list[int]


class TextLengths(Part):
    """Lengths of the present texts, in characters."""

    minimum: int
    mean: float
    maximum: int


class ColumnProfile(Part):
    """One column. What has no meaning for the column's kind is ``None``.

    ``type`` is DuckDB's name of the type. ``missing`` counts nulls (an empty CSV field is
    one); ``nonfinite`` counts NaN and infinities, which take no part in the numbers below it.
    Up to 10,000 rows everything is exact. Above, ``distinct`` is exact where ``distinct_exact``
    says so (up to about 2,000 values), else an estimate with a typical error of a few percent;
    ``quantiles`` are estimates (t-digest); ``top`` always has exact counts, but above 2,000
    distinct values their choice comes from a heavy-hitter sketch and leaves out what occurs
    once. Quantiles interpolate between neighbours. Texts are grouped, compared and shown
    by their first ``MAX_TEXT`` characters.
    """

    name: str
    type: str
    kind: Kind
    missing: int
    nonfinite: int = 0
    distinct: int
    distinct_exact: bool
    minimum: int | float | str | None = None
    maximum: int | float | str | None = None
    mean: float | None = None
    stddev: float | None = None
    quantiles: dict[str, float | str] | None = None
    lengths: TextLengths | None = None
    top: list[TopValue] = Field(default_factory=list)
    histogram: Histogram | None = None


class ProfileReport(Part):
    """A file's profile.

    ``bytes`` is the size on disk, before decompression. ``column_count`` counts all columns of
    the file; ``truncated`` is true when more than ``MAX_COLUMNS`` were to be profiled and the
    rest was left out. ``skipped_lines`` counts lines before a CSV header (titles, comments).
    """

    format: FileFormat
    bytes: int
    rows: int
    column_count: int
    truncated: bool = False
    skipped_lines: int = 0
    columns: list[ColumnProfile]
