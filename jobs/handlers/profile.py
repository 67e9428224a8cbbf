# ruff: noqa: A005 - named like its handler; inside a package nothing of the library is shadowed
"""The handler ``profile``: what is in a data file, column by column."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from jobs import conf, files
from jobs.context import Context
from jobs.handlers.profiling.report import MAX_COLUMNS, ProfileReport, RequestedFormat
from jobs.registry import handler

_GLOB: Final = frozenset("*?[]{}")
_TIMEOUT_SECONDS: Final = 3600.0
_RESULT_LIMIT_BYTES: Final = 16 * 1024 * 1024


class Source(BaseModel):
    """Where the data is: exactly one of a path below the data roots and an upload's id."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"oneOf": [{"required": ["path"]}, {"required": ["upload"]}]},
    )

    path: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    upload: UUID | None = None

    @field_validator("path")
    @classmethod
    def _one_local_file(cls, path: str | None) -> str | None:
        if path is None:
            return None
        if "\0" in path:
            raise ValueError("must not contain a NUL character")
        if "://" in path:
            raise ValueError("must be a path on the workers' data roots, not a URL")
        patterns = sorted(_GLOB.intersection(path))
        if patterns:
            raise ValueError(f"must name one file; {' '.join(patterns)} is not allowed in it")
        return path

    @model_validator(mode="after")
    def _exactly_one(self) -> Source:
        if (self.path is None) == (self.upload is None):
            raise ValueError("give exactly one of path and upload")
        return self


def _refusals(payload: Any, owner_id: int | None) -> dict[str, str]:
    """What only the platform can judge at submit: whose upload, and which directories."""
    source: Source = payload.source
    if source.upload is not None and not files.upload_exists(source.upload, owner_id):
        return {"source.upload": f"there is no upload {source.upload}"}
    if source.path is not None and not files.is_below_data_roots(source.path):
        roots = ", ".join(str(root) for root in conf.get().data_roots) or "none; upload the file"
        return {"source.path": f"must lie below a data root: {roots}"}
    return {}


@handler(
    "profile",
    timeout_seconds=_TIMEOUT_SECONDS,
    result_limit_bytes=_RESULT_LIMIT_BYTES,
    check=_refusals,
)
def profile(
    source: Source,
    format: RequestedFormat = "auto",  # noqa: A002 - the name of the payload's field
    bins: Annotated[int, Field(ge=1, le=200)] = 20,
    top: Annotated[int, Field(ge=0, le=50)] = 5,
    columns: Annotated[list[str], Field(min_length=1, max_length=MAX_COLUMNS)] | None = None,
    *,
    context: Context,
) -> ProfileReport:
    """Profile a CSV, TSV, JSON or Parquet file: types, gaps, quantiles, top values, histograms.

    Reads the file as a stream in bounded memory, so it may be larger than memory; text files
    may be compressed with gzip or zstd. At most 500 columns are profiled (``truncated`` tells);
    name ``columns`` to choose others. ``bins`` is the most bins in one histogram, ``top`` the
    most frequent values listed for a column; both shrink in reports of very many columns.

    Keeps ``histograms.svg``, small multiples of up to 12 columns, if there is a value to draw.

    Raises PermanentFailure, with the reason in words, for a file that is no readable table.
    """
    # Imported here: a process that only declares or submits never loads DuckDB or matplotlib.
    from jobs.handlers.profiling.chart import draw
    from jobs.handlers.profiling.core import ProfileOptions, profile_file

    options = ProfileOptions(format=format, bins=bins, top=top, columns=columns)
    report = profile_file(_local(source, context), options, context)
    context.progress(0.96, "drawing histograms")
    picture = draw(report)
    if picture is None:
        context.log("no column has values to draw")
    else:
        context.artifact("histograms.svg", picture, "image/svg+xml")
    context.progress(1.0, "done")
    return report


def _local(source: Source, context: Context) -> Path:
    if source.upload is not None:
        return context.open_upload(source.upload)
    return context.resolve_path(source.path or "")
