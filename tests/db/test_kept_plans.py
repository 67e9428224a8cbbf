"""Plans that a session keeps stay right: made while tables are empty, used when they are not."""

from __future__ import annotations

import pytest
from django.db import connection, transaction

from jobs import relay
from jobs.lifecycle.submitting import FIRST_PART, GROWTH
from jobs.states import JobEvent
from tests.db.test_queries import LOAD
from tests.reads import Reads
from tests.verbs import claim, finish, rolled_back, submit

pytestmark = pytest.mark.django_db(transaction=True)

WAITING = 500


def test_plans_made_for_empty_tables_read_only_what_is_asked_for() -> None:
    with connection.cursor() as cursor:
        # Vacuumed while empty: the planner takes them for empty for good.
        cursor.execute("VACUUM ANALYZE jobs_job, jobs_outboxentry, jobs_auditentry")
        cursor.execute("DISCARD PLANS")
    with rolled_back():
        assert relay.take(10) == []
        finish(claim(submit(1)), JobEvent.SUCCEED)
    with connection.cursor() as cursor, transaction.atomic():
        # The rows of LOAD without its ANALYZE, which would have the plans made anew.
        cursor.execute(LOAD.partition("ANALYZE")[0])
    jobs = submit(WAITING)
    with transaction.atomic():
        with Reads("jobs_job") as reads:
            attempts = claim(jobs[:5])
        assert (len(attempts), reads.whole) == (5, 0)
        assert reads.rows <= 5
        with Reads("jobs_job") as reads:
            finish(attempts, JobEvent.SUCCEED)
        assert reads.whole == 0
        assert reads.rows <= 5
        with Reads("jobs_outboxentry") as reads:
            # The jobs of the first two parts, which share a row each.
            assert len(relay.take(100)) == FIRST_PART + int(FIRST_PART * GROWTH)
        assert reads.whole == 0
        assert reads.rows <= 4 * 100


def test_the_plan_of_a_lone_transition_does_not_compare_a_group_row_by_row() -> None:
    """What a trigger reads of its statement's rows is in no statistics: the plan itself is read."""
    with connection.cursor() as cursor:
        cursor.execute("DISCARD PLANS")
        cursor.execute("SET debug_print_plan = on")
        cursor.execute("SET client_min_messages = log")
        notices: list[str] = connection.connection.notices
        notices.clear()
        try:
            [attempt] = claim(submit(1))
            plans = [text for text in notices if ":enrname after_rows" in text]
        finally:
            cursor.execute("RESET client_min_messages")
            cursor.execute("RESET debug_print_plan")
    finish([attempt], JobEvent.SUCCEED)
    assert plans, "PostgreSQL has told no plan that reads the rows of a transition"
    for plan in plans:
        assert "{HASHJOIN" in plan or "{MERGEJOIN" in plan
        assert "{NESTLOOP" not in plan
