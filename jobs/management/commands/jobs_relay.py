"""``jobs_relay``: publishes due outbox rows until stopped."""

from __future__ import annotations

import sys
import time
from typing import Any

from celery.app import app_or_default
from django.core.management.base import BaseCommand

from jobs import conf
from jobs.management.loop import Loop
from jobs.relay import Relay
from jobs.wake import WakeUp

#: Rounds that publish begin at least this far apart, so that what comes meanwhile shares the next
#: one: statements, message and all. The first after a pause begins at once.
ROUND_SECONDS = 0.01


class Command(BaseCommand):
    help = "Publish due outbox rows to the broker until SIGTERM. Any number may run."

    def handle(self, *args: Any, **options: Any) -> None:
        relay, wake = Relay(app_or_default()), WakeUp()
        full = conf.get().relay_batch_size

        def step() -> bool:
            began = time.monotonic()
            published = relay.run_once()
            if 0 < published < full:
                time.sleep(max(0.0, began + ROUND_SECONDS - time.monotonic()))
            return published >= full

        def rest() -> None:
            wake.wait(conf.get().relay_poll_seconds)

        code = Loop("relay", step, rest).run()
        relay.close()
        wake.close()
        sys.exit(code)
