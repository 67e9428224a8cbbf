"""A small client for tests of the API: one key, JSON in, JSON out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from django.http import StreamingHttpResponse
from django.test import Client

if TYPE_CHECKING:
    from django.test.client import _MonkeyPatchedWSGIResponse as Answer

BASE = "/api/v1/"
PROBLEM = "application/problem+json"


class Api:
    """Speaks for one key; without a key, for a stranger."""

    def __init__(self, key: str = "") -> None:
        self.client = Client(raise_request_exception=False)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def get(self, path: str, **headers: str) -> Answer:
        return self.client.get(BASE + path, headers={**self._headers, **_names(headers)})

    def post(self, path: str, data: Any = None, **headers: str) -> Answer:
        return self.raw(path, json.dumps({} if data is None else data), **headers)

    def raw(
        self, path: str, data: str | bytes, content_type: str = "application/json", **headers: str
    ) -> Answer:
        sent = {**self._headers, **_names(headers)}
        return self.client.post(BASE + path, data, content_type=content_type, headers=sent)

    def upload(self, data: dict[str, Any]) -> Answer:
        return self.client.post(BASE + "uploads/", data, headers=self._headers)


def problem(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """The answer is this problem and shows nothing of the inside; returns its body."""
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == PROBLEM
    found: dict[str, Any] = answer.json()
    assert found["status"] == status
    assert found["code"] == code
    assert found["request_id"] == answer["X-Request-ID"]
    for word in ("Traceback", "psycopg2", "SELECT", "jobs_job", "django"):
        assert word not in answer.content.decode()
    return found


def body_of(answer: Any) -> bytes:
    """The bytes of an answer, streamed or not."""
    if isinstance(answer, StreamingHttpResponse):
        content: bytes = answer.getvalue()
        return content
    return bytes(answer.content)


def _names(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
