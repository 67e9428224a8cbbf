"""What holders and their doorbells do: claim, doubt, heartbeat."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from uuid import UUID

from jobs import conf, events, policy, transactions
from jobs.lifecycle.writing import array_of, execute, ids_of, move, store_lines, views_of
from jobs.models import Job
from jobs.states import ActorKind, JobEvent
from jobs.values import Actor, Attempt, Beat, Doorbell, Pulse, StatusView


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
        self._versions = {bell.job_id: bell.version for bell in doorbells}
        # Sorted, because rows are locked in this order.
        self._tokens = {job_id: uuid.uuid4() for job_id in sorted(self._versions)}
        self._actor = Actor(ActorKind.WORKER, worker)
        self._handlers = handlers
        self._tries = 0

    def __call__(self) -> list[Attempt]:
        return transactions.run(self._take, single=True)

    def _take(self) -> list[Attempt]:
        parameters = {
            "ids": ids_of(self._tokens),
            "versions": array_of(self._versions[job_id] for job_id in self._tokens),
            "tokens": ids_of(self._tokens.values()),
            "handlers": list(self._handlers),
            "lease_seconds": conf.get().lease_seconds,
        }
        self._tries += 1
        moved = move(JobEvent.CLAIM, self._actor, "jobs_claim_v1", parameters)
        if self._tries == 1:
            attempts = [
                _attempt(view, payload, self._tokens[view.job_id]) for view, (payload,) in moved
            ]
        else:
            attempts = _held(self._tokens)
        place = {job_id: number for number, job_id in enumerate(self._versions)}
        return sorted(attempts, key=lambda attempt: place[attempt.job_id])


def claim(
    doorbells: Iterable[Doorbell], *, worker: str, handlers: Collection[str]
) -> list[Attempt]:
    """Take the jobs that these doorbells rightly announce: see ``Claim``."""
    return Claim(doorbells, worker=worker, handlers=handlers)()


def _held(tokens: Mapping[UUID, UUID]) -> list[Attempt]:
    """All claims of ours, also those of a try whose commit succeeded but whose answer was lost."""
    held = Job.objects.filter(id__in=list(tokens), lease_token__in=list(tokens.values()))
    return [
        Attempt(
            job_id=job.id,
            version=job.version,
            attempt=job.attempt,
            failed_attempts=job.failed_attempts,
            max_attempts=job.max_attempts,
            token=tokens[job.id],
            handler=job.handler,
            queue=job.queue,
            owner_id=job.owner_id,
            payload=job.payload,
        )
        for job in held.order_by("id")
    ]


def _attempt(view: StatusView, payload: str, token: UUID) -> Attempt:
    return Attempt(
        job_id=view.job_id,
        version=view.version,
        attempt=view.attempt,
        failed_attempts=view.failed_attempts,
        max_attempts=view.max_attempts,
        token=token,
        handler=view.handler,
        queue=view.queue,
        owner_id=view.owner_id,
        payload=json.loads(payload),
    )


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
