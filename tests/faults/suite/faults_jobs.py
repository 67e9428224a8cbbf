"""Jobs that harm the processes that run them, beside jobs that do not."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from tests.faults.suite.fault import fault
from tests.faults.suite.faults_points import wait_for_a_death
from tests.faults.suite.faults_processes import holder
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


@fault(
    "groups: slow jobs among quick ones",
    threatens=["I2", "I7", "I11"],
    touches=["worker"],
    back="worker",
)
def slow_neighbours(world: World, rng: Random) -> Iterator[None]:
    """Of one handler, so that they share messages; those behind a slow one are handed back."""
    for _ in range(6):
        world.submit("chaos.effect", {"seconds": 0.001}, count=40)
        world.submit("chaos.effect", {"seconds": rng.uniform(0.5, 2.0)})
    yield


@fault(
    "groups: kill -9 with a group's outcomes unrecorded",
    threatens=["I2", "I8", "I11"],
    touches=["worker"],
    back="worker",
    hold=0.5,
)
def killed_in_mid_group(world: World, rng: Random) -> Iterator[None]:
    world.submit("chaos.quick", {}, count=400)
    world.arm("before_finish")
    yield
    wait_for_a_death(world, "before_finish")


@fault(
    "groups: kill -9 of a whole worker while it works them off",
    threatens=["I2", "I5", "I11"],
    touches=["worker"],
    back="worker",
    hold=0.5,
)
def killed_while_grouping(world: World, rng: Random) -> Iterator[None]:
    world.submit("chaos.quick", {}, count=1000)
    holder(world, rng)
    world.kill(*world.processes("worker"), noted=False)
    yield
    world.wait_whole()
