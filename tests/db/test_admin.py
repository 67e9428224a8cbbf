"""The admin: who may do what, that looking never changes anything, and that nothing scans."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.core.files.base import ContentFile
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs import files, keys, lifecycle
from jobs.admin import listing, overview, page
from jobs.admin.listing import id_at
from jobs.models import ApiKey, AuditEntry, Job, JobArtifact, OutboxEntry, Scope, Upload, Worker
from jobs.states import ActorKind, JobEvent, JobState
from jobs.values import Actor, LogLine
from tests.verbs import claim, finish, submit

LIST = "/admin/jobs/job/"
SUBMIT = "/admin/jobs/job/submit/"
EVIL = "<script>alert('x')</script>"

JobFactory = Callable[..., list[Job]]
ClientFor = Callable[..., Client]


@pytest.fixture
def client_for(user_factory: Callable[..., User]) -> ClientFor:
    """A browser of a staff user with these permissions; ``"all"`` is a superuser."""

    def make(*codenames: str, csrf: bool = False) -> Client:
        user = user_factory(staff=codenames == ("all",))
        user.is_staff = True
        user.save()
        user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
        client = Client(enforce_csrf_checks=csrf)
        client.force_login(user)
        return client

    return make


@pytest.fixture
def root(client_for: ClientFor) -> Client:
    return client_for("all")


def user_of(client: Client) -> User:
    return User.objects.get(pk=client.session["_auth_user_id"])


def page_of(job: Job) -> str:
    return f"{LIST}{job.pk}/change/"


def operate(client: Client, verb: str, *jobs: Job, reason: str = "because") -> Any:
    data = {"ids": [str(job.pk) for job in jobs], "confirmed": "1", "reason": reason}
    return client.post(f"{LIST}operate/{verb}/", data, follow=True)


def last_entry(job: Job) -> AuditEntry:
    return AuditEntry.objects.filter(job_id=job.pk).order_by("-version")[0]


# --------------------------------------------------------------------------------- who may do what


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


# ------------------------------------------------------------------------- looking changes nothing


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


# ------------------------------------------------------------------------------- cancel and retry


def test_cancel_is_audited_as_the_admin_with_the_reason(
    job_factory: JobFactory, root: Client
) -> None:
    [job] = job_factory()
    answer = operate(root, "cancel", job, reason="wrong file")
    assert "1 job cancelled." in answer.content.decode()
    entry = last_entry(job)
    assert (entry.event, entry.to_state) == (JobEvent.CANCEL, JobState.CANCELLED)
    assert (entry.actor_kind, entry.actor_id) == (ActorKind.ADMIN, str(user_of(root).pk))
    assert entry.reason == "wrong file"


def test_retry_gives_a_new_run(job_factory: JobFactory, root: Client) -> None:
    [job] = job_factory(JobState.FAILED)
    answer = operate(root, "retry", job, reason="fixed")
    assert "1 job queued again." in answer.content.decode()
    job.refresh_from_db()
    assert (job.state, job.failed_attempts) == (JobState.PENDING, 0)
    assert last_entry(job).reason == "fixed"


def test_one_job_that_has_ended_does_not_hold_back_the_others(
    job_factory: JobFactory, root: Client
) -> None:
    [waiting], [running] = job_factory(), job_factory(JobState.RUNNING)
    [done], [gone] = job_factory(JobState.COMPLETED), job_factory(JobState.CANCELLED)
    text = operate(root, "cancel", waiting, done, running, gone).content.decode()
    assert "1 job cancelled, 1 job asked to stop." in text
    assert "1 job refused" in text
    assert "1 job had nothing to change" in text
    states = [last_entry(job).event for job in (waiting, running, done)]
    assert states == [JobEvent.CANCEL, JobEvent.REQUEST_CANCEL, JobEvent.SUCCEED]


def test_the_question_says_which_jobs_cannot_be_changed(
    job_factory: JobFactory, root: Client
) -> None:
    jobs = [job_factory(state)[0] for state in JobState]
    data = {"action": "retry_selected", "_selected_action": [str(job.pk) for job in jobs]}
    text = root.post(LIST, data).content.decode()
    assert "Retry 2 jobs" in text
    assert "3 cannot be changed" in text
    for job in jobs:
        sent = f'name="ids" value="{job.pk}"' in text
        assert sent == (job.state in (JobState.FAILED, JobState.CANCELLED))


def test_unknown_verbs_and_jobs_are_not_found(root: Client, db: None) -> None:
    assert root.post(f"{LIST}operate/complete/", {"ids": str(uuid4())}).status_code == 404
    assert root.post(f"{LIST}operate/cancel/", {"ids": "x"}).status_code == 404
    assert root.post(f"{LIST}operate/cancel/").status_code == 404
    assert root.get(f"{LIST}{uuid4()}/change/").status_code == 404
    assert root.get(f"{LIST}no-uuid/change/").status_code == 404


# ---------------------------------------------------------------------------------------- job page


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


# ------------------------------------------------------------------------------------------ submit


def form(client: Client, **values: Any) -> dict[str, Any]:
    once = re.search(r'name="once" value="([^"]+)"', client.get(SUBMIT).content.decode())
    assert once
    return {"handler": "testing.outcome", "payload": "{}", "once": once[1], **values}


def test_submit_makes_the_admin_owner_and_actor(root: Client, db: None) -> None:
    given = form(root, payload='{"value": 7}', priority="3", reason="by hand")
    answer = root.post(SUBMIT, given, follow=True)
    [job] = Job.objects.all()
    assert answer.redirect_chain[-1][0] == page_of(job)
    assert (job.payload, job.priority, job.owner) == ({"value": 7}, 3, user_of(root))
    entry = last_entry(job)
    assert (entry.actor_kind, entry.actor_id) == (ActorKind.ADMIN, str(user_of(root).pk))
    assert entry.reason == "by hand"


def test_the_same_form_sent_twice_gives_one_job(root: Client, db: None) -> None:
    given = form(root, payload='{"value": 7}')
    root.post(SUBMIT, given)
    root.post(SUBMIT, given)
    assert Job.objects.count() == 1
    changed = root.post(SUBMIT, {**given, "payload": '{"value": 8}'})
    assert "was sent before" in changed.content.decode()
    assert given["once"] not in changed.content.decode()
    assert Job.objects.count() == 1


@pytest.mark.parametrize(
    ("values", "field", "words"),
    [
        ({"payload": "{"}, "payload", "This is not JSON"),
        ({"payload": "[1]"}, "payload", "is a JSON object"),
        ({"payload": '{"action": "dance"}'}, "payload", "action: "),
        ({"payload": '{"nonsense": 1}'}, "payload", "nonsense: "),
        ({"payload": '{"value": "\\u0000"}'}, "payload", "NUL"),
        ({"payload": "[" * 5000}, "payload", "This is not JSON"),
        ({"handler": "no-such"}, "handler", "not one of the available choices"),
        ({"queue": "no-such"}, "queue", "not one of the available choices"),
        ({"priority": "10"}, "priority", "less than or equal to 9"),
        ({"delay_seconds": "-1"}, "delay_seconds", "greater than or equal to 0"),
        ({"delay_seconds": "nan"}, "delay_seconds", "Enter a number"),
    ],
)
def test_what_is_refused_is_said_at_its_field(
    root: Client, values: dict[str, str], field: str, words: str
) -> None:
    answer = root.post(SUBMIT, form(root, **values))
    assert answer.status_code == 200
    assert any(words in error for error in answer.context["form"].errors[field])
    assert not Job.objects.exists()


# ----------------------------------------------------------------------------- list: what it finds


def listed(client: Client, query: str = "") -> list[UUID]:
    answer = client.get(f"{LIST}{query}")
    assert answer.status_code == 200
    return [job.pk for job in answer.context["cl"].result_list]


def test_filters_and_search(job_factory: JobFactory, root: Client) -> None:
    [waiting], [failed] = job_factory(), job_factory(JobState.FAILED)
    [running] = job_factory(JobState.RUNNING, owner_id=user_of(root).pk)
    [keyed] = job_factory(idempotency_key="order-4711")
    assert listed(root) == [keyed.pk, running.pk, failed.pk, waiting.pk]
    assert listed(root, "?state=FAILED") == [failed.pk]
    assert listed(root, "?state=RUNNING") == [running.pk]
    assert listed(root, "?state=PENDING") == [keyed.pk, waiting.pk]
    assert listed(root, f"?owner={user_of(root).pk}") == [running.pk]
    assert listed(root, "?handler=testing.outcome&state=FAILED") == [failed.pk]
    assert listed(root, "?handler=noop") == []
    assert listed(root, "?queue=default&state=FAILED") == [failed.pk]
    assert listed(root, "?q=order-4711") == [keyed.pk]
    assert listed(root, "?q=order") == []
    assert listed(root, f"?q={failed.pk}") == [failed.pk]
    assert listed(root, f"?q={str(failed.pk)[:4]}") == listed(root)
    assert listed(root, f"?q={str(failed.pk).upper()}&state=FAILED") == [failed.pk]
    assert listed(root, "?submitted=1h&state=FAILED") == [failed.pk]
    assert listed(root, "?submitted_from=2001-01-01T00:00&submitted_to=2002-01-01T00:00") == []
    assert listed(root, "?submitted_from=2001-01-01T00:00") == listed(root)


@pytest.mark.parametrize(
    "query",
    [
        "?state=%00", "?handler=%00x", "?q=%00", "?owner=x", "?owner=99999999999999999999",
        "?submitted_from=yesterday", "?submitted_from=2020-02-31T00:00", "?q=zz-not-hex",
        "?o=1.2.3", "?p=9999", "?all=", "?_facets=True",
    ],
)  # fmt: skip
def test_odd_queries_are_answered(root: Client, query: str) -> None:
    assert root.get(f"{LIST}{query}").status_code == 200


@pytest.mark.parametrize(
    "query", ["?before=x", "?after=1", "?reason__icontains=a", "?payload__a=1", "?owner__email=a"]
)
def test_lookups_that_could_scan_or_probe_are_refused(root: Client, query: str) -> None:
    answer = root.get(f"{LIST}{query}")
    assert answer.status_code in (302, 400)


def test_pages_by_key_reach_every_job_both_ways(
    job_factory: JobFactory, root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = job_factory(count=7)
    everything = sorted((job.pk for job in jobs), reverse=True)
    monkeypatch.setattr("jobs.admin.job.JobAdmin.list_per_page", 3)
    down, query = [], ""
    pages = []
    while True:
        answer = root.get(f"{LIST}{query}")
        pages.append(answer.context["cl"])
        down += [job.pk for job in pages[-1].result_list]
        if pages[-1].older is None:
            break
        query = pages[-1].older
    assert down == everything
    assert pages[0].newer is None
    up = list(pages[-1].result_list)
    while (query := pages[-1].newer) is not None:
        pages.append(root.get(f"{LIST}{query}").context["cl"])
        up = [*pages[-1].result_list, *up]
    assert [job.pk for job in up] == everything


def test_a_rare_value_is_looked_for_window_by_window(
    job_factory: JobFactory, root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    [old] = job_factory(JobState.FAILED)
    job_factory(JobState.COMPLETED, count=6)
    monkeypatch.setattr(listing.JobChangeList, "window", 3)
    first = root.get(f"{LIST}?state=FAILED").context["cl"]
    assert list(first.result_list) == []
    assert first.looked_to is not None
    found, link, clicks = [], first.older, 0
    while link is not None and clicks < 5:
        shown = root.get(f"{LIST}{link}").context["cl"]
        found += [job.pk for job in shown.result_list]
        link, clicks = shown.older, clicks + 1
    assert found == [old.pk]


# ------------------------------------------------------------------------ list: what it must not do

ROWS = 20_000


@pytest.fixture
def loaded(db: None) -> None:
    """A table of 20,000 jobs, mostly COMPLETED, with time-ordered ids, analysed."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE jobs_job DISABLE TRIGGER USER")
        cursor.execute(
            """
            INSERT INTO jobs_job (id, handler, queue, priority, tenant, payload, state, version,
                attempt, failed_attempts, lost_attempts, max_attempts, worker, progress,
                progress_message, progress_seq, event, actor_kind, actor_id, reason,
                signed_version, finished_at, lease_token, lease_until, idempotency_key)
            SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - %(rows)s + n), 12, '0')
                    || '70008000' || lpad(to_hex(n), 12, '0'))::uuid,
                'testing.outcome', 'default', 0, '', jsonb_build_object('value', repeat('x', 300)),
                state, 3, 1, 0, 0, 3, '', 1, '', 0, 'succeed', 'worker', 'w', '', 3,
                CASE WHEN state IN ('COMPLETED', 'FAILED') THEN now() END,
                CASE WHEN state = 'RUNNING' THEN gen_random_uuid() END,
                CASE WHEN state = 'RUNNING' THEN now() END, 'key-' || n
            FROM (
                SELECT n, CASE
                    WHEN n %% 1000 = 1 THEN 'FAILED'
                    WHEN n %% 500 = 2 THEN 'RUNNING'
                    WHEN n %% 200 = 3 THEN 'PENDING'
                    ELSE 'COMPLETED' END AS state
                FROM generate_series(1, %(rows)s) AS n
            ) AS made
            """,
            {"rows": ROWS},
        )
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE jobs_job ENABLE TRIGGER USER")
        cursor.execute("ANALYZE jobs_job")


def plans_of(queries: CaptureQueriesContext) -> list[tuple[str, str]]:
    """The statements that touch jobs, each with its plan."""
    found = []
    for query in queries.captured_queries:
        text = query["sql"]
        if text.startswith(("SELECT", "WITH")) and "jobs_job" in text:
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN {text}")
                found.append((text, "\n".join(row[0] for row in cursor.fetchall())))
    return found


FAST = [
    LIST, f"{LIST}?submitted=1h", f"{LIST}?state=RUNNING", f"{LIST}?state=PENDING",
    f"{LIST}?state=COMPLETED", f"{LIST}?state=FAILED", f"{LIST}?handler=testing.outcome",
    f"{LIST}?handler=noop", f"{LIST}?queue=default&state=COMPLETED", f"{LIST}?owner=1",
    f"{LIST}?q=key-77", f"{LIST}?q=key-77&state=FAILED", f"{LIST}?q=0190", f"{LIST}overview/",
    "/admin/",
]  # fmt: skip


@pytest.mark.parametrize("address", FAST)
def test_no_list_counts_or_scans_the_table(
    loaded: None, root: Client, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The window stands to the table as it would to a large one.
    monkeypatch.setattr(listing.JobChangeList, "window", 500)
    monkeypatch.setattr(overview, "RECENT", 500)
    with CaptureQueriesContext(connection) as queries:
        assert root.get(address).status_code == 200
    plans = plans_of(queries)
    assert plans
    for text, plan in plans:
        assert "Seq Scan on jobs_job" not in plan, (text, plan)
        if "COUNT(" in text:
            assert "LIMIT" in text or '"id" >=' in text, text


def test_the_list_leaves_wide_columns_alone(loaded: None, root: Client) -> None:
    with CaptureQueriesContext(connection) as queries:
        root.get(LIST)
    [text] = [text for text, _ in plans_of(queries)]
    for column in ("payload", "result", "reason", "progress_message", "fingerprint"):
        assert f'"{column}"' not in text
    assert "OFFSET" not in text
    assert "LIMIT 51" in text


def test_searching_a_prefix_is_a_range_of_the_key(loaded: None, root: Client) -> None:
    middle = Job.objects.order_by("-pk")[ROWS // 2].pk
    assert middle in listed(root, f"?q={str(middle)[:13]}")
    assert listed(root, "?q=0190") == []


def test_the_filter_choices_ask_no_table(loaded: None, root: Client) -> None:
    with CaptureQueriesContext(connection) as queries:
        shown = root.get(LIST).content.decode()
    assert not [query for query in queries.captured_queries if "DISTINCT" in query["sql"]]
    assert "?handler=testing.outcome" in shown
    assert "?queue=default" in shown


def test_ids_follow_time() -> None:
    now = timezone.now()
    assert id_at(now - timedelta(seconds=1)) < submit_id() < id_at(now + timedelta(seconds=60))


def submit_id() -> UUID:
    from jobs.models import new_job_id

    return new_job_id()


# ----------------------------------------------------------------------- keys, workers and the rest


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
    jobs = job_factory(count=3)
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


# ----------------------------------------------------------------------------------- without unfold

WITHOUT_UNFOLD = """
import sys
from interlock import settings as project
from django.conf import settings
keep = {name: getattr(project, name) for name in dir(project) if name.isupper()}
keep["INSTALLED_APPS"] = [a for a in keep["INSTALLED_APPS"] if a not in ("interlock", "unfold")]
keep["ROOT_URLCONF"] = "__main__"
keep["DATABASES"]["default"]["NAME"] = sys.argv[1]
settings.configure(**keep)
import django
django.setup()
from django.contrib import admin
from django.contrib.auth.models import User
from django.core import checks
from django.test import RequestFactory
from django.urls import path
from jobs.admin.base import ModelAdmin
from jobs.models import ApiKey, Job, OutboxEntry, Upload, Worker
urlpatterns = [path("admin/", admin.site.urls)]
assert ModelAdmin is admin.ModelAdmin
assert "unfold" not in sys.modules
assert not checks.run_checks(app_configs=None, tags=["admin", "templates", "urls"])
request = RequestFactory().get("/admin/")
request.user = User(pk=1, username="root", is_staff=True, is_superuser=True)
request.session = {}
request._messages = []
for model in (Job, OutboxEntry, Upload, Worker, ApiKey):
    answer = admin.site.get_model_admin(model).changelist_view(request).render()
    assert answer.status_code == 200
jobs = admin.site.get_model_admin(Job)
for view in (jobs.submit_view, jobs.overview_view):
    assert b"<div class=\\"jobs\\">" in view(request).render().content
print("fine")
"""


def test_the_app_works_in_a_project_without_unfold(db: None) -> None:
    name = connection.settings_dict["NAME"]
    environment = {key: v for key, v in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_UNFOLD, name],
        capture_output=True, text=True, env=environment, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.endswith("fine\n"), done.stderr
