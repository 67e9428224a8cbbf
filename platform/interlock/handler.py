"""Django's WSGI handler, for requests that are UTF-8 and nothing else."""

from __future__ import annotations

from django.core.handlers.wsgi import WSGIHandler, WSGIRequest


class Utf8Request(WSGIRequest):
    """Django reads a request with whatever codec of Python its Content-Type names.

    Also with one that is no charset, such as rot13: making the request then fails outside of all
    handlers, as a bare 500. JSON is UTF-8, and so are the admin's forms.
    """

    @property
    def encoding(self) -> str:
        return "utf-8"

    @encoding.setter
    def encoding(self, value: str) -> None:
        """Not changed by what a client says."""


class Utf8Handler(WSGIHandler):
    """Makes them."""

    request_class = Utf8Request
