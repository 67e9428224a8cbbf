"""The stack's settings with places in the code where a process can be made to die."""

from __future__ import annotations

from tests.settings_stack import *  # noqa: F403 - a settings module is all its names
from tests.settings_stack import INSTALLED_APPS as _APPS

INSTALLED_APPS = [*_APPS, "tests.faults.suite.kill_points.KillPoints"]
