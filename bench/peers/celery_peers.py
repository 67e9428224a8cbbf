"""Celery with and without results: prefork with two children, the usual choice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import redis

from bench.marks import PADDING
from bench.peers.base import Peer, module
from bench.peers.sql import Table, TablePeer, migrate


class Celery(Peer):
    """Early acknowledgement, durable classic queue, no confirm, no result: Celery's defaults."""

    #: Read when the app's module is imported, here and in the workers.
    environment: ClassVar[Mapping[str, str]] = {"INTERLOCK_BENCH_CELERY": "plain"}
    queues: ClassVar[Sequence[str]] = ("bench-plain",)

    def prepare(self) -> None:
        from bench.peers import celery_app

        self.task = celery_app.ran

    def commands(self) -> dict[str, list[str]]:
        options = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "ERROR"]
        pool = ["-P", "prefork", "-c", "2"]
        worker = module("celery", "-A", "bench.peers.celery_app", "worker", *pool, *options)
        return {"worker": worker}

    def submit(self, number: int) -> Any:
        return self.task.delay(number, PADDING).id


class CeleryQuorum(Celery):
    """Quorum queue with publisher confirms: what is accepted is on the broker's disk."""

    environment = {"INTERLOCK_BENCH_CELERY": "quorum"}
    # Celery declares these for delays as soon as it sees a quorum queue.
    queues = ("bench-quorum", *(f"celery_delayed_{number}" for number in range(28)))


class CeleryRedis(Celery):
    """Results and the started state in Redis."""

    environment = {"INTERLOCK_BENCH_CELERY": "redis"}
    queues = ("bench-redis",)
    has_status = True

    def prepare(self) -> None:
        super().prepare()
        self.redis = redis.Redis.from_url(self.place.cache_url)

    def visible(self, handle: Any) -> bool:
        return self.settled([handle], 1)

    def settled(self, handles: Sequence[Any], total: int) -> bool:
        del total
        values: Any = self.redis.mget([f"celery-task-meta-{handle}" for handle in handles])
        return all(value and json.loads(value)["status"] == "SUCCESS" for value in values)


class CeleryDjango(TablePeer, Celery):
    """django-celery-results in PostgreSQL, with its connections kept."""

    environment = {"INTERLOCK_BENCH_CELERY": "django-db"}
    queues = ("bench-django-db",)

    def prepare(self) -> None:
        super().prepare()
        migrate()
        self.table = Table(
            self.place.database_url, "django_celery_results_taskresult", "task_id", "SUCCESS"
        )


class Naive(CeleryDjango):
    """Our own design built the obvious way: one ORM transition after the other."""

    environment = {"INTERLOCK_BENCH_CELERY": "naive"}
    queues = ("bench-naive",)

    def prepare(self) -> None:
        super().prepare()
        from bench.peers.naive import tasks

        self.table = Table(self.place.database_url, "naive_job", "id", "COMPLETED", column="state")
        self.submit_job = tasks.submit

    def submit(self, number: int) -> Any:
        return self.submit_job(number)


class NaiveKept(Naive):
    """The same, with Celery kept from reconnecting to the database around every task."""

    environment = {"INTERLOCK_BENCH_CELERY": "naive-kept"}
    queues = ("bench-naive-kept",)
