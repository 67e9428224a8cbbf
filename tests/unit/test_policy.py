"""Decisions on frozen values: retry or fail, how long to wait, what a lapsed lease means."""

from __future__ import annotations

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import (
    JobCancelled,
    JobReleased,
    JobTimeout,
    PermanentFailure,
    RetryLater,
    UnknownHandler,
)
from jobs.policy import (
    REASON_LIMIT,
    after_error,
    after_lapse,
    backoff_seconds,
    clipped,
    described,
    rearm_delay_seconds,
)
from jobs.states import JobEvent, JobState
from jobs.values import Attempt, Backoff
from tests.verbs import a_view

BACKOFFS = st.builds(
    Backoff,
    base_seconds=st.floats(0, 1e4),
    factor=st.floats(1, 10),
    cap_seconds=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
)


def an_attempt(*, failed: int = 0, most: int = 3) -> Attempt:
    view = a_view(JobState.RUNNING, 2)
    view = view._replace(attempt=failed + 1, failed_attempts=failed, max_attempts=most)
    return Attempt(view, uuid4(), {})


@given(backoff=BACKOFFS, failures=st.integers(0, 10_000), draw=st.floats(0, 1))
def test_backoff_stays_between_zero_and_its_cap(
    backoff: Backoff, failures: int, draw: float
) -> None:
    assert 0 <= backoff_seconds(backoff, failures, draw) <= backoff.cap_seconds


def test_backoff_doubles_until_its_cap() -> None:
    backoff = Backoff(base_seconds=2, factor=2, cap_seconds=10, jitter=0)
    assert [backoff_seconds(backoff, n, 0.5) for n in (1, 2, 3, 4)] == [2, 4, 8, 10]


def test_jitter_takes_away_its_share_at_most() -> None:
    backoff = Backoff(base_seconds=8, jitter=0.25)
    assert backoff_seconds(backoff, 1, 0.0) == 8
    assert backoff_seconds(backoff, 1, 1.0) == 6


def test_an_error_is_retried_while_attempts_are_left() -> None:
    backoff = Backoff(base_seconds=4, jitter=0)
    outcome = after_error(an_attempt(failed=1), ValueError("no such column"), backoff, 0)
    assert (outcome.event, outcome.delay_seconds) == (JobEvent.RETRY, 8)
    assert outcome.reason == "ValueError: no such column"


def test_the_last_error_fails_and_says_which_attempt_it_was() -> None:
    outcome = after_error(an_attempt(failed=2), ValueError("no"), Backoff(), 0)
    assert outcome.event is JobEvent.FAIL
    assert outcome.reason == "attempt 3 of 3 failed: ValueError: no"


def test_a_permanent_failure_fails_at_once() -> None:
    outcome = after_error(an_attempt(), PermanentFailure("the file is not CSV"), Backoff(), 0)
    assert (outcome.event, outcome.reason) == (JobEvent.FAIL, "the file is not CSV")


def test_a_handler_may_name_its_own_delay_but_not_a_further_attempt() -> None:
    later = RetryLater("rate limit", 90)
    assert after_error(an_attempt(), later, Backoff(), 0).delay_seconds == 90
    assert after_error(an_attempt(), RetryLater("x", -5), Backoff(), 0).delay_seconds == 0
    assert after_error(an_attempt(failed=2), later, Backoff(), 0).event is JobEvent.FAIL


@pytest.mark.parametrize(
    ("signal", "event"),
    [
        (JobCancelled("cancelled on request"), JobEvent.CANCEL),
        (JobReleased("worker is stopping"), JobEvent.RELEASE),
        (JobTimeout("ran longer than 5 s"), JobEvent.RETRY),
    ],
)
def test_a_stop_becomes_its_own_event(signal: BaseException, event: JobEvent) -> None:
    outcome = after_error(an_attempt(), signal, Backoff(), 0)
    assert outcome.event is event
    assert outcome.reason


def test_even_the_last_attempt_is_released_without_a_charge() -> None:
    assert after_error(an_attempt(failed=2), JobReleased(), Backoff(), 0).event is JobEvent.RELEASE


def test_a_lapsed_lease_is_rescued_until_too_many_were_lost() -> None:
    def verdict(lost: int, *, cancelled: bool = False) -> tuple[JobEvent, str]:
        return after_lapse(
            cancel_requested=cancelled, lost_attempts=lost, max_lost_attempts=3, worker="w1"
        )

    assert [verdict(lost)[0] for lost in (0, 1, 2)] == [
        JobEvent.RESCUE,
        JobEvent.RESCUE,
        JobEvent.FAIL,
    ]
    assert "w1" in verdict(0)[1]
    assert verdict(2)[1].startswith("lost 3 times")
    assert verdict(2, cancelled=True)[0] is JobEvent.CANCEL


def test_rearming_slows_down_up_to_its_cap() -> None:
    assert [rearm_delay_seconds(60, n, 900) for n in (0, 1, 2, 3, 4, 10_000)] == [
        60,
        120,
        240,
        480,
        900,
        900,
    ]


@given(text=st.text(alphabet=st.characters(), max_size=REASON_LIMIT * 2))
def test_clipped_text_fits_a_text_column(text: str) -> None:
    fit = clipped(text)
    assert len(fit) <= REASON_LIMIT
    assert "\x00" not in fit
    fit.encode()


def test_text_that_fits_is_left_alone() -> None:
    assert clipped("Grüße, 東京 😀\n") == "Grüße, 東京 😀\n"
    assert clipped("x" * 10, 10) == "x" * 10
    assert clipped("x" * 11, 10) == "x" * 9 + "…"


def test_a_lone_surrogate_does_not_reach_the_database() -> None:
    assert clipped("a\ud800b").encode() == b"a?b"


def test_errors_are_described_in_words() -> None:
    assert described(ValueError("x")) == "ValueError: x"
    assert described(ValueError()) == "ValueError"
    assert described(PermanentFailure("bad file")) == "bad file"
    assert described(JobTimeout()) == "JobTimeout"
    assert described(UnknownHandler([])) == "UnknownHandler"
