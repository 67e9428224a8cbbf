"""The admin: hostile texts wherever one is shown, hostile searches, and forms from elsewhere."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.core.files.base import ContentFile
from django.db import DatabaseError, connection, transaction
from django.test import Client
from django.utils import timezone

from jobs import files, keys, lifecycle
from jobs.models import AuditEntry, Job, JobArtifact, Scope
from jobs.states import JobEvent
from jobs.values import Attempt, Beat, LogLine
from tests.admin import EVIL, LIST, ClientFor, JobFactory, last_entry, operate, page_of, user_of
from tests.verbs import USER, claim, finish, submit

#: Each would become something else in a page that forgot to escape it at that place.
TEXTS = [
    EVIL,
    "\"><img src=x onerror=alert('x')>",
    "'; alert('x') //",
    "</textarea></pre><script>alert('x')</script>",
    "{{ request }}{% debug %}",
    "javascript:alert('x')",
    "\u202e\u2066gnp.exe",
    "=cmd|' /C calc'!A0",
]


def _full_of(text: str) -> Job:
    """A job with the text wherever somebody else than us may write one."""
    [job] = submit(
        payload={"value": {text: text}}, tenant=text, unique_key=text, idempotency_key=text
    )
    [attempt] = claim([job], worker=text[:200])
    _beat(attempt, text)
    lifecycle.cancel([job.pk], actor=USER, reason=text)
    finish([attempt], JobEvent.FAIL, reason=text, lines=(LogLine(timezone.now(), text[:10], text),))
    name = "".join(letter for letter in text if letter not in "/\\")
    file = files.storage().save("artifacts/evil", ContentFile(b"x"))
    JobArtifact.objects.create(
        job_id=job.pk, name=name, media_type=text, size_bytes=1, sha256="0" * 64, file=file,
        token=uuid4(),
    )  # fmt: skip
    job.refresh_from_db()
    return job


def _beat(attempt: Attempt, text: str) -> None:
    lifecycle.heartbeat([Beat(attempt.job_id, attempt.token, 0.5, text)])


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_no_text_becomes_anything_else(root: Client, db: None, text: str) -> None:
    job = _full_of(text)
    user_of(root).__class__.objects.filter(pk=user_of(root).pk).update(first_name=text)
    keys.issue(user_of(root).pk, text[:100], [Scope.READ])
    pages = [
        page_of(job), LIST, f"{LIST}overview/", "/admin/", "/admin/jobs/apikey/",
        "/admin/jobs/outboxentry/",
    ]  # fmt: skip
    for path in pages:
        answer = root.get(path)
        assert answer.status_code == 200
        content = answer.content.decode()
        for raw in ("<script>alert", "<img src=x", "<debug", 'href="javascript:'):
            assert raw not in content, path
        # Newer releases of unfold frame pages of their own.
        assert answer["X-Frame-Options"] in {"DENY", "SAMEORIGIN"}
    asked = root.post(LIST, {"action": "retry_selected", "_selected_action": str(job.pk)})
    assert "<script>alert" not in asked.content.decode()
    told = operate(root, "retry", job, reason=text)
    assert "<script>alert" not in told.content.decode()


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_documents_and_files_are_inert(root: Client, db: None, text: str) -> None:
    job = _full_of(text)
    [artifact] = JobArtifact.objects.filter(job_id=job.pk)
    for what in ("raw/payload/", "raw/log/", f"artifacts/{artifact.name}"):
        answer = root.get(f"{LIST}{job.pk}/{what.replace('%', '%25')}")
        if answer.status_code == 404:
            # A name that is no single part of an address cannot be reached at all.
            assert what.startswith("artifacts/")
            continue
        assert answer["Content-Type"].partition(";")[0] in (
            "text/plain",
            "application/octet-stream",
        )
        assert answer["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in answer["Content-Security-Policy"]
        assert "\n" not in answer.get("Content-Disposition", "")


SEARCHES = [
    "%" * 5000, "_" * 5000, "' OR 1=1 --", "(a+)+$", "\\", "%s", "\x00", "a" * 20_000, "\ud800",
    "0" * 36, "00000000-0000-0000-0000-00000000000g", "*", "\u0661" * 32, "ffffffff",
]  # fmt: skip


@pytest.mark.parametrize("text", SEARCHES, ids=range(len(SEARCHES)))
@pytest.mark.parametrize("model", ["job", "outboxentry", "apikey", "worker", "upload"])
def test_what_is_searched_for_is_data(
    root: Client, job_factory: JobFactory, model: str, text: str
) -> None:
    job_factory()
    found = root.get(f"/admin/jobs/{model}/", {"q": text.encode("utf-8", "surrogatepass")})
    assert found.status_code in (200, 302, 400)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://testserver.evil.example"]
)
def test_a_form_from_elsewhere_is_refused(
    job_factory: JobFactory, client_for: ClientFor, origin: str
) -> None:
    """Also with a valid token in it, as a page that could read one would send it."""
    [job] = job_factory()
    client = client_for("all", csrf=True)
    client.get(page_of(job))
    token = client.cookies["csrftoken"].value
    data = {"ids": str(job.pk), "confirmed": "1", "reason": "x", "csrfmiddlewaretoken": token}
    answer = client.post(f"{LIST}operate/cancel/", data, headers={"Origin": origin})
    assert answer.status_code == 403
    assert last_entry(job).version == 1
    assert client.post(f"{LIST}operate/cancel/", data).status_code == 302
    assert last_entry(job).version == 2


@pytest.mark.parametrize("method", ["get", "head", "put", "patch", "delete", "options"])
@pytest.mark.parametrize("path", ["operate/cancel/", "operate/retry/"])
def test_only_a_post_transitions(
    job_factory: JobFactory, root: Client, method: str, path: str
) -> None:
    [job] = job_factory()
    query = f"?ids={job.pk}&confirmed=1&reason=x"
    assert getattr(root, method)(f"{LIST}{path}{query}").status_code == 405
    assert last_entry(job).version == 1


def test_what_a_forged_form_adds_is_not_looked_at(job_factory: JobFactory, root: Client) -> None:
    [job] = job_factory()
    data = {
        "ids": str(job.pk), "confirmed": "1", "reason": "x", "actor_kind": "worker",
        "actor_id": "999", "state": "COMPLETED", "version": "7", "owner": "1",
    }  # fmt: skip
    root.post(f"{LIST}operate/cancel/", data)
    entry = last_entry(job)
    assert (entry.actor_kind, entry.actor_id) == ("admin", str(user_of(root).pk))
    assert (entry.version, entry.to_state) == (2, "CANCELLED")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE jobs_auditentry SET reason = 'nothing happened'",
        "DELETE FROM jobs_auditentry",
        "TRUNCATE jobs_auditentry",
        "DELETE FROM jobs_job",
    ],
)
def test_the_database_is_the_last_line(job_factory: JobFactory, statement: str) -> None:
    [job] = job_factory()
    with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert AuditEntry.objects.filter(job_id=job.pk).count() == 1


def test_the_admins_own_log_of_deletions_is_not_offered(root: Client, db: None) -> None:
    for path in ("auditentry", "joblogline", "jobartifact"):
        assert root.get(f"/admin/jobs/{path}/").status_code == 404


def test_an_actor_is_who_is_logged_in(job_factory: JobFactory, client_for: ClientFor) -> None:
    one, other = client_for("view_job", "operate_job"), client_for("view_job", "operate_job")
    for client in (one, other):
        [job] = job_factory()
        operate(client, "cancel", job)
        assert last_entry(job).actor_id == str(user_of(client).pk)
        assert last_entry(job).actor_kind == "admin"
