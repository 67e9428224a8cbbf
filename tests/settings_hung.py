"""The stack's settings, in a worker whose children hang before they can begin anything."""

from __future__ import annotations

import time
from typing import Any

from celery import signals

from tests.settings_stack import *  # noqa: F403 - settings are names of a module


@signals.worker_process_init.connect(weak=False)
def _hang(**_: Any) -> None:
    time.sleep(600)
