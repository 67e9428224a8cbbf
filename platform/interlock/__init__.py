"""The Django project that runs the ``jobs`` app as a platform of its own."""

import gc

# Python looks through everything it has imported again and again while it imports more: a fifth of
# a process's start with the default thresholds, and nothing is ever found there.
gc.set_threshold(50_000, 20, 50)

from interlock.celery import app as celery_app  # noqa: E402 - what follows is what imports

__all__ = ["celery_app"]
