"""``jobs_health``: exit code 0 if a process of this kind on this host was seen lately."""

from __future__ import annotations

import socket
import sys
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import Error
from django.db.models.functions import Now

from jobs import conf
from jobs.models import Worker


class Command(BaseCommand):
    help = "Exit with 0 if a worker, relay or scheduler on this host has shown itself lately."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("kind", choices=["worker", "relay", "scheduler"])

    def handle(self, *args: Any, **options: Any) -> None:
        since = Now() - timedelta(seconds=conf.get().worker_stale_seconds)
        seen = Worker.objects.filter(
            kind=options["kind"], hostname=socket.gethostname(), seen_at__gt=since, stopped_at=None
        )
        try:
            alive = seen.exists()
        except Error as error:
            self.stderr.write(f"database: {error}")
            sys.exit(1)
        self.stdout.write("ok" if alive else "not seen")
        sys.exit(0 if alive else 1)
