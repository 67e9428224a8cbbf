"""Lost doorbells are rung again, and a queue that is only long is left in peace.

The broker of these tests is a plain first-in-first-out list: it can be slow, be purged, and deliver
to workers that know only some handlers. Ages are written into the rows; nothing waits.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now

from jobs import lifecycle, relay
from jobs.maintenance.reconciler import Reconciler
from jobs.models import Job, OutboxEntry
from jobs.policy import rearm_delay_seconds
from jobs.states import JobEvent, JobState
from jobs.values import Attempt, Doorbell, Outcome
from tests.rivals import race
from tests.verbs import HANDLER, USER, WORKER, claim, finish, singly, statements, submit

pytestmark = pytest.mark.django_db

Override = Callable[..., None]
STRANGE = "noop"


@pytest.fixture(autouse=True)
def _pace(jobs_settings: Override) -> None:
    jobs_settings(rearm_seconds=60, rearm_cap_seconds=900, rearm_probes=3, rearm_outstanding=20)


class Broker:
    """A queue, the relay in front of it, and workers behind it."""

    def __init__(self) -> None:
        self.queue: deque[Doorbell] = deque()

    def relay(self, batch: int = 20) -> None:
        """Publish all that waits to be published."""
        while rows := relay.take(batch):
            self.queue.extend(row.bell for row in rows)
            relay.settle(rows, rows)

    def hear(self, count: int, *, knows: Iterable[str] = (HANDLER,)) -> list[Attempt]:
        """Deliver so many doorbells; what is claimed runs on."""
        bells = [self.queue.popleft() for _ in range(min(count, len(self.queue)))]
        return [
            attempt
            for bell in bells
            for attempt in lifecycle.claim([bell], worker=WORKER, handlers=set(knows))
        ]

    def work(self, count: int, *, knows: Iterable[str] = (HANDLER,)) -> None:
        outcomes = [Outcome(attempt, JobEvent.SUCCEED) for attempt in self.hear(count, knows=knows)]
        lifecycle.finish(outcomes, worker=WORKER)


def age(seconds: float) -> None:
    """Everything that waits has been there for so much longer."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE jobs_outboxentry SET created_at = created_at - make_interval(secs => %(s)s),"
            " due_at = due_at - make_interval(secs => %(s)s),"
            " taken_until = taken_until - make_interval(secs => %(s)s),"
            " published_at = published_at - make_interval(secs => %(s)s)",
            {"s": seconds},
        )
        cursor.execute(
            "UPDATE jobs_job SET due_at = due_at - make_interval(secs => %s)"
            " WHERE state = 'PENDING'",
            [seconds],
        )


def waiting() -> int:
    return int(Job.objects.filter(state=JobState.PENDING).count())


def rung() -> set[object]:
    """The jobs whose doorbells were rung again."""
    return set(OutboxEntry.objects.filter(rearms__gt=0).values_list("job_id", flat=True))


# ------------------------------------------------------------------------------------- one doorbell


def test_an_unanswered_doorbell_is_armed_again_as_the_same_row() -> None:
    [job] = submit()
    Broker().relay()
    age(61)
    assert Reconciler().run_once() == 1
    row = OutboxEntry.objects.get(job_id=job.id)
    assert (row.published_at, row.taken_until, row.rearms) == (None, None, 1)
    assert [taken.bell.job_id for taken in relay.take(10)] == [job.id]


@pytest.mark.parametrize("rearms", range(6))
def test_each_ring_waits_longer_as_the_policy_says(rearms: int) -> None:
    submit()
    Broker().relay()
    OutboxEntry.objects.update(rearms=rearms)
    age(rearm_delay_seconds(60, rearms, 900) - 5)
    assert Reconciler().run_once() == 0
    age(10)
    assert Reconciler().run_once() == 1


def test_a_row_that_waits_for_the_relay_is_left_alone() -> None:
    submit()
    age(1000)
    assert Reconciler().run_once() == 0
    relay.take(10)
    assert Reconciler().run_once() == 0


def test_a_job_that_is_not_due_is_left_alone() -> None:
    [job] = submit()
    Broker().relay()
    age(10_000)
    Job.objects.filter(id=job.id).update(due_at=Now() + timedelta(hours=1))
    assert Reconciler().run_once() == 0


def test_a_job_that_moved_on_is_left_alone() -> None:
    running, done, cancelled = submit(3)
    claim([running])
    finish(claim([done]), JobEvent.SUCCEED)
    lifecycle.cancel([cancelled.id], actor=USER)
    Broker().relay()
    age(10_000)
    assert Reconciler().run_once() == 0


def test_only_the_present_version_is_rung() -> None:
    [attempt] = claim(submit())
    finish([attempt], JobEvent.RETRY)
    Broker().relay()
    age(10_000)
    assert Reconciler().run_once() == 1
    assert OutboxEntry.objects.get(published_at=None).job_version == 3


def test_a_row_that_is_missing_is_written_anew() -> None:
    [job] = submit(priority=3)
    OutboxEntry.objects.all().delete()
    assert Reconciler().run_once() == 0
    age(61)
    assert Reconciler().run_once() == 1
    row = OutboxEntry.objects.get()
    assert (row.job_id, row.job_version, row.priority, row.rearms) == (job.id, 1, 3, 0)


def test_a_job_that_was_moved_by_hand_is_rung_where_it_is_now(jobs_settings: Override) -> None:
    """Such as when nobody consumes the old queue any more."""
    jobs_settings(queues=("default", "other"))
    [job] = submit()
    Broker().relay()
    Job.objects.filter(id=job.id).update(queue="other", priority=7)
    age(61)
    assert Reconciler().run_once() == 1
    row = OutboxEntry.objects.get()
    assert (row.queue, row.priority) == ("other", 7)


def test_an_outage_of_the_relay_rings_nothing_twice() -> None:
    """Rows that were armed again and not published stay what they are, however long it takes."""
    submit()
    Broker().relay()
    age(61)
    assert Reconciler().run_once() == 1
    for _ in range(5):
        age(10_000)
        assert Reconciler().run_once() == 0
    assert OutboxEntry.objects.get().rearms == 1


# ------------------------------------------------------------------------------------------- proof


def test_what_a_later_doorbell_has_overtaken_is_lost_and_rung_at_once() -> None:
    """One tick after the later one was heard, so that the worker of the first can claim."""
    broker = Broker()
    [first] = submit()
    broker.relay()
    submit()
    broker.relay()
    broker.queue.popleft()
    reconciler = Reconciler()
    assert reconciler.run_once() == 0
    assert len(broker.hear(1)) == 1
    assert reconciler.run_once() == 0
    assert reconciler.run_once() == 1
    assert rung() == {first.id}


def test_doorbells_of_one_batch_prove_nothing_about_each_other() -> None:
    """Nobody knows the order in which two relays, or one, got them into the queue."""
    broker = Broker()
    submit(2)
    broker.relay()
    broker.queue.popleft()
    broker.hear(1)
    reconciler = Reconciler()
    assert [reconciler.run_once() for _ in range(4)] == [0] * 4


@pytest.mark.parametrize(
    ("fields", "lost"),
    [({"tries": 1}, 1), ({"tries": 2}, 0), ({"rearms": 1}, 0)],
)
def test_a_doorbell_that_was_rung_twice_proves_nothing_about_what_lay_between(
    fields: dict[str, int], lost: int
) -> None:
    broker = Broker()
    [_, heard] = singly(2)
    broker.relay(batch=1)
    broker.queue.popleft()
    OutboxEntry.objects.filter(job_id=heard.id).update(**fields)
    broker.hear(1)
    reconciler = Reconciler()
    assert [reconciler.run_once() for _ in range(3)] == [0, lost, 0]


def test_jobs_of_one_handler_prove_nothing_for_another() -> None:
    broker = Broker()
    submit(handler=STRANGE)
    broker.relay()
    submit()
    broker.relay()
    broker.queue.popleft()
    broker.hear(1)
    reconciler = Reconciler()
    assert [reconciler.run_once() for _ in range(4)] == [0] * 4


def test_a_lost_doorbell_that_is_lost_again_waits_its_time() -> None:
    broker = Broker()
    submit()
    for expected in ([0, 1, 0], [0, 0, 0]):
        # A scheduler of its own each time, which remembers no ring.
        reconciler = Reconciler()
        broker.relay()
        broker.queue.clear()
        submit()
        broker.relay()
        broker.hear(1)
        assert [reconciler.run_once() for _ in range(3)] == expected
    age(125)
    assert Reconciler().run_once() == 1


def test_a_cancel_is_no_answer() -> None:
    """Cancelling what was rung again frees its turns and proves nothing about the rest."""
    broker = Broker()
    jobs = submit(6)
    broker.relay()
    age(61)
    reconciler = Reconciler()
    assert reconciler.run_once() == 3
    lifecycle.cancel([job.id for job in jobs if job.id in rung()], actor=USER)
    assert [reconciler.run_once() for _ in range(3)] == [3, 0, 0]


# -------------------------------------------------------------------------------- many at a time


def test_a_slow_queue_is_left_in_peace() -> None:
    """Never more doorbells than waiting jobs and a handful, whatever the pace."""
    broker, reconciler = Broker(), Reconciler()
    submit(200)
    broker.relay()
    age(1000)
    excess = []
    while waiting():
        reconciler.run_once()
        broker.relay()
        excess.append(len(broker.queue) - waiting())
        broker.work(4)
    assert max(excess) <= 2 * 3
    assert len(rung()) <= 2 * 3


@pytest.mark.parametrize("window", [15, 1000])
def test_a_purged_queue_drains_by_itself_as_fast_as_it_is_heard(
    window: int, jobs_settings: Override
) -> None:
    jobs_settings(rearm_batch_size=window)
    broker, reconciler = Broker(), Reconciler()
    submit(200)
    broker.relay()
    age(61)
    broker.queue.clear()
    ticks, depths = 0, []
    while waiting():
        ticks += 1
        assert ticks < 60, f"{waiting()} jobs wait"
        reconciler.run_once()
        broker.relay()
        depths.append(len(broker.queue))
        broker.work(100)
    assert max(depths) <= 20 + 3
    assert max(Counter(OutboxEntry.objects.values_list("rearms", flat=True))) == 1


def test_a_purged_queue_that_nobody_hears_is_only_probed() -> None:
    broker, reconciler = Broker(), Reconciler()
    submit(50)
    broker.relay()
    age(61)
    broker.queue.clear()
    for _ in range(10):
        reconciler.run_once()
        broker.relay()
    assert len(broker.queue) == 3


def test_workers_that_fell_asleep_amid_the_recovery_are_not_flooded() -> None:
    broker, reconciler = Broker(), Reconciler()
    for _ in range(5):
        submit(20)
    broker.relay()
    age(61)
    broker.queue.clear()
    for _ in range(3):
        reconciler.run_once()
        broker.relay()
        broker.work(3)
    for _ in range(20):
        reconciler.run_once()
        broker.relay()
    assert 15 <= len(broker.queue) <= 20 + 3


def test_jobs_that_nobody_knows_take_no_turn_from_others() -> None:
    broker, reconciler = Broker(), Reconciler()
    strange = submit(100, handler=STRANGE)
    submit(100)
    broker.relay()
    age(61)
    broker.queue.clear()
    ticks = 0
    while waiting() > len(strange):
        ticks += 1
        assert ticks < 60, f"{waiting()} jobs wait"
        reconciler.run_once()
        broker.relay()
        broker.work(100)
    assert len(rung() & {job.id for job in strange}) == 3


def test_a_handler_that_becomes_known_is_served() -> None:
    broker, reconciler = Broker(), Reconciler()
    submit(60)
    broker.relay()
    age(61)
    broker.work(100, knows=[STRANGE])
    ticks = 0
    while waiting():
        ticks += 1
        assert ticks < 30, f"{waiting()} jobs wait"
        reconciler.run_once()
        broker.relay()
        broker.work(100)


def test_doorbells_that_never_lead_to_a_claim_keep_no_others_waiting(
    jobs_settings: Override,
) -> None:
    """Turns that are not answered in time go to others, and are not eaten by a second ring."""
    jobs_settings(rearm_seconds=0.0001, rearm_cap_seconds=0.0001)
    broker, reconciler = Broker(), Reconciler()
    jobs = submit(30)
    for _ in range(30):
        broker.relay()
        broker.queue.clear()
        reconciler.run_once()
    assert rung() == {job.id for job in jobs}


def test_rings_that_wait_for_an_answer_leave_the_doubts_their_own_turns() -> None:
    broker, reconciler = Broker(), Reconciler()
    submit(10)
    broker.relay()
    OutboxEntry.objects.update(rearms=1)
    age(130)
    assert reconciler.run_once() == 10
    submit(5)
    broker.relay()
    age(61)
    assert reconciler.run_once() == 3


def test_rows_that_are_missing_are_written_under_the_same_bound() -> None:
    reconciler = Reconciler()
    submit(50)
    OutboxEntry.objects.all().delete()
    age(61)
    assert reconciler.run_once() == 20
    assert reconciler.run_once() == 0
    claim(Job.objects.filter(id__in=OutboxEntry.objects.values("job_id")))
    assert reconciler.run_once() == 20


def test_every_window_is_looked_at(jobs_settings: Override) -> None:
    jobs_settings(rearm_batch_size=2)
    reconciler = Reconciler()
    submit(5)
    OutboxEntry.objects.all().delete()
    age(61)
    assert [reconciler.run_once() for _ in range(4)] == [2, 2, 1, 0]


def test_every_queue_is_looked_at(jobs_settings: Override) -> None:
    jobs_settings(queues=("default", "other", "third"))
    submit(2)
    submit(2, queue="third")
    jobs_settings(queues=("default",))
    OutboxEntry.objects.all().delete()
    age(61)
    assert Reconciler().run_once() == 4


def test_a_second_scheduler_rings_for_others() -> None:
    broker = Broker()
    submit(10)
    broker.relay()
    age(61)
    one, other = Reconciler(), Reconciler()
    assert (one.run_once(), other.run_once()) == (3, 3)
    assert len(rung()) == 6
    assert (one.run_once(), other.run_once()) == (0, 0)


@pytest.mark.django_db(transaction=True)
def test_schedulers_at_once_ring_each_row_once() -> None:
    submit(20)
    Broker().relay()
    age(61)
    for _ in range(5):
        race(*[lambda: Reconciler().run_once()] * 3)
    assert set(OutboxEntry.objects.values_list("rearms", flat=True)) <= {0, 1}


def test_a_choice_that_another_scheduler_carried_out_meanwhile_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And its ring is out by now: the row looks as it did when it was chosen, but for the count."""
    broker = Broker()
    submit()
    broker.relay()
    age(61)
    arm = Reconciler._arm

    def too_late(self: Reconciler, *args: Any) -> int:
        monkeypatch.undo()
        assert Reconciler().run_once() == 1
        broker.relay()
        return arm(self, *args)

    monkeypatch.setattr(Reconciler, "_arm", too_late)
    assert Reconciler().run_once() == 0
    assert OutboxEntry.objects.get().rearms == 1


@pytest.mark.parametrize("count", [1, 15])
def test_the_number_of_statements_does_not_grow(count: int) -> None:
    submit(count)
    OutboxEntry.objects.all().delete()
    age(61)
    reconciler = Reconciler()
    with statements() as found:
        assert reconciler.run_once() == count
    assert len(found) == 5
    with statements() as found:
        assert reconciler.run_once() == 0
    assert len(found) == 4


def test_nothing_to_do_is_one_statement() -> None:
    reconciler = Reconciler()
    with statements() as found:
        assert reconciler.run_once() == 0
    assert len(found) == 1
