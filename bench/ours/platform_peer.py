"""The platform as one of the queues: worker with two children, relay, scheduler."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from uuid import UUID

import django
from django.core.management import call_command
from django.db import connection

from bench.latency import percentiles
from bench.peers.base import Peer, module, payload

WORKER = (
    *("celery", "-A", "interlock", "worker", "-Q", "default", "--pool", "prefork"),
    *("--concurrency", "2", "--without-gossip", "--without-mingle", "--without-heartbeat"),
)

_COMPLETED = b'"state":"COMPLETED"'


class Interlock(Peer):
    """Everything on: audit, fencing, guard, quorum queue, confirms, status copies."""

    queues = ("default", "jobs.dead")
    has_status = True
    has_bulk = True
    # With the relay, so that its share of the work is in the drain and not in the submit.
    consumers = ("worker", "relay")
    #: Overrides of Django's ``JOBS`` setting.
    jobs: ClassVar[Mapping[str, Any]] = {}
    #: Who owns the jobs; rows about the API set it.
    owner_id: int | None = None

    def prepare(self) -> None:
        if self.jobs:
            os.environ["INTERLOCK_JOBS"] = json.dumps(dict(self.jobs))
        django.setup()
        call_command("migrate", verbosity=0)
        call_command("jobs_topology", verbosity=0)

    def commands(self) -> dict[str, list[str]]:
        return {
            "worker": module(*WORKER),
            "relay": module("interlock", "jobs_relay"),
            "scheduler": module("interlock", "jobs_scheduler"),
        }

    def submit(self, number: int) -> UUID:
        return self.submit_many([number])[0]

    def submit_many(self, numbers: Sequence[int]) -> list[UUID]:
        from bench.ours.handlers import NAME
        from jobs import lifecycle
        from jobs.values import Submission

        wanted = [Submission(NAME, payload(number), owner_id=self.owner_id) for number in numbers]
        return [one.job_id for one in lifecycle.submit(wanted)]

    def visible(self, handle: UUID) -> bool:
        """COMPLETED in Redis, where the API looks."""
        return self._copied([handle])

    def settled(self, handles: Sequence[UUID], total: int) -> bool:
        """COMPLETED in PostgreSQL, all, and in Redis too, by every tenth of the last thousand: to
        read them all takes as long as to finish a hundred."""
        del total
        with connection.cursor() as cursor:
            # Two partial indexes: costs nothing beside a million finished rows.
            cursor.execute(
                "SELECT EXISTS (SELECT FROM jobs_job WHERE state = 'PENDING')"
                " OR EXISTS (SELECT FROM jobs_job WHERE state = 'RUNNING')"
            )
            (unfinished,) = cursor.fetchone()
        return not unfinished and self._copied(handles[-1000::10])

    def _copied(self, handles: Sequence[UUID]) -> bool:
        from jobs import status

        copies = status.read(list(handles))
        found = [copies.get(handle) for handle in handles]
        return all(copy is not None and _COMPLETED in copy.body for copy in found)

    def details(self, handles: Sequence[UUID]) -> dict[str, float]:
        """Where the time goes, by the database's clock, from the submit's transaction on."""
        spans = {
            "publish": "o.published_at - o.created_at",
            "start": "j.started_at - j.submitted_at",
            "complete": "j.finished_at - j.submitted_at",
        }
        return {
            name: value
            for span, expression in spans.items()
            for name, value in percentiles(span, _spans(handles, expression)).items()
        }


class InterlockSingle(Interlock):
    """The same with one job in each message."""

    jobs = {"message_limit": 1}


def _spans(handles: Sequence[UUID], expression: str) -> list[float]:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT extract(epoch FROM {expression}) FROM jobs_job j"
            " JOIN (SELECT unnest(job_id || others) AS job_id, created_at, published_at"
            " FROM jobs_outboxentry) o ON o.job_id = j.id WHERE j.id = ANY(%s::uuid[])"
            # The last job may be done before the relay has noted that it rang.
            f" AND {expression} IS NOT NULL",
            [[str(handle) for handle in handles]],
        )
        return [float(row[0]) for row in cursor.fetchall()]
