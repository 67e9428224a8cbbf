"""Memory of a worker with two children: once warm, and after many jobs.

Warm is a worker after a fifth of the jobs: its caches, the heaps of its threads and the pages that
it does not share any more with its parent come with the first of them and stay.
"""

from __future__ import annotations

from statistics import median

from bench.marks import Marks
from bench.ours.platform_peer import Interlock
from bench.place import Place, Plan
from bench.scenario import Scenario, slots_for


def measure(place: Place) -> dict[str, float]:
    """MB, shared pages counted once (``_mb``) or in each process (``_rss_mb``)."""
    ours = Interlock(place)
    marks = Marks(place.path / "marks", slots_for(place))
    try:
        ours.prepare()
        ours.start()
        scenario = Scenario(ours, place, marks)
        scenario.warm_up()
        rates, sizes = [], []
        for count in _portions(place.plan):
            rates.append(scenario.drain(count)["bulk_drain_per_second"])
            sizes.append(_size(ours))
        before, after = sizes[(len(sizes) - 1) // 5], sizes[-1]
    finally:
        ours.stop()
    return {
        "before_mb": before[0],
        "before_rss_mb": before[1],
        "after_mb": after[0],
        "after_rss_mb": after[1],
        "jobs": float(place.plan.memory_jobs),
        "jobs_per_second": median(rates),
    }


def _portions(plan: Plan) -> list[int]:
    whole, rest = divmod(plan.memory_jobs, plan.bulk)
    return [plan.bulk] * whole + ([rest] if rest else [])


def _size(ours: Interlock) -> tuple[float, float]:
    sizes = [tree.megabytes() for tree in ours.trees(["worker"])]
    return sum(one for one, _ in sizes), sum(all_of for _, all_of in sizes)
