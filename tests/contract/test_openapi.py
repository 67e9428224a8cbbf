"""The OpenAPI document: valid, complete, and the one that is kept in docs/reference."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiYamlRenderer
from drf_spectacular.validation import validate_schema
from jsonschema import (  # type: ignore[import-untyped]  # ships no types
    Draft202012Validator,
)
from openapi_spec_validator import validate

KEPT = Path(__file__).parents[2] / "docs" / "reference" / "openapi.yaml"
HOW_TO = "run: python manage.py spectacular --file docs/reference/openapi.yaml"
METHODS = ("get", "post", "put", "patch", "delete")


@cache
def document() -> Any:
    generator = SchemaGenerator()  # type: ignore[no-untyped-call]  # drf-spectacular is untyped here
    schema = generator.get_schema(request=None, public=True)  # type: ignore[no-untyped-call]  # same
    text = OpenApiYamlRenderer().render(schema, renderer_context={})  # type: ignore[no-untyped-call]  # same
    return yaml.safe_load(text)


def operations() -> Iterator[tuple[str, str, Any]]:
    for path, entry in document()["paths"].items():
        for method in METHODS:
            if method in entry:
                yield method, path, entry[method]


def contents() -> Iterator[tuple[str, Any]]:
    for method, path, operation in operations():
        if "requestBody" in operation:
            for kind, media in operation["requestBody"]["content"].items():
                if kind != "multipart/form-data":
                    yield f"{method} {path} request", media
        for status, response in operation["responses"].items():
            for media in response.get("content", {}).values():
                yield f"{method} {path} {status}", media


def test_the_document_is_valid_openapi_3_1() -> None:
    assert document()["openapi"] == "3.1.0"
    validate(document())
    validate_schema(document())  # type: ignore[no-untyped-call]  # drf-spectacular is untyped here


def test_the_kept_document_is_the_generated_one() -> None:
    assert yaml.safe_load(KEPT.read_text(encoding="utf-8")) == document(), HOW_TO


@pytest.mark.parametrize(
    ("method", "path", "operation"),
    [pytest.param(*one, id=f"{one[0]} {one[1]}") for one in operations()],
)
def test_every_operation_is_described(method: str, path: str, operation: Any) -> None:
    assert operation["summary"]
    assert operation["description"]
    assert operation["security"] == [{"apiKey": []}, {"session": []}]
    responses = operation["responses"]
    assert any(status.startswith("2") for status in responses)
    wanted = {"401", "403", "429", "503"}
    wanted |= {"404"} if "{" in path else set()
    wanted |= {"400", "413", "415"} if method == "post" else set()
    assert wanted <= set(responses)
    for status, response in responses.items():
        assert response["description"]
        if status >= "400":
            assert list(response["content"]) == ["application/problem+json"]
        assert ("Retry-After" in response.get("headers", {})) == (status in ("429", "503"))


@pytest.mark.parametrize("content", [pytest.param(media, id=name) for name, media in contents()])
def test_every_body_has_examples_that_fit_its_schema(content: Any) -> None:
    examples = content.get("examples", {})
    assert examples or content["schema"].get("format") == "binary"
    schema = {
        "$ref": "#/schema",
        "schema": content["schema"],
        "components": document()["components"],
    }
    for example in examples.values():
        Draft202012Validator(schema).validate(example["value"])


def test_operation_ids_are_stable_names() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(names) == len(set(names))
    assert set(names) == {
        "cancelJob", "cancelJobs", "downloadArtifact", "getJob", "getJobType", "getResult",
        "getStatus", "getStatuses", "listArtifacts", "listJobTypes", "listJobs", "listLogLines",
        "listTransitions", "retryJob", "retryJobs", "submitJob", "submitJobs", "upload",
    }  # fmt: skip
