"""Compares the ledger with the tables: I1, I10, I13 and I16 as the outside saw them.

A ledger may hold millions of lines, and a read-only transaction cannot make temporary tables. So
the lines that must be compared with each other are sorted into parts on disk, by job or by key,
each part small enough for memory, and the tables are asked for batches of ids.
"""

from __future__ import annotations

import heapq
import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple
from itertools import islice
from typing import IO, TypeVar

from jobs.verification.ledger import Accepted, Accessed, Ledger, Seen
from jobs.verification.snapshots import Snapshots
from jobs.verification.spill import SLICES, Parts
from jobs.verification.tally import Tally
from jobs.verification.values import Options

T = TypeVar("T")

#: Lines or ids that one statement is asked about.
BATCH = 2000
PART_BYTES = 8 * 1024 * 1024
#: What the clocks' resolution and rounding may make a reader seem too early.
CLOCK_SECONDS = 0.005

Step = tuple[str, int, str]


def check(snapshots: Snapshots, ledger: Ledger, options: Options, tally: Tally) -> None:
    """Add to ``tally`` what contradicts the ledger."""
    if options.wants("I1"):
        _accepted(snapshots, ledger, tally)
    if options.wants("I16"):
        _keys(ledger, tally)
    if options.wants("I13"):
        _accessed(snapshots, ledger, tally)
    if options.wants("I10"):
        _seen(snapshots, ledger, tally)


# ------------------------------------------------------------------------------- I1, I13: by batch


def _accepted(snapshots: Snapshots, ledger: Ledger, tally: Tally) -> None:
    for batch in _batches(ledger.accepted()):
        lines = {line.job_id: line for line in batch}
        owners = _owners(snapshots, lines)
        for line in lines.values():
            if line.job_id not in owners:
                tally.add_one("I1.lost", line.job_id)
            elif owners[line.job_id] != line.owner_id:
                tally.add_one("I1.owner", line.job_id)


def _accessed(snapshots: Snapshots, ledger: Ledger, tally: Tally) -> None:
    shown = (line for line in ledger.accessed() if 200 <= line.status < 300)
    for batch in _batches(shown):
        owners = _owners(snapshots, {line.job_id for line in batch})
        for line in batch:
            if line.principal_id not in _rightful(line, owners):
                tally.add_one("I13.access", f"{line.job_id} (user {line.principal_id or 'none'})")


def _rightful(line: Accessed, owners: dict[str, str]) -> set[str]:
    """Who may be shown the job: its owner, on whom row and ledger must agree."""
    return {line.owner_id} & {owners.get(line.job_id, line.owner_id)}


def _owners(snapshots: Snapshots, ids: Iterable[str]) -> dict[str, str]:
    rows = snapshots.read(lambda snapshot: snapshot.ask("owners", {"ids": sorted(ids)}))
    return {job_id: owner_id or "" for job_id, owner_id in rows}


def _batches(lines: Iterator[T]) -> Iterator[list[T]]:
    while batch := list(islice(lines, BATCH)):
        yield batch


# ----------------------------------------------------------------------------------- I16: by key


def _keys(ledger: Ledger, tally: Tally) -> None:
    with _parts(ledger, "accepted") as parts:
        for line in ledger.accepted():
            if line.key is not None:
                _put(parts, f"{line.owner_id}:{line.key}", line)
        for part in parts.read():
            answers: dict[tuple[str, str | None], str] = {}
            for line in _read(part, Accepted):
                if answers.setdefault((line.owner_id, line.key), line.job_id) != line.job_id:
                    tally.add_one("I16.answers", line.job_id)


# ----------------------------------------------------------------------------------- I10: by job


def _seen(snapshots: Snapshots, ledger: Ledger, tally: Tally) -> None:
    with _parts(ledger, "seen") as parts:
        for line in ledger.seen():
            _put(parts, line.job_id, line)
        for part in parts.read():
            jobs: defaultdict[str, list[Seen]] = defaultdict(list)
            for line in _read(part, Seen):
                jobs[line.job_id].append(line)
            for lines in jobs.values():
                _forwards(lines, tally)
            for ids in _batches(iter(jobs)):
                steps = _steps(snapshots, ids)
                for job_id in ids:
                    _truthful(jobs[job_id], steps, tally)


def _forwards(lines: list[Seen], tally: Tally) -> None:
    """No status is older than one that somebody was shown before the request for it began.

    ``newest`` is the newest status among all requests that ended before the present one began: the
    ends are taken from a heap as the beginnings pass them. A reader asks one thing at a time, so
    for itself the order of its requests decides.
    """
    lines.sort(key=lambda line: line.began)
    of_reader: dict[str, Seen] = {}
    open_requests: list[tuple[float, int]] = []
    newest: Seen | None = None
    for number, line in enumerate(lines):
        while open_requests and open_requests[0][0] < line.began:
            newest = _newer(newest, lines[heapq.heappop(open_requests)[1]])
        before = of_reader.get(line.reader)
        if before is not None and _older(line, before):
            tally.add_one("I10.reader", f"{line.job_id} v{line.version} (reader {line.reader})")
        elif newest is not None and _older(line, newest):
            tally.add_one("I10.readers", f"{line.job_id} v{line.version} (reader {line.reader})")
        of_reader[line.reader] = _newer(before, line)
        heapq.heappush(open_requests, (line.ended, number))


def _older(line: Seen, than: Seen) -> bool:
    """``seq`` counts only where both answers told it (not 0)."""
    if line.version != than.version:
        return line.version < than.version
    return 0 < line.seq < than.seq


def _newer(one: Seen | None, other: Seen) -> Seen:
    return one if one is not None and _older(other, one) else other


def _steps(snapshots: Snapshots, ids: Sequence[str]) -> dict[Step, float]:
    rows = snapshots.read(lambda snapshot: snapshot.ask("steps", {"ids": list(ids)}))
    return {(job_id, version, state): at for job_id, version, state, at in rows}


def _truthful(lines: list[Seen], steps: dict[Step, float], tally: Tally) -> None:
    for line in lines:
        at = steps.get((line.job_id, line.version, line.state))
        if at is None:
            tally.add_one("I10.unrecorded", f"{line.job_id} v{line.version} {line.state}")
        elif line.ended < at - CLOCK_SECONDS:
            tally.add_one("I10.early", f"{line.job_id} v{line.version}")


# ---------------------------------------------------------------------------------------- parts


def _parts(ledger: Ledger, kind: str) -> Parts:
    return Parts(min(SLICES, ledger.bytes(kind) // PART_BYTES + 1))


def _put(parts: Parts, key: str, line: Accepted | Seen) -> None:
    parts.put(zlib.crc32(key.encode()) % parts.count, json.dumps(astuple(line)).encode() + b"\n")


def _read(part: IO[bytes], kind: Callable[..., T]) -> Iterator[T]:
    return (kind(*json.loads(line)) for line in part)
