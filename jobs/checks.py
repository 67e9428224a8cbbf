"""Problems of settings and handlers as Django system checks with stable ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.db import connection

from jobs import conf, registry
from jobs.errors import ConfigurationError


def check_settings(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """jobs.E001: ``settings.JOBS`` is wrong. jobs.E002: the database is not PostgreSQL."""
    problems: list[checks.CheckMessage] = []
    try:
        conf.get()
    except ConfigurationError as error:
        problems.append(checks.Error(str(error), id="jobs.E001"))
        return problems
    if connection.vendor != "postgresql":
        hint = "row locks, partial indexes and the guarding triggers need PostgreSQL 15 or newer"
        problems.append(checks.Error("jobs needs PostgreSQL", hint=hint, id="jobs.E002"))
    if connection.settings_dict.get("OPTIONS", {}).get("pool"):
        text = "a connection pool in prefork workers is shared over fork"
        problems.append(checks.Warning(text, id="jobs.W001"))
    problems += _queue_problems()
    if not settings.USE_TZ:
        problems.append(checks.Error("jobs needs USE_TZ = True", id="jobs.E004"))
    return problems


def _queue_problems() -> list[checks.CheckMessage]:
    known = conf.get().queues
    return [
        checks.Error(
            f"handler {name!r} wants queue {spec.queue!r}, which JOBS['queues'] does not name",
            id="jobs.E003",
        )
        for name in registry.names()
        if (spec := registry.get(name)).queue is not None and spec.queue not in known
    ]
