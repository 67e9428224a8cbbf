"""What the load asks for: a seeded mix of chaos jobs, single and in bulk, with and without keys."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.faults.suite.caller import Owner
from tests.testapp.ends import POISON

#: Weight and payload of each handler. Mostly short ones, so that quiescing takes seconds.
MIX: dict[str, tuple[int, Callable[[Random], dict[str, Any]]]] = {
    "chaos.quick": (40, lambda _: {}),
    "chaos.effect": (36, lambda rng: {"seconds": round(rng.expovariate(12), 3)}),
    "chaos.async": (8, lambda rng: {"seconds": round(rng.uniform(0.05, 0.4), 3)}),
    "chaos.flaky": (7, lambda rng: {"failures": rng.choice((1, 2))}),
    "chaos.hopeless": (4, lambda _: {}),
    "chaos.long": (3, lambda rng: {"seconds": round(rng.uniform(0.8, 3.0), 3)}),
    "chaos.deaf": (2, lambda rng: {"seconds": round(rng.uniform(0.8, 3.0), 3)}),
}

#: Shares of all submits.
BULK, KEYED, UNIQUE, DELAYED, POISONED = 0.15, 0.85, 0.05, 0.1, 0.02
BULK_JOBS = (2, 12)
UNIQUE_NAMES = 4


@dataclass(frozen=True, slots=True)
class Wish:
    """One submit, which may be sent more than once."""

    owner: Owner
    jobs: tuple[dict[str, Any], ...]
    bulk: bool
    key: str | None

    @property
    def path(self) -> str:
        return "/api/v1/jobs/bulk/" if self.bulk else "/api/v1/jobs/"

    @property
    def body(self) -> dict[str, Any]:
        return {"jobs": list(self.jobs)} if self.bulk else self.jobs[0]

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.key is None else {"Idempotency-Key": self.key}

    def stored_key(self, index: int) -> str | None:
        """The key of one of its jobs, as the row has it."""
        if self.key is None or not self.bulk:
            return self.key
        return f"{self.key}/{index}"

    def other(self) -> Wish:
        """Another request under the same key, which must be refused."""
        changed = tuple({**job, "tenant": "another wish"} for job in self.jobs)
        return Wish(self.owner, changed, self.bulk, self.key)


class Wisher:
    """Draws wishes. For one thread; equal seeds draw equal wishes, but for their keys."""

    def __init__(self, owners: Sequence[Owner], rng: Random, *, poison: bool) -> None:
        self._owners = owners
        self._rng = rng
        self._poison = list(POISON) if poison else []
        self._weights = [weight for weight, _ in MIX.values()]

    def draw(self) -> Wish:
        rng = self._rng
        owner = rng.choice(self._owners)
        if self._poison and rng.random() < POISONED:
            # In turn, so that a short run meets each.
            self._poison.append(self._poison.pop(0))
            return Wish(owner, ({"handler": self._poison[-1]},), bulk=False, key=_key())
        if rng.random() < UNIQUE:
            return Wish(owner, (self._unique(),), bulk=False, key=None)
        bulk = rng.random() < BULK
        jobs = tuple(self._job() for _ in range(rng.randint(*BULK_JOBS) if bulk else 1))
        return Wish(owner, jobs, bulk, _key() if rng.random() < KEYED else None)

    def _job(self) -> dict[str, Any]:
        [name] = self._rng.choices(list(MIX), self._weights)
        job: dict[str, Any] = {"handler": name, "payload": MIX[name][1](self._rng)}
        if self._rng.random() < DELAYED:
            job["delay_seconds"] = round(self._rng.uniform(0.1, 3.0), 3)
        return job

    def _unique(self) -> dict[str, Any]:
        # All owners use the same few names: each must be answered by a job of its own.
        name = f"unique {self._rng.randrange(UNIQUE_NAMES)}"
        return {"handler": "chaos.effect", "payload": {"seconds": 0.3}, "unique_key": name}


def _key() -> str:
    return uuid.uuid4().hex
