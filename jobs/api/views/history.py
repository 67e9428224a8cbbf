"""How a job came where it is: its audit entries and its log."""

from __future__ import annotations

from typing import ClassVar

from drf_spectacular.utils import inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from jobs.api import examples, inputs, pagination
from jobs.api.schema import COUNT, ROW_ID, VERSION, example, id_parameter, operation, text_parameter
from jobs.api.serializers import LogLineSerializer, TransitionSerializer, listed
from jobs.api.views.base import ApiView, own_job_id
from jobs.models import AuditEntry, JobLogLine, Scope

_LIMIT = text_parameter("limit", "Page size, 1,000 at most.", kind=COUNT)


class TransitionsView(ApiView):
    """The audit entries of one job."""

    scopes: ClassVar = {"GET": Scope.READ}

    @operation(
        "listTransitions",
        "List a job's audit entries, oldest first",
        parameters=[
            id_parameter(),
            text_parameter("after", "Entries after this version.", kind=VERSION),
            _LIMIT,
        ],
        answers={
            200: inline_serializer(
                "TransitionPage",
                {
                    "results": TransitionSerializer(many=True),
                    "next": serializers.CharField(allow_null=True),
                },
            )
        },
        errors=[400, 404],
        examples=[example("submitted", examples.TRANSITIONS)],
    )
    def get(self, request: Request, job_id: str) -> Response:
        wanted = inputs.query(inputs.AfterQuery, request.query_params)
        limit = min(wanted.limit, pagination.MAX_ENTRIES)
        entries = AuditEntry.objects.filter(
            job_id=own_job_id(request, job_id), version__gt=wanted.after
        ).order_by("version")
        found, more = pagination.page(list(entries[: limit + 1]), limit)
        link = pagination.next_link(request, after=found[-1].version) if more else None
        return Response({"results": listed(TransitionSerializer, found), "next": link})


class LogView(ApiView):
    """The log of one job."""

    scopes: ClassVar = {"GET": Scope.READ}

    @operation(
        "listLogLines",
        "List a job's log lines, oldest first",
        description="To follow a log, ask again with `after` = the last id that you have.",
        parameters=[
            id_parameter(),
            text_parameter("after", "Lines after this id.", kind=ROW_ID),
            _LIMIT,
        ],
        answers={
            200: inline_serializer(
                "LogPage",
                {
                    "results": LogLineSerializer(many=True),
                    "next": serializers.CharField(allow_null=True),
                },
            )
        },
        errors=[400, 404],
        examples=[example("one line", examples.LOG)],
    )
    def get(self, request: Request, job_id: str) -> Response:
        wanted = inputs.query(inputs.LogQuery, request.query_params)
        limit = min(wanted.limit, pagination.MAX_ENTRIES)
        lines = JobLogLine.objects.filter(
            job_id=own_job_id(request, job_id), id__gt=wanted.after
        ).order_by("id")
        found, more = pagination.page(list(lines[: limit + 1]), limit)
        link = pagination.next_link(request, after=found[-1].id) if more else None
        return Response({"results": listed(LogLineSerializer, found), "next": link})
