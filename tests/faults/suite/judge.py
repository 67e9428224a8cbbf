"""The verdict on a world after its faults: is it at rest, and does every invariant hold?

    missing = quiesce(world, 120)
    verdict = judge(world, ledger_directory)

Run only when the load has stopped and every fault is healed. The tables and the ledger are judged
by ``manage.py verify`` in a process of its own; what only the harness can know is judged here: the
effects of the jobs (I8), the ends that the handlers' own data foresee, the dead letters (I15), and
the answers that the load itself found wrong.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any, Protocol

import amqp
import psycopg2

from interlock.local.errors import LocalError
from jobs import doorbells
from jobs.verification import DeadLetter, unexplained
from tests.faults.suite import ledger as ledgers
from tests.faults.suite.doorbells import STRANGER
from tests.faults.suite.figures import figures
from tests.services import ROOT, Services
from tests.testapp.ends import ENDS, LEAVES_EFFECT, LOST

#: A beginning and an end, in seconds since the epoch.
Span = tuple[float, float]

LOOK_SECONDS = 0.25
#: Jobs that are due later than this are scheduled, not waiting.
SCHEDULED_SECONDS = 5.0
EXAMPLES = 5
VERIFY_SECONDS = 600.0


class Judged(Protocol):
    """What the judge needs of a world."""

    @property
    def queue(self) -> str: ...

    @property
    def dead_letter_queue(self) -> str: ...

    @property
    def services(self) -> Services:
        """The servers, past any proxy."""

    @property
    def log_directory(self) -> Path:
        """Where every process of the platform writes a log of its own."""

    def sql(self, statement: str, parameters: Mapping[str, Any] | None = None) -> list[Any]:
        """Run one statement and return its rows."""

    def environment(self) -> dict[str, str]:
        """The environment of a process of this platform."""

    def channel(self) -> AbstractContextManager[amqp.Channel]:
        """A channel to the broker, past any proxy."""

    def ctl(self, *arguments: str) -> str:
        """What ``rabbitmqctl`` prints."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One invariant and how often it was broken."""

    id: str
    title: str
    violations: int
    examples: list[str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Every finding, also those without a violation, and the figures of the run."""

    findings: list[Finding]
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def broken(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.violations]

    def __str__(self) -> str:
        return "\n".join(
            f"{one.id} {one.title}: {one.violations} {one.examples}" for one in self.broken
        )


# ------------------------------------------------------------------------------------------- rest


def quiesce(world: Judged, seconds: float) -> list[str]:
    """Wait until nothing is under way; returns what still is after ``seconds``, in words.

    At rest every job has ended or is scheduled for later, every due doorbell has been published,
    and the queue holds nothing, neither ready nor unacknowledged.
    """
    deadline = time.monotonic() + seconds
    while (missing := _missing(world)) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    return missing


def _missing(world: Judged) -> list[str]:
    try:
        found = [*_unfinished(world), *_unpublished(world), *_ready(world)]
        # Last, because the tool takes seconds to start.
        return found or _unacknowledged(world)
    except (OSError, psycopg2.Error, amqp.AMQPError, LocalError, subprocess.SubprocessError) as e:
        return [f"a server does not tell: {type(e).__name__}: {e}"]


def _unfinished(world: Judged) -> list[str]:
    rows = world.sql(
        "SELECT state, handler, count(*), min(id::text) FROM jobs_job"
        " WHERE state = 'RUNNING' OR state = 'PENDING'"
        " AND due_at < clock_timestamp() + make_interval(secs => %(later)s) GROUP BY 1, 2",
        {"later": SCHEDULED_SECONDS},
    )
    return [f"{count} {handler} {state}, such as {job}" for state, handler, count, job in rows]


def _unpublished(world: Judged) -> list[str]:
    [(count, oldest)] = world.sql(
        "SELECT count(*), min(created_at)::text FROM jobs_outboxentry"
        " WHERE published_at IS NULL"
        " AND due_at < clock_timestamp() + make_interval(secs => %(later)s)",
        {"later": SCHEDULED_SECONDS},
    )
    return [f"{count} doorbells not rung, the oldest of {oldest}"] if count else []


def _ready(world: Judged) -> list[str]:
    with world.channel() as channel:
        declared = channel.queue_declare(world.queue, passive=True)
    count = declared[1] if declared is not None else 0
    return [f"{count} doorbells in the queue"] if count else []


def _unacknowledged(world: Judged) -> list[str]:
    listed = world.ctl("list_queues", "name", "messages_ready", "messages_unacknowledged")
    for line in listed.splitlines():
        name, *counts = line.split("\t")
        if name == world.queue and any(int(count) for count in counts):
            return [f"the queue holds {counts[0]} ready and {counts[1]} unacknowledged"]
    return []


# ---------------------------------------------------------------------------------------- verdict


def judge(
    world: Judged,
    ledger: Path,
    *,
    bound_seconds: float | None = None,
    hindered: Sequence[Span] = (),
) -> Verdict:
    """Everything that can be judged at rest. Empties the dead-letter queue.

    ``bound_seconds`` is what recovery may take beyond the lease (I12); None: the checker's own.
    ``hindered``: when nobody could rescue.
    """
    findings = [
        *verified(world, ledger, bound_seconds),
        effects(world),
        ends(world, hindered),
        dead_letters(world),
        unhandled(ledger),
        *surprises(ledger),
    ]
    return Verdict(findings, figures(world, ledger))


def verified(world: Judged, ledger: Path, bound_seconds: float | None = None) -> list[Finding]:
    """What ``manage.py verify`` finds in the tables and the ledger."""
    command = ["python", "-m", "interlock", "verify", "--json", "--at-rest", "--ledger"]
    command.append(str(ledger))
    if bound_seconds is not None:
        command += ["--bound", str(bound_seconds)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=world.environment(),
        capture_output=True,
        text=True,
        timeout=VERIFY_SECONDS,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert done.stdout.strip(), done.stderr
    return [
        Finding(one["id"], one["title"], one["violations"], [str(e) for e in one["examples"]])
        for one in json.loads(done.stdout)["findings"]
    ]


def effects(world: Judged) -> Finding:
    """I8: one effect, of the completing attempt, for each job that leaves one and is COMPLETED."""
    rows = world.sql(
        """
        SELECT coalesce(j.id, e.job_id)::text, j.handler, j.state, e.token::text, a.token::text
        FROM jobs_job AS j
        FULL JOIN testapp_effect AS e ON e.job_id = j.id
        LEFT JOIN jobs_auditentry AS a ON a.job_id = j.id AND a.to_state = 'COMPLETED'
        WHERE (e.job_id IS NOT NULL)
            <> (coalesce(j.state, '') = 'COMPLETED' AND j.handler = ANY(%(leaves)s))
            OR e.token IS DISTINCT FROM a.token AND e.job_id IS NOT NULL
        """,
        {"leaves": list(LEAVES_EFFECT)},
    )
    examples = [
        f"job {job} {handler} {state}: effect of {token}, completed by {holder}"
        for job, handler, state, token, holder in rows
    ]
    return _finding("I8", "effects follow completion", examples)


def ends(world: Judged, hindered: Sequence[Span] = ()) -> Finding:
    """Every chaos job ended as its handler's data say, or CANCELLED by somebody's request.

    A holder that stood still past its lease may complete its job all the same if nobody could take
    it back meanwhile (``hindered``): it renews the lease as soon as it moves again.
    """
    rows = world.sql(
        """
        SELECT j.id::text, j.handler, j.state, j.reason, EXISTS (
            SELECT 1 FROM jobs_auditentry AS a WHERE a.job_id = j.id
                AND a.event IN ('cancel', 'request_cancel')
                AND a.actor_kind IN ('user', 'admin', 'system')
        ), EXISTS (
            SELECT 1 FROM jobs_auditentry AS a WHERE a.job_id = j.id
                AND a.event = 'succeed' AND a.at > a.lease_until
        ), extract(epoch FROM coalesce(j.started_at, j.submitted_at))::float8,
            extract(epoch FROM coalesce(j.finished_at, clock_timestamp()))::float8
        FROM jobs_job AS j WHERE j.handler = ANY(%(handlers)s)
        """,
        {"handlers": list(ENDS)},
    )
    examples = [
        f"job {job} {handler}: {state} ({reason[:120]})"
        for job, handler, state, reason, asked, late, began, ended in rows
        if not _foreseen(
            handler,
            state,
            reason,
            asked=asked,
            late=late or any(began < until and since < ended for since, until in hindered),
        )
    ]
    return _finding("ENDS", "every handler ends as foreseen", examples)


def _foreseen(handler: str, state: str, reason: str, *, asked: bool, late: bool) -> bool:
    end = ENDS[handler]
    if state == "COMPLETED" and end.or_late and late:
        return True
    if state == "CANCELLED":
        return asked
    if state == "FAILED" and re.search(LOST, reason):
        return True
    return state == end.state and re.search(end.reason, reason) is not None


def unhandled(ledger: Path) -> Finding:
    """A service that is away is 503; 500 means an error that nobody thought of."""
    examples = [
        f"{line['what']}: {line['status']} {line['error']} at {line['at']:.3f}"
        for line in ledgers.lines(ledger, "answers")
        if line["status"] == 500
    ]
    return _finding("API", "no unhandled error", examples)


def surprises(ledger: Path) -> list[Finding]:
    """What the load met and could judge by itself, by invariant."""
    met: dict[str, list[str]] = defaultdict(list)
    for line in ledgers.lines(ledger, "surprises"):
        met[line["invariant"]].append(f"{line['text']} at {line['at']:.3f}")
    return [
        _finding(invariant, "as the load met it", examples)
        for invariant, examples in sorted(met.items())
    ]


# ----------------------------------------------------------------------------------- dead letters


def dead_letters(world: Judged) -> Finding:
    """I15: every dead-lettered doorbell names a job that needs it no more. Empties that queue.

    What the suite itself put into a queue explains itself.
    """
    letters, strange = _dead(world)
    found = unexplained(letters, open_connection=lambda: _opened(world))
    examples = [f"job {one.job_id} version {one.version} died at {one.died_at}" for one in found]
    return _finding("I15", "no dead letter is unexplained", [*examples, *strange])


def _opened(world: Judged) -> Any:
    connection = psycopg2.connect(world.services.database_url)
    connection.autocommit = True
    return connection


def _dead(world: Judged) -> tuple[list[DeadLetter], list[str]]:
    """The doorbells in the dead-letter queue, and what else was in it."""
    letters: list[DeadLetter] = []
    strange: list[str] = []
    with world.channel() as channel:
        while (message := channel.basic_get(world.dead_letter_queue, no_ack=True)) is not None:
            if message.properties.get("app_id") != STRANGER:
                try:
                    letters += _letters(message)
                except (ValueError, LookupError, TypeError) as error:
                    strange.append(f"not a doorbell: {message.body[:200]!r} ({error})")
    return letters, strange


def _letters(message: amqp.Message) -> list[DeadLetter]:
    deaths = (message.headers or {}).get("x-death") or [{}]
    died = deaths[0].get("time")
    # The broker counts whole seconds: a ring in that very second may be the one that died.
    died_at = time.time() if died is None else died.replace(tzinfo=UTC).timestamp() + 1
    bells = doorbells.decode(json.loads(message.body)[0][0])
    return [DeadLetter(bell.job_id, bell.version, died_at) for bell in bells]


def _finding(invariant: str, title: str, examples: list[str]) -> Finding:
    return Finding(invariant, title, len(examples), examples[:EXAMPLES])
