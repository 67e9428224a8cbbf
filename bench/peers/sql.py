"""Status stores that are a table: one plain connection that looks, beside the peer's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from bench.peers.base import Peer


class Table:
    """Rows of finished jobs: which column says so, and with which word."""

    def __init__(
        self, url: str, name: str, key: str, done: str, *, column: str = "status", where: str = ""
    ) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        more = f" AND {where}" if where else ""
        self._one = f"SELECT 1 FROM {name} WHERE {key} = %s AND {column} = %s{more}"
        self._all = f"SELECT count(*) FROM {name} WHERE {column} = %s{more}"
        self._done = done

    def visible(self, key: Any) -> bool:
        return self._connection.execute(self._one, [key, self._done]).fetchone() is not None

    def count(self) -> int:
        """How many are done, ever. Asked only once all bodies have run."""
        row = self._connection.execute(self._all, [self._done]).fetchone()
        return int(row[0]) if row else 0

    def close(self) -> None:
        self._connection.close()


class TablePeer(Peer):
    """A peer whose status store is a table; ``prepare`` sets it."""

    has_status = True
    table: Table

    def visible(self, handle: Any) -> bool:
        return self.table.visible(handle)

    def settled(self, handles: Sequence[Any], total: int) -> bool:
        del handles
        return self.table.count() >= total

    def close(self) -> None:
        self.table.close()


def migrate() -> None:
    """The tables of all Django apps of the peers; needs Django's settings."""
    from django.core.management import call_command

    call_command("migrate", run_syncdb=True, verbosity=0)
