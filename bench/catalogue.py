"""Every measurement by name: what it runs, in which environment, and how it is told of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["ours", "peer", "limit"]


@dataclass(frozen=True)
class Cell:
    """One measurement, run once per repetition in a process of its own."""

    name: str
    kind: Kind
    target: str
    """``module:Peer`` to take through the scenario, or ``module:function`` that measures."""
    title: str
    share: float = 1.0
    """Of the planned jobs; less for those who would take minutes."""
    quick: bool = False
    """Part of ``--quick``."""
    repeats: int | None = None
    """At most so often, for what takes long or does not scatter."""

    @property
    def in_peers_environment(self) -> bool:
        return self.target.startswith("bench.peers.")


def _queue(name: str, target: str, title: str, share: float = 1.0, *, quick: bool = False) -> Cell:
    return Cell(name, "peer", f"bench.peers.{target}", title, share, quick)


#: In the order in which each repetition goes through them; peers and ours alternate.
CELLS: tuple[Cell, ...] = (
    Cell("interlock", "ours", "bench.ours.platform_peer:Interlock", "Interlock", quick=True),
    _queue("celery", "celery_peers:Celery", "Celery, prefork", quick=True),
    _queue("celery-quorum", "celery_peers:CeleryQuorum", "Celery, quorum queue with confirms"),
    _queue("celery-redis", "celery_peers:CeleryRedis", "Celery + Redis results", 0.75),
    _queue(
        "celery-django", "celery_peers:CeleryDjango", "Celery + django-celery-results, kept", 0.4
    ),
    Cell(
        "interlock-single",
        "ours",
        "bench.ours.platform_peer:InterlockSingle",
        "Interlock, one job per message",
    ),
    _queue("naive", "celery_peers:Naive", "The same design, naively", 0.2),
    _queue("naive-kept", "celery_peers:NaiveKept", "The same design, naively, kept", 0.4),
    _queue("django-tasks-db", "tasks_db_peer:DjangoTasksDb", "django-tasks-db", 0.3),
    _queue("procrastinate", "procrastinate_peer:Procrastinate", "Procrastinate", 0.5),
    _queue("dramatiq", "dramatiq_peer:Dramatiq", "Dramatiq with confirms", quick=True),
    _queue("huey", "huey_peer:Huey", "Huey on Redis"),
    _queue("rq", "rq_peer:Rq", "RQ, SimpleWorker", 0.5),
    _queue("pgqueuer", "pgqueuer_peer:PgQueuer", "pgqueuer", quick=True),
    _queue("chancy", "chancy_peer:ChancyPeer", "Chancy", 0.5),
    Cell("verbs", "ours", "bench.ours.verbs:measure", "CPU of each verb"),
    Cell("http", "ours", "bench.ours.submits:measure", "HTTP submit"),
    Cell("status", "ours", "bench.ours.status:measure", "Status endpoint"),
    Cell("views", "limit", "bench.limits.views:measure", "Empty and usual views, same server"),
    Cell("waiting", "ours", "bench.ours.waiting:measure", "Clients that wait", repeats=1),
    Cell("memory", "ours", "bench.ours.memory:measure", "Memory of a worker", repeats=1),
    Cell("growth", "ours", "bench.ours.growth:measure", "Drain beside finished rows", repeats=1),
    Cell("sql", "limit", "bench.limits.sql:measure", "The SQL of a job's life alone (pgbench)"),
    Cell("hops", "limit", "bench.limits.hops:Hops", "The hops of a durable job alone"),
    Cell("amqp", "limit", "bench.limits.broker:measure", "Raw AMQP on a quorum queue"),
    Cell("redis", "limit", "bench.limits.cache:measure", "Raw Redis"),
)
BY_NAME = {cell.name: cell for cell in CELLS}


def chosen(only: list[str] | None, *, quick: bool) -> list[Cell]:
    """The cells of a run. Raises KeyError with the names that nobody has."""
    if only:
        unknown = [name for name in only if name not in BY_NAME]
        if unknown:
            raise KeyError(", ".join(unknown))
        return [cell for cell in CELLS if cell.name in only]
    return [cell for cell in CELLS if cell.quick or not quick]
