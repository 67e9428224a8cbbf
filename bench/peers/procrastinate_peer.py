"""Procrastinate: two workers of eight coroutines, woken by LISTEN/NOTIFY."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.peers.base import module, payload
from bench.peers.sql import Table, TablePeer


class Procrastinate(TablePeer):
    """Jobs, states and an event log in PostgreSQL."""

    has_bulk = True

    def prepare(self) -> None:
        from bench.peers import procrastinate_app

        app = procrastinate_app.app
        app.open()
        app.schema_manager.apply_schema()
        self.app, self.task = app, procrastinate_app.ran
        self.table = Table(self.place.database_url, "procrastinate_jobs", "id", "succeeded")

    def commands(self) -> dict[str, list[str]]:
        app = ["--app", "bench.peers.procrastinate_app.app"]
        worker = module("procrastinate", *app, "worker", "-c", "8", "-q", "bench")
        return {"worker-1": worker, "worker-2": worker}

    def submit(self, number: int) -> Any:
        return self.task.defer(**payload(number))

    def submit_many(self, numbers: Sequence[int]) -> list[Any]:
        return list(self.task.batch_defer(*(payload(number) for number in numbers)))

    def close(self) -> None:
        super().close()
        self.app.close()
