"""Carries out a plan under load, measures each return to work, and watches the tables meanwhile."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from random import Random

import psycopg2

from interlock.local import processes
from tests.faults.suite.fault import Back, DidNotStrike, Part
from tests.faults.suite.plan import Step
from tests.faults.suite.watch import Watch
from tests.faults.suite.world import World
from tests.http_client import Http
from tests.marks import until
from tests.services import ROOT

LOOK_SECONDS = 0.05
#: After a bound has passed, how long the return is still waited for and measured.
PATIENCE_SECONDS = 30.0

#: Seconds until the first progress once the fault is over.
BOUNDS: dict[Back, float] = {
    "worker": 5.0,
    "database": 5.0,
    "broker": 5.0,
    "redis": 2.0,
    "platform": 5.0,
}
#: A dead worker's job is taken from it at the latest so long after the lease's end.
DEAD_WORKER_SECONDS = 5.0

#: The first completion, and the first claim or completion of an older job. A job that was claimed
#: since counts from then: some take seconds to run, and there may be one for every child. One that
#: was lost with its worker has a bound of its own, which begins with a lease.
_PROGRESS = """
    SELECT extract(epoch FROM min(
            CASE WHEN started_at > to_timestamp(%(since)s) THEN started_at ELSE finished_at END
        ) FILTER (
            WHERE state = 'COMPLETED' AND finished_at > to_timestamp(%(since)s)))::float,
        extract(epoch FROM min(
            CASE WHEN started_at > to_timestamp(%(since)s) THEN started_at ELSE finished_at END
        ) FILTER (
            WHERE submitted_at < to_timestamp(%(since)s) AND NOT EXISTS (
                SELECT FROM jobs_auditentry AS a WHERE a.job_id = jobs_job.id
                    AND a.event = 'rescue' AND a.at > to_timestamp(%(since)s))))::float
    FROM jobs_job
    WHERE state = 'COMPLETED' AND finished_at > to_timestamp(%(since)s)
        OR started_at > to_timestamp(%(since)s)
"""
_STILL_WAITING = """
    SELECT EXISTS (SELECT FROM jobs_job WHERE submitted_at < to_timestamp(%(since)s)
        AND (state = 'RUNNING' OR state = 'PENDING' AND due_at < clock_timestamp()))
"""
_NEWEST = """
    SELECT id::text, version FROM jobs_job WHERE owner_id = %(owner)s
    ORDER BY changed_at DESC LIMIT 5
"""


class PlatformDead(Exception):
    """Nothing is completed any more; the run goes on to its verdict."""


@dataclass(slots=True)
class Record:
    """What one step did, and how the platform came back. Times are seconds since the epoch."""

    name: str
    threatens: list[str]
    back: Back
    injected_at: float
    healed_at: float = 0.0
    #: Seconds from the healing to the first completion, and to the first of an older job.
    first: float | None = None
    first_of_older: float | None = None
    fresh: float | None = None
    problem: str = ""
    struck: bool = True

    @property
    def seconds(self) -> float | None:
        """What the bound is about: fresh statuses for Redis, else the slower of the completions."""
        if self.back == "redis":
            return self.fresh
        found = [value for value in (self.first, self.first_of_older) if value is not None]
        return max(found, default=None)

    @property
    def late(self) -> bool:
        return self.struck and (self.seconds is None or self.seconds > BOUNDS[self.back])


SERVERS: frozenset[Part] = frozenset({"postgres", "rabbitmq", "redis"})


@dataclass
class Runner:
    """Runs steps against a world. ``say`` gets one line per step."""

    world: World
    watch: Watch
    say: Callable[[str], None]
    began_at: float = field(default_factory=time.time)
    records: list[Record] = field(default_factory=list)

    def run(self, plan: Iterable[Step], until_time: float = float("inf")) -> None:
        """Carry out the plan's steps while there are any and it is not yet ``until_time``."""
        for step in plan:
            if time.time() >= until_time:
                return
            if self._is_dead():
                raise PlatformDead(f"no job was completed after {self.records[-1].name}")
            self._perform(step)
            time.sleep(step.pause)

    def _is_dead(self) -> bool:
        """Twice in a row nothing came back: more faults would show nothing new."""
        last = self.records[-2:]
        return len(last) == 2 and all(record.first is None for record in last)

    def _perform(self, step: Step) -> None:
        backs = sorted((fault.back for fault in step.faults), key=lambda back: -BOUNDS[back])
        threatens = sorted({name for fault in step.faults for name in fault.threatens})
        record = Record(step.name, threatens, backs[0], time.time())
        self.records.append(record)
        self.watch.now(step.name)
        try:
            self._strike(step)
        except DidNotStrike as error:
            record.struck, record.problem = False, f"did not strike: {error}"
        except Exception as error:
            record.struck, record.problem = False, f"{type(error).__name__}: {error}"[:500]
        if not record.struck:
            self.world.heal_everything()
        record.healed_at = time.time()
        self.watch.now(f"after {step.name}")
        self._measure(record)
        self.say(self._line(record))

    def _strike(self, step: Step) -> None:
        """Processes first, and healed last: to hurt one, and to see it back at work, takes servers
        that answer."""
        held: list[Iterator[None]] = []
        try:
            for fault in sorted(step.faults, key=lambda fault: bool(fault.touches & SERVERS)):
                one = fault.inject(self.world, Random(f"{step.seed}/{fault.name}"))
                held.append(one)
                next(one)
            time.sleep(step.hold)
        finally:
            # All are healed, whatever one of them says.
            errors = [error for one in reversed(held) if (error := _healed(one)) is not None]
        if errors:
            raise errors[0]

    def _measure(self, record: Record) -> None:
        deadline = record.healed_at + BOUNDS[record.back] + PATIENCE_SECONDS
        while time.time() < deadline:
            with suppress(psycopg2.OperationalError):
                if record.back == "redis" and record.fresh is None and self._is_fresh():
                    record.fresh = time.time() - record.healed_at
                if self._has_progressed(record) and (record.back != "redis" or record.fresh):
                    return
            time.sleep(LOOK_SECONDS)

    def _has_progressed(self, record: Record) -> bool:
        since = record.healed_at
        [(first, first_of_older)] = self.world.sql(_PROGRESS, {"since": since})
        record.first = None if first is None else first - since
        record.first_of_older = None if first_of_older is None else first_of_older - since
        if record.first is None or record.first_of_older is not None:
            return record.first is not None
        [(waiting,)] = self.world.sql(_STILL_WAITING, {"since": since})
        return not waiting

    def _is_fresh(self) -> bool:
        """Whether every API process answers with what the table says, or newer."""
        owner = self.world.owners[0]
        newest = self.world.sql(_NEWEST, {"owner": owner["owner_id"]})
        with suppress(OSError, KeyError, ValueError):
            return all(
                _version(Http(port, owner["key"], 2.0), job_id) >= version
                for port in self.world.api_ports
                for job_id, version in newest
            )
        return False

    def _line(self, record: Record) -> str:
        offset = record.injected_at - self.began_at
        held = record.healed_at - record.injected_at
        back = "-" if record.seconds is None else f"{record.seconds:.2f} s"
        mark = record.problem or ("LATE" if record.late else "ok")
        return f"{offset:7.1f} s  {record.name}  held {held:.1f} s, back after {back}  {mark}"


def _healed(one: Iterator[None]) -> Exception | None:
    try:
        next(one, None)
    except Exception as error:
        return error
    return None


def _version(http: Http, job_id: str) -> int:
    return int(http.get(f"/api/v1/jobs/{job_id}/status/").json()["version"])


@contextmanager
def load(world: World, seed: int, *, rate: float) -> Iterator[None]:
    """The load as a process of its own, while the block lasts; ends it in order.

    Raises AssertionError if it ended by itself.
    """
    log = world.log_directory / "load.log"
    command = [sys.executable, "-m", "tests.faults.suite.load", "--seed", str(seed)]
    command += ["--directory", str(world.ledger_directory), "--keys", str(world.keys_file)]
    command += ["--ports", ",".join(map(str, world.api_ports)), "--rate", str(rate)]
    process = processes.spawn(command, cwd=ROOT, env=world.environment(), log=log)
    try:
        first = "SELECT 1 FROM jobs_job WHERE state = 'COMPLETED' LIMIT 1"
        until(lambda: world.sql(first), 60, lambda: "no job is completed without any fault")
        yield
        assert process.poll() is None, f"the load has ended\n{processes.log_tail(log)}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(90)
