"""Handlers: declared once, payload checked by the function's own types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pytest
from jsonschema import (  # type: ignore[import-untyped]  # ships no types
    Draft202012Validator,
)
from pydantic import BaseModel, Field

from jobs import registry
from jobs.context import Context
from jobs.errors import ConfigurationError, InvalidPayload, UnknownHandler
from jobs.registry import handler


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    before = dict(registry._handlers)
    yield
    registry._handlers.clear()
    registry._handlers.update(before)


class Window(BaseModel):
    start: int
    end: int


def report(
    window: Window,
    kind: Literal["short", "long"] = "short",
    bins: Annotated[int, Field(ge=1, le=100)] = 20,
    *,
    context: Context,
) -> str:
    """Make a report.

    More words.
    """
    return f"{window.start}-{window.end} {kind} {bins}"


def problems(payload: dict[str, Any], index: int | None = None) -> dict[str, str]:
    with pytest.raises(InvalidPayload) as caught:
        registry.get("report").normalized(payload, None, index)
    assert {problem.index for problem in caught.value.problems} == {index}
    return {problem.path: problem.code for problem in caught.value.problems}


def test_a_declared_function_stays_a_function() -> None:
    assert handler("report")(report) is report
    assert registry.get("report").function is report
    assert "report" in registry.names()
    assert registry.get("report").summary == "Make a report."


def test_the_context_is_no_payload_field() -> None:
    handler("report")(report)
    spec = registry.get("report")
    assert set(spec.schema()["properties"]) == {"window", "kind", "bins"}
    assert spec.schema()["required"] == ["window"]
    assert spec.schema()["additionalProperties"] is False
    Draft202012Validator.check_schema(spec.schema())


def test_the_payload_is_kept_as_given_without_defaults() -> None:
    handler("report")(report)
    given = {"window": {"start": 1, "end": "2"}}
    assert registry.get("report").normalized(given, None) == {"window": {"start": 1, "end": 2}}


def test_wrong_fields_are_named() -> None:
    handler("report")(report)
    assert problems({}) == {"payload.window": "missing"}
    assert problems({"window": {"start": 1}}, index=4) == {"payload.window.end": "missing"}
    assert problems({"window": {"start": 1, "end": 2}, "bins": 0, "typo": 1}) == {
        "payload.bins": "greater_than_equal",
        "payload.typo": "extra_forbidden",
    }
    assert problems({"window": {"start": 1, "end": 2}, "kind": "x"}) == {
        "payload.kind": "literal_error"
    }


def test_a_payload_that_nests_too_deep_is_refused_by_name() -> None:
    def anything(value: Any) -> None: ...

    handler("anything")(anything)
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(InvalidPayload):
        registry.get("anything").normalized({"value": deep}, None)


def test_a_check_may_refuse_what_types_cannot_judge() -> None:
    def check(payload: Any, owner_id: int | None) -> dict[str, str]:
        if payload.window.start > payload.window.end:
            return {"window": f"owner {owner_id}: the window is empty"}
        return {}

    handler("report", check=check)(report)
    spec = registry.get("report")
    spec.normalized({"window": {"start": 1, "end": 2}}, 5)
    with pytest.raises(InvalidPayload) as caught:
        spec.normalized({"window": {"start": 3, "end": 2}}, 5)
    assert str(caught.value) == "payload.window: owner 5: the window is empty"


def test_unknown_names_list_the_known() -> None:
    handler("report")(report)
    with pytest.raises(UnknownHandler, match="report") as caught:
        registry.get("raport", 3)
    assert caught.value.problems[0].index == 3


def test_one_name_belongs_to_one_function() -> None:
    handler("report")(report)
    handler("report", priority=5)(report)

    def other() -> None: ...

    with pytest.raises(ConfigurationError, match="already has this name"):
        handler("report")(other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, "1 to 200 characters"),
        ({"name": "x" * 201}, "1 to 200 characters"),
        ({"name": "x", "priority": 10}, "priority is 0 to 9"),
        ({"name": "x", "priority": -1}, "priority is 0 to 9"),
        ({"name": "x", "max_attempts": 0}, "max_attempts must be positive"),
        ({"name": "x", "timeout_seconds": 0}, "timeout_seconds must be positive"),
        ({"name": "x", "result_limit_bytes": -1}, "result_limit_bytes must be positive"),
    ],
)
def test_impossible_limits_are_refused_at_import(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        handler(**options)


def unannotated(value) -> None: ...  # type: ignore[no-untyped-def]  # what a user may forget


def variadic(*values: int) -> None: ...


def keywords(**values: int) -> None: ...


def positional(value: int, /) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (unannotated, "parameter value needs a type"),
        (variadic, "must be nameable"),
        (keywords, "must be nameable"),
        (positional, "must be nameable"),
    ],
)
def test_functions_that_no_payload_can_call_are_refused(function: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        handler("x")(function)


def test_async_functions_are_known_as_such() -> None:
    async def later(value: int) -> int:
        return value

    handler("later")(later)
    handler("report")(report)
    assert registry.get("later").is_async
    assert not registry.get("report").is_async


def test_results_become_plain_json() -> None:
    assert registry.jsonable(Window(start=1, end=2)) == {"start": 1, "end": 2}
    assert registry.jsonable({"x": float("nan"), "y": (1, 2)}) == {"x": None, "y": [1, 2]}
    with pytest.raises(ValueError, match="serialize"):
        registry.jsonable(object())
