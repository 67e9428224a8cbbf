"""The Python way in: submit jobs and ask for their status from a project's own code."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Protocol
from uuid import UUID

from jobs import lifecycle, status_reader
from jobs.states import ActorKind
from jobs.values import SYSTEM, Accepted, Actor, Submission


class HasKey(Protocol):
    """A user, as far as this module is concerned."""

    @property
    def pk(self) -> Any: ...


def submit(
    handler: str,
    payload: Mapping[str, Any] | None = None,
    *,
    owner: HasKey | int | None = None,
    **options: Any,
) -> Accepted:
    """Accept one job, in the caller's transaction if there is one.

    ``options`` are the other fields of ``Submission``: ``queue``, ``priority``, ``due_at``,
    ``delay_seconds``, ``idempotency_key`` and so on. Raises SubmissionError, naming the field.
    """
    owner_id = _key_of(owner)
    wanted = Submission(handler, payload or {}, owner_id=owner_id, **options)
    return submit_many([wanted])[0]


def submit_many(submissions: Iterable[Submission]) -> list[Accepted]:
    """Accept all or none, and answer in the order given. Raises SubmissionError, naming indexes.

    If all jobs have the same owner, that user is the actor in the audit; else the system is.
    """
    wanted = list(submissions)
    owners = {submission.owner_id for submission in wanted}
    owner_id = owners.pop() if len(owners) == 1 else None
    actor = SYSTEM if owner_id is None else Actor(ActorKind.USER, str(owner_id))
    return lifecycle.submit(wanted, actor=actor)


def status(job_ids: Iterable[UUID]) -> dict[UUID, dict[str, Any]]:
    """What ``GET jobs/{id}/status/`` would say of each job; unknown ids are left out."""
    copies = status_reader.many(list(dict.fromkeys(job_ids)))
    return {job_id: json.loads(copy.body) for job_id, copy in copies.items()}


def _key_of(owner: HasKey | int | None) -> int | None:
    if owner is None or isinstance(owner, int):
        return owner
    return int(owner.pk)
