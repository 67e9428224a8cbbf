"""The job row: columns, constraints, indexes, and transitions that change memory only.

Nothing here saves or queries. ``lifecycle`` locks rows, calls these methods, and writes the result
in one statement; the database's triggers then check the edge once more, write the audit entry and,
where a worker is wanted, the outbox row.
"""

from __future__ import annotations

import uuid
from typing import Any, NoReturn

import uuid_utils.compat
from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.db.models.lookups import Exact
from django_fsm import ConcurrentTransitionMixin, FSMField, transition

from jobs.errors import DirectWrite
from jobs.querysets import JobQuerySet
from jobs.states import ActorKind, JobEvent, JobState, sources_of, target_of
from jobs.values import Actor


def new_job_id() -> uuid.UUID:
    """A time-ordered UUIDv7 (RFC 9562), so that a range of ids is a range of time."""
    return uuid_utils.compat.uuid7()


def _choices(kind: type[JobState | ActorKind | JobEvent]) -> list[tuple[str, str]]:
    return [(member.value, member.value.replace("_", " ").capitalize()) for member in kind]


def _holds(condition: Q) -> models.ExpressionWrapper[Q]:
    return models.ExpressionWrapper(condition, output_field=models.BooleanField())


class Job(ConcurrentTransitionMixin, models.Model):
    """One unit of work and its present state; ``AuditEntry`` holds how it came there."""

    id = models.UUIDField(primary_key=True, default=new_job_id, editable=False)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        db_index=False,
    )
    handler = models.CharField(max_length=200)
    queue = models.CharField(max_length=100)
    priority = models.SmallIntegerField(default=0)
    tenant = models.CharField(max_length=200, default="", blank=True)
    unique_key = models.CharField(max_length=200, null=True)
    idempotency_key = models.CharField(max_length=200, null=True)
    fingerprint = models.CharField(max_length=64, null=True)
    payload = models.JSONField(default=dict)

    state = FSMField(default=JobState.PENDING, choices=_choices(JobState), protected=True)
    version = models.IntegerField(default=1)
    attempt = models.IntegerField(default=0)
    failed_attempts = models.IntegerField(default=0)
    lost_attempts = models.IntegerField(default=0)
    max_attempts = models.IntegerField()
    due_at = models.DateTimeField(db_default=Now())
    cancel_requested_at = models.DateTimeField(null=True)

    lease_token = models.UUIDField(null=True)
    lease_until = models.DateTimeField(null=True)
    worker = models.CharField(max_length=200, default="", blank=True)

    progress = models.FloatField(default=0.0)
    progress_message = models.CharField(max_length=500, default="", blank=True)
    progress_seq = models.IntegerField(default=0)
    result = models.JSONField(null=True)

    event = models.CharField(max_length=20, default=JobEvent.SUBMIT, choices=_choices(JobEvent))
    actor_kind = models.CharField(
        max_length=20, default=ActorKind.SYSTEM, choices=_choices(ActorKind)
    )
    actor_id = models.CharField(max_length=200, default="", blank=True)
    reason = models.TextField(default="", blank=True)
    #: Equals ``version`` when the writer signed the transition; otherwise the database signs it.
    signed_version = models.IntegerField(default=0)

    submitted_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    #: The latest audit entry's time and hash, written by the trigger: the head of the job's chain.
    changed_at = models.DateTimeField(editable=False)
    audit_hash = models.BinaryField()

    #: Seconds on the database's clock that a transition asks for; columns only once written.
    lease_seconds: float | None = None
    due_in_seconds: float | None = None

    objects = JobQuerySet.as_manager()

    class Meta:
        default_permissions = ("view",)
        permissions = [("operate_job", "Can cancel and retry any job")]
        constraints = [
            # The guard refuses what breaks the other rules of a row; see guard_v4.sql.
            models.CheckConstraint(
                name="jobs_job_lease",
                condition=Exact(
                    _holds(Q(state=JobState.RUNNING)), _holds(Q(lease_token__isnull=False))
                ),
            ),
            models.UniqueConstraint(
                name="jobs_job_idempotency",
                fields=["owner", "idempotency_key"],
                condition=Q(idempotency_key__isnull=False),
                nulls_distinct=False,
            ),
            models.UniqueConstraint(
                name="jobs_job_unique_key",
                fields=["owner", "handler", "unique_key"],
                condition=Q(unique_key__isnull=False, state__in=["PENDING", "RUNNING"]),
                nulls_distinct=False,
            ),
        ]
        indexes = [
            # Nobody asks by index for the jobs of no owner, the system's.
            models.Index(
                name="jobs_job_owned", fields=["owner", "-id"], condition=Q(owner__isnull=False)
            ),
            models.Index(
                name="jobs_job_owned_pending",
                fields=["owner"],
                condition=Q(owner__isnull=False, state=JobState.PENDING),
            ),
            models.Index(
                name="jobs_job_pending",
                fields=["queue", "due_at", "id"],
                condition=Q(state=JobState.PENDING),
            ),
            models.Index(
                name="jobs_job_running", fields=["id"], condition=Q(state=JobState.RUNNING)
            ),
            models.Index(
                name="jobs_job_failed",
                fields=["finished_at"],
                condition=Q(state=JobState.FAILED),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.handler} {self.id}"

    def save(self, *args: Any, **options: Any) -> NoReturn:
        """Refused: it would write back what was read, over heartbeats and transitions since."""
        raise DirectWrite("Job.save()")

    def delete(self, *args: Any, **options: Any) -> NoReturn:
        """Refused: handlers and signals hold stale rows. A queryset deletes final jobs."""
        raise DirectWrite("Job.delete()")

    @transition(
        field=state, source=list(sources_of(JobEvent.CLAIM)), target=target_of(JobEvent.CLAIM)
    )
    def claim(self, actor: Actor, token: uuid.UUID, lease_seconds: float) -> None:
        self._sign(JobEvent.CLAIM, actor)
        self.attempt += 1
        self.lease_token = token
        self.lease_seconds = lease_seconds
        self.worker = actor.id

    @transition(
        field=state, source=list(sources_of(JobEvent.SUCCEED)), target=target_of(JobEvent.SUCCEED)
    )
    def succeed(self, actor: Actor) -> None:
        self._sign(JobEvent.SUCCEED, actor)
        self._let_go()

    @transition(
        field=state, source=list(sources_of(JobEvent.RETRY)), target=target_of(JobEvent.RETRY)
    )
    def retry(self, actor: Actor, reason: str, delay_seconds: float) -> None:
        self._sign(JobEvent.RETRY, actor, reason)
        self._let_go()
        self.failed_attempts += 1
        self.due_in_seconds = delay_seconds

    @transition(
        field=state, source=list(sources_of(JobEvent.FAIL)), target=target_of(JobEvent.FAIL)
    )
    def fail(self, actor: Actor, reason: str, *, lost: bool = False) -> None:
        self._sign(JobEvent.FAIL, actor, reason)
        self._let_go()
        if lost:
            self.lost_attempts += 1
        else:
            self.failed_attempts += 1

    @transition(
        field=state, source=list(sources_of(JobEvent.RELEASE)), target=target_of(JobEvent.RELEASE)
    )
    def release(self, actor: Actor, reason: str) -> None:
        self._sign(JobEvent.RELEASE, actor, reason)
        self._let_go()
        self.due_in_seconds = 0.0

    @transition(
        field=state, source=list(sources_of(JobEvent.RESCUE)), target=target_of(JobEvent.RESCUE)
    )
    def rescue(self, actor: Actor, reason: str) -> None:
        self._sign(JobEvent.RESCUE, actor, reason)
        self._let_go()
        self.lost_attempts += 1
        self.due_in_seconds = 0.0

    @transition(
        field=state,
        source=list(sources_of(JobEvent.REQUEST_CANCEL)),
        target=target_of(JobEvent.REQUEST_CANCEL),
    )
    def request_cancel(self, actor: Actor, reason: str) -> None:
        self._sign(JobEvent.REQUEST_CANCEL, actor, reason)

    @transition(
        field=state, source=list(sources_of(JobEvent.CANCEL)), target=target_of(JobEvent.CANCEL)
    )
    def cancel(self, actor: Actor, reason: str) -> None:
        self._sign(JobEvent.CANCEL, actor, reason)
        self._let_go()

    @transition(
        field=state, source=list(sources_of(JobEvent.REOPEN)), target=target_of(JobEvent.REOPEN)
    )
    def reopen(self, actor: Actor, reason: str) -> None:
        self._sign(JobEvent.REOPEN, actor, reason)
        self.failed_attempts = 0
        self.lost_attempts = 0
        self.due_in_seconds = 0.0

    def _sign(self, event: JobEvent, actor: Actor, reason: str = "") -> None:
        self.version += 1
        self.signed_version = self.version
        self.event = event
        self.actor_kind = actor.kind
        self.actor_id = actor.id
        self.reason = reason

    def _let_go(self) -> None:
        self.lease_token = None

    def as_write(self) -> dict[str, Any]:
        """This row's transition as one record for ``sql/write_transitions.sql``."""
        return {
            "id": str(self.id),
            "state": self.state,
            "version": self.version,
            "attempt": self.attempt,
            "failed_attempts": self.failed_attempts,
            "lost_attempts": self.lost_attempts,
            "lease_token": str(self.lease_token) if self.lease_token else None,
            "lease_seconds": self.lease_seconds,
            "due_in_seconds": self.due_in_seconds,
            "worker": self.worker,
            "event": self.event,
            "actor_kind": self.actor_kind,
            "actor_id": self.actor_id,
            "reason": self.reason,
        }
