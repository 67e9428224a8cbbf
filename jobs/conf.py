"""One frozen, typed settings object for the app, read from Django's ``settings.JOBS``.

Every unit is in the name. An unknown key or an impossible value is refused as a whole at boot, as a
Django system check (``jobs.E001``), because a misspelt safety setting is worse than none.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any

from django.conf import settings
from django.core.signals import setting_changed
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from jobs.errors import ConfigurationError

Seconds = Annotated[float, Field(gt=0, le=86_400 * 366)]
Count = Annotated[int, Field(ge=1)]


class JobsSettings(BaseModel):
    """The app's settings. Defaults suit a small production deployment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queues: tuple[str, ...] = Field(("default",), min_length=1)
    """Names of the queues that jobs may use; the first is the default."""
    dead_letter_queue: str = "jobs.dead"
    """Where the broker puts doorbells that it gave up on. Their jobs are rung again anyway."""
    delivery_limit: Count = 20
    """Deliveries of one doorbell before the broker dead-letters it."""

    lease_seconds: Annotated[float, Field(gt=0, le=86_400)] = 30.0
    """How long a claim holds without a heartbeat. A dead worker's job waits at most this long."""
    heartbeat_seconds: Seconds = 1.0
    """Time between two heartbeats of a holder; also how soon it hears of a cancel."""
    doubt_seconds: Seconds = 5.0
    """Rest of a lease once RabbitMQ has redelivered the doorbell of a running job."""
    claim_patience_seconds: Annotated[float, Field(gt=0, lt=1800)] = 900.0
    """How long a worker waits for a database that is away. RabbitMQ allows 30 min by default."""
    max_lost_attempts: Count = 5
    """Attempts that may end with a dead or stalled worker before the job becomes FAILED."""
    max_attempts: Count = 3
    """Failed attempts before a job becomes FAILED, for handlers that name no number."""
    timeout_seconds: Seconds = 3600.0
    """Longest run of one attempt, for handlers that name none."""
    stop_grace_seconds: Seconds = 5.0
    """Time between two steps of stopping a handler: ask, raise inside it, end its process."""
    drain_grace_seconds: Seconds = 20.0
    """How long a stopping worker lets handlers finish before it hands their jobs back."""

    message_limit: Annotated[int, Field(ge=1, le=1000)] = 500
    """Most jobs of one message."""
    group_limit: Annotated[int, Field(ge=1, le=1000)] = 100
    """Most jobs of several messages that are claimed together. As many outcomes are recorded
    together, or ``message_limit`` if that is more."""
    group_seconds: Seconds = 0.25
    """Work of one message, and of several that are answered together, at most, as measured."""
    group_flush_seconds: Annotated[float, Field(gt=0, le=60)] = 0.05
    """How long an outcome may wait for others to be recorded with."""
    group_turn_seconds: Seconds = 0.5
    """Time after which jobs of a message that have not had their turn are handed back."""

    relay_batch_size: Annotated[int, Field(ge=1, le=10_000)] = 2000
    """Jobs that the relay rings for at once; those that share an outbox row come together."""
    relay_round_seconds: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Least time between two rounds of a busy relay; 2.5 times that after one of 8 jobs or more,
    none after half a batch. A process wakes the relay once for what is submitted to it within half
    of this."""
    relay_poll_seconds: Seconds = 0.25
    """Longest wait of the relay between two looks when no wake-up arrives."""
    relay_take_seconds: Seconds = 15.0
    """How long a relay may sit on rows it took before another relay may take them."""
    publish_timeout_seconds: Seconds = 3.0
    """Longest silence of the broker that is borne: at connect, at publish, between confirms."""
    rearm_seconds: Seconds = 20.0
    """Age of a published but unclaimed doorbell at which the reconciler may ring again; doubles."""
    rearm_cap_seconds: Seconds = 900.0
    """Upper bound of that doubling."""
    rearm_batch_size: Annotated[int, Field(ge=1, le=10_000)] = 1000
    """Waiting jobs of each queue that one reconciler tick looks at."""
    rearm_outstanding: Count = 1000
    """Doorbells rung again and not answered, at once, for each queue and handler."""
    rearm_probes: Count = 10
    """The same while nothing proves that doorbells were lost: the queue may only be long."""
    maintenance_poll_seconds: Seconds = 1.0
    """Time between two ticks of the scheduler process."""
    outbox_retention_seconds: Seconds = 86_400.0
    """How long a published outbox row is kept after its job has moved on."""
    orphan_seconds: Seconds = 86_400.0
    """Age at which a file is removed that an attempt wrote without completing its job."""
    worker_stale_seconds: Seconds = 30.0
    """Silence after which a worker is shown as gone, and ``jobs_health`` fails."""
    deaf_seconds: Seconds = 30.0
    """How long jobs wait beside a free, silent worker before it rebuilds its consumer, or exits."""
    health_directory: Path | None = None
    """Where processes leave the beats that ``jobs_health`` reads. Empty: the temporary folder."""

    cache_url: str = ""
    """Redis for status copies and wake-ups, ``redis://host:port/db``. Empty: no cache."""
    cache_prefix: str = Field("jobs", min_length=1, max_length=40)
    """First part of every key and channel of this app in Redis."""
    cache_timeout_seconds: Seconds = 0.2
    """Bound on one Redis call. A slower Redis counts as absent."""
    cache_retry_seconds: Seconds = 1.0
    """After a Redis error, time before this process asks Redis again."""
    status_ttl_seconds: Seconds = 10.0
    """Life of a status copy that can still change: the longest possible staleness."""
    status_final_ttl_seconds: Seconds = 86_400.0
    """Life of a status copy that cannot change any more."""
    status_fill_seconds: Seconds = 5.0
    """Life of the lease under which one reader refills a missing status copy."""
    api_key_ttl_seconds: Seconds = 5.0
    """Life of a cached API key: the longest time that a revoked key may still work."""

    api_prefix: str = "/api/v1/"
    """Where the project mounts ``jobs.api.urls``; used for links inside cached answers."""
    trusted_proxies: Annotated[int, Field(ge=0, le=10)] = 0
    """Proxies in front of every API process that add to X-Forwarded-For. 0: nobody is believed."""
    auth_failures_limit: Count | None = 30
    """Requests with a wrong key from one address, or for one key, before 429. None: no limit."""
    auth_failures_window_seconds: Seconds = 60.0
    """Time in which these are counted, and the longest time for which they are refused."""
    pending_limit_per_owner: Count | None = 100_000
    """PENDING jobs that one owner may have before the API answers 429. None: no limit."""
    payload_limit_bytes: Count = 256 * 1024
    """Largest payload of one job, as JSON."""
    result_limit_bytes: Count = 1024 * 1024
    """Largest result of one job, as JSON, for handlers that name no limit."""
    inline_result_limit_bytes: Count = 4096
    """Results up to this size travel inside the status answer; larger ones are a link."""
    bulk_limit: Count = 10_000
    """Jobs in one bulk submit."""
    status_bulk_limit: Count = 1000
    """Ids in one bulk status request."""
    upload_limit_bytes: Count = 2 * 1024**3
    """Largest uploaded file."""
    artifact_limit_bytes: Count = 256 * 1024**2
    """Largest artifact of a job."""
    log_lines_limit: Count = 2000
    """Log lines kept of one attempt; the last line says how many were left out."""
    wait_limit_seconds: Seconds = 30.0
    """Longest ``?wait=`` of a status request."""
    wait_slots: Annotated[int, Field(ge=0)] = 8
    """Waiting status requests per API process; more are answered at once."""
    waiting_limit: Annotated[int, Field(ge=0)] = 10_000
    """The same per process for waiting clients, where a wait holds no thread."""
    data_roots: tuple[Path, ...] = ()
    """Directories whose files a payload may name by path. Empty: uploads only."""

    @model_validator(mode="after")
    def _sane(self) -> JobsSettings:
        if self.lease_seconds < 3 * self.heartbeat_seconds:
            raise ValueError("lease_seconds must be at least 3 x heartbeat_seconds")
        if self.doubt_seconds < 3 * self.heartbeat_seconds:
            raise ValueError("doubt_seconds must be at least 3 x heartbeat_seconds")
        if any(not root.is_absolute() for root in self.data_roots):
            raise ValueError("data_roots must be absolute paths")
        if len(set(self.queues)) != len(self.queues):
            raise ValueError("queues must not repeat a name")
        return self

    @property
    def default_queue(self) -> str:
        return self.queues[0]


@cache
def get() -> JobsSettings:
    """The validated settings. Raises ConfigurationError that names every wrong key."""
    return parse(getattr(settings, "JOBS", {}))


def parse(raw: Any) -> JobsSettings:
    """Validate ``raw``; raises ConfigurationError with one line per wrong key."""
    try:
        return JobsSettings.model_validate(raw)
    except ValidationError as error:
        lines = [
            f"JOBS[{'.'.join(str(part) for part in item['loc']) or '*'}]: {item['msg']}"
            for item in error.errors()
        ]
        raise ConfigurationError("; ".join(lines)) from error


def _forget(*, setting: str, **_: object) -> None:
    if setting == "JOBS":
        get.cache_clear()


setting_changed.connect(_forget, dispatch_uid="jobs.conf")
