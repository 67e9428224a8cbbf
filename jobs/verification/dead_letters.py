"""I15: whether what the broker gave up on can be explained. Who reads the dead letters decides how.

Reading a quorum queue means taking messages and giving them back, which counts as a delivery and
brings them nearer to being dropped. So nothing here touches the broker: the caller, who may empty
the queue for good, hands over what was in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

from jobs.states import FINAL
from jobs.verification.snapshots import Snapshots, connect
from jobs.verification.values import DeadLetter

BATCH = 1000


def unexplained(
    letters: Sequence[DeadLetter], *, open_connection: Callable[[], Any] = connect
) -> list[DeadLetter]:
    """Those of ``letters`` that should worry somebody; empty when all is well.

    A doorbell may die harmlessly if its job is final, has moved on to a later version, or if the
    doorbell was published again after it died (or is about to be). Raises CannotVerify.
    """
    with closing(Snapshots(open_connection)) as snapshots:
        return [
            letter
            for start in range(0, len(letters), BATCH)
            for letter in _of_batch(snapshots, letters[start : start + BATCH])
        ]


def _of_batch(snapshots: Snapshots, letters: Sequence[DeadLetter]) -> Iterator[DeadLetter]:
    ids = sorted({str(letter.job_id) for letter in letters})
    rows = snapshots.read(lambda snapshot: snapshot.ask("bells", {"ids": ids}))
    states: dict[str, tuple[str, int]] = {}
    rung: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for job_id, state, version, bell, published_at in rows:
        states[job_id] = (state, version)
        if bell is not None:
            rung[job_id][bell] = published_at
    for letter in letters:
        job_id = str(letter.job_id)
        if not _explained(letter, states.get(job_id), rung[job_id].get(letter.version)):
            yield letter


def _explained(letter: DeadLetter, job: tuple[str, int] | None, rung_at: float | None) -> bool:
    if job is None:
        return False
    state, version = job
    again = rung_at is not None and rung_at > letter.died_at
    return state in FINAL or version > letter.version or again
