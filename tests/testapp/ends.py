"""How every chaos handler must end, as data that the judge reads. Imports nothing of Django."""

from __future__ import annotations

from dataclasses import dataclass

LOST = r"^lost \d+ times: "


@dataclass(frozen=True, slots=True)
class End:
    """What may become of a job that nobody asked to cancel.

    ``reason`` is a pattern that the row's reason must contain. Any job may also end FAILED with
    ``LOST`` while workers are killed all the time. ``effect``: whether it leaves one when it is
    COMPLETED. ``or_late``: it may be COMPLETED as well, by a holder whose lease had lapsed and that
    nobody could take it from, because a stranger locked the tables, say.
    """

    state: str
    reason: str = ""
    effect: bool = False
    or_late: bool = False


ENDS: dict[str, End] = {
    "chaos.effect": End("COMPLETED", effect=True),
    "chaos.quick": End("COMPLETED"),
    "chaos.long": End("COMPLETED"),
    "chaos.deaf": End("COMPLETED", effect=True),
    "chaos.flaky": End("COMPLETED", effect=True),
    "chaos.hopeless": End("FAILED", r"^attempt 2 of 2 failed: ValueError: hopeless"),
    "chaos.async": End("COMPLETED", effect=True),
    "poison.exit": End("FAILED", LOST),
    "poison.kill": End("FAILED", LOST),
    "poison.memory": End("FAILED", r"MemoryError"),
    "poison.stuck_in_c": End("FAILED", r"ran longer than 1 s"),
    "poison.hold_gil": End("FAILED", LOST, or_late=True),
    "poison.huge_result": End("FAILED", r"^the result has \d+ bytes"),
    "poison.unserialisable": End("FAILED", r"^the result cannot be stored"),
    "poison.memory_error": End("FAILED", r"^attempt 2 of 2 failed: MemoryError: on purpose"),
    "poison.saves_itself": End("COMPLETED"),
    "poison.leaves_transaction": End("COMPLETED"),
}

POISON = tuple(name for name in ENDS if name.startswith("poison."))
LEAVES_EFFECT = tuple(name for name, end in ENDS.items() if end.effect)
