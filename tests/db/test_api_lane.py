"""The lane in front of Django: the same answers to the byte, and Django's where it is not sure."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from django.contrib.auth.models import User
from pytest_django import Settings

from jobs import cache, conf, keys, lifecycle, seal, status_reader
from jobs.api import throttle
from jobs.api.lane import Lane
from jobs.models import ApiKey, Job, Scope
from jobs.states import JobEvent, JobState
from jobs.values import Beat
from tests.conftest import JobFactory, UserFactory
from tests.db.conftest import PrivateRedis
from tests.lane import KeyFactory, World, code_of
from tests.verbs import USER, claim, finish, statements
from tests.wsgi import ask

pytestmark = pytest.mark.django_db(transaction=True)


def name_of(job: Job) -> str:
    return f"{conf.get().cache_prefix}:s:{job.id}"


def stored(client: redis.Redis, name: str) -> bytes:
    value = client.get(name)
    assert isinstance(value, bytes)
    return value


# ---------------------------------------------------------------------------- the same both ways


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"REQUEST_METHOD": "HEAD"},
        {"wsgi.url_scheme": "https"},
        {"HTTP_HOST": "127.0.0.1"},
        {"HTTP_HOST": "LOCALHOST"},
        {"HTTP_HOST": None},
        {"SCRIPT_NAME": "/below"},
        {"CONTENT_TYPE": "application/json"},
        {"CONTENT_TYPE": "text/plain; charset=rot13"},
        {"CONTENT_TYPE": "text/plain; name*=nothing''value"},
        {"HTTP_ACCEPT": "text/html"},
        {"HTTP_ACCEPT": "nonsense"},
        {"HTTP_ACCEPT_ENCODING": "gzip"},
        {"HTTP_ACCEPT_LANGUAGE": "de"},
        {"HTTP_ORIGIN": "https://elsewhere.example"},
        {"HTTP_RANGE": "bytes=0-9"},
        {"HTTP_USER_AGENT": "x" * 5000},
        {"HTTP_X_HTTP_METHOD_OVERRIDE": "DELETE"},
        {"HTTP_X_FORWARDED_FOR": "203.0.113.7", "HTTP_X_FORWARDED_PROTO": "https"},
        {"HTTP_X_FORWARDED_HOST": "elsewhere.example"},
        {"HTTP_X_REQUEST_ID": "\xff"},
    ],
    ids=str,
)
def test_a_plain_request_is_answered_as_django_would(world: World, changes: dict[str, Any]) -> None:
    assert code_of(world.by_lane(**changes)) == 200


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ('"1.0"', 304), ('W/"1.0"', 304), ('"7.x", "1.0"', 304), ("*", 304), (" * ", 304),
        ('"0.9"', 200), ('"1.00"', 304), ("1.0", 200), ("", 200), ("x" * 5000, 200),
        ('"99999999999999999999.1"', 200),
    ],
)  # fmt: skip
def test_what_the_client_has_is_not_sent_again(world: World, tags: str, code: int) -> None:
    answer = world.by_lane(HTTP_IF_NONE_MATCH=tags)
    assert (code_of(answer), bool(answer.body)) == (code, code == 200)


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "Bearer    "])
def test_however_the_key_is_written(world: World, scheme: str) -> None:
    assert code_of(world.by_lane(HTTP_AUTHORIZATION=f"{scheme}{world.key} \t")) == 200


@pytest.mark.parametrize("state", list(JobState))
def test_in_every_state(world: World, job_factory: JobFactory, state: JobState) -> None:
    if state is JobState.RUNNING:
        job = world.job
        [attempt] = claim([job])
        lifecycle.heartbeat([Beat(attempt.job_id, attempt.token, 0.5, "half é \u2028 \U0001f600")])
    else:
        [job] = job_factory(state, owner_id=world.owner_id)
    assert f'"state":"{state}"'.encode() in world.by_lane(world.path(job.id)).body


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"QUERY_STRING": "wait=0"}, 200),
        ({"QUERY_STRING": "wait=soon"}, 400),
        ({"QUERY_STRING": "what=ever"}, 400),
        ({"HTTP_COOKIE": "sessionid=x"}, 200),
        ({"HTTP_COOKIE": f"csrftoken={'x' * 32}"}, 200),
        ({"CONTENT_LENGTH": "2"}, 200),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, 411),
        ({"REQUEST_METHOD": "POST"}, 405),
        ({"REQUEST_METHOD": "OPTIONS"}, 405),
        ({"REQUEST_METHOD": "get"}, 200),
        ({"HTTP_HOST": "elsewhere.example"}, 400),
        ({"HTTP_HOST": "localhost/x"}, 400),
        ({"HTTP_AUTHORIZATION": None}, 401),
        ({"HTTP_AUTHORIZATION": "Bearer ilk_" + "x" * 43}, 401),
        ({"HTTP_AUTHORIZATION": "Basic YWRtaW46YWRtaW4="}, 401),
        ({"HTTP_IF_NONE_MATCH": '"5.0"'}, 200),
    ],
    ids=str,
)
def test_whatever_is_not_plain_is_djangos(world: World, changes: dict[str, Any], code: int) -> None:
    world.both()
    assert code_of(world.by_django(**changes)) == code


@pytest.mark.parametrize(
    "written",
    [lambda i: str(i).upper(), lambda i: i.hex, lambda i: f"{{{i}}}", lambda i: f"{i}\n",
     lambda i: "no-id", lambda i: f"{i}/status", lambda i: f"/{i}", lambda _: uuid4()],
)  # fmt: skip
def test_other_spellings_of_an_id_are_djangos(
    world: World, written: Callable[[UUID], object]
) -> None:
    world.both()
    world.by_django(world.path(written(world.job.id)))


@pytest.mark.parametrize("end", ["", "status", "status//", "result/", "status/x"])
def test_other_addresses_are_djangos(world: World, end: str) -> None:
    world.by_django(world.path().removesuffix("status/") + end)


# ----------------------------------------------------------------------------- who may see what


def test_a_key_without_the_scope_sees_nothing(
    world: World, owner: User, key_factory: KeyFactory
) -> None:
    world.both()
    submitter = key_factory(owner, Scope.SUBMIT, Scope.OPERATE)
    assert code_of(world.by_django(HTTP_AUTHORIZATION=f"Bearer {submitter}")) == 403


def test_a_strangers_job_is_no_job(
    world: World, user_factory: UserFactory, key_factory: KeyFactory, job_factory: JobFactory
) -> None:
    stranger = user_factory(staff=True)
    [theirs] = job_factory(owner_id=stranger.pk)
    key = f"Bearer {key_factory(stranger)}"
    assert code_of(world.by_lane()) == 200
    assert code_of(world.by_lane(world.path(theirs.id), HTTP_AUTHORIZATION=key)) == 200
    assert code_of(world.by_django(HTTP_AUTHORIZATION=key)) == 404
    unknown = world.by_django(world.path(uuid4()), HTTP_AUTHORIZATION=key)
    assert world.by_django(HTTP_AUTHORIZATION=key) == unknown


def test_nobodys_job_is_no_job(world: World, job_factory: JobFactory) -> None:
    [job] = job_factory(owner_id=None)
    assert code_of(world.by_django(world.path(job.id))) == 404


def test_a_revoked_key_is_refused_at_once(world: World) -> None:
    world.by_lane()
    keys.revoke(ApiKey.objects.values_list("id", flat=True))
    assert code_of(world.by_django()) == 401


def test_a_key_whose_copy_is_gone_is_looked_up_by_django(
    world: World, redis_cache: redis.Redis
) -> None:
    world.by_lane()
    User.objects.update(is_active=False)
    redis_cache.delete(keys.name_of(ApiKey.digest_of(world.key)))
    assert code_of(world.by_django()) == 401


@pytest.mark.parametrize("place", ["rank", "id", "seal", "body", "all"])
def test_a_copy_that_somebody_has_changed_is_not_shown(
    world: World, redis_cache: redis.Redis, job_factory: JobFactory, place: str
) -> None:
    [other] = job_factory(JobState.COMPLETED, owner_id=world.owner_id)
    wanted = world.by_lane()
    value = stored(redis_cache, name_of(world.job))
    rank, owner, job_id, mark, body = value.split(b":", 4)
    forged = {
        "rank": b":".join((b"9.9", owner, job_id, mark, body)),
        "id": b":".join((rank, owner, str(other.id).encode(), mark, body)),
        "seal": b":".join((rank, owner, job_id, b"0" * seal.LENGTH, body)),
        "body": b":".join((rank, owner, job_id, mark, body.replace(b"PENDING", b"RUNNING"))),
        "all": stored(redis_cache, name_of(other)),
    }[place]
    assert forged != value
    for _ in range(3):
        redis_cache.set(name_of(world.job), forged)
        assert ask(world.lane, world.path(), **world.environ({})) == wanted


def test_a_copy_that_names_another_owner_is_shown_to_nobody(
    world: World, redis_cache: redis.Redis, user_factory: UserFactory, job_factory: JobFactory
) -> None:
    [theirs] = job_factory(owner_id=user_factory().pk)
    world.by_lane()
    status_reader.one(theirs.id)
    value = stored(redis_cache, name_of(theirs))
    rank, _, rest = value.split(b":", 2)
    for _ in range(3):
        redis_cache.set(name_of(theirs), b"%b:%d:%b" % (rank, world.owner_id, rest))
        assert code_of(ask(world.lane, world.path(theirs.id), **world.environ({}))) == 404


def test_a_key_that_somebody_has_changed_speaks_for_nobody_else(
    world: World, redis_cache: redis.Redis, user_factory: UserFactory, job_factory: JobFactory
) -> None:
    other = user_factory()
    [theirs] = job_factory(owner_id=other.pk)
    status_reader.one(theirs.id)
    assert redis_cache.exists(name_of(theirs))
    world.by_lane()
    name = keys.name_of(ApiKey.digest_of(world.key))
    value = stored(redis_cache, name)
    forged = value.replace(b", %d," % world.owner_id, b", %d," % other.pk)
    assert forged != value
    for _ in range(3):
        redis_cache.set(name, forged)
        assert code_of(ask(world.lane, world.path(theirs.id), **world.environ({}))) == 404


@pytest.mark.parametrize("whose", ["key", "status"])
@pytest.mark.parametrize("value", [b"", b"\xff\xfe", b"lease:x", b"1.0:7:x:y:{}", b"x" * 200_000])
def test_garbage_in_redis_is_djangos(
    world: World, redis_cache: redis.Redis, whose: str, value: bytes
) -> None:
    world.by_lane()
    wanted = ask(world.django, world.path(), **world.environ({}))
    key = keys.name_of(ApiKey.digest_of(world.key))
    redis_cache.set(key if whose == "key" else name_of(world.job), value)
    before = world.behind.count
    assert ask(world.lane, world.path(), **world.environ({})) == wanted
    assert world.behind.count == before + 1


def test_values_of_another_kind_are_djangos(world: World, redis_cache: redis.Redis) -> None:
    wanted = world.by_lane()
    redis_cache.delete(name_of(world.job))
    redis_cache.rpush(name_of(world.job), "x")
    before = world.behind.count
    assert ask(world.lane, world.path(), **world.environ({})) == wanted
    assert world.behind.count == before + 1


# --------------------------------------------------------------------------------- never backwards


def test_what_others_were_shown_meanwhile_is_not_taken_back(
    world: World, jobs_settings: Callable[..., None], redis_cache: redis.Redis
) -> None:
    assert b'"version":1' in world.by_lane().body
    url = conf.get().cache_url
    jobs_settings(cache_url="")
    finish(claim([world.job]), JobEvent.FAIL)
    assert b'"version":3' in world.by_django().body
    jobs_settings(cache_url=url)
    old = stored(redis_cache, name_of(world.job))
    assert old.startswith(b"1.0:")
    answer = ask(world.lane, world.path(), **world.environ({}))
    assert b'"version":3' in answer.body
    assert b'"version":3' in world.by_lane().body


def test_after_an_outage_a_copy_is_compared_with_the_row(world: World) -> None:
    world.by_lane()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "ask", lambda *_, **__: None)
        lifecycle.cancel([world.job.id], actor=USER)
    # Redis failed, and answers again.
    cache.breaker.trip(0.0)
    cache.ask(lambda r: r.ping())
    answer = ask(world.lane, world.path(), **world.environ({}))
    assert b"CANCELLED" in answer.body


def test_a_tag_above_the_copy_is_answered_from_the_row(
    world: World, redis_cache: redis.Redis
) -> None:
    world.by_lane()
    old = stored(redis_cache, name_of(world.job))
    finish(claim([world.job]), JobEvent.FAIL)
    redis_cache.set(name_of(world.job), old)
    assert b'"version":1' in world.by_lane().body
    answer = ask(world.lane, world.path(), **world.environ({"HTTP_IF_NONE_MATCH": '"2.0"'}))
    assert b'"version":3' in answer.body


# --------------------------------------------------------------------------------- one round trip


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Everything that goes to Redis, one entry for each time that something is sent."""
    packets: list[Any] = []
    send = redis.connection.Connection.send_packed_command

    def counted(connection: Any, command: Any, check_health: bool = True) -> None:
        packets.append(command)
        send(connection, command, check_health)  # type: ignore[no-untyped-call] # redis-py leaves it untyped

    monkeypatch.setattr(redis.connection.Connection, "send_packed_command", counted)
    return packets


@pytest.mark.parametrize("tags", ["", '"1.0"'])
def test_a_hit_is_one_question_to_redis_and_none_to_the_database(
    world: World, sent: list[Any], tags: str
) -> None:
    world.by_lane(HTTP_IF_NONE_MATCH=tags)
    sent.clear()
    before = world.behind.count
    with statements() as sql:
        ask(world.lane, world.path(), **world.environ({"HTTP_IF_NONE_MATCH": tags}))
    assert sql == []
    [[packet]] = sent
    assert packet.startswith(b"*3\r\n$4\r\nMGET\r\n")
    assert world.behind.count == before


def test_who_has_shown_no_valid_key_costs_redis_nothing(world: World, sent: list[Any]) -> None:
    lane = Lane(lambda *_: [])
    throttle.forget()
    sent.clear()
    for changes in ({}, {"HTTP_AUTHORIZATION": "Bearer ilk_" + "x" * 43}):
        environ = world.environ(changes) | {"REQUEST_METHOD": "GET", "PATH_INFO": world.path()}
        assert lane(environ, lambda *_: lambda __: None) == []
    assert sent == []


# ------------------------------------------------------------------------------------ wrong keys


def test_wrong_keys_are_counted_and_refused(
    world: World,
    jobs_settings: Callable[..., None],
    user_factory: UserFactory,
    key_factory: KeyFactory,
) -> None:
    jobs_settings(auth_failures_limit=5, auth_failures_window_seconds=3600)
    world.by_lane()
    for number in range(5):
        wrong = f"Bearer ilk_{number:06d}{'x' * 37}"
        answer = ask(world.lane, world.path(), **world.environ({"HTTP_AUTHORIZATION": wrong}))
        assert code_of(answer) == 401
    newcomer = key_factory(User.objects.get(pk=world.owner_id))
    # Its copy is in Redis, and yet this process has never seen it.
    assert keys.look_up(newcomer) is not None
    environ = world.environ({"HTTP_AUTHORIZATION": f"Bearer {newcomer}"})
    assert code_of(ask(world.lane, world.path(), **environ)) == 429
    assert code_of(world.by_lane()) == 200
    elsewhere = {"HTTP_AUTHORIZATION": f"Bearer {newcomer}", "REMOTE_ADDR": "192.0.2.9"}
    assert code_of(world.by_lane(**elsewhere)) == 200


# --------------------------------------------------------------------------------- without Redis


def test_without_redis_django_answers(world: World, jobs_settings: Callable[..., None]) -> None:
    wanted = world.by_lane()
    jobs_settings(cache_url="")
    assert world.by_django() == wanted


def test_with_redis_away_django_answers(world: World, jobs_settings: Callable[..., None]) -> None:
    wanted = world.by_lane()
    jobs_settings(cache_url="redis://127.0.0.1:1/0", cache_retry_seconds=60)
    assert world.by_django() == wanted
    assert cache.breaker.is_open()


def test_a_frozen_redis_delays_one_request(
    world: World, private_redis: PrivateRedis, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(cache_url=private_redis.url, cache_timeout_seconds=0.2, cache_retry_seconds=30)
    wanted = world.by_lane()
    private_redis.freeze()
    begun = time.monotonic()
    for _ in range(20):
        assert ask(world.lane, world.path(), **world.environ({})) == wanted
    # One bounded wait, not twenty; the rest is what a slow machine needs for the queries.
    assert 0.2 <= time.monotonic() - begun < 3
    private_redis.thaw()


# ------------------------------------------------------------------------- the project's settings


MIDDLEWARE = "tests.db.test_api_lane"


class Varying:
    """Middleware that marks every answer with another number."""

    count = 0

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response

    def __call__(self, request: Any) -> Any:
        response = self._get_response(request)
        Varying.count += 1
        response["X-Number"] = str(Varying.count)
        return response


def test_middleware_that_is_not_understood_closes_the_lane(
    world: World, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware", *settings.MIDDLEWARE]
    world.rebuilt()
    assert "GZipMiddleware" in caplog.text
    world.by_django()
    world.rebuilt(harmless=["django.middleware.gzip.GZipMiddleware"])
    world.by_lane()


def test_answers_that_differ_are_not_repeated(world: World, settings: Settings) -> None:
    settings.MIDDLEWARE = [f"{MIDDLEWARE}.Varying", *settings.MIDDLEWARE]
    world.rebuilt(harmless=[f"{MIDDLEWARE}.Varying"])
    numbers = [
        dict(ask(world.lane, world.path(), **world.environ({})).headers)["X-Number"]
        for _ in range(5)
    ]
    assert len(set(numbers)) == 5


def test_without_middleware_there_is_no_more_than_the_view_says(
    world: World, settings: Settings
) -> None:
    settings.MIDDLEWARE = []
    world.rebuilt()
    names = {name for name, _ in world.by_lane().headers}
    assert names == {"ETag", "Cache-Control", "Content-Type", "Allow"}


def test_plain_http_is_redirected_and_https_is_pinned(world: World, settings: Settings) -> None:
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_HSTS_SECONDS = 60
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    world.rebuilt()
    secure = world.by_lane(HTTP_X_FORWARDED_PROTO="https")
    assert ("Strict-Transport-Security", "max-age=60") in secure.headers
    assert code_of(world.by_django()) == 301
    assert code_of(world.by_django(HTTP_X_FORWARDED_PROTO="http")) == 301


def test_the_host_is_the_one_that_django_checks(world: World, settings: Settings) -> None:
    settings.USE_X_FORWARDED_HOST = True
    world.rebuilt()
    world.by_lane()
    world.by_lane(HTTP_X_FORWARDED_HOST="localhost")
    assert code_of(world.by_django(HTTP_X_FORWARDED_HOST="elsewhere.example")) == 400


def test_a_user_agent_that_django_refuses_is_refused(world: World, settings: Settings) -> None:
    settings.DISALLOWED_USER_AGENTS = [re.compile("^rude")]
    world.rebuilt()
    world.by_lane(HTTP_USER_AGENT="polite")
    assert code_of(world.by_django(HTTP_USER_AGENT="rude")) == 403


def test_a_prefix_where_nothing_is_mounted_is_djangos(
    world: World, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(api_prefix="/elsewhere/")
    world.rebuilt()
    assert code_of(world.by_django(f"/elsewhere/jobs/{world.job.id}/status/")) == 404


def test_what_is_remembered_of_answers_is_bounded(
    world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.api.lane._MOST", 10)
    settings.ALLOWED_HOSTS = ["*"]
    world.rebuilt()
    for number in range(50):
        world.both(HTTP_HOST=f"host-{number}")
    templates = world.lane._templates
    assert len(templates._last) <= 10
    assert len(templates._agreed) <= 10
    world.by_lane()


def test_the_platform_has_a_lane() -> None:
    code = "from interlock.wsgi import application; print(type(application).__name__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "Lane\n"
    # Nothing closes it.
    assert "because of" not in run.stderr
