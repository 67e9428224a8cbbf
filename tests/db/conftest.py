"""Callers of this ring: a client of the API, and browsers of people who are in the admin.

And a Redis that a test may freeze.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from django.contrib.auth.models import Permission, User
from django.test import Client

from tests.admin import ClientFor
from tests.api import Api
from tests.conftest import JobFactory
from tests.lane import KeyFactory, World


@pytest.fixture
def owner(user_factory: Callable[..., User]) -> User:
    return user_factory(username="owner")


@pytest.fixture
def api(owner: User, key_factory: Callable[..., str]) -> Api:
    """Speaks for ``owner``, with all scopes."""
    return Api(key_factory(owner))


@pytest.fixture
def world(
    redis_cache: redis.Redis, owner: User, key_factory: KeyFactory, job_factory: JobFactory
) -> World:
    """``owner`` with a key and a job."""
    [job] = job_factory(owner_id=owner.pk)
    return World(key_factory(owner), job)


@pytest.fixture
def client_for(user_factory: Callable[..., User]) -> ClientFor:
    """A browser of a staff user with these permissions; ``"all"`` is a superuser."""

    def make(*codenames: str, csrf: bool = False) -> Client:
        user = user_factory(staff=codenames == ("all",))
        user.is_staff = True
        user.save()
        user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
        client = Client(enforce_csrf_checks=csrf)
        client.force_login(user)
        return client

    return make


@pytest.fixture
def root(client_for: ClientFor) -> Client:
    return client_for("all")


@dataclass
class PrivateRedis:
    """A redis-server of this test's own, which it may freeze."""

    process: subprocess.Popen[bytes]
    url: str

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)


@pytest.fixture
def private_redis(socket_path: Path) -> Iterator[PrivateRedis]:
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.skip("no redis-server on PATH")
    socket = socket_path / "redis.sock"
    process = subprocess.Popen(
        [
            program,
            "--port",
            "0",
            "--unixsocket",
            str(socket),
            "--save",
            "",
            "--dir",
            str(socket_path),
        ],
        stdout=subprocess.DEVNULL,
    )
    url = f"unix://{socket}?db=0"
    client = redis.Redis.from_url(url)
    deadline = time.monotonic() + 20
    while True:
        try:
            client.ping()
            break
        except redis.RedisError:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
    client.close()
    yield PrivateRedis(process, url)
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


def cut(server: redis.Redis, connection: Any) -> None:
    """Close this connection from the server's side, and none of the tests that run beside this."""
    host, port = connection._sock.getsockname()[:2]
    assert server.client_kill_filter(addr=f"{host}:{port}") == 1
