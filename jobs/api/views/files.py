"""What goes in and comes out of jobs beside JSON: uploads and artifacts; and results alone."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import TemporaryFileUploadHandler
from django.db.models import TextField
from django.db.models.functions import Cast
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, inline_serializer
from rest_framework.request import Request
from rest_framework.response import Response

from jobs import conf, files
from jobs.api import examples
from jobs.api.parsers import UploadParser
from jobs.api.problems import InvalidRequest, NoSuchJob, NotFound, TooLarge
from jobs.api.schema import example, id_parameter, operation
from jobs.api.serializers import ArtifactSerializer, UploadSerializer, listed
from jobs.api.views.base import ApiView, id_of, own_job_id, owner_of
from jobs.errors import FieldProblem
from jobs.models import Job, JobArtifact, Scope

#: The form of an upload: one file, nothing else.
_FORM = {
    "type": "object",
    "properties": {"file": {"type": "string", "format": "binary", "minLength": 1}},
    "required": ["file"],
    "additionalProperties": False,
}
#: What a multipart form may add around the file's own bytes.
_FORM_BYTES = 64 * 1024
#: Shown in the browser; everything else is downloaded.
_SHOWN = ("image/", "text/plain", "application/json", "application/pdf")
_MEDIA_TYPE = re.compile(r"(?i)[a-z0-9.+-]{1,60}/[a-z0-9.+-]{1,60}(; ?charset=[a-z0-9-]{1,20})?")
#: An artifact is made from somebody's data: its scripts never run, and it loads nothing.
_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class ResultView(ApiView):
    """The result of one job, whatever its size."""

    scopes: ClassVar = {"GET": Scope.READ}

    @operation(
        "getResult",
        "Read a job's result",
        parameters=[id_parameter()],
        answers={200: OpenApiResponse(OpenApiTypes.ANY, description="What the handler returned.")},
        errors=[404],
        examples=[example("a result", {"rows": 1461})],
    )
    def get(self, request: Request, job_id: str) -> HttpResponse:
        own = Job.objects.owned_by(owner_of(request)).filter(id=id_of(job_id))
        # As text: the database's JSON goes out without being parsed and written again.
        row = own.values_list(Cast("result", TextField())).first()
        if row is None:
            raise NoSuchJob
        if row[0] is None:
            raise NotFound("The job has no result.", code="no_result")
        return HttpResponse(row[0], content_type="application/json")


class ArtifactsView(ApiView):
    """The files that came out of one job."""

    scopes: ClassVar = {"GET": Scope.READ}

    @operation(
        "listArtifacts",
        "List a job's artifacts",
        parameters=[id_parameter()],
        answers={
            200: inline_serializer("ArtifactList", {"results": ArtifactSerializer(many=True)})
        },
        errors=[404],
        examples=[example("one artifact", {"results": [examples.ARTIFACT]})],
    )
    def get(self, request: Request, job_id: str) -> Response:
        found = JobArtifact.objects.filter(job_id=own_job_id(request, job_id)).order_by("name")
        return Response({"results": listed(ArtifactSerializer, found)})


class ArtifactView(ApiView):
    """One file that came out of a job."""

    scopes: ClassVar = {"GET": Scope.READ}

    @operation(
        "downloadArtifact",
        "Download an artifact",
        parameters=[
            id_parameter(),
            OpenApiParameter("name", str, OpenApiParameter.PATH, description="The file's name."),
        ],
        answers={200: OpenApiResponse(OpenApiTypes.BINARY, description="The file.")},
        errors=[404],
    )
    def get(self, request: Request, job_id: str, name: str) -> HttpResponseBase:
        own = own_job_id(request, job_id)
        artifact = None
        if "\x00" not in name:
            artifact = JobArtifact.objects.filter(job_id=own, name=name).first()
        if artifact is None:
            raise NotFound("The job has no such artifact.", code="not_found")
        etag = f'"{artifact.sha256}"'
        if etag in request.headers.get("If-None-Match", ""):
            return HttpResponse(status=304, headers={"ETag": etag})
        try:
            source = files.storage().open(artifact.file)
        except FileNotFoundError as error:
            raise NotFound("The artifact's file is gone.", code="gone") from error
        return _download(artifact, source, etag)


class UploadsView(ApiView):
    """Files to run jobs on."""

    scopes: ClassVar = {"POST": Scope.SUBMIT}
    parser_classes = [UploadParser]

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        # To disk, whatever the size: many uploads at once must not fill the memory.
        request.upload_handlers = [TemporaryFileUploadHandler(request)]
        return super().initialize_request(request, *args, **kwargs)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        # First of all: looking for a CSRF token would already read the whole form.
        if _length(request) > conf.get().upload_limit_bytes + _FORM_BYTES:
            raise TooLarge
        super().initial(request, *args, **kwargs)

    @operation(
        "upload",
        "Upload a file",
        description="Streamed to disk. Refer to it in a payload by its `id`.",
        request=_FORM,
        media_type="multipart/form-data",
        answers={201: UploadSerializer},
        examples=[example("a file", examples.UPLOAD, status=201)],
    )
    def post(self, request: Request) -> Response:
        upload = _only_file(request)
        stored = files.store_upload(upload, upload.name or "upload", owner_of(request))
        return Response(UploadSerializer(stored).data, status=201)


def _download(artifact: JobArtifact, source: Any, etag: str) -> FileResponse:
    known = _MEDIA_TYPE.fullmatch(artifact.media_type) is not None
    media_type = artifact.media_type if known else "application/octet-stream"
    response = FileResponse(
        source,
        as_attachment=not media_type.lower().startswith(_SHOWN),
        filename=artifact.name,
        content_type=media_type,
    )
    response["X-Content-Type-Options"] = "nosniff"
    response["Content-Security-Policy"] = _POLICY
    response["Cache-Control"] = "private, no-cache"
    response["ETag"] = etag
    return response


def _length(request: Request) -> int:
    try:
        return int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        return 0


def _only_file(request: Request) -> UploadedFile[Any]:
    found: list[UploadedFile[Any]] = request.FILES.getlist("file")
    others = sorted({*request.data, *request.FILES} - {"file"})
    if others:
        raise InvalidRequest(
            [FieldProblem(name[:100], "is not a field of this form", "extra") for name in others]
        )
    if len(found) != 1:
        text = f"exactly one file is needed, in the multipart field `file`; there are {len(found)}"
        raise InvalidRequest([FieldProblem("file", text, "required")])
    return found[0]
