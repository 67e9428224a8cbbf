"""What PostgreSQL's jsonb cannot hold is refused before it gets there."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.jsontext import dumps, loads

STORABLE_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
STORABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | STORABLE_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(STORABLE_TEXT, inner),
)


def nested(depth: int, leaf: Any) -> Any:
    for _ in range(depth):
        leaf = [leaf]
    return leaf


@given(value=STORABLE)
def test_storable_values_come_back_the_same(value: Any) -> None:
    assert json.loads(dumps(value)) == value


@given(value=STORABLE)
def test_text_is_read_as_the_standard_library_reads_it(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert repr(loads(text)) == repr(json.loads(text))


@pytest.mark.parametrize("text", ["1" * 400, "-0", "1e400", "0.1000", '"\\u00e9"', " [1 , 2] "])
def test_so_are_numbers_and_texts_as_others_write_them(text: str) -> None:
    assert repr(loads(text)) == repr(json.loads(text))


def test_what_hands_have_nested_deeper_is_read_all_the_same() -> None:
    assert loads("[" * 500 + "]" * 500) == json.loads("[" * 500 + "]" * 500)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        {"x": [float("-inf")]},
        "a\x00b",
        {"a\x00b": 1},
        ["\ud800"],
        {"\udfff": 1},
        [{"deep": ("\x00",)}],
        {1, 2},
        object(),
    ],
)
def test_what_jsonb_cannot_hold_is_a_value_error(value: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        dumps(value)


@pytest.mark.parametrize("depth", [200, 900, 950, 985, 2000, 100_000])
@pytest.mark.parametrize("leaf", [1, "é"])
def test_deep_nesting_is_refused_and_never_a_recursion_error(depth: int, leaf: Any) -> None:
    with pytest.raises(ValueError, match="nest"):
        dumps(nested(depth, leaf))


def test_usual_nesting_is_fine() -> None:
    assert dumps(nested(90, "é")).startswith("[[[")


def test_a_cycle_is_refused() -> None:
    knot: list[Any] = []
    knot.append(knot)
    with pytest.raises(ValueError, match=r"Circular|nest"):
        dumps(knot)


def test_the_text_of_an_escape_is_not_an_escape() -> None:
    assert json.loads(dumps("\\u0000")) == "\\u0000"
