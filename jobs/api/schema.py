"""How the views describe themselves in OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar
from uuid import UUID

from drf_spectacular.extensions import OpenApiAuthenticationExtension, OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
)

from jobs.api.problems import CONTENT_TYPE, title_of
from jobs.api.serializers import ProblemSerializer

F = TypeVar("F", bound=Callable[..., Any])

_CODES = {
    400: ("invalid_payload", "The request is wrong in one place."),
    401: ("not_authenticated", "Authentication credentials were not provided."),
    403: ("missing_scope", "The API key lacks the scope operate."),
    404: ("not_found", "There is no such job."),
    409: ("illegal_transition", "job 0195… is COMPLETED and cannot be cancelled"),
    411: ("length_required", "Send the body with Content-Length; chunked bodies are not accepted."),
    413: ("too_large", "The request body is larger than this address accepts."),
    415: ("unsupported_media_type", 'Unsupported media type "text/plain" in request.'),
    422: ("idempotency_conflict", "This idempotency key was used before with another request."),
    429: (
        "too_many_failures",
        "Too many requests without a valid API key came from this address.",
    ),
    503: ("unavailable", "The database does not answer. Try again."),
}
_ALWAYS = (401, 403, 429, 503)
_RETRY_AFTER = OpenApiParameter(
    "Retry-After",
    int,
    OpenApiParameter.HEADER,
    description="Seconds to wait before trying again.",
    response=[429, 503],
)
_WITH_BODY = (400, 411, 413, 415)


class JobsSchema(AutoSchema):
    """Every view of this API uses this, whatever the project's default is."""


class KeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call] # registers itself untyped
    """The API key as a bearer token."""

    target_class = "jobs.api.auth.KeyAuthentication"
    name = "apiKey"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key: `Authorization: Bearer ilk_...`",
        }


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call] # same
    """The browser's session."""

    target_class = "jobs.api.auth.BrowserAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:
        return {
            "type": "apiKey",
            "in": "cookie",
            "name": "sessionid",
            "description": "A logged-in browser; unsafe methods also need the CSRF token.",
        }


class InputScheme(OpenApiSerializerExtension):  # type: ignore[no-untyped-call] # same
    """Request bodies, as they are validated (the stock extension describes them as answers)."""

    target_class = "jobs.api.inputs.Input"
    match_subclasses = True
    priority = 1

    def get_name(self, auto_schema: AutoSchema, direction: str) -> str:
        return str(self.target.__name__)

    def map_serializer(self, auto_schema: AutoSchema, direction: str) -> dict[str, Any]:
        template = "#/components/schemas/{model}"
        schema: dict[str, Any] = self.target.model_json_schema(ref_template=template)
        for name, part in schema.pop("$defs", {}).items():
            component = ResolvedComponent(  # type: ignore[no-untyped-call]  # same
                name=name, type=ResolvedComponent.SCHEMA, object=name, schema=part
            )
            auto_schema.registry.register_on_missing(component)
        return schema


def operation(
    name: str,
    summary: str,
    *,
    answers: Mapping[int, Any],
    errors: Iterable[int] = (),
    request: Any = None,
    media_type: str = "application/json",
    parameters: Iterable[OpenApiParameter] = (),
    examples: Iterable[OpenApiExample] = (),
    description: str = "",
    tag: str = "jobs",
) -> Callable[[F], F]:
    """Describe one method of a view; the errors that every method can give are added."""
    wrong = {*errors, *_ALWAYS, *(_WITH_BODY if request is not None else ())}
    responses: dict[Any, Any] = {
        status: answer
        if isinstance(answer, OpenApiResponse)
        else OpenApiResponse(answer, description=title_of(status))
        for status, answer in answers.items()
    }
    responses |= {(status, CONTENT_TYPE): _problem(status) for status in sorted(wrong)}
    return extend_schema(
        operation_id=name,
        summary=summary,
        description=description or None,
        tags=[tag],
        request={media_type: request} if request is not None else None,
        responses=responses,
        parameters=[*parameters, _RETRY_AFTER],
        examples=list(examples),
    )


def example(name: str, value: Any, *, request: bool = False, status: int = 200) -> OpenApiExample:
    """An example of a request, or of the answer with this status."""
    if request:
        return OpenApiExample(name, value=value, request_only=True)
    return OpenApiExample(name, value=value, response_only=True, status_codes=[str(status)])


#: Kinds of parameters that Python's types cannot say.
COUNT = {"type": "integer", "minimum": 1}
VERSION = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
ROW_ID = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
NOT_NEGATIVE = {"type": "number", "minimum": 0}


def text_parameter(
    name: str, description: str, *, header: bool = False, kind: Any = str, many: bool = False
) -> OpenApiParameter:
    """A query parameter, or a header."""
    place: Literal["header", "query"] = "header" if header else "query"
    return OpenApiParameter(name, kind, place, description=description, many=many)


def id_parameter() -> OpenApiParameter:
    """The job's id in the path."""
    return OpenApiParameter("job_id", UUID, OpenApiParameter.PATH, description="The job's id.")


def _problem(status: int) -> OpenApiResponse:
    code, detail = _CODES[status]
    title = title_of(status)
    value = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": "3f1c0f6f2d6c4b0c9d7c5c1b6a0e9a11",
    }
    sample = OpenApiExample(
        code, value=value, response_only=True, status_codes=[str(status)], media_type=CONTENT_TYPE
    )
    return OpenApiResponse(ProblemSerializer, description=title, examples=[sample])
