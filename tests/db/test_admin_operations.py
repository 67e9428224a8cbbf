"""The admin: cancel, retry and submit."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

from jobs.models import Job
from jobs.states import ActorKind, JobEvent, JobState
from tests.admin import (
    LIST,
    SUBMIT,
    JobFactory,
    last_entry,
    operate,
    page_of,
    user_of,
)

# --------------------------------------------------------------------------------- cancel and retry


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


# ------------------------------------------------------------------------------------------- submit


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
