"""Handler declarations: a stable name, a plain typed function, and its limits.

The function's own parameters are the payload's fields, so a job is validated where it is submitted
and by the same types that the function is written against.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import to_jsonable_python

from jobs.context import Context
from jobs.errors import ConfigurationError, FieldProblem, InvalidPayload, UnknownHandler
from jobs.values import Backoff

P = ParamSpec("P")
R = TypeVar("R")

#: ``(validated payload, owner id)`` -> what is wrong, by dotted payload field; for a submit that
#: types alone cannot judge, such as an upload that is not the owner's.
Check = Callable[[Any, int | None], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Handler:
    """One declared handler. None in a limit means: the app's setting."""

    name: str
    function: Callable[..., Any]
    payload_model: type[BaseModel]
    context_parameter: str | None
    queue: str | None
    priority: int
    max_attempts: int | None
    backoff: Backoff
    timeout_seconds: float | None
    result_limit_bytes: int | None
    check: Check | None
    is_async: bool = field(init=False)
    fields: tuple[str, ...] = field(init=False)
    """The names of the payload's fields, which pydantic takes long to say."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_async", inspect.iscoroutinefunction(self.function))
        object.__setattr__(self, "fields", tuple(self.payload_model.model_fields))

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def schema(self) -> dict[str, Any]:
        """JSON Schema (2020-12) of the payload."""
        return self.payload_model.model_json_schema()

    def normalized(
        self, payload: Mapping[str, Any], owner_id: int | None, index: int | None = None
    ) -> dict[str, Any]:
        """The payload as JSON, as given: defaults stay the function's. Raises InvalidPayload."""
        model = self._parsed(payload, index)
        wrong = self.check(model, owner_id) if self.check is not None else {}
        if wrong:
            raise InvalidPayload(
                [
                    FieldProblem(f"payload.{field}", text, "refused", index)
                    for field, text in wrong.items()
                ]
            )
        try:
            dumped: dict[str, Any] = model.model_dump(mode="json", exclude_unset=True)
        except ValueError as error:
            raise InvalidPayload(
                [FieldProblem("payload", str(error), "not_json", index)]
            ) from error
        return dumped

    def arguments(self, payload: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Keyword arguments for ``function``. Raises InvalidPayload if the code has moved on."""
        model = self._parsed(payload, None)
        arguments = {name: getattr(model, name) for name in self.fields}
        if self.context_parameter is not None:
            arguments[self.context_parameter] = context
        return arguments

    def _parsed(self, payload: Mapping[str, Any], index: int | None) -> BaseModel:
        try:
            return self.payload_model.model_validate(payload)
        except ValidationError as error:
            raise InvalidPayload(
                [
                    FieldProblem(
                        ".".join(["payload", *(str(part) for part in item["loc"])]),
                        item["msg"],
                        item["type"],
                        index,
                    )
                    for item in error.errors(include_url=False)
                ]
            ) from error


_handlers: dict[str, Handler] = {}


def handler(
    name: str,
    *,
    queue: str | None = None,
    priority: int = 0,
    max_attempts: int | None = None,
    backoff: Backoff | None = None,
    timeout_seconds: float | None = None,
    result_limit_bytes: int | None = None,
    check: Check | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare a function as the handler called ``name``; the function itself stays as it is.

    Raises ConfigurationError at import for a name used twice, an unannotated parameter, a limit
    that is not positive, or a priority outside 0 (least urgent) .. 9.
    """
    _require(bool(name) and len(name) <= 200, name, "a name has 1 to 200 characters")
    _require(0 <= priority <= 9, name, "priority is 0 to 9")
    for label, limit in (
        ("max_attempts", max_attempts),
        ("timeout_seconds", timeout_seconds),
        ("result_limit_bytes", result_limit_bytes),
    ):
        _require(limit is None or limit > 0, name, f"{label} must be positive")

    def declare(function: Callable[P, R]) -> Callable[P, R]:
        known = _handlers.get(name)
        same = known is not None and _origin(known.function) == _origin(function)
        _require(known is None or same, name, "another function already has this name")
        model, context_parameter = _payload_model(name, function)
        _handlers[name] = Handler(
            name=name,
            function=function,
            payload_model=model,
            context_parameter=context_parameter,
            queue=queue,
            priority=priority,
            max_attempts=max_attempts,
            backoff=backoff or Backoff(),
            timeout_seconds=timeout_seconds,
            result_limit_bytes=result_limit_bytes,
            check=check,
        )
        return function

    return declare


def get(name: str, index: int | None = None) -> Handler:
    """The handler called ``name``. Raises UnknownHandler that lists the known ones."""
    try:
        return _handlers[name]
    except KeyError:
        known = ", ".join(names()) or "none"
        raise UnknownHandler(
            [
                FieldProblem(
                    "handler", f"no handler is called {name!r}; known: {known}", "unknown", index
                )
            ]
        ) from None


def names() -> list[str]:
    """The names of all handlers of this process, sorted."""
    return sorted(_handlers)


def jsonable(value: Any) -> Any:
    """A handler's return value as plain JSON data. Raises ValueError for what JSON cannot say."""
    return to_jsonable_python(value, inf_nan_mode="null")


def _payload_model(name: str, function: Callable[..., Any]) -> tuple[type[BaseModel], str | None]:
    hints = typing.get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    context_parameter: str | None = None
    for parameter in inspect.signature(function).parameters.values():
        _require(
            parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY),
            name,
            f"parameter {parameter.name} must be nameable: no *args, **kwargs or /",
        )
        _require(parameter.name in hints, name, f"parameter {parameter.name} needs a type")
        if hints[parameter.name] is Context:
            context_parameter = parameter.name
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], default)
    model = create_model(
        f"{name}_payload",
        __config__=ConfigDict(extra="forbid", ser_json_inf_nan="constants"),
        **fields,
    )
    return model, context_parameter


def _origin(function: Callable[..., Any]) -> tuple[str, str]:
    return (function.__module__, function.__qualname__)


def _require(condition: object, name: str, message: str) -> None:
    if not condition:
        raise ConfigurationError(f"handler {name!r}: {message}")
