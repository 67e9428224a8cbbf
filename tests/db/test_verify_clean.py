"""A database in which nothing is wrong, whatever its jobs went through: no finding at all."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest
from django.db import connection

from jobs import conf
from jobs.maintenance import pruner
from jobs.models import AuditEntry, Job, OutboxEntry
from jobs.states import EDGES, JobEvent
from jobs.verification import Progress, verify
from jobs.verification.rules import INVARIANTS
from tests import histories
from tests.conftest import UserFactory
from tests.histories import link

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _begin(jobs_settings: Callable[..., None]) -> None:
    jobs_settings(max_lost_attempts=2)
    histories.forget_statistics()


def test_an_empty_database_is_fine() -> None:
    report = verify(at_rest=True)
    assert report.ok
    assert (report.jobs, report.entries, report.windows) == (0, 0, 0)


@pytest.mark.parametrize("window", [1, 3, 5000])
def test_every_kind_of_history_is_fine(user_factory: UserFactory, window: int) -> None:
    histories.every_kind(user_factory())
    report = verify(at_rest=True, window=window)
    assert report.broken == ()
    assert report.notes == ()
    assert (report.jobs, report.entries) == (Job.objects.count(), AuditEntry.objects.count())
    assert {finding.id for finding in report.findings} == set(INVARIANTS) - {"I10"}


def test_the_histories_go_every_way_there_is(user_factory: UserFactory) -> None:
    histories.every_kind(user_factory())
    rows = AuditEntry.objects.values_list("event", "from_state", "to_state")
    taken = {(event, source, target) for event, source, target in rows}
    edges = {
        (edge.event.value, source, edge.target.value)
        for edge in EDGES
        for source in (edge.sources or (None,))
    }
    assert edges <= taken
    assert JobEvent.HAND_EDIT in {event for event, _, _ in taken}


def test_what_is_under_way_is_fine_but_not_at_rest() -> None:
    histories.running()
    histories.waiting()
    assert verify().ok
    assert [(finding.id, finding.violations) for finding in verify(at_rest=True).broken] == [
        ("I2", 2)
    ]


def test_pruned_outbox_rows_are_not_missed(jobs_settings: Callable[..., None]) -> None:
    histories.completed()
    histories.waiting()
    histories.publish()
    jobs_settings(outbox_retention_seconds=0.000001)
    pruner.run_once()
    assert OutboxEntry.objects.count() == 1
    assert verify().ok


def test_the_chain_is_what_its_documentation_says() -> None:
    """Also with characters that JSON writes in special ways."""
    job = histories.failed(owner_id=None)
    text = 'tab\t quote" backslash\\ delete\x7f bell\x07 ünï \U0001f600 </script> \u2028'
    histories.run(
        "UPDATE jobs_job SET version = version + 1, state = 'PENDING',"
        " finished_at = NULL, reason = %s WHERE id = %s",
        [text, str(job.id)],
    )
    digest = b""
    for entry in AuditEntry.objects.filter(job_id=job.id).order_by("version"):
        digest = link(digest, entry)
        assert bytes(entry.hash) == digest
    assert entry.reason == text
    histories.publish()
    assert verify(only=["I3"]).ok


def test_windows_meet_without_a_gap() -> None:
    """Ids at both ends of what there can be, and entries whose job is gone."""
    ids = [UUID(int=0), UUID(int=2**128 - 1)]
    for number, job_id in enumerate(ids):
        job = histories.completed()
        histories.damage(
            f"UPDATE jobs_job SET id = '{job_id}' WHERE id = '{job.id}'",
            f"UPDATE jobs_auditentry SET job_id = '{job_id}' WHERE job_id = '{job.id}'",
        )
        assert Job.objects.count() == number + 1
    report = verify(window=1, only=["I3"])
    assert (report.jobs, report.entries) == (2, 6)
    [finding] = report.broken
    assert finding.violations == 6
    assert all(any(str(job_id) in line for line in finding.examples) for job_id in ids)


def test_progress_is_told_window_by_window() -> None:
    for _ in range(3):
        histories.completed()
    told: list[Progress] = []
    verify(window=1, on_progress=told.append)
    assert [one.jobs for one in told if one.stage == "windows"] == [1, 2, 3]


def test_it_writes_nothing_and_keeps_no_transaction_open() -> None:
    histories.completed()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
        [next_transaction] = cursor.fetchone()
        assert verify().ok
        cursor.execute("SELECT pg_current_xact_id_if_assigned()")
        assert cursor.fetchone() == (None,)
        # Other databases of the server count the same transactions.
        for table in connection.introspection.table_names(cursor):
            cursor.execute(
                f"SELECT count(*) FROM {table} WHERE xmin::text::bigint >= %s", [next_transaction]
            )
            assert cursor.fetchone() == (0,), table


def test_the_bound_on_lost_attempts_is_the_setting(jobs_settings: Callable[..., None]) -> None:
    histories.lost_for_good()
    assert conf.get().max_lost_attempts == 2
    histories.publish()
    assert verify(at_rest=True).ok
