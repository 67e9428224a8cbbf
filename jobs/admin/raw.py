"""Whole documents, logs and artifacts, sent so that a browser cannot be made to run them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.utils.http import content_disposition_header

from jobs import files
from jobs.admin.base import INERT_HEADERS
from jobs.admin.page import PICTURES
from jobs.display import full
from jobs.models import Job, JobArtifact, JobLogLine


def artifact(job_id: UUID, name: str) -> HttpResponse:
    """A picture in place; anything else, HTML above all, only as a download."""
    row = JobArtifact.objects.filter(job_id=job_id, name=name).first()
    if row is None or not files.storage().exists(row.file):
        raise Http404("There is no such artifact.")
    picture = row.media_type in PICTURES
    answer = StreamingHttpResponse(
        files.chunks(row.file),
        content_type=row.media_type if picture else "application/octet-stream",
        headers=INERT_HEADERS,
    )
    answer["Content-Length"] = str(row.size_bytes)
    answer["Content-Disposition"] = content_disposition_header(not picture, row.name) or "inline"
    return answer  # type: ignore[return-value] # a streamed answer is one to Django all the same


def text(job_id: UUID, what: str) -> HttpResponse:
    """``payload`` or ``result`` as JSON text, ``log`` as lines."""
    if not Job.objects.filter(pk=job_id).exists():
        raise Http404("There is no such job.")
    if what == "log":
        content: Any = StreamingHttpResponse(
            _lines(job_id), content_type="text/plain; charset=utf-8", headers=INERT_HEADERS
        )
        return content  # type: ignore[no-any-return] # as above
    if what not in ("payload", "result"):
        raise Http404("There is no such document.")
    value = Job.objects.values_list(what, flat=True).get(pk=job_id)
    return HttpResponse(
        json.dumps(value, indent=2, ensure_ascii=False),
        content_type="text/plain; charset=utf-8",
        headers=INERT_HEADERS,
    )


def _lines(job_id: UUID) -> Iterator[str]:
    rows = JobLogLine.objects.filter(job_id=job_id).order_by("id")
    for row in rows.iterator(chunk_size=500):
        yield f"{full(row.at)} [{row.attempt}] {row.level}: {row.message}\n"
