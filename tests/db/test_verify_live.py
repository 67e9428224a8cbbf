"""The verification beside others: no false alarm while jobs move, nobody waits, short windows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest
from django.db import connection, transaction

from jobs import lifecycle
from jobs.errors import CannotVerify
from jobs.models import Job
from jobs.states import ActorKind, JobEvent
from jobs.values import Actor, Beat
from jobs.verification import Progress, snapshots, verify
from tests import histories
from tests.verbs import claim, finish, lapse, submit

pytestmark = pytest.mark.django_db(transaction=True)

SYSTEM = Actor(ActorKind.SYSTEM)
MOVERS = 3
RUNS = 4


@pytest.fixture(autouse=True)
def _begin() -> None:
    histories.forget_statistics()


def move(jobs: list[Job]) -> None:
    """Every verb, in commits of their own."""
    attempts = claim(jobs)
    lifecycle.heartbeat([Beat(a.job_id, a.token, 0.5) for a in attempts])
    finish(attempts[:2], JobEvent.RETRY, reason="once more", delay_seconds=0.0)
    finish(attempts[2:3], JobEvent.SUCCEED, result=1)
    lapse([job for job in jobs if job.id == attempts[3].job_id])
    lifecycle.rescue(limit=100, actor_id="rescuer")
    lifecycle.cancel([attempts[4].job_id], actor=SYSTEM)
    finish(attempts[4:5], JobEvent.CANCEL, reason="stopped on request")
    lifecycle.reopen([attempts[4].job_id], actor=SYSTEM)
    again = claim(Job.objects.filter(id__in=[job.id for job in jobs], state="PENDING"))
    finish(again, JobEvent.SUCCEED)


@contextmanager
def moving() -> Iterator[None]:
    """Other connections move jobs, round after round, until the end."""
    enough = threading.Event()
    begun = threading.Barrier(MOVERS + 1, timeout=60)

    def work() -> None:
        try:
            move(submit(5))
            begun.wait()
            while not enough.is_set():
                move(submit(5))
        finally:
            connection.close()

    with ThreadPoolExecutor(MOVERS) as pool:
        tasks = [pool.submit(work) for _ in range(MOVERS)]
        try:
            begun.wait()
            yield
        finally:
            enough.set()
    for task in tasks:
        task.result()


@pytest.mark.parametrize("window", [20, 5000])
def test_jobs_that_move_are_no_false_alarm(window: int) -> None:
    with moving():
        for _ in range(RUNS):
            report = verify(window=window)
            assert report.ok, report.broken
    after = verify()
    assert after.ok
    assert after.jobs == Job.objects.count() >= report.jobs >= MOVERS * 5


def test_a_snapshot_is_one_moment_and_can_only_be_read() -> None:
    """Whatever others commit between two statements of a window is in none of them."""
    count = "SELECT count(*) FROM jobs_auditentry"

    def twice(snapshot: snapshots.Snapshot) -> list[Any]:
        before = snapshot.ask_text(count, {})
        histories.completed()
        return [before, snapshot.ask_text(count, {})]

    with closing(snapshots.Snapshots()) as reads:
        assert reads.read(twice) == [[(0,)], [(0,)]]
        assert reads.read(lambda snapshot: snapshot.ask_text(count, {})) == [(3,)]
        with pytest.raises(CannotVerify, match="read-only"):
            reads.read(lambda snapshot: snapshot.ask_text("DELETE FROM jobs_job RETURNING id", {}))


def test_a_writer_in_the_middle_holds_nothing_up() -> None:
    """Job rows are locked by somebody else; reading does not wait, and sees what was before."""
    job = histories.running()
    with transaction.atomic():
        list(Job.objects.locked([job.id]))
        lifecycle.cancel([job.id], actor=SYSTEM)
        report = verify()
    assert report.ok
    assert report.entries == 2


def ends(window: int) -> list[int]:
    """How many jobs had been looked at after each window."""
    told: list[Progress] = []
    verify(window=window, on_progress=told.append)
    return [one.jobs for one in told if one.stage == "windows"]


def test_a_window_is_no_longer_than_it_may_be() -> None:
    """By jobs, by entries where histories are long, and by outbox rows that belong to no job."""
    for _ in range(4):
        histories.completed()
    assert ends(window=2) == [2, 4]
    [job] = Job.objects.order_by("id")[:1]
    histories.damage(
        "INSERT INTO jobs_auditentry SELECT job_id, n, from_state, to_state, event, actor_kind,"
        " actor_id, reason, attempt, token, at, txid, hash, lease_until"
        f" FROM jobs_auditentry, generate_series(4, 40) AS n WHERE job_id = '{job.id}'"
        " AND version = 3"
    )
    assert ends(window=2) == [1, 3, 4]
    histories.run(
        "INSERT INTO jobs_outboxentry (job_id, job_version, handler, queue, priority, due_at,"
        " tries, rearms) SELECT gen_random_uuid(), 1, 'h', 'default', 0, now(), 0, 0"
        " FROM generate_series(1, 100)"
    )
    report = verify(window=2, only=["I9"])
    assert report.windows >= 2 + 100 // 20
    [finding] = report.broken
    assert (finding.violations, len(finding.examples)) == (100, 5)


def test_a_lost_connection_is_made_again() -> None:
    """A server that is restarted under the verification costs a window, not the answer."""
    for _ in range(3):
        histories.completed()
    opened: list[Any] = []

    def connect() -> Any:
        opened.append(snapshots.connect())
        return opened[-1]

    cut = threading.Event()

    def cut_once(_: object) -> None:
        if opened and not cut.is_set():
            cut.set()
            pid = opened[-1].get_backend_pid()
            histories.run("SELECT pg_terminate_backend(%s, 5000)", [pid])

    report = verify(window=1, open_connection=connect, on_progress=cut_once)
    assert report.ok
    assert (len(opened), report.jobs) == (2, 3)


def test_a_database_that_is_away_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.verification.snapshots.time.sleep", lambda seconds: None)

    def refuse() -> Any:
        raise psycopg2.OperationalError("connection refused")

    with pytest.raises(CannotVerify, match="connection refused"):
        verify(open_connection=refuse)


def test_checks_of_the_caller_count_too() -> None:
    job = histories.completed()
    once = "SELECT id FROM jobs_job WHERE handler <> 'x'"
    windowed = "SELECT id, state FROM jobs_job WHERE id BETWEEN %(low)s AND %(high)s"
    report = verify(extra={"I8": once, "I99": windowed})
    assert [(f.id, f.violations) for f in report.broken] == [("I8", 1), ("I99", 1)]
    assert all(str(job.id) in finding.examples[0] for finding in report.broken)
    assert verify(extra={"I8": f"{once} AND false"}).ok
    assert [f.id for f in verify(extra={"I99": windowed}, only=["I99"]).findings] == ["I99"]


def test_only_what_was_asked_for_is_checked() -> None:
    job = histories.completed()
    histories.damage(f"UPDATE jobs_job SET attempt = 5, audit_hash = 'x' WHERE id = '{job.id}'")
    assert [finding.id for finding in verify(only=["I4", "I5"]).findings] == ["I4", "I5"]
    assert verify(only=["I4"]).ok
    assert not verify(only=["I3", "I4"]).ok
    blind = verify(only=["I2", "I10"])
    assert blind.findings == ()
    assert [note.split()[0] for note in blind.notes] == ["I2", "I10"]
    with pytest.raises(ValueError, match="I77"):
        verify(only=["I77"])
    with pytest.raises(ValueError, match="window"):
        verify(window=0)
