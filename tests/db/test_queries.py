"""The plans of the hot statements on loaded tables: what they read must not grow with history.

20,000 finished jobs, 20,000 published outbox rows, 20,000 rows of jobs that are due tomorrow, and a
handful of each that matter. Plans are judged by the rows that they read, not by their costs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction
from pytest_django import DjangoDbBlocker

from jobs import conf, lifecycle, relay, sql
from jobs.models import Job
from jobs.querysets import VIEW_COLUMNS, read_views
from jobs.states import JobEvent, JobState
from jobs.values import Beat
from tests.conftest import JobFactory, UserFactory
from tests.reads import Reads
from tests.verbs import USER, claim, finish, rolled_back, statements, submit

pytestmark = pytest.mark.django_db

MANY = 20_000

LOAD = f"""
SET LOCAL session_replication_role = replica;
INSERT INTO jobs_job (
    id, handler, queue, priority, tenant, payload, state, version, attempt, failed_attempts,
    lost_attempts, max_attempts, due_at, worker, progress, progress_message, progress_seq, event,
    actor_kind, actor_id, reason, signed_version, submitted_at, finished_at, changed_at, audit_hash
)
SELECT gen_random_uuid(), 'h', 'default', 0, '', '{{}}', 'COMPLETED', 3, 1, 0, 0, 3,
    now() - interval '1 day', '', 1, '', 0, 'succeed', 'worker', 'w', '', 3,
    now() - interval '1 day', now(), now(), ''
FROM generate_series(1, {MANY});
INSERT INTO jobs_outboxentry (
    job_id, job_version, handler, queue, priority, due_at, published_at, tries, rearms
)
SELECT id, 1, handler, queue, n % 10, due_at, now(), 1, 0
FROM (SELECT *, row_number() OVER () AS n FROM jobs_job WHERE state = 'COMPLETED') AS j;
INSERT INTO jobs_outboxentry (job_id, job_version, handler, queue, priority, due_at, tries, rearms)
SELECT gen_random_uuid(), 1, 'h', 'default', 0, now() + interval '1 day', 0, 0
FROM generate_series(1, {MANY});
SET LOCAL session_replication_role = origin;
ANALYZE jobs_job, jobs_outboxentry;
"""


@pytest.fixture(scope="module", autouse=True)
def _loaded(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Loaded once, in a transaction around those of the tests, and rolled back."""
    with django_db_blocker.unblock(), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(LOAD)
        yield
        transaction.set_rollback(True)


class Plan:
    """One executed plan."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._nodes = list(self._walk(root))

    def _walk(self, node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield node
        for child in node.get("Plans", ()):
            yield from self._walk(child)

    def rows_read(self, table: str) -> float:
        """Rows of this table that the plan looked at, kept or not."""
        removed = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
        read: float = sum(
            node["Actual Loops"]
            * (node["Actual Rows"] + sum(node.get(reason, 0) for reason in removed))
            for node in self._nodes
            if node.get("Relation Name") == table and "Scan" in node["Node Type"]
        )
        return read

    @property
    def indexes(self) -> set[str]:
        return {node["Index Name"] for node in self._nodes if "Index Name" in node}

    @property
    def scanned_whole(self) -> set[str]:
        return {node["Relation Name"] for node in self._nodes if node["Node Type"] == "Seq Scan"}


def plan(statement: str, parameters: Any) -> Plan:
    """Execute a statement and say how."""
    with connection.cursor() as cursor:
        cursor.execute("SAVEPOINT plan")
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
        [[answer]] = cursor.fetchall()
        cursor.execute("ROLLBACK TO SAVEPOINT plan")
    found = json.loads(answer) if isinstance(answer, str) else answer
    return Plan(found[0]["Plan"])


def queryset_plan(queryset: Any) -> Plan:
    return plan(*queryset.query.sql_with_params())


def test_the_relay_reads_only_what_it_takes() -> None:
    submit(30, priority=5)
    submit(30)
    with Reads("jobs_outboxentry") as reads:
        assert len(relay.take(500)) == 60
    assert reads.whole == 0
    assert reads.rows <= 4 * 60


def test_the_relay_finds_nothing_cheaply() -> None:
    with Reads("jobs_outboxentry") as reads:
        assert relay.take(500) == []
    assert reads.whole == 0
    assert reads.rows <= 10


def test_the_relay_takes_from_a_long_backlog_without_reading_all_of_it() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO jobs_outboxentry"
            " (job_id, job_version, handler, queue, priority, due_at, tries, rearms)"
            " SELECT gen_random_uuid(), 1, 'h', 'default', 0, now() - n * interval '1 s', 0, 0"
            f" FROM generate_series(1, {MANY}) AS n"
        )
        cursor.execute("ANALYZE jobs_outboxentry")
    with Reads("jobs_outboxentry") as reads:
        assert len(relay.take(100)) == 100
    assert reads.whole == 0
    assert reads.rows <= 4 * 100


BACKLOG = f"""
SET LOCAL session_replication_role = replica;
INSERT INTO jobs_job (
    id, handler, queue, priority, tenant, payload, state, version, attempt, failed_attempts,
    lost_attempts, max_attempts, due_at, worker, progress, progress_message, progress_seq, event,
    actor_kind, actor_id, reason, signed_version, submitted_at, changed_at, audit_hash
)
SELECT gen_random_uuid(), 'h', 'q' || n % 2, 0, '', '{{}}', 'PENDING', 1, 0, 0, 0, 3,
    now() - n * interval '1 s', '', 0, '', 0, 'submit', 'system', '', '', 1, now(), now(), ''
FROM generate_series(1, {MANY}) AS n;
INSERT INTO jobs_outboxentry (
    job_id, job_version, handler, queue, priority, due_at, published_at, tries, rearms
)
SELECT id, 1, handler, queue, 0, due_at, due_at, 1, 0 FROM jobs_job
WHERE state = 'PENDING' AND handler = 'h';
SET LOCAL session_replication_role = origin;
"""


@pytest.mark.parametrize("nested_loops", ["on", "off"])
def test_the_reconciler_reads_no_more_than_a_window(nested_loops: str) -> None:
    """From the beginning, the middle and the end of a backlog alike, and whatever join the planner
    would like."""
    with connection.cursor() as cursor:
        cursor.execute(BACKLOG)
        cursor.execute(f"SET LOCAL enable_nestloop = {nested_loops}")
        for back in (0, MANY / 2, MANY - 50):
            cursor.execute("SELECT now() - %s * interval '1 s'", [back])
            [place] = cursor.fetchone()
            where = {"queue": "q1", "due_at": place, "id": UUID(int=0), "limit": 100}
            found = plan(sql.load("rearm_window"), {**where, "take_seconds": 15})
            assert "jobs_job_pending" in found.indexes
            assert found.scanned_whole == set()
            assert found.rows_read("jobs_job") <= 100
            assert found.rows_read("jobs_outboxentry") <= 100


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh statistics", "old statistics"])
def test_the_reconciler_finds_queues_by_one_look_each(*, fresh: bool) -> None:
    with connection.cursor() as cursor:
        cursor.execute(BACKLOG + ("ANALYZE jobs_job, jobs_outboxentry;" if fresh else ""))
    found = plan(sql.load("rearm_queues"), None)
    assert found.scanned_whole == set()
    assert found.rows_read("jobs_job") <= 5


@pytest.mark.parametrize("nested_loops", ["on", "off"])
def test_the_reconciler_rings_by_primary_key(nested_loops: str) -> None:
    ids = [str(job.id) for job in submit(100)]
    rows = json.dumps([{"id": job_id, "version": 1, "rearms": 0} for job_id in ids])
    with connection.cursor() as cursor:
        cursor.execute(BACKLOG)
        cursor.execute("UPDATE jobs_outboxentry SET published_at = now() WHERE queue = 'default'")
        cursor.execute(f"SET LOCAL enable_nestloop = {nested_loops}")
    found = plan(sql.load("rearm"), {"rows": rows, "ids": ids})
    assert found.scanned_whole == set()
    assert found.rows_read("jobs_job") <= 2 * 100


def test_the_reconciler_asks_the_newest_running_jobs(job_factory: JobFactory) -> None:
    job_factory(JobState.RUNNING, 50)
    found = plan(sql.load("rearm_front"), {"limit": 20, "take_seconds": 15})
    assert "jobs_job_running" in found.indexes
    assert found.scanned_whole == set()
    assert found.rows_read("jobs_job") <= 20
    assert found.rows_read("jobs_outboxentry") <= 20


def test_the_rescuer_reads_running_jobs(job_factory: JobFactory) -> None:
    job_factory(JobState.RUNNING, 20)
    lapsed = Job.objects.lapsed().order_by("id")
    with transaction.atomic():
        found = queryset_plan(lapsed.select_for_update(no_key=True, skip_locked=True)[:500])
    assert "jobs_job_running" in found.indexes
    assert found.rows_read("jobs_job") <= 20


@pytest.mark.parametrize("waiting", [5, 5000])
def test_a_claim_reads_the_rows_that_were_announced(waiting: int) -> None:
    """Also when a backlog grew since the statistics were made."""
    jobs = submit(waiting)
    with Reads("jobs_job") as reads:
        attempts = claim(jobs[:5])
    assert (len(attempts), reads.whole) == (5, 0)
    assert reads.rows <= 5
    with Reads("jobs_job") as reads:
        finish(attempts, JobEvent.SUCCEED)
    assert reads.whole == 0
    assert reads.rows <= 5


@pytest.mark.parametrize("count", [1, 100])
def test_writes_and_heartbeats_go_by_primary_key(job_factory: JobFactory, count: int) -> None:
    jobs = job_factory(JobState.RUNNING, count)
    held = [(job.id, job.lease_token) for job in jobs]
    with statements() as executed:
        lifecycle.heartbeat([Beat(job_id, token, 0.5) for job_id, token in held if token])
    with statements() as also_executed, rolled_back():
        lifecycle.cancel([job_id for job_id, _ in held], actor=USER)
    # At some table sizes the planner joins by hash, and must then still know which rows to look up.
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_nestloop = off")
    for statement in (executed[0], also_executed[1]):
        assert statement.lstrip().partition("UPDATE jobs_job AS j SET")[1], statement
        found = plan(statement, None)
        assert found.scanned_whole == set()
        assert found.rows_read("jobs_job") <= 2 * count


def test_views_are_read_by_primary_key() -> None:
    ids = [str(job.id) for job in submit(100)]
    found = plan(
        f"SELECT {VIEW_COLUMNS} FROM jobs_job AS j WHERE j.id = ANY(%(ids)s::uuid[])",
        {"ids": ids, "inline_limit": 4096},
    )
    assert found.indexes == {"jobs_job_pkey"}
    assert found.rows_read("jobs_job") == 100


def test_an_owners_list_goes_by_its_index(user_factory: UserFactory) -> None:
    user = user_factory()
    submit(5, owner_id=user.pk)
    found = queryset_plan(Job.objects.owned_by(user.pk).light().order_by("-id")[:50])
    assert "jobs_job_owned" in found.indexes
    assert found.rows_read("jobs_job") <= 5


# ------------------------------------------------------------------------------------ named reads


def test_a_view_says_what_the_row_says(jobs_settings: Callable[..., None]) -> None:
    jobs = submit(2, payload={"value": 1}, priority=3)
    views = {view.job_id: view for view in read_views([jobs[1].id, uuid4()], 4096)}
    assert set(views) == {jobs[1].id}
    view = views[jobs[1].id]
    row = Job.objects.get(id=jobs[1].id)
    for name in ("handler", "queue", "state", "version", "attempt", "max_attempts", "reason"):
        assert getattr(view, name) == getattr(row, name)
    assert (view.submitted_at, view.due_at) == (row.submitted_at, row.due_at)
    assert view.started_at is view.finished_at is view.result is None
    assert not view.cancel_requested


def test_results_ride_along_up_to_the_limit(job_factory: JobFactory) -> None:
    [job] = job_factory(JobState.COMPLETED)
    size = len('{"answer": 42}')
    [inside] = read_views([job.id], size)
    [outside] = read_views([job.id], size - 1)
    assert inside.result == {"answer": 42}
    assert outside.result is None
    assert outside.has_result
    assert conf.get().inline_result_limit_bytes == 4096


def test_lists_leave_out_the_wide_columns(job_factory: JobFactory) -> None:
    [done] = job_factory(JobState.COMPLETED)
    job = Job.objects.light().get(id=done.id)
    assert job.get_deferred_fields() == {"payload", "result"}
