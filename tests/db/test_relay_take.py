"""What a relay takes: due rows, most urgent first, each once, until it settles or dies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from jobs import relay
from jobs.models import OutboxEntry
from jobs.publisher import Taken
from jobs.states import JobEvent
from jobs.values import Doorbell
from tests.verbs import HANDLER, claim, finish, singly, statements, submit

pytestmark = pytest.mark.django_db


def ids(taken: list[Taken]) -> list[int]:
    return [row.id for row in taken]


def test_a_taken_row_says_whom_to_ring() -> None:
    [job] = submit(priority=4)
    [row] = relay.take(10)
    assert row.bell == Doorbell(job.id, 1)
    assert (row.queue, row.handler) == ("default", job.handler)
    stored = OutboxEntry.objects.get(id=row.id)
    assert (stored.tries, stored.published_at) == (1, None)
    assert stored.taken_until is not None


def test_urgent_rows_come_first_then_older_ones() -> None:
    jobs = [submit(priority=p)[0] for p in (0, 9, 5, 9, 0)]
    order = [jobs[1], jobs[3], jobs[2], jobs[0], jobs[4]]
    assert [row.bell.job_id for row in relay.take(10)] == [job.id for job in order]


def test_a_small_batch_takes_the_most_urgent() -> None:
    jobs = [submit(priority=p)[0] for p in (0, 9, 5, 9, 0)]
    first, second = relay.take(2), relay.take(2)
    assert {row.bell.job_id for row in first} == {jobs[1].id, jobs[3].id}
    assert [row.bell.job_id for row in second] == [jobs[2].id, jobs[0].id]


def test_nothing_is_taken_before_its_time() -> None:
    submit(delay_seconds=60)
    [due] = submit()
    assert [row.bell.job_id for row in relay.take(10)] == [due.id]
    OutboxEntry.objects.update(due_at=Now())
    assert len(relay.take(10)) == 1


def test_nothing_is_taken_twice_until_the_taker_is_given_up(
    jobs_settings: Callable[..., None],
) -> None:
    jobs_settings(relay_take_seconds=7)
    singly(3)
    taken = relay.take(10)
    assert relay.take(10) == []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT bool_and(taken_until BETWEEN now() AND clock_timestamp() + interval '7 s')"
            " FROM jobs_outboxentry"
        )
        assert cursor.fetchone() == (True,)
    OutboxEntry.objects.update(taken_until=Now() - timedelta(seconds=1))
    assert sorted(ids(relay.take(10))) == sorted(ids(taken))
    assert set(OutboxEntry.objects.values_list("tries", flat=True)) == {2}


def test_published_rows_are_done_and_the_rest_is_given_back_at_once() -> None:
    singly(3)
    taken = relay.take(10)
    relay.settle(taken[:1], taken)
    done = OutboxEntry.objects.exclude(published_at=None).get()
    assert done.id == taken[0].id
    assert done.taken_until is not None, "tells when publishing began"
    assert OutboxEntry.objects.filter(taken_until=None).count() == 2
    assert sorted(ids(relay.take(10))) == sorted(ids(taken[1:]))


def test_an_outage_costs_tries_and_nothing_else() -> None:
    submit()
    for _ in range(30):
        relay.settle([], relay.take(10))
    row = OutboxEntry.objects.get()
    assert (row.tries, row.published_at, row.taken_until) == (30, None, None)


def test_rows_of_a_queue_that_is_left_alone_are_passed_over(
    jobs_settings: Callable[..., None],
) -> None:
    jobs_settings(queues=("default", "other"))
    submit(5)
    [job] = submit(queue="other")
    assert [row.bell.job_id for row in relay.take(2, ["default"])] == [job.id]
    assert relay.take(2, ["default", "other"]) == []
    assert len(relay.take(10)) == 5


@pytest.mark.parametrize("count", [1, 100])
def test_the_number_of_statements_does_not_grow(count: int) -> None:
    submit(count)
    with statements() as found:
        taken = relay.take(200)
    assert len(found) == 1
    assert len(taken) == count
    with statements() as found:
        relay.settle(taken, taken)
    assert len(found) == 1


# ---------------------------------------------------------------------------------- shared rows


def rows() -> list[tuple[int, bool, bool]]:
    """For how many jobs each row rings, whether it is taken and whether it is published."""
    return [
        (len(row.job_ids), row.taken_until is not None, row.published_at is not None)
        for row in OutboxEntry.objects.order_by("id")
    ]


def test_jobs_of_one_row_are_taken_and_settled_together() -> None:
    jobs = submit(3)
    taken = relay.take(10)
    assert [row.bell for row in taken] == [Doorbell(job.id, 1) for job in jobs]
    assert rows() == [(3, True, False)]
    relay.settle(taken, taken)
    assert rows() == [(3, True, True)]


def test_rows_are_taken_until_they_ring_for_enough() -> None:
    for size in (4, 3, 3, 2):
        submit(size)
    assert [len(relay.take(6)) for _ in range(3)] == [7, 5, 0]


def test_the_published_jobs_of_a_row_part_from_those_that_are_given_back() -> None:
    """Else a queue that takes little would be sent the same doorbells at every try."""
    jobs = submit(5)
    taken = relay.take(10)
    before = OutboxEntry.objects.get()
    relay.settle([taken[0], taken[3]], taken)
    assert rows() == [(3, False, False), (1, True, True), (1, True, True)]
    for row in OutboxEntry.objects.exclude(published_at=None):
        assert (row.created_at, row.taken_until, row.tries) == (
            before.created_at, before.taken_until, 1,
        )  # fmt: skip
    assert [row.bell.job_id for row in relay.take(10)] == [
        jobs[1].id, jobs[2].id, jobs[4].id,
    ]  # fmt: skip


def test_a_row_that_nothing_was_published_of_is_given_back_whole() -> None:
    submit(3)
    relay.settle([], relay.take(10))
    assert rows() == [(3, False, False)]


def test_beside_a_row_that_is_published_in_part_others_are_settled_as_ever() -> None:
    submit(2)
    submit(2)
    submit(2)
    taken = relay.take(10)
    relay.settle(taken[:3], taken)
    assert rows() == [(2, True, True), (1, False, False), (2, False, False), (1, True, True)]


# ------------------------------------------------------------------------------------ in messages


def sizes(seconds: Mapping[str, float]) -> list[int]:
    """How many jobs the messages carry that the waiting rows become."""
    rows = relay.take(1000)
    messages = relay.grouped(rows, seconds)
    carried = [row.id for message in messages for row in message.rows]
    assert sorted(carried) == sorted(row.id for row in rows)
    assert all(row.queue == message.queue for message in messages for row in message.rows)
    return [len(message.rows) for message in messages]


def test_a_few_jobs_travel_one_by_one() -> None:
    submit(7)
    assert sizes({HANDLER: 0.004}) == [1] * 7


def test_what_is_done_in_a_moment_shares_a_message() -> None:
    submit(7)
    assert sizes({HANDLER: 0.001}) == [4, 3]


def test_many_quick_jobs_share_messages_that_all_workers_get_some_of() -> None:
    submit(100)
    assert sizes({HANDLER: 0.001}) == [25] * 4


def test_a_message_is_no_longer_than_the_limits(jobs_settings: Callable[..., None]) -> None:
    submit(100)
    jobs_settings(message_limit=10)
    assert sizes({HANDLER: 0.0}) == [10] * 10


def test_no_message_carries_just_the_few_that_are_left_over(
    jobs_settings: Callable[..., None],
) -> None:
    jobs_settings(message_limit=10)
    submit(81)
    assert sizes({HANDLER: 0.0}) == [9] * 9


def test_what_takes_no_time_fills_messages_to_the_limit() -> None:
    """And not to one less, as quotients of small numbers may come out."""
    submit(250)
    assert sizes({HANDLER: 1e-6}) == [250]


@pytest.mark.parametrize(("seconds", "size"), [(0.05, 5), (0.125, 2), (0.2, 1), (7.0, 1)])
def test_a_message_holds_a_fraction_of_a_second_of_work(seconds: float, size: int) -> None:
    submit(40)
    assert sizes({HANDLER: seconds}) == [size] * (40 // size)


def test_jobs_of_an_unknown_pace_travel_alone() -> None:
    submit(40)
    assert sizes({"another": 0.001}) == [1] * 40


def test_a_job_that_has_run_before_travels_alone() -> None:
    """It may have taken its worker with it."""
    jobs = submit(20)
    taken = relay.take(100)
    relay.settle(taken, taken)
    finish(claim(jobs), JobEvent.RETRY)
    assert sizes({HANDLER: 0.0001}) == [1] * 20


def test_queues_and_handlers_do_not_mix(jobs_settings: Callable[..., None]) -> None:
    jobs_settings(queues=("default", "other"))
    submit(8)
    submit(8, queue="other")
    assert sizes({HANDLER: 0.003}) == [2] * 8


def test_the_most_urgent_comes_first() -> None:
    submit(40)
    [urgent] = submit(priority=9)
    rows = relay.take(100)
    [first, *_] = relay.grouped(rows, {HANDLER: 0.0001})
    assert first.rows[0].bell.job_id == urgent.id


@pytest.mark.parametrize(
    ("published", "limit", "seconds"),
    [
        (0, 250, 0), (1, 250, 0.02), (7, 250, 0.02), (8, 250, 0.05), (249, 250, 0.05),
        (250, 250, 0), (249, 2000, 0.05), (999, 2000, 0.05), (1000, 2000, 0), (2070, 2000, 0),
        (1, 1, 0),
    ],
)  # fmt: skip
def test_a_round_lasts_longer_where_more_can_share_the_next(
    published: int, limit: int, seconds: float
) -> None:
    assert relay.round_seconds(published, limit) == pytest.approx(seconds)


@pytest.mark.django_db(transaction=True)
def test_the_relays_own_commits_wait_for_no_disk_and_no_others() -> None:
    """What a crash undoes of them is rung twice; what an answer rests on must not be undone."""

    def setting_after(work: Callable[[], object]) -> str:
        with transaction.atomic(), connection.cursor() as cursor:
            work()
            cursor.execute("SHOW synchronous_commit")
            [[setting]] = cursor.fetchall()
        return str(setting)

    jobs = submit(1)
    assert setting_after(lambda: relay.take(1)) == "off"
    row = Taken(1, Doorbell(jobs[0].id, 1), "default", HANDLER)
    assert setting_after(lambda: relay.settle([row], [row])) == "off"
    assert setting_after(lambda: submit(1)) == "on"
    assert setting_after(lambda: finish(claim(jobs), JobEvent.SUCCEED)) == "on"
