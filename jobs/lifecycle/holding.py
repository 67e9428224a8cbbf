"""What holders and their doorbells do: claim, doubt, heartbeat."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from jobs import conf, events, jsontext, policy, transactions
from jobs.lifecycle.writing import (
    array_of,
    call,
    edge_of,
    execute,
    ids_of,
    store_lines,
    views_of,
)
from jobs.models import Job
from jobs.querysets import read_views
from jobs.states import ActorKind, JobEvent, JobState
from jobs.values import Actor, Attempt, Beat, Doorbell, Progress, Pulse, StatusView


class Claim:
    """A wish to take the jobs that these doorbells rightly announce; the others are left out.

    A doorbell counts only if its job is PENDING at that very version, due, and of a known handler.
    Each claim gets a fresh token and a lease on the database's clock, committed before any handler
    code can run. The wish may be called again after an error: its tokens were drawn once, so what
    a commit took whose answer was lost is found and returned.
    """

    def __init__(
        self, doorbells: Iterable[Doorbell], *, worker: str, handlers: Collection[str]
    ) -> None:
        # By the hexadecimal text of the id, which is hashed in a tenth of the time.
        self._bells = {bell.job_id.hex: bell for bell in doorbells}
        # Sorted, because rows are locked in this order.
        self._tokens = dict(zip(sorted(self._bells), _fresh_tokens(), strict=False))
        self._actor = Actor(ActorKind.WORKER, worker)
        self._handlers = handlers
        self._tries = 0

    def __call__(self) -> list[Attempt]:
        return transactions.run(self._take, single=True)

    def _take(self) -> list[Attempt]:
        bells, tokens = self._bells, self._tokens
        parameters = {
            "ids": array_of(tokens),
            "versions": array_of(bells[name].version for name in tokens),
            "tokens": ids_of(tokens.values()),
            "handlers": list(self._handlers),
            "lease_seconds": conf.get().lease_seconds,
            **edge_of(JobEvent.CLAIM, self._actor),
        }
        self._tries += 1
        attempts = {
            row[0]: Attempt(
                _claimed(bells[row[0]].job_id, row), tokens[row[0]], jsontext.loads(row[-1])
            )
            for row in call("jobs_claim_v3", parameters)
        }
        if attempts:
            views = tuple(attempt.view for attempt in attempts.values())
            events.tell_after_commit(events.Transitioned(JobEvent.CLAIM, views))
        if self._tries > 1:
            attempts = _held({bells[name].job_id: token for name, token in tokens.items()})
        return [attempts[name] for name in bells if name in attempts]


def _fresh_tokens() -> Iterator[UUID]:
    """Tokens that nobody else draws: 110 random bits, which those of one claim share, and a count.
    Version 4 like those of ``uuid4``, which takes twice as long for each."""
    first = uuid.uuid4().int & ~0xFFF
    return (UUID(int=number) for number in itertools.count(first))


def _claimed(job_id: UUID, row: Sequence[Any]) -> StatusView:
    """The view of a job that was just claimed; what every claim decides alike is not in the row."""
    ended, has_result, result, asked = None, False, None, row[10]
    edge = (JobState.RUNNING, *row[4:10], Progress(), "", asked, *row[11:14])
    return StatusView._make((job_id, *row[1:4], *edge, ended, has_result, result))


def claim(
    doorbells: Iterable[Doorbell], *, worker: str, handlers: Collection[str]
) -> list[Attempt]:
    """Take the jobs that these doorbells rightly announce: see ``Claim``."""
    return Claim(doorbells, worker=worker, handlers=handlers)()


def _held(tokens: Mapping[UUID, UUID]) -> dict[str, Attempt]:
    """All claims of ours, also those of a try whose commit succeeded but whose answer was lost. By
    the hexadecimal text of the id."""
    held = Job.objects.filter(id__in=list(tokens), lease_token__in=list(tokens.values()))
    found = {job_id: rest for job_id, *rest in held.values_list("id", "version", "payload")}
    views = read_views(list(found), conf.get().inline_result_limit_bytes)
    return {
        view.job_id.hex: Attempt(view, tokens[view.job_id], payload)
        for view in views
        for version, payload in [found[view.job_id]]
        # Read a moment later, when it may be somebody else's already.
        if view.version == version
    }


def count_there(job_ids: Collection[UUID]) -> int:
    """How many of these jobs exist: the submits of the others may not have been committed yet."""
    count: int = Job.objects.filter(id__in=job_ids).count()
    return count


def doubt(doorbells: Iterable[Doorbell]) -> int:
    """Shorten the leases of jobs that run since these doorbells, to at most ``doubt_seconds``.

    For doorbells that the broker has *redelivered*: somebody's channel died. A holder that lives,
    and lost no more than a connection, renews at its next beat and notices nothing; a dead one
    lapses soon, instead of after the rest of ``lease_seconds``. A holder that is only slow, such as
    a starved process, may lose its job and is then fenced like any other. Never lengthens a lease.
    Neither a transition nor a sign of life: no version, no audit. Returns how many were shortened.
    """
    bells = [{"id": str(bell.job_id), "version": bell.version} for bell in doorbells]
    if not bells:
        return 0
    parameters = {"rows": json.dumps(bells), "doubt_seconds": conf.get().doubt_seconds}
    return transactions.run(lambda: execute("doubt", parameters))


def heartbeat(beats: Sequence[Beat]) -> list[Pulse]:
    """Renew leases by token, and store progress and log lines; answers in the order given."""
    if not beats:
        return []
    rows = [
        {
            "id": str(beat.job_id),
            "token": str(beat.token),
            "fraction": beat.fraction,
            "message": policy.clipped(beat.message, 500),
        }
        for beat in beats
    ]
    lease_seconds = conf.get().lease_seconds
    tries: list[int] = []

    def work() -> list[Pulse]:
        tries.append(1)
        parameters = {
            "rows": json.dumps(rows),
            "ids": array_of(row["id"] for row in rows),
            "lease_seconds": lease_seconds,
        }
        views = {view.job_id: view for view in views_of("heartbeat", parameters)}
        held = [(beat, views[beat.job_id]) for beat in beats if beat.job_id in views]
        repeat = len(tries) > 1 or any(beat.lines_repeat for beat, _ in held)
        lines = [(view.job_id, view.attempt, beat.lines) for beat, view in held]
        store_lines(lines, repeat=repeat)
        shown = tuple(view for beat, view in held if beat.fraction is not None)
        if shown:
            events.tell_after_commit(events.Progressed(shown))
        return [_pulse(beat, views.get(beat.job_id)) for beat in beats]

    return transactions.run(work)


def _pulse(beat: Beat, view: StatusView | None) -> Pulse:
    return Pulse(beat.job_id, view is not None, view is not None and view.cancel_requested)
