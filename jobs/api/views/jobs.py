"""Submit jobs, list them, look at one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

from django.db.models import BooleanField, ExpressionWrapper, Q
from drf_spectacular.utils import inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from jobs import conf, lifecycle
from jobs.api import examples, inputs, pagination, quota
from jobs.api.problems import NoSuchJob
from jobs.api.schema import COUNT, example, id_parameter, operation, text_parameter
from jobs.api.serializers import (
    AcceptedSerializer,
    ArtifactSerializer,
    BulkAcceptedSerializer,
    JobSerializer,
    JobSummarySerializer,
    job_address,
    listed,
)
from jobs.api.views.base import ApiView, actor_of, id_of, owner_of
from jobs.errors import SubmissionError
from jobs.models import IdempotencyKey, Job, JobArtifact, Scope
from jobs.querysets import JobQuerySet
from jobs.values import Accepted

_KEY = text_parameter(
    "Idempotency-Key",
    "Up to 180 printable ASCII characters. The same key with the same request is answered by the "
    "same jobs (200); with another request it is refused (422). Keys are per owner.",
    header=True,
)
#: Where the lane leaves the error with which it has failed to submit the job of a request.
FAILURE = "jobs.failure"
_HAS_RESULT = ExpressionWrapper(Q(result__isnull=False), output_field=BooleanField())


class JobsView(ApiView):
    """The caller's jobs."""

    scopes: ClassVar = {"GET": Scope.READ, "POST": Scope.SUBMIT}

    @operation(
        "submitJob",
        "Submit a job",
        request=inputs.JobInput,
        parameters=[_KEY],
        answers={201: AcceptedSerializer, 200: AcceptedSerializer},
        errors=[422],
        examples=[
            example("a job", examples.JOB_INPUT, request=True),
            example("accepted", examples.ACCEPTED, status=201),
            example("known before", {**examples.ACCEPTED, "created": False}),
        ],
    )
    def post(self, request: Request) -> Response:
        failure: Exception | None = request.META.get(FAILURE)
        wanted = inputs.body(inputs.JobInput, request.data)
        owner_id = owner_of(request)
        key = inputs.idempotency_key(request.headers.get("Idempotency-Key"))
        submission = wanted.submission(owner_id, key)
        with _without_index():
            if failure is not None:
                # Not a second try: a commit whose answer was lost may have made the job.
                raise failure
            quota.require(owner_id, 1, key)
            accepted = lifecycle.submit_together(submission, actor=actor_of(request))
        return Response(
            accepted_content(accepted),
            status=201 if accepted.created else 200,
            headers={"Location": job_address(accepted.job_id)},
        )

    @operation(
        "listJobs",
        "List jobs, newest first",
        description="Without counting: follow `next` until it is null.",
        parameters=[
            text_parameter("state", "One or more states.", many=True),
            text_parameter("handler", "One or more handlers.", many=True),
            text_parameter("queue", "One or more queues.", many=True),
            text_parameter("tenant", "Exactly this tenant."),
            text_parameter("idempotency_key", "The job that answers to this key."),
            text_parameter("submitted_after", "ISO 8601 with a time zone."),
            text_parameter("submitted_before", "ISO 8601 with a time zone."),
            text_parameter("cursor", "From `next`."),
            text_parameter("limit", "Page size, 200 at most.", kind=COUNT),
        ],
        answers={
            200: inline_serializer(
                "JobPage",
                {
                    "results": JobSummarySerializer(many=True),
                    "next": serializers.CharField(allow_null=True),
                },
            )
        },
        errors=[400],
        examples=[example("a page", examples.PAGE)],
    )
    def get(self, request: Request) -> Response:
        wanted = inputs.query(inputs.JobsQuery, request.query_params)
        limit = min(wanted.limit, pagination.MAX_JOBS)
        jobs = _filtered(_named(owner_of(request), wanted.idempotency_key), wanted)
        if wanted.cursor is not None:
            jobs = jobs.filter(id__lt=pagination.position_of(wanted.cursor))
        rows = jobs.light().annotate(has_result=_HAS_RESULT).order_by("-id")[: limit + 1]
        found, more = pagination.page(list(rows), limit)
        link = None
        if more:
            link = pagination.next_link(request, cursor=pagination.cursor_after(found[-1].id))
        return Response({"results": listed(JobSummarySerializer, found), "next": link})


class BulkView(ApiView):
    """Many jobs at once."""

    scopes: ClassVar = {"POST": Scope.SUBMIT}

    @operation(
        "submitJobs",
        "Submit many jobs, all or nothing",
        description="Errors carry the index of the job in the request; then nothing was written.",
        request=inputs.BulkInput,
        parameters=[_KEY],
        answers={201: BulkAcceptedSerializer, 200: BulkAcceptedSerializer},
        errors=[422],
        examples=[
            example("two jobs", examples.BULK_INPUT, request=True),
            example("accepted", examples.BULK_ACCEPTED, status=201),
            example("known before", examples.BULK_KNOWN),
        ],
    )
    def post(self, request: Request) -> Response:
        wanted = inputs.body(inputs.BulkInput, _cut_early(request.data)).jobs
        owner_id = owner_of(request)
        key = inputs.idempotency_key(request.headers.get("Idempotency-Key"))
        digest = "" if key is None else _digest(request.data)
        submissions = [
            one.submission(owner_id, None if key is None else f"{key}/{index}", digest)
            for index, one in enumerate(wanted)
        ]
        quota.require(owner_id, len(submissions), submissions[0].idempotency_key)
        accepted = lifecycle.submit(submissions, actor=actor_of(request))
        created = any(one.created for one in accepted)
        return Response({"jobs": list(map(_entry, accepted))}, status=201 if created else 200)


class JobView(ApiView):
    """One job with everything."""

    scopes: ClassVar = {"GET": Scope.READ}

    @operation(
        "getJob",
        "Look at a job",
        parameters=[id_parameter()],
        answers={200: JobSerializer},
        errors=[404],
        examples=[example("a job", examples.JOB)],
    )
    def get(self, request: Request, job_id: str) -> Response:
        own = Job.objects.owned_by(owner_of(request)).annotate(has_result=_HAS_RESULT)
        job = own.filter(id=id_of(job_id)).first()
        if job is None:
            raise NoSuchJob
        artifacts = JobArtifact.objects.filter(job_id=job.id).order_by("name")
        return Response(
            {
                **JobSummarySerializer(job).data,
                "payload": job.payload,
                "result": job.result,
                "artifacts": listed(ArtifactSerializer, artifacts),
            }
        )


@contextmanager
def _without_index() -> Iterator[None]:
    """Who sends one job does not count from 0."""
    try:
        yield
    except SubmissionError as error:
        raise type(error)([replace(one, index=None) for one in error.problems]) from error


def accepted_content(accepted: Accepted) -> dict[str, Any]:
    """What the answer to one submitted job says."""
    base = job_address(accepted.job_id)
    return {**_entry(accepted), "links": {"self": base, "status": f"{base}status/"}}


def _entry(accepted: Accepted) -> dict[str, Any]:
    """By hand: a serializer would take longer over an entry than its insert."""
    return {
        "id": accepted.job_id,
        "state": accepted.state,
        "version": accepted.version,
        "created": accepted.created,
    }


def _named(owner_id: int, key: str | None) -> JobQuerySet:
    """The owner's jobs, or the one that answers to this idempotency key, made by it or not."""
    jobs: JobQuerySet = Job.objects.owned_by(owner_id)
    if key is None:
        return jobs
    answered = IdempotencyKey.objects.filter(
        owner_id=owner_id, key=key, answered_by__isnull=False
    ).values_list("answered_by", flat=True)
    return jobs.filter(Q(idempotency_key=key) | Q(id__in=list(answered)))


def _filtered(jobs: JobQuerySet, wanted: inputs.JobsQuery) -> JobQuerySet:
    for name in ("state", "handler", "queue"):
        values = getattr(wanted, name)
        if values:
            jobs = jobs.filter(**{f"{name}__in": values})
    if wanted.tenant is not None:
        jobs = jobs.filter(tenant=wanted.tenant)
    if wanted.submitted_after is not None:
        jobs = jobs.filter(submitted_at__gt=wanted.submitted_after)
    if wanted.submitted_before is not None:
        jobs = jobs.filter(submitted_at__lt=wanted.submitted_before)
    return jobs


def _cut_early(data: Any) -> Any:
    """Refuse a list that is too long before each of its entries is looked at."""
    if isinstance(data, dict) and isinstance(data.get("jobs"), list):
        inputs.bounded(data["jobs"], conf.get().bulk_limit, "jobs")
    return data


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
