"""Jobs that harm the processes that run them, beside jobs that do not."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from tests.faults.suite.fault import fault
from tests.faults.suite.world import World
from tests.testapp.ends import POISON


@fault(
    "jobs: one of each poison",
    threatens=["I2", "I5", "I8", "I11"],
    touches=["worker"],
    back="worker",
)
def poison(world: World, rng: Random) -> Iterator[None]:
    """They kill, stall and fill their processes; each ends as ``tests.testapp.ends`` says."""
    for handler in rng.sample(POISON, len(POISON)):
        world.submit(handler, {})
    yield


@fault(
    "jobs: two thousand at once",
    threatens=["I1", "I2", "I9"],
    touches=[],
    back="platform",
)
def flood(world: World, rng: Random) -> Iterator[None]:
    for _ in range(4):
        world.submit("chaos.quick", {}, count=500)
    yield
