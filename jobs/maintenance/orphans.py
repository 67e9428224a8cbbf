"""Removes files that attempts wrote without completing their jobs.

Artifacts become rows with the completion or not at all, so what a failed, killed or fenced attempt
has written belongs to nobody. A file is removed only if this database knows its job, no row names
it, its token is not the job's present one, and it is old. The first three cannot change once they
are true: tokens are never used twice, and a completion needs the present one. They are read after
the file was listed, in one statement. Files of jobs that this database does not know are left
alone: a storage may be shared by mistake.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from uuid import UUID

from django.core.files.storage import FileSystemStorage, Storage
from django.db import Error, connection
from django.utils import timezone

from jobs import conf, files
from jobs.states import FINAL

log = logging.getLogger("jobs.orphans")

#: Between two rounds over all directories.
REST_SECONDS = 3600.0
#: Directories asked about at once, and how long one tick may go on: storages can be slow.
BATCH = 100
TICK_SECONDS = 0.5

ROOT = "artifacts"


@dataclass(frozen=True, slots=True)
class Found:
    """A file of one attempt, as the storage lists it."""

    token: str
    path: str


class Orphans:
    """Goes round the storage, a little at each tick. Any number may run: who comes second finds
    nothing."""

    def __init__(self) -> None:
        self._names: Iterator[str] = iter(())
        self._jobs: deque[UUID] = deque()
        self._next_round_at = float("-inf")

    def run_once(self) -> int:
        """Look at some jobs' directories; returns how many files were removed. A storage that
        fails is no reason to stop other duties: it is logged, and a new round begins later."""
        try:
            return self._look(files.storage())
        except Error:
            raise
        except Exception as error:
            log.warning("files of failed attempts were not removed: %s", error)
            self._jobs.clear()
            self._rest()
            return 0

    def _look(self, storage: Storage) -> int:
        if not self._jobs and not self._refill(storage):
            return 0
        ends_at = time.monotonic() + TICK_SECONDS
        removed = 0
        while self._jobs and time.monotonic() < ends_at:
            removed += clear(storage, self._jobs.popleft())
        return removed

    def _refill(self, storage: Storage) -> bool:
        """Whether there is something to look at in this tick."""
        names = list(islice(self._names, BATCH))
        self._jobs.extend(_suspects(names))
        if not names and time.monotonic() >= self._next_round_at:
            with suppress(FileNotFoundError):
                self._names = iter(storage.listdir(ROOT)[0])
            self._rest()
        return bool(self._jobs)

    def _rest(self) -> None:
        self._next_round_at = time.monotonic() + REST_SECONDS


def clear(storage: Storage, job_id: UUID) -> int:
    """Remove what failed attempts of this job have left; returns how many files."""
    found = list(_files_of(storage, job_id))
    belongs = _what_belongs(job_id) if found else None
    if belongs is None:
        return 0
    present, named, is_final = belongs
    edge = timezone.now() - timedelta(seconds=conf.get().orphan_seconds)
    removed = 0
    for one in found:
        if one.token == present or one.path in named:
            continue
        with suppress(FileNotFoundError):
            if storage.get_modified_time(one.path) < edge:
                storage.delete(one.path)
                removed += 1
    if removed and isinstance(storage, FileSystemStorage):
        _remove_empty(storage, job_id, {one.token for one in found} - {present}, also=is_final)
    return removed


def _suspects(names: list[str]) -> list[UUID]:
    """Which of these directories belong to jobs of this database that had other attempts than the
    one that completed."""
    ids = [name for name in names if _is_id(name)]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM jobs_job WHERE id = ANY(%s::uuid[])"
            " AND NOT (state = 'COMPLETED' AND attempt = 1)",
            [ids],
        )
        return [job_id for (job_id,) in cursor.fetchall()]


def _files_of(storage: Storage, job_id: UUID) -> Iterator[Found]:
    with suppress(FileNotFoundError):
        tokens, _ = storage.listdir(f"{ROOT}/{job_id}")
        for token in filter(_is_id, tokens):
            for name in storage.listdir(f"{ROOT}/{job_id}/{token}")[1]:
                yield Found(token, f"{ROOT}/{job_id}/{token}/{name}")


def _what_belongs(job_id: UUID) -> tuple[str, set[str], bool] | None:
    """The job's present token, the files that rows name, and whether the job has ended; None if
    there is no such job."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(j.lease_token::text, ''), j.state,"
            " ARRAY(SELECT a.file FROM jobs_jobartifact AS a WHERE a.job_id = j.id)"
            " FROM jobs_job AS j WHERE j.id = %s",
            [job_id],
        )
        for token, state, named in cursor.fetchall():
            return token, set(named), state in FINAL
    return None


def _remove_empty(storage: Storage, job_id: UUID, tokens: set[str], *, also: bool) -> None:
    """Remove directories, which refuse while something is in them. That of the job only once it
    has ended, because the next attempt would make its own directory below."""
    paths = [f"{ROOT}/{job_id}/{token}" for token in tokens]
    for path in [*paths, f"{ROOT}/{job_id}"] if also else paths:
        with suppress(OSError):
            storage.delete(path)


def _is_id(name: str) -> bool:
    with suppress(ValueError):
        return str(UUID(name)) == name
    return False
