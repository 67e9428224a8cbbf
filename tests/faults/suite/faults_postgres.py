"""PostgreSQL crashes, ends sessions, is away, and waits for a stranger's lock."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing, suppress
from random import Random

import psycopg2

from tests.faults.suite.fault import DidNotStrike, every, fault
from tests.faults.suite.world import World


@fault(
    "PostgreSQL: immediate restart",
    threatens=["I1", "I2", "I3"],
    touches=["postgres"],
    back="database",
    hold=0.5,
)
def crashed(world: World, rng: Random) -> Iterator[None]:
    """As ``pg_ctl restart -m immediate``: every session is dropped, then crash recovery."""
    _crash(world)
    yield
    world.servers.postgres.start()


@fault(
    "PostgreSQL: away",
    threatens=["I1", "I2", "I11"],
    touches=["postgres"],
    back="database",
    hold=15.0,
)
def away(world: World, rng: Random) -> Iterator[None]:
    world.servers.postgres.stop()
    yield
    world.servers.postgres.start()


@fault(
    "PostgreSQL: all sessions ended every second",
    threatens=["I1", "I3", "I5"],
    touches=["postgres"],
    back="database",
    hold=3.0,
)
def terminated(world: World, rng: Random) -> Iterator[None]:
    statement = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with every(1.0, lambda: world.sql(statement)):
        yield


@fault(
    "PostgreSQL: job rows locked by a stranger",
    threatens=["I2", "I6", "I12"],
    touches=["postgres"],
    back="database",
    hold=4.0,
)
def locked_rows(world: World, rng: Random) -> Iterator[None]:
    with closing(psycopg2.connect(world.services.database_url)) as stranger:
        cursor = stranger.cursor()
        cursor.execute(
            "SELECT id FROM jobs_job WHERE state IN ('RUNNING', 'PENDING')"
            " ORDER BY id LIMIT 40 FOR UPDATE"
        )
        if not cursor.rowcount:
            raise DidNotStrike("no job waits or runs")
        yield
        stranger.rollback()


@fault(
    "PostgreSQL: outbox table locked by a stranger",
    threatens=["I1", "I9"],
    touches=["postgres"],
    back="database",
)
def locked_table(world: World, rng: Random) -> Iterator[None]:
    """What a careless migration does: nothing can be submitted or relayed meanwhile."""
    with closing(psycopg2.connect(world.services.database_url)) as stranger:
        stranger.cursor().execute("LOCK TABLE jobs_outboxentry IN ACCESS EXCLUSIVE MODE")
        yield
        stranger.rollback()


@fault(
    "PostgreSQL: answers to COMMIT lost",
    threatens=["I1", "I3", "I5", "I16"],
    touches=["postgres"],
    back="database",
)
def commits(world: World, rng: Random) -> Iterator[None]:
    before = world.proxies.postgres.commits_lost
    world.proxies.postgres.lose_commits(15)
    try:
        yield
    finally:
        world.proxies.postgres.heal()
    if world.proxies.postgres.commits_lost == before:
        raise DidNotStrike("nobody committed")


#: What an operator or a careless script may try on any job, past the verbs.
PAST_THE_VERBS = (
    "UPDATE jobs_job SET state = 'COMPLETED' WHERE id = %(id)s",
    "UPDATE jobs_job SET state = 'PENDING', version = version + 1 WHERE id = %(id)s",
    "UPDATE jobs_job SET version = version + 2, state = 'FAILED' WHERE id = %(id)s",
    "UPDATE jobs_auditentry SET actor_id = 'nobody' WHERE job_id = %(id)s",
    "DELETE FROM jobs_auditentry WHERE job_id = %(id)s",
    "TRUNCATE jobs_auditentry",
)


@fault(
    "PostgreSQL: a stranger writes past the verbs",
    threatens=["I3", "I4", "I14"],
    touches=[],
    back="platform",
    hold=0.5,
)
def past_the_verbs(world: World, rng: Random) -> Iterator[None]:
    """What the guard lets through, if anything, the judge will find."""
    newest = "SELECT id::text FROM jobs_job ORDER BY id DESC LIMIT 30"
    ids = [job_id for (job_id,) in world.sql(newest)]
    for job_id in rng.sample(ids, min(10, len(ids))):
        for statement in PAST_THE_VERBS:
            with suppress(psycopg2.Error):
                world.sql(statement, {"id": job_id})
    yield


def _crash(world: World) -> None:
    pid = world.servers.postgres.pid
    assert pid is not None
    os.kill(pid, signal.SIGQUIT)
    world.servers.postgres.stop()
