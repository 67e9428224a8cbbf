"""Deliberately broken builds of the platform: one safety taken out of each.

A process with ``INTERLOCK_MUTANT=<name>`` runs that build; ``tests/faults/test_mutants.py`` shows
that the checker condemns each. Nothing in ``jobs`` knows of it: this app replaces functions when it
is ready, and what it replaces must exist, or the process does not start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from django.apps import AppConfig
from django.db import connection, transaction

VARIABLE = "INTERLOCK_MUTANT"
#: Set in the one process that is slow between reading a row and filling the copy: a directory, in
#: which it makes ``read`` and waits for ``go``.
SLOW_VARIABLE = "INTERLOCK_MUTANT_SLOW"

MUTANTS: dict[str, Callable[[], None]] = {}


def mutant(build: Callable[[], None]) -> Callable[[], None]:
    """Put a build on the list, under its function's name."""
    MUTANTS[build.__name__] = build
    return build


class Mutants(AppConfig):
    """Puts the one safety out of force."""

    name = "tests.mutants"
    label = "mutants"

    def ready(self) -> None:
        if name := os.environ.get(VARIABLE):
            MUTANTS[name]()


@mutant
def answers_before_the_commit() -> None:
    def hasty(submit: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        with transaction.atomic():
            accepted = submit(*arguments, **named)
            transaction.set_rollback(True)
        return accepted

    _around_submits(hasty)


@mutant
def no_reconciler() -> None:
    from jobs.maintenance.reconciler import Reconciler

    _replace(Reconciler, "run_once", lambda _: 0)


@mutant
def workers_sign_what_users_do() -> None:
    from jobs.api.views import verbs
    from jobs.states import ActorKind
    from jobs.values import Actor

    _replace(verbs, "actor_of", lambda _: Actor(ActorKind.WORKER, "somebody"))


@mutant
def completed_is_not_final() -> None:
    from jobs.models import Job
    from jobs.states import JobState

    transitions = Job.reopen._django_fsm.transitions
    transitions[JobState.COMPLETED] = transitions[JobState.FAILED]


@mutant
def rescuer_ignores_leases() -> None:
    from jobs.querysets import JobQuerySet
    from jobs.states import JobState

    _replace(JobQuerySet, "lapsed", lambda self: self.filter(state=JobState.RUNNING))


@mutant
def finishes_without_a_token() -> None:
    from jobs import lifecycle
    from jobs.models import Job

    finish = lifecycle.finish

    def trusting(outcomes: Any, *, worker: str) -> Any:
        tokens = dict(
            Job.objects.filter(id__in=[one.attempt.job_id for one in outcomes]).values_list(
                "id", "lease_token"
            )
        )
        believed = [
            one._replace(attempt=one.attempt._replace(token=tokens[one.attempt.job_id]))
            for one in outcomes
        ]
        return finish(believed, worker=worker)

    _replace(lifecycle, "finish", trusting)


@mutant
def waits_for_no_confirm() -> None:
    from jobs.publisher import Publisher, Taken

    def hasty(self: Any, producer: Any, messages: Any, published: list[Taken]) -> None:
        for message in messages:
            self._send(producer, message)
            published.extend(message.rows)

    _replace(Publisher, "_publish_confirmed", hasty)


@mutant
def announces_after_the_commit() -> None:
    """The outbox row is the application's business, in a transaction of its own."""

    def forgetful(submit: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        accepted = submit(*arguments, **named)
        jobs = accepted if isinstance(accepted, list) else [accepted]
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO jobs_outboxentry (job_id, job_version, handler, queue, priority,"
                " due_at, tries, rearms) SELECT id, version, handler, queue, priority, due_at, 0, 0"
                " FROM jobs_job WHERE id = ANY(%s)",
                [[one.job_id for one in jobs]],
            )
        return accepted

    _around_submits(forgetful)


@mutant
def fills_without_a_lease() -> None:
    from jobs import querysets, status, status_reader

    write = "redis.call('SET', KEYS[i], ARGV[i * 5 - 1], 'PX', ARGV[i * 5])"
    _replace(status, "_FILL", f"for i = 1, #KEYS do {write} end return 1")
    read_views = querysets.read_views
    place = os.environ.get(SLOW_VARIABLE)

    def slow(*arguments: Any) -> Any:
        views = read_views(*arguments)
        if place:
            (Path(place) / "read").touch()
            while not (Path(place) / "go").exists():
                time.sleep(0.01)
        return views

    _replace(status_reader, "read_views", slow)


@mutant
def retries_for_ever() -> None:
    from jobs import policy
    from jobs.states import JobEvent
    from jobs.values import Outcome

    def stubborn(attempt: Any, error: BaseException, *_: Any) -> Any:
        return Outcome(attempt, JobEvent.RETRY, reason=str(error), delay_seconds=0.0)

    _replace(policy, "after_error", stubborn)


@mutant
def no_rescuer() -> None:
    from jobs.maintenance.rescuer import Rescuer

    _replace(Rescuer, "run_once", lambda _: 0)


@mutant
def shows_anybody() -> None:
    from jobs.api.views import status

    _replace(status, "_own", lambda copy, _: copy)


@mutant
def throws_doorbells_away() -> None:
    from celery.exceptions import Reject

    from jobs.executor import Executor

    def refuse(*_: Any, **__: Any) -> Any:
        raise Reject("no", requeue=False)

    _replace(Executor, "answer", refuse)
    no_reconciler()


@mutant
def forgets_keys() -> None:
    from jobs.lifecycle import submitting

    _replace(submitting, "_reserve", lambda rows: rows)


@mutant
def nothing() -> None:
    """The build as it is: the checker must find no fault with it."""


def _around_submits(wrapper: Callable[..., Any]) -> None:
    """Each way to submit goes through ``wrapper``, which gets it as its first argument."""
    from jobs import lifecycle

    for name in ("submit", "submit_together"):
        _replace(lifecycle, name, partial(wrapper, getattr(lifecycle, name)))


def _replace(place: Any, name: str, value: Any) -> None:
    getattr(place, name)
    setattr(place, name, value)
