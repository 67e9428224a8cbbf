"""Subscribers of the app's facts: the log, and the status copies in Redis."""

from __future__ import annotations

import logging

from jobs import events, status
from jobs.states import JobEvent, JobState

log = logging.getLogger("jobs")

#: More jobs than this are submitted, or change without coming to their end, without copies: most of
#: so many are never watched one by one, and the first reader of each brings its copy about.
COPIES_AT_ONCE = 100
MOVING_COPIES_AT_ONCE = 10
#: A larger set of jobs is one log line with a count.
LINES_AT_ONCE = 20


def keep_status(fact: events.Fact) -> None:
    """Carry every committed change to the reader's copy, and wake the relay where one is needed."""
    if isinstance(fact, events.Submitting):
        if len(fact.job_ids) <= COPIES_AT_ONCE:
            status.reserve(fact.job_ids, fact.ticket)
    elif isinstance(fact, events.Submitted):
        copied = fact.views if len(fact.views) <= COPIES_AT_ONCE else ()
        status.fill(copied, fact.ticket, wake=True)
    elif isinstance(fact, events.Transitioned):
        waiting = any(view.state is JobState.PENDING for view in fact.views)
        few = len(fact.views) <= MOVING_COPIES_AT_ONCE
        status.update(fact.views, wake=waiting, moving=few)
    elif isinstance(fact, events.Progressed):
        status.update(fact.views)


def keep_log(fact: events.Fact) -> None:
    """One line per transition, with the ids that every other record of it carries."""
    if isinstance(fact, events.Fenced):
        log.warning(
            "fenced job=%s event=%s token=%s worker=%s",
            fact.job_id, fact.event, fact.token, fact.worker,
        )  # fmt: skip
    elif (
        isinstance(fact, events.Submitted | events.Transitioned) and len(fact.views) > LINES_AT_ONCE
    ):
        event = fact.event if isinstance(fact, events.Transitioned) else JobEvent.SUBMIT
        first, last = fact.views[0].job_id, fact.views[-1].job_id
        log.info("%s %d jobs, %s to %s", event, len(fact.views), first, last)
    elif isinstance(fact, events.Submitted):
        for view in fact.views:
            log.info("submit job=%s handler=%s queue=%s", view.job_id, view.handler, view.queue)
    elif isinstance(fact, events.Transitioned):
        for view in fact.views:
            log.info(
                "%s job=%s handler=%s state=%s version=%d attempt=%d reason=%s",
                fact.event, view.job_id, view.handler, view.state, view.version, view.attempt,
                view.reason,
            )  # fmt: skip


def subscribe_all() -> None:
    """Connect the app's own observers."""
    events.subscribe(keep_log)
    events.subscribe(keep_status)
