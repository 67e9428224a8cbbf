"""Submit and run: a transaction with a row lock and an audit row for each transition."""

from __future__ import annotations

import json
import os
from functools import cache

import redis
from django.db import transaction
from django.utils import timezone

from bench import marks
from bench.peers.base import payload
from bench.peers.naive.models import Audit, Job


def submit(number: int) -> str:
    """Row and message, the message once the row is committed. What a crash in between loses stays
    lost, as in most code of this kind."""
    from bench.peers import celery_app

    with transaction.atomic():
        job = Job.objects.create(payload=payload(number))
        transaction.on_commit(lambda: celery_app.live.delay(str(job.id)))
    return str(job.id)


def live(job_id: str) -> None:
    """The task: start, work, complete."""
    job = _step(job_id, "start")
    marks.ran(job.payload["number"])
    _step(job_id, "complete")


def _step(job_id: str, name: str) -> Job:
    with transaction.atomic():
        job: Job = Job.objects.select_for_update().get(id=job_id)
        source = job.state
        getattr(job, name)()
        now = timezone.now()
        job.started_at, job.finished_at = job.started_at or now, now
        job.save()
        Audit.objects.create(job=job, source=source, target=job.state)
        transaction.on_commit(lambda: _copy(job))
    return job


def _copy(job: Job) -> None:
    _redis().set(f"naive:{job.id}", json.dumps({"state": job.state}), ex=3600)


@cache
def _redis() -> redis.Redis:
    return redis.Redis.from_url(os.environ["CACHE_URL"])
