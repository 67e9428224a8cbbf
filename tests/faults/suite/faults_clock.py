"""One process whose wall clock is an hour wrong. Leases and order come from the database's clock.

libfaketime is loaded into that one process; its monotonic clock stays right, and the machine's
clock is never touched.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

from interlock.local.provision import install_packages
from tests.faults.suite.fault import DidNotStrike, Part, fault
from tests.faults.suite.world import World
from tests.stack import Role

HOUR_SECONDS = 3600
_PLACES = ("/usr/lib", "/usr/local/lib", "/opt/homebrew/lib")


def library() -> Path | None:
    """Where libfaketime is, if anywhere."""
    if found := os.environ.get("INTERLOCK_FAKETIME"):
        return Path(found)
    names = ("*/faketime/libfaketime.so.1", "faketime/libfaketime.so.1")
    return next(
        (path for place in _PLACES for name in names for path in Path(place).glob(name)), None
    )


def provide(say: object) -> Path | None:
    """Have the library, from the distribution's package if need be."""
    if library() is None and shutil.which("apt-get"):
        install_packages(["libfaketime"], say)  # type: ignore[arg-type] # a callable
    return library()


def _wrong(role: Role, seconds: int, threatens: list[str]) -> None:
    way = "ahead" if seconds > 0 else "behind"
    parts: list[Part] = [role]

    @fault(
        f"clock of one {role} process: an hour {way}",
        threatens=threatens,
        touches=parts,
        back="platform",
        hold=2.0,
    )
    def wrong(world: World, rng: Random) -> Iterator[None]:
        found = library()
        if found is None:
            raise DidNotStrike("libfaketime is not here: apt-get install libfaketime")
        variables = {
            "LD_PRELOAD": str(found),
            "FAKETIME": f"{seconds:+d}s",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        slot = rng.choice(world.slots(role))
        with world.otherwise(slot, variables):
            world.wait_replaced(slot)
            yield


_wrong("worker", HOUR_SECONDS, ["I6", "I10", "I12"])
_wrong("scheduler", HOUR_SECONDS, ["I6", "I12"])
_wrong("relay", -HOUR_SECONDS, ["I9"])
_wrong("api", -HOUR_SECONDS, ["I10", "I16"])
