"""The Celery app: ``celery -A interlock worker -Q default``."""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "interlock.settings")

app = Celery("interlock")
app.config_from_object("interlock.celeryconfig")
app.autodiscover_tasks(["jobs"])
