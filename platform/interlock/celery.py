"""The Celery app: ``celery -A interlock worker -Q default``."""

from __future__ import annotations

import gc
import os

from celery import Celery, signals

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "interlock.settings")

app = Celery("interlock")
app.config_from_object("interlock.celeryconfig")
app.autodiscover_tasks(["jobs"])


@signals.worker_before_create_process.connect
def _share_memory(**_: object) -> None:
    """What is there before a child is forked stays where it is and shared.

    A collection in the child would write into every object that it looks at, and so copy the pages
    of all that was imported, which none of the children ever frees.
    """
    gc.collect()
    gc.freeze()
