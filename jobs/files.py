"""Uploads and artifacts on Django's storage ``STORAGES["jobs"]``, which api and workers share."""

from __future__ import annotations

import hashlib
import mimetypes
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from uuid import UUID, uuid4

from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import Storage, storages

from jobs import conf
from jobs.errors import FieldProblem, InvalidPayload, PermanentFailure
from jobs.models import Upload
from jobs.policy import clipped
from jobs.values import Artifact, Attempt

_NAME = re.compile(r"[\w][\w.\- ]{0,199}")
_CHUNK_BYTES = 1 << 20


def storage() -> Storage:
    """The storage of job files: ``STORAGES["jobs"]``, else the project's default storage."""
    return storages["jobs"] if "jobs" in storages.backends else storages["default"]


def store_upload(source: IO[bytes], name: str, owner_id: int | None) -> Upload:
    """Keep an uploaded file. Raises InvalidPayload (field ``file``) if it is too large or empty."""
    limit = conf.get().upload_limit_bytes
    upload_id = uuid4()
    with tempfile.TemporaryFile() as spool:
        size, digest = _copied(source, spool, limit)
        if size == 0:
            raise InvalidPayload([FieldProblem("file", "the file is empty", "empty")])
        spool.seek(0)
        stored = storage().save(f"uploads/{upload_id}{_suffix(name)}", File(spool))
    return Upload.objects.create(
        id=upload_id, owner_id=owner_id, name=Path(name).name[:255] or "upload",
        size_bytes=size, sha256=digest, file=stored,
    )  # fmt: skip


def open_upload(upload_id: UUID, owner_id: int | None, scratch: Path) -> Path:
    """A local path of the owner's upload, copied into ``scratch`` if the storage is remote."""
    upload = Upload.objects.filter(id=upload_id, owner_id=owner_id).first()
    if upload is None:
        raise PermanentFailure(f"there is no upload {upload_id}")
    try:
        return Path(storage().path(upload.file))
    except NotImplementedError:
        local = scratch / Path(upload.file).name
        with storage().open(upload.file) as remote, local.open("wb") as copy:
            _copied(remote, copy, upload.size_bytes)
        return local


def upload_exists(upload_id: UUID, owner_id: int | None) -> bool:
    """Whether this owner has such an upload."""
    return Upload.objects.filter(id=upload_id, owner_id=owner_id).exists()


def store_artifact(attempt: Attempt, name: str, content: bytes | Path, media_type: str) -> Artifact:
    """Keep a file of one attempt under the attempt's token, so that no other can overwrite it."""
    if not _NAME.fullmatch(name) or len(name.encode()) > 200:
        raise ValueError(
            f"artifact name {name!r}: letters, digits, space, '.', '_', '-' only, 200 bytes at most"
        )
    if media_type != clipped(media_type, 100):
        raise ValueError(f"media type {media_type!r}: at most 100 characters")
    limit = conf.get().artifact_limit_bytes
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if size > limit:
        raise ValueError(f"artifact {name!r} has {size} bytes; at most {limit} are allowed")
    source: File[bytes] = (
        ContentFile(content) if isinstance(content, bytes) else File(content.open("rb"))
    )
    with source:
        digest = hashlib.sha256()
        for chunk in source.chunks():
            digest.update(chunk)
        source.seek(0)
        stored = storage().save(f"artifacts/{attempt.job_id}/{attempt.token}/{name}", source)
    return Artifact(name, media_type, size, digest.hexdigest(), stored)


def chunks(file: str) -> Iterator[bytes]:
    """A stored file's bytes, a piece at a time."""
    with storage().open(file) as source:
        yield from source.chunks(_CHUNK_BYTES)


def resolve_path(path: str) -> Path:
    """A readable file below one of ``data_roots``. Raises PermanentFailure otherwise.

    The reason never says whether a file outside the roots exists.
    """
    real = Path(path).resolve() if "\x00" not in path else Path("/")
    if not is_below_data_roots(path) or not real.is_file():
        raise PermanentFailure(f"there is no readable file {path!r} below the allowed data roots")
    return real


def is_below_data_roots(path: str) -> bool:
    """Whether ``path`` lies below a data root, links followed; says nothing of existence."""
    if "\x00" in path:
        return False
    real = Path(path).resolve()
    return any(real.is_relative_to(root.resolve()) for root in conf.get().data_roots)


def media_type_of(name: str) -> str:
    """A guess from the file name, for downloads."""
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _copied(source: IO[bytes], target: IO[bytes], limit: int) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    while chunk := source.read(_CHUNK_BYTES):
        size += len(chunk)
        if size > limit:
            text = f"the file has more than {limit} bytes"
            raise InvalidPayload([FieldProblem("file", text, "too_large")])
        digest.update(chunk)
        target.write(chunk)
    return size, digest.hexdigest()


def _suffix(name: str) -> str:
    suffixes = "".join(Path(name).suffixes[-2:]).lower()
    return suffixes if re.fullmatch(r"(\.[a-z0-9]{1,10}){1,2}", suffixes) else ""
