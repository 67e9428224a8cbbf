"""The one cursor that verbs keep: as good as a new one, whatever became of its connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext

from jobs import lifecycle
from jobs.connections import kept_cursor
from jobs.values import Doorbell, Submission
from tests.verbs import HANDLER

pytestmark = pytest.mark.django_db(transaction=True)


def answered() -> Any:
    cursor = kept_cursor()
    cursor.execute("SELECT 7")
    return cursor.fetchone()[0]


@contextmanager
def health_checked() -> Iterator[None]:
    wrapper: Any = connections["default"]
    before = wrapper.health_check_enabled, wrapper.health_check_done
    wrapper.health_check_enabled, wrapper.health_check_done = True, False
    try:
        yield
    finally:
        wrapper.health_check_enabled, wrapper.health_check_done = before


def test_it_is_kept() -> None:
    assert kept_cursor() is kept_cursor()
    assert answered() == 7


def test_what_many_jobs_answered_is_not_kept() -> None:
    for count, kept in ((2, False), (1, True)):
        submitted = lifecycle.submit([Submission(HANDLER, {"value": 1})] * count)
        bells = [Doorbell(one.job_id, 1) for one in submitted]
        before = kept_cursor()
        assert len(lifecycle.claim(bells, worker="w", handlers=[HANDLER])) == count
        assert (kept_cursor() is before) is kept
        assert answered() == 7


def test_another_comes_with_another_connection() -> None:
    before = kept_cursor()
    connection.close()
    assert kept_cursor() is not before
    assert answered() == 7


def test_another_comes_with_another_record_of_the_transaction() -> None:
    """As after a handler that left a transaction open."""
    before = kept_cursor()
    connections["default"].close()
    del connections["default"]
    assert kept_cursor().db is connections["default"]
    assert kept_cursor() is not before
    assert answered() == 7


def test_a_connection_that_is_due_for_a_check_is_checked() -> None:
    before = kept_cursor()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        backend = cursor.fetchone()
    with connections.create_connection("default").cursor() as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", backend)
        other.db.close()
    with health_checked():
        assert answered() == 7
    assert kept_cursor() is not before


def test_statements_are_recorded_where_they_are_asked_for() -> None:
    kept_cursor()
    with CaptureQueriesContext(connection) as captured:
        lifecycle.submit([Submission(HANDLER, {"value": 1})])
    assert [query["sql"].count("jobs_submit_v3(") for query in captured] == [1]
    recorded = len(connection.queries_log)
    lifecycle.submit([Submission(HANDLER, {"value": 1})])
    assert len(connection.queries_log) == recorded


def test_wrappers_of_statements_are_called() -> None:
    seen: list[str] = []

    def wrapper(execute: Any, sql: str, *rest: Any) -> Any:
        seen.append(sql)
        return execute(sql, *rest)

    kept_cursor()
    with connection.execute_wrapper(wrapper):
        lifecycle.submit([Submission(HANDLER, {"value": 1})])
    assert [sql.count("jobs_submit_v3(") for sql in seen] == [1]


def test_an_event_loop_is_not_blocked() -> None:
    async def submitting() -> None:
        lifecycle.submit([Submission(HANDLER, {"value": 1})])

    kept_cursor()
    with pytest.raises(SynchronousOnlyOperation):
        asyncio.run(submitting())


def test_every_thread_has_its_own() -> None:
    found: list[object] = []

    def other() -> None:
        found.append(kept_cursor())
        connection.close()

    before = kept_cursor()
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert kept_cursor() is before
    assert found != [before]
