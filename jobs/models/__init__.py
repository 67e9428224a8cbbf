"""The app's tables."""

from jobs.models.access import ApiKey, Scope, Worker
from jobs.models.job import Job, new_job_id
from jobs.models.records import (
    AuditEntry,
    IdempotencyKey,
    JobArtifact,
    JobLogLine,
    OutboxEntry,
    Upload,
)

__all__ = [
    "ApiKey",
    "AuditEntry",
    "IdempotencyKey",
    "Job",
    "JobArtifact",
    "JobLogLine",
    "OutboxEntry",
    "Scope",
    "Upload",
    "Worker",
    "new_job_id",
]
