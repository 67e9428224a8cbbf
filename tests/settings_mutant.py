"""The stack's settings with one safety taken out; see tests/mutants.py."""

from __future__ import annotations

from tests.settings_stack import *  # noqa: F403 - a settings module is all its names
from tests.settings_stack import INSTALLED_APPS as _APPS

INSTALLED_APPS = [*_APPS, "tests.mutants.Mutants"]
