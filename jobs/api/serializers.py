"""What answers look like: named fields only, so that a new column never leaks by itself."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from jobs import conf
from jobs.models import AuditEntry, Job, JobArtifact, JobLogLine, Upload
from jobs.registry import Handler
from jobs.states import ActorKind, JobEvent, JobState
from jobs.values import Accepted, Changed


class Moment(serializers.DateTimeField):
    """A time written like the status endpoint writes it."""

    def to_representation(self, value: datetime) -> str:
        return value.isoformat()


def listed(kind: type[serializers.Serializer[Any]], entries: Iterable[Any]) -> Any:
    """All entries, rendered."""
    return kind(list(entries), many=True).data


def job_address(job_id: object) -> str:
    """Where a job lives. Links are paths: only the client knows by which name it reached us."""
    return f"{conf.get().api_prefix}jobs/{job_id}/"


def artifact_address(artifact: JobArtifact) -> str:
    return f"{job_address(artifact.job_id)}artifacts/{artifact.name}/"


class ProgressSerializer(serializers.Serializer[Job]):
    """How far the present attempt is."""

    fraction = serializers.FloatField(min_value=0, max_value=1)
    message = serializers.CharField(allow_blank=True)


class JobLinksSerializer(serializers.Serializer[Any]):
    """Where to go from a job."""

    self = serializers.CharField()
    status = serializers.CharField()
    transitions = serializers.CharField()
    log = serializers.CharField()
    artifacts = serializers.CharField()
    result = serializers.CharField(required=False, help_text="Present once there is a result.")


class StatusLinksSerializer(serializers.Serializer[Any]):
    """Where to go from a status."""

    self = serializers.CharField()
    result = serializers.CharField(required=False, help_text="Present once there is a result.")


class AcceptedLinksSerializer(serializers.Serializer[Any]):
    """Where to go from a submission."""

    self = serializers.CharField()
    status = serializers.CharField()


class SelfLinkSerializer(serializers.Serializer[Any]):
    """Where this is."""

    self = serializers.CharField()


class StatusSerializer(serializers.Serializer[Any]):
    """A job's status; rendered by ``jobs.status``, described here."""

    id = serializers.UUIDField()
    handler = serializers.CharField()
    queue = serializers.CharField()
    state = serializers.ChoiceField(choices=list(JobState))
    version = serializers.IntegerField(help_text="Grows by 1 with every transition.")
    attempt = serializers.IntegerField()
    failed_attempts = serializers.IntegerField()
    lost_attempts = serializers.IntegerField()
    max_attempts = serializers.IntegerField()
    progress = ProgressSerializer()
    reason = serializers.CharField(allow_blank=True)
    cancel_requested = serializers.BooleanField()
    submitted_at = Moment()
    due_at = Moment()
    started_at = Moment(allow_null=True)
    finished_at = Moment(allow_null=True)
    has_result = serializers.BooleanField()
    result = serializers.JSONField(
        help_text="The result if it is small; else null, and `links.result`."
    )
    links = StatusLinksSerializer()


class StatusesSerializer(serializers.Serializer[Any]):
    """Many statuses."""

    statuses = StatusSerializer(many=True)
    missing = serializers.ListField(
        child=serializers.UUIDField(), help_text="Ids of no job of yours."
    )


class JobSummarySerializer(serializers.Serializer[Job]):
    """A job in a list."""

    id = serializers.UUIDField()
    handler = serializers.CharField()
    queue = serializers.CharField()
    priority = serializers.IntegerField()
    tenant = serializers.CharField()
    unique_key = serializers.CharField(allow_null=True)
    idempotency_key = serializers.CharField(allow_null=True)
    state = serializers.ChoiceField(choices=list(JobState))
    version = serializers.IntegerField()
    attempt = serializers.IntegerField()
    failed_attempts = serializers.IntegerField()
    lost_attempts = serializers.IntegerField()
    max_attempts = serializers.IntegerField()
    progress = serializers.SerializerMethodField()
    reason = serializers.CharField()
    cancel_requested = serializers.SerializerMethodField()
    submitted_at = Moment()
    due_at = Moment()
    started_at = Moment(allow_null=True)
    finished_at = Moment(allow_null=True)
    has_result = serializers.BooleanField()
    links = serializers.SerializerMethodField()

    @extend_schema_field(ProgressSerializer)
    def get_progress(self, job: Job) -> dict[str, Any]:
        return {"fraction": job.progress, "message": job.progress_message}

    def get_cancel_requested(self, job: Job) -> bool:
        return job.cancel_requested_at is not None

    @extend_schema_field(JobLinksSerializer)
    def get_links(self, job: Job) -> dict[str, str]:
        base = job_address(job.id)
        links = {"self": base}
        links |= {name: f"{base}{name}/" for name in ("status", "transitions", "log", "artifacts")}
        if getattr(job, "has_result", False):
            links["result"] = f"{base}result/"
        return links


class ArtifactSerializer(serializers.Serializer[JobArtifact]):
    """A file that came out of a job."""

    name = serializers.CharField()
    media_type = serializers.CharField()
    size_bytes = serializers.IntegerField()
    sha256 = serializers.CharField()
    created_at = Moment()
    links = serializers.SerializerMethodField()

    @extend_schema_field(SelfLinkSerializer)
    def get_links(self, artifact: JobArtifact) -> dict[str, str]:
        return {"self": artifact_address(artifact)}


class JobSerializer(JobSummarySerializer):
    """A job with everything."""

    payload = serializers.JSONField()
    result = serializers.JSONField(help_text="Null until there is one.")
    artifacts = ArtifactSerializer(many=True)


class ActorSerializer(serializers.Serializer[AuditEntry]):
    """Who did it."""

    kind = serializers.ChoiceField(choices=list(ActorKind))
    id = serializers.CharField(allow_blank=True)


class TransitionSerializer(serializers.Serializer[AuditEntry]):
    """One audit entry."""

    version = serializers.IntegerField()
    from_state = serializers.ChoiceField(choices=list(JobState), allow_null=True)
    to_state = serializers.ChoiceField(choices=list(JobState))
    event = serializers.ChoiceField(choices=list(JobEvent))
    actor = serializers.SerializerMethodField()
    reason = serializers.CharField()
    attempt = serializers.IntegerField()
    at = Moment(help_text="The database's clock.")

    @extend_schema_field(ActorSerializer)
    def get_actor(self, entry: AuditEntry) -> dict[str, str]:
        return {"kind": entry.actor_kind, "id": entry.actor_id}


class LogLineSerializer(serializers.Serializer[JobLogLine]):
    """One line that the handler wrote."""

    id = serializers.IntegerField()
    attempt = serializers.IntegerField()
    at = Moment(help_text="The worker's clock.")
    level = serializers.CharField()
    message = serializers.CharField()


# These describe; the views write what they describe.
class AcceptedSerializer(serializers.Serializer[Accepted]):
    """The answer to one submitted job."""

    id = serializers.UUIDField(source="job_id")
    state = serializers.ChoiceField(choices=list(JobState))
    version = serializers.IntegerField()
    created = serializers.BooleanField(help_text="False: a job that existed before is the answer.")
    links = AcceptedLinksSerializer()


class BulkEntrySerializer(serializers.Serializer[Accepted]):
    """The answer to one job of many."""

    id = serializers.UUIDField(source="job_id")
    state = serializers.ChoiceField(choices=list(JobState))
    version = serializers.IntegerField()
    created = serializers.BooleanField()


class BulkAcceptedSerializer(serializers.Serializer[Any]):
    """The answer to many submitted jobs, in the order of the request."""

    jobs = BulkEntrySerializer(many=True)


class ChangedSerializer(serializers.Serializer[Changed]):
    """What a verb did to one job."""

    id = serializers.UUIDField(source="job_id")
    state = serializers.ChoiceField(choices=list(JobState))
    version = serializers.IntegerField()
    event = serializers.ChoiceField(
        choices=list(JobEvent), allow_null=True, help_text="Null: nothing had to change."
    )


class ManyChangedSerializer(serializers.Serializer[Any]):
    """What a verb did to many jobs, in the order of the request."""

    jobs = ChangedSerializer(many=True)


class UploadSerializer(serializers.Serializer[Upload]):
    """A file to run jobs on."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    size_bytes = serializers.IntegerField()
    sha256 = serializers.CharField()


class JobTypeSerializer(serializers.Serializer[Handler]):
    """A handler, and the JSON Schema (2020-12) that payloads for it have to fit."""

    name = serializers.CharField()
    summary = serializers.CharField()
    queue = serializers.SerializerMethodField()
    priority = serializers.IntegerField()
    max_attempts = serializers.SerializerMethodField()
    timeout_seconds = serializers.SerializerMethodField()
    result_limit_bytes = serializers.SerializerMethodField()
    payload_schema = serializers.SerializerMethodField()

    def get_queue(self, spec: Handler) -> str:
        return spec.queue or conf.get().default_queue

    def get_max_attempts(self, spec: Handler) -> int:
        return spec.max_attempts or conf.get().max_attempts

    def get_timeout_seconds(self, spec: Handler) -> float:
        return spec.timeout_seconds or conf.get().timeout_seconds

    def get_result_limit_bytes(self, spec: Handler) -> int:
        return spec.result_limit_bytes or conf.get().result_limit_bytes

    def get_payload_schema(self, spec: Handler) -> dict[str, Any]:
        return spec.schema()


class FieldErrorSerializer(serializers.Serializer[Any]):
    """One thing that is wrong."""

    path = serializers.CharField(help_text="Dotted, as `payload.source.path`.", allow_blank=True)
    message = serializers.CharField()
    code = serializers.CharField()
    index = serializers.IntegerField(required=False, help_text="Which entry of a list, from 0.")


class ProblemSerializer(serializers.Serializer[Any]):
    """A refusal (RFC 9457). ``code`` is stable."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    code = serializers.CharField()
    detail = serializers.CharField()
    request_id = serializers.CharField()
    errors = FieldErrorSerializer(many=True, required=False)  # type: ignore[assignment]  # a field
