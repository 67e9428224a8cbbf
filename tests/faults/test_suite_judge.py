"""The judge of the fault suite: no finding where nothing went wrong, the right one where it did.

One small platform, one short load without faults; every other test doctors a copy of its ledger or
a row of the harness's own table, and looks for the one finding that this must make.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import amqp
import pytest

from interlock.local.ports import free_port
from interlock.local.servers import RabbitServer
from jobs import doorbells
from jobs.values import Doorbell
from tests.faults.conftest import Servers
from tests.faults.suite import judge, ledger
from tests.marks import until
from tests.services import ROOT
from tests.stack import Stack
from tests.testapp.ends import LOST, POISON, End

pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]

SECONDS = 6


class _World(Stack):
    """A stack that the judge can ask."""

    broker: RabbitServer

    @property
    def log_directory(self) -> Path:
        return self.directory / "logs"

    def channel(self) -> AbstractContextManager[amqp.Channel]:
        return self.services.channel()

    def ctl(self, *arguments: str) -> str:
        return self.broker.ctl(*arguments)

    def owner(self, name: str) -> dict[str, Any]:
        """A new user with a key."""
        account = ("--username", name, "--password", secrets.token_hex(8))
        done = subprocess.run(
            ["python", "-m", "interlock", "jobs_bootstrap", *account],
            cwd=ROOT,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        key = json.loads(done.stdout.splitlines()[-1])["api_key"]
        [(owner_id,)] = self.sql("SELECT id FROM auth_user WHERE username = %(n)s", {"n": name})
        return {"owner_id": owner_id, "key": key}


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: the world at rest, and what was written down of it."""

    world: _World
    ledger: Path
    #: Of the load alone, before any test has added jobs of its own.
    verdict: judge.Verdict


@pytest.fixture(scope="module")
def run(
    own_servers: Servers, migrated: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Run]:
    assert isinstance(own_servers.rabbitmq, RabbitServer)
    directory = tmp_path_factory.mktemp("judge")
    with _World(own_servers.services, migrated, directory, max_lost_attempts=2) as world:
        world.broker = own_servers.rabbitmq
        world.start()
        ports = [world.port, free_port()]
        second = world.spawn("api", port=ports[1])
        owners = [{"owner_id": world.owner_id(), "key": world.key}, world.owner("eve")]
        keys = directory / "keys.json"
        keys.write_text(json.dumps(owners))
        until(lambda: world.ready(second), 60, world.tails)
        _load(ports, keys, directory / "ledger", world)
        missing = judge.quiesce(world, 60)
        assert not missing, missing
        ledger = directory / "ledger"
        yield Run(world, ledger, judge.judge(world, ledger))


def _load(ports: list[int], keys: Path, directory: Path, world: _World) -> None:
    arguments = {
        "--directory": str(directory),
        "--ports": ",".join(map(str, ports)),
        "--keys": str(keys),
        "--seed": "7",
        "--rate": "12",
    }
    command = [sys.executable, "-m", "tests.faults.suite.load"]
    command += [word for pair in arguments.items() for word in pair]
    env = {**world.environment(), "PATH": os.environ["PATH"]}
    process = subprocess.Popen(command, cwd=ROOT, env=env)
    try:
        time.sleep(SECONDS)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture(scope="module")
def verdict(run: Run) -> judge.Verdict:
    return run.verdict


@pytest.fixture
def doctored(run: Run, tmp_path: Path) -> Path:
    """A copy of the ledger, to be falsified."""
    return shutil.copytree(run.ledger, tmp_path / "ledger")


def _broken(findings: list[judge.Finding]) -> dict[str, judge.Finding]:
    return {one.id: one for one in findings if one.violations}


# ------------------------------------------------------------------------------------ a clean run


def test_clean_run_has_no_finding(verdict: judge.Verdict) -> None:
    assert not verdict.broken, str(verdict)
    assert {"I1", "I2", "I3", "I8", "I10", "I13", "I15", "I16"} <= {f.id for f in verdict.findings}


def test_the_run_was_worth_judging(run: Run, verdict: judge.Verdict) -> None:
    """Something of everything happened, and the figures say so."""
    figures = verdict.figures
    assert figures["accepted"] > 20
    assert figures["accepted"] <= figures["jobs"]
    assert figures["completed"] + figures["failed"] + figures["cancelled"] == figures["jobs"]
    assert figures["statuses_seen"] > 100
    assert figures["accept_seconds"]["count"] > 10
    assert figures["errors_5xx"] == {}
    [(effects,)] = run.world.sql("SELECT count(*) FROM testapp_effect")
    assert effects > 5
    kinds = {line["what"] for line in ledger.lines(run.ledger, "answers")}
    assert kinds >= {"submit", "status", "status with tag", "statuses", "wait", "intrusion"}
    strangers = [
        line
        for line in ledger.lines(run.ledger, "accessed")
        if line["principal_id"] != line["owner_id"]
    ]
    assert {line["status"] for line in strangers} == {404}


# ------------------------------------------------------------------------------ doctored ledgers


def _forget_a_job(book: ledger.Ledger, lines: list[dict[str, Any]]) -> None:
    book.accepted(str(uuid.uuid4()), lines[0]["owner_id"], "a key", 201)


def _go_back(book: ledger.Ledger, lines: list[dict[str, Any]]) -> None:
    newest = max(lines, key=lambda line: line["version"])
    later = newest["ended"] + 1
    book.seen(newest["reader"], newest["job_id"], (1, 0), "PENDING", later, later + 0.01)


def _let_in(book: ledger.Ledger, lines: list[dict[str, Any]]) -> None:
    of = lines[0]
    book.accessed(of["owner_id"] + 1000, of["job_id"], of["owner_id"], 200)


def _answer_two(book: ledger.Ledger, lines: list[dict[str, Any]]) -> None:
    keyed = [line for line in lines if line["idempotency_key"]]
    one = keyed[0]
    other = next(line for line in keyed if line["owner_id"] == one["owner_id"] and line != one)
    book.accepted(other["job_id"], one["owner_id"], one["idempotency_key"], 200)


@pytest.mark.parametrize(
    ("kind", "falsify", "invariant"),
    [
        ("accepted", _forget_a_job, "I1"),
        ("seen", _go_back, "I10"),
        ("accessed", _let_in, "I13"),
        ("accepted", _answer_two, "I16"),
    ],
)
def test_doctored_ledger(
    run: Run,
    doctored: Path,
    kind: ledger.Kind,
    falsify: Callable[[ledger.Ledger, list[dict[str, Any]]], None],
    invariant: str,
) -> None:
    with ledger.Ledger(doctored) as book:
        falsify(book, list(ledger.lines(doctored, kind)))
    assert invariant in _broken(judge.verified(run.world, doctored))


def test_surprise_of_the_load(doctored: Path) -> None:
    assert judge.surprises(doctored) == []
    with ledger.Ledger(doctored) as book:
        book.surprise("I16", "a key took another request")
        book.answered("submit", 500, 0.1, "internal_error")
    assert _broken(judge.surprises(doctored)).keys() == {"I16"}
    assert judge.unhandled(doctored).violations == 1


# ---------------------------------------------------------------------------------- effects, ends

_AN_EFFECT = "SELECT job_id::text, token::text FROM testapp_effect LIMIT 1"


def test_effect_of_another_attempt(run: Run) -> None:
    assert judge.effects(run.world).violations == 0
    [(job_id, token)] = run.world.sql(
        "SELECT job_id::text, token::text FROM testapp_effect LIMIT 1"
    )
    put = "UPDATE testapp_effect SET token = %(token)s WHERE job_id = %(id)s"
    run.world.sql(put, {"id": job_id, "token": str(uuid.uuid4())})
    try:
        found = judge.effects(run.world)
    finally:
        run.world.sql(put, {"id": job_id, "token": token})
    assert found.violations == 1
    assert job_id in found.examples[0]


@pytest.mark.parametrize(
    ("break_it", "mend"),
    [
        pytest.param(
            "DELETE FROM testapp_effect WHERE id = %(id)s",
            "INSERT INTO testapp_effect (id, job_id, token, attempt, created_at)"
            " VALUES (%(id)s, %(job)s, %(token)s, 1, now())",
            id="missing",
        ),
        pytest.param(
            "INSERT INTO testapp_effect (job_id, token, attempt, created_at)"
            " VALUES (%(stranger)s, %(token)s, 1, now())",
            "DELETE FROM testapp_effect WHERE job_id = %(stranger)s",
            id="of no job",
        ),
    ],
)
def test_effect_too_few_or_too_many(run: Run, break_it: str, mend: str) -> None:
    [(number, job, token)] = run.world.sql(
        "SELECT id, job_id::text, token::text FROM testapp_effect LIMIT 1"
    )
    given = {"id": number, "job": job, "token": token, "stranger": str(uuid.uuid4())}
    run.world.sql(break_it, given)
    try:
        assert judge.effects(run.world).violations == 1
    finally:
        run.world.sql(mend, given)


def test_end_that_nobody_foresaw(run: Run) -> None:
    """``chaos.flaky`` may fail twice at most; told to fail three times it becomes FAILED."""
    assert judge.ends(run.world).violations == 0
    [job_id] = run.world.submit("chaos.flaky", {"failures": 3})
    run.world.wait_for("FAILED", [job_id])
    found = judge.ends(run.world)
    assert found.violations == 1, found
    assert "failure 3" in found.examples[0]


def test_end_that_is_foreseen_where_nobody_could_rescue(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "ENDS", {"chaos.quick": End("FAILED", LOST, or_late=True)})
    now = time.time()
    without = judge.ends(run.world, [(now, now + 1)])
    assert without.violations > 0
    assert judge.ends(run.world).violations == without.violations
    assert judge.ends(run.world, [(0.0, now)]).violations == 0


def test_poison_ends_as_foreseen(run: Run) -> None:
    """Each kind once, all at the same time, with two children to share."""
    world = run.world
    ids = {world.submit(handler)[0]: handler for handler in POISON}
    missing = judge.quiesce(world, 120)
    assert not missing, missing
    assert set(world.states(ids)) == set(ids)
    found = judge.ends(world)
    assert not [example for example in found.examples if "poison." in example]


# --------------------------------------------------------------------------- the broker, and rest


def test_dead_letters(run: Run) -> None:
    world = run.world
    [(ended,)] = world.sql("SELECT id::text FROM jobs_job WHERE state = 'COMPLETED' LIMIT 1")
    stranger = str(uuid.uuid4())
    for job_id in (ended, stranger):
        _put_dead(world, doorbells.encode([Doorbell(uuid.UUID(job_id), 1)]))
    _put_dead(world, "no doorbell")
    found = judge.dead_letters(world)
    assert found.violations == 2
    assert not any(ended in example for example in found.examples)
    assert any(stranger in example for example in found.examples)
    assert judge.dead_letters(world).violations == 0, "the first look empties the queue"


def _put_dead(world: _World, bell: Any) -> None:
    with world.channel() as channel:
        body = json.dumps([[bell], {}, {}])
        message = amqp.Message(body, content_type="application/json", delivery_mode=2)
        channel.basic_publish_confirm(message, routing_key=world.dead_letter_queue)


def test_what_keeps_a_world_from_rest(run: Run) -> None:
    world = run.world
    worker = world.the("worker")
    worker.send(signal.SIGSTOP)
    try:
        ids = world.submit("chaos.quick", count=3)
        missing = judge.quiesce(world, 1)
    finally:
        worker.send(signal.SIGCONT)
    assert any("3 chaos.quick PENDING" in text for text in missing)
    world.wait_for("COMPLETED", ids)
    assert judge.quiesce(world, 60) == []
