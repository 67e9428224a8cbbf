"""``jobs_relay``: publishes due outbox rows until stopped."""

from __future__ import annotations

import sys
import time
from typing import Any

from celery.app import app_or_default
from django.core.management.base import BaseCommand

from jobs import conf
from jobs.management.loop import Loop
from jobs.relay import Relay, round_seconds
from jobs.wake import WakeUp


class Command(BaseCommand):
    help = "Publish due outbox rows to the broker until SIGTERM. Any number may run."

    def handle(self, *args: Any, **options: Any) -> None:
        relay, wake = Relay(app_or_default()), WakeUp()

        def step() -> bool:
            began, limit = time.monotonic(), relay.limit
            published = relay.run_once()
            time.sleep(max(0.0, began + round_seconds(published, limit) - time.monotonic()))
            return published >= limit

        def rest() -> None:
            ends = time.monotonic() + conf.get().relay_poll_seconds
            # Rung at once: somebody waits for it, and the loop has other things to do first.
            while (foretold := wake.wait(ends - time.monotonic())) is not None:
                if relay.ring_early(foretold):
                    break

        code = Loop("relay", step, rest).run()
        relay.close()
        wake.close()
        sys.exit(code)
