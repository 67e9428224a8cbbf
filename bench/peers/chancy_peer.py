"""Chancy: two workers of sixteen coroutines that look again at once while there is work."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from chancy import Chancy, Queue

from bench.peers.base import module, payload
from bench.peers.sql import Table, TablePeer


class ChancyPeer(TablePeer):
    """Its outcomes are written once a second."""

    has_bulk = True

    def prepare(self) -> None:
        from bench.peers import chancy_app

        self.job = chancy_app.ran.job
        asyncio.run(self._install())
        self.chancy: Any = Chancy(self.place.database_url)
        self.table = Table(
            self.place.database_url, "chancy_jobs", "id", "succeeded", column="state"
        )

    async def _install(self) -> None:
        async with Chancy(self.place.database_url) as chancy:
            await chancy.migrate()
            queue = Queue(
                "bench",
                concurrency=16,
                executor="chancy.executors.asyncex.AsyncExecutor",
                eager_polling=True,
            )
            await chancy.declare(queue)

    def commands(self) -> dict[str, list[str]]:
        worker = module("bench.peers.chancy_app")
        return {"worker-1": worker, "worker-2": worker}

    def submit(self, number: int) -> Any:
        return self.chancy.sync_push(self.job.with_kwargs(**payload(number))).identifier

    def submit_many(self, numbers: Sequence[int]) -> list[Any]:
        jobs = [self.job.with_kwargs(**payload(number)) for number in numbers]
        batches = self.chancy.sync_push_many(jobs)
        return [reference.identifier for batch in batches for reference in batch]

    def close(self) -> None:
        super().close()
        self.chancy.sync_pool.close()
