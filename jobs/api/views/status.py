"""The status of jobs: Redis answers, without a query, as long as it has a copy."""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiResponse
from rest_framework.request import Request

from jobs import conf, status_reader
from jobs.api import examples, inputs
from jobs.api.problems import NoSuchJob
from jobs.api.schema import NOT_NEGATIVE, example, id_parameter, operation, text_parameter
from jobs.api.serializers import StatusesSerializer, StatusSerializer
from jobs.api.views.base import ApiView, id_of, owner_of
from jobs.models import Scope
from jobs.status import Copy
from jobs.status_reader import NOTHING_SEEN, Rank

_TAG = re.compile(r'(?:W/)?"(\d{1,9})\.(\d{1,9})"', re.ASCII)
_CACHING = "private, no-cache"


class StatusView(ApiView):
    """The status of one job."""

    scopes: ClassVar = {"GET": Scope.READ}

    @operation(
        "getStatus",
        "Read a job's status",
        description=(
            "Cheap: answered from memory. Send the `ETag` of the last answer as `If-None-Match`, "
            "and what has not changed is not repeated (304). With `wait`, the answer comes as soon "
            "as something changes."
        ),
        parameters=[
            id_parameter(),
            text_parameter(
                "wait",
                "Seconds to wait for a change, up to `wait_limit_seconds` (30).",
                kind=NOT_NEGATIVE,
            ),
            text_parameter("If-None-Match", "An `ETag` that was seen.", header=True),
        ],
        answers={
            200: StatusSerializer,
            304: OpenApiResponse(description="Nothing has changed."),
        },
        errors=[400, 404],
        examples=[example("running", examples.STATUS)],
    )
    def get(self, request: Request, job_id: str) -> HttpResponse:
        wanted = id_of(job_id)
        seconds = min(
            inputs.query(inputs.StatusQuery, request.query_params).wait,
            conf.get().wait_limit_seconds,
        )
        seen = Seen(request.headers.get("If-None-Match", ""))
        copy = _own(status_reader.one(wanted, at_least=seen.rank), request)
        if seconds > 0 and seen.rank in (NOTHING_SEEN, copy.rank):
            copy = _own(status_reader.wait(wanted, copy.rank, seconds), request)
        headers = {"ETag": copy.etag, "Cache-Control": _CACHING}
        if seen.holds(copy):
            return HttpResponse(status=304, headers=headers)
        return HttpResponse(copy.body, content_type="application/json", headers=headers)


class StatusesView(ApiView):
    """The status of many jobs."""

    scopes: ClassVar = {"POST": Scope.READ}

    @operation(
        "getStatuses",
        "Read the status of many jobs",
        description="In the order of the ids, each once. Ids of no job of yours are `missing`.",
        request=inputs.IdsInput,
        answers={200: StatusesSerializer},
        examples=[
            example("ids", {"ids": [examples.ID]}, request=True),
            example("one status", examples.STATUSES),
        ],
    )
    def post(self, request: Request) -> HttpResponse:
        job_ids = _wanted_ids(request.data)
        owner_id = owner_of(request)
        known = status_reader.many(job_ids)
        bodies: list[bytes] = []
        missing: list[str] = []
        for job_id in job_ids:
            copy = known.get(job_id)
            if copy is None or copy.owner_id != owner_id:
                missing.append(str(job_id))
            else:
                bodies.append(copy.body)
        parts = (b",".join(bodies), json.dumps(missing).encode())
        body = b'{"statuses":[%b],"missing":%b}' % parts
        headers = {"Cache-Control": _CACHING}
        return HttpResponse(body, content_type="application/json", headers=headers)


class Seen:
    """What the client says it has: tags of an ``If-None-Match`` header, weak or strong."""

    def __init__(self, header: str) -> None:
        tags = _TAG.findall(header[:2000])
        self._ranks = {(int(version), int(seq)) for version, seq in tags}
        self._anything = header.strip() == "*"
        self.rank: Rank = max(self._ranks, default=NOTHING_SEEN)

    def holds(self, copy: Copy) -> bool:
        return self._anything or copy.rank in self._ranks


def _own(copy: Copy | None, request: Request) -> Copy:
    if copy is None or copy.owner_id != owner_of(request):
        raise NoSuchJob
    return copy


def _wanted_ids(data: Any) -> list[UUID]:
    if isinstance(data, dict) and isinstance(data.get("ids"), list):
        inputs.bounded(data["ids"], conf.get().status_bulk_limit, "ids")
    return list(dict.fromkeys(inputs.body(inputs.IdsInput, data).ids))
