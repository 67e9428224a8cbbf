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
