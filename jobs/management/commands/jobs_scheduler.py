"""``jobs_scheduler``: runs the maintenance duties until stopped."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from django.core.management.base import BaseCommand

from jobs import conf
from jobs.maintenance import pruner
from jobs.maintenance.orphans import Orphans
from jobs.maintenance.reconciler import Reconciler
from jobs.maintenance.rescuer import Rescuer
from jobs.management.loop import Loop, run_all

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


class Duties:
    """One scheduler's duties. None can keep another from running, by failing or by taking long."""

    def __init__(self) -> None:
        self._rescuer = Rescuer()
        self._reconciler = Reconciler()
        self._orphans = Orphans()
        self._prune = Every(PRUNE_EVERY_SECONDS)

    def run_once(self) -> None:
        """One tick. Raises what the first of them that failed has raised."""
        run_all([self._rescue, self._reconcile, self._forget, self._orphans.run_once])

    def _rescue(self) -> None:
        if ended := self._rescuer.run_once():
            log.info("ended %d lapsed attempts", ended)

    def _reconcile(self) -> None:
        if armed := self._reconciler.run_once():
            log.info("armed %d unanswered doorbells again", armed)

    def _forget(self) -> None:
        if self._prune.is_due():
            pruner.run_once()


class Command(BaseCommand):
    help = "Rescue, reconcile and prune until SIGTERM. Any number may run."

    def handle(self, *args: Any, **options: Any) -> None:
        duties = Duties()

        def step() -> bool:
            duties.run_once()
            return False

        def rest() -> None:
            loop.ended.wait(conf.get().maintenance_poll_seconds)

        loop = Loop("scheduler", step, rest)
        sys.exit(loop.run())
