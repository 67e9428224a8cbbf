"""Files: uploads belong to their owner, artifacts to their attempt, paths to the data roots."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.files.storage import FileSystemStorage, storages

from jobs import files
from jobs.errors import InvalidPayload, PermanentFailure
from jobs.models import Upload
from tests.conftest import UserFactory
from tests.verbs import claim, submit

pytestmark = pytest.mark.django_db

OVERRIDE = Callable[..., None]


def upload(
    content: bytes = b"a,b\n1,2\n", name: str = "data.csv", owner: int | None = None
) -> Upload:
    return files.store_upload(io.BytesIO(content), name, owner)


def test_an_upload_comes_back_the_same(user_factory: UserFactory, tmp_path: Path) -> None:
    user = user_factory()
    kept = upload(owner=user.pk)
    assert (kept.name, kept.size_bytes) == ("data.csv", 8)
    assert kept.sha256 == hashlib.sha256(b"a,b\n1,2\n").hexdigest()
    path = files.open_upload(kept.id, user.pk, tmp_path)
    assert path.read_bytes() == b"a,b\n1,2\n"
    assert path.suffix == ".csv"
    assert files.upload_exists(kept.id, user.pk)
    assert b"".join(files.chunks(kept.file)) == b"a,b\n1,2\n"


def test_an_upload_of_somebody_else_does_not_exist(
    user_factory: UserFactory, tmp_path: Path
) -> None:
    kept = upload(owner=user_factory().pk)
    for owner in (user_factory().pk, None):
        assert not files.upload_exists(kept.id, owner)
        with pytest.raises(PermanentFailure, match="no upload"):
            files.open_upload(kept.id, owner, tmp_path)
    with pytest.raises(PermanentFailure, match="no upload"):
        files.open_upload(uuid4(), None, tmp_path)


def test_too_large_and_empty_uploads_leave_nothing(jobs_settings: OVERRIDE, tmp_path: Path) -> None:
    jobs_settings(upload_limit_bytes=4)
    with pytest.raises(InvalidPayload, match="more than 4 bytes"):
        upload(b"12345")
    with pytest.raises(InvalidPayload, match="empty"):
        upload(b"")
    assert upload(b"1234").size_bytes == 4
    assert len(list((tmp_path / "files").rglob("*.csv"))) == 1
    assert Upload.objects.count() == 1


@pytest.mark.parametrize(
    ("name", "kept", "suffix"),
    [
        ("../../etc/passwd", "passwd", ""),
        ("/abs/data.CSV", "data.CSV", ".csv"),
        ("data.csv.gz", "data.csv.gz", ".csv.gz"),
        ("a.b.c.d", "a.b.c.d", ".c.d"),
        ("", "upload", ""),
        ("x" * 300, "x" * 255, ""),
        ("odd.c$v", "odd.c$v", ""),
        ("Übersicht.csv", "Übersicht.csv", ".csv"),
    ],
)
def test_names_are_kept_for_people_and_never_become_paths(
    name: str, kept: str, suffix: str
) -> None:
    stored = upload(name=name)
    assert stored.name == kept
    assert stored.file == f"uploads/{stored.id}{suffix}"


def test_an_upload_on_a_remote_storage_is_copied(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = upload()

    def no_path(self: FileSystemStorage, name: str) -> str:
        raise NotImplementedError

    content = Path(files.storage().path(kept.file)).read_bytes()
    monkeypatch.setattr(FileSystemStorage, "path", no_path)
    monkeypatch.setattr(FileSystemStorage, "_open", lambda *_: io.BytesIO(content))
    path = files.open_upload(kept.id, None, tmp_path)
    assert path.parent == tmp_path
    assert path.read_bytes() == b"a,b\n1,2\n"


# -------------------------------------------------------------------------------------- artifacts


@pytest.mark.parametrize("as_path", [False, True])
def test_an_artifact_is_kept_under_its_attempt(as_path: bool, tmp_path: Path) -> None:
    [attempt] = claim(submit())
    source = tmp_path / "plot"
    source.write_bytes(b"<svg/>")
    content: bytes | Path = source if as_path else b"<svg/>"
    kept = files.store_artifact(attempt, "plot.svg", content, "image/svg+xml")
    assert (kept.name, kept.media_type, kept.size_bytes) == ("plot.svg", "image/svg+xml", 6)
    assert kept.sha256 == hashlib.sha256(b"<svg/>").hexdigest()
    assert kept.file == f"artifacts/{attempt.job_id}/{attempt.token}/plot.svg"
    assert b"".join(files.chunks(kept.file)) == b"<svg/>"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "a/b", "../a", "a\\b", "a\nb", "a\x00b", "x" * 201, "é" * 150, "-x"],
)
def test_an_artifact_needs_a_plain_name(name: str) -> None:
    [attempt] = claim(submit())
    with pytest.raises(ValueError, match="artifact name"):
        files.store_artifact(attempt, name, b"x", "text/plain")


@pytest.mark.parametrize("media_type", ["x" * 101, "text/pl\x00ain", "text/\ud800"])
def test_an_artifact_needs_a_media_type_that_can_be_stored(media_type: str) -> None:
    [attempt] = claim(submit())
    with pytest.raises(ValueError, match="media type"):
        files.store_artifact(attempt, "a.txt", b"x", media_type)


def test_an_artifact_has_a_limit(jobs_settings: OVERRIDE, tmp_path: Path) -> None:
    jobs_settings(artifact_limit_bytes=3)
    [attempt] = claim(submit())
    large = tmp_path / "large"
    large.write_bytes(b"1234")
    for content in (b"1234", large):
        with pytest.raises(ValueError, match="at most 3 are allowed"):
            files.store_artifact(attempt, "a", content, "text/plain")
    assert files.store_artifact(attempt, "a", b"123", "text/plain").size_bytes == 3


# ------------------------------------------------------------------------------------- data roots


@pytest.fixture
def root(tmp_path: Path, jobs_settings: OVERRIDE) -> Path:
    allowed = tmp_path / "allowed"
    (allowed / "below").mkdir(parents=True)
    (allowed / "below" / "data.csv").write_text("a")
    (tmp_path / "allowed-not").mkdir()
    (tmp_path / "allowed-not" / "data.csv").write_text("a")
    jobs_settings(data_roots=(allowed,))
    return allowed


def test_a_file_below_a_root_is_readable(root: Path) -> None:
    assert files.resolve_path(str(root / "below" / "data.csv")).read_text() == "a"
    assert files.resolve_path(f"{root}/below/../below/data.csv").name == "data.csv"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "{root}",
        "{root}/below",
        "{root}/nothing",
        "{root}/../allowed-not/data.csv",
        "{root}-not/data.csv",
        "below/data.csv",
        "",
        "{root}/below/data.csv\x00.txt",
    ],
)
def test_every_other_path_is_refused_alike(root: Path, path: str) -> None:
    with pytest.raises(PermanentFailure, match="no readable file"):
        files.resolve_path(path.format(root=root))


def test_a_link_out_of_the_root_is_refused(root: Path) -> None:
    (root / "link").symlink_to("/etc/passwd")
    (root / "dirlink").symlink_to(root.parent / "allowed-not")
    for path in (root / "link", root / "dirlink" / "data.csv"):
        with pytest.raises(PermanentFailure):
            files.resolve_path(str(path))


def test_without_roots_no_path_is_readable(jobs_settings: OVERRIDE, root: Path) -> None:
    jobs_settings(data_roots=())
    with pytest.raises(PermanentFailure):
        files.resolve_path(str(root / "below" / "data.csv"))


def test_a_pipe_is_no_file(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(PermanentFailure):
        files.resolve_path(str(root / "pipe"))


def test_a_project_without_a_storage_for_jobs_uses_its_default(settings: Any) -> None:
    settings.STORAGES = {name: kept for name, kept in settings.STORAGES.items() if name != "jobs"}
    assert files.storage() is storages["default"]


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("a.csv", "text/csv"), ("a.svg", "image/svg+xml"), ("a", "application/octet-stream")],
)
def test_media_types_are_guessed_from_names(name: str, media_type: str) -> None:
    assert files.media_type_of(name) == media_type
