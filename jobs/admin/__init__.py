"""The admin of the job engine: read-mostly; what changes a job goes through ``lifecycle``."""

from jobs.admin.access import ApiKeyAdmin, WorkerAdmin
from jobs.admin.job import JobAdmin
from jobs.admin.records import OutboxEntryAdmin, UploadAdmin

__all__ = ["ApiKeyAdmin", "JobAdmin", "OutboxEntryAdmin", "UploadAdmin", "WorkerAdmin"]
