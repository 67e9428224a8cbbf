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


class Every:
    """Says when a duty is due that runs less often than the loop; the first time at once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = float("-inf")

    def is_due(self) -> bool:
        """True, and the wait begins anew, once ``seconds`` have passed since the last time."""
        if time.monotonic() - self._last < self._seconds:
            return False
        self._last = time.monotonic()
        return True


class Command(BaseCommand):
    help = "Rescue, reconcile and prune until SIGTERM. Any number may run."

    def handle(self, *args: Any, **options: Any) -> None:
        # An unanswered doorbell ages for rearm_seconds: looking much more often finds nothing new
        # and reads every waiting job each time.
        reconcile = Every(conf.get().rearm_seconds / 6)
        prune = Every(PRUNE_EVERY_SECONDS)

        def step() -> bool:
            if ended := rescuer.run_once():
                log.info("ended %d lapsed attempts", ended)
            if reconcile.is_due() and (armed := reconciler.run_once()):
                log.info("armed %d unanswered doorbells again", armed)
            if prune.is_due():
                pruner.run_once()
            return False

        def rest() -> None:
            loop.ended.wait(conf.get().maintenance_poll_seconds)

        loop = Loop("scheduler", step, rest)
        sys.exit(loop.run())
