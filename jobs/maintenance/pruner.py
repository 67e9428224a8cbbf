"""Forgets outbox rows and workers that nobody needs any more, a bounded number at a time."""

from __future__ import annotations

from datetime import timedelta

from django.db import connection
from django.db.models.functions import Now

from jobs import conf, sql, transactions
from jobs.models import Worker

BATCH = 5000


def run_once() -> int:
    """Prune one batch; returns how many outbox rows went."""
    retention = conf.get().outbox_retention_seconds

    def work() -> int:
        with connection.cursor() as cursor:
            cursor.execute(
                sql.load("prune_outbox"), {"retention_seconds": retention, "limit": BATCH}
            )
            return int(cursor.rowcount)

    Worker.objects.filter(seen_at__lt=Now() - timedelta(seconds=retention)).delete()
    return transactions.run(work)
