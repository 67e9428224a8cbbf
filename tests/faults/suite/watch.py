"""Looks at the tables while faults are going on: what must hold always, holds then too."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from tests.faults.suite.world import World
from tests.services import ROOT

#: What is true at every moment; the others need a world at rest.
ALWAYS = ("I1", "I3", "I4", "I5", "I6", "I7")
EVERY_SECONDS = 8.0
#: Time between two looks, as a multiple of what a look takes.
SPACING = 2.0
LONGEST_LOOK_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Sighting:
    """An invariant seen broken for the first time, and between which faults that was."""

    invariant: str
    examples: list[str]
    since: str
    now: str


class Watch:
    """A thread that verifies again and again; use as a context manager.

    ``now`` is told what goes on. A violation is reported between what went on at the last clean
    look and what goes on at the look that found it.
    """

    def __init__(self, world: World, say: Callable[[str], None]) -> None:
        self.sightings: list[Sighting] = []
        self.looks = 0
        self.failed_looks = 0
        self._world = world
        self._say = say
        self._now = self._clean = "the beginning"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(LONGEST_LOOK_SECONDS)

    def now(self, what: str) -> None:
        self._now = what

    def _run(self) -> None:
        pause = EVERY_SECONDS
        while not self._ended.wait(pause):
            began = time.monotonic()
            self._look()
            # Tables grow through the hours; looking must not become the load.
            pause = max(EVERY_SECONDS, SPACING * (time.monotonic() - began))

    def _look(self) -> None:
        began = self._now
        findings = self._findings()
        if findings is None:
            self.failed_looks += 1
            return
        self.looks += 1
        broken = [one for one in findings if one["violations"]]
        known = {sighting.invariant for sighting in self.sightings}
        for one in broken:
            if one["id"] not in known:
                examples = [str(example) for example in one["examples"]]
                self._report(Sighting(one["id"], examples, self._clean, self._now))
        if not broken:
            self._clean = began

    def _findings(self) -> list[dict[str, Any]] | None:
        """What the checker finds, in a process of its own, which takes no time from the proxies;
        None if it could not look: the database may be away just now, that is what faults are for.
        """
        command = ["python", "-m", "interlock", "verify", "--json", "--only", ",".join(ALWAYS)]
        command += ["--ledger", str(self._world.ledger_directory)]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=self._world.environment(),
                capture_output=True,
                text=True,
                timeout=LONGEST_LOOK_SECONDS,
                check=False,
            )
            found: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
        except (subprocess.TimeoutExpired, ValueError, KeyError):
            return None
        return [one for one in found if one["id"] in ALWAYS]

    def _report(self, sighting: Sighting) -> None:
        self.sightings.append(sighting)
        self._say(
            f"{sighting.invariant} BROKEN between [{sighting.since}] and [{sighting.now}]:"
            f" {sighting.examples[:2]}"
        )
