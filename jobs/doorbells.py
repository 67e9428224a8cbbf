"""The one message format: a schema version and a list of job ids with their versions.

A doorbell is a hint. It carries no payload and no authority, so a lost, doubled, late or forged one
can at most make a worker look at a row.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from jobs.values import Doorbell

SCHEMA_VERSION = 1
#: The stable Celery task name of every doorbell, whatever the handler: it must never change.
TASK_NAME = "jobs.ring"


def encode(doorbells: Iterable[Doorbell]) -> dict[str, Any]:
    """The message body for these doorbells."""
    return {"v": SCHEMA_VERSION, "jobs": [[str(bell.job_id), bell.version] for bell in doorbells]}


def decode(body: Any) -> list[Doorbell]:
    """The doorbells of a message body. Raises ValueError for anything that is not ours."""
    if not isinstance(body, dict) or body.get("v") != SCHEMA_VERSION:
        raise ValueError(f"not a doorbell of schema version {SCHEMA_VERSION}")
    try:
        return [Doorbell(UUID(job_id), int(version)) for job_id, version in body["jobs"]]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"malformed doorbell: {error}") from error
