"""The admin: that no page scans, counts or carries the whole table."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs.admin import listing, overview
from jobs.admin.listing import id_at
from jobs.models import Job
from tests.admin import (
    LIST,
    listed,
)

ROWS = 20_000


@pytest.fixture
def loaded(db: None) -> None:
    """A table of 20,000 jobs, mostly COMPLETED, with time-ordered ids, analysed."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE jobs_job DISABLE TRIGGER USER")
        cursor.execute(
            """
            INSERT INTO jobs_job (id, handler, queue, priority, tenant, payload, state, version,
                attempt, failed_attempts, lost_attempts, max_attempts, worker, progress,
                progress_message, progress_seq, event, actor_kind, actor_id, reason,
                signed_version, finished_at, lease_token, lease_until, idempotency_key, changed_at,
                audit_hash)
            SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - %(rows)s + n), 12, '0')
                    || '70008000' || lpad(to_hex(n), 12, '0'))::uuid,
                'testing.outcome', 'default', 0, '', jsonb_build_object('value', repeat('x', 300)),
                state, 3, 1, 0, 0, 3, '', 1, '', 0, 'succeed', 'worker', 'w', '', 3,
                CASE WHEN state IN ('COMPLETED', 'FAILED') THEN now() END,
                CASE WHEN state = 'RUNNING' THEN gen_random_uuid() END,
                CASE WHEN state = 'RUNNING' THEN now() END, 'key-' || n, now(), ''
            FROM (
                SELECT n, CASE
                    WHEN n %% 1000 = 1 THEN 'FAILED'
                    WHEN n %% 500 = 2 THEN 'RUNNING'
                    WHEN n %% 200 = 3 THEN 'PENDING'
                    ELSE 'COMPLETED' END AS state
                FROM generate_series(1, %(rows)s) AS n
            ) AS made
            """,
            {"rows": ROWS},
        )
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE jobs_job ENABLE TRIGGER USER")
        cursor.execute("ANALYZE jobs_job")


def plans_of(queries: CaptureQueriesContext) -> list[tuple[str, str]]:
    """The statements that touch jobs, each with its plan."""
    found = []
    for query in queries.captured_queries:
        text = query["sql"]
        if text.startswith(("SELECT", "WITH")) and "jobs_job" in text:
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN {text}")
                found.append((text, "\n".join(row[0] for row in cursor.fetchall())))
    return found


FAST = [
    LIST, f"{LIST}?submitted=1h", f"{LIST}?state=RUNNING", f"{LIST}?state=PENDING",
    f"{LIST}?state=COMPLETED", f"{LIST}?state=FAILED", f"{LIST}?handler=testing.outcome",
    f"{LIST}?handler=noop", f"{LIST}?queue=default&state=COMPLETED", f"{LIST}?owner=1",
    f"{LIST}?q=key-77", f"{LIST}?q=key-77&state=FAILED", f"{LIST}?q=0190", f"{LIST}overview/",
    "/admin/",
]  # fmt: skip


@pytest.mark.parametrize("address", FAST)
def test_no_list_counts_or_scans_the_table(
    loaded: None, root: Client, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The window stands to the table as it would to a large one.
    monkeypatch.setattr(listing.JobChangeList, "window", 500)
    monkeypatch.setattr(overview, "RECENT", 500)
    with CaptureQueriesContext(connection) as queries:
        assert root.get(address).status_code == 200
    plans = plans_of(queries)
    assert plans
    for text, plan in plans:
        assert "Seq Scan on jobs_job" not in plan, (text, plan)
        if "COUNT(" in text:
            assert "LIMIT" in text or '"id" >=' in text, text


def test_the_list_leaves_wide_columns_alone(loaded: None, root: Client) -> None:
    with CaptureQueriesContext(connection) as queries:
        root.get(LIST)
    [text] = [text for text, _ in plans_of(queries)]
    for column in ("payload", "result", "reason", "progress_message", "fingerprint"):
        assert f'"{column}"' not in text
    assert "OFFSET" not in text
    assert "LIMIT 51" in text


def test_searching_a_prefix_is_a_range_of_the_key(loaded: None, root: Client) -> None:
    middle = Job.objects.order_by("-pk")[ROWS // 2].pk
    assert middle in listed(root, f"?q={str(middle)[:13]}")
    assert listed(root, "?q=0190") == []


def test_the_filter_choices_ask_no_table(loaded: None, root: Client) -> None:
    with CaptureQueriesContext(connection) as queries:
        shown = root.get(LIST).content.decode()
    assert not [query for query in queries.captured_queries if "DISTINCT" in query["sql"]]
    assert "?handler=testing.outcome" in shown
    assert "?queue=default" in shown


def test_ids_follow_time() -> None:
    now = timezone.now()
    assert id_at(now - timedelta(seconds=1)) < submit_id() < id_at(now + timedelta(seconds=60))


def submit_id() -> UUID:
    from jobs.models import new_job_id

    return new_job_id()
