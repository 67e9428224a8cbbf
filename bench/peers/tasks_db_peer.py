"""django-tasks-db: two workers that look 20 times per second (default: once)."""

from __future__ import annotations

from typing import Any

from bench.marks import PADDING
from bench.peers.base import module
from bench.peers.sql import Table, TablePeer, migrate


class DjangoTasksDb(TablePeer):
    """Django's own task interface with its database backend."""

    environment = {"DJANGO_SETTINGS_MODULE": "bench.peers.django_settings"}

    def prepare(self) -> None:
        import django

        django.setup()
        migrate()
        from django_tasks_db.models import DBTaskResult

        from bench.peers import tasks_db_app

        self.task = tasks_db_app.ran
        name = DBTaskResult._meta.db_table  # noqa: SLF001 - Django documents it
        self.table = Table(self.place.database_url, name, "id", "SUCCESSFUL")

    def commands(self) -> dict[str, list[str]]:
        options = ["--interval", "0.05", "--no-startup-delay", "--no-reload", "-v", "0"]
        worker = module("django", "db_worker", *options)
        return {"worker-1": worker, "worker-2": worker}

    def submit(self, number: int) -> Any:
        return self.task.enqueue(number, PADDING).id
