"""The same seed gives the same faults, and what is reported as bad makes the run fail."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.faults.suite import kill_points, plan
from tests.faults.suite.fault import DidNotStrike, every, everything
from tests.faults.suite.judge import Finding
from tests.faults.suite.plan import MOST_AT_ONCE, Step
from tests.faults.suite.report import BUSY, Report
from tests.faults.suite.runner import BOUNDS, Record
from tests.faults.suite.sitting import hindered, taken_back
from tests.faults.suite.watch import Sighting
from tests.marks import until

INVARIANTS = {f"I{number}" for number in range(1, 17)}


def _steps(seed: int, count: int = 300) -> list[Step]:
    return list(islice(plan.at_random(everything(), seed), count))


def test_a_seed_repeats_the_timeline() -> None:
    assert _steps(7) == _steps(7)
    assert _steps(7) != _steps(8)


def test_faults_that_touch_the_same_are_never_held_together() -> None:
    sizes = set()
    for step in _steps(1):
        touched = [part for fault in step.faults for part in fault.touches]
        assert len(touched) == len(set(touched)), step.name
        sizes.add(len(step.faults))
    assert sizes == set(range(1, MOST_AT_ONCE + 1))


def test_the_quick_run_has_every_fault_once() -> None:
    faults = everything()
    assert [step.faults for step in plan.quick(faults, 1)] == [(fault,) for fault in faults]
    assert len({fault.name for fault in faults}) == len(faults)


def test_every_invariant_is_threatened() -> None:
    threatened = {name for fault in everything() for name in fault.threatens}
    assert threatened == INVARIANTS


def test_every_fault_is_a_generator_that_has_not_begun() -> None:
    for fault in everything():
        steps = fault.inject(None, Random(1))  # type: ignore[arg-type] # nothing runs before next()
        assert isinstance(steps, Iterator), fault.name


def _report(**changes: object) -> Report:
    good = Record("a fault", ["I1"], "broker", 1.0, 2.0, first=0.5, first_of_older=1.0)
    fine = Finding("I1", "nothing lost", 0, [])
    report = Report("quick", 1, "installed", "again", records=[good], findings=[fine])
    for name, value in changes.items():
        setattr(report, name, value)
    return report


def _record(**changes: object) -> Record:
    record = Record("a fault", ["I1"], "broker", 1.0, 2.0, first=0.5)
    for name, value in changes.items():
        setattr(record, name, value)
    return record


BAD: dict[str, dict[str, object]] = {
    "violation": {"findings": [Finding("I5", "twice", 1, ["job"])]},
    "sighting": {"sightings": [Sighting("I3", ["job"], "a", "b")]},
    "late": {"records": [_record(first=BOUNDS["broker"] + 0.1)]},
    "an older job is late": {"records": [_record(first_of_older=BOUNDS["broker"] + 0.1)]},
    "never back": {"records": [_record(first=None)]},
    "stale statuses": {"records": [_record(back="redis", fresh=None)]},
    "not run": {"records": [_record(struck=False, problem="no library")]},
    "not at rest": {"not_at_rest": ["a job runs"]},
    "dead worker": {"dead_worker_seconds": [9.0], "dead_worker_bound": 8.0},
    "error": {"errors": ["nothing is completed"]},
}


def test_a_good_run_passes() -> None:
    report = _report()
    assert report.passed
    assert "PASSED" in report.text()
    assert report.troubles() == []


@pytest.mark.parametrize("what", BAD)
def test_a_bad_run_fails_and_says_why(what: str) -> None:
    report = _report(**BAD[what])
    assert not report.passed
    assert report.troubles()
    assert "FAILED (seed 1); again with: again" in report.text()
    assert report.json()["passed"] is False


def test_times_are_shown_and_not_judged_where_the_machine_had_none_to_spare() -> None:
    slow = {**BAD["late"], **BAD["dead worker"], "busy": BUSY + 0.1}
    report = _report(**slow)
    assert report.passed
    assert "times are not judged" in report.text()
    assert "TOO LATE" in report.text()
    for what in BAD.keys() - {"late", "an older job is late", "dead worker"}:
        assert not _report(**BAD[what], busy=BUSY + 0.1).passed


def test_hours_of_random_faults_forgive_one_that_had_no_occasion() -> None:
    assert _report(strict=False, records=[_record(), _record(struck=False)]).passed


def test_what_is_repeated_tells_of_its_error() -> None:
    calls: list[int] = []

    def fails_later() -> None:
        calls.append(1)
        if len(calls) > 2:
            raise OSError("gone")

    with pytest.raises(DidNotStrike, match="gone"), every(0.001, fails_later):
        until(lambda: len(calls) > 2, 5)


def test_a_kill_point_is_passed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setenv(kill_points.VARIABLE, str(tmp_path))
    monkeypatch.setattr("os.kill", lambda pid, _: killed.append(pid))
    kill_points.passing("after_claim")
    assert not killed
    kill_points.arm(tmp_path, "after_claim")
    kill_points.passing("before_claim")
    assert not killed
    kill_points.passing("after_claim")
    kill_points.passing("after_claim")
    assert len(killed) == 1
    with pytest.raises(ValueError, match="no kill point"):
        kill_points.arm(tmp_path, "nowhere")


class _World:
    """Of which process 7 was killed at 100 s, and its jobs taken back at these times."""

    killed = ((7, 100.0),)

    def __init__(self, *rescued_at: float) -> None:
        self._rescued_at = rescued_at

    def sql(self, _: str, parameters: dict[str, Any]) -> list[tuple[float]]:
        assert parameters == {"pid": "7", "killed_at": 100.0}
        return [(at,) for at in self._rescued_at]


def test_nobody_is_late_while_a_fault_keeps_all_from_rescuing() -> None:
    records = [
        Record("PostgreSQL: away", ["I12"], "platform", 90.0, 101.0),
        Record(
            "Redis: frozen + PostgreSQL: outbox table locked by a stranger",
            ["I12"],
            "platform",
            104.0,
            110.0,
        ),
        Record("Redis: frozen", ["I12"], "platform", 110.0, 120.0),
        Record("SIGSTOP of both schedulers", ["I12"], "platform", 121.0, 140.0),
    ]
    spans = hindered(records)
    assert spans == [(90.0, 101.0), (104.0, 110.0), (121.0, 140.0)]
    world: Any = _World(103.0, 112.0, 130.0)
    assert taken_back(world, spans) == [2.0, 5.0, 14.0]
