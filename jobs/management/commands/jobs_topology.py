"""``jobs_topology``: declares the queues on the broker."""

from __future__ import annotations

from typing import Any

from celery import current_app
from django.core.management.base import BaseCommand, CommandError

from jobs import conf, topology
from jobs.errors import ConfigurationError


class Command(BaseCommand):
    help = "Declare every queue on the broker. Changes nothing where that has been done."

    def handle(self, *args: Any, **options: Any) -> None:
        seconds = conf.get().publish_timeout_seconds
        try:
            with current_app.connection_for_write(connect_timeout=seconds) as broker:
                broker.ensure_connection(max_retries=3)
                names = topology.declare(broker)
        except ConfigurationError as error:
            raise CommandError(str(error)) from error
        except broker.connection_errors + broker.channel_errors as error:
            raise CommandError(f"the broker refused: {error}") from error
        self.stdout.write(f"declared: {', '.join(names)}")
