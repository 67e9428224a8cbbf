"""The audit's hash chain, computed once more in Python from what the table says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from jobs.models import AuditEntry, Job

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - EPOCH) // timedelta(microseconds=1)


def line(one: AuditEntry) -> str:
    """One entry as the text that is hashed."""
    fields = [
        str(one.job_id), one.version, one.from_state, one.to_state, one.event,
        one.actor_kind, one.actor_id, one.reason, one.attempt,
        None if one.token is None else str(one.token),
        micros(one.lease_until), micros(one.at), one.txid,
    ]  # fmt: skip
    return json.dumps(fields, ensure_ascii=False)


def chain(entries: Sequence[AuditEntry]) -> Iterator[bytes]:
    """The hashes that these entries, in order of version, should have."""
    link = b""
    for one in entries:
        link = hashlib.sha256(link + line(one).encode()).digest()
        yield link


def whole(job_id: UUID, using: str = "default") -> bool:
    """Whether a job's entries are chained, from the first to the head in its row."""
    entries = list(AuditEntry.objects.using(using).filter(job_id=job_id).order_by("version"))
    links = list(chain(entries))
    job = Job.objects.using(using).get(id=job_id)
    return (
        links == [bytes(one.hash) for one in entries]
        and (bytes(job.audit_hash), job.changed_at) == (links[-1], entries[-1].at)
        and [one.version for one in entries] == [*range(1, job.version + 1)]
    )
