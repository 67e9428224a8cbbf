"""Examples in the OpenAPI document: one job, seen from all sides."""

from __future__ import annotations

from typing import Any, Final

ID: Final = "019ab2c4-7a10-7c3e-8f00-5a2b9c1d4e6f"
BASE: Final = f"/api/v1/jobs/{ID}/"
_AT: Final = "2026-01-31T12:00:00.123456+00:00"

JOB_INPUT: Final[dict[str, Any]] = {"handler": "noop", "payload": {"sleep_seconds": 2}}
ACCEPTED: Final[dict[str, Any]] = {
    "id": ID,
    "state": "PENDING",
    "version": 1,
    "created": True,
    "links": {"self": BASE, "status": f"{BASE}status/"},
}
BULK_INPUT: Final[dict[str, Any]] = {"jobs": [JOB_INPUT, {**JOB_INPUT, "priority": 9}]}
BULK_ACCEPTED: Final[dict[str, Any]] = {
    "jobs": [{"id": ID, "state": "PENDING", "version": 1, "created": True}]
}
BULK_KNOWN: Final[dict[str, Any]] = {
    "jobs": [{"id": ID, "state": "RUNNING", "version": 2, "created": False}]
}
STATUS: Final[dict[str, Any]] = {
    "id": ID,
    "handler": "noop",
    "queue": "default",
    "state": "RUNNING",
    "version": 2,
    "attempt": 1,
    "failed_attempts": 0,
    "lost_attempts": 0,
    "max_attempts": 3,
    "progress": {"fraction": 0.25, "message": "reading"},
    "reason": "",
    "cancel_requested": False,
    "submitted_at": _AT,
    "due_at": _AT,
    "started_at": _AT,
    "finished_at": None,
    "has_result": False,
    "result": None,
    "links": {"self": BASE},
}
STATUSES: Final[dict[str, Any]] = {"statuses": [STATUS], "missing": []}
SUMMARY: Final[dict[str, Any]] = {
    **{name: value for name, value in STATUS.items() if name not in ("result", "links")},
    "priority": 0,
    "tenant": "",
    "unique_key": None,
    "idempotency_key": "order-1234",
    "links": {
        "self": BASE,
        **{n: f"{BASE}{n}/" for n in ("status", "transitions", "log", "artifacts")},
    },
}
PAGE: Final[dict[str, Any]] = {"results": [SUMMARY], "next": None}
ARTIFACT: Final[dict[str, Any]] = {
    "name": "histograms.svg",
    "media_type": "image/svg+xml",
    "size_bytes": 48211,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "created_at": _AT,
    "links": {"self": f"{BASE}artifacts/histograms.svg/"},
}
JOB: Final[dict[str, Any]] = {
    **SUMMARY,
    "payload": {"sleep_seconds": 2},
    "result": None,
    "artifacts": [ARTIFACT],
}
TRANSITIONS: Final[dict[str, Any]] = {
    "results": [
        {
            "version": 1,
            "from_state": None,
            "to_state": "PENDING",
            "event": "submit",
            "actor": {"kind": "user", "id": "1"},
            "reason": "",
            "attempt": 0,
            "at": _AT,
        }
    ],
    "next": None,
}
LOG: Final[dict[str, Any]] = {
    "results": [{"id": 1, "attempt": 1, "at": _AT, "level": "info", "message": "read 1000 rows"}],
    "next": None,
}
CHANGED: Final[dict[str, Any]] = {
    "id": ID,
    "state": "CANCELLED",
    "version": 2,
    "event": "cancel",
}
UPLOAD: Final[dict[str, Any]] = {
    "id": "6f1ed002-ab5a-4b0e-9a52-0c2a5b4d9e11",
    "name": "cars.csv",
    "size_bytes": 100492,
    "sha256": ARTIFACT["sha256"],
}
JOB_TYPE: Final[dict[str, Any]] = {
    "name": "noop",
    "summary": "Do nothing, for as long as asked.",
    "queue": "default",
    "priority": 0,
    "max_attempts": 3,
    "timeout_seconds": 3600.0,
    "result_limit_bytes": 1048576,
    "payload_schema": {
        "type": "object",
        "properties": {"sleep_seconds": {"type": "number", "default": 0}},
        "additionalProperties": False,
    },
}
