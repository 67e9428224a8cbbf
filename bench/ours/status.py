"""The status endpoint of one API process: one job, and 1,000 in one call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from uuid import UUID

from bench.load import Call, load, require
from bench.marks import Marks
from bench.ours.api import bootstrap, posting, serving
from bench.ours.platform_peer import Interlock
from bench.place import Place
from bench.scenario import Scenario, slots_for

_IDS = 1000
#: For many statuses in one call a few clients keep one process busy.
_BULK_CONNECTIONS = 4


def measure(place: Place) -> dict[str, float]:
    """Reads of COMPLETED jobs' copies; worker and relay are frozen meanwhile."""
    ours = Interlock(place)
    marks = Marks(place.path / "marks", slots_for(place))
    ours.prepare()
    owner, headers = bootstrap()
    ours.owner_id = owner
    try:
        ours.start()
        Scenario(ours, place, marks).warm_up()
        numbers = marks.take(_IDS)
        handles = ours.submit_many(numbers)
        marks.wait(numbers, place.plan.patience_seconds)
        while not ours.settled(handles, numbers.stop):
            time.sleep(0.02)
        for tree in ours.trees(["worker", "relay", "scheduler"]):
            tree.freeze()
        with serving(place, "interlock.wsgi:application") as (address, _):
            return _figures(place, f"{address}/api/v1/jobs", headers, handles)
    finally:
        ours.stop()


def _figures(
    place: Place, address: str, headers: dict[str, str], handles: Sequence[UUID]
) -> dict[str, float]:
    seconds = place.plan.seconds / 2
    one = Call(f"{address}/{handles[0]}/status/", headers=headers)
    body = require(one, 200)
    if b"COMPLETED" not in body:
        raise RuntimeError(f"not the status of a completed job: {body[:200]!r}")
    many = posting(f"{address}/status/", headers, {"ids": [str(handle) for handle in handles]})
    require(many, 200)
    tag = {**headers, "If-None-Match": '"3.0"'}
    unchanged = Call(f"{address}/{handles[0]}/status/", headers=tag)
    figures = load(one, seconds, place.path, name="status")
    figures |= load(unchanged, seconds, place.path, name="not_modified")
    bulk = load(many, seconds, place.path, name="bulk_calls", connections=_BULK_CONNECTIONS)
    return {**figures, **bulk, "bulk_statuses_per_second": _IDS * bulk["bulk_calls_per_second"]}
