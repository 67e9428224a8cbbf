"""Pages by position, never by count: newest first, stable while jobs are being submitted."""

from __future__ import annotations

import base64
import binascii
from typing import TypeVar
from urllib.parse import urlencode
from uuid import UUID

from rest_framework.request import Request

from jobs.api.problems import InvalidRequest
from jobs.errors import FieldProblem

T = TypeVar("T")

#: Largest page of jobs, and of audit entries or log lines.
MAX_JOBS = 200
MAX_ENTRIES = 1000


def cursor_after(job_id: UUID) -> str:
    """An opaque position in the list of jobs, which is ordered by their UUIDv7."""
    return base64.urlsafe_b64encode(job_id.bytes).rstrip(b"=").decode()


def position_of(cursor: str) -> UUID:
    """The position of a cursor. Raises InvalidRequest."""
    try:
        return UUID(bytes=base64.urlsafe_b64decode(cursor + "=="))
    except (ValueError, binascii.Error) as error:
        text = "is not a cursor that this API gave"
        raise InvalidRequest([FieldProblem("cursor", text, "invalid_cursor")]) from error


def page(rows: list[T], limit: int) -> tuple[list[T], bool]:
    """Cut rows that were read one beyond the limit; True if there are more."""
    return rows[:limit], len(rows) > limit


def next_link(request: Request, **changes: str | int) -> str:
    """This request's address with other parameters, for the page that follows."""
    parameters = request.query_params.copy()
    for name, value in changes.items():
        parameters[name] = str(value)
    return f"{request.path}?{urlencode(list(parameters.lists()), doseq=True)}"
