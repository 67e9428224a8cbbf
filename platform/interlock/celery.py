"""The Celery app: ``celery -A interlock worker -Q default``."""

from __future__ import annotations

import os
import sys

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "interlock.settings")

app = Celery("interlock")
app.config_from_object("interlock.celeryconfig")
# Celery's Django fixup would close the database connection before and after every task, which costs
# more than the task. Connections stay open instead, and the executor checks them (ADR 0013).
app.conf.CELERY_DB_REUSE_MAX = sys.maxsize
app.autodiscover_tasks(["jobs"])
