"""pgqueuer: two workers that take ten jobs at once; neither audit nor outbox."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import asyncpg
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries

from bench.peers.base import module, payload
from bench.peers.sql import Table, TablePeer


class PgQueuer(TablePeer):
    """Its outcomes are written to a log table, from a buffer."""

    has_bulk = True

    def prepare(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.queries: Any = self.loop.run_until_complete(self._connect())
        url = self.place.database_url
        self.table = Table(url, "pgqueuer_log", "job_id", "successful")

    async def _connect(self) -> Any:
        connection = await asyncpg.connect(self.place.database_url)
        queries: Any = Queries(AsyncpgDriver(connection))
        await queries.install()
        return queries

    def commands(self) -> dict[str, list[str]]:
        worker = module("bench.peers.pgqueuer_app")
        return {"worker-1": worker, "worker-2": worker}

    def submit(self, number: int) -> Any:
        return self.submit_each([number])[0]

    def submit_each(self, numbers: Sequence[int]) -> list[Any]:
        return self.loop.run_until_complete(self._each(numbers))

    async def _each(self, numbers: Sequence[int]) -> list[Any]:
        found: list[Any] = []
        for number in numbers:
            found += await self.queries.enqueue("bench", _bytes(number))
        return found

    def submit_many(self, numbers: Sequence[int]) -> list[Any]:
        count = len(numbers)
        bodies = [_bytes(number) for number in numbers]
        wanted = self.queries.enqueue(["bench"] * count, bodies, [0] * count)
        return list(self.loop.run_until_complete(wanted))

    def visible(self, handle: Any) -> bool:
        return self.table.visible(handle)

    def close(self) -> None:
        super().close()
        self.loop.run_until_complete(self.queries.driver.connection.close())
        self.loop.close()


def _bytes(number: int) -> bytes:
    return json.dumps(payload(number)).encode()
