"""The admin as a person uses it: in a browser, by clicking."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.core.files.base import ContentFile
from django.utils import timezone
from playwright.sync_api import Page, expect

from jobs import files, testing
from jobs.models import AuditEntry, Job, JobArtifact
from jobs.states import ActorKind, JobEvent, JobState
from jobs.values import LogLine
from tests.verbs import claim, finish, submit

JobFactory = Callable[..., list[Job]]

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>"
SVG = b"""<svg xmlns="http://www.w3.org/2000/svg" width="64" height="32">
<rect width="64" height="32"/></svg>"""


def newest_entry(job: Job) -> AuditEntry:
    return AuditEntry.objects.filter(job_id=job.pk).order_by("-version")[0]


def test_a_job_is_found_and_cancelled_with_a_reason(
    admin_tab: Page, admin_user: User, job_factory: JobFactory
) -> None:
    [job] = job_factory(idempotency_key="order-4711")
    admin_tab.goto("/admin/jobs/job/")
    admin_tab.fill("input[name=q]", "order-4711")
    admin_tab.keyboard.press("Enter")
    admin_tab.click(f"a:has-text('{str(job.pk)[-6:]}')")
    expect(admin_tab.locator(".jobs-head .jobs-badge")).to_have_text("PENDING")

    admin_tab.click("button:has-text('Cancel…')")
    expect(admin_tab.locator("h3:has-text('Cancel 1 job')")).to_be_visible()
    admin_tab.fill("input[name=reason]", "the customer called")
    admin_tab.click("button:has-text('Cancel 1 job')")

    expect(admin_tab.locator(".jobs-head .jobs-badge")).to_have_text("CANCELLED")
    step = admin_tab.locator(".jobs-timeline li").first
    expect(step).to_contain_text("the customer called")
    expect(step).to_contain_text("admin ada")
    entry = newest_entry(job)
    assert (entry.event, entry.reason) == (JobEvent.CANCEL, "the customer called")
    assert (entry.actor_kind, entry.actor_id) == (ActorKind.ADMIN, str(admin_user.pk))


def test_several_jobs_are_retried_from_the_list(admin_tab: Page, job_factory: JobFactory) -> None:
    failed = job_factory(JobState.FAILED, count=2)
    [done] = job_factory(JobState.COMPLETED)
    admin_tab.goto("/admin/jobs/job/")
    for box in admin_tab.locator("input.action-select").all():
        box.check()
    admin_tab.select_option("select[name=action]", "retry_selected")
    admin_tab.click("button[name=index]")
    expect(admin_tab.locator("h3:has-text('Retry 2 jobs')")).to_be_visible()
    expect(admin_tab.locator("h4")).to_have_text("1 cannot be changed and will be left alone")
    admin_tab.fill("input[name=reason]", "the disk was replaced")
    admin_tab.click("button:has-text('Retry 2 jobs')")
    expect(admin_tab.locator("text=2 jobs queued again.")).to_be_visible()
    assert {newest_entry(job).event for job in failed} == {JobEvent.REOPEN}
    assert newest_entry(done).event == JobEvent.SUCCEED


def test_a_job_is_submitted_after_a_mistake_was_shown(admin_tab: Page, admin_user: User) -> None:
    admin_tab.goto("/admin/jobs/job/")
    admin_tab.locator("a:visible", has_text="Submit job").first.click()
    admin_tab.select_option("#id_handler", "testing.outcome")
    expect(admin_tab.locator("[data-jobs-help='testing.outcome']")).to_be_visible()
    expect(admin_tab.locator("[data-jobs-help='noop']")).to_be_hidden()

    admin_tab.fill("#id_payload", '{"action": "dance"}')
    admin_tab.click("button:has-text('Submit job')")
    wrong = admin_tab.locator(".jobs-field.jobs-wrong")
    expect(wrong).to_have_count(1)
    expect(wrong.locator("textarea")).to_have_value('{"action": "dance"}')
    expect(wrong.locator(".jobs-error")).to_contain_text("action: ")
    assert not Job.objects.exists()

    admin_tab.fill("#id_payload", json.dumps({"action": "ok", "value": 42}))
    admin_tab.fill("#id_reason", "to see it run")
    admin_tab.click("button:has-text('Submit job')")
    expect(admin_tab.locator(".jobs-head h2")).to_have_text("testing.outcome")
    [job] = Job.objects.all()
    assert job.owner_id == admin_user.pk
    assert (newest_entry(job).actor_kind, newest_entry(job).reason) == (
        ActorKind.ADMIN,
        "to see it run",
    )


def test_the_job_page_follows_the_job_by_itself(admin_tab: Page) -> None:
    [job] = submit(payload={"value": "the answer"})
    admin_tab.goto(f"/admin/jobs/job/{job.pk}/change/")
    badge = admin_tab.locator(".jobs-head .jobs-badge")
    expect(badge).to_have_text("PENDING")
    testing.run_inline([job.pk])
    expect(badge).to_have_text("COMPLETED", timeout=15_000)
    expect(admin_tab.locator("pre:has-text('the answer')").first).to_be_visible()


def test_hostile_text_does_not_run_and_a_picture_is_drawn(admin_tab: Page) -> None:
    [job] = submit(payload={"value": EVIL})
    lines = (LogLine(timezone.now(), "error", EVIL),)
    finish(claim([job]), JobEvent.FAIL, reason=EVIL, lines=lines)
    file = files.storage().save("artifacts/chart.svg", ContentFile(SVG))
    JobArtifact.objects.create(
        job_id=job.pk, name="chart.svg", media_type="image/svg+xml", size_bytes=len(SVG),
        sha256="0" * 64, file=file, token=job.pk,
    )  # fmt: skip
    admin_tab.goto(f"/admin/jobs/job/{job.pk}/change/")
    expect(admin_tab.locator(".jobs-head .jobs-reason")).to_have_text(EVIL)
    expect(admin_tab.locator(".jobs-log-error span")).to_have_text(EVIL)
    drawn = "image => image.complete && image.naturalWidth"
    admin_tab.locator(".jobs-artifact img").scroll_into_view_if_needed()
    admin_tab.wait_for_function("document.querySelector('.jobs-artifact img').complete")
    assert admin_tab.locator(".jobs-artifact img").evaluate(drawn) == 64


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1440])
def test_every_page_fits_its_window(
    admin_tab: Page, job_factory: JobFactory, scheme: str, width: int
) -> None:
    [failed], [running] = job_factory(JobState.FAILED), job_factory(JobState.RUNNING)
    admin_tab.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    admin_tab.set_viewport_size({"width": width, "height": 900})
    jobs = "/admin/jobs/job/"
    for address in (
        "/admin/", jobs, f"{jobs}{failed.pk}/change/", f"{jobs}{running.pk}/change/",
        f"{jobs}submit/", f"{jobs}overview/", "/admin/jobs/worker/", "/admin/jobs/outboxentry/",
        "/admin/jobs/apikey/", "/admin/jobs/apikey/add/", "/admin/jobs/upload/",
    ):  # fmt: skip
        admin_tab.goto(address)
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert admin_tab.evaluate(overflow) <= 0, address
        dark = admin_tab.evaluate("document.documentElement.classList.contains('dark')")
        assert dark == (scheme == "dark"), address
