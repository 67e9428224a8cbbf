"""The ASGI application: statuses for clients that wait, and the health checks."""

from __future__ import annotations

from interlock.wsgi import application as answers
from jobs.api.waiting import Waiting

application = Waiting(answers, also=["/health/"])
