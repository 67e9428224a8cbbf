"""The lane on the wire: what its server makes of its answers is what it makes of Django's."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.http_client import Answer
from tests.stack import Stack

pytestmark = [pytest.mark.services, pytest.mark.timeout(150)]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("tag", "code"), [("", 200), ('"1.0"', 304)])
def test_who_answered_cannot_be_told(quiet: Stack, method: str, tag: str, code: int) -> None:
    [api] = quiet.start("api")
    [job_id] = quiet.submit("noop")

    def asked(headers: Mapping[str, str]) -> Answer:
        sent = {"If-None-Match": tag, **headers} if tag else headers
        answer = quiet.http.ask(method, f"/api/v1/jobs/{job_id}/status/", headers=sent)
        told = {name: value for name, value in answer.headers.items() if name != "date"}
        return Answer(answer.status, told, answer.body)

    # With a cookie Django answers, and without one the first two times.
    wanted = asked({"Cookie": "a=b"})
    assert wanted.status == code
    assert [asked({}) for _ in range(8)] == [wanted] * 8
    assert not api.said("because of")


def test_nor_who_has_taken_a_job(quiet: Stack) -> None:
    [api] = quiet.start("api")
    body = {"handler": "noop"}
    ids = set()

    def asked(headers: Mapping[str, str]) -> Answer:
        answer = quiet.http.ask("POST", "/api/v1/jobs/", body, headers=headers)
        job_id = answer.json()["id"]
        ids.add(job_id)
        told = {
            name: value.replace(job_id, "ID")
            for name, value in answer.headers.items()
            if name != "date"
        }
        return Answer(answer.status, told, answer.body.replace(job_id.encode(), b"ID"))

    wanted = asked({"Cookie": "a=b"})
    assert wanted.status == 201
    assert [asked({}) for _ in range(8)] == [wanted] * 8
    assert {quiet.job(job_id)["state"] for job_id in ids} == {"PENDING"}
    assert len(ids) == 9
    assert not api.said("because of")
