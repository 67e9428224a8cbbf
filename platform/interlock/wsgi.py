"""The WSGI application: the API and the admin."""

from __future__ import annotations

import gc
import os

import django

from jobs import cache
from jobs.api import sentinel

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "interlock.settings")
django.setup(set_prefix=False)

from interlock.handler import Utf8Handler  # noqa: E402 - needs the settings
from jobs.api.lane import Lane  # noqa: E402 - same

application = Lane(Utf8Handler())
# This process answers people, who do not wait for ever.
sentinel.install()
cache.watch()
# None of what a start has made is ever garbage: no collection needs to look through it again.
gc.collect()
gc.freeze()
