"""Plain submits of one job: a small JSON body, no keys.

Judged and carried out by the same code as in Django's view, which is left to say what is wrong.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, ClassVar

from django.conf import settings
from django.db import close_old_connections
from rest_framework.renderers import JSONRenderer

from jobs import conf, lifecycle, policy
from jobs.api import inputs, quota
from jobs.api.parsers import BoundedJSONParser
from jobs.api.plain import Answer, look
from jobs.api.serializers import job_address
from jobs.api.views.jobs import FAILURE, JobsView, accepted_content
from jobs.states import ActorKind
from jobs.values import Actor, Submission

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

log = logging.getLogger("jobs.lane")

#: A request with any of these is not plain.
_UNUSUAL = (
    *("QUERY_STRING", "HTTP_COOKIE", "HTTP_TRANSFER_ENCODING", "HTTP_CONTENT_ENCODING"),
    "HTTP_IDEMPOTENCY_KEY",
)
_JSON = "application/json"
#: Larger bodies take their time anyway.
_MOST_BYTES = 16 * 1024
_SCOPE = JobsView.scopes["POST"]
_parser, _renderer = BoundedJSONParser(), JSONRenderer()


class SubmitRequests:
    """``POST`` of one job; ``plain.Kind``."""

    def __init__(self) -> None:
        self._address = f"{conf.get().api_prefix}jobs/"
        self._most_bytes = min(_MOST_BYTES, settings.DATA_UPLOAD_MAX_MEMORY_SIZE or _MOST_BYTES)

    def includes(self, environ: WSGIEnvironment) -> bool:
        return (
            environ["REQUEST_METHOD"] == "POST"
            and environ.get("PATH_INFO") == self._address
            and environ.get("CONTENT_TYPE") == _JSON
            and not any(map(environ.get, _UNUSUAL))
        )

    def understood(self, environ: WSGIEnvironment) -> _Submit | None:
        length = environ.get("CONTENT_LENGTH", "")
        if not (length.isascii() and length.isdigit() and int(length) <= self._most_bytes):
            return None
        found = look(environ, _SCOPE)
        if found is None:
            return None
        principal, _ = found
        content = environ["wsgi.input"].read(int(length))
        # For Django, should it come to that.
        environ["wsgi.input"] = BytesIO(content)
        try:
            wanted = inputs.body(inputs.JobInput, _parser.parse(BytesIO(content), _JSON))
        except Exception as problem:
            log.debug("left to Django: %s", policy.described(problem))
            return None
        if wanted.unique_key is not None:
            return None
        return _Submit(environ, wanted.submission(principal.user_id, None))


@dataclass(slots=True)
class _Submit:
    """A job that somebody may submit; ``plain.Plain``."""

    code: ClassVar[str] = "201"
    environ: WSGIEnvironment
    submission: Submission

    def answer(self) -> Answer | None:
        owner_id = self.submission.owner_id or 0
        # What Django does around each of its requests.
        close_old_connections()
        try:
            quota.require(owner_id, 1, None)
            actor = Actor(ActorKind.USER, str(owner_id))
            accepted = lifecycle.submit_together(self.submission, actor=actor)
        except Exception as problem:
            # Told by Django's view, in its words.
            self.environ[FAILURE] = problem
            return None
        finally:
            close_old_connections()
        body = _renderer.render(accepted_content(accepted))
        return {"Location": job_address(accepted.job_id)}, body
