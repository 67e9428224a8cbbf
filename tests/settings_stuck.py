"""The stack's settings, in a process whose main thread stands still after SIGUSR2."""

from __future__ import annotations

import signal
import time

from tests.settings_stack import *  # noqa: F403 - settings are names of a module


def _stand_still(*_: object) -> None:
    # Not one long sleep: it would be a system call that a closed socket could not end either way.
    while True:
        time.sleep(0.1)


signal.signal(signal.SIGUSR2, _stand_still)
