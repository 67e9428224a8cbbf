"""Which faults come when: every one in turn, or at random from a seed.

What is chosen depends on the seed alone, never on how long anything took, so the same seed gives
the same sequence of faults, holds and choices again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from tests.faults.suite.fault import Fault

MOST_AT_ONCE = 3
HOLD_SECONDS = (0.5, 15.0)
PAUSE_SECONDS = (0.0, 6.0)


@dataclass(frozen=True, slots=True)
class Step:
    """Faults held at the same time, for how long, and the quiet afterwards."""

    faults: tuple[Fault, ...]
    hold: float
    pause: float
    seed: str

    @property
    def name(self) -> str:
        return " + ".join(fault.name for fault in self.faults)


def quick(faults: Sequence[Fault], seed: int) -> Iterator[Step]:
    """Every fault once, alone, as long as it asks for."""
    for fault in faults:
        yield Step((fault,), fault.hold, 0.0, f"{seed}/{fault.name}")


def at_random(faults: Sequence[Fault], seed: int) -> Iterator[Step]:
    """Without end: one to three faults that touch nothing in common, held 0.5 to 15 s."""
    rng = Random(f"plan {seed}")
    number = 0
    while True:
        number += 1
        chosen = _compatible(faults, rng)
        hold, pause = rng.uniform(*HOLD_SECONDS), rng.uniform(*PAUSE_SECONDS)
        yield Step(chosen, hold, pause, f"{seed}/{number}")


def _compatible(faults: Sequence[Fault], rng: Random) -> tuple[Fault, ...]:
    wanted = rng.choices(range(1, MOST_AT_ONCE + 1), weights=[5, 3, 2])[0]
    chosen: list[Fault] = []
    for fault in rng.sample(list(faults), len(faults)):
        if all(fault.touches.isdisjoint(other.touches) for other in chosen):
            chosen.append(fault)
        if len(chosen) == wanted:
            break
    return tuple(chosen)
