"""What all endpoints share. Self-contained, so that a project's own DRF settings change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar
from uuid import UUID

from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from jobs.api.auth import BrowserAuthentication, KeyAuthentication
from jobs.api.parsers import BoundedJSONParser
from jobs.api.permissions import HasScope
from jobs.api.problems import LengthRequired, NoSuchJob, exception_handler
from jobs.api.schema import JobsSchema
from jobs.errors import FieldProblem
from jobs.models import Job, Scope
from jobs.states import ActorKind
from jobs.values import Actor


class AlwaysJson(BaseContentNegotiation):
    """Answers are JSON whatever ``Accept`` says, so that a browser can follow every link."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser | None:
        wanted = (request.content_type or "").partition(";")[0].strip().lower()
        return next((parser for parser in parsers if parser.media_type == wanted), None)

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, str(renderer.media_type)


class ApiView(APIView):
    """Base of all endpoints."""

    authentication_classes = [KeyAuthentication, BrowserAuthentication]
    permission_classes = [HasScope]
    parser_classes = [BoundedJSONParser]
    renderer_classes = [JSONRenderer]
    content_negotiation_class = AlwaysJson
    metadata_class = None
    schema = JobsSchema()
    #: The scope that a key needs, by method.
    scopes: ClassVar[Mapping[str, Scope]] = {}

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        # Django reads nothing without a length: better a clear answer than "the body is empty".
        if request.META.get("HTTP_TRANSFER_ENCODING") and not request.META.get("CONTENT_LENGTH"):
            raise LengthRequired

    def get_exception_handler(self) -> Callable[..., Any]:
        return exception_handler


def owner_of(request: Request) -> int:
    """The id of the calling user."""
    key: Any = request.user.pk
    return int(key)


def actor_of(request: Request) -> Actor:
    """The calling user as the actor of a transition."""
    return Actor(ActorKind.USER, str(owner_of(request)))


def id_of(text: str) -> UUID:
    """A job's id in a path. Raises NoSuchJob: what is no id can be no job's id."""
    try:
        job_id = UUID(text)
    except ValueError as error:
        raise NoSuchJob from error
    if str(job_id) != text.lower():
        raise NoSuchJob
    return job_id


def own_job_id(request: Request, text: str) -> UUID:
    """The id of a job of the caller's (one query). Raises NoSuchJob."""
    job_id = id_of(text)
    if not Job.objects.owned_by(owner_of(request)).filter(id=job_id).exists():
        raise NoSuchJob
    return job_id


def require_own(request: Request, job_ids: Sequence[UUID]) -> None:
    """All ids are jobs of the caller's (one query). Raises NoSuchJob that lists the others."""
    own = Job.objects.owned_by(owner_of(request)).filter(id__in=job_ids)
    known = set(own.values_list("id", flat=True))
    unknown = [
        FieldProblem("ids", f"There is no such job: {job_id}", "not_found", index)
        for index, job_id in enumerate(job_ids)
        if job_id not in known
    ]
    if unknown:
        raise NoSuchJob(unknown)
