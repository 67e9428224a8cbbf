"""The project's settings with the tests' own handlers: what real processes run in these rings."""

from __future__ import annotations

from interlock.settings import *  # noqa: F403 - a settings module is all its names
from interlock.settings import INSTALLED_APPS as _APPS

INSTALLED_APPS = [*_APPS, "tests.testapp"]
