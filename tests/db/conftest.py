"""Callers of this ring: a client of the API, and browsers of people who are in the admin."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from tests.admin import ClientFor
from tests.api import Api


@pytest.fixture
def owner(user_factory: Callable[..., User]) -> User:
    return user_factory(username="owner")


@pytest.fixture
def api(owner: User, key_factory: Callable[..., str]) -> Api:
    """Speaks for ``owner``, with all scopes."""
    return Api(key_factory(owner))


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
