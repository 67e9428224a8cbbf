"""The project's own settings, and an app that brings the body that all measured queues run."""

from __future__ import annotations

from interlock.settings import *  # noqa: F403 - Django reads settings as names of a module
from interlock.settings import INSTALLED_APPS as _APPS

INSTALLED_APPS = [*_APPS, "bench.ours"]
