"""Processes that are killed, frozen, or asked to end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from random import Random

from tests.faults.suite.fault import DidNotStrike, Part, fault
from tests.faults.suite.world import World
from tests.marks import until
from tests.stack import ROLES, TIMINGS, Role

LEASE_SECONDS = TIMINGS["lease_seconds"]


def holder(world: World, rng: Random) -> int:
    """The pid of a worker's child that is running a job now."""
    found: list[int] = []

    def look() -> bool:
        found[:] = sorted(set(world.holders()) & set(world.pool()))
        return bool(found)

    with suppress(AssertionError):
        until(look, 10)
    if not found:
        raise DidNotStrike("no child holds a job")
    return rng.choice(found)


def freeze(pids: Sequence[int], number: signal.Signals = signal.SIGSTOP) -> None:
    """Send SIGSTOP, or another signal, to whoever still lives."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@fault(
    "kill -9 of a child in its handler",
    threatens=["I2", "I6", "I11", "I12"],
    touches=["worker"],
    back="worker",
)
def child(world: World, rng: Random) -> Iterator[None]:
    world.kill_pid(holder(world, rng))
    yield


@fault("kill -9 of a whole worker", threatens=["I2", "I6"], touches=["worker"], back="worker")
def whole_worker(world: World, rng: Random) -> Iterator[None]:
    world.kill(rng.choice(world.processes("worker")))
    yield


@fault(
    "kill -9 of a worker's main process alone",
    threatens=["I2", "I6"],
    touches=["worker"],
    back="worker",
)
def main_process(world: World, rng: Random) -> Iterator[None]:
    world.kill_pid(rng.choice(world.processes("worker")).pid)
    yield


@fault(
    "kill -9 of all processes at once",
    threatens=["I1", "I2", "I5", "I8", "I9"],
    touches=["api", "worker", "relay", "scheduler"],
    back="worker",
)
def everybody(world: World, rng: Random) -> Iterator[None]:
    world.kill(*(one for role in ROLES for one in world.processes(role)), noted=False)
    yield
    # A supervisor's and an interpreter's time, not the platform's: it counts from when all are up.
    world.wait_whole()


@fault(
    "kill -9 of both schedulers",
    threatens=["I2", "I12"],
    touches=["scheduler"],
    back="platform",
    hold=1.0,
)
def schedulers(world: World, rng: Random) -> Iterator[None]:
    world.kill(*world.processes("scheduler"))
    yield


@fault(
    "SIGSTOP of a child past its lease, then SIGCONT",
    threatens=["I5", "I6", "I7", "I8"],
    touches=["worker"],
    back="worker",
    hold=LEASE_SECONDS + 1.5,
)
def zombie(world: World, rng: Random) -> Iterator[None]:
    pid = holder(world, rng)
    freeze([pid])
    try:
        yield
    finally:
        freeze([pid], signal.SIGCONT)


def _frozen(name: str, role: Role, threatens: Sequence[str], count: int, hold: float) -> None:
    parts: list[Part] = [role]

    @fault(name, threatens=threatens, touches=parts, back="platform", hold=hold)
    def stands_still(world: World, rng: Random) -> Iterator[None]:
        victims = [process.pid for process in world.processes(role)[:count]]
        freeze(victims)
        try:
            yield
        finally:
            freeze(victims, signal.SIGCONT)


_frozen("SIGSTOP of a worker's main process", "worker", ["I2", "I6"], 1, 2.0)
_frozen("SIGSTOP of one relay", "relay", ["I5", "I9"], 1, TIMINGS["relay_take_seconds"] + 0.5)
_frozen("SIGSTOP of both relays", "relay", ["I2", "I9"], 2, 2.0)
_frozen("SIGSTOP of both schedulers", "scheduler", ["I2", "I12"], 2, 2.0)
_frozen("SIGSTOP of an API process", "api", ["I1", "I10", "I16"], 1, 2.0)


@fault(
    "SIGTERM to a worker's whole process group",
    threatens=["I2", "I6", "I11"],
    touches=["worker"],
    back="worker",
)
def whole_group(world: World, rng: Random) -> Iterator[None]:
    """What a careless supervisor does: the children lose their jobs at once."""
    worker = rng.choice(world.processes("worker"))
    world.note_killed(*worker.children())
    os.killpg(worker.pid, signal.SIGTERM)
    yield


@fault(
    "SIGTERM of everything, half after half",
    threatens=["I2", "I5", "I11"],
    touches=["api", "worker", "relay", "scheduler"],
    back="platform",
    hold=1.0,
)
def rolling(world: World, rng: Random) -> Iterator[None]:
    """A deployment: one half of the cast is replaced while the other works."""
    halves = [[world.slots(role)[half] for role in ROLES] for half in (0, 1)]
    for slot in halves[0]:
        slot.process.send(signal.SIGTERM)
    yield
    world.wait_whole()
    for slot in halves[1]:
        slot.process.send(signal.SIGTERM)
    world.wait_whole()
