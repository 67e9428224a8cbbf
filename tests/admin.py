"""What the tests of the admin share: addresses, and what a person does there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.test import Client

from jobs.models import AuditEntry, Job

LIST = "/admin/jobs/job/"
SUBMIT = "/admin/jobs/job/submit/"
EVIL = "<script>alert('x')</script>"

JobFactory = Callable[..., list[Job]]
ClientFor = Callable[..., Client]


def user_of(client: Client) -> User:
    return User.objects.get(pk=client.session["_auth_user_id"])


def page_of(job: Job) -> str:
    return f"{LIST}{job.pk}/change/"


def operate(client: Client, verb: str, *jobs: Job, reason: str = "because") -> Any:
    data = {"ids": [str(job.pk) for job in jobs], "confirmed": "1", "reason": reason}
    return client.post(f"{LIST}operate/{verb}/", data, follow=True)


def last_entry(job: Job) -> AuditEntry:
    return AuditEntry.objects.filter(job_id=job.pk).order_by("-version")[0]


def listed(client: Client, query: str = "") -> list[UUID]:
    answer = client.get(f"{LIST}{query}")
    assert answer.status_code == 200
    return [job.pk for job in answer.context["cl"].result_list]
