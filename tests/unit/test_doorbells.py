"""The message format: it round-trips, and anything else is refused with ValueError."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.doorbells import (
    TASK_NAME,
    decode,
    encode,
    foretelling,
    foretold_in,
    is_early,
    joined,
)
from jobs.values import Doorbell, Foretold

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
)
BELLS = st.lists(st.builds(Doorbell, st.uuids(), st.integers(1, 2**31 - 1)), max_size=5)


@given(bells=BELLS)
def test_bells_survive_the_way_through_json(bells: list[Doorbell]) -> None:
    assert decode(json.loads(json.dumps(encode(bells)))) == bells


def test_the_format_is_fixed() -> None:
    job_id = UUID(int=1)
    bells = [Doorbell(job_id, 3)]
    plain = {"v": 1, "jobs": [[str(job_id), 3]]}
    assert encode(bells) == plain
    assert encode(bells, 0.5) == {**plain, "seconds": 0.5}
    assert encode(bells, early=True) == {**plain, "early": True}
    assert TASK_NAME == "jobs.ring"


@given(body=JSON | st.fixed_dictionaries({"v": st.just(1), "jobs": JSON}))
def test_anything_else_is_a_value_error(body: Any) -> None:
    try:
        decoded = decode(body)
    except ValueError:
        return
    assert all(isinstance(bell, Doorbell) for bell in decoded)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"v": 2, "jobs": []},
        {"v": 1},
        {"v": 1, "jobs": [["not a uuid", 1]]},
        {"v": 1, "jobs": [[str(uuid4())]]},
        {"v": 1, "jobs": [[str(uuid4()), None]]},
        {"v": 1, "jobs": [[str(uuid4()), float("inf")]]},
        {"v": 1, "jobs": [[7, 1]]},
        {"v": 1, "jobs": 5},
    ],
)
def test_a_malformed_body_is_refused(body: Any) -> None:
    with pytest.raises(ValueError, match="doorbell"):
        decode(body)


@pytest.mark.parametrize("early", [[False, False], [False, True], [True, False]])
def test_joined_doorbells_are_early_if_one_is(early: list[bool]) -> None:
    bells = [Doorbell(uuid4(), 1) for _ in early]
    messages = [encode([bell], 0.1, early=one) for bell, one in zip(bells, early, strict=True)]
    assert decode(joined(messages)) == bells
    assert is_early(joined(messages)) == any(early)


@pytest.mark.parametrize("argument", [None, [], "early", {"early": 1}, {"early": "True"}])
def test_nothing_else_is_early(argument: Any) -> None:
    assert not is_early(argument)


@given(foretold=st.builds(Foretold, st.uuids(), st.text(), st.text(), st.booleans()))
def test_what_is_foretold_survives_the_way_through_redis(foretold: Foretold) -> None:
    assert foretold_in(foretelling(foretold)) == foretold


@given(said=JSON.map(json.dumps) | st.binary() | st.none() | st.integers())
def test_any_other_wake_up_foretells_nothing(said: Any) -> None:
    assert foretold_in(said) is None


@pytest.mark.parametrize("more", [["later"], ["soon", "soon"], [True], [None]])
def test_what_says_more_foretells_nothing(more: list[Any]) -> None:
    assert foretold_in(json.dumps([str(uuid4()), "h", "q", *more])) is None


def test_what_nests_too_deep_foretells_nothing() -> None:
    assert foretold_in(b"[" * 100_000) is None
