"""Races, each named after the loser: a second session, a held lock, signals instead of sleeps."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.db import connection, transaction

from jobs import lifecycle, relay
from jobs.errors import IdempotencyConflict, IllegalTransition
from jobs.lifecycle import submitting
from jobs.models import AuditEntry, Job, OutboxEntry
from jobs.states import JobEvent, JobState
from jobs.values import Attempt, Beat, Doorbell, Outcome, Settled, Submission
from tests.rivals import Rival, race
from tests.verbs import (
    HANDLER,
    USER,
    WORKER,
    claim,
    entry,
    finish,
    history,
    lapse,
    rolled_back,
    singly,
    statements,
    submit,
)

pytestmark = pytest.mark.django_db(transaction=True)


def finishing(attempt: Attempt, event: JobEvent = JobEvent.SUCCEED) -> Rival[list[Settled]]:
    return Rival(lambda: lifecycle.finish([Outcome(attempt, event)], worker=WORKER))


# ------------------------------------------------------------------------------------------ claim


def test_seven_of_eight_workers_lose_the_same_doorbell() -> None:
    jobs = submit(5)
    bells = [Doorbell(job.id, 1) for job in jobs]

    def worker(number: int) -> Any:
        return lambda: lifecycle.claim(bells, worker=f"worker:{number}", handlers=[HANDLER])

    answers = race(*(worker(number) for number in range(8)))
    winners = [attempt.job_id for attempts in answers for attempt in attempts]
    assert sorted(winners) == [job.id for job in jobs]
    assert {tuple(history(job.id)) for job in jobs} == {("submit", "claim")}


def test_a_second_claim_that_waited_takes_nothing() -> None:
    [job] = submit()
    with transaction.atomic():
        [attempt] = claim([job])
        second = Rival(lambda: claim([job], "worker:2"))
        second.wait_until_blocked()
    assert second.answer() == []
    assert Job.objects.get().lease_token == attempt.token


def test_a_claim_that_waited_for_a_cancel_takes_nothing() -> None:
    [job] = submit()
    with transaction.atomic():
        lifecycle.cancel([job.id], actor=USER)
        late = Rival(lambda: claim([job]))
        late.wait_until_blocked()
    assert late.answer() == []
    assert history(job.id) == ["submit", "cancel"]


def test_a_claim_that_waited_for_a_rollback_wins() -> None:
    [job] = submit()
    with rolled_back():
        claim([job])
        late = Rival(lambda: claim([job], "worker:2"))
        late.wait_until_blocked()
    [attempt] = late.answer()
    assert Job.objects.get().worker == "worker:2"
    assert attempt.attempt == 1


# ------------------------------------------------------------------------------- cancel and finish


def test_a_cancel_that_waited_for_a_claim_asks_the_holder() -> None:
    [job] = submit()
    with transaction.atomic():
        claim([job])
        late = Rival(lambda: lifecycle.cancel([job.id], actor=USER))
        late.wait_until_blocked()
    assert [one.event for one in late.answer()] == [JobEvent.REQUEST_CANCEL]
    assert history(job.id) == ["submit", "claim", "request_cancel"]


def test_a_cancel_that_waited_for_the_completion_is_refused() -> None:
    [attempt] = claim(submit())
    with transaction.atomic():
        finish([attempt], JobEvent.SUCCEED)
        late = Rival(lambda: lifecycle.cancel([attempt.job_id], actor=USER))
        late.wait_until_blocked()
    with pytest.raises(IllegalTransition, match="is COMPLETED"):
        late.answer()
    assert history(attempt.job_id) == ["submit", "claim", "succeed"]


@pytest.mark.parametrize(
    ("event", "becomes"),
    [(JobEvent.SUCCEED, JobEvent.SUCCEED), (JobEvent.RETRY, JobEvent.CANCEL)],
)
def test_a_finish_that_waited_for_a_cancel_takes_it_into_account(
    event: JobEvent, becomes: JobEvent
) -> None:
    [attempt] = claim(submit())
    with transaction.atomic():
        lifecycle.cancel([attempt.job_id], actor=USER)
        late = finishing(attempt, event)
        late.wait_until_blocked()
    assert late.answer() == [Settled(attempt.job_id, becomes, fenced=False)]


# ----------------------------------------------------------------------------------------- rescue


def test_a_finish_that_waited_for_the_rescuer_is_fenced() -> None:
    [attempt] = claim(submit())
    lapse(Job.objects.all())
    with transaction.atomic():
        lifecycle.rescue(limit=1, actor_id="r")
        late = finishing(attempt)
        late.wait_until_blocked()
    assert late.answer() == [Settled(attempt.job_id, JobEvent.SUCCEED, fenced=True)]
    assert history(attempt.job_id) == ["submit", "claim", "rescue"]


def test_a_rescuer_passes_by_a_job_that_is_being_finished() -> None:
    first, second = claim(submit(2))
    lapse(Job.objects.all())
    with transaction.atomic():
        finish([first], JobEvent.SUCCEED)
        answer = Rival(lambda: lifecycle.rescue(limit=10, actor_id="r")).answer()
    assert [one.job_id for one in answer] == [second.job_id]
    assert Job.objects.get(id=first.job_id).state == JobState.COMPLETED


def test_a_heartbeat_that_waited_for_the_rescuer_learns_that_it_lost() -> None:
    [attempt] = claim(submit())
    lapse(Job.objects.all())
    with transaction.atomic():
        lifecycle.rescue(limit=1, actor_id="r")
        late = Rival(lambda: lifecycle.heartbeat([Beat(attempt.job_id, attempt.token)]))
        late.wait_until_blocked()
    assert [pulse.held for pulse in late.answer()] == [False]


def test_a_rescuer_passes_by_a_lease_that_is_being_renewed() -> None:
    [attempt] = claim(submit())
    lapse(Job.objects.all())
    with transaction.atomic():
        lifecycle.heartbeat([Beat(attempt.job_id, attempt.token)])
        assert Rival(lambda: lifecycle.rescue(limit=1, actor_id="r")).answer() == []
    assert lifecycle.rescue(limit=1, actor_id="r") == []


def test_two_rescuers_share_the_work() -> None:
    jobs = submit(60)
    claim(jobs)
    lapse(jobs)

    def rescuer(name: str) -> Any:
        def work() -> list[Settled]:
            found: list[Settled] = []
            while Job.objects.lapsed().exists():
                found += lifecycle.rescue(limit=7, actor_id=name)
            return found

        return work

    one, other = race(rescuer("r1"), rescuer("r2"))
    ended = [settled.job_id for settled in [*one, *other]]
    assert sorted(ended) == [job.id for job in jobs]
    assert AuditEntry.objects.filter(event="rescue").count() == 60
    assert OutboxEntry.objects.filter(job_version=3).count() == 60


# ----------------------------------------------------------------------------------- many at once


def repairs(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What ``transactions.run`` had to run again."""
    return [r.getMessage() for r in caplog.records if r.name == "jobs.transactions"]


def test_rows_are_locked_in_the_order_of_ids() -> None:
    ids = [job.id for job in submit(3)]
    with statements() as found:
        lifecycle.cancel(list(reversed(ids)), actor=USER)
    assert found[0].endswith('ORDER BY "jobs_job"."id" ASC FOR NO KEY UPDATE OF "jobs_job"')


@pytest.mark.parametrize("round_number", range(3))
def test_bulk_cancels_in_opposite_order_do_not_deadlock(
    round_number: int, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [job.id for job in submit(100)]
    mixed = [*ids[50:], *ids[:50]]
    with caplog.at_level(logging.WARNING, logger="jobs.transactions"):
        race(
            lambda: lifecycle.cancel(ids, actor=USER),
            lambda: lifecycle.cancel(list(reversed(ids)), actor=USER),
            lambda: lifecycle.cancel(mixed, actor=USER),
        )
    assert repairs(caplog) == [], "a deadlock was repaired instead of avoided"
    assert AuditEntry.objects.filter(event="cancel").count() == 100


def test_claims_of_the_same_jobs_in_opposite_order_do_not_deadlock(
    caplog: pytest.LogCaptureFixture,
) -> None:
    jobs = submit(100)
    with caplog.at_level(logging.WARNING, logger="jobs.transactions"):
        one, other = race(lambda: claim(jobs, "w1"), lambda: claim(reversed(jobs), "w2"))
    assert repairs(caplog) == []
    assert {len(one), len(other)} == {0, 100}


# ----------------------------------------------------------------------------------------- submit


def test_nineteen_of_twenty_identical_requests_get_the_winners_job() -> None:
    wish = Submission(HANDLER, {"value": 1}, idempotency_key="k")
    answers = race(*[lambda: lifecycle.submit([wish])[0]] * 20)
    assert len({answer.job_id for answer in answers}) == 1
    assert [answer.created for answer in answers].count(True) == 1
    assert Job.objects.count() == AuditEntry.objects.count() == 1


def test_a_request_that_waited_for_its_twin_is_answered_by_it() -> None:
    wish = Submission(HANDLER, {"value": 1}, idempotency_key="k", unique_key="u")
    with transaction.atomic():
        [first] = lifecycle.submit([wish])
        late = Rival(lambda: lifecycle.submit([wish]))
        late.wait_until_blocked()
    [answer] = late.answer()
    assert (answer.job_id, answer.created) == (first.job_id, False)


def test_a_request_that_waited_for_a_rollback_makes_the_job() -> None:
    wish = Submission(HANDLER, {"value": 1}, idempotency_key="k")
    with rolled_back():
        [lost] = lifecycle.submit([wish])
        late = Rival(lambda: lifecycle.submit([wish]))
        late.wait_until_blocked()
    [answer] = late.answer()
    assert answer.created
    assert answer.job_id != lost.job_id


def test_another_request_that_waited_for_the_same_key_is_a_conflict() -> None:
    with transaction.atomic():
        lifecycle.submit([Submission(HANDLER, {"value": 1}, idempotency_key="k")])
        late = Rival(
            lambda: lifecycle.submit([Submission(HANDLER, {"value": 2}, idempotency_key="k")])
        )
        late.wait_until_blocked()
    with pytest.raises(IdempotencyConflict):
        late.answer()


def test_a_unique_key_whose_holder_ends_meanwhile_goes_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The holder ends between the refused insert and the look for who stands there."""
    [attempt] = claim(submit(unique_key="u"))
    answers = submitting._answers

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(submitting, "_answers", answers)
        finishing(attempt).answer()
        return answers(*arguments)

    monkeypatch.setattr(submitting, "_answers", meanwhile)
    [answer] = lifecycle.submit([Submission(HANDLER, unique_key="u")])
    assert answer.created
    assert answer.job_id != attempt.job_id


# ------------------------------------------------------------------------------------------ relay


def test_a_second_relay_takes_other_rows() -> None:
    singly(10)
    with transaction.atomic():
        mine = relay.take(5)
        theirs = Rival(lambda: relay.take(5)).answer()
    assert len({row.id for row in [*mine, *theirs]}) == 10


def test_four_relays_at_once_take_every_row_once() -> None:
    singly(100)

    def relaying() -> list[int]:
        found: list[int] = []
        while taken := relay.take(7):
            found += [row.id for row in taken]
        return found

    answers = race(*[relaying] * 4)
    taken = [row for rows in answers for row in rows]
    assert len(taken) == len(set(taken)) == 100


def test_a_slow_transaction_with_a_lower_id_is_still_relayed() -> None:
    with transaction.atomic():
        [slow] = submit()
        assert Rival(submit).answer()
        quick = Rival(lambda: relay.take(10)).answer()
        Rival(lambda: relay.settle(quick, quick)).answer()
    [published] = quick
    rows = {row.job_id: row.id for row in OutboxEntry.objects.all()}
    assert rows[slow.id] < published.id
    assert [row.bell.job_id for row in relay.take(10)] == [slow.id]


# ------------------------------------------------------------------------------------- hand edits


def test_a_hand_edit_that_waited_for_a_transition_is_refused() -> None:
    """An operator's UPDATE was decided on a row that has moved on."""
    [job] = submit()

    def edit() -> int:
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE jobs_job SET state = 'CANCELLED', version = 2, finished_at = now()"
                " WHERE id = %s",
                [str(job.id)],
            )
            return int(cursor.rowcount)

    with transaction.atomic():
        claim([job])
        late = Rival(edit)
        late.wait_until_blocked()
    with pytest.raises(Exception, match="version must go from 2 to 3"):
        late.answer()
    assert entry(job.id).event == "claim"
