"""Submits over HTTP: one job per request, and 10,000."""

from __future__ import annotations

import time
from http.client import HTTPConnection
from urllib.parse import urlsplit

from bench.load import Call, load, require
from bench.ours.api import bootstrap, posting, serving, submission
from bench.ours.platform_peer import Interlock
from bench.place import Place

_BULK_JOBS = 10_000
#: Bulk requests of one run; the first pays for plans and is not counted.
_BULK_REQUESTS = 4


class _WithoutQuota(Interlock):
    """One owner sends everything here, which the quota is there to prevent."""

    jobs = {"pending_limit_per_owner": None}


def measure(place: Place) -> dict[str, float]:
    """The API alone: no worker and no relay run meanwhile."""
    ours = _WithoutQuota(place)
    ours.prepare()
    _, headers = bootstrap()
    try:
        with serving(place, "interlock.wsgi:application") as (address, _):
            one = posting(f"{address}/api/v1/jobs/", headers, submission())
            require(one, 201)
            figures = load(one, place.plan.seconds / 2, place.path, name="submit")
            many = {"jobs": [submission(number) for number in range(_BULK_JOBS)]}
            bulk = posting(f"{address}/api/v1/jobs/bulk/", headers, many)
            return figures | {"bulk_jobs_per_second": _bulk_rate(bulk)}
    finally:
        ours.stop()


def _bulk_rate(call: Call) -> float:
    """Requests one after another over one connection: jobs per second."""
    parts = urlsplit(call.url)
    connection = HTTPConnection(parts.netloc, timeout=120)
    seconds = []
    for _ in range(_BULK_REQUESTS):
        began = time.monotonic()
        connection.request("POST", parts.path, call.body.encode(), dict(call.headers))
        answer = connection.getresponse()
        body = answer.read()
        seconds.append(time.monotonic() - began)
        if answer.status != 201:
            raise RuntimeError(f"bulk submit: {answer.status} {body[:300]!r}")
    connection.close()
    return _BULK_JOBS * (len(seconds) - 1) / sum(seconds[1:])
