"""The stack's settings with places in the code where a process can be made to die."""

from __future__ import annotations

import os
import select
import time

from tests.settings_stack import *  # noqa: F403 - a settings module is all its names
from tests.settings_stack import INSTALLED_APPS as _APPS

INSTALLED_APPS = [*_APPS, "tests.faults.suite.kill_points.KillPoints"]


def _wait_for_a_span(seconds: float) -> None:
    select.select([], [], [], seconds)


if "FAKETIME" in os.environ:
    # libfaketime answers EINVAL to a sleep until a moment that passes while it looks at its clock,
    # and Python sleeps until a moment.
    time.sleep = _wait_for_a_span  # type: ignore[assignment] # more than floats is never given
