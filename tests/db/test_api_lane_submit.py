"""Submits in front of Django: the same answers, and Django's where anything is out of the way."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from pytest_django import Settings

from interlock.handler import Utf8Handler
from jobs import keys, lifecycle
from jobs.api import quota, throttle
from jobs.api.lane import Lane
from jobs.models import ApiKey, AuditEntry, Job, Scope
from jobs.states import ActorKind
from tests.api import BASE
from tests.conftest import UserFactory
from tests.db.test_api_submit import ONE, WRONG_BODIES, WRONG_FIELDS
from tests.lane import SAME, Counted, KeyFactory, code_of
from tests.verbs import HANDLER, statements
from tests.wsgi import Answer, ask

pytestmark = pytest.mark.django_db(transaction=True)

_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Desk:
    """Where one owner submits: Django, and the lane in front of it."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.rebuilt()

    def rebuilt(self, **options: Any) -> Desk:
        """As after a start of the process with the present settings."""
        self.django = Utf8Handler()
        self.behind = Counted(self.django)
        self.lane = Lane(self.behind, **options)
        # The first shows the key, and two more what Django says.
        for _ in range(3):
            assert code_of(self.sent(ONE)) == 201
        self.behind.count = 0
        return self

    def environ(self, content: bytes, changes: dict[str, Any]) -> dict[str, Any]:
        return {
            "REQUEST_METHOD": "POST",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(content)),
            "HTTP_AUTHORIZATION": f"Bearer {self.key}",
            **SAME,
            **changes,
        }

    def sent(
        self, wanted: object, path: str = f"{BASE}jobs/", *, way: Any = None, **changes: Any
    ) -> Answer:
        """The answer of the lane, or of another ``way``."""
        content = wanted if isinstance(wanted, bytes) else json.dumps(wanted).encode()
        environ = self.environ(content, changes)
        return ask(way or self.lane, path, content, **environ)

    def both(self, wanted: object, path: str = f"{BASE}jobs/", **changes: Any) -> bool:
        """Whether the lane answers by itself. Both ways say the same, but for the job's id."""
        by_django = self.sent(wanted, path, way=self.django, **changes)
        for _ in range(2):
            assert same(self.sent(wanted, path, **changes)) == same(by_django)
        before = self.behind.count
        assert same(self.sent(wanted, path, **changes)) == same(by_django)
        return self.behind.count == before


def same(answer: Answer) -> Answer:
    """Without the ids of jobs."""
    headers = [(name, _ID.sub("ID", value)) for name, value in answer.headers]
    return Answer(answer.line, headers, _ID.sub("ID", answer.body.decode()).encode())


@pytest.fixture
def desk(redis_cache: redis.Redis, owner: User, key_factory: KeyFactory) -> Desk:
    return Desk(key_factory(owner))


# ---------------------------------------------------------------------------- the same both ways


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"payload": {}},
        {"payload": {"value": {"é": ["\U0001f600", 1.5, None]}}},
        {"priority": 9, "tenant": "acme", "max_attempts": 3},
        {"delay_seconds": 60},
        {"due_at": "2040-01-31T14:00:00+02:00"},
    ],
    ids=str,
)
def test_a_plain_submit_is_answered_as_django_would(desk: Desk, more: dict[str, Any]) -> None:
    assert desk.both({**ONE, **more})


@pytest.mark.parametrize(
    "changes",
    [
        {"wsgi.url_scheme": "https"},
        {"HTTP_HOST": "127.0.0.1"},
        {"SCRIPT_NAME": "/below"},
        {"HTTP_ACCEPT": "text/html"},
        {"HTTP_ORIGIN": "https://elsewhere.example"},
        {"HTTP_X_HTTP_METHOD_OVERRIDE": "DELETE"},
        {"HTTP_EXPECT": "100-continue"},
    ],
    ids=str,
)
def test_however_it_comes(desk: Desk, changes: dict[str, Any]) -> None:
    assert desk.both(ONE, **changes)


def test_the_job_is_the_owners_and_signed_by_them(desk: Desk, owner: User) -> None:
    answer = desk.sent({**ONE, "tenant": "by lane", "priority": 7})
    assert desk.behind.count == 0
    said = json.loads(answer.body)
    job = Job.objects.get(tenant="by lane")
    assert said["id"] == str(job.id)
    assert dict(answer.headers)["Location"] == f"{BASE}jobs/{job.id}/"
    assert (job.owner_id, job.handler, job.priority) == (owner.pk, HANDLER, 7)
    entry = AuditEntry.objects.get(job_id=job.id)
    assert (entry.actor_kind, entry.actor_id) == (ActorKind.USER, str(owner.pk))


def test_it_is_one_statement(desk: Desk) -> None:
    with statements() as sql:
        desk.sent(ONE)
    assert len(sql) == 1
    assert desk.behind.count == 0


# ------------------------------------------------------------------------ whatever is not plain


@pytest.mark.parametrize(("wanted", "path"), WRONG_FIELDS)
def test_wrong_fields_are_djangos_to_name(
    desk: Desk, wanted: dict[str, Any], path: str | None
) -> None:
    before = Job.objects.count()
    assert not desk.both(wanted)
    answer = desk.sent(wanted)
    assert code_of(answer) == 400
    assert path is None or path.encode() in answer.body
    assert Job.objects.count() == before


@pytest.mark.parametrize(("content", "code"), WRONG_BODIES)
def test_bodies_that_are_no_good_json_are_djangos(desk: Desk, content: bytes, code: str) -> None:
    assert not desk.both(content)
    assert code.encode() in desk.sent(content).body


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"QUERY_STRING": "a=b"}, 201),
        ({"HTTP_COOKIE": "a=b"}, 201),
        ({"CONTENT_TYPE": "application/json; charset=utf-8"}, 201),
        ({"CONTENT_TYPE": "APPLICATION/JSON"}, 201),
        ({"CONTENT_TYPE": "text/plain"}, 415),
        ({"CONTENT_TYPE": None}, 415),
        ({"CONTENT_LENGTH": None}, 400),
        ({"CONTENT_LENGTH": ""}, 400),
        ({"CONTENT_LENGTH": "-1"}, 400),
        ({"CONTENT_LENGTH": "\u0663"}, 400),
        ({"CONTENT_LENGTH": "3"}, 400),
        ({"HTTP_CONTENT_ENCODING": "gzip"}, 415),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, 201),
        ({"REQUEST_METHOD": "PUT"}, 405),
        ({"REQUEST_METHOD": "post"}, 201),
        ({"HTTP_HOST": "elsewhere.example"}, 400),
        ({"HTTP_AUTHORIZATION": None}, 401),
        ({"HTTP_AUTHORIZATION": "Bearer ilk_" + "x" * 43}, 401),
    ],
    ids=str,
)
def test_unusual_requests_are_djangos(desk: Desk, changes: dict[str, Any], code: int) -> None:
    assert not desk.both(ONE, **changes)
    assert code_of(desk.sent(ONE, **changes)) == code


@pytest.mark.parametrize("path", ["jobs", "jobs//", "jobs/bulk/", "JOBS/", "jobs/x/"])
def test_other_addresses_are_djangos(desk: Desk, path: str) -> None:
    assert not desk.both(ONE, f"{BASE}{path}")


def test_large_bodies_are_djangos(desk: Desk) -> None:
    assert not desk.both({**ONE, "payload": {"value": "x" * 20_000}})
    assert code_of(desk.sent({**ONE, "payload": {"value": "x" * 20_000}})) == 201


def test_keys_are_djangos(desk: Desk) -> None:
    first = desk.sent(ONE, HTTP_IDEMPOTENCY_KEY="k")
    again = desk.sent(ONE, HTTP_IDEMPOTENCY_KEY="k")
    assert (code_of(first), code_of(again)) == (201, 200)
    unique = {**ONE, "unique_key": "u"}
    assert (code_of(desk.sent(unique)), code_of(desk.sent(unique))) == (201, 200)
    assert desk.behind.count == 4


def test_a_key_without_the_scope_submits_nothing(
    desk: Desk, owner: User, key_factory: KeyFactory
) -> None:
    reader = f"Bearer {key_factory(owner, Scope.READ, Scope.OPERATE)}"
    before = Job.objects.count()
    assert not desk.both(ONE, HTTP_AUTHORIZATION=reader)
    assert code_of(desk.sent(ONE, HTTP_AUTHORIZATION=reader)) == 403
    assert Job.objects.count() == before


def test_a_revoked_key_submits_nothing(desk: Desk) -> None:
    keys.revoke(ApiKey.objects.values_list("id", flat=True))
    before = Job.objects.count()
    assert code_of(desk.sent(ONE)) == 401
    assert Job.objects.count() == before


def test_a_key_that_somebody_has_changed_speaks_for_nobody_else(
    desk: Desk, redis_cache: redis.Redis, owner: User, user_factory: UserFactory
) -> None:
    other = user_factory()
    name = keys.name_of(ApiKey.digest_of(desk.key))
    value = redis_cache.get(name)
    assert isinstance(value, bytes)
    redis_cache.set(name, value.replace(b", %d," % owner.pk, b", %d," % other.pk))
    desk.sent(ONE)
    assert not Job.objects.filter(owner_id=other.pk).exists()


def test_more_than_an_owner_may_have_waiting_is_refused_by_django(
    desk: Desk, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(pending_limit_per_owner=Job.objects.count() + 1)
    quota.forget()
    assert [code_of(desk.sent(ONE)) for _ in range(3)] == [201, 429, 429]


def test_before_a_key_was_valid_here_nothing_is_read(desk: Desk) -> None:
    throttle.forget()
    assert code_of(desk.sent(ONE)) == 201
    assert desk.behind.count == 1


# --------------------------------------------------------------------------------- what goes wrong


def test_without_redis_django_answers(desk: Desk, jobs_settings: Callable[..., None]) -> None:
    jobs_settings(cache_url="")
    assert not desk.both(ONE)


def test_what_failed_is_not_tried_a_second_time(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit whose answer was lost has made a job, and the next try would make another."""
    submit = lifecycle.submit_together

    def losing(*args: Any, **named: Any) -> Any:
        submit(*args, **named)
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(lifecycle, "submit_together", losing)
    before = Job.objects.count()
    assert code_of(desk.sent(ONE)) == 503
    assert Job.objects.count() == before + 1


def test_with_the_database_away_django_says_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise OperationalError("connection refused")

    monkeypatch.setattr(lifecycle, "submit_together", away)
    answer = desk.sent(ONE)
    assert code_of(answer) == 503
    assert "Retry-After" in dict(answer.headers)


def test_connections_are_kept_as_long_as_the_settings_say(desk: Desk, settings: Settings) -> None:
    connection.close_at = 0.0
    desk.sent(ONE)
    assert connection.connection is None or connection.close_at != 0.0


def test_the_lane_is_closed_by_middleware_that_is_not_understood(
    desk: Desk, settings: Settings
) -> None:
    settings.MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware", *settings.MIDDLEWARE]
    desk.rebuilt()
    assert not desk.both(ONE)
