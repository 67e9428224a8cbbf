"""Waiting clients are answered as others are, to the byte, and wait as long as others do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import User
from django.db import connections
from pytest_django import Settings

from jobs import keys, lifecycle, status_reader
from jobs.api.lane import Lane
from jobs.api.waiting import Waiting
from jobs.models import ApiKey, Scope
from jobs.states import JobState
from tests.api import BASE
from tests.asgi import Request, living, scope_of
from tests.conftest import JobFactory, UserFactory
from tests.lane import KeyFactory, World, code_of
from tests.verbs import USER
from tests.wsgi import Answer, ask

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(30)]

SOON = "wait=0.05"
LONG = "wait=20"


class Visit:
    """Clients of one waiting process."""

    def __init__(self, world: World, application: Waiting) -> None:
        self._world, self._application = world, application

    def request(self, path: str | None = None, **changes: Any) -> Request:
        environ = self._world.environ(changes)
        return Request(self._application, scope_of(path or self._world.path(), environ))

    async def answer(self, path: str | None = None, **changes: Any) -> Answer:
        return await self.request(path, **changes).answer()

    async def waits(self, *requests: Request, seconds: float = 0.3) -> None:
        await asyncio.sleep(seconds)
        assert not any(request.task.done() for request in requests)


def visit(world: World, scene: Callable[[Visit], Awaitable[None]]) -> None:
    """Play it against a process that starts and stops for it."""
    lane = Lane(world.django)

    def answers(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return lane(environ, start_response)
        finally:
            connections.close_all()

    async def played() -> None:
        application = Waiting(answers, also=["/health/"])
        async with living(application):
            await scene(Visit(world, application))

    asyncio.run(played())


def same_both_ways(world: World, path: str | None = None, **changes: Any) -> Answer:
    """The answer of the WSGI application, which the waiting one gives as well, again and again."""
    wanted = ask(world.django, path or world.path(), **world.environ(changes))
    given = Answer(
        wanted.line.split()[0],
        [(name.lower(), value) for name, value in wanted.headers],
        b"" if changes.get("REQUEST_METHOD") == "HEAD" else wanted.body,
    )

    async def scene(guest: Visit) -> None:
        for _ in range(3):
            assert await guest.answer(path, **changes) == given

    visit(world, scene)
    return wanted


# ---------------------------------------------------------------------------- the same both ways


@pytest.mark.parametrize("query", ["", SOON])
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 200),
        ({"REQUEST_METHOD": "HEAD"}, 200),
        ({"REQUEST_METHOD": "get"}, 200),
        ({"REQUEST_METHOD": "POST"}, 405),
        ({"REQUEST_METHOD": "OPTIONS"}, 405),
        ({"wsgi.url_scheme": "https"}, 200),
        ({"SCRIPT_NAME": "/below"}, 200),
        ({"CONTENT_TYPE": "text/plain; charset=rot13"}, 200),
        ({"HTTP_COOKIE": "sessionid=x"}, 200),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, 411),
        ({"HTTP_HOST": "elsewhere.example"}, 400),
        ({"HTTP_AUTHORIZATION": None}, 401),
        ({"HTTP_AUTHORIZATION": "Bearer ilk_" + "x" * 43}, 401),
        ({"HTTP_AUTHORIZATION": "Basic YWRtaW46YWRtaW4="}, 401),
        ({"HTTP_IF_NONE_MATCH": '"1.0"'}, 304),
        ({"HTTP_IF_NONE_MATCH": "*"}, 304),
        ({"HTTP_IF_NONE_MATCH": '"0.9"'}, 200),
        ({"HTTP_IF_NONE_MATCH": '"5.0"'}, 200),
    ],
    ids=str,
)
def test_requests(world: World, query: str, changes: dict[str, Any], code: int) -> None:
    assert code_of(same_both_ways(world, QUERY_STRING=query, **changes)) == code


@pytest.mark.parametrize(
    "query",
    [
        "wait=0", "wait=-1", "wait=soon", "wait=nan", "wait=inf", "wait=", "wait=0.01&wait=0.02",
        "what=ever", "wait=0.01&what=ever", "wait=%ff", "wait=+0.01", "wait=1e-2", "&&wait=0.01",
        "&".join(f"a{number}=1" for number in range(2000)),
    ],
)  # fmt: skip
def test_query_strings(world: World, query: str) -> None:
    same_both_ways(world, QUERY_STRING=query)


@pytest.mark.parametrize("state", list(JobState))
@pytest.mark.parametrize("tagged", [False, True])
def test_states(world: World, job_factory: JobFactory, state: JobState, tagged: bool) -> None:
    [job] = job_factory(state, owner_id=world.owner_id)
    path = world.path(job.id)
    tag = dict(ask(world.django, path, **world.environ({})).headers)["ETag"]
    changes = {"HTTP_IF_NONE_MATCH": tag} if tagged else {}
    answer = same_both_ways(world, path, QUERY_STRING=SOON, **changes)
    assert code_of(answer) == (304 if tagged else 200)


@pytest.mark.parametrize(
    "written", ["00000000-0000-4000-8000-000000000000", "no-id", "a%20b", "\u00e9"]
)
def test_ids_of_no_job(world: World, written: str) -> None:
    assert code_of(same_both_ways(world, world.path(written), QUERY_STRING=SOON)) == 404


def test_refusals(
    world: World, owner: User, user_factory: UserFactory, key_factory: KeyFactory
) -> None:
    without_scope = f"Bearer {key_factory(owner, Scope.SUBMIT)}"
    stranger = f"Bearer {key_factory(user_factory(staff=True))}"
    for key, code in ((without_scope, 403), (stranger, 404)):
        answer = same_both_ways(world, QUERY_STRING=LONG, HTTP_AUTHORIZATION=key)
        assert code_of(answer) == code


def test_a_redirect_keeps_the_query(world: World, settings: Settings) -> None:
    settings.SECURE_SSL_REDIRECT = True
    world.rebuilt()
    answer = same_both_ways(world, QUERY_STRING=LONG)
    assert dict(answer.headers)["Location"].endswith(f"?{LONG}")


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_health(world: World, path: str) -> None:
    assert code_of(same_both_ways(world, path)) == 200


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
@pytest.mark.parametrize("path", ["/", "/admin/", f"{BASE}jobs/", f"{BASE}jobs/status/", "//x"])
def test_other_addresses_are_not_served_here(world: World, path: str, method: str) -> None:
    async def scene(guest: Visit) -> None:
        answer = await guest.answer(path, REQUEST_METHOD=method)
        assert (answer.line, b'"not_found"' in answer.body) == ("404", True)
        assert ("x-frame-options", "DENY") in answer.headers

    visit(world, scene)


# --------------------------------------------------------------------------------------- waiting


def timed(world: World, scene: Callable[[Visit], Awaitable[None]]) -> float:
    took = []

    async def measured(guest: Visit) -> None:
        began = time.monotonic()
        await scene(guest)
        took.append(time.monotonic() - began)

    visit(world, measured)
    return took[0]


@pytest.mark.parametrize("tag", ['"1.0"', None, "*"])
def test_time_ends_the_waiting(world: World, tag: str | None) -> None:
    async def scene(guest: Visit) -> None:
        answer = await guest.answer(QUERY_STRING="wait=0.7", HTTP_IF_NONE_MATCH=tag)
        assert answer.line == ("304" if tag else "200")

    assert 0.7 <= timed(world, scene) < 5


@pytest.mark.parametrize("tag", ['"1.0"', None, "*"])
def test_news_end_the_waiting(
    world: World, tag: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With Redis only the news itself can end it in time.
    monkeypatch.setattr(status_reader, "LOOK_AGAIN_SECONDS", 600)

    async def scene(guest: Visit) -> None:
        request = guest.request(QUERY_STRING=LONG, HTTP_IF_NONE_MATCH=tag)
        await guest.waits(request)
        await asyncio.to_thread(_cancelled, world)
        answer = await request.answer(5)
        assert answer.line == ("304" if tag == "*" else "200")
        assert dict(answer.headers)["etag"] == '"2.0"'

    visit(world, scene)


def test_without_redis_the_row_is_looked_at(
    world: World, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(cache_url="")

    async def scene(guest: Visit) -> None:
        request = guest.request(QUERY_STRING=LONG, HTTP_IF_NONE_MATCH='"1.0"')
        await guest.waits(request)
        await asyncio.to_thread(_cancelled, world)
        assert (await request.answer(5)).line == "200"

    visit(world, scene)


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED])
def test_nobody_waits_for_a_job_that_has_ended(
    world: World, job_factory: JobFactory, state: JobState
) -> None:
    [job] = job_factory(state, owner_id=world.owner_id)
    path = world.path(job.id)
    tag = dict(ask(world.django, path, **world.environ({})).headers)["ETag"]

    async def scene(guest: Visit) -> None:
        for given, line in ((tag, "304"), (None, "200"), ('"0.9"', "200")):
            answer = await guest.answer(path, QUERY_STRING=LONG, HTTP_IF_NONE_MATCH=given)
            assert answer.line == line

    assert timed(world, scene) < 5


def test_the_limit_of_a_wait_holds(world: World, jobs_settings: Callable[..., None]) -> None:
    jobs_settings(wait_limit_seconds=0.3)

    async def scene(guest: Visit) -> None:
        assert (await guest.answer(QUERY_STRING="wait=1e9")).line == "200"

    assert 0.3 <= timed(world, scene) < 5


def test_beyond_the_limit_of_clients_the_answer_comes_at_once(
    world: World, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(waiting_limit=2)

    async def scene(guest: Visit) -> None:
        held = [guest.request(QUERY_STRING=LONG) for _ in range(2)]
        await guest.waits(*held)
        assert (await guest.request(QUERY_STRING=LONG).answer(2)).line == "200"
        held[0].leave()
        await held[0].task
        assert not held[0].was_answered
        another = guest.request(QUERY_STRING=LONG)
        await guest.waits(another)
        for request in (*held, another):
            request.leave()

    visit(world, scene)


def test_a_key_that_was_revoked_meanwhile_gets_no_news(world: World) -> None:
    async def scene(guest: Visit) -> None:
        held = [guest.request(QUERY_STRING=LONG) for _ in range(5)]
        await guest.waits(*held)
        await asyncio.to_thread(_revoked_and_cancelled, world)
        for request in held:
            answer = await request.answer(5)
            assert (answer.line, b"CANCELLED" in answer.body) == ("401", False)

    visit(world, scene)


def test_one_question_is_asked_for_all_who_are_alike(world: World) -> None:
    asked = []
    django = world.django

    def counting(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        asked.append(environ.get("HTTP_ACCEPT"))
        return django(environ, start_response)

    world.django = counting  # type: ignore[assignment] # called is all that it is

    async def scene(guest: Visit) -> None:
        alike = [guest.request(QUERY_STRING=LONG, HTTP_X_REQUEST_ID=str(n)) for n in range(20)]
        other = guest.request(QUERY_STRING=LONG, HTTP_ACCEPT="text/html")
        await guest.waits(*alike, other, seconds=1)
        asked.clear()
        await asyncio.to_thread(_cancelled, world)
        for request in (*alike, other):
            assert (await request.answer(5)).line == "200"
        assert sorted(asked, key=str) == [None, "text/html"]

    # The lane would answer without Django.
    conf_of_all = {"HTTP_COOKIE": "a=b"}
    environ = world.environ
    world.environ = lambda changes: environ({**conf_of_all, **changes})  # type: ignore[method-assign]
    visit(world, scene)


def _cancelled(world: World) -> None:
    try:
        lifecycle.cancel([world.job.id], actor=USER)
    finally:
        connections.close_all()


def _revoked_and_cancelled(world: World) -> None:
    try:
        keys.revoke(ApiKey.objects.values_list("id", flat=True))
        lifecycle.cancel([world.job.id], actor=USER)
    finally:
        connections.close_all()
