"""The audit's hash chain, computed once more in Python, and what tampering does to it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db.models import F
from django.db.models.functions import Now

from jobs import lifecycle
from jobs.models import AuditEntry, Job
from jobs.states import ActorKind, JobEvent, JobState
from jobs.values import Actor
from tests.chain import whole
from tests.conftest import JobFactory
from tests.refusals import execute, triggers_off
from tests.verbs import USER, claim, entry, finish, history, lapse, rolled_back, submit

pytestmark = pytest.mark.django_db

TEXTS = [
    "",
    "plain",
    "quotes \" and ' and \\ and / and \\u0041",
    "controls \x01 \x08 \t \n \x0b \f \r \x1b \x1f and delete \x7f \x80 \x9f",
    "ünïcödé, 職務, 🙂, e\u0301, \u2028 \u2029 \ufeff \uffff \U0010ffff",
    "</script> <!-- & %s {} null",
    "x" * 2000,
]


def every_event() -> list[UUID]:
    """Jobs whose entries are of every kind there is."""
    jobs = submit(4)
    ids = [job.id for job in jobs]
    [retried, rescued, cancelled, by_hand] = jobs
    finish(claim([retried]), JobEvent.RETRY, reason="busy")
    finish(claim([Job.objects.get(id=retried.id)]), JobEvent.RELEASE, reason="stopping")
    finish(claim([Job.objects.get(id=retried.id)]), JobEvent.SUCCEED, result=[1])
    claim([rescued])
    lapse([rescued])
    lifecycle.rescue(limit=9, actor_id="r")
    finish(claim([Job.objects.get(id=rescued.id)]), JobEvent.FAIL, reason="broken")
    lifecycle.reopen([rescued.id], actor=USER, reason="once more")
    claim([cancelled])
    lifecycle.cancel([cancelled.id], actor=USER)
    lapse([cancelled])
    lifecycle.rescue(limit=9, actor_id="r")
    Job.objects.filter(id=by_hand.id).update(
        state=JobState.CANCELLED, version=F("version") + 1, finished_at=Now()
    )
    return ids


def test_every_kind_of_entry_is_chained() -> None:
    ids = every_event()
    assert {event for job_id in ids for event in history(job_id)} == set(JobEvent)
    assert all(whole(job_id) for job_id in ids)


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_any_text_hashes_alike_here_and_there(text: str) -> None:
    [job] = submit()
    lifecycle.cancel([job.id], actor=Actor(ActorKind.ADMIN, text[:200]), reason=text)
    assert AuditEntry.objects.get(job_id=job.id, version=2).reason == text
    assert whole(job.id)


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "America/St_Johns"])
def test_the_writers_settings_do_not_show(job_factory: JobFactory, zone: str) -> None:
    """Times are hashed as numbers: their text would depend on who wrote the entry."""
    [job] = job_factory(JobState.RUNNING)
    foreign = {
        "TimeZone": zone,
        "DateStyle": "German",
        "extra_float_digits": "-15",
        "bytea_output": "escape",
        "standard_conforming_strings": "off",
    }
    for name, value in foreign.items():
        execute(f"SET LOCAL {name} = '{value}'")
    execute(
        "UPDATE jobs_job SET state = 'CANCELLED', version = 3, finished_at = now(),"
        " lease_token = NULL, lease_until = NULL, reason = 'a\tb' WHERE id = %s",
        str(job.id),
    )
    for name in foreign:
        execute(f"SET LOCAL {name} TO DEFAULT")
    assert entry(job.id).lease_until == job.lease_until
    assert whole(job.id)


def test_one_statement_over_many_jobs_chains_each_by_itself(job_factory: JobFactory) -> None:
    jobs = job_factory(count=50)
    finish(claim(jobs), JobEvent.SUCCEED)
    assert all(whole(job.id) for job in jobs)
    assert len(set(Job.objects.values_list("audit_hash", flat=True))) == 50


def test_a_step_that_was_undone_leaves_no_link(job_factory: JobFactory) -> None:
    [job] = job_factory()
    with rolled_back():
        lifecycle.cancel([job.id], actor=USER)
    assert Job.objects.get(id=job.id).audit_hash == job.audit_hash
    claim([job])
    assert whole(job.id)


# --------------------------------------------------------------------------------------- tampering

OF_ENTRIES = "UPDATE jobs_auditentry SET {} WHERE job_id = %s AND version = 2"
TAMPERED: dict[str, str] = {
    "version": "UPDATE jobs_auditentry SET version = 9 WHERE job_id = %s AND version = 3",
    "a removed entry": "DELETE FROM jobs_auditentry WHERE job_id = %s AND version = 2",
    "a removed last entry": "DELETE FROM jobs_auditentry WHERE job_id = %s AND version = 3",
    "a removed first entry": "DELETE FROM jobs_auditentry WHERE job_id = %s AND version = 1",
    "a row set back": """
        UPDATE jobs_job SET state = 'PENDING', version = 1, attempt = 0, finished_at = NULL,
            result = NULL WHERE id = %s
    """,
    "another head": "UPDATE jobs_job SET audit_hash = sha256('x') WHERE id = %s",
    "another time of the row": """
        UPDATE jobs_job SET changed_at = changed_at - interval '1 microsecond' WHERE id = %s
    """,
    "two entries exchanged": """
        UPDATE jobs_auditentry AS a SET reason = b.reason, actor_id = b.actor_id, at = b.at
        FROM jobs_auditentry AS b
        WHERE a.job_id = %s AND b.job_id = a.job_id AND a.version + b.version = 5
            AND a.version IN (2, 3)
    """,
} | {
    f"{column} of an entry": OF_ENTRIES.format(f"{column} = {value}")
    for column, value in {
        "from_state": "'FAILED'",
        "to_state": "'PENDING'",
        "event": "'release'",
        "actor_kind": "'user'",
        "actor_id": "'nobody'",
        "reason": "reason || ' '",
        "attempt": "attempt + 1",
        "token": "NULL",
        "lease_until": "now()",
        "at": "at - interval '1 microsecond'",
        "txid": "txid + 1",
        "hash": "sha256('x')",
    }.items()
}


def test_every_column_of_an_entry_is_tampered_with_here() -> None:
    columns = {field.column for field in AuditEntry._meta.concrete_fields}
    assert columns <= {*(name.split()[0] for name in TAMPERED), "job_id"}


@pytest.mark.parametrize("tampering", TAMPERED)
def test_tampering_without_the_triggers_breaks_the_chain(
    job_factory: JobFactory, tampering: str
) -> None:
    [job, other] = job_factory(JobState.COMPLETED, 2)
    with triggers_off():
        assert execute(TAMPERED[tampering], str(job.id)) >= 1
    assert not whole(job.id)
    assert whole(other.id)


def test_an_entry_moved_to_another_job_breaks_its_chain(job_factory: JobFactory) -> None:
    [job, other] = job_factory(JobState.COMPLETED, 2)
    with triggers_off():
        execute("DELETE FROM jobs_auditentry WHERE job_id = %s", str(other.id))
        execute(
            "UPDATE jobs_auditentry SET job_id = %s WHERE job_id = %s", str(other.id), str(job.id)
        )
    assert not whole(other.id)


def test_a_change_without_triggers_stays_visible_after_later_steps() -> None:
    """The next link is made from the head in the row, so it does not heal what was broken."""
    [job] = submit()
    with triggers_off():
        execute("UPDATE jobs_auditentry SET actor_id = 'me' WHERE job_id = %s", str(job.id))
    lifecycle.cancel([job.id], actor=USER)
    assert not whole(job.id)


def test_the_head_cannot_be_chosen(job_factory: JobFactory) -> None:
    [job] = job_factory()
    past: dict[str, Any] = {"changed_at": Now() - timedelta(days=1), "audit_hash": b"mine"}
    Job.objects.filter(id=job.id).update(
        state=JobState.CANCELLED, version=F("version") + 1, finished_at=Now(), **past
    )
    assert entry(job.id).at > job.changed_at
    assert whole(job.id)
