"""The handlers `profile` and `noop`, without a database: real files, real DuckDB, real drawing."""

from __future__ import annotations

import ctypes
import gzip
import importlib.util
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import duckdb
import pytest
from pydantic import ValidationError

from jobs import registry
from jobs.context import Context
from jobs.errors import InvalidPayload, JobCancelled, JobTimeout, PermanentFailure
from jobs.handlers.noop import noop
from jobs.handlers.profile import Source, profile
from jobs.handlers.profiling import core
from jobs.handlers.profiling.core import ProfileOptions, profile_file
from jobs.handlers.profiling.engine import Limits, session
from jobs.handlers.profiling.report import MAX_COLUMNS, MAX_TEXT, ColumnProfile, ProfileReport


class Recorder(Context):
    """A context that remembers; ``stop`` is raised by the first check after ``stop_at``."""

    def __init__(self, folder: Path, stop_at: float | None = None) -> None:
        self.job_id = uuid4()
        self.attempt = 1
        self.folder = folder
        self.uploads: dict[UUID, Path] = {}
        self.fractions: list[float] = []
        self.lines: list[str] = []
        self.artifacts: dict[str, tuple[bytes, str]] = {}
        self.stop_at = stop_at
        self.checks = 0

    @property
    def cancelled(self) -> bool:
        return self.stop_at is not None and time.monotonic() >= self.stop_at

    @property
    def stopping(self) -> bool:
        return False

    def check(self) -> None:
        self.checks += 1
        if self.cancelled:
            raise JobCancelled("stop")

    def progress(self, fraction: float, message: str = "") -> None:
        self.fractions.append(fraction)

    def log(self, message: str, level: str = "info") -> None:
        self.lines.append(message)

    def artifact(self, name: str, content: bytes | Path, media_type: str) -> None:
        assert isinstance(content, bytes)
        self.artifacts[name] = (content, media_type)

    def on_completion(self, write: Callable[[], None]) -> None:
        raise NotImplementedError

    def open_upload(self, upload_id: UUID) -> Path:
        return self.uploads[upload_id]

    def resolve_path(self, path: str) -> Path:
        return self.folder / path


def sample(name: str) -> Path:
    """A data file of the package vega_datasets, found without importing it (or pandas)."""
    spec = importlib.util.find_spec("vega_datasets")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "_data" / name


@pytest.fixture
def context(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


@pytest.fixture(autouse=True)
def spill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for private directories, to see that none is left behind."""
    folder = tmp_path / "private"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def taken(data: bytes | str | Path, context: Recorder, name: str = "data.csv") -> ProfileReport:
    if not isinstance(data, Path):
        path = context.folder / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        data = path
    report = profile_file(data, ProfileOptions(), context)
    json.dumps(report.model_dump(mode="json"), allow_nan=False)
    return report


def column(report: ProfileReport, name: str) -> ColumnProfile:
    [found] = [column for column in report.columns if column.name == name]
    return found


def refusal(data: bytes | str, context: Recorder, name: str = "data.csv") -> str:
    with pytest.raises(PermanentFailure) as caught:
        taken(data, context, name)
    reason = str(caught.value)
    assert str(context.folder) not in reason
    assert len(reason) < 400
    return reason


# The whole handler on real data


def test_cars_are_profiled_with_progress_log_and_picture(context: Recorder, spill: Path) -> None:
    context.uploads[upload := uuid4()] = sample("cars.json")
    report = profile(Source(upload=upload), context=context)

    assert (report.format, report.rows, report.column_count) == ("json", 406, 9)
    gallons = column(report, "Miles_per_Gallon")
    values = sorted(
        car["Miles_per_Gallon"]
        for car in json.loads(sample("cars.json").read_text())
        if car["Miles_per_Gallon"] is not None
    )
    assert gallons.missing == 406 - len(values)
    assert gallons.minimum == values[0]
    assert gallons.maximum == values[-1]
    assert gallons.mean == pytest.approx(sum(values) / len(values))
    assert gallons.quantiles is not None
    assert gallons.quantiles["0.5"] == pytest.approx((values[198] + values[199]) / 2)
    assert gallons.histogram is not None
    assert sum(gallons.histogram.counts) == len(values)
    assert [(top.value, top.count) for top in column(report, "Origin").top] == [
        ("USA", 254),
        ("Japan", 79),
        ("Europe", 73),
    ]
    assert context.fractions == sorted(context.fractions)
    assert context.fractions[-1] == 1.0
    assert any("406 rows" in line for line in context.lines)
    assert list(spill.iterdir()) == []

    picture, media_type = context.artifacts["histograms.svg"]
    assert media_type == "image/svg+xml"
    assert ET.fromstring(picture).tag.endswith("svg")
    profile(Source(upload=upload), context=context)
    assert context.artifacts["histograms.svg"][0] == picture


def test_dates_have_iso_ends_and_calendar_bins(context: Recorder) -> None:
    date = column(taken(sample("seattle-weather.csv"), context), "date")
    assert (date.kind, date.minimum, date.maximum) == ("temporal", "2012-01-01", "2015-12-31")
    assert date.histogram is not None
    assert date.histogram.edges[:2] == ["2012-01-01", "2012-04-01"]
    assert date.histogram.counts[0] == 91
    assert sum(date.histogram.counts) == 1461


def test_a_path_is_resolved_by_the_context_and_options_apply(context: Recorder) -> None:
    (context.folder / "stocks.csv").write_bytes(sample("stocks.csv").read_bytes())
    report = profile(
        Source(path="stocks.csv"), bins=7, top=2, columns=["price", "symbol"], context=context
    )
    assert [column.name for column in report.columns] == ["price", "symbol"]
    assert report.column_count == 3
    assert [len(column.top) for column in report.columns] == [2, 2]
    histogram = column(report, "price").histogram
    assert histogram is not None
    assert len(histogram.counts) == 7


def test_an_unknown_column_is_named_with_the_known_ones(context: Recorder) -> None:
    with pytest.raises(PermanentFailure, match=r"'cost'.*'symbol', 'date', 'price'"):
        profile_file(sample("stocks.csv"), ProfileOptions(columns=["cost"]), context)


def test_declaring_the_handlers_loads_neither_duckdb_nor_matplotlib() -> None:
    code = (
        "import sys, django; django.setup(); import jobs.handlers;"
        " print({'duckdb', 'matplotlib', 'numpy'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# The payload


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({}, "payload.source"),
        ({"source": {}}, "payload.source"),
        ({"source": {"path": "a", "upload": str(uuid4())}}, "payload.source"),
        ({"source": {"path": "a", "url": "b"}}, "payload.source.url"),
        ({"source": {"path": "*.csv"}}, "payload.source.path"),
        ({"source": {"path": "a[0].csv"}}, "payload.source.path"),
        ({"source": {"path": "https://example.org/a.csv"}}, "payload.source.path"),
        ({"source": {"path": "a\0b"}}, "payload.source.path"),
        ({"source": {"upload": "seven"}}, "payload.source.upload"),
        ({"source": {"path": "a"}, "bins": 0}, "payload.bins"),
        ({"source": {"path": "a"}, "top": 51}, "payload.top"),
        ({"source": {"path": "a"}, "format": "xls"}, "payload.format"),
    ],
)
def test_a_wrong_payload_is_refused_by_field(payload: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidPayload) as caught:
        registry.get("profile").normalized(payload, None)
    assert field in {problem.path for problem in caught.value.problems}


def test_a_source_is_exactly_one() -> None:
    with pytest.raises(ValidationError, match="exactly one of path and upload"):
        Source()


# Formats


def test_every_format_tells_the_same(context: Recorder) -> None:
    rows = [(i, f"name {i % 3}", i / 2) for i in range(100)]
    text = "id,label,half\n" + "".join(f"{i},{label},{half}\n" for i, label, half in rows)
    lines = "".join(
        json.dumps(dict(zip(("id", "label", "half"), row, strict=True))) + "\n" for row in rows
    )
    (context.folder / "plain.csv").write_text(text)
    with duckdb.connect() as connection:
        source = f"(FROM '{context.folder}/plain.csv')"
        connection.execute(f"COPY {source} TO '{context.folder}/a.parquet'")
        connection.execute(f"COPY {source} TO '{context.folder}/a.csv.zst' (COMPRESSION zstd)")
    files: dict[str, bytes] = {
        "csv a.csv": text.encode(),
        "tsv a.tsv": text.replace(",", "\t").encode(),
        "csv a.csv.gz": gzip.compress(text.encode()),
        "jsonl a.jsonl": lines.encode(),
        "jsonl a.jsonl.gz": gzip.compress(lines.encode()),
        "json a.json": f"[{','.join(lines.splitlines())}]".encode(),
        "csv upload-1": text.encode(),
        "tsv upload-2": text.replace(",", "\t").encode(),
        "jsonl upload-3": lines.encode(),
        "json upload-4": f"[{','.join(lines.splitlines())}]".encode(),
        "parquet upload-5": (context.folder / "a.parquet").read_bytes(),
        "csv a.csv.zst": (context.folder / "a.csv.zst").read_bytes(),
    }
    expected = [column.model_dump() for column in taken(text, context).columns]
    for described, content in files.items():
        kind, name = described.split()
        report = taken(content, context, name)
        assert report.format == kind, name
        assert [column.model_dump() for column in report.columns] == expected, name


def test_values_of_every_kind_become_plain_json(context: Recorder) -> None:
    path = context.folder / "kinds.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT i, (i * 1.5)::DECIMAL(9, 2) AS price, [i] AS list, {'x': i} AS struct,"
            " 'b'::BLOB AS blob, uuid() AS uuid, NULL AS nothing, i % 2 = 0 AS even,"
            " TIMESTAMPTZ '2024-01-01 00:00:00+00' + INTERVAL (i) HOUR AS moment,"
            " CASE i WHEN 0 THEN 'nan' WHEN 1 THEN 'inf' ELSE '1.5' END::DOUBLE AS odd,"
            " CASE i WHEN 0 THEN 'infinity' ELSE '2024-01-01' END::DATE AS day,"
            " CASE i WHEN 0 THEN 1e308 ELSE -1e308 END AS huge, TIME '10:00' AS clock,"
            " 170141183460469231731687303715884105727::HUGEINT AS giant"
            f" FROM range(5) t(i)) TO '{path}'"
        )
    report = taken(path, context)
    kinds = {column.name: column.kind for column in report.columns}
    assert kinds["list"] == kinds["struct"] == kinds["blob"] == kinds["clock"] == "other"
    assert (column(report, "nothing").missing, column(report, "nothing").distinct) == (5, 0)
    odd = column(report, "odd")
    assert (odd.missing, odd.nonfinite, odd.minimum, odd.maximum) == (0, 2, 1.5, 1.5)
    assert column(report, "day").nonfinite == 1
    assert column(report, "huge").stddev is None
    assert column(report, "huge").histogram is None
    assert column(report, "moment").minimum == "2024-01-01T00:00:00+00:00"
    assert column(report, "even").top[0].value is True
    assert column(report, "price").maximum == 6.0


# Texts as they come


def test_a_header_alone_is_a_table_without_rows(context: Recorder) -> None:
    report = taken("a,b,c\n", context)
    assert report.rows == 0
    assert [column.name for column in report.columns] == ["a", "b", "c"]
    assert all(column.missing == 0 and not column.top for column in report.columns)


def test_bom_quotes_unicode_and_empty_columns(context: Recorder) -> None:
    text = '\ufeffимя,"a ""b""",leer\n"x, y",1,\n"line\nbreak",2,\n東京,3,\n'
    report = taken(text, context)
    assert [column.name for column in report.columns] == ["имя", 'a "b"', "leer"]
    assert {top.value for top in report.columns[0].top} == {"x, y", "line\nbreak", "東京"}
    assert report.columns[1].maximum == 3
    assert report.columns[2].missing == 3


def test_a_late_text_widens_only_its_column(context: Recorder) -> None:
    numbers = "".join(f"{i},{i},{i},2024-01-01\n" for i in range(30_000))
    report = taken(f"id,code,size,day\n{numbers}7,n/a,1.5,soon\n", context)
    assert [column.type for column in report.columns] == ["BIGINT", "VARCHAR", "DOUBLE", "VARCHAR"]
    assert report.rows == 30_001
    assert any("'code'" in line for line in context.lines)


def test_late_quotes_and_late_json_keys_are_read(context: Recorder) -> None:
    plain = "".join(f"{i},word\n" for i in range(30_000))
    report = taken(f'id,text\n{plain}7,"a, b"\n', context)
    assert report.columns[1].minimum == "a, b"
    records = '{"a": 1}\n' * 30_000
    report = taken(records + '{"a": "x", "b": 2}\n', context, "late.jsonl")
    assert [column.name for column in report.columns] == ["a", "b"]


def test_long_texts_are_cut_and_nul_is_replaced(context: Recorder) -> None:
    record = json.dumps({"text": "x" * 5000, "nul": "a\0b", "n" * 300: 1})
    report = taken(record, context, "long.jsonl")
    text, nul, named = report.columns
    assert text.minimum == "x" * MAX_TEXT
    assert text.lengths is not None
    assert text.lengths.maximum == 5000
    assert nul.top[0].value == "a\ufffdb"
    assert len(named.name) == MAX_TEXT


def test_very_many_columns_are_cut_to_a_bounded_report(context: Recorder) -> None:
    count = MAX_COLUMNS + 20
    text = "\n".join(",".join(f"{cell}{i}" for i in range(count)) for cell in ("c", "", "1"))
    report = profile_file(
        _written(context, text), ProfileOptions(bins=200, top=50, columns=None), context
    )
    assert (report.truncated, report.column_count) == (True, count)
    assert len(report.columns) == MAX_COLUMNS
    assert len(report.model_dump_json()) < 1_000_000


def test_lines_above_the_header_are_skipped_and_said(context: Recorder) -> None:
    report = taken("My report\n\na,b\n1,2\n3,4\n", context)
    assert (report.skipped_lines, report.rows) == (2, 2)
    assert any("skipped 2 lines" in line for line in context.lines)


def _written(context: Recorder, text: str) -> Path:
    path = context.folder / "written.csv"
    path.write_text(text)
    return path


# Refusals


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.csv", b"", "empty"),
        ("blank.csv", b"\n \n\n", "empty"),
        ("empty.csv.gz", gzip.compress(b"", mtime=0), "empty"),
        ("junk.csv", bytes(range(256)) * 40, "binary data"),
        ("latin.csv", "a,b\ncaf\xe9,1\n".encode("latin-1"), "not UTF-8"),
        ("wide.csv", "a,b\n1,2\n".encode("utf-16"), "UTF-16"),
        ("book.csv", b"PK\x03\x04rest", "ZIP"),
        ("cut.csv.gz", gzip.compress(random.Random(1).randbytes(2000), mtime=0)[:500], "gzip"),
        ("ragged.csv", b"a,b,c\n" + b"1,2,3\n" * 30_000 + b"1,2\n", "Line: 30002"),
        ("ragged.csv", b"a,b,c\n1,2,3\n1,2\n1,2,3,4\n", "number of fields"),
        ("cut.json", b'[{"a": 1}, {"a":', "Malformed JSON"),
        ("bad.jsonl", b'{"a": 1}\n{oops\n', "Malformed JSON"),
        ("text.json", b"a,b\n1,2\n", "Malformed JSON"),
        ("text.parquet", b"a,b\n1,2\n", "PAR1"),
        ("cut.parquet", b"PAR1" + b"\1" * 60, "parquet"),
        ("late.csv", b"a\n" + b"x\n" * 100_000 + b"\xff\xfe\n", "utf-8"),
        ("line.csv", b"a,b\n1," + b"x" * 3_000_000 + b"\n2,y\n", "Maximum line size"),
    ],
)
def test_what_is_no_table_is_refused_in_words(
    name: str, content: bytes, reason: str, context: Recorder, spill: Path
) -> None:
    assert reason in refusal(content, context, name)
    assert list(spill.iterdir()) == []


def test_a_wrong_format_a_folder_and_a_missing_file_are_refused(context: Recorder) -> None:
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT 1 AS a) TO '{context.folder}/a.parquet'")
    for path, reason in (
        (context.folder / "a.parquet", "is Parquet, not csv"),
        (context.folder, "not a regular file"),
        (context.folder / "none", "does not exist"),
    ):
        with pytest.raises(PermanentFailure, match=reason):
            profile_file(path, ProfileOptions(format="csv"), context)


def test_the_session_reads_one_file_and_nothing_else(context: Recorder) -> None:
    path = _written(context, "a\n1\n")
    other = context.folder / "other.csv"
    other.write_text("secret\n1\n")
    with session(path, ".csv", Limits(), context) as opened:
        assert opened.query(f"SELECT count(*) FROM '{opened.file}'") == [(1,)]
        for statement in (
            f"FROM read_csv('{other}')",
            f"FROM read_csv('{context.folder}/*.csv')",
            "FROM read_csv('https://example.org/a.csv')",
            f"COPY (SELECT 1) TO '{context.folder}/out.csv'",
            f"ATTACH '{context.folder}/out.db'",
            "INSTALL httpfs",
            "LOAD httpfs",
            "SET enable_external_access = true",
            f"SET allowed_paths = ['{other}']",
        ):
            with pytest.raises(duckdb.Error):
                opened.query(statement)
    assert sorted(path.name for path in context.folder.iterdir()) == [
        "other.csv", "private", "written.csv",
    ]  # fmt: skip


def test_patterns_in_the_real_path_mean_nothing(context: Recorder) -> None:
    folder = context.folder / "year=2024" / "a*[b]?"
    folder.mkdir(parents=True)
    (folder / "it's.csv").write_text("a\n1\n")
    assert [c.name for c in taken(folder / "it's.csv", context).columns] == ["a"]


# Stopping and memory


def endless(watch: Recorder) -> None:
    with session(_written(watch, "a\n1\n"), ".csv", Limits(), watch) as opened:
        opened.query("SELECT count(*) FROM range(1000000000000) t(i) WHERE hash(i) % 7 = 3")


def test_a_cancelled_job_interrupts_its_query(tmp_path: Path, spill: Path) -> None:
    started = time.monotonic()
    watch = Recorder(tmp_path, stop_at=started + 0.3)
    with pytest.raises(JobCancelled):
        endless(watch)
    assert time.monotonic() - started < 5
    assert list(spill.iterdir()) == []


def test_an_exception_thrown_into_the_thread_interrupts_its_query(
    context: Recorder, spill: Path
) -> None:
    caught: list[BaseException] = []

    def run() -> None:
        try:
            endless(context)
        except JobTimeout as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not context.checks:
        time.sleep(0.01)
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident), ctypes.py_object(JobTimeout)
    )
    thread.join(timeout=10)
    assert len(caught) == 1
    assert list(spill.iterdir()) == []


def test_a_file_as_large_as_its_memory_limit_streams(context: Recorder) -> None:
    path = context.folder / "large.csv"
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.execute(
            "COPY (SELECT i AS id, i % 977 AS code, hash(i) / 1e12 AS x, 'name-' || hash(i) AS name"
            f" FROM range(1100000) t(i)) TO '{path}'"
        )
    assert path.stat().st_size > 60_000_000
    limits = Limits(memory_mb=64)
    started = time.monotonic()
    report = profile_file(path, ProfileOptions(limits=limits), context)
    assert time.monotonic() - started < 30
    assert report.rows == 1_100_000
    assert column(report, "id").minimum == 0
    code = column(report, "code")
    assert (code.distinct, code.distinct_exact, code.top[0].count) == (977, True, 1126)
    assert column(report, "id").distinct == pytest.approx(1_100_000, rel=0.15)
    assert len({round(fraction, 3) for fraction in context.fractions}) > 4


def test_a_defect_of_ours_is_not_blamed_on_the_file(
    context: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "survey_sql", lambda column: "no_such_function(1)")
    with pytest.raises(duckdb.CatalogException):
        taken("a\n1\n", context)


# noop


def test_noop_sleeps_as_long_as_asked_and_stops_when_told(tmp_path: Path) -> None:
    started = time.monotonic()
    noop(context=Recorder(tmp_path))
    noop(0.25, context=Recorder(tmp_path))
    assert 0.25 <= time.monotonic() - started < 5
    with pytest.raises(JobCancelled):
        noop(60, context=Recorder(tmp_path, stop_at=time.monotonic()))
    with pytest.raises(InvalidPayload, match="sleep_seconds"):
        registry.get("noop").normalized({"sleep_seconds": 3601}, None)
