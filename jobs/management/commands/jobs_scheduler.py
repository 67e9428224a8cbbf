"""``jobs_scheduler``: runs the maintenance duties until stopped."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from django.core.management.base import BaseCommand

from jobs import conf
from jobs.maintenance import pruner, reconciler, rescuer
from jobs.management.loop import Loop

log = logging.getLogger("jobs.scheduler")

PRUNE_EVERY_SECONDS = 60.0


class Command(BaseCommand):
    help = "Rescue, reconcile and prune until SIGTERM. Any number may run."

    def handle(self, *args: Any, **options: Any) -> None:
        pruned_at = float("-inf")

        def step() -> bool:
            nonlocal pruned_at
            if ended := rescuer.run_once():
                log.info("ended %d lapsed attempts", ended)
            if armed := reconciler.run_once():
                log.info("armed %d unanswered doorbells again", armed)
            if time.monotonic() - pruned_at > PRUNE_EVERY_SECONDS:
                pruned_at = time.monotonic()
                pruner.run_once()
            return False

        def rest() -> None:
            loop.ended.wait(conf.get().maintenance_poll_seconds)

        loop = Loop("scheduler", step, rest)
        sys.exit(loop.run())
