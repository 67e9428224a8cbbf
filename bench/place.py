"""Where a measurement runs: its services, its directory, and how much it shall do."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.processes import Tree

#: The name under which a place travels to the process of a measurement.
VARIABLE = "INTERLOCK_BENCH_PLACE"


@dataclass(frozen=True)
class Plan:
    """How much is measured. Numbers of jobs are those of one phase."""

    jobs: int = 2000
    """Jobs that are submitted one by one."""
    bulk: int = 10_000
    """Jobs that are submitted in sets of 1,000, by those who can. Workers are frozen meanwhile, so
    not more than fit into RabbitMQ's patience with a silent client, 20 s."""
    seconds: float = 6.0
    """Length of the latency phase, and a third of that of each load phase."""
    finished: int = 100_000
    """Finished rows in the table, for the growth row."""
    waiters: int = 5000
    """Clients that wait for one status, for the waiting row."""
    memory_jobs: int = 100_000
    """Jobs after which a worker's memory is looked at."""
    patience_seconds: float = 300.0
    """A phase that takes longer has failed."""


@dataclass(frozen=True)
class Place:
    """Made by the program that started the services; read by each measurement's process."""

    directory: str
    database_url: str
    broker_url: str
    cache_url: str
    pids: dict[str, int]
    """Main processes of the services: postgres, rabbitmq, redis."""
    plan: Plan

    def to_environment(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_environment(cls) -> Place:
        content = json.loads(os.environ[VARIABLE])
        return cls(**{**content, "plan": Plan(**content["plan"])})

    @property
    def path(self) -> Path:
        return Path(self.directory)

    def services(self) -> dict[str, Tree]:
        return {name: Tree(pid) for name, pid in self.pids.items()}


class NotOffered(Exception):
    """What a row asks for does not exist yet; the row says so."""
