"""The checker is checked: it must condemn every deliberately broken build, and only those.

Each test runs one build of ``tests/mutants.py`` as real processes, or breaks what the database
guards, provokes the fault that the missing safety was for, and looks for the invariant that this
threatens. A checker that finds nothing here would find nothing in the fault suite either.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import amqp
import psycopg2
import pytest

from interlock.local.ports import free_port
from interlock.local.rabbitmq import RabbitServer
from jobs import conf
from jobs.verification import verify
from jobs.verification.windows import SILENCE_MARGIN_SECONDS
from tests import mutants
from tests.faults.conftest import Servers
from tests.faults.suite import judge
from tests.faults.suite.ledger import Ledger
from tests.http_client import Http
from tests.marks import until
from tests.services import ROOT
from tests.stack import Role, Stack

pytestmark = [pytest.mark.services, pytest.mark.timeout(180)]

#: How late a rescue may be here; the build's own tick is 0.2 s.
BOUND_SECONDS = 2.0


class Build(Stack):
    """One build at work, and what its clients were told."""

    broker: RabbitServer
    ledger: Ledger

    @property
    def ledger_directory(self) -> Path:
        return self.directory / "ledger"

    @property
    def log_directory(self) -> Path:
        return self.directory / "logs"

    def channel(self) -> AbstractContextManager[amqp.Channel]:
        return self.services.channel()

    def ctl(self, *arguments: str) -> str:
        return self.broker.ctl(*arguments)

    def broken(self, *, at_rest: bool = False, extra: dict[str, str] | None = None) -> set[str]:
        """The invariants that the checker finds broken."""
        report = verify(
            open_connection=self._connected,
            ledger=self.ledger_directory if any(self.ledger_directory.iterdir()) else None,
            at_rest=at_rest,
            bound_seconds=BOUND_SECONDS,
            extra=extra,
        )
        return {finding.id for finding in report.broken}

    def _connected(self) -> Any:
        opened = psycopg2.connect(self.services.database_url)
        opened.autocommit = True
        return opened

    def rewrite(self, function: str, old: str, new: str) -> None:
        """Replace a piece of one of the guard's functions."""
        [(text,)] = self.sql(f"SELECT pg_get_functiondef('{function}'::regproc)")
        assert old in text, f"{function} has no {old!r}"
        self.sql(text.replace(old, new, 1))

    def see(self, reader: str, job_id: UUID, http: Http) -> int:
        """Read a status as this reader, enter it in the ledger, and return the version."""
        began = time.time()
        shown = http.get(f"/api/v1/jobs/{job_id}/status/").json()
        rank = (shown["version"], 0)
        self.ledger.seen(reader, str(job_id), rank, shown["state"], began, time.time())
        return int(shown["version"])

    def stranger(self) -> tuple[int, str]:
        """Another user, with a key."""
        name = f"eve-{secrets.token_hex(4)}"
        command = ["python", "-m", "interlock", "jobs_bootstrap", "--username", name]
        done = subprocess.run(
            [*command, "--password", secrets.token_hex(8)],
            cwd=ROOT,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        [(user_id,)] = self.sql("SELECT id FROM auth_user WHERE username = %(n)s", {"n": name})
        return int(user_id), str(json.loads(done.stdout.splitlines()[-1])["api_key"])


Make = Callable[..., AbstractContextManager[Build]]


@pytest.fixture
def build(own_servers: Servers, migrated: str, tmp_path: Path) -> Make:
    """``build("no_rescuer", "api", "worker")``: these roles of this build, or all of them."""

    @contextmanager
    def make(name: str = "nothing", *roles: Role) -> Iterator[Build]:
        assert isinstance(own_servers.rabbitmq, RabbitServer)
        assert name in mutants.MUTANTS
        variables = {
            "DJANGO_SETTINGS_MODULE": "tests.settings_mutant",
            mutants.VARIABLE: name,
        }
        # The checker runs here, under this process's settings, and reckons with this one.
        take = conf.get().relay_take_seconds
        with Build(
            own_servers.services, migrated, tmp_path, variables=variables, relay_take_seconds=take
        ) as stack:
            stack.broker = own_servers.rabbitmq
            with Ledger(stack.ledger_directory) as ledger:
                stack.ledger = ledger
                stack.start(*roles)
                yield stack

    own_servers.heal()
    return make


def test_the_build_as_it_is(build: Make) -> None:
    with build() as stack:
        marks = stack.marks()
        held = stack.submit("stack.hold", {"marks": str(marks.directory)}, count=2)
        [victim, _] = marks.wait_started(2)
        quick = stack.submit("chaos.effect", {}, count=5)
        os.kill(victim.pid, signal.SIGKILL)
        marks.wait_started(3)
        marks.open()
        for job_id in [*held, *quick]:
            stack.ledger.accepted(str(job_id), stack.owner_id(), None, 201)
        stack.wait_for("COMPLETED", [*held, *quick])
        stack.wait_published([*held, *quick])
        assert stack.broken(at_rest=True) == set()
        assert judge.dead_letters(stack).violations == 0


def test_i1_an_answer_without_a_commit(build: Make) -> None:
    with build("answers_before_the_commit", "api") as stack:
        [job_id] = stack.submit("noop")
        stack.ledger.accepted(str(job_id), stack.owner_id(), None, 201)
        assert "I1" in stack.broken()


def test_i2_lost_doorbells_and_no_reconciler(build: Make) -> None:
    with build("no_reconciler") as stack:
        marks = stack.marks()
        held = stack.submit("stack.hold", {"marks": str(marks.directory)}, count=2)
        marks.wait_started(2)
        waiting = stack.submit("noop", count=10)
        stack.wait_published(waiting)
        assert stack.purge()
        marks.open()
        stack.wait_for("COMPLETED", held)
        assert "I2" in stack.broken(at_rest=True)


def test_i3_a_trigger_that_is_gone(build: Make) -> None:
    with build() as stack:
        ids = stack.submit("noop", count=2)
        stack.wait_for("COMPLETED", ids)
        stack.sql("ALTER TABLE jobs_job DISABLE TRIGGER jobs_record_transition")
        stack.wait_for("COMPLETED", stack.submit("noop", count=2))
        assert {"I3", "I14"} <= stack.broken()


def test_i4_a_guard_that_knows_no_edges(build: Make) -> None:
    with build("workers_sign_what_users_do", "api") as stack:
        stack.rewrite("jobs_guard_transition", "IF concat_ws(", "IF false AND concat_ws(")
        [job_id] = stack.submit("noop")
        assert stack.cancel(job_id).status == 200
        assert "I4" in stack.broken()


def test_i5_completed_twice(build: Make) -> None:
    with build("completed_is_not_final") as stack:
        stack.rewrite("jobs_guard_transition", "IF concat_ws(", "IF false AND concat_ws(")
        [job_id] = stack.submit("noop")
        stack.wait_for("COMPLETED", [job_id])
        assert stack.retry(job_id).status == 200
        until(lambda: stack.events(job_id).count("succeed") == 2, 30, stack.tails)
        assert "I5" in stack.broken()


def test_i6_a_lease_that_is_not_respected(build: Make) -> None:
    with build("rescuer_ignores_leases") as stack:
        held = "NEW.actor_kind = 'rescuer' AND OLD.lease_until >= NEW.changed_at"
        stack.rewrite("jobs_guard_transition", held, "false")
        marks = stack.marks()
        [job_id] = stack.submit("stack.hold", {"marks": str(marks.directory)})
        until(lambda: "rescue" in stack.events(job_id), 30, stack.tails)
        assert "I6" in stack.broken()


def test_i7_and_i8_a_stale_holder_that_is_believed(build: Make) -> None:
    """The job's present holder is frozen as well, so that the stale one comes first."""
    with build("finishes_without_a_token") as stack:
        marks = stack.marks()
        [job_id] = stack.submit("stack.deaf_effect", {"marks": str(marks.directory)})
        [stale] = marks.wait_started(1)
        os.kill(stale.pid, signal.SIGSTOP)
        holder = next(mark for mark in marks.wait_started(2) if mark.pid != stale.pid)
        os.kill(holder.pid, signal.SIGSTOP)
        try:
            marks.open()
            os.kill(stale.pid, signal.SIGCONT)
            stack.wait_for("COMPLETED", [job_id])
        finally:
            os.kill(holder.pid, signal.SIGCONT)
        stolen = """
            SELECT e.job_id, a.version FROM testapp_effect AS e
            JOIN jobs_auditentry AS a ON a.job_id = e.job_id AND a.to_state = 'COMPLETED'
            WHERE a.token <> e.token
        """
        assert {"I7", "I8"} <= stack.broken(extra={"I8": stolen})


def test_i9_published_without_a_confirm(build: Make, own_servers: Servers) -> None:
    with build("waits_for_no_confirm", "api", "relay") as stack:
        stack.wait_published(stack.submit("noop"))
        pid = own_servers.rabbitmq.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.time()
            # What is published sooner may have been confirmed before.
            until(lambda: time.time() > began + SILENCE_MARGIN_SECONDS, 10)
            stack.wait_published(stack.submit("noop"))
            stack.ledger.silence(began, time.time(), "the broker is frozen")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert "I9" in stack.broken()


def test_i9_announced_outside_the_transaction(build: Make) -> None:
    with build("announces_after_the_commit", "api") as stack:
        [(text,)] = stack.sql("SELECT prosrc FROM pg_proc WHERE proname = 'jobs_record_birth'")
        begin = text.index("INSERT INTO jobs_outboxentry")
        statement = text[begin : text.index(";", begin) + 1]
        stack.rewrite("jobs_record_birth", statement, "")
        stack.submit("noop")
        assert "I9" in stack.broken()


def test_i10_a_late_fill(build: Make) -> None:
    """A slow reader of one process fills in what a reader of another has seen the end of."""
    with build("fills_without_a_lease", "worker", "relay", "scheduler") as stack:
        slow = stack.spawn("api", variables={mutants.SLOW_VARIABLE: str(stack.directory)})
        quick = stack.spawn("api", port=free_port())
        for process in (slow, quick):
            until(lambda p=process: stack.ready(p), 60, stack.tails)  # type: ignore[misc] # a lambda's default
            stack.wait_settled(process.port)
        marks = stack.marks()
        [job_id] = stack.submit("stack.hold", {"marks": str(marks.directory)})
        marks.wait_started(1)
        stack.services.redis().flushall()
        old = Http(slow.port, stack.key, timeout_seconds=10)
        reader = threading.Thread(target=stack.see, args=("slow", job_id, old))
        reader.start()
        until((stack.directory / "read").exists, 30, stack.tails)
        marks.open()
        stack.wait_for("COMPLETED", [job_id])
        newest = stack.see("quick", job_id, Http(quick.port, stack.key))
        (stack.directory / "go").touch()
        reader.join(30)
        assert stack.see("last", job_id, old) < newest
        assert "I10" in stack.broken()


def test_i11_a_budget_that_is_not_kept(build: Make) -> None:
    with build("retries_for_ever") as stack:
        [job_id] = stack.submit("stack.flaky", {"failures": 99})
        until(lambda: stack.job(job_id)["failed_attempts"] > 4, 30, stack.tails)
        assert "I11" in stack.broken()


def test_i12_nobody_rescues(build: Make) -> None:
    with build("no_rescuer") as stack:
        marks = stack.marks()
        [job_id] = stack.submit("stack.hold", {"marks": str(marks.directory)})
        [victim] = marks.wait_started(1)
        os.kill(victim.pid, signal.SIGKILL)
        overdue = (
            "SELECT 1 FROM jobs_job WHERE id = %(id)s AND"
            f" lease_until < clock_timestamp() - interval '{BOUND_SECONDS + 0.5} s'"
        )
        until(lambda: stack.sql(overdue, {"id": str(job_id)}), 30, stack.tails)
        assert "I12" in stack.broken()


def test_i13_a_stranger_is_answered(build: Make) -> None:
    with build("shows_anybody", "api") as stack:
        [job_id] = stack.submit("noop")
        user_id, key = stack.stranger()
        answer = Http(stack.port, key).get(f"/api/v1/jobs/{job_id}/status/")
        stack.ledger.accessed(user_id, str(job_id), stack.owner_id(), answer.status)
        assert "I13" in stack.broken()


def test_i14_a_history_that_was_rewritten(build: Make) -> None:
    with build() as stack:
        [job_id] = stack.submit("noop")
        stack.wait_for("COMPLETED", [job_id])
        switch = "ALTER TABLE jobs_auditentry {} TRIGGER jobs_audit_append_only"
        stack.sql(switch.format("DISABLE"))
        assert "I14" in stack.broken()
        stack.sql("UPDATE jobs_auditentry SET actor_id = 'nobody' WHERE event = 'claim'")
        stack.sql(switch.format("ENABLE"))
        assert "I3" in stack.broken()


def test_i15_doorbells_that_are_thrown_away(build: Make) -> None:
    with build("throws_doorbells_away") as stack:
        stack.submit("noop")
        until(lambda: judge.dead_letters(stack).violations, 30, stack.tails)


def test_i16_a_key_that_is_not_unique(build: Make) -> None:
    with build("forgets_keys", "api") as stack:
        stack.sql("DROP INDEX jobs_job_idempotency")
        for _ in range(2):
            key = {"Idempotency-Key": "one key"}
            answer = stack.http.ask("POST", "/api/v1/jobs/", {"handler": "noop"}, key)
            job_id = answer.json()["id"]
            stack.ledger.accepted(job_id, stack.owner_id(), "one key", answer.status)
        assert "I16" in stack.broken()
