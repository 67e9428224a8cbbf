"""The admin: keys, workers, the outbox and the overview."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from jobs import keys
from jobs.admin import overview
from jobs.models import ApiKey, OutboxEntry, Scope, Worker
from jobs.states import JobState
from tests.admin import (
    ClientFor,
    JobFactory,
    user_of,
)


def new_key(client: Client, **values: Any) -> Any:
    data = {"name": "ci", "owner": user_of(client).username, "scopes": ["read"], **values}
    return client.post("/admin/jobs/apikey/add/", data)


def test_a_new_key_is_shown_once_and_works(root: Client, db: None) -> None:
    answer = new_key(root, valid_days="30")
    found = re.search(r"ilk_[\w-]{30,}", answer.content.decode())
    assert found
    assert "no-store" in answer["Cache-Control"]
    principal = keys.look_up(found[0])
    assert principal is not None
    assert principal.scopes == {Scope.READ}
    key = ApiKey.objects.get()
    assert key.expires_at is not None
    assert timedelta(days=29) < key.expires_at - timezone.now() < timedelta(days=31)
    for address in ("/admin/jobs/apikey/", f"/admin/jobs/apikey/{key.pk}/change/"):
        text = root.get(address).content.decode()
        assert found[0] not in text
        assert key.digest not in text


def test_keys_are_revoked_and_never_edited(root: Client, db: None) -> None:
    secret = keys.issue(user_of(root).pk, "old", [Scope.READ])
    key = ApiKey.objects.get()
    change = f"/admin/jobs/apikey/{key.pk}/change/"
    assert root.post(change, {"digest": "0" * 64, "scopes": '["operate"]'}).status_code == 403
    assert root.post(f"/admin/jobs/apikey/{key.pk}/delete/", {"post": "yes"}).status_code == 403
    data = {"action": "revoke_selected", "_selected_action": str(key.pk)}
    answer = root.post("/admin/jobs/apikey/", data, follow=True)
    assert "1 key revoked." in answer.content.decode()
    assert keys.look_up(secret) is None


def test_only_a_superuser_gives_keys_to_others(
    client_for: ClientFor, root: Client, user_factory: Callable[..., User]
) -> None:
    other = user_factory(username="other")
    plain = client_for("view_apikey", "add_apikey")
    new_key(plain, owner="other")
    assert ApiKey.objects.get().owner == user_of(plain)
    new_key(root, owner="other", name="theirs")
    assert ApiKey.objects.get(name="theirs").owner == other
    assert "no active user" in new_key(root, owner="nobody").content.decode()


def test_viewers_of_keys_can_neither_issue_nor_revoke(client_for: ClientFor) -> None:
    client = client_for("view_apikey")
    assert new_key(client).status_code == 403
    keys.issue(user_of(client).pk, "kept", [Scope.READ])
    key = ApiKey.objects.get()
    data = {"action": "revoke_selected", "_selected_action": str(key.pk)}
    client.post("/admin/jobs/apikey/", data)
    key.refresh_from_db()
    assert key.revoked_at is None


def test_workers_are_live_stale_or_stopped(root: Client, db: None) -> None:
    now = timezone.now()
    Worker.objects.create(name="a", hostname="a", pid=1, seen_at=now, queues=["default"])
    Worker.objects.create(name="b", hostname="b", pid=2, seen_at=now - timedelta(minutes=5))
    Worker.objects.create(name="c", hostname="c", pid=3, seen_at=now, stopped_at=now)
    text = root.get("/admin/jobs/worker/").content.decode()
    for word in ("live", "stale", "stopped"):
        assert text.count(f">{word}</span>") == 1


def test_the_outbox_shows_what_waits(job_factory: JobFactory, root: Client) -> None:
    jobs = [job_factory()[0] for _ in range(3)]
    OutboxEntry.objects.filter(job_id=jobs[0].pk).update(published_at=timezone.now())
    OutboxEntry.objects.filter(job_id=jobs[1].pk).update(due_at=timezone.now() + timedelta(hours=1))
    outbox = "/admin/jobs/outboxentry/"
    sizes = [
        len(root.get(f"{outbox}{query}").context["cl"].result_list)
        for query in ("", "?waiting=all", "?waiting=due")
    ]
    assert sizes == [3, 2, 1]


def test_the_overview_knows_the_queues(job_factory: JobFactory, root: Client) -> None:
    job_factory(count=2)
    job_factory(JobState.RUNNING)
    job_factory(JobState.FAILED)
    job_factory(delay_seconds=600)
    [queue] = overview.queues()
    assert (str(queue.due), str(queue.scheduled), str(queue.running)) == ("2", "1", "1")
    assert queue.oldest_wait is not None
    assert queue.alarming
    assert str(queue.unpublished) == "4"
    text = root.get("/admin/").content.decode()
    assert "Last failures" in text
    assert "made for a test" in text


def test_counts_stop_at_the_limit() -> None:
    assert str(overview.BoundedCount(overview.COUNT_LIMIT + 1)) == "1,000+"
    assert str(overview.BoundedCount(1000)) == "1,000"


def test_the_dashboard_is_for_those_who_may_see_jobs(
    job_factory: JobFactory, client_for: ClientFor
) -> None:
    job_factory(JobState.FAILED)
    text = client_for("view_worker").get("/admin/").content.decode()
    assert "made for a test" not in text
    assert "Submit a job" not in text
