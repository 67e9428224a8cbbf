"""Which jobs can be submitted, and what their payloads look like."""

from __future__ import annotations

from typing import ClassVar

from drf_spectacular.utils import OpenApiParameter, inline_serializer
from rest_framework.request import Request
from rest_framework.response import Response

from jobs import registry
from jobs.api import examples
from jobs.api.problems import NotFound
from jobs.api.schema import example, operation
from jobs.api.serializers import JobTypeSerializer, listed
from jobs.api.views.base import ApiView
from jobs.errors import UnknownHandler
from jobs.models import Scope


class JobTypesView(ApiView):
    """All handlers."""

    scopes: ClassVar = {"GET": Scope.READ}

    @operation(
        "listJobTypes",
        "List the job types",
        answers={200: inline_serializer("JobTypeList", {"results": JobTypeSerializer(many=True)})},
        examples=[example("one job type", {"results": [examples.JOB_TYPE]})],
        tag="job types",
    )
    def get(self, request: Request) -> Response:
        found = [registry.get(name) for name in registry.names()]
        return Response({"results": listed(JobTypeSerializer, found)})


class JobTypeView(ApiView):
    """One handler."""

    scopes: ClassVar = {"GET": Scope.READ}

    @operation(
        "getJobType",
        "Look at a job type",
        parameters=[
            OpenApiParameter("name", str, OpenApiParameter.PATH, description="The handler's name.")
        ],
        answers={200: JobTypeSerializer},
        errors=[404],
        examples=[example("noop", examples.JOB_TYPE)],
        tag="job types",
    )
    def get(self, request: Request, name: str) -> Response:
        try:
            spec = registry.get(name)
        except UnknownHandler as error:
            raise NotFound("There is no such job type.", code="not_found") from error
        return Response(JobTypeSerializer(spec).data)
