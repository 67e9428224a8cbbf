"""RQ on Redis: a pool of two workers that do not fork for each job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
import rq

from bench import marks
from bench.peers.base import Peer, module


class Rq(Peer):
    """SimpleWorker: RQ's default forks for each job, and is a quarter as fast."""

    has_status = True
    has_bulk = True

    def prepare(self) -> None:
        self.redis = redis.Redis.from_url(self.place.cache_url)
        self.queue = rq.Queue("bench", connection=self.redis)

    def commands(self) -> dict[str, list[str]]:
        options = ["-n", "2", "-w", "rq.worker.SimpleWorker", "--quiet", "bench"]
        return {"worker": module("rq.cli", "worker-pool", "--url", self.place.cache_url, *options)}

    def submit(self, number: int) -> Any:
        return self.queue.enqueue(marks.ran, number, marks.PADDING, result_ttl=3600).id

    def submit_many(self, numbers: Sequence[int]) -> list[Any]:
        prepared = [
            rq.Queue.prepare_data(marks.ran, args=(number, marks.PADDING), result_ttl=3600)
            for number in numbers
        ]
        return [job.id for job in self.queue.enqueue_many(prepared)]

    def visible(self, handle: Any) -> bool:
        return bool(self.redis.hget(f"rq:job:{handle}", "status") == b"finished")

    def settled(self, handles: Sequence[Any], total: int) -> bool:
        del handles
        return int(self.queue.finished_job_registry.count) >= total
