"""Subscribers of the app's facts: the log, and the status copies in Redis."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from jobs import conf, events, status
from jobs.announcing import Announcer, Ringer
from jobs.states import JobEvent, JobState
from jobs.values import Born, Foretold, StatusView

log = logging.getLogger("jobs")

#: More jobs than this change together without copies, unless they come to their end: most of so
#: many are never watched one by one, and the first reader of each brings its copy about.
MOVING_COPIES_AT_ONCE = 10
#: A larger set of jobs is one log line with a count.
LINES_AT_ONCE = 20


def keep_status(fact: events.Fact) -> None:
    """Carry every committed change to the reader's copy, and wake the relay where one is needed."""
    if isinstance(fact, events.Submitted):
        # No copy: the first reader, if one ever comes, makes it for less than each submit would.
        _ringer.ring(fact.jobs)
    elif isinstance(fact, events.Transitioned) and fact.event is JobEvent.CLAIM:
        _announcer.add(fact.views)
    elif isinstance(fact, events.Transitioned):
        waiting = any(view.state is JobState.PENDING for view in fact.views)
        _announcer.overtake(fact.views)
        _show(fact.views, wake=waiting)
    elif isinstance(fact, events.Progressed):
        status.update(fact.views)


def wake_relay(job: Born) -> None:
    """Have the doorbell of a job that comes alone travel while the job is being submitted.

    The relay is told again, as of every submit, once that is done.
    """
    if job.is_due and _ringer.is_ready():
        status.wake(Foretold(job.job_id, job.handler, job.queue, is_there=False))


def _foretold(jobs: Sequence[Born]) -> Foretold | None:
    if len(jobs) != 1 or not jobs[0].is_due:
        return None
    [job] = jobs
    return Foretold(job.job_id, job.handler, job.queue)


def _wake_relay(jobs: Sequence[Born]) -> None:
    status.wake(_foretold(jobs))


def _show(views: Sequence[StatusView], *, wake: bool = False) -> None:
    status.update(views, wake=wake, moving=len(views) <= MOVING_COPIES_AT_ONCE)


def _quiet_seconds() -> float:
    """What the relay takes, at least, until it looks again after what it was told of."""
    return conf.get().relay_round_seconds


_announcer = Announcer(_show)
_ringer = Ringer(_wake_relay, _quiet_seconds)


def keep_log(fact: events.Fact) -> None:
    """One line per transition, with the ids that every other record of it carries.

    Submits are told at DEBUG: whoever submits knows of it, and a line costs a tenth of a submit.
    """
    if isinstance(fact, events.Fenced):
        log.warning(
            "fenced job=%s event=%s token=%s worker=%s",
            fact.job_id, fact.event, fact.token, fact.worker,
        )  # fmt: skip
    elif isinstance(fact, events.Submitted):
        if len(fact.jobs) > LINES_AT_ONCE:
            _log_many(logging.DEBUG, JobEvent.SUBMIT, fact.jobs)
            return
        for job in fact.jobs:
            log.debug("submit job=%s handler=%s queue=%s", job.job_id, job.handler, job.queue)
    elif isinstance(fact, events.Transitioned):
        if len(fact.views) > LINES_AT_ONCE:
            _log_many(logging.INFO, fact.event, fact.views)
            return
        for view in fact.views:
            log.info(
                "%s job=%s handler=%s state=%s version=%d attempt=%d reason=%s",
                fact.event, view.job_id, view.handler, view.state, view.version, view.attempt,
                view.reason,
            )  # fmt: skip


def _log_many(level: int, event: JobEvent, jobs: Sequence[Born | StatusView]) -> None:
    log.log(level, "%s %d jobs, %s to %s", event, len(jobs), jobs[0].job_id, jobs[-1].job_id)


def subscribe_all() -> None:
    """Connect the app's own observers: whom somebody waits for comes first."""
    events.subscribe(keep_status)
    events.subscribe(keep_log)
    events.prepare_with(wake_relay)
