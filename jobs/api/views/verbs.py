"""Cancel and retry, one job or many; always through ``lifecycle``, signed by the caller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar
from uuid import UUID

from rest_framework.request import Request
from rest_framework.response import Response

from jobs import conf, lifecycle
from jobs.api import examples, inputs
from jobs.api.problems import NoSuchJob
from jobs.api.schema import example, id_parameter, operation
from jobs.api.serializers import ChangedSerializer, ManyChangedSerializer, listed
from jobs.api.views.base import ApiView, actor_of, own_job_id, require_own
from jobs.models import Scope
from jobs.values import Changed

_REOPENED = {**examples.CHANGED, "state": "PENDING", "event": "reopen", "version": 5}
_MANY_INPUT = {"ids": [examples.ID], "reason": "ordered twice"}
_REASON = {"reason": "ordered twice"}


class CancelView(ApiView):
    """Cancel one job."""

    scopes: ClassVar = {"POST": Scope.OPERATE}

    @operation(
        "cancelJob",
        "Cancel a job",
        description="What waits is CANCELLED at once; the worker of what runs is asked to stop.",
        request=inputs.ReasonInput,
        parameters=[id_parameter()],
        answers={200: ChangedSerializer},
        errors=[404, 409],
        examples=[
            example("with a reason", _REASON, request=True),
            example("cancelled", examples.CHANGED),
        ],
    )
    def post(self, request: Request, job_id: str) -> Response:
        return _one(request, job_id, lifecycle.cancel)


class RetryView(ApiView):
    """Give one job a new run."""

    scopes: ClassVar = {"POST": Scope.OPERATE}

    @operation(
        "retryJob",
        "Retry a FAILED or CANCELLED job",
        description="The job gets a new run with a fresh budget; an active job is left as it is.",
        request=inputs.ReasonInput,
        parameters=[id_parameter()],
        answers={200: ChangedSerializer},
        errors=[404, 409],
        examples=[
            example("with a reason", _REASON, request=True),
            example("reopened", _REOPENED),
        ],
    )
    def post(self, request: Request, job_id: str) -> Response:
        return _one(request, job_id, lifecycle.reopen)


class CancelManyView(ApiView):
    """Cancel many jobs."""

    scopes: ClassVar = {"POST": Scope.OPERATE}

    @operation(
        "cancelJobs",
        "Cancel many jobs, all or nothing",
        request=inputs.ManyInput,
        answers={200: ManyChangedSerializer},
        errors=[404, 409],
        examples=[
            example("ids", _MANY_INPUT, request=True),
            example("cancelled", {"jobs": [examples.CHANGED]}),
        ],
    )
    def post(self, request: Request) -> Response:
        return _many(request, lifecycle.cancel)


class RetryManyView(ApiView):
    """Give many jobs a new run."""

    scopes: ClassVar = {"POST": Scope.OPERATE}

    @operation(
        "retryJobs",
        "Retry many jobs, all or nothing",
        request=inputs.ManyInput,
        answers={200: ManyChangedSerializer},
        errors=[404, 409],
        examples=[
            example("ids", _MANY_INPUT, request=True),
            example("reopened", {"jobs": [_REOPENED]}),
        ],
    )
    def post(self, request: Request) -> Response:
        return _many(request, lifecycle.reopen)


def _one(request: Request, job_id: str, verb: Callable[..., list[Changed]]) -> Response:
    reason = inputs.body(inputs.ReasonInput, request.data).reason
    own = own_job_id(request, job_id)
    changed = verb([own], actor=actor_of(request), reason=reason)
    if not changed:
        raise NoSuchJob
    return Response(ChangedSerializer(changed[0]).data)


def _many(request: Request, verb: Callable[..., list[Changed]]) -> Response:
    data: Any = request.data
    if isinstance(data, dict) and isinstance(data.get("ids"), list):
        inputs.bounded(data["ids"], conf.get().bulk_limit, "ids")
    wanted = inputs.body(inputs.ManyInput, data)
    require_own(request, wanted.ids)
    changed = verb(wanted.ids, actor=actor_of(request), reason=wanted.reason)
    ordered = _in_order(wanted.ids, changed)
    return Response({"jobs": listed(ChangedSerializer, ordered)})


def _in_order(job_ids: Sequence[UUID], changed: list[Changed]) -> list[Changed]:
    by_id = {one.job_id: one for one in changed}
    return [by_id[job_id] for job_id in dict.fromkeys(job_ids) if job_id in by_id]
