"""The benchmark's numbers: what a target is made of, and when nothing is said of it."""

from __future__ import annotations

import pytest

from bench.catalogue import BY_NAME
from bench.summary import Summary, spread, summarise
from bench.targets import TARGETS, Target, ratios


def summary(**figures: float) -> Summary:
    """``cell__figure=median``."""
    found: Summary = {}
    for name, value in figures.items():
        cell, _, figure = name.partition("__")
        found.setdefault(cell, {})[figure] = spread([value])
    return found


def one(target: Target, found: Summary) -> dict[str, object]:
    return ratios(found, [target])[target.name]


def test_a_ratio_is_taken_against_the_best_of_the_others() -> None:
    target = Target("by_best", "row", ("ours", "rate"), [("a", "rate"), ("b", "rate")], 1.5)

    answer = one(target, summary(ours__rate=30, a__rate=10, b__rate=15))

    assert answer["value"] == 2
    assert answer["met"] is True
    assert answer["target"] == ">= 1.5"
    assert answer["figure"] == {"cell": "ours", "name": "rate", "value": 30}
    assert answer["against"] == {"cell": "b", "name": "rate", "value": 15}


def test_others_that_are_missing_leave_those_that_were_measured() -> None:
    target = Target("by_best", "row", ("ours", "rate"), [("a", "rate"), ("b", "rate")], 1.5)

    assert one(target, summary(ours__rate=30, a__rate=30))["met"] is False


def test_without_its_figures_a_target_says_which_is_missing() -> None:
    target = Target("by_a", "row", ("ours", "rate"), [("a", "rate")], 1.5)

    answer = one(target, summary(ours__rate=30))

    assert answer["value"] is None
    assert answer["met"] is None
    assert answer["against"] == {"cell": "a", "name": "rate", "value": None}


@pytest.mark.parametrize(("value", "met"), [(4.9, True), (5.0, True), (5.1, False)])
def test_an_absolute_target_is_its_figure(value: float, met: bool) -> None:
    target = Target("p50", "row", ("ours", "p50_ms"), at_most=5)

    answer = one(target, summary(ours__p50_ms=value))

    assert (answer["value"], answer["met"]) == (value, met)
    assert "against" not in answer


@pytest.mark.parametrize(("held", "met"), [(15, None), (5000, True)])
def test_nothing_is_said_of_a_target_under_easier_conditions(held: float, met: object) -> None:
    target = Target("memory", "row", ("ours", "mb"), at_most=200, given=(("ours", "held"), 5000))

    assert one(target, summary(ours__mb=90, ours__held=held))["met"] is met


def test_a_row_without_a_target_has_a_value_and_no_verdict() -> None:
    target = Target("told", "row", ("ours", "rate"), [("a", "rate")])

    answer = one(target, summary(ours__rate=30, a__rate=10))

    assert (answer["value"], answer["met"], answer["target"]) == (3, None, "none")


def test_targets_have_names_of_their_own_and_speak_of_known_cells() -> None:
    names = [target.name for target in TARGETS]
    cells = {cell for target in TARGETS for cell, _ in [target.ours, *target.against]}

    assert len(set(names)) == len(names)
    assert cells <= set(BY_NAME)


def test_figures_become_medians_with_their_spread() -> None:
    found = summarise({"ours": {"rate": [3.0, 1.0, 8.0], "never": []}})

    assert found == {"ours": {"rate": {"median": 3.0, "min": 1.0, "max": 8.0, "runs": 3}}}
