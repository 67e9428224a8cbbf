"""What a piece of work has PostgreSQL read of a table, also inside of the database's functions."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from django.db import connection


class Reads:
    """Counts between entering and leaving, both in one transaction and on one connection."""

    whole = 0
    """Scans of the whole table."""
    rows = 0
    """Rows that were looked at, by whichever way, kept or not."""

    def __init__(self, table: str) -> None:
        self._table = table

    def __enter__(self) -> Self:
        whole, rows = self._counted()
        self.whole, self.rows = -whole, -rows
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            whole, rows = self._counted()
            self.whole += whole
            self.rows += rows

    def _counted(self) -> tuple[int, int]:
        assert connection.in_atomic_block
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT seq_scan, seq_tup_read + coalesce(idx_tup_fetch, 0)"
                " FROM pg_stat_xact_user_tables WHERE relname = %s",
                [self._table],
            )
            [(whole, rows)] = cursor.fetchall()
        return int(whole), int(rows)
