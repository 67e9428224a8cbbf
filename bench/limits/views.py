"""An empty view, an empty DRF POST view and the usual status view, on the server of our API."""

from __future__ import annotations

import os

import django
from django.core.management import call_command

from bench.load import Call, load, require
from bench.ours.api import posting, serving, submission
from bench.place import Place

_SETTINGS = {"DJANGO_SETTINGS_MODULE": "bench.limits.views_settings"}


def measure(place: Place) -> dict[str, float]:
    """Same interpreter, same packages, same options of the server."""
    os.environ.update(_SETTINGS)
    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)
    row, token = _row_and_token()
    seconds = place.plan.seconds / 2
    application = "bench.limits.views_wsgi:application"
    with serving(place, application, _SETTINGS) as (address, _):
        get = Call(f"{address}/empty/")
        post = posting(f"{address}/post/", {"Content-Type": "application/json"}, submission())
        usual = Call(f"{address}/status/{row}/", headers={"Authorization": f"Token {token}"})
        require(get, 200)
        require(post, 201)
        require(usual, 200)
        return {
            **load(get, seconds, place.path, name="empty_get"),
            **load(post, seconds, place.path, name="empty_post"),
            **load(usual, seconds, place.path, name="usual_status"),
        }


def _row_and_token() -> tuple[int, str]:
    from django.contrib.auth import get_user_model
    from rest_framework.authtoken.models import Token

    from bench.limits.models import Status

    user = get_user_model().objects.create_user(username="bench")
    token = Token.objects.create(user=user)
    return int(Status.objects.create(state="COMPLETED", message="x" * 300).pk), str(token.key)
