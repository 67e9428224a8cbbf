"""The error tree: stable codes, and messages that say where and what."""

from __future__ import annotations

import inspect

import pytest

from jobs import errors
from jobs.errors import FieldProblem, HandlerSignal, JobsError

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, JobsError | HandlerSignal)
]


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in CLASSES]
    assert len(codes) == len(set(codes)) >= 17


def test_the_tree_in_the_docstring_names_every_class() -> None:
    drawn = errors.__doc__ or ""
    assert all(kind.__name__ in drawn for kind in CLASSES)


@pytest.mark.parametrize("kind", [errors.JobCancelled, errors.JobReleased, errors.JobTimeout])
def test_signals_pass_through_except_exception(kind: type[BaseException]) -> None:
    assert not issubclass(kind, Exception)


def test_a_refusal_names_index_field_and_reason() -> None:
    one = FieldProblem("payload.bins", "must be positive", "range")
    other = FieldProblem("queue", "unknown", "unknown", index=7)
    error = errors.SubmissionError([one, other])
    assert str(error) == "payload.bins: must be positive; [7].queue: unknown"
    assert error.problems == [one, other]


def test_a_later_retry_keeps_its_delay() -> None:
    error = errors.RetryLater("busy", 12.5)
    assert (str(error), error.delay_seconds) == ("busy", 12.5)
