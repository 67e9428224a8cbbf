"""Frozen values: construction and validation."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from jobs.states import JobState
from jobs.values import SYSTEM, Backoff, Submission
from tests.verbs import a_view


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_seconds": -1},
        {"cap_seconds": -1},
        {"factor": 0.5},
        {"jitter": 1.1},
        {"jitter": -0.1},
    ],
)
def test_an_impossible_backoff_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="backoff needs"):
        Backoff(**wrong)


def test_values_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        SYSTEM.id = "x"  # type: ignore[misc]  # the point of the test


def test_submissions_do_not_share_a_payload() -> None:
    assert Submission("a").payload is not Submission("b").payload


def test_ranks_order_by_version_then_progress() -> None:
    ranks = [a_view(version=v, seq=s).rank for v, s in [(1, 9), (2, 0), (2, 1), (10, 0)]]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize("state", list(JobState))
def test_final_and_immutable_follow_the_state(state: JobState) -> None:
    view = a_view(state)
    assert view.is_final == (state not in {JobState.PENDING, JobState.RUNNING})
    assert view.is_immutable == (state is JobState.COMPLETED)
    assert view._replace(version=5).is_final == view.is_final
