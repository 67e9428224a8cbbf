"""The job's state machine as data: the one place where a state or an edge is written down.

The django-fsm methods on the model, the database triggers, the diagram in the docs and the checks
in ``tests/contract`` are all compared with this table, so none of them can drift from it alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class JobState(StrEnum):
    """Where a job is. Waiting for a time is PENDING with a later ``due_at`` (ADR 0002)."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class JobEvent(StrEnum):
    """Why a job's version grew. Every audit entry carries exactly one of these."""

    SUBMIT = "submit"
    CLAIM = "claim"
    SUCCEED = "succeed"
    RETRY = "retry"
    FAIL = "fail"
    RELEASE = "release"
    RESCUE = "rescue"
    REQUEST_CANCEL = "request_cancel"
    CANCEL = "cancel"
    REOPEN = "reopen"
    HAND_EDIT = "hand_edit"


class ActorKind(StrEnum):
    """Who made a transition happen."""

    USER = "user"
    ADMIN = "admin"
    WORKER = "worker"
    RESCUER = "rescuer"
    SYSTEM = "system"
    DATABASE = "database"


@dataclass(frozen=True, slots=True)
class Edge:
    """One legal step. ``sources`` is empty for the birth of a job."""

    event: JobEvent
    sources: tuple[JobState, ...]
    target: JobState
    actors: tuple[ActorKind, ...]
    meaning: str


_PEOPLE = (ActorKind.USER, ActorKind.ADMIN, ActorKind.SYSTEM)

EDGES: tuple[Edge, ...] = (
    Edge(JobEvent.SUBMIT, (), JobState.PENDING, _PEOPLE, "accepted; a worker is wanted"),
    Edge(
        JobEvent.CLAIM,
        (JobState.PENDING,),
        JobState.RUNNING,
        (ActorKind.WORKER,),
        "a worker holds it under a fresh token and a lease",
    ),
    Edge(
        JobEvent.SUCCEED,
        (JobState.RUNNING,),
        JobState.COMPLETED,
        (ActorKind.WORKER,),
        "the holder delivered a result",
    ),
    Edge(
        JobEvent.RETRY,
        (JobState.RUNNING,),
        JobState.PENDING,
        (ActorKind.WORKER,),
        "the attempt failed and is charged; another one is due later",
    ),
    Edge(
        JobEvent.FAIL,
        (JobState.RUNNING,),
        JobState.FAILED,
        (ActorKind.WORKER, ActorKind.RESCUER),
        "no attempt is left, or the failure is permanent",
    ),
    Edge(
        JobEvent.RELEASE,
        (JobState.RUNNING,),
        JobState.PENDING,
        (ActorKind.WORKER,),
        "the worker is stopping and hands the job back, nothing is charged",
    ),
    Edge(
        JobEvent.RESCUE,
        (JobState.RUNNING,),
        JobState.PENDING,
        (ActorKind.RESCUER,),
        "the lease lapsed; a lost attempt is counted",
    ),
    Edge(
        JobEvent.REQUEST_CANCEL,
        (JobState.RUNNING,),
        JobState.RUNNING,
        _PEOPLE,
        "the holder is asked to stop; it confirms with cancel",
    ),
    Edge(
        JobEvent.CANCEL,
        (JobState.PENDING,),
        JobState.CANCELLED,
        _PEOPLE,
        "nobody wants it any more, and nobody has started it",
    ),
    Edge(
        JobEvent.CANCEL,
        (JobState.RUNNING,),
        JobState.CANCELLED,
        (ActorKind.WORKER, ActorKind.RESCUER),
        "the holder stopped as asked, or died with the request unanswered",
    ),
    Edge(
        JobEvent.REOPEN,
        (JobState.FAILED, JobState.CANCELLED),
        JobState.PENDING,
        _PEOPLE,
        "somebody asked for a new run with a fresh budget",
    ),
)

ACTIVE: frozenset[JobState] = frozenset({JobState.PENDING, JobState.RUNNING})
FINAL: frozenset[JobState] = frozenset(JobState) - ACTIVE
#: No edge leaves these states, so a copy of them can never become stale.
IMMUTABLE: frozenset[JobState] = FINAL - {source for edge in EDGES for source in edge.sources}


def sources_of(event: JobEvent) -> tuple[JobState, ...]:
    """The states from which ``event`` may happen, in the order of the table."""
    return tuple(source for edge in EDGES if edge.event is event for source in edge.sources)


def target_of(event: JobEvent) -> JobState:
    """The state to which ``event`` leads. Raises KeyError for ``hand_edit``, which has none."""
    return _TARGETS[event]


def is_legal(source: JobState | None, target: JobState, event: JobEvent, actor: ActorKind) -> bool:
    """Whether ``actor`` may lead a job from ``source`` (None: not born) to ``target``.

    A change made by hand in SQL may take any edge between two different states that some event
    takes: it is legal and audited, but signed by the database role that made it.
    """
    if event is JobEvent.HAND_EDIT:
        return actor is ActorKind.DATABASE and any(
            source in edge.sources and edge.target is target and source is not target
            for edge in EDGES
        )
    if actor is ActorKind.DATABASE:
        return event is JobEvent.SUBMIT and source is None and target is JobState.PENDING
    return any(
        edge.event is event
        and edge.target is target
        and actor in edge.actors
        and (source in edge.sources if source else not edge.sources)
        for edge in EDGES
    )


_TARGETS: dict[JobEvent, JobState] = {edge.event: edge.target for edge in EDGES}
