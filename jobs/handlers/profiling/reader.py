"""How a file becomes a relation: the FROM clause, its columns, and repairs of wrong guesses.

Types are guessed from the first 20,480 rows. When a later row does not fit, the profile is
taken again with the wider type instead of failing or dropping rows.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Final

import duckdb

from jobs.errors import PermanentFailure
from jobs.handlers.profiling.engine import Session, identifier, literal
from jobs.handlers.profiling.report import FileFormat
from jobs.handlers.profiling.source import SourceFile
from jobs.handlers.profiling.watch import ProfileWatch

Columns = tuple[tuple[str, str], ...]
"""(name, DuckDB type) of every column, in the file's order."""

_CSV_BUFFER_BYTES: Final = 8_000_000
"""Each thread holds a few of these; DuckDB's own 32 MB would not fit a small memory limit. Four
times the longest line that the reader takes, 2 MB."""
_INTEGER_TEXT: Final = "'[+-]?[0-9]+'"


class Reader(ABC):
    """Knows one kind of file. After a successful ``repair`` the relation has changed."""

    format: FileFormat
    skipped_lines: int = 0

    def __init__(self, session: Session, source: SourceFile, watch: ProfileWatch) -> None:
        self.session = session
        self.source = source
        self.watch = watch
        self.format = source.format
        self.path = literal(str(session.file))

    @property
    @abstractmethod
    def relation(self) -> str:
        """The table function call to put after FROM."""

    def columns(self) -> Columns:
        """Every column of the file."""
        rows = self.session.query(
            f"SELECT column_name, column_type FROM (DESCRIBE FROM {self.relation})"
        )
        return tuple((str(name), str(kind)) for name, kind in rows)

    def repair(self, error: duckdb.Error) -> bool:
        """Widen the relation so that ``error`` will not come again; False if there is no way."""
        del error
        return False


class ParquetReader(Reader):
    """Parquet says its types itself; there is nothing to guess and nothing to repair."""

    @property
    def relation(self) -> str:
        return f"read_parquet({self.path}, hive_partitioning = false)"


class JsonReader(Reader):
    """JSON arrays and lines of JSON; a single object is a table of one row."""

    def __init__(self, session: Session, source: SourceFile, watch: ProfileWatch) -> None:
        super().__init__(session, source, watch)
        self._sample = 20_480

    @property
    def relation(self) -> str:
        compression = {"none": "uncompressed"}.get(self.source.compression, self.source.compression)
        return (
            f"read_json({self.path}, format = '{self._layout()}', compression = '{compression}', "
            f"sample_size = {self._sample}, map_inference_threshold = -1, "
            "hive_partitioning = false)"
        )

    def repair(self, error: duckdb.Error) -> bool:
        if "JSON transform error" not in str(error) or self._sample == -1:
            return False
        self._sample = -1
        self.watch.log("later records differ from the first ones; reading all of them for types")
        return True

    def _layout(self) -> str:
        if self.source.format == "jsonl":
            return "newline_delimited"
        return "array" if self.source.first == "[" else "auto"


@dataclass(frozen=True, slots=True)
class _Dialect:
    """What the sniffer found. Pinned, so that every pass reads the very same table."""

    delimiter: str
    quote: str
    escape: str
    comment: str
    newline: str
    skip: int
    header: bool
    date_format: str | None
    timestamp_format: str | None
    columns: Columns

    def options(self) -> str:
        types = ", ".join(f"{literal(name)}: {literal(kind)}" for name, kind in self.columns)
        texts = {
            "delim": self.delimiter,
            "quote": self.quote,
            "escape": self.escape,
            "comment": self.comment,
            "new_line": self.newline,
            "dateformat": self.date_format,
            "timestampformat": self.timestamp_format,
        }
        given = [f"{key} = {literal(text)}" for key, text in texts.items() if text is not None]
        header = str(self.header).lower()
        return ", ".join(
            [*given, f"skip = {self.skip}", f"header = {header}", f"columns = {{{types}}}"]
        )


class CsvReader(Reader):
    """Text tables with a guessed dialect. Rows of unequal length are an error, never dropped."""

    def __init__(self, session: Session, source: SourceFile, watch: ProfileWatch) -> None:
        super().__init__(session, source, watch)
        self._found = self._sniffed()
        self._widened = 0
        self._dialect = self._found
        if not self._found.quote:
            # The sample had no quotes (or stray ones); a later row may well have proper ones.
            self._dialect = replace(self._found, quote='"', escape='"')
        self.skipped_lines = self._found.skip
        if self._found.delimiter == "\t":
            self.format = "tsv"

    @property
    def relation(self) -> str:
        return self._relation(self._dialect)

    def columns(self) -> Columns:
        return self._dialect.columns

    def repair(self, error: duckdb.Error) -> bool:
        if isinstance(error, duckdb.ConversionException):
            return self._widen()
        if "CSV Error" in str(error) and self._dialect.quote != self._found.quote:
            self._dialect = replace(
                self._dialect, quote=self._found.quote, escape=self._found.escape
            )
            self.watch.log("quotation marks do not pair; taking them as plain characters")
            return True
        return False

    def _relation(self, dialect: _Dialect) -> str:
        return f"read_csv({self.path}, {self._fixed()}, auto_detect = false, {dialect.options()})"

    def _fixed(self) -> str:
        return (
            f"compression = '{self.source.compression}', buffer_size = {_CSV_BUFFER_BYTES}, "
            "hive_partitioning = false"
        )

    def _sniffed(self) -> _Dialect:
        delimiter = ", delim = '\t'" if self.source.format == "tsv" else ""
        [row] = self.session.query(
            "SELECT Delimiter, Quote, Escape, Comment, NewLineDelimiter, SkipRows, HasHeader, "
            "DateFormat, TimestampFormat, Columns "
            f"FROM sniff_csv({self.path}, compression = '{self.source.compression}'{delimiter})"
        )
        dialect = _dialect(row)
        if dialect.skip and not dialect.header:
            raise PermanentFailure(
                "the lines do not have the same number of fields: only the lines after line "
                f"{dialect.skip} form a table, and they have no header"
            )
        return dialect

    def _widen(self) -> bool:
        """First only the columns with misfits become wider, then all of them text."""
        self._widened += 1
        if self._widened > 2:
            return False
        misfits = self._misfits() if self._widened == 1 else {}
        columns = tuple(
            (name, misfits.get(name, kind) if misfits else "VARCHAR")
            for name, kind in self._dialect.columns
        )
        for name, kind in misfits.items():
            self.watch.log(
                f"column {name!r} has values that do not fit its first rows; read as {kind}"
            )
        self._dialect = replace(self._dialect, columns=columns)
        return True

    def _misfits(self) -> dict[str, str]:
        """Column -> wider type, for columns with a value that their guessed type refuses."""
        typed = [(name, kind) for name, kind in self._dialect.columns if kind != "VARCHAR"]
        text = tuple((name, "VARCHAR") for name, _ in self._dialect.columns)
        relation = self._relation(replace(self._dialect, columns=text))
        tests: list[str] = []
        for name, kind in typed:
            column = identifier(name)
            present = f"{column} IS NOT NULL"
            tests.append(f"count(*) FILTER (WHERE {present} AND NOT {self._fits(column, kind)})")
            number = f"TRY_CAST({column} AS DOUBLE)"
            tests.append(f"count(*) FILTER (WHERE {present} AND {number} IS NULL)")
        [counts] = self.session.query(f"SELECT {', '.join(tests)} FROM {relation}")
        wider: dict[str, str] = {}
        for i, (name, kind) in enumerate(typed):
            misfit, not_number = counts[2 * i], counts[2 * i + 1]
            if misfit:
                wider[name] = "DOUBLE" if kind == "BIGINT" and not not_number else "VARCHAR"
        return wider

    def _fits(self, column: str, kind: str) -> str:
        # TRY_CAST is laxer than the CSV reader: it rounds '1.5' and takes the date of a time.
        if kind == "BIGINT":
            whole = f"regexp_full_match(trim({column}), {_INTEGER_TEXT})"
            return f"({whole} AND TRY_CAST({column} AS BIGINT) IS NOT NULL)"
        if kind == "DATE":
            if self._dialect.date_format:
                shape = literal(self._dialect.date_format)
                return f"(try_strptime({column}, {shape}) IS NOT NULL)"
            return f"(TRY_CAST({column} AS DATE) IS NOT NULL AND length(trim({column})) <= 10)"
        if kind == "TIMESTAMP" and self._dialect.timestamp_format:
            shape = literal(self._dialect.timestamp_format)
            return f"(try_strptime({column}, {shape}) IS NOT NULL)"
        return f"(TRY_CAST({column} AS {kind}) IS NOT NULL)"


def open_reader(session: Session, source: SourceFile, watch: ProfileWatch) -> Reader:
    """The reader for the source's format, with the file's shape already looked at."""
    if source.format == "parquet":
        return ParquetReader(session, source, watch)
    if source.format in ("json", "jsonl"):
        return JsonReader(session, source, watch)
    return CsvReader(session, source, watch)


def failure_of(error: duckdb.Error, session: Session, source: SourceFile) -> Exception:
    """The exception to raise for an error that no repair helps against.

    Faults of the data become a PermanentFailure whose reason has neither paths nor SQL; a
    full disk and a defect of our own statements stay what they are.
    """
    if isinstance(
        error,
        (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException),
    ):
        return error
    text = str(error)
    if "No space left" in text or "max_temp_directory_size" in text:
        return error
    if isinstance(error, duckdb.OutOfMemoryException):
        return PermanentFailure("the file needs more memory than a profile may use")
    return PermanentFailure(f"cannot read the file as {source.format}: {_reason(text, session)}")


def _reason(text: str, session: Session) -> str:
    """DuckDB's message without its kind, hints, quoted data, statement and our private path."""
    head = re.split(r"\n\s*(?:Possible|LINE \d|Try |The search space|file = )|\n\n", text)[0]
    lines = [line for line in head.splitlines() if not line.startswith("Original Line:")]
    plain = " ".join(" ".join(lines).split())
    plain = re.sub(
        r'(?:in |: )?(?:file )?["\']?' + re.escape(str(session.file)) + "[\"']?", "", plain
    )
    plain = re.sub(r"^(?:[A-Z][A-Za-z]* ){1,3}Error: ", "", plain)
    return plain.strip(" .:,")[:300] or "it is damaged"


def _dialect(row: tuple[Any, ...]) -> _Dialect:
    delimiter, quote, escape, comment, newline = (_given(text) for text in row[:5])
    return _Dialect(
        delimiter=delimiter,
        quote=quote,
        escape=escape,
        comment=comment,
        newline=newline,
        skip=int(row[5]),
        header=bool(row[6]),
        date_format=row[7],
        timestamp_format=row[8],
        columns=tuple((str(column["name"]), str(column["type"])) for column in row[9]),
    )


def _given(text: str) -> str:
    return "" if text == "(empty)" else text
