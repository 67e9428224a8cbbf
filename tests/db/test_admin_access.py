"""The admin: who may do what, and that looking never changes anything."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.test import Client

from jobs.models import Job, OutboxEntry, Worker
from jobs.states import JobState
from tests.admin import (
    LIST,
    SUBMIT,
    ClientFor,
    JobFactory,
    last_entry,
    operate,
    page_of,
    user_of,
)

# ---------------------------------------------------------------------------------- who may do what


def addresses(job: Job) -> list[str]:
    return [
        LIST, page_of(job), SUBMIT, f"{LIST}overview/", f"{LIST}{job.pk}/raw/payload/",
        f"{LIST}{job.pk}/artifacts/a.svg", "/admin/jobs/worker/", "/admin/jobs/outboxentry/",
        "/admin/jobs/upload/", "/admin/jobs/apikey/", "/admin/jobs/apikey/add/",
    ]  # fmt: skip


@pytest.mark.parametrize("signed_in", [False, True])
def test_strangers_and_plain_users_are_sent_to_the_login(
    job_factory: JobFactory, user_factory: Callable[..., User], signed_in: bool
) -> None:
    [job] = job_factory()
    client = Client()
    if signed_in:
        client.force_login(user_factory())
    for address in addresses(job):
        answer = client.get(address)
        assert answer.status_code == 302, address
        assert answer["Location"].startswith("/admin/login/"), address
    answer = client.post(f"{LIST}operate/cancel/", {"ids": str(job.pk), "confirmed": "1"})
    assert answer.status_code == 302
    assert last_entry(job).version == 1


def test_staff_without_permission_is_refused_everywhere(
    job_factory: JobFactory, client_for: ClientFor
) -> None:
    [job] = job_factory()
    client = client_for()
    for address in addresses(job):
        assert client.get(address).status_code == 403, address


def test_viewers_see_and_cannot_operate(job_factory: JobFactory, client_for: ClientFor) -> None:
    [job] = job_factory()
    client = client_for("view_job")
    shown = client.get(page_of(job))
    assert shown.status_code == 200
    assert b"Cancel" not in shown.content
    assert client.get(SUBMIT).status_code == 403
    assert client.post(SUBMIT, {"handler": "testing.outcome"}).status_code == 403
    assert operate(client, "cancel", job).status_code == 403
    listed = client.post(LIST, {"action": "cancel_selected", "_selected_action": str(job.pk)})
    assert b"confirmed" not in listed.content
    assert last_entry(job).version == 1


def test_operators_need_no_more_than_two_permissions(
    job_factory: JobFactory, client_for: ClientFor
) -> None:
    [job] = job_factory()
    client = client_for("view_job", "operate_job")
    assert operate(client, "cancel", job).status_code == 200
    assert last_entry(job).actor_id == str(user_of(client).pk)


def test_even_a_superuser_cannot_add_edit_or_delete(job_factory: JobFactory, root: Client) -> None:
    [job] = job_factory(JobState.FAILED)
    entry = OutboxEntry.objects.filter(job_id=job.pk)[0]
    Worker.objects.create(name="w:1", hostname="w", pid=1)
    for model, key in (("job", job.pk), ("outboxentry", entry.pk), ("worker", "w_3A1")):
        base = f"/admin/jobs/{model}/"
        assert root.post(f"{base}{key}/delete/", {"post": "yes"}).status_code == 403
        assert root.get(f"{base}add/").status_code == 403
        changed = root.post(f"{base}{key}/change/", {"state": "COMPLETED", "name": "other"})
        assert changed.status_code in (403, 405)
        deletion = {"action": "delete_selected", "_selected_action": str(key), "post": "yes"}
        root.post(base, deletion)
    job.refresh_from_db()
    assert job.state == JobState.FAILED
    assert Worker.objects.filter(name="w:1").exists()
    assert OutboxEntry.objects.filter(pk=entry.pk).exists()
    assert b"delete_selected" not in root.get(LIST).content


# -------------------------------------------------------------------------- looking changes nothing


@pytest.mark.parametrize("verb", ["cancel", "retry"])
def test_a_link_can_never_transition(job_factory: JobFactory, root: Client, verb: str) -> None:
    [job] = job_factory(JobState.PENDING if verb == "cancel" else JobState.FAILED)
    before = last_entry(job).version
    query = {"ids": str(job.pk), "confirmed": "1", "reason": "a link"}
    assert root.get(f"{LIST}operate/{verb}/", query).status_code == 405
    assert root.head(f"{LIST}operate/{verb}/", query).status_code == 405
    assert root.get(LIST, {"action": f"{verb}_selected", "q": str(job.pk)}).status_code in (
        302,
        400,
    )
    assert last_entry(job).version == before


def test_posts_without_the_token_are_refused(
    job_factory: JobFactory, client_for: ClientFor
) -> None:
    [job] = job_factory()
    client = client_for("all", csrf=True)
    assert operate(client, "cancel", job).status_code == 403
    assert client.post(SUBMIT, {"handler": "testing.outcome"}).status_code == 403
    assert client.post("/admin/jobs/apikey/add/", {"name": "k"}).status_code == 403
    assert last_entry(job).version == 1
    assert Job.objects.count() == 1


def test_the_question_alone_changes_nothing(job_factory: JobFactory, root: Client) -> None:
    jobs = job_factory(count=2)
    data = {"action": "cancel_selected", "_selected_action": [str(job.pk) for job in jobs]}
    asked = root.post(LIST, data)
    assert asked.status_code == 200
    assert "Cancel 2 jobs" in asked.content.decode()
    assert operate(root, "cancel", *jobs, reason=" ").status_code == 200
    assert all(last_entry(job).version == 1 for job in jobs)
