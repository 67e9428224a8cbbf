"""Rings again for jobs whose doorbell was published and never answered."""

from __future__ import annotations

from django.db import connection

from jobs import conf, sql, transactions


def run_once() -> int:
    """Arm one bounded batch of unanswered outbox rows again; returns how many."""
    settings = conf.get()
    parameters = {
        "base_seconds": settings.rearm_seconds,
        "cap_seconds": settings.rearm_cap_seconds,
        "limit": settings.rearm_batch_size,
    }

    def work() -> int:
        with connection.cursor() as cursor:
            cursor.execute(sql.load("rearm"), parameters)
            return int(cursor.rowcount)

    return transactions.run(work)
