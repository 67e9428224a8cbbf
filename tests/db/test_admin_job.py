"""The admin: the page of one job, its documents and its files."""

from __future__ import annotations

import json
from uuid import uuid4

from django.core.files.base import ContentFile
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs import files, lifecycle
from jobs.admin import page
from jobs.models import Job, JobArtifact, Upload, Worker
from jobs.states import ActorKind, JobEvent, JobState
from jobs.values import Actor, LogLine
from tests.admin import (
    EVIL,
    LIST,
    JobFactory,
    page_of,
    user_of,
)
from tests.verbs import claim, finish, submit


def test_the_page_tells_the_whole_story(job_factory: JobFactory, root: Client) -> None:
    [job] = submit(payload={"value": {"deep": 1}})
    [attempt] = claim([job])
    line = LogLine(timezone.now(), "warning", "three rows were empty")
    finish([attempt], JobEvent.RETRY, reason="disk full", lines=(line,))
    text = root.get(page_of(job)).content.decode()
    for word in ("disk full", "three rows were empty", "&quot;deep&quot;: 1", str(job.pk)):
        assert word in text
    assert str(attempt.token)[:8] in text
    assert str(attempt.token) not in text
    for word in ("submit", "claim", "retry"):
        assert f"<b>{word}</b>" in text


def test_attempts_are_told_by_the_audit(job_factory: JobFactory) -> None:
    [job] = job_factory(JobState.RUNNING)
    lifecycle.cancel([job.pk], actor=Actor(ActorKind.ADMIN, "1"), reason="stop")
    [run] = page.runs(page.history(job.pk))
    assert (run.attempt, run.ending, run.ended) == (1, "", None)
    [failed] = job_factory(JobState.FAILED)
    lifecycle.reopen([failed.pk], actor=Actor(ActorKind.ADMIN, "1"))
    [job] = Job.objects.filter(pk=failed.pk)
    claim([job])
    runs = page.runs(page.history(job.pk))
    assert [(run.attempt, run.ending) for run in runs] == [(1, "fail"), (2, "")]


def test_hostile_text_is_escaped_everywhere(job_factory: JobFactory, root: Client) -> None:
    [job] = submit(payload={"value": EVIL}, idempotency_key=EVIL)
    [attempt] = claim([job], worker=EVIL)
    lines = (LogLine(timezone.now(), "error", EVIL),)
    finish([attempt], JobEvent.FAIL, reason=EVIL, lines=lines)
    Worker.objects.create(name=EVIL, hostname=EVIL, pid=1, queues=[EVIL])
    Upload.objects.create(name=EVIL, size_bytes=1, sha256="", file="x")
    paths = [
        page_of(job), LIST, f"{LIST}?q={EVIL}", f"{LIST}?handler={EVIL}", f"{LIST}overview/",
        f"{LIST}?submitted_from={EVIL}", "/admin/", "/admin/jobs/worker/", "/admin/jobs/upload/",
    ]  # fmt: skip
    for path in paths:
        content = root.get(path).content.decode()
        assert "<script>alert" not in content, path
    for what in ("payload", "log"):
        raw = root.get(f"{LIST}{job.pk}/raw/{what}/")
        assert raw["Content-Type"] == "text/plain; charset=utf-8"
        assert raw["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in raw["Content-Security-Policy"]


def test_large_documents_are_cut_and_linked(job_factory: JobFactory, root: Client) -> None:
    [job] = submit(payload={"value": ["0123456789"] * 5000})
    text = root.get(page_of(job)).content.decode()
    assert "Cut here." in text
    assert len(text) < 200_000
    whole = json.loads(root.get(f"{LIST}{job.pk}/raw/payload/").content)
    assert whole == {"value": ["0123456789"] * 5000}


def artifact(job: Job, name: str, media_type: str, content: bytes) -> str:
    file = files.storage().save(f"artifacts/{name}", ContentFile(content))
    JobArtifact.objects.create(
        job_id=job.pk, name=name, media_type=media_type, size_bytes=len(content), sha256="0" * 64,
        file=file, token=uuid4(),
    )  # fmt: skip
    return f"{LIST}{job.pk}/artifacts/{name}"


def test_pictures_are_shown_and_pages_are_only_downloaded(
    job_factory: JobFactory, root: Client
) -> None:
    [job] = job_factory(JobState.COMPLETED)
    svg = artifact(job, "chart.svg", "image/svg+xml", b"<svg onload='alert(1)'/>")
    html = artifact(job, "page.html", "text/html", b"<script>alert(1)</script>")
    text = root.get(page_of(job)).content.decode()
    assert f'<img src="{svg}"' in text
    assert f'<img src="{html}"' not in text
    shown, loaded = root.get(svg), root.get(html)
    assert shown["Content-Type"] == "image/svg+xml"
    assert shown["Content-Disposition"].startswith("inline")
    assert loaded["Content-Type"] == "application/octet-stream"
    assert loaded["Content-Disposition"].startswith("attachment")
    for answer in (shown, loaded):
        assert answer["X-Content-Type-Options"] == "nosniff"
        assert answer["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    assert root.get(f"{LIST}{job.pk}/artifacts/other.svg").status_code == 404


def test_a_lost_file_is_not_found(job_factory: JobFactory, root: Client) -> None:
    [job] = job_factory(JobState.COMPLETED)
    address = artifact(job, "chart.svg", "image/svg+xml", b"<svg/>")
    files.storage().delete(JobArtifact.objects.get(job_id=job.pk).file)
    assert root.get(address).status_code == 404


def test_the_page_costs_the_same_whatever_the_job_has(
    job_factory: JobFactory, root: Client
) -> None:
    [small], [large] = job_factory(), job_factory(JobState.FAILED)
    for _ in range(5):
        lifecycle.reopen([large.pk], actor=Actor(ActorKind.ADMIN, str(user_of(root).pk)))
        [again] = Job.objects.filter(pk=large.pk)
        finish(claim([again]), JobEvent.FAIL, reason="again")
    counts = []
    for job in (small, large):
        with CaptureQueriesContext(connection) as queries:
            assert root.get(page_of(job)).status_code == 200
        counts.append(len(queries))
    assert max(counts) <= min(counts) + 2
    assert max(counts) < 20
