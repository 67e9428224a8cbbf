"""The API under requests made from its own schema, valid and broken: no 5xx, no surprise.

Every answer must have a status, a content type, headers and a body that the document promises; what
the schema forbids must be refused, and what it allows must be taken.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import schemathesis
from django.contrib.auth.models import User
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from interlock.handler import Utf8Handler
from tests.contract.test_openapi import document, operations

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(300),
    # Django leaves the temporary file of a form that breaks off to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

EXAMPLES = 15
#: What the document cannot say: which handlers there are and what each takes, which cursors exist,
#: that a form is not empty.
UNTOLD = {"submitJob", "submitJobs", "listJobs", "upload"}


@pytest.fixture
def secret(
    user_factory: Callable[..., User],
    key_factory: Callable[..., str],
    jobs_settings: Callable[..., None],
) -> str:
    # Requests with invented credentials are part of the checks, and many.
    jobs_settings(auth_failures_limit=None)
    return key_factory(user_factory())


@pytest.fixture(autouse=True)
def _swept() -> Iterator[None]:
    """What these tests leave to the garbage collector is collected here, where it is no error."""
    yield
    gc.collect()


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(
    ("method", "path"), [pytest.param(*one[:2], id=f"{one[0]} {one[1]}") for one in operations()]
)
def test_every_operation(method: str, path: str, mode: GenerationMode, secret: str) -> None:
    schema = schemathesis.openapi.from_dict(deepcopy(document()))
    schema.app = Utf8Handler()
    operation = schema[path][method]
    untold = operation.definition.raw["operationId"] in UNTOLD
    excluded: list[Any] = [positive_data_acceptance] if untold else []

    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Case[Any]) -> None:
        if mode is GenerationMode.POSITIVE:
            _name_a_handler(case)
        case.call_and_validate(
            headers={"Authorization": f"Bearer {secret}"}, excluded_checks=excluded
        )

    run()


def _name_a_handler(case: Case[Any]) -> None:
    """Half of the submits get a handler that exists, or none would come past the first check."""
    body = case.body if isinstance(case.body, dict) else {}
    jobs = body.get("jobs", [body])
    for job in jobs if isinstance(jobs, list) else []:
        if isinstance(job, dict) and isinstance(job.get("handler"), str) and len(job) % 2:
            job |= {"handler": "noop", "payload": {}}
