"""Uploads and artifacts over HTTP."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile

from jobs import files
from jobs.models import Job, JobArtifact, Upload
from jobs.states import JobEvent
from tests.api import Api, body_of, problem
from tests.conftest import JobFactory
from tests.verbs import claim, finish

pytestmark = pytest.mark.django_db

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.fixture
def job(owner: User, job_factory: JobFactory) -> Job:
    """A completed job with three artifacts."""
    [waiting] = job_factory(owner_id=owner.pk)
    [attempt] = claim([waiting])
    kept = (
        files.store_artifact(attempt, "histogram one.svg", SVG, "image/svg+xml"),
        files.store_artifact(attempt, "rows.csv", b"a,b\n", "text/csv"),
        files.store_artifact(attempt, "odd", b"x", "text/html\r\nX-Evil: 1"),
    )
    finish([attempt], JobEvent.SUCCEED, artifacts=kept)
    return waiting


def test_artifacts_are_listed(api: Api, job: Job) -> None:
    found = api.get(f"jobs/{job.id}/artifacts/").json()["results"]
    assert [one["name"] for one in found] == ["histogram one.svg", "odd", "rows.csv"]
    assert found[0]["sha256"] == hashlib.sha256(SVG).hexdigest()
    assert found[0]["size_bytes"] == len(SVG)
    assert api.get(f"jobs/{job.id}/").json()["artifacts"] == found
    answer = api.get(found[0]["links"]["self"].removeprefix("/api/v1/"))
    assert body_of(answer) == SVG


def test_a_picture_is_shown_but_its_script_cannot_run(api: Api, job: Job) -> None:
    answer = api.get(f"jobs/{job.id}/artifacts/histogram%20one.svg/", Accept="image/*")
    assert answer.status_code == 200
    assert body_of(answer) == SVG
    assert answer["Content-Type"] == "image/svg+xml"
    assert answer["Content-Length"] == str(len(SVG))
    assert answer["Content-Disposition"] == 'inline; filename="histogram one.svg"'
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    again = api.get(f"jobs/{job.id}/artifacts/histogram%20one.svg/", If_None_Match=answer["ETag"])
    assert again.status_code == 304


@pytest.mark.parametrize(
    ("name", "media_type"), [("rows.csv", "text/csv"), ("odd", "application/octet-stream")]
)
def test_other_files_are_downloaded(api: Api, job: Job, name: str, media_type: str) -> None:
    answer = api.get(f"jobs/{job.id}/artifacts/{name}/")
    body_of(answer)
    assert answer["Content-Type"] == media_type
    assert answer["Content-Disposition"].startswith("attachment")


def test_a_file_that_is_not_there_is_not_found(api: Api, job: Job) -> None:
    problem(api.get(f"jobs/{job.id}/artifacts/other.svg/"), 404, "not_found")
    problem(api.get(f"jobs/{job.id}/artifacts/%00/"), 404, "not_found")
    files.storage().delete(JobArtifact.objects.get(name="odd").file)
    problem(api.get(f"jobs/{job.id}/artifacts/odd/"), 404, "gone")


# ----------------------------------------------------------------------------------------- uploads


def test_a_file_is_kept_for_its_owner(api: Api, owner: User) -> None:
    content = b"a,b\n1,2\n" * 1000
    answer = api.upload({"file": SimpleUploadedFile("../../data.csv.gz", content)})
    assert answer.status_code == 201
    upload = Upload.objects.get()
    assert answer.json() == {
        "id": str(upload.id),
        "name": "data.csv.gz",
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert upload.owner_id == owner.pk
    assert b"".join(files.chunks(upload.file)) == content


def test_an_upload_that_is_too_large_is_refused(
    api: Api, jobs_settings: Callable[..., None]
) -> None:
    jobs_settings(upload_limit_bytes=100)
    found = problem(api.upload({"file": io.BytesIO(b"x" * 101)}), 400, "invalid_payload")
    assert found["errors"][0]["code"] == "too_large"
    problem(api.upload({"file": io.BytesIO(b"x" * 100_000)}), 413, "too_large")
    assert not Upload.objects.exists()


def test_a_form_without_exactly_one_file_is_refused(api: Api, tmp_path: Path) -> None:
    problem(api.upload({}), 400, "invalid_request")
    problem(api.upload({"file": "text"}), 400, "invalid_request")
    problem(api.upload({"other": io.BytesIO(b"x")}), 400, "invalid_request")
    problem(api.upload({"file": io.BytesIO(b"x"), "more": "y"}), 400, "invalid_request")
    problem(api.upload({"file": [io.BytesIO(b"x"), io.BytesIO(b"y")]}), 400, "invalid_request")
    problem(api.upload({"file": SimpleUploadedFile("empty.csv", b"")}), 400, "invalid_payload")
    assert not Upload.objects.exists()


def test_a_form_that_is_no_form_is_refused(api: Api) -> None:
    problem(api.raw("uploads/", "{}"), 415, "unsupported_media_type")
    problem(api.raw("uploads/", "xx", "multipart/form-data"), 400, "parse_error")
    problem(api.raw("uploads/", "xx", "multipart/form-data; boundary=b"), 400, "invalid_request")
    problem(api.upload({f"f{n}": "x" for n in range(1001)}), 400, "bad_request")
