"""Hostile requests that no other file of this ring tries; docs/explanation/security.md lists all.

Whatever comes in: an answer with a 4xx status and a problem, no 5xx, and nothing written.
"""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.core.signals import got_request_exception
from django.db import DatabaseError, InternalError, OperationalError
from django.test import Client

from interlock.handler import Utf8Handler
from jobs import lifecycle, transactions
from jobs.models import Job
from tests.api import BASE, Api, body_of, problem
from tests.conftest import JobFactory, UserFactory
from tests.verbs import HANDLER
from tests.wsgi import ask

pytestmark = pytest.mark.django_db

KeyFactory = Callable[..., str]
ONE = {"handler": HANDLER}


# ---------------------------------------------------------------------------- what is no request

_IDS = [
    "0", "-1", str(2**64), "9" * 400, "%00", "..%2f..%2fetc%2fpasswd", "....//", "{}", "null",
    "00000000-0000-0000-0000-000000000000'--", "%F0%9F%92%A9", "%ff", "%E2%80%AE", "%0d%0aX: y",
    "urn:uuid:00000000-0000-4000-8000-000000000000", "١" * 32,
]  # fmt: skip


@pytest.mark.parametrize("job_id", _IDS)
@pytest.mark.parametrize("path", ["", "status/", "result/", "artifacts/x/", "cancel/"])
def test_what_is_no_id_is_not_found(api: Api, job_id: str, path: str) -> None:
    call = api.post if path == "cancel/" else api.get
    problem(call(f"jobs/{job_id}/{path}"), 404, "not_found")


@pytest.mark.parametrize(
    "name", ["..", "../../../etc/passwd", "%2e%2e%2fsettings.py", "a%00b", "x" * 3000, "%ff"]
)
def test_what_is_no_file_of_the_job_is_not_found(
    api: Api, owner: User, job_factory: JobFactory, name: str
) -> None:
    [job] = job_factory(owner_id=owner.pk)
    problem(api.get(f"jobs/{job.id}/artifacts/{name}/"), 404, "not_found")


_TEXTS = [
    "%" * 5000, "_" * 5000, "' OR 1=1 --", "(a+)+$", "\\", "%s%s%n", "\x00", "{{7*7}}", "\u202e",
    "*" * 1000, "a" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("text", _TEXTS, ids=range(len(_TEXTS)))
@pytest.mark.parametrize(
    "name", ["handler", "queue", "tenant", "idempotency_key", "state", "cursor"]
)
def test_what_is_searched_for_is_data(
    api: Api, owner: User, job_factory: JobFactory, name: str, text: str
) -> None:
    job_factory(owner_id=owner.pk)
    answer = api.client.get(BASE + "jobs/", {name: text}, headers=api._headers)
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        assert answer.json()["results"] == []


@pytest.mark.parametrize("depth", [33, 900, 1000, 1500, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_is_bounded_wherever_it_is(
    api: Api, depth: int, opening: str, closing: str
) -> None:
    nested = opening * depth + "1" + closing * depth
    for body in (
        nested,
        f'{{"handler": "{HANDLER}", "payload": {{"value": {nested}}}}}',
        f'{{"jobs": [{{"handler": "{HANDLER}", "payload": {{"value": {nested}}}}}]}}',
        opening * depth,
    ):
        for path in ("jobs/", "jobs/bulk/", "jobs/status/", "jobs/cancel/"):
            assert api.raw(path, body).status_code == 400
    assert not Job.objects.exists()


@pytest.mark.parametrize("length", ["-1", "abc", "1e9", "0x10", "9" * 30, " ", "5, 5"])
def test_a_false_length_is_refused(api: Api, length: str) -> None:
    answer = api.raw("jobs/", json.dumps(ONE), Content_Length=length)
    assert 400 <= answer.status_code < 500
    assert not Job.objects.exists()


def test_more_bytes_than_announced_are_not_read(api: Api) -> None:
    text = json.dumps(ONE)
    answer = api.raw("jobs/", text + json.dumps({"owner": 1}), Content_Length=str(len(text)))
    assert answer.status_code == 201


@pytest.mark.parametrize(
    "content_type",
    [
        "text/xml", "application/x-yaml",
        "application/x-python-serialize", "application/json, text/plain", "multipart/form-data",
        "application/vnd.api+json", "x" * 5000, "/", "",
    ],
)  # fmt: skip
def test_other_content_is_refused(api: Api, content_type: str) -> None:
    sent = {**api._headers, "Content-Type": content_type}
    answer = api.client.generic("POST", BASE + "jobs/", pickle.dumps(ONE), headers=sent)
    assert answer.status_code in (400, 415)
    assert not Job.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "charset", ["rot13", "hex", "zlib", "idna", "utf-7", "undefined", "x" * 500, "../x", "\xe9"]
)
def test_a_codec_that_is_no_charset_is_not_used(api: Api, charset: str) -> None:
    """In the platform's own handler: Django's would fail before any of its middleware."""
    kind = f"application/json; charset={charset}"
    assert _through_wsgi("GET", "jobs/", b"", api, kind) == "200 OK"
    assert _through_wsgi("POST", "jobs/", json.dumps(ONE).encode(), api, kind) == "400 Bad Request"
    assert _through_wsgi("POST", "jobs/", json.dumps(ONE).encode(), api) == "201 Created"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "parameter", ["x*=nocodec''y", "x*=''%ff", "x*=a\0b''y", "charset*=hex''y"]
)
def test_a_parameter_that_nobody_can_read_is_left_out(api: Api, parameter: str) -> None:
    body = json.dumps(ONE).encode()
    assert _through_wsgi("GET", "jobs/", b"", api, f"text/plain; {parameter}") == "200 OK"
    answer = _through_wsgi("POST", "jobs/", body, api, f"text/plain; {parameter}")
    assert answer == "415 Unsupported Media Type"
    assert _through_wsgi("POST", "jobs/", body, api, f"application/json; {parameter}") in (
        "201 Created",
        "400 Bad Request",
    )


def _through_wsgi(
    method: str, path: str, body: bytes, api: Api, kind: str = "application/json"
) -> str:
    answer = ask(
        Utf8Handler(), BASE + path, body,
        REQUEST_METHOD=method, CONTENT_TYPE=kind, CONTENT_LENGTH=str(len(body)),
        QUERY_STRING="tenant=%41%ff" if method == "GET" else "",
        HTTP_AUTHORIZATION=api._headers["Authorization"],
    )  # fmt: skip
    return answer.line


@pytest.mark.parametrize("seed", range(40))
def test_noise_is_a_wrong_request(api: Api, seed: int) -> None:
    chance = random.Random(seed)
    text = bytearray(
        json.dumps({"handler": HANDLER, "payload": {"value": [1, "é", None]}}).encode()
    )
    for _ in range(chance.randint(1, 8)):
        text[chance.randrange(len(text))] = chance.randrange(256)
    answer = api.raw("jobs/", bytes(text))
    assert answer.status_code in (201, 400)


def test_a_form_with_too_many_parts_is_refused(api: Api) -> None:
    edge = "edge"
    part = f'--{edge}\r\nContent-Disposition: form-data; name="f"\r\n\r\nx\r\n'
    body = part * 10_000 + f"--{edge}--\r\n"
    answer = api.raw("uploads/", body, f"multipart/form-data; boundary={edge}")
    problem(answer, 400, "bad_request")


def test_a_method_cannot_be_smuggled(api: Api, owner: User, job_factory: JobFactory) -> None:
    [job] = job_factory(owner_id=owner.pk)
    for header in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        answer = api.client.get(
            f"{BASE}jobs/{job.id}/cancel/?_method=POST", headers={**api._headers, header: "POST"}
        )
        problem(answer, 405, "method_not_allowed")
    job.refresh_from_db()
    assert job.version == 1


def test_an_answer_is_no_page(api: Api, owner: User) -> None:
    """What is sent back is JSON that no browser runs, whatever somebody has put into it."""
    evil = "<script>alert(1)</script>"
    said = api.post("jobs/", {**ONE, "tenant": evil})
    for answer in (
        api.get(f"jobs/{said.json()['id']}/"),
        api.get("jobs/", Accept="text/html"),
        api.get(f"jobs/?{evil}=1", Accept="text/html"),
        api.get(f"jobs/{evil}/", Accept="text/html"),
        api.get("jobs/?format=html"),
    ):
        assert answer["Content-Type"].partition(";")[0] in (
            "application/json",
            "application/problem+json",
        )
        assert answer["X-Content-Type-Options"] == "nosniff"
        assert answer["X-Frame-Options"] == "DENY"


# ---------------------------------------------------------------------------- what is told when


def test_every_refusal_carries_the_request_id_of_the_proxy(api: Api) -> None:
    for answer, status in (
        (api.raw("jobs/", "{", X_Request_ID="proxy-1"), 400),
        (Api().get("jobs/", X_Request_ID="proxy-1"), 401),
        (api.get(f"jobs/{uuid4()}/", X_Request_ID="proxy-1"), 404),
        (api.get("nowhere/", X_Request_ID="proxy-1"), 404),
        (api.raw("jobs/", "x", "text/plain", X_Request_ID="proxy-1"), 415),
    ):
        assert answer.status_code == status
        assert answer.json()["request_id"] == answer["X-Request-ID"] == "proxy-1"
        assert answer["Cache-Control"] == "no-store"


def _failing_with(state: str, kind: type[DatabaseError]) -> Callable[..., Any]:
    class FromServer(Exception):
        pgcode = state

    def fail(*_: object, **__: object) -> Any:
        raise kind("FATAL: on host 10.0.0.1") from FromServer()

    return fail


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("57014", OperationalError), ("55P03", OperationalError), ("53300", OperationalError),
        ("57P01", OperationalError), ("57P02", OperationalError), ("57P03", OperationalError),
        ("53100", OperationalError), ("08006", OperationalError), ("40001", OperationalError),
        ("25006", InternalError), ("25P03", InternalError),
    ],
)  # fmt: skip
def test_what_the_database_says_of_itself_is_503(
    api: Api, monkeypatch: pytest.MonkeyPatch, state: str, kind: type[DatabaseError]
) -> None:
    monkeypatch.setattr(lifecycle, "submit_together", _failing_with(state, kind))
    answer = api.post("jobs/", ONE)
    problem(answer, 503, "unavailable")
    assert int(answer["Retry-After"]) > 0
    assert "10.0.0.1" not in answer.content.decode()


def test_a_bug_in_a_statement_is_no_outage(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "submit_together", _failing_with("25P02", InternalError))
    problem(api.post("jobs/", ONE), 500, "internal_error")


def test_a_verb_whose_premise_always_changes_is_503(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise transactions.TryAgain("again and again")

    monkeypatch.setattr(lifecycle, "submit_together", fail)
    problem(api.post("jobs/", ONE), 503, "unavailable")


def test_an_outage_outside_of_the_views_is_503_too(
    monkeypatch: pytest.MonkeyPatch, user_factory: UserFactory
) -> None:
    browser = Client(raise_request_exception=False)
    browser.force_login(user_factory(staff=True))

    def away(*_: object, **__: object) -> Any:
        raise OperationalError("host 10.0.0.1 does not answer")

    # Looked up by the session middleware, by a view of the admin, and by a view of the API.
    monkeypatch.setattr("django.contrib.sessions.backends.db.SessionStore.load", away)
    reported: list[object] = []

    def report(**facts: object) -> None:
        reported.append(facts)

    got_request_exception.connect(report)
    page = browser.get("/admin/")
    got_request_exception.disconnect(report)
    # An outage is no bug: error reporters hear nothing of it.
    assert (page.status_code, reported) == (503, [])
    assert page["Content-Type"].startswith("text/html")
    assert int(page["Retry-After"]) > 0
    assert page["Cache-Control"] == "no-store"
    assert b"10.0.0.1" not in body_of(page)
    problem(browser.get("/api/v1/jobs/"), 503, "unavailable")
    assert browser.get("/health/live").status_code == 200
    monkeypatch.setattr(
        "django.contrib.sessions.middleware.SessionMiddleware.process_request", away
    )
    page = browser.get("/admin/")
    assert (page.status_code, page["Retry-After"]) == (503, "2")
    problem(browser.get("/api/v1/jobs/"), 503, "unavailable")
