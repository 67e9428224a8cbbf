"""The stack's settings with places in the code where a process can be made to die."""

from __future__ import annotations

import os
import select
import time

from tests.settings_stack import *  # noqa: F403 - a settings module is all its names
from tests.settings_stack import INSTALLED_APPS as _APPS

INSTALLED_APPS = [*_APPS, "tests.faults.suite.kill_points.KillPoints"]

if "FAKETIME" in os.environ:
    # libfaketime answers EINVAL to a sleep until a moment that passes while it looks at its clock.
    # Python sleeps until a moment; select waits for a span.
    time.sleep = lambda seconds: select.select([], [], [], seconds)
