"""A locked-down DuckDB session whose queries can be watched and stopped.

The session may read exactly one file. Every other file, every URL, extension and setting is
refused by DuckDB itself, so that nothing in a file or a payload can widen it. The file is
seen under a fixed name in a private directory: DuckDB would take ``*``, ``?``, ``[`` and
``key=value`` folders of the real path for patterns and partitions, and would repeat the
server's path in its messages.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import duckdb

from jobs.handlers.profiling.watch import ProfileWatch

POLL_SECONDS: Final = 0.1
STOP_SECONDS: Final = 10.0

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """What DuckDB may use for one profile; the process itself adds some 100 MB.

    The need does not grow with the file: 64 MB do for CSV and Parquet of any length. Looking at
    a large JSON array takes DuckDB some 300 MB at once, hence the default.
    """

    memory_mb: int = 512
    threads: int = 2


def literal(text: str) -> str:
    """``text`` as an SQL string literal, for the places where DuckDB takes no parameter."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """``name`` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


class Session:
    """One connection. ``file`` is the only path it can read."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, file: Path, watch: ProfileWatch
    ) -> None:
        self.file = file
        self._connection = connection
        self._watch = watch
        self._running: threading.Event | None = None

    def query(
        self,
        sql: str,
        parameters: Sequence[object] = (),
        advance: Callable[[float], None] | None = None,
    ) -> list[Row]:
        """Run one statement and return its rows; ``advance`` is told 0..1 on the way.

        The statement runs in a helper thread, so that this one stays able to receive an
        exception, be it raised by ``watch.check()`` or thrown in from outside; either way the
        statement is interrupted before the exception leaves.
        """
        done, outcome = threading.Event(), _Outcome()
        helper = threading.Thread(
            target=self._execute, args=(sql, parameters, outcome, done), daemon=True
        )
        self._running = done
        try:
            helper.start()
            while not done.wait(POLL_SECONDS):
                self._watch.check()
                if advance is not None:
                    advance(min(1.0, max(0.0, self._connection.query_progress() / 100)))
        finally:
            self._stop(done)
        if outcome.error is not None:
            raise outcome.error
        return outcome.rows

    def close(self) -> None:
        """Stop what runs and close. A statement that ignores its interrupt keeps the connection
        open, because closing would wait for it for ever; its thread ends with the process."""
        if self._running is not None:
            self._stop(self._running)
            if not self._running.is_set():
                return
        self._connection.close()

    def _execute(
        self, sql: str, parameters: Sequence[object], outcome: _Outcome, done: threading.Event
    ) -> None:
        try:
            outcome.rows = self._connection.execute(sql, list(parameters)).fetchall()
        except BaseException as error:  # raised again in the waiting thread
            outcome.error = error
        finally:
            done.set()

    def _stop(self, done: threading.Event) -> None:
        # Repeated, because an interrupt that comes before the statement has begun is lost.
        deadline = time.monotonic() + STOP_SECONDS
        while not done.is_set() and time.monotonic() < deadline:
            self._connection.interrupt()
            done.wait(0.02)


class _Outcome:
    """What the helper thread hands back."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.error: BaseException | None = None


@contextmanager
def session(file: Path, suffix: str, limits: Limits, watch: ProfileWatch) -> Iterator[Session]:
    """A session on ``file``, which DuckDB sees as ``data<suffix>`` in a private directory.

    The directory with everything spilled into it is deleted at the end, however it comes.
    """
    with TemporaryDirectory(prefix="interlock-profile-", ignore_cleanup_errors=True) as folder:
        link = Path(folder) / f"data{suffix}"
        link.symlink_to(file.absolute())
        opened = Session(_locked(link, Path(folder) / "spill", limits), link, watch)
        try:
            yield opened
        finally:
            opened.close()


def _locked(link: Path, spill: Path, limits: Limits) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": f"{limits.memory_mb}MiB",
            "threads": limits.threads,
            "temp_directory": str(spill),
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "python_enable_replacements": False,
        },
    )
    try:
        connection.execute("SET TimeZone = 'UTC'")
        # query_progress() answers only while the progress bar is on; printing it is not.
        connection.execute("SET enable_progress_bar = true")
        connection.execute("SET enable_progress_bar_print = false")
        connection.execute("SET progress_bar_time = 0")
        connection.execute(f"SET allowed_paths = [{literal(str(link))}]")
        # The order matters: each of these two makes the settings above it final.
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    except BaseException:
        connection.close()
        raise
    return connection
