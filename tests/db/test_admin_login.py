"""The admin's login: nobody tries passwords without end, and nobody locks anybody out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from interlock import login
from interlock.models import LoginCount
from tests.conftest import UserFactory

LOGIN = "/admin/login/"
RIGHT = "a long password"


@pytest.fixture
def person(user_factory: UserFactory) -> User:
    return user_factory(staff=True, username="person")


def attempt(
    name: str = "person", password: str = "wrong", address: str = "192.0.2.1", **more: Any
) -> Any:
    data = {"username": name, "password": password, "next": "/admin/"}
    return Client().post(LOGIN, data, REMOTE_ADDR=address, **more)


def fail(count: int, **fields: Any) -> None:
    for _ in range(count):
        assert attempt(**fields).status_code == 200


def test_who_knows_the_password_comes_in(person: User) -> None:
    for _ in range(login.PER_NAME * 2):
        assert attempt(password=RIGHT).status_code == 302
    # Nothing is held against who succeeds.
    assert set(LoginCount.objects.values_list("tries", flat=True)) == {0}


def test_guessing_a_password_ends_in_429(person: User) -> None:
    fail(login.PER_NAME)
    answer = attempt()
    assert answer.status_code == 429
    assert 0 < int(answer["Retry-After"]) <= login.WINDOW_SECONDS
    assert answer["Cache-Control"] == "no-store"
    # Not even the right one is looked at, and writing the name in another way does not help.
    assert attempt(password=RIGHT).status_code == 429
    assert attempt(name=" PERSON ").status_code == 429


def test_the_name_is_not_locked_for_others(person: User) -> None:
    fail(login.PER_NAME)
    assert attempt().status_code == 429
    assert attempt(password=RIGHT, address="192.0.2.2").status_code == 302


def test_one_address_may_not_try_many_names(person: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "PER_ADDRESS", 12)
    for number in range(12):
        fail(1, name=f"somebody-{number}")
    assert attempt(name="somebody-else").status_code == 429
    assert attempt(name="somebody-else", address="192.0.2.2").status_code == 200


@pytest.mark.parametrize("proxies", [0, 1])
def test_a_forged_address_gives_no_fresh_start(
    person: User, proxies: int, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(trusted_proxies=proxies)
    tail = ", 203.0.113.7" if proxies else ""
    for number in range(login.PER_NAME):
        fail(1, headers={"X-Forwarded-For": f"10.0.0.{number}{tail}"})
    assert attempt(headers={"X-Forwarded-For": f"10.1.1.1{tail}"}).status_code == 429


def test_the_window_ends_and_what_is_over_is_removed(person: User) -> None:
    fail(login.PER_NAME, name="gone")
    fail(login.PER_NAME)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE interlock_logincount SET ends_at = now() - interval '1 second'")
    fail(1)
    assert set(LoginCount.objects.values_list("tries", flat=True)) == {1}


def test_neither_names_nor_addresses_are_kept(person: User) -> None:
    fail(1)
    kept = " ".join(LoginCount.objects.values_list("digest", flat=True))
    assert "person" not in kept
    assert "192.0.2.1" not in kept


def test_a_plain_user_is_not_told_from_a_wrong_password(
    user_factory: UserFactory, person: User
) -> None:
    user_factory(username="plain")
    pages = [attempt(name=name, password=RIGHT) for name in ("plain", "nobody")]
    assert [page.status_code for page in pages] == [200, 200]
    errors = [page.context["form"].errors.as_json() for page in pages]
    assert errors[0] == errors[1]


@pytest.mark.parametrize("name", ["\x00", "x" * 100_000, "\u202e", "' OR 1=1 --"])
def test_odd_names_are_only_wrong(db: None, name: str) -> None:
    assert attempt(name=name).status_code in (200, 400)


def test_looking_at_the_page_counts_for_nothing(db: None) -> None:
    for _ in range(login.PER_ADDRESS + 1):
        assert Client().get(LOGIN).status_code == 200
    assert not LoginCount.objects.exists()


def test_a_form_without_the_token_is_refused(person: User) -> None:
    browser = Client(enforce_csrf_checks=True)
    answer = browser.post(LOGIN, {"username": "person", "password": RIGHT})
    assert answer.status_code == 403
