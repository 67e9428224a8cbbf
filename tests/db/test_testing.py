"""The helpers that are shipped for the tests of others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management.color import no_style
from django.db import DatabaseError, connection

from jobs import lifecycle, testing
from jobs.models import AuditEntry, Job, JobLogLine
from jobs.states import JobEvent, JobState
from jobs.values import Submission
from tests.verbs import HANDLER, USER, history, submit

in_transaction = pytest.mark.django_db
for_real = pytest.mark.django_db(transaction=True)


@for_real
@pytest.mark.parametrize("round_number", [1, 2])
def test_flush_empties_the_guarded_tables(round_number: int) -> None:
    """Each round starts empty, and ends with jobs in every kind of state."""
    assert Job.objects.count() == AuditEntry.objects.count() == 0
    submit(2)
    testing.run_inline()
    submit(2)


@for_real
def test_the_triggers_stand_again_after_a_flush() -> None:
    submit()
    with pytest.raises(DatabaseError, match="never lost"), connection.cursor() as cursor:
        cursor.execute("TRUNCATE jobs_job")
    with pytest.raises(DatabaseError, match="append-only"):
        AuditEntry.objects.all().delete()


@in_transaction
def test_only_test_databases_are_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = ["jobs_job", "jobs_auditentry", "auth_user"]
    inside = connection.ops.sql_flush(no_style(), tables)
    assert [line.split(" ")[0] for line in inside] == ["ALTER"] * 2 + ["TRUNCATE"] + ["ALTER"] * 2
    monkeypatch.setitem(connection.settings_dict, "NAME", "production")
    outside = connection.ops.sql_flush(no_style(), tables)
    assert [line.split(" ")[0] for line in outside] == ["TRUNCATE"]


@in_transaction
def test_allowing_twice_is_once() -> None:
    testing.allow_flush()
    testing.allow_flush()
    assert len(connection.ops.sql_flush(no_style(), ["jobs_job"])) == 3


@pytest.fixture(params=["in a transaction", "for real"])
def database(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("db" if request.param[0] == "i" else "transactional_db")


@pytest.mark.usefixtures("database")
def test_a_waiting_job_is_run_once() -> None:
    [job, later] = [*submit(payload={"value": 7}), *submit(delay_seconds=60)]
    [settled] = testing.run_inline()
    assert (settled.job_id, settled.event) == (job.id, JobEvent.SUCCEED)
    job.refresh_from_db()
    assert (job.state, job.result, job.worker) == (JobState.COMPLETED, 7, "inline")
    assert history(later.id) == ["submit"]
    assert testing.run_inline() == []


@pytest.mark.usefixtures("database")
def test_only_the_named_jobs_are_run() -> None:
    jobs = submit(3)
    settled = testing.run_inline([jobs[1].id])
    assert [one.job_id for one in settled] == [jobs[1].id]


@pytest.mark.usefixtures("database")
def test_urgent_jobs_are_run_first() -> None:
    jobs = [submit(priority=priority)[0] for priority in (1, 9, 5)]
    ran = [one.job_id for one in testing.run_inline()]
    assert ran == [jobs[1].id, jobs[2].id, jobs[0].id]


@pytest.mark.usefixtures("database")
def test_drain_goes_on_until_nothing_waits() -> None:
    [job] = submit(payload={"action": "fail", "until_attempt": 3}, delay_seconds=500)
    events = [one.event for one in testing.drain()]
    assert events == [JobEvent.RETRY, JobEvent.RETRY, JobEvent.SUCCEED]
    assert history(job.id) == ["submit", *["claim", "retry"] * 2, "claim", "succeed"]


@in_transaction
def test_drain_may_respect_delays() -> None:
    submit(payload={"action": "later", "seconds": 60})
    assert [one.event for one in testing.drain(skip_delays=False)] == [JobEvent.RETRY]


@in_transaction
def test_drain_ends_what_never_ends() -> None:
    submit(payload={"action": "fail"}, max_attempts=1000)
    with pytest.raises(RuntimeError, match="after 5 attempts"):
        testing.drain(most=5)


@in_transaction
@pytest.mark.parametrize(
    ("payload", "events"),
    [
        ({"action": "ok"}, [JobEvent.SUCCEED]),
        ({"action": "progress", "seconds": 0.05, "steps": 3}, [JobEvent.SUCCEED]),
        ({"action": "sleep", "seconds": 0.02}, [JobEvent.SUCCEED]),
        ({"action": "hang", "seconds": 0.02}, [JobEvent.SUCCEED]),
        ({"action": "fail"}, [JobEvent.RETRY, JobEvent.RETRY, JobEvent.FAIL]),
        ({"action": "permanent"}, [JobEvent.FAIL]),
        ({"action": "exit"}, [JobEvent.RETRY, JobEvent.RETRY, JobEvent.FAIL]),
        ({"action": "later", "seconds": 9, "until_attempt": 2}, [JobEvent.RETRY, JobEvent.SUCCEED]),
    ],
)
def test_the_test_handler_does_as_told(payload: dict[str, Any], events: list[JobEvent]) -> None:
    submit(payload=payload)
    assert [one.event for one in testing.drain()] == events


@in_transaction
def test_an_attempt_leaves_its_mark(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    [job] = submit(payload={"mark": str(mark), "action": "fail", "until_attempt": 2})
    testing.drain()
    lines = [line.split() for line in mark.read_text().splitlines()]
    assert [line[:2] for line in lines] == [[str(job.id), "1"], [str(job.id), "2"]]
    assert len({line[2] for line in lines}) == 2


@in_transaction
def test_the_traceback_of_a_failure_is_in_the_jobs_log() -> None:
    [job] = submit(payload={"action": "fail"})
    testing.run_inline()
    line = JobLogLine.objects.get(job_id=job.id)
    assert line.level == "error"
    assert "ValueError: told to fail" in line.message


@in_transaction
def test_a_cancelled_job_is_not_run() -> None:
    [job] = submit()
    lifecycle.cancel([job.id], actor=USER)
    assert testing.drain() == []


def test_the_module_is_a_pytest_plugin_before_django_is_ready(tmp_path: Path) -> None:
    test = tmp_path / "test_user.py"
    test.write_text("def test_it(): pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "jobs.testing", "-p", "no:randomly", "-p",
         "no:django", "-c", os.devnull, str(test)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_test_handler_is_declared_under_a_stable_name() -> None:
    assert Submission(HANDLER).handler == "testing.outcome"
