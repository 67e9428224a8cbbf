"""What is written beside a job and never changes its state: audit, outbox, keys, log, files."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from jobs.models.fields import UUIDArrayField


class AuditEntry(models.Model):
    """One transition, written by the database's trigger in the transition's own transaction.

    The table refuses UPDATE, DELETE, TRUNCATE and INSERT from anywhere but that trigger. There is
    no foreign key: the history outlives its job, and partitions of either can be dropped alone.
    """

    pk = models.CompositePrimaryKey("job_id", "version")
    job_id = models.UUIDField()
    version = models.IntegerField()
    from_state = models.CharField(max_length=20, null=True)
    to_state = models.CharField(max_length=20)
    event = models.CharField(max_length=20)
    actor_kind = models.CharField(max_length=20)
    actor_id = models.CharField(max_length=200)
    reason = models.TextField()
    attempt = models.IntegerField()
    token = models.UUIDField(null=True)
    #: The end of the lease that an entry out of RUNNING found; None for every other entry.
    lease_until = models.DateTimeField(null=True)
    at = models.DateTimeField()
    txid = models.BigIntegerField()
    #: 32 bytes: SHA-256 over the hash of this job's previous entry and this entry (ADR 0014).
    hash = models.BinaryField()

    class Meta:
        default_permissions = ("view",)
        verbose_name_plural = "audit entries"

    def __str__(self) -> str:
        return f"{self.job_id} v{self.version} {self.event}"


class OutboxEntry(models.Model):
    """One decision that jobs need a worker, written by the trigger that wrote their audit entries.

    ``due_at`` is when the relay may ring; a delayed job is a row whose time has not come. At most
    one row exists per (job, version), so a second ring is the same row armed again and counted.
    Jobs that were accepted together, to be rung for alike, share a row until one of them is told
    apart (ADR 0026); ``jobs_doorbell_v1`` in the database finds the row of a job.
    """

    id = models.BigAutoField(primary_key=True)
    job_id = models.UUIDField()
    job_version = models.IntegerField()
    #: Jobs, at most 99, that the row rings for too; None where there are none.
    others = UUIDArrayField(null=True)
    #: That of the others' first audit entries, by which the row is found.
    txid = models.BigIntegerField(null=True)
    handler = models.CharField(max_length=200)
    queue = models.CharField(max_length=100)
    priority = models.SmallIntegerField()
    due_at = models.DateTimeField()
    created_at = models.DateTimeField(db_default=Now())
    taken_until = models.DateTimeField(null=True)
    published_at = models.DateTimeField(null=True)
    tries = models.IntegerField(default=0)
    rearms = models.IntegerField(default=0)

    class Meta:
        default_permissions = ("view",)
        verbose_name_plural = "outbox"
        constraints = [
            models.UniqueConstraint(name="jobs_outbox_once", fields=["job_id", "job_version"]),
        ]
        indexes = [
            models.Index(
                name="jobs_outbox_waiting",
                fields=["priority", "due_at"],
                condition=Q(published_at__isnull=True),
            ),
            models.Index(
                name="jobs_outbox_shared",
                fields=["txid", "job_id"],
                condition=Q(others__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.job_id} v{self.job_version}"

    @property
    def job_ids(self) -> list[uuid.UUID]:
        """All the jobs that the row rings for."""
        return [self.job_id, *(self.others or ())]


class IdempotencyKey(models.Model):
    """One idempotency key of one owner, and which job answers it.

    Every key is here, also those that jobs have in their rows: a request may be answered by a job
    that stands under the same unique key, and one index has to decide between two requests at once
    (ADR 0017). A trigger deletes the row with the job that answers it.
    """

    #: That of the job that the request made, or would have made.
    id = models.UUIDField(primary_key=True, editable=False)
    #: As in the job's row, whose foreign key holds for both; None is the system.
    owner_id = models.BigIntegerField(null=True)
    key = models.CharField(max_length=200)
    fingerprint = models.CharField(max_length=64, null=True)
    #: The standing job, where the request made none.
    answered_by = models.UUIDField(null=True)

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                name="jobs_idempotency_once", fields=["owner_id", "key"], nulls_distinct=False
            ),
        ]
        indexes = [
            models.Index(
                name="jobs_idempotency_answered",
                fields=["answered_by", "key"],
                condition=Q(answered_by__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return self.key


class JobLogLine(models.Model):
    """One line that a handler wrote with ``context.log``. ``at`` is the worker's clock."""

    id = models.BigAutoField(primary_key=True)
    job_id = models.UUIDField()
    attempt = models.IntegerField()
    at = models.DateTimeField()
    level = models.CharField(max_length=10)
    message = models.TextField()

    class Meta:
        default_permissions = ()
        indexes = [models.Index(name="jobs_logline_job", fields=["job_id", "id"])]

    def __str__(self) -> str:
        return self.message


class JobArtifact(models.Model):
    """A file that the completing attempt produced; written with the completion, or not at all."""

    id = models.BigAutoField(primary_key=True)
    job_id = models.UUIDField()
    name = models.CharField(max_length=200)
    media_type = models.CharField(max_length=100)
    size_bytes = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)
    file = models.CharField(max_length=500)
    token = models.UUIDField()
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(name="jobs_artifact_once", fields=["job_id", "name"]),
        ]

    def __str__(self) -> str:
        return self.name


class Upload(models.Model):
    """A file that an owner gave for jobs to read."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+"
    )
    name = models.CharField(max_length=255)
    size_bytes = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)
    file = models.CharField(max_length=500)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.name
