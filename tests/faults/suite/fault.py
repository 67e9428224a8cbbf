"""What a fault is, and the list of all of them.

    @fault("kill -9 of a whole worker", threatens=("I2", "I6"), touches=("worker",), back="worker")
    def whole_worker(world: World, rng: Random) -> Iterator[None]:
        world.kill(rng.choice(world.processes("worker")))
        yield

A fault injects, yields once while the runner holds it under load, and heals. What it chooses, it
chooses with ``rng``, whose seed the runner prints.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Literal

from tests.faults.suite.world import World

Inject = Callable[[World, Random], Iterator[None]]

#: What a fault can touch. Two faults that touch the same are never held at the same time.
Part = Literal["api", "waiting", "worker", "relay", "scheduler", "postgres", "rabbitmq", "redis"]

#: What has to come back when a fault is over.
Back = Literal["worker", "database", "broker", "redis", "platform"]


class DidNotStrike(Exception):
    """The fault could not be brought about; a run must not count it as survived."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    ``threatens``: the invariants that a weaker platform would break. ``hold``: seconds under load
    in the quick run. ``back``: whose bound holds for the time to the first progress after it.
    """

    name: str
    threatens: tuple[str, ...]
    touches: frozenset[Part]
    back: Back
    hold: float
    inject: Inject


FAULTS: list[Fault] = []


def fault(
    name: str,
    *,
    threatens: Sequence[str],
    touches: Sequence[Part],
    back: Back,
    hold: float = 2.0,
) -> Callable[[Inject], Inject]:
    """Put a generator function on the list."""

    def keep(inject: Inject) -> Inject:
        if any(known.name == name for known in FAULTS):
            raise ValueError(f"two faults are called {name!r}")
        FAULTS.append(Fault(name, tuple(threatens), frozenset(touches), back, hold, inject))
        return inject

    return keep


#: Where faults are, in the order of the quick run.
MODULES = ("processes", "points", "broker", "postgres", "redis", "networks", "clock", "jobs")


def everything() -> list[Fault]:
    """All faults, in the order of the quick run."""
    names = [f"tests.faults.suite.faults_{part}" for part in MODULES]
    for name in names:
        importlib.import_module(name)
    return sorted(FAULTS, key=lambda fault: names.index(fault.inject.__module__))


@contextmanager
def every(seconds: float, action: Callable[[], object]) -> Iterator[None]:
    """Do it now and again every so many seconds while the block lasts.

    An error ends the repetition and is raised at the end of the block.
    """
    ended = threading.Event()
    errors: list[Exception] = []

    def repeat() -> None:
        try:
            while not ended.wait(seconds):
                action()
        except Exception as error:
            errors.append(error)

    action()
    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(30)
    if errors:
        raise DidNotStrike(f"could not be repeated: {errors[0]}") from errors[0]
