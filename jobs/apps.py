"""Wires the app: observers, checks, and the ``handlers`` modules of all installed apps."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks
from django.utils.module_loading import autodiscover_modules


class JobsConfig(AppConfig):
    """The job engine as a Django app."""

    name = "jobs"
    verbose_name = "Jobs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from jobs.checks import check_settings
        from jobs.observers import subscribe_all

        checks.register(check_settings)
        subscribe_all()
        autodiscover_modules("handlers")
