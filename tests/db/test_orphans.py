"""Files of attempts that did not complete are removed, and no other file ever."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage

from jobs import files, lifecycle
from jobs.maintenance import orphans
from jobs.maintenance.orphans import Orphans
from jobs.models import Job, JobArtifact
from jobs.states import JobEvent
from jobs.values import Attempt, Outcome
from tests.verbs import USER, WORKER, claim, finish, submit

pytestmark = pytest.mark.django_db


def attempt_with_file(attempt: Attempt, *names: str) -> Outcome:
    """The attempt writes files, and would complete with them."""
    kept = [files.store_artifact(attempt, name, b"x", "text/plain") for name in names or ("a.txt",)]
    return Outcome(attempt, JobEvent.SUCCEED, artifacts=tuple(kept))


def grow_old() -> None:
    """All files are two days old."""
    moment = time.time() - 2 * 86_400
    for path in stored():
        os.utime(files.storage().path(str(path)), (moment, moment))


def stored() -> set[Path]:
    root = Path(files.storage().path(""))
    return {path.relative_to(root) for path in root.rglob("*") if path.is_file()}


def rounds(orphans: Orphans, count: int = 6) -> int:
    return sum(orphans.run_once() for _ in range(count))


@pytest.mark.parametrize("event", [JobEvent.RETRY, JobEvent.FAIL, JobEvent.RELEASE])
def test_files_of_an_attempt_that_ended_otherwise_are_removed(event: JobEvent) -> None:
    [attempt] = claim(submit())
    attempt_with_file(attempt, "a.txt", "b.txt")
    finish([attempt], event)
    grow_old()
    assert rounds(Orphans()) == 2
    assert stored() == set()


def test_what_a_completion_names_is_kept_and_the_rest_of_the_job_is_not() -> None:
    [job] = submit()
    [first] = claim([job])
    attempt_with_file(first)
    finish([first], JobEvent.RETRY, delay_seconds=0)
    [second] = claim([Job.objects.get()])
    lifecycle.finish([attempt_with_file(second)], worker=WORKER)
    grow_old()
    assert rounds(Orphans()) == 1
    assert {str(path) for path in stored()} == {JobArtifact.objects.get().file}
    assert rounds(Orphans()) == 0


def test_a_running_attempt_keeps_its_files_however_old() -> None:
    [attempt] = claim(submit())
    outcome = attempt_with_file(attempt)
    grow_old()
    assert rounds(Orphans()) == 0
    lifecycle.finish([outcome], worker=WORKER)
    assert JobArtifact.objects.count() == len(stored()) == 1


def test_a_completion_between_the_listing_and_the_look_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The listing comes first: what it shows is either named by now, or never will be."""
    [job] = submit()
    [attempt] = claim([job])
    finish([attempt], JobEvent.RETRY, delay_seconds=0)
    [attempt] = claim([Job.objects.get()])
    outcome = attempt_with_file(attempt)
    grow_old()
    listed = orphans._files_of

    def then_completed(storage: FileSystemStorage, job_id: UUID) -> object:
        found = list(listed(storage, job_id))
        lifecycle.finish([outcome], worker=WORKER)
        return found

    monkeypatch.setattr(orphans, "_files_of", then_completed)
    assert rounds(Orphans()) == 0
    assert len(stored()) == 1


def test_an_attempt_that_begins_before_the_listing_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Read the other way round, its files would seem to be nobody's."""
    [first] = claim(submit())
    attempt_with_file(first)
    finish([first], JobEvent.RETRY, delay_seconds=0)
    listed = orphans._files_of

    def then_listed(storage: FileSystemStorage, job_id: UUID) -> object:
        [second] = claim([Job.objects.get()])
        attempt_with_file(second)
        grow_old()
        return list(listed(storage, job_id))

    monkeypatch.setattr(orphans, "_files_of", then_listed)
    assert rounds(Orphans(), 2) == 1
    assert [str(Job.objects.get().lease_token) in str(path) for path in stored()] == [True]


def test_young_files_are_kept(jobs_settings: Callable[..., None]) -> None:
    [attempt] = claim(submit())
    attempt_with_file(attempt)
    finish([attempt], JobEvent.FAIL)
    assert rounds(Orphans()) == 0
    jobs_settings(orphan_seconds=0.000001)
    assert rounds(Orphans()) == 1


def test_files_of_jobs_that_this_database_does_not_know_are_kept() -> None:
    """Two platforms on one storage by mistake must not eat each other's files."""
    for name in (f"artifacts/{uuid4()}/{uuid4()}/a", "artifacts/notes/today", "uploads/x"):
        files.storage().save(name, ContentFile(b"x"))
    [job] = submit()
    files.storage().save(f"artifacts/{job.id}/notes/a", ContentFile(b"x"))
    grow_old()
    assert rounds(Orphans()) == 0
    assert len(stored()) == 4


def test_directories_go_too_but_a_jobs_own_only_at_its_end() -> None:
    waiting, failed = submit(2)
    for job, event in ((waiting, JobEvent.RETRY), (failed, JobEvent.FAIL)):
        [attempt] = claim([job])
        attempt_with_file(attempt)
        finish([attempt], event)
    grow_old()
    rounds(Orphans())
    root = Path(files.storage().path("artifacts"))
    assert [path.name for path in root.rglob("*")] == [str(waiting.id)]


def test_one_tick_is_bounded_and_a_round_reaches_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(orphans, "BATCH", 2)
    monkeypatch.setattr(orphans, "TICK_SECONDS", -1.0)
    round_of_none = Orphans()
    for attempt in claim(submit(5)):
        attempt_with_file(attempt)
        finish([attempt], JobEvent.FAIL)
    grow_old()
    assert rounds(round_of_none) == 0
    monkeypatch.setattr(orphans, "TICK_SECONDS", 60.0)
    removed = [round_of_none.run_once() for _ in range(5)]
    assert sum(removed) == 5
    assert max(removed) <= 2


def test_a_round_is_followed_by_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    orphans_ = Orphans()
    rounds(orphans_)
    [attempt] = claim(submit())
    attempt_with_file(attempt)
    finish([attempt], JobEvent.FAIL)
    grow_old()
    now = time.monotonic()
    assert rounds(orphans_) == 0
    monkeypatch.setattr(time, "monotonic", lambda: now + orphans.REST_SECONDS + 1)
    assert rounds(orphans_) == 1


def test_a_storage_that_fails_is_no_reason_to_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(FileSystemStorage, "listdir", broken)
    assert rounds(Orphans()) == 0
    assert "not yours" in caplog.text


def test_a_cancelled_running_job_loses_its_files_after_the_cancel() -> None:
    [attempt] = claim(submit())
    attempt_with_file(attempt)
    lifecycle.cancel([attempt.job_id], actor=USER)
    grow_old()
    assert rounds(Orphans()) == 0
    finish([attempt], JobEvent.CANCEL)
    assert rounds(Orphans()) == 1
