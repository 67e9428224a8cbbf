"""The task of django-tasks-db, found by its path."""

from __future__ import annotations

from django_tasks import task

from bench import marks


@task()  # type: ignore[untyped-decorator]  # not installed where types are checked
def ran(number: int, pad: str) -> None:
    """A task of its own name: the worker looks it up by that."""
    marks.ran(number, pad)
