"""What all rings share: clean state between tests, and factories.

Redis is off unless a test asks for it (fixture ``redis_cache``), so that a test that does not speak
of Redis cannot depend on what another test left there. Jobs are brought into a state by the real
verbs (``job_factory``), never by writing columns.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

import hypothesis
import pytest
import redis
from django.contrib.auth.models import User
from django.db import connection
from hypothesis.configuration import set_hypothesis_home_dir
from pytest_django import DjangoDbBlocker, Settings

from jobs import cache, drain, events, keys, lifecycle, observers, testing
from jobs.announcing import Ringer
from jobs.api import quota, throttle
from jobs.models import Job, Scope
from jobs.states import JobEvent, JobState
from tests import environment
from tests.verbs import USER, Facts, claim, finish, submit

testing.allow_flush()

# Nothing kept in the checkout, and no deadline: machines that run tests are slow at times.
set_hypothesis_home_dir(os.environ["INTERLOCK_DATA_DIR"])
hypothesis.settings.register_profile("tests", database=None, deadline=None)
hypothesis.settings.load_profile("tests")

IDLE_SESSIONS_SECONDS = 20.0
#: The Redis database that tests may empty, another for each of several pytest processes; the
#: application's own is database 0.
CACHE_DATABASE = int(os.environ.get("INTERLOCK_TEST_CACHE_DATABASE", "15")) - int(
    os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> None:
    """Before anything connects: is there a server? Each of several processes has a database."""
    if not environment.has_database():
        pytest.exit(environment.HOW_TO, returncode=2)


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Threads of the engine that a test has left idle close their sessions within a heartbeat."""
    yield
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        ends = time.monotonic() + IDLE_SESSIONS_SECONDS
        while True:
            cursor.execute(
                "SELECT array_agg(concat_ws(': ', application_name, query)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            [others] = cursor.fetchone()
            if not others:
                break
            assert time.monotonic() < ends, f"sessions that nobody closes: {others}"
            time.sleep(0.05)
    # Where the engine has given up a connection of ours, this is another than Django's own teardown
    # knows of.
    connection.close()


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """A directory for socket files, whose names may have no more than some 100 bytes."""
    with tempfile.TemporaryDirectory(prefix="s-") as name:
        yield Path(name)


# ------------------------------------------------------------------------------------- clean state


@pytest.fixture
def jobs_settings(settings: Settings) -> Callable[..., None]:
    """Override keys of ``settings.JOBS`` for one test: ``jobs_settings(lease_seconds=1)``."""

    def override(**values: Any) -> None:
        settings.JOBS = {**settings.JOBS, **values}

    return override


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Iterator[None]:
    """No Redis, no stop left over, files in a directory of the test's own."""
    settings.JOBS = {**settings.JOBS, "cache_url": "", "cache_prefix": f"t{uuid4().hex[:8]}"}
    files = {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": str(tmp_path / "files")},
    }
    settings.STORAGES = {**settings.STORAGES, "default": files, "jobs": files}
    # The real hasher is slow on purpose, and a user is made in most tests.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    cache.breaker.forget()
    drain.clear()
    testing.gate.cache_clear()
    throttle.forget()
    quota.forget()
    yield
    cache.breaker.forget()
    drain.clear()


@pytest.fixture
def redis_cache(
    jobs_settings: Callable[..., None], _clean: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[redis.Redis]:
    """Redis is on, in a database of the tests' own, which is empty before and after the test. The
    first submit rings at once, and no bell of another test rings."""
    given = os.environ.get("CACHE_URL", "")
    if not given:
        pytest.exit(environment.HOW_TO, returncode=2)
    url = urlsplit(given)._replace(path=f"/{CACHE_DATABASE}").geturl()
    # Machines that run the tests are slow at times; the short bound has a test of its own.
    jobs_settings(cache_url=url, cache_timeout_seconds=5.0)
    client = redis.Redis.from_url(url)
    client.flushdb()
    observers._ringer.flush()
    ringer = Ringer(observers._wake_relay, observers._quiet_seconds)
    monkeypatch.setattr(observers, "_ringer", ringer)
    yield client
    ringer.flush()
    client.flushdb()
    client.close()


@pytest.fixture
def facts() -> Iterator[Facts]:
    """Collects every fact that is told during the test."""
    collected = Facts()
    events.subscribe(collected)
    yield collected
    events.unsubscribe(collected)


# ---------------------------------------------------------------------------------------- factories


class UserFactory(Protocol):
    def __call__(self, *, staff: bool = False, **fields: Any) -> User: ...


@pytest.fixture
def user_factory(db: None) -> UserFactory:
    """Makes users; ``staff=True`` makes superusers."""

    def make(*, staff: bool = False, **fields: Any) -> User:
        name = fields.pop("username", f"user-{uuid4().hex[:12]}")
        fields |= {"is_staff": staff, "is_superuser": staff}
        return User.objects.create_user(name, password="a long password", **fields)

    return make


@pytest.fixture
def key_factory(db: None) -> Callable[..., str]:
    """Issues API keys with all scopes, or those given; returns the secret."""

    def make(user: User, *scopes: Scope, name: str = "test") -> str:
        return keys.issue(user.pk, name, scopes or list(Scope))

    return make


class JobFactory(Protocol):
    def __call__(
        self, state: JobState = JobState.PENDING, count: int = 1, **fields: Any
    ) -> list[Job]: ...


@pytest.fixture
def job_factory(db: None) -> JobFactory:
    """Makes jobs in a state by the real verbs; ``fields`` go to ``Submission``."""

    def make(state: JobState = JobState.PENDING, count: int = 1, **fields: Any) -> list[Job]:
        jobs = submit(count, **fields)
        ids = [job.id for job in jobs]
        if state is JobState.CANCELLED:
            lifecycle.cancel(ids, actor=USER, reason="made for a test")
        elif state is not JobState.PENDING:
            attempts = claim(jobs)
            if state is JobState.COMPLETED:
                finish(attempts, JobEvent.SUCCEED, result={"answer": 42})
            elif state is JobState.FAILED:
                finish(attempts, JobEvent.FAIL, reason="made for a test")
        rows = Job.objects.in_bulk(ids)
        return [rows[job_id] for job_id in ids]

    return make
