"""The Django project that runs the ``jobs`` app as a platform of its own."""

from interlock.celery import app as celery_app

__all__ = ["celery_app"]
