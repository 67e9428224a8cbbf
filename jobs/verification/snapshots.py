"""One connection that only reads, one short transaction at a time, each on one snapshot.

REPEATABLE READ lets every statement of a transaction see the same moment, so a job that moves
between two of them is no false alarm; READ ONLY takes no row locks and lets nothing be written by
accident. A snapshot that is held keeps VACUUM from its work, so none is held longer than a window.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from django.db import connection

from jobs import sql
from jobs.errors import CannotVerify
from jobs.verification.tally import EXAMPLES, Found

T = TypeVar("T")

TRIES = 4
#: Longest that one statement of a window may take, also on a busy server.
STATEMENT_TIMEOUT_SECONDS = 300
QUERY_CANCELED = "57014"

# Statistics may be older than the rows: after a bulk load the planner thinks a window empty, or the
# rest of the table short. A plan that is right for few rows is then very wrong for many: nested
# loops over two windows, or all that follows fetched and sorted to find where a window ends. So
# those are out of the question: windows are read along their indexes and joined by hash or merge.
BEGIN = f"""
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_nestloop = off;
SET LOCAL max_parallel_workers_per_gather = 0;
SET LOCAL jit = off;
SET LOCAL work_mem = '32MB';
SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_SECONDS}s'
"""

COUNTED = f"""
SELECT rule, count(*), (array_agg(
    job_id || coalesce(' v' || version, '') ORDER BY job_id, version
))[1:{EXAMPLES}]
FROM (
%s
) AS found(rule, job_id, version) GROUP BY rule ORDER BY rule
"""


def connect() -> Any:
    """A new connection of the default database's driver, beside those that Django keeps."""
    opened = connection.get_new_connection(connection.get_connection_params())
    opened.autocommit = True
    return opened


def driver() -> Any:
    """The module that makes such connections, and whose errors they raise."""
    made_by: Any = connection
    return made_by.Database


class Snapshot:
    """One transaction. Everything asked of it is answered as of one moment."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def ask(self, statement: str, parameters: Mapping[str, Any] | None = None) -> list[Any]:
        """The rows of the named statement in ``jobs/sql/verify``."""
        return self.ask_text(sql.load(f"verify/{statement}"), parameters or {})

    def ask_text(self, text: str, parameters: Mapping[str, Any]) -> list[Any]:
        """The rows of a statement given as text."""
        self._cursor.execute(text, parameters)
        return list(self._cursor.fetchall())

    def broken(self, statement: str, parameters: Mapping[str, Any]) -> list[Found]:
        """What a named statement that answers (rule, job, version) finds, counted by rule."""
        text = COUNTED.replace("%s", sql.load(f"verify/{statement}"), 1)
        return [
            (rule, count, examples) for rule, count, examples in self.ask_text(text, parameters)
        ]


class Snapshots:
    """Opens snapshots on one connection, and opens that again when it is lost."""

    def __init__(self, open_connection: Callable[[], Any] = connect) -> None:
        self._open = open_connection
        self._connection: Any = None
        self.slowest_seconds = 0.0

    def read(self, work: Callable[[Snapshot], T]) -> T:
        """Run ``work`` in a transaction of its own; again, as a whole, if the connection is lost.

        ``work`` must do nothing but read and return. Raises CannotVerify if it never succeeds.
        """
        for count in range(1, TRIES + 1):
            try:
                return self._read(work)
            except driver().Error as error:
                self.close()
                if count == TRIES or not _passes(error):
                    raise CannotVerify(_said(error)) from error
                time.sleep(0.25 * 2**count)
        raise AssertionError("unreachable")

    def _read(self, work: Callable[[Snapshot], T]) -> T:
        if self._connection is None:
            self._connection = self._open()
        began = time.monotonic()
        with self._connection.cursor() as cursor:
            cursor.execute(BEGIN)
            answer = work(Snapshot(cursor))
            cursor.execute("COMMIT")
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
        return answer

    def close(self) -> None:
        """Hang up; the next read opens a new connection."""
        opened, self._connection = self._connection, None
        if opened is not None:
            opened.close()


def _passes(error: Exception) -> bool:
    """Whether trying again may help: a lost or refused connection, a conflict on a standby."""
    passing = (driver().OperationalError, driver().InterfaceError)
    return isinstance(error, passing) and getattr(error, "pgcode", None) != QUERY_CANCELED


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
