"""The few API calls that the demo makes, with nothing but the standard library."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

from interlock.local.errors import ApiError

TIMEOUT_SECONDS = 10.0


class Client:
    """Talks to one API with one key. Every method raises ApiError in words."""

    def __init__(self, base_url: str, api_key: str = "") -> None:
        self.base_url = base_url.rstrip("/")
        self._key = api_key
        # A proxy of the environment does not know this machine's loopback.
        self._opener: OpenerDirector = build_opener(ProxyHandler({}))

    def is_ready(self) -> bool:
        """Does the platform report itself ready?"""
        try:
            self._send("GET", "/health/ready", None, {})
        except ApiError:
            return False
        return True

    def accepts_key(self) -> bool:
        """False when the key is unknown here, as after the database was made anew."""
        try:
            self.get("/api/v1/jobs/")
        except ApiError as error:
            if error.status in (401, 403):
                return False
            raise
        return True

    def submit(self, handler: str, payload: Mapping[str, Any], key: str) -> str:
        """Submit one job under an idempotency key; returns its id."""
        body = {"handler": handler, "payload": payload}
        return str(self.post("/api/v1/jobs/", body, {"Idempotency-Key": key})["id"])

    def statuses(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """The status of many jobs in one round trip."""
        return list(self.post("/api/v1/jobs/status/", {"ids": list(ids)})["statuses"])

    def upload(self, path: Path) -> str:
        """Upload a file; returns the upload's id."""
        boundary = uuid.uuid4().hex
        head = (
            f"--{boundary}\r\n"
            f'Content-Disposition: form-data; name="file"; filename="{path.name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        return str(self._json("POST", "/api/v1/uploads/", body, headers)["id"])

    def get(self, path: str) -> dict[str, Any]:
        return self._json("GET", path, None, {})

    def post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        sent = {"Content-Type": "application/json", **(headers or {})}
        return self._json("POST", path, json.dumps(body).encode(), sent)

    def _json(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> dict[str, Any]:
        answer = self._send(method, path, body, headers)
        try:
            content = json.loads(answer)
        except ValueError as error:
            raise ApiError(f"{method} {path} did not answer with JSON") from error
        return content if isinstance(content, dict) else {"results": content}

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> bytes:
        sent = {"Accept": "application/json", **headers}
        if self._key:
            sent["Authorization"] = f"Bearer {self._key}"
        # The base is our own loopback address, never a scheme from elsewhere.
        address = self.base_url + path
        request = Request(address, data=body, headers=sent, method=method)  # noqa: S310 - as said
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
                return bytes(answer.read())
        except HTTPError as error:
            with error:
                said = error.read(2000).decode(errors="replace")
            raise ApiError(
                f"{method} {path} was refused with {error.code}: {said}", error.code
            ) from error
        except (URLError, OSError) as error:
            raise ApiError(f"{method} {path} got no answer: {error}") from error
