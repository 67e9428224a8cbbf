"""The verb rescue: attempts whose lease has lapsed are ended without their holder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from jobs import conf, policy, transactions
from jobs.lifecycle.writing import write
from jobs.models import Job
from jobs.querysets import TRANSITION_FIELDS
from jobs.states import ActorKind, JobEvent
from jobs.values import Actor, Settled


def rescue(*, limit: int, actor_id: str, still: Callable[[], bool] = lambda: True) -> list[Settled]:
    """End up to ``limit`` attempts whose lease has lapsed: rescue, fail or cancel, as policy says.

    Rows that somebody has locked are skipped: they are being finished, or are looked at next time.
    ``still`` is asked under the locks whether to go on: the answer of the database may have taken
    so long that the caller would decide otherwise now.
    """
    actor = Actor(ActorKind.RESCUER, actor_id)
    most = conf.get().max_lost_attempts

    def work() -> list[Settled]:
        # Found and locked in one statement, so that locked rows do not count towards the limit and
        # a lease that was renewed meanwhile is seen under the lock.
        lapsed = Job.objects.lapsed().only(*TRANSITION_FIELDS).order_by("id")
        locked = lapsed.select_for_update(no_key=True, of=("self",), skip_locked=True)[:limit]
        moved: dict[JobEvent, list[Job]] = defaultdict(list)
        for job in locked if locked and still() else ():
            event, reason = policy.after_lapse(
                cancel_requested=job.cancel_requested_at is not None,
                lost_attempts=job.lost_attempts,
                max_lost_attempts=most,
                worker=f"worker {job.worker}",
            )
            if event is JobEvent.RESCUE:
                job.rescue(actor, reason)
            elif event is JobEvent.FAIL:
                job.fail(actor, reason, lost=True)
            else:
                job.cancel(actor, reason)
            moved[event].append(job)
        for event, group in moved.items():
            write(event, group)
        return [Settled(j.id, event, fenced=False) for event, group in moved.items() for j in group]

    return transactions.run(work)
