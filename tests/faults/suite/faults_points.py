"""Processes that die at exact places in the code: see ``kill_points``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from random import Random

from tests.faults.suite.fault import Back, DidNotStrike, Part, fault
from tests.faults.suite.faults_processes import holder
from tests.faults.suite.world import World
from tests.marks import until

#: A loaded machine may take its time until somebody passes.
PATIENCE_SECONDS = 15.0


def _point(point: str, what: str, threatens: Sequence[str], part: Part, back: Back) -> None:
    @fault(f"kill -9 {what}", threatens=threatens, touches=[part], back=back, hold=0.5)
    def dies_there(world: World, rng: Random) -> Iterator[None]:
        world.arm(point)
        # The load may be waiting for older jobs to end: this one is sure to pass by.
        world.submit("chaos.effect", {})
        yield
        wait_for_a_death(world, point)


def wait_for_a_death(world: World, point: str) -> None:
    """Until somebody has died at this kill point. Raises DidNotStrike if nobody passes it."""
    file = world.kill_directory / point
    with suppress(AssertionError):
        until(lambda: not file.exists(), PATIENCE_SECONDS)
        return
    world.disarm(point)
    raise DidNotStrike(f"nobody passed {point}")


_point("after_submit", "of an API process after its commit", ["I1", "I2", "I16"], "api", "platform")
_point(
    "after_publish", "of a relay between publish and mark", ["I5", "I6", "I9"], "relay", "platform"
)
_point("before_claim", "of a worker's child before its claim", ["I2"], "worker", "worker")
_point("after_claim", "of a worker's child after its claim", ["I2", "I11"], "worker", "worker")
_point("before_finish", "between result and commit", ["I2", "I8"], "worker", "worker")
_point("inside_finish", "inside the completing transaction", ["I5", "I8"], "worker", "worker")
_point("after_finish", "after commit, before ack", ["I5", "I8", "I15"], "worker", "worker")


@fault(
    "kill -9 of a scheduler inside its rescue",
    threatens=["I2", "I6", "I12"],
    touches=["scheduler", "worker"],
    back="worker",
    hold=0.5,
)
def inside_rescue(world: World, rng: Random) -> Iterator[None]:
    world.submit("chaos.long", {"seconds": 3.0}, count=8)
    holder(world, rng)
    world.arm("inside_rescue")
    world.kill(*world.processes("worker"), noted=False)
    yield
    wait_for_a_death(world, "inside_rescue")
    world.wait_whole()
