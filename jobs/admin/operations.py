"""What operators may do to jobs: cancel and retry, each job for itself.

One job that has ended meanwhile must not keep the others from being cancelled, so every job is a
transaction of its own and the answer says what became of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from uuid import UUID

from jobs import lifecycle
from jobs.errors import TransitionError
from jobs.models import Job
from jobs.states import FINAL, JobEvent, JobState, sources_of
from jobs.values import Actor, Changed

#: Jobs in one request; more would keep the browser waiting.
MOST = 500


@dataclass(frozen=True, slots=True)
class Verb:
    """One operation, in the words of its buttons and messages."""

    name: str
    label: str
    headline: str
    run: Callable[[Collection[UUID], Actor, str], list[Changed]]
    effects: dict[JobState, str]


@dataclass(frozen=True, slots=True)
class Planned:
    """What an operation would do to one job as it is now."""

    job: Job
    possible: bool
    effect: str


@dataclass(slots=True)
class Report:
    """What an operation did, job by job."""

    done: Counter[JobEvent] = field(default_factory=Counter)
    unchanged: list[UUID] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    missing: int = 0


def _cancel(ids: Collection[UUID], actor: Actor, reason: str) -> list[Changed]:
    return lifecycle.cancel(ids, actor=actor, reason=reason)


def _retry(ids: Collection[UUID], actor: Actor, reason: str) -> list[Changed]:
    return lifecycle.reopen(ids, actor=actor, reason=reason)


VERBS: dict[str, Verb] = {
    "cancel": Verb(
        name="cancel",
        label="Cancel",
        headline="Cancel jobs",
        run=_cancel,
        effects={
            **dict.fromkeys(sources_of(JobEvent.CANCEL), "is cancelled at once"),
            **dict.fromkeys(
                sources_of(JobEvent.REQUEST_CANCEL), "is running; its worker is asked to stop"
            ),
        },
    ),
    "retry": Verb(
        name="retry",
        label="Retry",
        headline="Retry jobs",
        run=_retry,
        effects=dict.fromkeys(
            sources_of(JobEvent.REOPEN), "gets a new run with a fresh budget of attempts"
        ),
    ),
}

_DONE = {
    JobEvent.CANCEL: "cancelled",
    JobEvent.REQUEST_CANCEL: "asked to stop",
    JobEvent.REOPEN: "queued again",
}


def plan(verb: Verb, jobs: Iterable[Job]) -> list[Planned]:
    """What would happen to each job; a promise to nobody, the jobs move on meanwhile."""
    return [_planned(verb, job) for job in jobs]


def _planned(verb: Verb, job: Job) -> Planned:
    state = JobState(job.state)
    if verb.name == "cancel" and job.cancel_requested_at and state is JobState.RUNNING:
        return Planned(job, possible=False, effect="has been asked to stop already")
    effect = verb.effects.get(state)
    if effect is not None:
        return Planned(job, possible=True, effect=effect)
    if state is JobState.CANCELLED:
        return Planned(job, possible=False, effect="is cancelled already")
    if state in FINAL:
        return Planned(job, possible=False, effect=f"is {state} and cannot be changed that way")
    return Planned(job, possible=False, effect=f"is {state} already")


def apply(verb: Verb, ids: Iterable[UUID], actor: Actor, reason: str) -> Report:
    """Do it to each job in a transaction of its own."""
    report = Report()
    for job_id in ids:
        try:
            changed = verb.run([job_id], actor, reason)
        except TransitionError as error:
            report.refused.append(str(error))
            continue
        if not changed:
            report.missing += 1
        elif changed[0].event is None:
            report.unchanged.append(job_id)
        else:
            report.done[changed[0].event] += 1
    return report


def summary(report: Report) -> str:
    """What was done, in one sentence."""
    parts = [f"{_jobs(count)} {_DONE[event]}" for event, count in report.done.items()]
    return (", ".join(parts) or "No job was changed") + "."


def complaints(report: Report) -> str:
    """What could not be done, in one sentence; empty if all was."""
    parts = []
    if report.refused:
        parts.append(f"{_jobs(len(report.refused))} refused: " + "; ".join(report.refused[:5]))
    if report.unchanged:
        parts.append(f"{_jobs(len(report.unchanged))} had nothing to change")
    if report.missing:
        parts.append(f"{_jobs(report.missing)} not found")
    return ". ".join(parts) + ("." if parts else "")


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"
