"""What goes wrong inside, and what the outside is told; health; the schema and its page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from django.contrib.auth.models import User
from django.contrib.staticfiles import finders
from django.core.signals import got_request_exception
from django.db import InterfaceError, OperationalError, connection
from django.db.migrations.executor import MigrationExecutor
from django.test import Client
from pytest_django import DjangoAssertNumQueries
from rest_framework.exceptions import Throttled

from jobs import lifecycle, topology
from jobs.api import health
from jobs.api.views.jobs import JobsView
from tests.api import PROBLEM, Api, problem
from tests.conftest import UserFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def api(user_factory: UserFactory, key_factory: Callable[..., str]) -> Api:
    return Api(key_factory(user_factory()))


def raising(error: Exception) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


@pytest.mark.parametrize("error", [OperationalError("host 10.0.0.1"), InterfaceError("closed")])
def test_a_database_that_is_away_is_503(
    error: Exception, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "submit_together", raising(error))
    answer = api.post("jobs/", {"handler": "noop"})
    problem(answer, 503, "unavailable")
    assert int(answer["Retry-After"]) > 0
    assert "10.0.0.1" not in answer.content.decode()


def test_a_bug_shows_nothing_of_the_inside(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[object] = []

    def listen(**facts: object) -> None:
        heard.append(facts["request"])

    got_request_exception.connect(listen)
    monkeypatch.setattr(lifecycle, "submit_together", raising(KeyError("secret of psycopg2")))
    answer = api.post("jobs/", {"handler": "noop"}, X_Request_ID="abc-1")
    found = problem(answer, 500, "internal_error")
    got_request_exception.disconnect(listen)
    assert "secret" not in str(found)
    assert found["request_id"] == "abc-1"
    assert "secret" in caplog.text
    assert "abc-1" in caplog.text
    assert len(heard) == 1


def test_a_request_id_that_could_forge_a_log_line_is_replaced(api: Api) -> None:
    answer = api.get("jobs/?nonsense=1", X_Request_ID="a b\x1b[31m")
    assert len(problem(answer, 400, "invalid_request")["request_id"]) == 32


def test_too_fast_is_429(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JobsView, "check_throttles", raising(Throttled(wait=7)))
    answer = api.get("jobs/")
    problem(answer, 429, "throttled")
    assert answer["Retry-After"] == "7"


@pytest.mark.parametrize("method", ["put", "patch", "delete", "options"])
def test_a_method_that_is_not_there_is_405(api: Api, method: str) -> None:
    call = getattr(api.client, method)
    answer = call("/api/v1/jobs/", headers={"Authorization": api._headers["Authorization"]})
    problem(answer, 405, "method_not_allowed")


def test_addresses_that_are_not_there_are_problems_below_the_api_only(api: Api) -> None:
    problem(api.get("nothing/"), 404, "not_found")
    problem(api.get("jobs/bulk/extra/here/"), 404, "not_found")
    answer = Client().get("/nothing/")
    assert answer.status_code == 404
    assert answer["Content-Type"] != PROBLEM


def test_a_foreign_host_name_is_a_problem(settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["jobs.example.org"]
    problem(Client().get("/api/v1/jobs/", headers={"Host": "evil.example"}), 400, "bad_request")


# ------------------------------------------------------------------------------------------ health


def test_liveness_depends_on_nothing(
    django_assert_num_queries: DjangoAssertNumQueries, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(cache_url="redis://127.0.0.1:1/0")
    with django_assert_num_queries(0):
        answer = Client().get("/health/live", HTTP_AUTHORIZATION="Bearer nonsense")
    assert (answer.status_code, answer.content) == (200, b"ok")
    assert Client().post("/health/live").status_code == 405


def test_readiness_is_a_bare_word(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    assert Client().get("/health/ready").content == b"ready"
    with django_assert_num_queries(1):
        answer = Client().get("/health/ready?verbose")
    assert (answer.status_code, answer.content) == (200, b"ready")


def test_without_the_database_the_process_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "cursor", raising(OperationalError("host 10.0.0.1")))
    answer = Client().get("/health/ready")
    assert (answer.status_code, answer.content) == (503, b"not ready")
    assert answer["Retry-After"]


def test_without_all_migrations_the_process_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'jobs'")
    health._find_all_migrations.cache_clear()
    assert Client().get("/health/ready").content == b"not ready"
    # Not remembered: once they are there, the process is ready.
    monkeypatch.setattr(MigrationExecutor, "migration_plan", lambda *_: [])
    assert Client().get("/health/ready").content == b"ready"
    health._find_all_migrations.cache_clear()


@pytest.mark.parametrize("broker", [True, False])
def test_staff_see_details(
    broker: bool,
    user_factory: UserFactory,
    key_factory: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    jobs_settings: Callable[..., None],
) -> None:
    jobs_settings(cache_url="redis://127.0.0.1:1/0")
    monkeypatch.setattr(topology, "is_reachable", lambda _: broker)
    staff, other = user_factory(staff=True), user_factory()
    browser = Client()
    browser.force_login(staff)
    by_session = browser.get("/health/ready?verbose")
    by_key = Client().get(
        "/health/ready?verbose", headers={"Authorization": f"Bearer {key_factory(staff)}"}
    )
    assert by_session.status_code == 200
    found = by_session.json()
    assert found == by_key.json()
    assert found["ready"] is True
    assert (found["database"], found["cache"]) == ("ok", "unreachable")
    assert found["broker"] == ("ok" if broker else "unreachable")
    browser.force_login(other)
    assert browser.get("/health/ready?verbose").content == b"ready"
    as_other = {"Authorization": f"Bearer {key_factory(other)}"}
    assert Client().get("/health/ready?verbose", headers=as_other).content == b"ready"


# ------------------------------------------------------------------------------------------ docs


def test_the_docs_need_a_login_and_load_nothing_from_elsewhere(user_factory: UserFactory) -> None:
    browser = Client()
    answer = browser.get("/api/docs/")
    assert answer.status_code == 302
    assert answer["Location"].startswith("/admin/login/?next=/api/docs/")
    problem(browser.get("/api/schema/"), 401, "not_authenticated")
    browser.force_login(user_factory(staff=True))
    page = browser.get("/api/docs/")
    assert page.status_code == 200
    text = page.content.decode()
    assert "swagger-ui-bundle.js" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    assert finders.find("drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js")
    assert browser.get("/api/schema/").status_code == 200


def test_the_schema_is_for_key_holders(api: Api) -> None:
    answer = api.client.get(
        "/api/schema/?format=json", headers={"Authorization": api._headers["Authorization"]}
    )
    assert answer.json()["openapi"].startswith("3.1")


def test_nobody_owns_a_job_of_the_system(api: Api, user_factory: UserFactory) -> None:
    assert User.objects.count() == 1
    assert api.get("jobs/").json() == {"results": [], "next": None}
