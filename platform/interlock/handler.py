"""Django's WSGI handler, for requests that are UTF-8 and nothing else."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import BadRequest
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest


class Utf8Request(WSGIRequest):
    """Django reads a request with whatever codec of Python its Content-Type names.

    Also with one that is no charset, such as rot13: making the request then fails outside of all
    handlers, as a bare 500. So it does for a parameter in a codec that there is not (RFC 2231).
    JSON is UTF-8, and so are the admin's forms.
    """

    def _set_content_type_params(self, meta: dict[str, Any]) -> None:
        try:
            super()._set_content_type_params(meta)  # type: ignore[misc] # not in django-stubs
        except (BadRequest, LookupError, ValueError):
            # What nobody can read is left out for the parsers too, which would fail again.
            meta["CONTENT_TYPE"] = meta["CONTENT_TYPE"].partition(";")[0]
            super()._set_content_type_params(meta)  # type: ignore[misc] # same

    @property
    def encoding(self) -> str:
        return "utf-8"

    @encoding.setter
    def encoding(self, value: str) -> None:
        """Not changed by what a client says."""


class Utf8Handler(WSGIHandler):
    """Makes them."""

    request_class = Utf8Request
