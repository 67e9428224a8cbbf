"""The Celery app of all peers built on Celery, as the worker's ``-A`` finds it.

Which one is said by the environment, because Celery reads its settings at import.
"""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

from celery import Celery

from bench import marks

#: plain, quorum, redis, django-db, naive, naive-kept
FLAVOUR = os.environ["INTERLOCK_BENCH_CELERY"]
QUEUE = f"bench-{FLAVOUR}"


def _settings() -> dict[str, Any]:
    common = {
        "broker_url": os.environ["BROKER_URL"],
        "broker_connection_retry_on_startup": True,
        "task_default_queue": QUEUE,
        "task_ignore_result": True,
    }
    quorum = {
        "task_default_queue_type": "quorum",
        "worker_detect_quorum_queues": True,
        "broker_transport_options": {"confirm_publish": True},
    }
    stored = {"task_ignore_result": False, "task_track_started": True}
    # Without this old-style key Celery's Django fixup reconnects around every task.
    kept = {"CELERY_DB_REUSE_MAX": sys.maxsize}
    special: dict[str, dict[str, Any]] = {
        "quorum": quorum,
        "redis": {**stored, "result_backend": os.environ["CACHE_URL"]},
        "django-db": {**stored, "result_backend": "django-db", **kept},
        "naive": {"task_acks_late": True},
        "naive-kept": {"task_acks_late": True, **kept},
    }
    return {**common, **special.get(FLAVOUR, {})}


_ON_DJANGO = FLAVOUR in {"django-db", "naive", "naive-kept"}
if _ON_DJANGO:
    os.environ["DJANGO_SETTINGS_MODULE"] = "bench.peers.django_settings"

app = Celery("bench")
app.config_from_object(SimpleNamespace(**_settings()))

if _ON_DJANGO:
    import django

    django.setup()

ran = app.task(name="bench.ran")(marks.ran)
if FLAVOUR.startswith("naive"):
    from bench.peers.naive import tasks

    live = app.task(name="bench.live")(tasks.live)
