"""What outsiders were told is compared with the tables: I1, I9, I10, I13 and I16 by the ledger."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from jobs import conf, lifecycle
from jobs.errors import CannotVerify
from jobs.models import AuditEntry, Job, OutboxEntry
from jobs.values import Submission
from jobs.verification import DeadLetter, Report, unexplained, verify
from tests import histories
from tests.conftest import UserFactory
from tests.histories import run
from tests.verbs import HANDLER

pytestmark = pytest.mark.django_db(transaction=True)

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _begin() -> None:
    histories.forget_statistics()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes lines of a kind; returns the ledger's directory."""

    def lines(kind: str, *given: dict[str, Any], tail: str = "") -> Path:
        text = "".join(json.dumps(line) + "\n" for line in given)
        with (tmp_path / f"{kind}.ndjson").open("a") as file:
            file.write(text + tail)
        return tmp_path

    return lines


def accepted(
    job: Job | UUID, owner_id: int | None = None, key: str | None = None
) -> dict[str, Any]:
    job_id = str(job.id if isinstance(job, Job) else job)
    return {
        "job_id": job_id, "owner_id": owner_id, "idempotency_key": key, "status": 201, "at": 1.0,
    }  # fmt: skip


def accessed(job: Job, principal_id: int, owner_id: int, status: int = 200) -> dict[str, Any]:
    return {
        "principal_id": principal_id, "job_id": str(job.id), "owner_id": owner_id,
        "status": status, "at": 1.0,
    }  # fmt: skip


class Watched:
    """A job, and lines that say who was shown what of it when, in seconds after its last entry."""

    def __init__(self, job: Job) -> None:
        self.id = str(job.id)
        entries = AuditEntry.objects.filter(job_id=job.id).order_by("version")
        self._states = {entry.version: entry.to_state for entry in entries}
        self._end = max(entry.at for entry in entries).timestamp()

    def seen(
        self, version: int, began: float, ended: float, *, reader: str = "a", seq: int = 0,
        state: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        return {
            "reader": reader, "job_id": self.id, "version": version, "seq": seq,
            "state": state or self._states[version],
            "began": self._end + began, "ended": self._end + ended,
        }  # fmt: skip


@pytest.fixture
def watched() -> Watched:
    job = histories.completed()
    histories.publish()
    return Watched(job)


def only(report: Report, invariant: str) -> Sequence[str]:
    """The examples of the one finding, which is about this invariant."""
    assert [finding.id for finding in report.broken] == [invariant]
    [finding] = report.broken
    assert finding.violations >= len(finding.examples)
    return finding.examples


def starts(examples: Iterable[str], *beginnings: str) -> bool:
    return all(line.startswith(begin) for line, begin in zip(examples, beginnings, strict=True))


# ------------------------------------------------------------------------------------ I1, I16, I13


def test_a_ledger_that_agrees_finds_nothing(user_factory: UserFactory, write: Write) -> None:
    owner = user_factory().pk
    jobs = [histories.completed(owner_id=owner, idempotency_key=key) for key in "ab"]
    write("accepted", *(accepted(job, owner, key) for job, key in zip(jobs, "ab", strict=True)))
    write("accepted", accepted(jobs[0], owner, "a"), accepted(histories.completed()))
    write("accessed", accessed(jobs[0], owner, owner), accessed(jobs[0], owner + 1, owner, 404))
    place = write("seen", Watched(jobs[0]).seen(3, 0.1, 0.2))
    report = verify(ledger=place)
    assert report.ok, report.broken
    assert "I10" in {finding.id for finding in report.findings}


def test_an_accepted_job_that_is_gone_is_found(write: Write) -> None:
    missing = uuid4()
    place = write("accepted", accepted(histories.completed()), accepted(missing))
    assert starts(only(verify(ledger=place), "I1"), f"{missing} was accepted, but")


def test_an_accepted_job_of_another_owner_is_found(user_factory: UserFactory, write: Write) -> None:
    owner = user_factory().pk
    job = histories.completed(owner_id=owner)
    place = write("accepted", accepted(job, owner + 1))
    assert starts(only(verify(ledger=place), "I1"), f"{job.id} was accepted for another owner")


def test_a_key_that_was_answered_with_two_jobs_is_found(write: Write) -> None:
    jobs = [histories.completed() for _ in range(2)]
    place = write("accepted", *(accepted(job, key="k") for job in jobs))
    assert starts(only(verify(ledger=place), "I16"), f"{jobs[1].id} answered a key")


def test_the_same_key_of_two_owners_is_two_keys(user_factory: UserFactory, write: Write) -> None:
    owners = [user_factory().pk for _ in range(2)]
    jobs = [histories.completed(owner_id=owner, idempotency_key="k") for owner in owners]
    place = write(
        "accepted", *(accepted(job, owner, "k") for job, owner in zip(jobs, owners, strict=True))
    )
    assert verify(ledger=place).ok


@pytest.mark.parametrize("lies", [False, True])
def test_an_answer_to_a_stranger_is_found(
    user_factory: UserFactory, write: Write, lies: bool
) -> None:
    """Also when the ledger itself takes the stranger for the owner: the row decides."""
    owner, stranger = user_factory().pk, user_factory().pk
    job = histories.completed(owner_id=owner)
    place = write("accessed", accessed(job, stranger, stranger if lies else owner))
    assert starts(only(verify(ledger=place), "I13"), f"{job.id} (user {stranger}) was shown")


# ------------------------------------------------------------------------------------------- I10


def test_readers_that_go_forwards_are_fine(watched: Watched, write: Write) -> None:
    write("seen", watched.seen(1, 0.0, 0.1), watched.seen(2, 0.2, 0.3, seq=2))
    write("seen", watched.seen(2, 0.25, 0.28, reader="b", seq=1), watched.seen(2, 0.3, 0.4, seq=0))
    # Requests that overlap may be answered in any order.
    write("seen", watched.seen(3, 0.5, 0.9), watched.seen(2, 0.6, 0.7, reader="b"))
    place = write("seen", watched.seen(2, 0.9, 0.95, reader="c"))
    assert verify(ledger=place).ok


def test_a_reader_that_goes_back_is_found(watched: Watched, write: Write) -> None:
    place = write("seen", watched.seen(3, 0.0, 0.1), watched.seen(2, 0.1, 0.3))
    examples = only(verify(ledger=place), "I10")
    assert starts(examples, f"{watched.id} v2 (reader a) was shown to one reader")


def test_progress_that_goes_back_within_a_version_is_found(watched: Watched, write: Write) -> None:
    place = write("seen", watched.seen(2, 0.0, 0.1, seq=5), watched.seen(2, 0.2, 0.3, seq=4))
    assert starts(only(verify(ledger=place), "I10"), f"{watched.id} v2 (reader a) was shown to one")


def test_a_reader_behind_another_is_found(watched: Watched, write: Write) -> None:
    write("seen", watched.seen(3, 0.0, 0.1, reader="a"), watched.seen(1, 0.05, 0.4, reader="c"))
    place = write("seen", watched.seen(2, 0.2, 0.3, reader="b"))
    examples = only(verify(ledger=place), "I10")
    assert starts(
        examples, f"{watched.id} v2 (reader b) was shown at an older status than somebody"
    )


def test_a_status_that_never_was_is_found(watched: Watched, write: Write) -> None:
    place = write(
        "seen",
        watched.seen(3, 0.0, 0.1, state="FAILED"),
        watched.seen(4, 0.2, 0.3, state="PENDING"),
        {**watched.seen(1, 0.4, 0.5), "job_id": str(uuid4())},
    )
    examples = only(verify(ledger=place), "I10")
    assert len(examples) == 3
    assert all("never was" in line for line in examples)


def test_a_status_that_was_seen_too_early_is_found(watched: Watched, write: Write) -> None:
    place = write("seen", watched.seen(3, -0.2, -0.001), watched.seen(3, 0.0, 0.1))
    assert verify(ledger=place).ok
    place = write("seen", watched.seen(3, -0.3, -0.1, reader="b"))
    examples = only(verify(ledger=place), "I10")
    assert starts(examples, f"{watched.id} v3 was shown at a status before it was written")


# ------------------------------------------------------------------------------------------- I9


@pytest.mark.parametrize(
    ("began", "ended", "broken"), [(-9, 3, True), (-4, 3, False), (1, 2, False), (-9, -1, False)]
)
def test_a_doorbell_published_into_silence_is_found(
    watched: Watched, write: Write, began: float, ended: float, broken: bool
) -> None:
    """Taken 5 s before it was noted as published: before that, the broker may have confirmed it."""
    take_seconds = conf.get().relay_take_seconds
    run(
        "UPDATE jobs_outboxentry SET taken_until = published_at + make_interval(secs => %s)",
        [take_seconds - 5],
    )
    [bell] = OutboxEntry.objects.all()
    assert bell.published_at is not None
    at = bell.published_at.timestamp()
    place = write("silences", {"began": at + began, "ended": at + ended, "what": "no broker"})
    report = verify(ledger=place)
    if broken:
        assert starts(only(report, "I9"), f"{watched.id} v1 has a doorbell published while")
    else:
        assert report.ok


# ------------------------------------------------------------------------------------- the files


def test_a_torn_last_line_is_left_out_and_counted(watched: Watched, write: Write) -> None:
    write("seen", watched.seen(3, 0.0, 0.1), tail='{"reader": "a", "job_')
    place = write("accepted", accepted(UUID(watched.id)), tail="{}")
    report = verify(ledger=place)
    assert report.ok
    assert report.notes == ("torn last lines in the ledger, left out: 2",)


@pytest.mark.parametrize("torn", ["{", "[1]", '{"job_id": "x"}', "null"])
def test_any_other_broken_line_is_an_error(write: Write, torn: str) -> None:
    good = accepted(histories.completed())
    write("accepted", good, tail=torn + "\n")
    place = write("accepted", good)
    with pytest.raises(CannotVerify, match=r"accepted\.ndjson:2"):
        verify(ledger=place)


def test_a_directory_without_a_ledger_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CannotVerify, match="holds no ledger"):
        verify(ledger=tmp_path)


def test_a_kind_may_be_spread_over_files(write: Write) -> None:
    missing = [uuid4(), uuid4()]
    write("accepted-1", accepted(missing[0]))
    write("accepted-2", accepted(missing[1]))
    place = write("accepted_not", accepted(uuid4()))
    [finding] = verify(ledger=place).broken
    assert finding.violations == 2


def test_more_lines_than_one_batch_or_part_holds(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.verification.witness.BATCH", 3)
    monkeypatch.setattr("jobs.verification.witness.PART_BYTES", 200)
    found = lifecycle.submit([Submission(HANDLER, idempotency_key=f"k{n}") for n in range(20)])
    jobs = [Watched(Job.objects.get(id=one.job_id)) for one in found]
    for number, job in enumerate(jobs):
        write("accepted", accepted(UUID(job.id), key=f"k{number}"))
        write("seen", job.seen(1, 0.1, 0.2))
    missing = uuid4()
    place = write("accepted", accepted(missing))
    write("seen", {**jobs[7].seen(1, 0.3, 0.4), "state": "RUNNING"})
    broken = {finding.id: finding for finding in verify(ledger=place).broken}
    assert {name: finding.violations for name, finding in broken.items()} == {"I1": 1, "I10": 1}
    assert starts(broken["I1"].examples, str(missing))
    assert starts(broken["I10"].examples, jobs[7].id)


# ------------------------------------------------------------------------------------------- I15


def test_dead_letters_are_explained_by_the_tables() -> None:
    final, moved, waiting, lost = (
        histories.completed(), histories.rescued(histories.running()), histories.waiting(),
        histories.waiting(),
    )  # fmt: skip
    deleted = histories.completed()
    run("DELETE FROM jobs_job WHERE id = %s", [str(deleted.id)])
    histories.publish()
    run("UPDATE jobs_outboxentry SET published_at = NULL WHERE job_id = %s", [str(waiting.id)])
    bell = OutboxEntry.objects.get(job_id=lost.id)
    assert bell.published_at is not None
    died_at = bell.published_at.timestamp() + 1
    explained = [
        DeadLetter(final.id, 1, died_at),
        DeadLetter(final.id, final.version, died_at),
        DeadLetter(moved.id, 1, died_at),
        DeadLetter(waiting.id, 1, died_at),
        DeadLetter(deleted.id, 1, died_at),
        DeadLetter(lost.id, 1, died_at - 2),
    ]
    worrying = [DeadLetter(lost.id, 1, died_at), DeadLetter(uuid4(), 1, died_at)]
    assert unexplained([*explained, *worrying]) == worrying
    assert unexplained([]) == []
