"""What owners and operators do: cancel, reopen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from uuid import UUID

from django.db import IntegrityError
from django_fsm import can_proceed

from jobs import policy, transactions
from jobs.errors import IllegalTransition
from jobs.lifecycle.writing import write
from jobs.models import Job
from jobs.states import FINAL, JobEvent, JobState
from jobs.values import Actor, Changed


def cancel(job_ids: Collection[UUID], *, actor: Actor, reason: str = "") -> list[Changed]:
    """Cancel what waits at once; ask the holder of what runs. Ids that do not exist are left out.

    A job that is already CANCELLED, or already asked, is left as it is (``event`` None). Raises
    IllegalTransition, and changes nothing, if a job has ended otherwise.
    """
    reason = policy.clipped(reason)

    def step(job: Job) -> JobEvent | None:
        if job.state == JobState.RUNNING:
            if job.cancel_requested_at is not None:
                return None
            job.request_cancel(actor, reason)
            return JobEvent.REQUEST_CANCEL
        if job.state == JobState.CANCELLED:
            return None
        _require(can_proceed(job.cancel), job, "cancelled")
        job.cancel(actor, reason)
        return JobEvent.CANCEL

    return _change(job_ids, step)


def reopen(job_ids: Collection[UUID], *, actor: Actor, reason: str = "") -> list[Changed]:
    """Give FAILED or CANCELLED jobs a new run with a fresh budget.

    An active job is left as it is (``event`` None). Raises IllegalTransition, and changes nothing,
    if a job is COMPLETED, which is final for ever, or another active job of its owner has its
    unique key.
    """
    reason = policy.clipped(reason)

    def step(job: Job) -> JobEvent | None:
        if JobState(job.state) not in FINAL:
            return None
        _require(can_proceed(job.reopen), job, "retried")
        job.reopen(actor, reason)
        return JobEvent.REOPEN

    try:
        return _change(job_ids, step)
    except IntegrityError as error:
        if "jobs_job_unique_key" not in str(error):
            raise
        text = "another active job of the same owner has the unique key of one of these"
        raise IllegalTransition(text) from error


def _change(job_ids: Collection[UUID], step: Callable[[Job], JobEvent | None]) -> list[Changed]:
    def work() -> list[Changed]:
        moved: dict[JobEvent, list[Job]] = defaultdict(list)
        answers = []
        for job in Job.objects.locked(job_ids):
            event = step(job)
            if event is not None:
                moved[event].append(job)
            answers.append(Changed(job.id, JobState(job.state), job.version, event))
        for event, group in moved.items():
            write(event, group)
        return answers

    return transactions.run(work)


def _require(allowed: object, job: Job, verb: str) -> None:
    if not allowed:
        raise IllegalTransition(f"job {job.id} is {job.state} and cannot be {verb}")
